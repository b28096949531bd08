"""Keeping what weights could do before they were fine-tuned: a point between old and new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints.blend import blended
from mirnet_edge.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.training.pairs import Pairs

_STEPS = 16  # places on the line; finer than one run repeats another


@dataclass(frozen=True)
class Kept:
    """A network between two, and what it has of each."""

    network: nn.Module
    share: float
    """How far it lies from the former to the fine-tuned: 0 to 1."""
    lost_db: float
    """PSNR on the former pictures, against the former network; negative where that grew."""


def kept(
    former: nn.Module,
    tuned: nn.Module,
    pictures: Pairs,
    most_lost_db: float,
    on_tried: Callable[[float, float], None] = lambda share, lost_db: None,
) -> Kept:
    """Return the blend closest to TUNED that loses at most so much on the former's PICTURES.

    By bisection, since the loss grows along the line between the two (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022, figure 1). Share 0 is FORMER, which loses nothing.

    Args:
        former: Before fine-tuning.
        tuned: After it.
        pictures: Bad and good ones of what FORMER was made for, none that trained.
        most_lost_db: What may be lost of their mean PSNR.
        on_tried: Gets each share that was measured, and its loss in dB.

    Raises:
        CheckpointError: The two networks have other shapes.
    """
    before_db = validate(former, pictures)[0]

    def at(step: int) -> Kept:
        share = step / _STEPS
        network = blended(former, tuned, share)
        lost_db = before_db - validate(network, pictures)[0]
        on_tried(share, lost_db)
        return Kept(network, share, lost_db)

    best, good, bad = at(_STEPS), 0, _STEPS
    if best.lost_db <= most_lost_db:
        return best
    best = Kept(former, 0.0, 0.0)
    while bad - good > 1:
        middle = at((good + bad) // 2)
        if middle.lost_db <= most_lost_db:
            best, good = middle, (good + bad) // 2
        else:
            bad = (good + bad) // 2
    return best
