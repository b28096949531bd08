"""Identify the convolutions of a Keras MIRNet from their shapes and order.

Keras names layers by a counter of its session (`conv2d`, `conv2d_1`, or `conv2d_523` where other
networks were made before), and newer versions number them anew when they save, in the order in
which the graph runs. A file therefore gives one of two orders:

- the order of creation, from the counter in the layers' names of their session;
- the order of the graph: descending distance from the output, in which Keras lists a model's
  layers. It follows from the network, and from how many layers its author made of one operation.

Counts and kernel shapes decide which network and which order it is; a file that fits none is
refused. Both orders: docs/decisions/021-keras-mirnet.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mirnet_edge.checkpoints.stored import KerasConvolution, printable
from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.models.keras_mirnet import VARIANTS, KerasMIRNet, KerasMIRNetConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


Shape = tuple[int, ...]

_IN_BLOCK = {"2021": 83, "2023": 105}
"""Convolutions of a multi-scale block."""
_IN_GROUP = 2  # further ones of a group
_AT_ENDS = 2


def state_dict_from_convolutions(
    found: Sequence[KerasConvolution], origin: str
) -> dict[str, Tensor]:
    """Return the state dict of the `KerasMIRNet` that these convolutions make.

    Values are read only when counts and shapes fit.

    Args:
        found: All convolutions of the file, in any order.
        origin: The file, for messages.

    Raises:
        CheckpointError: They make no MIRNet of the Keras examples.
    """
    channels = _width_of(found, origin)
    orders = list(_orders(found))
    misfits: list[str] = []
    for config in _configs(len(found), channels, origin):
        expected = expected_shapes(config)
        for order in orders:
            for keys in _key_orders(config, order.is_graph):
                misfit = _first_misfit(keys, expected, order.convolutions)
                if misfit is None:
                    return _tensors(keys, order.convolutions)
                misfits.append(misfit)
    raise CheckpointError(
        f"{origin} has as many convolutions as a Keras MIRNet, but not their shapes: {misfits[0]}. "
        "Give the weights of a MIRNet of the Keras examples, unchanged"
        if misfits
        else f"{origin} does not tell the order of its convolutions: names such as "
        f"{printable(found[0].label)} hold no numbers. Save the weights again with "
        "model.save_weights"
    )


class _Order(NamedTuple):
    is_graph: bool
    convolutions: list[KerasConvolution]


def _orders(found: Sequence[KerasConvolution]) -> Iterator[_Order]:
    numbers = [_number(one.name) for one in found]
    if None not in numbers and len(set(numbers)) == len(numbers):
        by_number = sorted(zip(numbers, range(len(found)), strict=True))
        yield _Order(is_graph=False, convolutions=[found[index] for _, index in by_number])
    places = [one.place for one in found]
    if None not in places and len(set(places)) == len(places):
        by_place = sorted(range(len(found)), key=lambda index: places[index] or 0)
        yield _Order(is_graph=True, convolutions=[found[index] for index in by_place])


def _number(name: str | None) -> int | None:
    """Return the counter in a layer's name; Keras leaves out that of the first."""
    if name is None:
        return None
    counter = re.search(r"_(\d{1,9})$", name)
    if counter:
        return int(counter[1])
    return 0 if name == "conv2d" else None


def _width_of(found: Sequence[KerasConvolution], origin: str) -> int:
    """Return the channels at full resolution: the first convolution alone sees three colors."""
    widths = [one.kernel[3] for one in found if one.kernel[:3] == (3, 3, 3)]
    if len(widths) != 1:
        kernels = ", ".join(
            f"{printable(one.label)} {'x'.join(map(str, one.kernel))}" for one in found[:3]
        )
        raise CheckpointError(
            f"{origin} holds no MIRNet of the Keras examples: expected one 3x3 convolution of "
            f"three colors, found {len(widths)} among {len(found)} convolutions"
            f"{f' ({kernels}, ...)' if kernels else ''}. Give weights of a MIRNet"
        )
    return widths[0]


def _configs(count: int, channels: int, origin: str) -> list[KerasMIRNetConfig]:
    """Return the configs with so many convolutions; for all usual depths there is only one."""
    configs = []
    rest = count - _AT_ENDS
    for variant in VARIANTS:
        for groups in range(1, rest + 1):
            in_group, left = divmod(rest, groups)
            blocks, odd = divmod(in_group - _IN_GROUP, _IN_BLOCK[variant])
            if left or odd or blocks < 1:
                continue
            try:
                configs.append(
                    KerasMIRNetConfig(
                        variant=variant, channels=channels, groups=groups, blocks=blocks
                    )
                )
            except OptionError as error:
                raise CheckpointError(
                    f"{origin}: its shapes make no MIRNet of the Keras examples: {error}. "
                    "Give weights of a MIRNet"
                ) from error
    if not configs:
        raise CheckpointError(
            f"{origin} has {count} convolutions; a MIRNet of the Keras examples has "
            "2 + groups x (2 + 83 x blocks) of 2021 or 2 + groups x (2 + 105 x blocks) since 2023, "
            "506 or 638 at its full depth. Layers are missing, or it is another network: give "
            "complete weights of a MIRNet"
        )
    return configs


def expected_shapes(config: KerasMIRNetConfig) -> dict[str, tuple[Shape, Shape]]:
    """Return the kernel and bias shapes, as Keras has them, of every convolution by its name.

    In the order in which the example creates them.
    """
    with torch.device("meta"):
        blank = KerasMIRNet(config)
    return {
        name: (
            (*module.kernel_size, module.in_channels, module.out_channels),
            (module.out_channels,),
        )
        for name, module in blank.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def _key_orders(config: KerasMIRNetConfig, is_graph: bool) -> Iterator[list[str]]:
    if is_graph:
        for granularity in GRANULARITIES:
            yield list_in_graph_order(config, granularity)
    else:
        yield list(expected_shapes(config))


def _first_misfit(
    keys: Sequence[str],
    expected: dict[str, tuple[Shape, Shape]],
    found: Sequence[KerasConvolution],
) -> str | None:
    for key, one in zip(keys, found, strict=True):
        kernel, bias = expected[key]
        if one.kernel != kernel or one.bias != bias:
            return (
                f"{printable(one.label)} has a kernel {one.kernel} and a bias {one.bias}, "
                f"{key} has {kernel} and {bias}"
            )
    return None


def _tensors(keys: Sequence[str], found: Sequence[KerasConvolution]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, one in zip(keys, found, strict=True):
        kernel, bias = one.read()
        tensors[f"{key}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
        tensors[f"{key}.bias"] = torch.from_numpy(bias)
    return tensors


class Granularity(NamedTuple):
    """How many layers an author made of one operation, as far as it moves convolutions."""

    activations_apart: bool
    """Whether activations are layers of their own."""
    channel_pooling: int
    """Layers, one after the other, that compute the maximum and mean over the channels."""


GRANULARITIES = (
    Granularity(activations_apart=False, channel_pooling=3),  # the example of 2021
    Granularity(activations_apart=False, channel_pooling=1),  # since 2023, in a layer of its own
    Granularity(activations_apart=True, channel_pooling=3),  # soumik12345/MIRNet
)
"""The orders of all three differ in the shapes of every block, so that shapes choose."""


class _LayerGraph:
    """The example's network as a graph of layers, with what each reads, in its order."""

    def __init__(self, granularity: Granularity) -> None:
        self.granularity = granularity
        self.reads: list[tuple[int, ...]] = []
        self.convolutions: dict[int, str] = {}

    def add(self, *reads: int) -> int:
        self.reads.append(reads)
        return len(self.reads) - 1

    def convolve(self, name: str, source: int, *, activated: bool = False) -> int:
        node = self.add(source)
        self.convolutions[node] = name
        return self.add(node) if activated and self.granularity.activations_apart else node

    def pool(self, source: int) -> int:
        return self.add(self.add(source))  # global average, reshape

    def down(self, name: str, source: int) -> int:
        inside = self.convolve(f"{name}.top.0", source, activated=True)
        inside = self.convolve(f"{name}.top.2", inside, activated=True)
        main = self.convolve(f"{name}.top.5", self.add(inside))
        return self.add(self.convolve(f"{name}.bot.1", self.add(source)), main)

    up = down
    """The same layers: pooling is repeating there."""

    def attend(self, name: str, source: int) -> int:
        refined = self.convolve(f"{name}.body.0", source, activated=True)
        refined = self.convolve(f"{name}.body.2", refined)
        channel = self.convolve(f"{name}.channel.0", self.pool(refined), activated=True)
        channel = self.add(refined, self.convolve(f"{name}.channel.2", channel, activated=True))
        seen = refined
        for _ in range(self.granularity.channel_pooling):
            seen = self.add(seen)
        spatial = self.add(refined, self.add(self.convolve(f"{name}.spatial", seen)))
        return self.add(source, self.convolve(f"{name}.conv1x1", self.add(channel, spatial)))

    def fuse(self, name: str, streams: Sequence[int]) -> int:
        total = self.add(*streams)
        squeezed = self.convolve(f"{name}.conv_du.0", self.pool(total), activated=True)
        weighted = [
            self.add(stream, self.convolve(f"{name}.fcs.{index}", squeezed, activated=True))
            for index, stream in enumerate(streams)
        ]
        return self.add(*weighted)

    def block(self, name: str, source: int, *, has_middle: bool) -> int:
        lowered = self.down(f"{name}.down_top", source)
        top = self.attend(f"{name}.first_top", source)
        middle = self.attend(f"{name}.first_middle", lowered)
        bottom = self.attend(f"{name}.first_bottom", self.down(f"{name}.down_middle", lowered))

        def twice(part: str, start: int) -> int:
            return self.down(f"{name}.{part}.1", self.down(f"{name}.{part}.0", start))

        fused_top = self.fuse(
            f"{name}.fuse_top",
            [top, self.up(f"{name}.middle_to_top", middle), twice("bottom_to_top", bottom)],
        )
        fused_bottom = self.fuse(
            f"{name}.fuse_bottom",
            [twice("top_to_bottom", top), self.down(f"{name}.middle_to_bottom", middle), bottom],
        )
        last_top = self.attend(f"{name}.second_top", fused_top)
        last_bottom = twice("last_bottom", self.attend(f"{name}.second_bottom", fused_bottom))
        last_middle = last_bottom
        if has_middle:
            lower = self.down(f"{name}.top_to_middle", top)
            upper = self.up(f"{name}.bottom_to_middle", bottom)
            fused = self.fuse(f"{name}.fuse_middle", [lower, middle, upper])
            refined = self.attend(f"{name}.second_middle", fused)
            last_middle = self.up(f"{name}.last_middle", refined)
        merged = self.fuse(f"{name}.fuse_last", [last_top, last_middle, last_bottom])
        return self.add(source, self.convolve(f"{name}.conv_out", merged))

    def network(self, config: KerasMIRNetConfig) -> int:
        image = self.add()
        features = self.convolve("conv_in", image)
        for group in range(config.groups):
            refined = self.convolve(f"body.{group}.conv_first", features)
            for block in range(config.blocks):
                name = f"body.{group}.body.{block}"
                refined = self.block(name, refined, has_middle=config.variant == "2023")
            last = self.convolve(f"body.{group}.body.{config.blocks}", refined)
            features = self.add(last, features)
        return self.add(image, self.convolve("conv_out", features))


def list_in_graph_order(config: KerasMIRNetConfig, granularity: Granularity) -> list[str]:
    """Return the names of the convolutions in the order in which Keras lists a model's layers.

    Layers come by descending distance from the output, the longest way counting; those of equal
    distance as a walk from the output meets them, which follows what a layer reads in its order.
    """
    graph = _LayerGraph(granularity)
    output = graph.network(config)
    distance = [0] * len(graph.reads)
    for node in range(output, -1, -1):  # a layer is added after those it reads
        for source in graph.reads[node]:
            distance[source] = max(distance[source], distance[node] + 1)
    met: dict[int, int] = {}
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node not in met:
            met[node] = len(met)
            waiting.extend(reversed(graph.reads[node]))
    ordered = sorted(graph.convolutions, key=lambda node: (-distance[node], met[node]))
    return [graph.convolutions[node] for node in ordered]
