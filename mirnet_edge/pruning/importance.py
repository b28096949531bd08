"""Channel and block importance: magnitude, Taylor, random, measured on images."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from mirnet_edge.errors import OptionError
from mirnet_edge.pruning.channels import find_channel_axes, find_channel_groups
from mirnet_edge.training.batches import Batch, BatchSampling, sample_batch
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import has_exposure_branch
from mirnet_edge.training.loss import charbonnier_loss
from mirnet_edge.training.pairs import load_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from mirnet_edge.pruning.channels import Axes, ChannelGroup

    Loss = Callable[[nn.Module], Tensor]
    """Return a network's loss on one batch, a scalar."""
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.training.tasks import Task

IMPORTANCES = ("taylor", "magnitude", "random")


def magnitude_importance(network: nn.Module) -> dict[str, Tensor]:
    """Return the squared L2 norm of all that touches a channel, as a share of its space's.

    A share, because norms of different layers say nothing about each other.
    """
    return _shares(network, lambda tensor: tensor.square())


def taylor_importance(network: nn.Module, losses: Iterable[Loss]) -> dict[str, Tensor]:
    """Return the expected square of what removing a channel adds to the loss, to first order.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8:
    the mean over batches of (sum of gradient times weight)², here over all that touches a channel.

    Args:
        network: Left as it is.
        losses: One for each batch.

    Raises:
        OptionError: No batch.
    """
    measured = copy.deepcopy(network).requires_grad_(requires_grad=True)
    axes = find_channel_axes(measured)
    total: dict[str, Tensor] = {}
    count = 0
    for loss in losses:
        measured.zero_grad(set_to_none=True)
        loss(measured).backward()  # type: ignore[no-untyped-call]
        products = {
            key: weight.detach() * weight.grad
            for key, weight in _once(measured).items()
            if weight.grad is not None
        }
        for name, row in _sum_by_group(products, axes, _groups(measured, axes)).items():
            total[name] = total.get(name, torch.zeros_like(row)) + row.square()
        count += 1
    if not count:
        raise OptionError("expected at least one batch to measure importance on, found none")
    return {name: row / count for name, row in total.items()}


def random_importance(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return chance, as a share of each space: what the others must beat."""
    generator = torch.Generator().manual_seed(seed)
    return _normalize(
        {
            name: torch.rand(space.size, generator=generator)
            for name, space in _groups(network, find_channel_axes(network)).items()
        }
    )


def measure_block_importance(network: nn.Module, losses: Sequence[Loss]) -> list[list[float]]:
    """Return what the loss gains from each multi-scale block, group by group.

    Each block adds to its input, so a network without it is measured by letting the input pass.

    Raises:
        OptionError: No batch.
    """
    if not losses:
        raise OptionError("expected at least one batch to measure usefulness on, found none")
    measured = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    whole = _mean(measured, losses)
    blocks: int = measured.config.blocks  # type: ignore[union-attr, assignment]
    rows = []
    for group in _block_lists(measured):
        row = []
        for place in range(blocks):
            block = group[place]
            group[place] = nn.Identity()
            row.append(_mean(measured, losses) - whole)
            group[place] = block
        rows.append(row)
    return rows


def _block_lists(network: nn.Module) -> list[nn.Sequential]:
    blocks = getattr(network, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        return [blocks]
    body: Any = network.body
    return [cast("nn.Sequential", group.body) for group in body]


def _mean(network: nn.Module, losses: Sequence[Loss]) -> float:
    with torch.no_grad():
        return sum(float(loss(network)) for loss in losses) / len(losses)


def _once(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters, those that serve in several places once."""
    return dict(network.named_parameters())


def _groups(network: nn.Module, axes: Mapping[str, Axes]) -> dict[str, ChannelGroup]:
    return find_channel_groups(network.state_dict(), axes)


def _shares(network: nn.Module, value: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    axes = find_channel_axes(network)
    values = {key: value(weight.detach()) for key, weight in _once(network).items()}
    return _normalize(_sum_by_group(values, axes, _groups(network, axes)))


def _normalize(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: row / row.sum().clamp_min(1e-30) for name, row in scores.items()}


def _sum_by_group(
    values: Mapping[str, Tensor], axes: Mapping[str, Axes], spaces: Mapping[str, ChannelGroup]
) -> dict[str, Tensor]:
    """Sum tensors over all that touches each channel of each space."""
    total = {name: torch.zeros(space.size) for name, space in spaces.items()}
    for key, tensor in values.items():
        for place, axis in enumerate(axes[key]):
            if axis is None:
                continue
            if axis.parts > 1:  # one row for each group: its inputs are the next part
                rows = tensor.reshape(axis.parts, -1, *tensor.shape[1:])
                summed = rows.sum(dim=(1, *range(3, rows.ndim))).flatten()
            else:
                others = [other for other in range(tensor.ndim) if other != place]
                summed = tensor.sum(dim=others) if others else tensor
            total[axis.space] += summed.reshape(axis.copies, -1).sum(0).cpu()
    return total


_IMAGES = 64  # of the training set, taken evenly
_BATCHES = 8


def make_losses(
    data: Path, task: Task, network: nn.Module, *, batch: int, crop: int, seed: int
) -> list[Loss]:
    """Return the loss on each of some batches of training images, drawn by SEED.

    Raises:
        DataError: The images cannot be read, or are smaller than the crop.
    """
    train = list_pairs(data).train
    places = np.linspace(0, len(train) - 1, min(_IMAGES, len(train))).round().astype(int)
    pairs = load_pairs([train[place] for place in places], degrade=task.degrade, scale=task.scale)
    sampling = BatchSampling(
        size=batch,
        crop=crop,
        multiple=network.multiple,  # type: ignore[arg-type]
        thumbnails=pairs.degrade is None and has_exposure_branch(network),
    )
    return [
        functools.partial(_loss, sample_batch(pairs, sampling, seed=seed, step=step))
        for step in range(_BATCHES)
    ]


def compute_mean_loss(network: nn.Module, losses: Sequence[Loss]) -> float:
    """Return a network's mean loss over batches."""
    import torch

    with torch.inference_mode():
        return sum(float(loss(network)) for loss in losses) / len(losses)


def score_channels(
    network: nn.Module, importance: str, losses: Sequence[Loss], seed: int
) -> dict[str, Tensor]:
    """Return what each channel is worth, by the name of the importance.

    Raises:
        OptionError: No such importance.
    """
    require_importance(importance)
    if importance == "magnitude":
        return magnitude_importance(network)
    if importance == "random":
        return random_importance(network, seed)
    return taylor_importance(network, losses)


def require_importance(name: str) -> None:
    """Refuse an importance that does not exist.

    Raises:
        OptionError: It does not.
    """
    if name not in IMPORTANCES:
        raise OptionError(f"--importance must be one of {', '.join(IMPORTANCES)}, found {name!r}")


def _loss(batch: Batch, network: nn.Module) -> Tensor:
    seen = (batch.degraded,) if batch.thumbnail is None else (batch.degraded, batch.thumbnail)
    return charbonnier_loss(network(*seen), batch.target)
