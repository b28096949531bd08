"""Channel and block importance for structured pruning: Taylor, magnitude, random."""

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
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.pruning.channels import Axes, ChannelGroup
    from mirnet_edge.training.tasks import Task

    Loss = Callable[[nn.Module], Tensor]
    """Return a network's loss on one batch, a scalar."""

IMPORTANCES = ("taylor", "magnitude", "random")


def magnitude_importance(network: nn.Module) -> dict[str, Tensor]:
    """Return the squared L2 norm of each channel's weights, divided by the sum over its group.

    Divided, because norms of different layers are not comparable.
    """
    axes = find_channel_axes(network)
    squares = {key: weight.detach().square() for key, weight in network.named_parameters()}
    return _normalize(_sum_by_group(squares, axes, _find_groups(network, axes)))


def taylor_importance(network: nn.Module, losses: Iterable[Loss]) -> dict[str, Tensor]:
    """Return the expected squared change of the loss without each channel, to first order.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8:
    the mean over batches of (sum of gradient times weight)², over all weights of a channel.

    Args:
        network: Left unchanged.
        losses: One for each batch.

    Raises:
        OptionError: There is no batch.
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
            for key, weight in measured.named_parameters()
            if weight.grad is not None
        }
        for name, row in _sum_by_group(products, axes, _find_groups(measured, axes)).items():
            total[name] = total.get(name, torch.zeros_like(row)) + row.square()
        count += 1
    if not count:
        raise OptionError("expected at least one batch to measure importance on, found none")
    return {name: row / count for name, row in total.items()}


def random_importance(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return random importance, divided by the sum over each group: the baseline."""
    generator = torch.Generator().manual_seed(seed)
    return _normalize(
        {
            name: torch.rand(group.size, generator=generator)
            for name, group in _find_groups(network, find_channel_axes(network)).items()
        }
    )


def measure_block_importance(network: nn.Module, losses: Sequence[Loss]) -> list[list[float]]:
    """Return how much the loss rises without each multi-scale block, group by group.

    Blocks are residual: without one, its input passes through.

    Raises:
        OptionError: There is no batch.
    """
    if not losses:
        raise OptionError("expected at least one batch to measure importance on, found none")
    measured = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    whole = compute_mean_loss(measured, losses)
    blocks: int = measured.config.blocks  # type: ignore[union-attr, assignment]
    rows = []
    for group in _block_lists(measured):
        row = []
        for place in range(blocks):
            block = group[place]
            group[place] = nn.Identity()
            row.append(compute_mean_loss(measured, losses) - whole)
            group[place] = block
        rows.append(row)
    return rows


def _block_lists(network: nn.Module) -> list[nn.Sequential]:
    blocks = getattr(network, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        return [blocks]
    body: Any = network.body
    return [cast("nn.Sequential", group.body) for group in body]


def _find_groups(network: nn.Module, axes: Mapping[str, Axes]) -> dict[str, ChannelGroup]:
    return find_channel_groups(network.state_dict(), axes)


def _normalize(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: row / row.sum().clamp_min(1e-30) for name, row in scores.items()}


def _sum_by_group(
    values: Mapping[str, Tensor], axes: Mapping[str, Axes], groups: Mapping[str, ChannelGroup]
) -> dict[str, Tensor]:
    """Return the sum of the tensors' values over the weights of each channel, by group."""
    total = {name: torch.zeros(group.size) for name, group in groups.items()}
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
            total[axis.group] += summed.reshape(axis.copies, -1).sum(0).cpu()
    return total


_IMAGES = 64  # of the training set, evenly spaced
_BATCHES = 8


def make_losses(
    data: Path, task: Task, network: nn.Module, *, batch: int, crop: int, seed: int
) -> list[Loss]:
    """Return the loss on each of a few batches of training images; SEED is the sampling seed.

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
    with torch.inference_mode():
        return sum(float(loss(network)) for loss in losses) / len(losses)


def score_channels(
    network: nn.Module, importance: str, losses: Sequence[Loss], seed: int
) -> dict[str, Tensor]:
    """Return each channel's importance by group: taylor, magnitude or random.

    Raises:
        OptionError: There is no importance of that name.
    """
    require_importance(importance)
    if importance == "magnitude":
        return magnitude_importance(network)
    if importance == "random":
        return random_importance(network, seed)
    return taylor_importance(network, losses)


def require_importance(name: str) -> None:
    """Refuse an unknown importance.

    Raises:
        OptionError: There is none of that name.
    """
    if name not in IMPORTANCES:
        raise OptionError(f"--importance must be one of {', '.join(IMPORTANCES)}, found {name!r}")


def _loss(batch: Batch, network: nn.Module) -> Tensor:
    inputs = (batch.degraded,) if batch.thumbnail is None else (batch.degraded, batch.thumbnail)
    return charbonnier_loss(network(*inputs), batch.target)
