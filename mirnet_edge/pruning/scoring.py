"""What channels are worth on the pictures at hand, and how far off a network is on them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.compression.importance import IMPORTANCES, magnitude, random_scores, taylor
from mirnet_edge.errors import OptionError
from mirnet_edge.training.batches import Batch, Drawing, draw_batch
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import has_exposure
from mirnet_edge.training.loss import charbonnier
from mirnet_edge.training.pairs import load_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from mirnet_edge.compression.importance import Loss
    from mirnet_edge.training.tasks import Task

_PICTURES = 64  # of the training set, taken evenly
_BATCHES = 8


def losses_on(
    data: Path, task: Task, network: nn.Module, *, batch: int, crop: int, seed: int
) -> list[Loss]:
    """Return the loss on each of some batches of training pictures, drawn by SEED.

    Raises:
        DataError: The pictures cannot be read, or are smaller than the crop.
    """
    train = list_pairs(data).train
    places = np.linspace(0, len(train) - 1, min(_PICTURES, len(train))).round().astype(int)
    pairs = load_pairs([train[place] for place in places], degrade=task.degrade, scale=task.scale)
    drawing = Drawing(
        size=batch,
        crop=crop,
        multiple=network.multiple,  # type: ignore[arg-type]
        thumbnails=pairs.degrade is None and has_exposure(network),
    )
    return [
        functools.partial(_loss, draw_batch(pairs, drawing, seed=seed, step=step))
        for step in range(_BATCHES)
    ]


def mean_loss(network: nn.Module, losses: Sequence[Loss]) -> float:
    """Return a network's mean loss over batches."""
    import torch

    with torch.inference_mode():
        return sum(float(loss(network)) for loss in losses) / len(losses)


def scores_of(
    network: nn.Module, importance: str, losses: Sequence[Loss], seed: int
) -> dict[str, Tensor]:
    """Return what each channel is worth, by the name of the importance.

    Raises:
        OptionError: No such importance.
    """
    require_importance(importance)
    if importance == "magnitude":
        return magnitude(network)
    if importance == "random":
        return random_scores(network, seed)
    return taylor(network, losses)


def require_importance(name: str) -> None:
    """Refuse an importance that does not exist.

    Raises:
        OptionError: It does not.
    """
    if name not in IMPORTANCES:
        raise OptionError(f"--importance must be one of {', '.join(IMPORTANCES)}, found {name!r}")


def _loss(batch: Batch, network: nn.Module) -> Tensor:
    seen = (batch.low,) if batch.thumbnail is None else (batch.low, batch.thumbnail)
    return charbonnier(network(*seen), batch.high)
