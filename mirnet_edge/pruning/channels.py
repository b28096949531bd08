"""Channel groups of a network: which axes of which tensors must be pruned together.

A **channel group** is a set of channels that structured pruning keeps or removes together, because
they are added, multiplied or convolved with each other: the trunk that all residual additions
share, a stream inside a block, the channels between two convolutions. Each axis of each tensor is
in one group or in none (colors, kernels, maps).

A rule names the group of each leading axis of a tensor, by how the network family is built; None
for an axis in no group. How many channels each group keeps follows from the config of the pruned
network, which is always a network of the same family.

Own rules instead of a traced dependency graph: docs/decisions/011-pruning.md.
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

    from mirnet_edge.checkpoints.cards import Architecture

_TRUNK = "trunk"
Names = tuple["str | None", ...]
_NO_GROUP: Names = (None,)


def _first_match(
    text: str, table: tuple[tuple[str, Callable[[re.Match[str]], Names]], ...]
) -> Names:
    for pattern, names in table:
        if found := re.fullmatch(pattern, text):
            return names(found)
    raise OptionError(f"no rule for the channels of {text}; please report it with the config")


def _fusion(own: str, prefix: str, layer: str) -> Names:
    """Return the groups of a layer of a stream fusion; its squeezed channels are a group."""
    squeezed = f"{prefix}.squeezed"
    if layer == "conv_du.0":
        return (squeezed, own)
    return _NO_GROUP if layer == "conv_du.1" else (own, squeezed)


def _mirnet(key: str, network: nn.Module) -> Names:
    """Return the groups of a MIRNet tensor; each block's lower streams are groups of its own."""
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
        }.get(match[2], _NO_GROUP)

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
            # between two steps: no other module uses these channels
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
        }.get(layer, _NO_GROUP)

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
    """Return the groups of a MIRNet-v2 tensor; each block's lower streams are groups of its own."""
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
        between = f"{block}.down4.mid"  # the path to the bottom stream bypasses the middle one
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


def _keras_mirnet(key: str, network: nn.Module) -> Names:
    """Return the groups of a Keras MIRNet tensor; each block's lower streams are groups of its own.

    A fusion's softmax over the channels makes weights grow as channels are removed: training after
    pruning corrects it.
    """
    del network
    name, _, kind = key.rpartition(".")
    names = _keras_mirnet_weight(name)
    return names if kind == "weight" else names[:1]


_STREAM_NUMBERS = {"top": 0, "middle": 1, "bottom": 2}


def _keras_mirnet_weight(name: str) -> Names:
    """Return the groups of a convolution's outputs and inputs."""
    ends: dict[str, Names] = {"conv_in": (_TRUNK, None), "conv_out": (None, _TRUNK)}
    if name in ends:
        return ends[name]
    found = re.fullmatch(r"(body\.\d+\.body\.\d+)\.(.+)", name)
    if not found or found[2] == "conv_out":
        return (_TRUNK, _TRUNK)
    block, rest = found.groups()
    streams = (_TRUNK, f"{block}.middle", f"{block}.bottom")

    def unit(match: re.Match[str]) -> Names:
        own, prefix = streams[_STREAM_NUMBERS[match[2]]], f"{block}.{match[1]}_{match[2]}"
        return {
            "body.0": (f"{prefix}.inner", own),
            "body.2": (own, f"{prefix}.inner"),
            # of separable convolutions: one kernel for each channel, then across channels
            "body.0.0": (own, None),
            "body.0.1": (f"{prefix}.inner", own),
            "body.2.0": (f"{prefix}.inner", None),
            "body.2.1": (own, f"{prefix}.inner"),
            "channel.0": (f"{prefix}.squeezed", own),
            "channel.2": (own, f"{prefix}.squeezed"),
            "conv1x1": (own, own),
        }.get(match[3], _NO_GROUP)

    def resizing(module: str, step: int, first: int, last: int, layer: str) -> Names:
        sign = 1 if first < last else -1
        prefix = f"{block}.{module}"

        def at(number: int) -> str:
            # between two steps: no other module uses these channels
            is_inside = number not in (first, last)
            return f"{prefix}.{number}" if is_inside else streams[number]

        one, two = (f"{prefix}.{step}.inner{place}" for place in (0, 2))
        source, target = at(first + sign * step), at(first + sign * (step + 1))
        return {
            "top.0": (one, source),
            "top.2": (two, one),
            "top.5": (target, two),
            "bot.1": (target, source),
        }[layer]

    def between(match: re.Match[str]) -> Names:
        first, last = _STREAM_NUMBERS[match[2]], _STREAM_NUMBERS[match[3]]
        return resizing(match[1], int(match[4] or 0), first, last, match[5])

    def down(match: re.Match[str]) -> Names:
        first = _STREAM_NUMBERS[match[2]]
        return resizing(match[1], 0, first, first + 1, match[3])

    def last(match: re.Match[str]) -> Names:
        return resizing(match[1], int(match[3] or 0), _STREAM_NUMBERS[match[2]], 0, match[4])

    def fusion(match: re.Match[str]) -> Names:
        own = _TRUNK if match[1] == "last" else streams[_STREAM_NUMBERS[match[1]]]
        return _fusion(own, f"{block}.fuse_{match[1]}", match[2])

    layer = r"(?:\.(\d))?\.((?:top|bot)\.\d)"
    return _first_match(
        rest,
        (
            (r"(first|second)_(top|middle|bottom)\.(.+)", unit),
            (r"(down_(top|middle))\.((?:top|bot)\.\d)", down),
            (rf"((top|middle|bottom)_to_(top|middle|bottom)){layer}", between),
            (rf"(last_(middle|bottom)){layer}", last),
            (r"fuse_(top|middle|bottom|last)\.(conv_du\.\d|fcs\.\d+)", fusion),
        ),
    )


def _edge(key: str, network: nn.Module) -> Names:
    """Return the groups of a MIRNetEdge tensor; the exposure branch is not pruned."""
    depth: int = network.config.depth  # type: ignore[assignment, union-attr]  # a MIRNetEdge
    found = re.fullmatch(r"(blocks\.\d+)\.(.+)\.(?:weight|bias)", key)
    if not found:
        ends: dict[str, Names] = {
            "stem.weight": (_TRUNK, None), "stem.bias": (_TRUNK,), "head.weight": (None, _TRUNK),
        }  # fmt: skip
        return ends.get(key, _NO_GROUP)
    block, rest = found.groups()
    streams = {"top": _TRUNK, "middle": f"{block}.middle", "bottom": f"{block}.bottom"}

    def unit(match: re.Match[str]) -> Names:
        own, prefix = streams[match[1]], f"{block}.unit_{match[1]}"
        if deep := re.fullmatch(r"body\.(\d+)", match[2]):
            # a row of convolutions, at even places, each with channels of its own
            place, last = int(deep[1]), 2 * (depth - 1) if match[1] == "top" else 2
            source = own if place == 0 else f"{prefix}.inner{place - 2}"
            return (own if place == last else f"{prefix}.inner{place}", source)
        return {
            # of separable convolutions: one kernel for each channel, then across channels
            "body.0.0": (own, None),
            "body.0.1": (f"{prefix}.inner", own),
            "body.2.0": (f"{prefix}.inner", None),
            "body.2.1": (own, f"{prefix}.inner"),
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
    "keras-mirnet": _keras_mirnet,
    "edge": _edge,
}


FIXED_SUFFIX = ".filt"  # blur kernels: one per channel, all equal


@dataclass(frozen=True)
class ChannelAxis:
    """One axis of a tensor."""

    group: str
    copies: int = 1
    """How often the group's channels repeat along the axis (concatenation)."""
    parts: int = 1
    """Groups of a grouped convolution, along its input axis, which holds the channels of one of
    them; output channels of convolution group g read those of part g."""


Axes = tuple["ChannelAxis | None", ...]


@dataclass(frozen=True)
class ChannelGroup:
    """The size of a channel group, and the equal parts that pruning must keep."""

    size: int
    parts: int = 1
    """Grouped convolutions need equally many kept channels in each of this many equal parts."""


def find_channel_axes(network: nn.Module) -> dict[str, Axes]:
    """Return the axes of every tensor in the state dict except the blur kernels.

    Raises:
        CheckpointError: The network is of no known family.
    """
    rules = RULES[family_of(network).name]
    found: dict[str, Axes] = {}
    for key, tensor in network.state_dict().items():
        if not key.endswith(FIXED_SUFFIX):
            named = rules(key, network)
            axes = [None if name is None else ChannelAxis(name) for name in named]
            found[key] = _complete_axes(axes, tensor, network, key)
    return found


def find_channel_groups(
    tensors: Mapping[str, Tensor], axes: Mapping[str, Axes]
) -> dict[str, ChannelGroup]:
    """Return the channel groups that the axes name, with their sizes in these tensors.

    Keys may differ (a narrower MIRNet names its resizers by its widths); their order must not.

    Raises:
        OptionError: Two tensors disagree on the size of a group.
    """
    values = [tensor for key, tensor in tensors.items() if not key.endswith(FIXED_SUFFIX)]
    found: dict[str, ChannelGroup] = {}
    for (key, row), tensor in zip(axes.items(), values, strict=True):
        for axis, length in zip(row, tensor.shape, strict=False):
            if axis is None:
                continue
            size = length * axis.parts // axis.copies
            former = found.get(axis.group, ChannelGroup(size))
            if former.size != size:
                raise OptionError(
                    f"{key} has {size} channels of {axis.group}, others have {former.size}; "
                    "expected equal numbers. Please report it with the config"
                )
            found[axis.group] = ChannelGroup(size, math.lcm(former.parts, axis.parts))
    return _align_parts(found, axes)


def _align_parts(
    groups: dict[str, ChannelGroup], axes: Mapping[str, Axes]
) -> dict[str, ChannelGroup]:
    """Return the groups with the outputs of grouped convolutions in as many parts as the inputs."""
    aligned = dict(groups)
    for row in axes.values():
        parts = max((axis.parts for axis in row if axis is not None), default=1)
        out = row[0]
        if out is not None:
            former = aligned[out.group]
            aligned[out.group] = ChannelGroup(former.size, math.lcm(former.parts, parts))
    return aligned


def _complete_axes(
    axes: list[ChannelAxis | None], tensor: Tensor, network: nn.Module, key: str
) -> Axes:
    """Return the axes with the module's convolution groups and concatenated inputs."""
    module = network.get_submodule(key.rpartition(".")[0])
    groups = getattr(module, "groups", 1)
    axes = axes[: tensor.ndim]
    if len(axes) > 1 and axes[1] is not None:
        is_concatenated = key.endswith(".conv1x1.weight")  # both attentions of a unit
        axes[1] = ChannelAxis(axes[1].group, copies=2 if is_concatenated else 1, parts=groups)
    return tuple(axes)
