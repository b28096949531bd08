"""Channel groups of a network: which axes of which tensors must be pruned together.

A rule gives a name for each leading axis of a tensor; None for an axis that is no channel. Equal
names are channels that are added, multiplied or convolved with each other, so they stay or go
together. "trunk" is what all residual additions share.

A **space** is a set of channels that are kept or removed as one: the trunk that all residual
additions share, a stream inside a block, what lies between two convolutions. Each axis of each
tensor is in one space or in none (colors, kernels, maps). Which space an axis is in follows from
how the families are wired; how many channels each keeps follows from the config of the network
that is wanted, so what comes out is always a network of the same family.

Own code and not a traced dependency graph: docs/decisions/011-pruning.md.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints.families import family_of
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from mirnet_edge.checkpoints.reading import Architecture

_TRUNK = "trunk"
Names = tuple["str | None", ...]
_NO_SPACE: Names = (None,)


def _first_match(
    text: str, table: tuple[tuple[str, Callable[[re.Match[str]], Names]], ...]
) -> Names:
    for pattern, names in table:
        if found := re.fullmatch(pattern, text):
            return names(found)
    raise OptionError(f"no rule says which channels {text} has; please report it")


def _fusion(own: str, prefix: str, layer: str) -> Names:
    """Return the axes of a layer of a stream fusion, whose squeezed channels are its own."""
    squeezed = f"{prefix}.squeezed"
    if layer == "conv_du.0":
        return (squeezed, own)
    return _NO_SPACE if layer == "conv_du.1" else (own, squeezed)


def _mirnet(key: str, network: nn.Module) -> Names:
    """Name the spaces of a tensor of MIRNet: each block's lower streams are its own."""
    widths: tuple[int, ...] = network.config.widths  # type: ignore[union-attr, assignment]
    ends = {"conv_in.weight": (_TRUNK, None), "conv_out.weight": (None, _TRUNK)}
    if key in ends:
        return ends[key]
    found = re.fullmatch(r"(body\.\d+\.body\.\d+)\.(.+)", key)
    if not found or found[2] in ("weight", "conv_out.weight"):
        return (_TRUNK, _TRUNK)
    block, rest = found.groups()

    def stream(number: int) -> str:
        return f"{block}.{number}" if number else _TRUNK

    def unit(match: re.Match[str]) -> Names:
        own, prefix = stream(int(match[1])), f"{block}.unit{match[1]}"
        return {
            "body.0": (f"{prefix}.inner", own),
            "body.2": (own, f"{prefix}.inner"),
            "CA.conv_du.0": (f"{prefix}.squeezed", own),
            "CA.conv_du.2": (own, f"{prefix}.squeezed"),
            "conv1x1": (own, own),
        }.get(match[2], _NO_SPACE)

    def resizing(match: re.Match[str]) -> Names:
        way, name, step, layer = match[1], match[2], int(match[3]), match[4]
        first, steps = (
            (int(name), int(name))
            if way == "last_up"
            else (widths.index(int(name.split("_")[0])), int(name.split("_")[1]).bit_length() - 1)
        )
        sign = 1 if way == "down" else -1
        module = f"{block}.{way}.{name}"

        def at(number: int) -> str:
            # between two steps: no other module sees these channels
            inside = 0 < number < steps
            return f"{module}.{number}" if inside else stream(first + sign * number)

        one, two = (f"{module}.{step}.inner{place}" for place in (0, 2))
        last = "top.5" if way == "down" else "top.4"
        middle = (two, one) if way == "down" else (one, two)  # transposed: inputs come first
        return {
            "top.0": (one, at(step)),
            "top.2": middle,
            last: (at(step + 1), two),
            "bot.1": (at(step + 1), at(step)),
        }.get(layer, _NO_SPACE)

    def fusion(match: re.Match[str]) -> Names:
        return _fusion(stream(int(match[1])), f"{block}.fuse{match[1]}", match[2])

    return _first_match(
        rest,
        (
            (r"blocks\.(\d+)\.\d+\.(.+)\.weight", unit),
            (r"(down|up|last_up)\.(\w+)\.body\.(\d+)\.(\w+\.\d+)\.weight", resizing),
            (r"selective_kernel\.(\d+)\.(conv_du\.\d|fcs\.\d+)\.weight", fusion),
        ),
    )


def _mirnet_v2(key: str, network: nn.Module) -> Names:
    """Name the spaces of a tensor of MIRNet-v2: each block's lower streams are its own."""
    del network
    ends = {"conv_in.weight": (_TRUNK, None), "conv_out.weight": (None, _TRUNK)}
    if key in ends:
        return ends[key]
    found = re.fullmatch(r"(body\.\d+\.body\.\d+)\.(.+)", key)
    if not found or found[2] in ("weight", "conv_out.weight"):
        return (_TRUNK, _TRUNK)
    block, rest = found.groups()
    streams = {"top": _TRUNK, "mid": f"{block}.mid", "bot": f"{block}.bot"}

    def unit(match: re.Match[str]) -> Names:
        own, prefix = streams[match[1]], f"{block}.unit_{match[1]}"
        return {
            "body.0": (f"{prefix}.inner", own),
            "body.2": (own, f"{prefix}.inner"),
            "gcnet.conv_mask": (None, own),
            "gcnet.channel_add_conv.0": (f"{prefix}.added", own),
            "gcnet.channel_add_conv.2": (own, f"{prefix}.added"),
        }[match[2]]

    def resizing(match: re.Match[str]) -> Names:
        between = f"{block}.down4.mid"  # the way to the bottom does not touch the middle stream
        return {
            "down2": (streams["mid"], _TRUNK),
            "down4.0": (between, _TRUNK),
            "down4.1": (streams["bot"], between),
            "up21": (_TRUNK, streams["mid"]),
            "up32": (streams["mid"], streams["bot"]),
        }[match[1]]

    return _first_match(
        rest,
        (
            (r"dau_(top|mid|bot)\.(.+)\.weight", unit),
            (r"(down2)\.body\.0\.bot\.1\.weight", resizing),
            (r"(down4\.[01])\.body\.0\.bot\.1\.weight", resizing),
            (r"(up21|up32)_[12]\.body\.0\.bot\.0\.weight", resizing),
            (
                r"skff_(top|mid)\.(conv_du\.\d|fcs\.\d+)\.weight",
                lambda match: _fusion(streams[match[1]], f"{block}.fuse_{match[1]}", match[2]),
            ),
        ),
    )


def _edge(key: str, network: nn.Module) -> Names:
    """Name the spaces of a tensor of MIRNetEdge; the exposure branch is left as it is."""
    del network
    found = re.fullmatch(r"(blocks\.\d+)\.(.+)\.(?:weight|bias)", key)
    if not found:
        ends: dict[str, Names] = {
            "stem.weight": (_TRUNK, None), "stem.bias": (_TRUNK,), "head.weight": (None, _TRUNK),
        }  # fmt: skip
        return ends.get(key, _NO_SPACE)
    block, rest = found.groups()
    streams = {"top": _TRUNK, "middle": f"{block}.middle", "bottom": f"{block}.bottom"}

    def unit(match: re.Match[str]) -> Names:
        own, prefix = streams[match[1]], f"{block}.unit_{match[1]}"
        return {
            "body.0": (f"{prefix}.inner", own),
            "body.2": (own, f"{prefix}.inner"),
            "channel.0": (f"{prefix}.squeezed", own),
            "channel.2": (own, f"{prefix}.squeezed"),
            "spatial": (None, own),
        }[match[2]]

    resizers = {
        "down_middle": (streams["middle"], _TRUNK),
        "down_bottom": (streams["bottom"], streams["middle"]),
        "up_bottom": (streams["middle"], streams["bottom"]),
        "up_middle": (_TRUNK, streams["middle"]),
    }
    return _first_match(
        rest,
        (
            (r"(top|middle|bottom)\.(.+)", unit),
            (r"((?:down|up)_(?:middle|bottom))", lambda match: resizers[match[1]]),
            (
                r"fuse_(top|middle)\.(conv_du\.\d|fcs\.\d+)",
                lambda match: _fusion(streams[match[1]], f"{block}.fuse_{match[1]}", match[2]),
            ),
        ),
    )


RULES: dict[Architecture, Callable[[str, nn.Module], Names]] = {
    "mirnet": _mirnet,
    "mirnet-v2": _mirnet_v2,
    "edge": _edge,
}


_FIXED = ".filt"  # blur kernels: as many as there are channels, all alike


@dataclass(frozen=True)
class ChannelAxis:
    """One axis of a tensor."""

    space: str
    copies: int = 1
    """How often the space's channels follow each other along the axis: concatenation."""
    parts: int = 1
    """Along the input axis of a grouped convolution: its groups. The axis holds the channels of
    one group; output channels of group g read those of part g."""


Axes = tuple["ChannelAxis | None", ...]


@dataclass(frozen=True)
class ChannelGroup:
    """How many channels a space has, and how evenly they must lie."""

    size: int
    parts: int = 1
    """Grouped convolutions need as many kept channels in each of so many equal parts."""


def find_channel_axes(network: nn.Module) -> dict[str, Axes]:
    """Return the axes of every tensor in the state dict but the blur kernels.

    Raises:
        CheckpointError: Not one of our networks.
    """
    rules = RULES[family_of(network).name]
    found: dict[str, Axes] = {}
    for key, tensor in network.state_dict().items():
        if not key.endswith(_FIXED):
            named = rules(key, network)
            axes = [None if name is None else ChannelAxis(name) for name in named]
            found[key] = _complete_axes(axes, tensor, network, key)
    return found


def find_channel_groups(
    tensors: Mapping[str, Tensor], axes: Mapping[str, Axes]
) -> dict[str, ChannelGroup]:
    """Return the spaces that the axes name, with their sizes in these tensors.

    Keys may differ (a narrower MIRNet names its resizers by its widths); their order may not.

    Raises:
        OptionError: Two tensors disagree on a space.
    """
    values = [tensor for key, tensor in tensors.items() if not key.endswith(_FIXED)]
    found: dict[str, ChannelGroup] = {}
    for (key, row), tensor in zip(axes.items(), values, strict=True):
        for axis, length in zip(row, tensor.shape, strict=False):
            if axis is None:
                continue
            size = length * axis.parts // axis.copies
            former = found.get(axis.space, ChannelGroup(size))
            if former.size != size:
                raise OptionError(
                    f"{key} has {size} channels of {axis.space}, others have {former.size}; "
                    "expected one number. Please report it with the config"
                )
            found[axis.space] = ChannelGroup(size, math.lcm(former.parts, axis.parts))
    return _even(found, axes)


def _even(spaces: dict[str, ChannelGroup], axes: Mapping[str, Axes]) -> dict[str, ChannelGroup]:
    """Let the outputs of grouped convolutions lie as evenly as their inputs."""
    even = dict(spaces)
    for row in axes.values():
        parts = max((axis.parts for axis in row if axis is not None), default=1)
        out = row[0]
        if out is not None:
            former = even[out.space]
            even[out.space] = ChannelGroup(former.size, math.lcm(former.parts, parts))
    return even


def _complete_axes(
    axes: list[ChannelAxis | None], tensor: Tensor, network: nn.Module, key: str
) -> Axes:
    """Add what only the module tells: groups, and concatenated inputs."""
    module = network.get_submodule(key.rpartition(".")[0])
    groups = getattr(module, "groups", 1)
    axes = axes[: tensor.ndim]
    if len(axes) > 1 and axes[1] is not None:
        doubled = key.endswith(".conv1x1.weight")  # both attentions of MIRNet's units
        axes[1] = ChannelAxis(axes[1].space, copies=2 if doubled else 1, parts=groups)
    return tuple(axes)
