"""Narrow and shorten networks: fewer channels, fewer blocks, the same family.

What comes out is a network of the config that was asked for, with those of the given network's
weights that were worth most. Its config is told from its tensors, and it loads like any other.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge.checkpoints.families import family_of
from mirnet_edge.compression.channels import axes_of, spaces_of
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from mirnet_edge.compression.channels import Axes, Space

_FIXED = ".filt"


def pruned(network: nn.Module, config: Any, scores: Mapping[str, Tensor]) -> nn.Module:  # noqa: ANN401  # the families' configs have no type in common
    """Return a network of CONFIG with the channels of NETWORK that score highest, in their order.

    Shared tensors stay shared. With NETWORK's own config it is a copy.

    Args:
        network: One of our networks; left as it is.
        config: A config of its family with as many blocks, and nowhere more channels.
        scores: For every space (`channels.spaces_of`), what each of its channels is worth; of
            `importance`.

    Raises:
        OptionError: The config asks for more channels than there are, or for other blocks, or
            for a number that grouped convolutions cannot have.
    """
    axes = axes_of(network)
    narrow = family_of(network).network(config)
    if len(narrow.state_dict()) != len(network.state_dict()):
        raise OptionError(
            f"expected a config with the blocks of {network.config}, found {config}; drop blocks "
            "first"
        )
    old = spaces_of(network.state_dict(), axes)
    new = spaces_of(narrow.state_dict(), axes)
    kept = {name: _best(name, old[name], new[name].size, scores[name]) for name in old}
    values = narrow.state_dict()
    for (key, tensor), target in zip(network.state_dict().items(), values, strict=True):
        if not key.endswith(_FIXED):
            values[target] = _cut(tensor, axes[key], kept, old)
    narrow.load_state_dict(values)
    return narrow.train(network.training)


def without_blocks(network: nn.Module, kept: Sequence[Sequence[int]]) -> nn.Module:
    """Return the network with fewer multi-scale blocks, and fewer groups of them.

    Args:
        network: One of our networks; left as it is.
        kept: For each recursive residual group that stays, in order, which of its blocks stay;
            equally many in each. A MIRNetEdge is one group. Empty for a group that goes.

    Raises:
        OptionError: Nothing would be left, or unequal groups.
    """
    counts = {len(blocks) for blocks in kept if blocks}
    if len(counts) != 1:
        raise OptionError(
            f"expected equally many blocks in each group that stays, found {list(map(list, kept))}"
        )
    (count,) = counts
    config: Any = network.config
    groups = [group for group, blocks in enumerate(kept) if blocks]
    changes: dict[str, Any] = {"blocks": count}
    if hasattr(config, "groups"):
        changes["groups"] = len(groups)
    if hasattr(config, "conv_groups"):
        changes["conv_groups"] = tuple(config.conv_groups[group] for group in groups)
    short = family_of(network).network(dataclasses.replace(config, **changes))
    former = network.state_dict()
    short.load_state_dict(
        {key: former[_former_key(key, kept, groups, config.blocks)] for key in short.state_dict()}
    )
    return short.train(network.training)


def _former_key(key: str, kept: Sequence[Sequence[int]], groups: Sequence[int], blocks: int) -> str:
    """Return where a tensor of a shortened network stood before."""
    if found := re.match(r"blocks\.(\d+)\.", key):
        return f"blocks.{kept[0][int(found[1])]}.{key[found.end() :]}"
    found = re.match(r"body\.(\d+)\.body\.(\d+)\.", key)
    if not found:
        return key
    group, place = groups[int(found[1])], int(found[2])
    # the group's own convolution follows its blocks
    stayed = kept[group]
    former = stayed[place] if place < len(stayed) else blocks
    return f"body.{group}.body.{former}.{key[found.end() :]}"


def _best(name: str, space: Space, count: int, scores: Tensor) -> Tensor:
    """Return the indices of the channels to keep, rising; as many in each part of the space."""
    parts = space.parts
    if not 0 < count <= space.size or count % parts:
        of = f" in {parts} equal parts" if parts > 1 else ""
        raise OptionError(
            f"{name} has {space.size} channels{of}; expected to keep between {parts} and as many, "
            f"found {count}"
        )
    rows = scores.reshape(parts, -1)
    best = rows.argsort(dim=1, descending=True, stable=True)[:, : count // parts]
    offsets = torch.arange(parts)[:, None] * rows.shape[1]
    return (best + offsets).flatten().sort().values


def _cut(
    tensor: Tensor, axes: Axes, kept: Mapping[str, Tensor], old: Mapping[str, Space]
) -> Tensor:
    for place, axis in enumerate(axes):
        if axis is None:
            continue
        indices, size = kept[axis.space], old[axis.space].size
        if axis.parts > 1:
            tensor = _cut_grouped(tensor, indices, axis.parts)
            continue
        repeated = torch.cat([indices + copy * size for copy in range(axis.copies)])
        tensor = tensor.index_select(place, repeated)
    return tensor.clone()


def _cut_grouped(tensor: Tensor, indices: Tensor, parts: int) -> Tensor:
    """Cut the input axis of a grouped convolution whose outputs are cut already."""
    within = indices.reshape(parts, -1) % tensor.shape[1]
    rows = tensor.chunk(parts, dim=0)
    return torch.cat([row.index_select(1, own) for row, own in zip(rows, within, strict=True)])
