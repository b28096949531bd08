"""The first stage of training: the exposure branch alone, on thumbnails of whole frames.

How bright a frame is to be is one decision per frame, and it needs many frames, not many pixels:
a thumbnail shows exposure and colour but neither noise nor detail. What was tried stands in
docs/decisions/005-exposure-first.md.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from mirnet_edge.training.loss import charbonnier
from mirnet_edge.training.pairs import draw_light

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mirnet_edge.models.edge import ExposureBranch
    from mirnet_edge.training.pairs import Pairs

_WARMUP = 100
_EMA = 0.995
_WEIGHT_DECAY = 1e-4
_LARGEST_SHARE = 0.5


def train_exposure(
    branch: ExposureBranch,
    pairs: Pairs,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train the branch in place; it ends with its averaged weights.

    Args:
        branch: Any state.
        pairs: Where thumbnails are drawn from.
        steps: How many; at least 1.
        batch: Thumbnails per step.
        learning_rate: Peak; warmed up, then a cosine to a thousandth.
        seed: The same seed gives the same weights.
        on_step: Told the steps done and the step's loss.
    """
    averaged = copy.deepcopy(branch)
    optimizer = torch.optim.AdamW(branch.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _rate(step, steps)
        low, high = _drawn(pairs, batch, generator)
        loss = charbonnier(branch(low, low), high)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(branch.parameters(), 1.0)
        optimizer.step()
        keep = min(_EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, weight in zip(averaged.parameters(), branch.parameters(), strict=True):
                mean.lerp_(weight, 1.0 - keep)
        on_step(step + 1, float(loss.detach()))
    branch.load_state_dict(averaged.state_dict())


def _rate(step: int, steps: int) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / _WARMUP) * (0.001 + 0.999 * cosine)


def _drawn(pairs: Pairs, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return dark and bright thumbnails of one size, (N, 3, h, w): flipped, lit, mixed.

    Dark ones are mixed with another of the batch by up to a half (Zhang et al., "mixup", ICLR
    2018): a few hundred scenes are learned by heart otherwise.
    """
    first = int(torch.randint(len(pairs), (), generator=generator))
    shape = pairs.low[first].shape
    alike = [index for index, low in enumerate(pairs.low) if low.shape == shape]
    chosen = torch.randint(len(alike), (count,), generator=generator).tolist()
    thumbnails = [pairs.thumbnails(alike[place]) for place in chosen]
    low, high = (torch.stack(column) for column in zip(*thumbnails, strict=True))
    for axis in (2, 3):
        if int(torch.randint(2, (), generator=generator)):
            low, high = low.flip(axis), high.flip(axis)
    lights = [draw_light(generator) for _ in range(count)]
    low = torch.stack([light.on(*pair) for light, *pair in zip(lights, low, high, strict=True)])
    other = torch.randperm(count, generator=generator)
    share = torch.rand((count, 1, 1, 1), generator=generator) * _LARGEST_SHARE
    # a lit and a dark picture make none that a camera would give
    both_dark = [
        not (lights[one].towards_reference or lights[two].towards_reference)
        for one, two in enumerate(other.tolist())
    ]
    share = share * torch.tensor(both_dark).view(-1, 1, 1, 1)
    return low.lerp(low[other], share), high.lerp(high[other], share)
