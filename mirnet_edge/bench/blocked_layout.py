"""Convert ONNX files that ONNX Runtime saved after optimizing them for one processor.

Their convolutions are ONNX Runtime's own operators (`com.microsoft.nchwc`) on weights in blocks of
8 channels, for AVX and AVX2; AVX-512 needs blocks of 16. ONNX Runtime 1.32 does not run blocks of
the other size (onnxruntime#32557), at any optimization level. With standard operators such a
network runs on every processor, and is optimized there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

DOMAIN = "com.microsoft.nchwc"
_BLOCK = 8
_OPSET = 15  # the first whose Shape takes `start` and `end`
_SUPPORTED = {
    "Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Upsample", "ReorderInput",
    "ReorderOutput",
}  # fmt: skip
# of fused activations, by name: the ONNX attributes of their parameters
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "": (), "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",),
}  # fmt: skip


def replace_blocked_operators(model: ModelProto) -> bool:
    """Replace blocked operators by standard ones; return whether the model was changed.

    Args:
        model: Changed in place. Not changed where it has no blocked operator, an unsupported one,
            or blocks that may be of 16 channels, which the file does not say.
    """
    graph = model.graph
    blocked = [node for node in graph.node if node.domain == DOMAIN]
    opset = next((one.version for one in model.opset_import if not one.domain), 0)
    if not blocked or opset < _OPSET or not all(map(_is_supported, blocked)):
        return False
    rewriter = _BlockedGraphRewriter(model, blocked)
    if not rewriter.by_eight:
        return False
    rewriter.order_weights()
    nodes = [new for node in graph.node for new in rewriter.convert(node)]
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def reorder_blocked_weights(weights: NDArray[Any]) -> NDArray[Any]:
    """Return a convolution's blocked weights in ONNX's order, (O, I, H, W).

    Args:
        weights: Of that shape, but in the order (O / 8, I / 8, H, W, 8 of I, 8 of O), or
            (O / 8, I, H, W, 8 of O) where I is no multiple of 8.
    """
    outs, ins, height, width = weights.shape
    of_ins = _BLOCK if ins % _BLOCK == 0 else 1
    blocks = weights.reshape(outs // _BLOCK, ins // of_ins, height, width, of_ins, _BLOCK)
    ordered: NDArray[Any] = blocks.transpose(0, 5, 1, 4, 2, 3).reshape(weights.shape)
    return ordered


class _BlockedGraphRewriter:
    """Converts the nodes of one model, in order.

    Between blocked operators, tensors keep channels that only fill a block.
    """

    def __init__(self, model: ModelProto, blocked: list[NodeProto]) -> None:
        self._constants = model.graph.initializer
        self._initializers = {one.name: one for one in self._constants}
        self._users: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._weights = {node.input[1] for node in blocked if node.op_type == "Conv"}
        self.by_eight = self._weights <= set(self._initializers) and any(
            self._initializers[name].dims[0] % (2 * _BLOCK) == _BLOCK for name in self._weights
        )
        self._channels: dict[str, int] = {}  # of blocked tensors, where that is known

    def order_weights(self) -> None:
        """Reorder all weights; before any node is converted."""
        for name in self._weights:
            self._set(name, reorder_blocked_weights(self._value(name)))

    def convert(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the standard nodes that replace a node."""
        if node.domain != DOMAIN:
            yield node
        elif node.op_type == "Conv":
            yield from self._convert_convolution(node)
        elif node.op_type == "ReorderInput":
            yield from self._pad_channels(node)
        elif node.op_type == "ReorderOutput":
            yield self._slice_channels(node)
        else:
            yield self._convert_resampling(node)

    def _convert_convolution(self, node: NodeProto) -> Iterator[NodeProto]:
        from onnx import helper

        attributes = _attributes(node)
        activation = attributes.pop("activation", b"").decode()
        numbers = attributes.pop("activation_params", [])
        (out,) = node.output
        self._remove_filling_channels(node, attributes.get("group", 1))
        self._channels[out] = self._initializers[node.input[1]].dims[0]
        added = node.input[3:]  # without a bias the third is ""
        last = f"{out}_convolved" if added or activation else out
        yield helper.make_node("Conv", node.input[:3], [last], **attributes)
        if added:
            summed = f"{out}_summed" if activation else out
            yield helper.make_node("Add", [last, *added], [summed])
            last = summed
        if activation:
            named = dict(zip(_ACTIVATIONS[activation], numbers, strict=True))
            yield helper.make_node(activation, [last], [out], **named)

    def _remove_filling_channels(self, node: NodeProto, groups: int) -> None:
        """Remove output channels that only fill a block, where nothing else uses them."""
        constants = [name for name in node.input[1:] if name]
        users = self._users.get(node.output[0], [])
        kept = {_attributes(one).get("channels", 0) for one in users}  # 0: not a ReorderOutput
        alone = all(
            name in self._initializers and len(self._users[name]) == 1 for name in constants
        )
        if groups == 1 and alone and len(kept) == 1 and 0 not in kept:
            for name in constants:
                self._set(name, self._value(name)[: min(kept)])

    def _convert_resampling(self, node: NodeProto) -> NodeProto:
        """Return a pooling node, or a Resize for an Upsample."""
        from onnx import helper

        attributes = _attributes(node)
        inputs, kind = list(node.input), node.op_type
        if inputs[0] in self._channels:
            self._channels[node.output[0]] = self._channels[inputs[0]]
        if kind == "Upsample":
            kind = "Resize"
            scales = np.array(attributes.pop("scales"), np.float32)
            inputs = [inputs[0], "", self._constant(f"{node.output[0]}_scales", scales)]
            if attributes.setdefault("mode", b"nearest") == b"nearest":
                attributes["nearest_mode"] = "floor"
                attributes["coordinate_transformation_mode"] = "asymmetric"
        return helper.make_node(kind, inputs, node.output, **attributes)

    def _pad_channels(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield nodes that add channels of zeros up to a whole block, computed at run time."""
        from onnx import helper

        (out,) = node.output
        if any(map(self._uses_last_channel, self._users.get(out, []))):
            yield helper.make_node("Identity", node.input, node.output)
            return
        channels, negative, missing, pads = (
            f"{out}_{what}" for what in ("channels", "negative", "missing", "pads")
        )
        block = self._constant(f"{out}_block", np.array([_BLOCK]))
        before = self._constant(f"{out}_before", np.zeros(5, np.int64))
        after = self._constant(f"{out}_after", np.zeros(2, np.int64))
        yield helper.make_node("Shape", node.input, [channels], start=1, end=2)
        yield helper.make_node("Neg", [channels], [negative])
        yield helper.make_node("Mod", [negative, block], [missing])
        yield helper.make_node("Concat", [before, missing, after], [pads], axis=0)
        yield helper.make_node("Pad", [node.input[0], pads], [out])

    def _uses_last_channel(self, user: NodeProto) -> bool:
        """Return whether a convolution uses the last channel, which then fills no block."""
        if user.op_type != "Conv" or _attributes(user).get("group", 1) != 1:
            return False
        return bool(self._value(user.input[1])[:, -1].any())

    def _slice_channels(self, node: NodeProto) -> NodeProto:
        """Return a node that removes the channels that only fill a block."""
        from onnx import helper

        channels = _attributes(node)["channels"]
        if self._channels.get(node.input[0]) == channels:
            return helper.make_node("Identity", node.input, node.output)
        bounds = [
            self._constant(f"{node.output[0]}_{what}", np.array([value]))
            for what, value in (("start", 0), ("end", channels), ("axis", 1))
        ]
        return helper.make_node("Slice", [node.input[0], *bounds], node.output)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _value(self, name: str) -> NDArray[Any]:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._initializers[name])

    def _set(self, name: str, value: NDArray[Any]) -> None:
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self._initializers[name].CopyFrom(tensor)


def _is_supported(node: NodeProto) -> bool:
    attributes = _attributes(node)
    activation = attributes.get("activation", b"").decode()
    last = attributes.get("channels_last", 0)
    return node.op_type in _SUPPORTED and activation in _ACTIVATIONS and not last


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}
