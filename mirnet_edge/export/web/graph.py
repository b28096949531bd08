"""The ONNX graph that a browser runs: float frames, and operators that WebGPU has.

WebGPU has no 8-bit numbers, and ONNX Runtime's WebGPU provider lacks some operators. A graph of
8-bit frames becomes one of float frames (`onnx_wire.float_form`), and operators that are missing
are written with others of the same value. Edited by the wire format: no onnx package is needed.

One kernel is wrong, and is avoided: convolutions over 6, 9, 18 and other numbers of channels that 3
divides and 4 does not. See docs/decisions/022-browser.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_wire import Field, float_form, read_fields, write_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mirnet_edge.manifest import ImageContract

WEBGPU_OPERATORS = frozenset((
    "Abs", "Acos", "Acosh", "Add", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Conv",
    "ConvTranspose", "Cos", "Cosh", "CumSum", "DFT", "DepthToSpace", "DequantizeLinear", "Div",
    "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GridSample", "HardSigmoid", "HardSwish", "If",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "MatMul", "MaxPool", "Mul", "Neg", "Not", "Pad", "Pow", "Range", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ScatterND",
    "Shape", "Sigmoid", "SimplifiedLayerNormalization", "Sin", "Sinh", "Slice", "Softmax",
    "Split", "Sqrt", "Squeeze", "Sub", "Tan", "Tanh", "ThresholdedRelu", "Tile", "Transpose",
    "Unsqueeze", "Where",
))  # fmt: skip
"""Operators of ONNX in the table `docs/webgpu-operators.md` of onnxruntime-web 1.30.0; a test
compares them with the package."""

_MODEL_GRAPH = 7  # field numbers of onnx.proto3, by message
_NODE, _INITIALIZER, _GRAPH_INPUT = 1, 5, 11  # of GraphProto
_TO_SHAPE = (2, 1, 2)  # ValueInfoProto.type, TypeProto.tensor_type, its shape
_DIMENSION = 1  # of TensorShapeProto; one field, a value or a name
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9  # of TensorProto
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3  # of AttributeProto
_VARINT, _BYTES = 0, 2  # wire types
_FLOAT, _INT64 = 1, 7  # of TensorProto.DataType
_ONE = "web.one"

Graph: TypeAlias = list[Field]


def web_graph(model: bytes, image: ImageContract) -> bytes:
    """Return a bundle's graph as one that a browser runs on the processor and on WebGPU.

    Args:
        model: The content of the bundle's ONNX file.
        image: Its inputs and outputs.

    Returns:
        An ONNX file of the same values, not rounded last. It takes and gives float32 RGB:
        (N, H, W, 3) from 0 to 255 where `image.io` is uint8, else (N, 3, H, W) in [0, 1].

    Raises:
        GraphError: It is no graph of an export.
    """
    if image.io == "uint8":
        model = float_form(model, round_inside=True)
    fields = list(read_fields(memoryview(model)))
    edited: list[Field] = []
    for number, wire, value in fields:
        if number == _MODEL_GRAPH and not isinstance(value, int):
            value = memoryview(_rewrite_graph(list(read_fields(value))))
        edited.append((number, wire, value))
    return write_fields(edited)


def unsupported_operators(model: bytes) -> list[str]:
    """Return the operators of a graph that ONNX Runtime's WebGPU provider lacks, sorted.

    Raises:
        GraphError: It is no ONNX file.
    """
    return sorted(set(_operators(model)) - WEBGPU_OPERATORS)


def graph_dimensions(model: bytes, image: ImageContract) -> tuple[str | int, str | int, str | int]:
    """Return batch, height and width of a graph's first input: a name where any value is valid.

    Raises:
        GraphError: It is no graph of an export.
    """
    (graph,) = _messages(memoryview(model), _MODEL_GRAPH)
    shape = next(_messages(graph, _GRAPH_INPUT))
    for number in _TO_SHAPE:
        shape = next(_messages(shape, number))
    sides: list[str | int] = []
    for dimension in _messages(shape, _DIMENSION):
        ((_, _, value),) = read_fields(dimension)
        sides.append(value if isinstance(value, int) else bytes(value).decode())
    if len(sides) != 4:
        raise GraphError(f"expected frames of 4 axes, found {len(sides)}; export the bundle again")
    batch, height, width, last = sides
    return (batch, height, width) if image.io == "uint8" else (batch, width, last)


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the messages of that number in a message."""
    for found, _, value in read_fields(message):
        if found == number and not isinstance(value, int):
            yield value


def _operators(model: bytes) -> Iterator[str]:
    for graph in _messages(memoryview(model), _MODEL_GRAPH):
        for node in _messages(graph, _NODE):
            yield _texts(node, _OPERATOR)[0]


def _rewrite_graph(graph: Graph) -> bytes:
    """Return the graph without Identity, Softplus, PRelu, and convolutions that come out wrong."""
    tensors = {
        _texts(value, _TENSOR_NAME)[0]: value
        for number, _, value in graph
        if number == _INITIALIZER and not isinstance(value, int)
    }
    renamed: dict[str, str] = {}
    edited: Graph = []
    added: dict[str, bytes] = {}
    for number, wire, value in graph:
        if number != _NODE or isinstance(value, int):
            edited.append((number, wire, value))
            continue
        node = _rename_inputs(value, renamed)
        operator = _texts(node, _OPERATOR)[0]
        inputs, outputs = _texts(node, _NODE_INPUT), _texts(node, _NODE_OUTPUT)
        nodes: list[bytes | memoryview] = [node]
        if operator == "Identity":
            renamed[outputs[0]] = inputs[0]
            nodes = []
        elif operator == "Softplus":
            added[_ONE] = _tensor(_ONE, np.float32(1.0))
            nodes = _softplus(inputs[0], outputs[0])
        elif operator == "PRelu":
            nodes = _prelu(inputs[0], inputs[1], outputs[0])
        elif operator == "Conv" and (missing := _missing_channels(node, tensors.get(inputs[1]))):
            nodes = _widened(node, missing, tensors[inputs[1]], added)
        edited += [(_NODE, _BYTES, memoryview(one)) for one in nodes]
    edited += [(_INITIALIZER, _BYTES, memoryview(one)) for one in added.values()]
    used = {
        name
        for number, _, node in edited
        if number == _NODE and not isinstance(node, int)
        for name in _texts(node, _NODE_INPUT)
    }
    return write_fields(field for field in edited if not _is_unused_tensor(field, used))


def _is_unused_tensor(field: Field, used: set[str]) -> bool:
    number, _, value = field
    if number != _INITIALIZER or isinstance(value, int):
        return False
    return _texts(value, _TENSOR_NAME)[0] not in used


def _missing_channels(node: memoryview, kernel: memoryview | None) -> int:
    """Return how many channels a convolution needs for WebGPU to compute it right; mostly 0.

    Over c channels, 3 dividing c and 4 not, the provider of onnxruntime-web 1.30.0 gives other
    values; where c is 3 or the kernel 1x1, it does not.
    """
    if kernel is None or _group(node) != 1:
        return 0
    _, channels, *sides = _dims(kernel)
    return -channels % 4 if channels > 3 and channels % 3 == 0 and max(sides) > 1 else 0


def _widened(
    node: memoryview, missing: int, kernel: memoryview, added: dict[str, bytes]
) -> list[bytes | memoryview]:
    """Return the nodes of a convolution with MISSING more channels, all zero."""
    inputs, output = _texts(node, _NODE_INPUT), _texts(node, _NODE_OUTPUT)[0]
    wide, pads, weights = f"{output}.web.wide", f"web.pads{missing}", f"{inputs[1]}.web.wide"
    before = _floats(kernel)
    added[pads] = _tensor(pads, np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64))
    added[weights] = _tensor(weights, np.pad(before, ((0, 0), (0, missing), (0, 0), (0, 0))))
    renamed = {inputs[0]: wide, inputs[1]: weights}
    return [_node("Pad", [inputs[0], pads], wide), _rename_inputs(node, renamed)]


def _group(node: memoryview) -> int:
    for number, _, attribute in read_fields(node):
        if number != _ATTRIBUTE or isinstance(attribute, int):
            continue
        if _texts(attribute, _ATTRIBUTE_NAME) == ["group"]:
            return next(
                value
                for kind, _, value in read_fields(attribute)
                if kind == _ATTRIBUTE_INT and isinstance(value, int)
            )
    return 1


def _softplus(x: str, output: str) -> list[bytes | memoryview]:
    """Return the nodes of log(1 + exp(x)) = relu(x) + log(1 + exp(-|x|)), which never overflows."""
    part = f"{output}.web"
    return [
        _node("Abs", [x], f"{part}.abs"),
        _node("Neg", [f"{part}.abs"], f"{part}.neg"),
        _node("Exp", [f"{part}.neg"], f"{part}.exp"),
        _node("Add", [f"{part}.exp", _ONE], f"{part}.sum"),
        _node("Log", [f"{part}.sum"], f"{part}.log"),
        _node("Relu", [x], f"{part}.relu"),
        _node("Add", [f"{part}.relu", f"{part}.log"], output),
    ]


def _prelu(x: str, slope: str, output: str) -> list[bytes | memoryview]:
    """Return the nodes of relu(x) + slope · (x - relu(x))."""
    part = f"{output}.web"
    return [
        _node("Relu", [x], f"{part}.relu"),
        _node("Sub", [x, f"{part}.relu"], f"{part}.rest"),
        _node("Mul", [f"{part}.rest", slope], f"{part}.scaled"),
        _node("Add", [f"{part}.relu", f"{part}.scaled"], output),
    ]


def _node(operator: str, inputs: list[str], output: str) -> bytes:
    names = [*((_NODE_INPUT, one) for one in inputs), (_NODE_OUTPUT, output), (_OPERATOR, operator)]
    return write_fields((number, _BYTES, memoryview(name.encode())) for number, name in names)


def _tensor(name: str, values: NDArray[np.float32] | NDArray[np.int64] | np.float32) -> bytes:
    """Return a TensorProto."""
    kind = _FLOAT if values.dtype == np.float32 else _INT64
    return write_fields([
        *((_DIMS, _VARINT, length) for length in values.shape),
        (_DATA_TYPE, _VARINT, kind),
        (_TENSOR_NAME, _BYTES, memoryview(name.encode())),
        (_RAW_DATA, _BYTES, memoryview(values.tobytes())),
    ])  # fmt: skip


def _dims(tensor: memoryview) -> list[int]:
    """Return the lengths of a TensorProto's axes, which may be written one by one or together."""
    found: list[int] = []
    for number, _, value in read_fields(tensor):
        if number == _DIMS:
            found += [value] if isinstance(value, int) else _varints(value)
    return found


def _varints(packed: memoryview) -> list[int]:
    values, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


def _floats(tensor: memoryview) -> NDArray[np.float32]:
    """Return the values of a TensorProto of float32.

    Raises:
        GraphError: Another type, or values that are not in it as bytes.
    """
    fields = {number: value for number, _, value in read_fields(tensor)}
    raw = fields.get(_RAW_DATA)
    if fields.get(_DATA_TYPE) != _FLOAT or raw is None or isinstance(raw, int):
        raise GraphError(
            f"expected float32 values in {_texts(tensor, _TENSOR_NAME)[0]}; export the bundle again"
        )
    return np.frombuffer(raw, "<f4").reshape(_dims(tensor))


def _rename_inputs(node: memoryview, renamed: dict[str, str]) -> memoryview:
    """Return a node that takes what an Identity was given in place of what it gave."""
    if not renamed or not set(_texts(node, _NODE_INPUT)) & set(renamed):
        return node
    return memoryview(
        write_fields(
            (number, wire, _new_name(value, renamed) if number == _NODE_INPUT else value)
            for number, wire, value in read_fields(node)
        )
    )


def _new_name(value: int | memoryview, renamed: dict[str, str]) -> int | memoryview:
    if isinstance(value, int):
        return value
    name = bytes(value).decode()
    return memoryview(renamed.get(name, name).encode())


def _texts(message: memoryview, number: int) -> list[str]:
    """Return the texts of that number in a message.

    Raises:
        GraphError: A node without an operator.
    """
    found = [
        bytes(value).decode(errors="replace")
        for kind, _, value in read_fields(message)
        if kind == number and not isinstance(value, int)
    ]
    if number == _OPERATOR and not found:
        raise GraphError("a node of it names no operator; expected an ONNX file. Export it again")
    return found
