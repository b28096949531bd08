"""Which channels of a network belong together, told for every axis of every tensor.

A **space** is a set of channels that are kept or removed as one: the trunk that all residual
additions share, a stream inside a block, what lies between two convolutions. Each axis of each
tensor is in one space or in none (colours, kernels, maps). Which space an axis is in follows from
how the families are wired; how many channels each keeps follows from the config of the network
that is wanted, so what comes out is always a network of the same family.

Own code and not a traced dependency graph: docs/decisions/011-pruning.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints.families import family_of
from mirnet_edge.compression.wiring import RULES
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_FIXED = ".filt"  # blur kernels: as many as there are channels, all alike


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor."""

    space: str
    copies: int = 1
    """How often the space's channels follow each other along the axis: concatenation."""
    parts: int = 1
    """Along the input axis of a grouped convolution: its groups. The axis holds the channels of
    one group; output channels of group g read those of part g."""


Axes = tuple["Axis | None", ...]


@dataclass(frozen=True)
class Space:
    """How many channels a space has, and how evenly they must lie."""

    size: int
    parts: int = 1
    """Grouped convolutions need as many kept channels in each of so many equal parts."""


def axes_of(network: nn.Module) -> dict[str, Axes]:
    """Return the axes of every tensor in the state dict but the blur kernels.

    Raises:
        CheckpointError: Not one of our networks.
    """
    rules = RULES[family_of(network).name]
    found: dict[str, Axes] = {}
    for key, tensor in network.state_dict().items():
        if not key.endswith(_FIXED):
            named = rules(key, network)
            axes = [None if name is None else Axis(name) for name in named]
            found[key] = _completed(axes, tensor, network, key)
    return found


def spaces_of(tensors: Mapping[str, Tensor], axes: Mapping[str, Axes]) -> dict[str, Space]:
    """Return the spaces that the axes name, with their sizes in these tensors.

    Keys may differ (a narrower MIRNet names its resizers by its widths); their order may not.

    Raises:
        OptionError: Two tensors disagree on a space.
    """
    values = [tensor for key, tensor in tensors.items() if not key.endswith(_FIXED)]
    found: dict[str, Space] = {}
    for (key, row), tensor in zip(axes.items(), values, strict=True):
        for axis, length in zip(row, tensor.shape, strict=False):
            if axis is None:
                continue
            size = length * axis.parts // axis.copies
            former = found.get(axis.space, Space(size))
            if former.size != size:
                raise OptionError(
                    f"{key} has {size} channels of {axis.space}, others have {former.size}; "
                    "expected one number. Please report it with the config"
                )
            found[axis.space] = Space(size, math.lcm(former.parts, axis.parts))
    return _even(found, axes)


def _even(spaces: dict[str, Space], axes: Mapping[str, Axes]) -> dict[str, Space]:
    """Let the outputs of grouped convolutions lie as evenly as their inputs."""
    even = dict(spaces)
    for row in axes.values():
        parts = max((axis.parts for axis in row if axis is not None), default=1)
        out = row[0]
        if out is not None:
            former = even[out.space]
            even[out.space] = Space(former.size, math.lcm(former.parts, parts))
    return even


def _completed(axes: list[Axis | None], tensor: Tensor, network: nn.Module, key: str) -> Axes:
    """Add what only the module tells: groups, and concatenated inputs."""
    module = network.get_submodule(key.rpartition(".")[0])
    groups = getattr(module, "groups", 1)
    axes = axes[: tensor.ndim]
    if len(axes) > 1 and axes[1] is not None:
        doubled = key.endswith(".conv1x1.weight")  # both attentions of MIRNet's units
        axes[1] = Axis(axes[1].space, copies=2 if doubled else 1, parts=groups)
    return tuple(axes)
