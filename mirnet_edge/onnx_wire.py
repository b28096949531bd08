"""Read and edit ONNX files by their wire format, without the onnx package, which devices lack.

Nothing is built in memory: fields are walked where they lie. Two questions are answered: which
other files a model would load, and what its graph is with float frames in place of 8-bit ones. The
smallest model that computes something is written too, to try a device with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from mirnet_edge.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# wire types of Protocol Buffers
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field: TypeAlias = tuple[int, int, "int | memoryview"]
"""Number, wire type, and value: a number for varints, else the bytes."""


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return a varint and the place after it."""
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise GraphError("a number in it is cut off; expected an ONNX file. Export it again")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def read_fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message.

    Raises:
        GraphError: It is cut off, or no message.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, place = _varint(message, place)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise GraphError(f"a field in it has wire type {wire}; expected an ONNX file")
        if number == 0 or length > len(message) - place:
            raise GraphError("a field in it is cut off; expected an ONNX file. Export it again")
        yield number, wire, message[place : place + length]
        place += length


def write_fields(fields: Iterable[Field]) -> bytes:
    """Return a message of these fields."""
    parts: list[bytes | memoryview] = []
    for number, wire, value in fields:
        parts.append(_varint_bytes(number << 3 | wire))
        if isinstance(value, int):
            parts.append(_varint_bytes(value))
            continue
        if wire == _BYTES:
            parts.append(_varint_bytes(len(value)))
        parts.append(value)
    return b"".join(parts)


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# field numbers of onnx.proto3, by message: those that hold tensors, or messages that do
_SPARSE, _TENSOR = "SparseTensorProto", "TensorProto"
_CHILDREN = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: _SPARSE},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR, 6: "GraphProto", 10: _TENSOR, 11: "GraphProto", 22: _SPARSE, 23: _SPARSE,
    },
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}  # fmt: skip
_DEEPEST = 64
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1  # fields of TensorProto, and a value


def external_files(model: bytes) -> list[str]:
    """Return the names of the files that a model keeps tensors in, sorted; none for most models.

    A tensor that lies elsewhere and names no file counts as one of no name.

    Raises:
        GraphError: It is no ONNX file, or its graphs are nested too deeply.
    """
    found: set[str] = set()
    waiting = [("ModelProto", memoryview(model), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _DEEPEST:
            raise GraphError(f"its graphs are nested deeper than {_DEEPEST}; export it again")
        children = _CHILDREN.get(kind, {})
        for number, _, value in read_fields(message):
            if kind == _TENSOR:
                if number == _EXTERNAL_DATA and not isinstance(value, int):
                    found |= _location(value)
                elif number == _DATA_LOCATION and value == _EXTERNAL:
                    found.add("")
            elif number in children and not isinstance(value, int):
                waiting.append((children[number], value, depth + 1))
    return sorted(found - {""} or found)


def _location(entry: memoryview) -> set[str]:
    """Return the file name in one key with its value of a tensor's external data."""
    pair = {
        number: bytes(value).decode(errors="replace")
        for number, _, value in read_fields(entry)
        if not isinstance(value, int)
    }
    return {pair.get(2, "")} if pair.get(1) == "location" else {""}


_GRAPH = 7  # of ModelProto
_NODE, _INPUT, _OUTPUT, _VALUE_INFO = 1, 11, 12, 13  # of GraphProto
_FLOAT, _UINT8 = 1, 2  # of TensorProto.DataType
_INTEGERS = 7  # of AttributeProto.AttributeType
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def float_form(model: bytes, *, round_inside: bool = False) -> bytes:
    """Return a graph of 8-bit frames as one of float frames: the same values, not rounded last.

    Args:
        model: An ONNX file with `io="uint8"`: casts its first input from 8 bits, rounds its
            restored frames and casts them to 8 bits.
        round_inside: Whether frames that it stores in 8 bits on the way
            (`quantization.cell_form`) are still rounded.

    Returns:
        An ONNX file that takes and gives (N, H, W, 3) float32, RGB from 0 to 255.

    Raises:
        GraphError: It is another graph.
    """
    fields = list(read_fields(memoryview(model)))
    places = [place for place, field in enumerate(fields) if field[0] == _GRAPH]
    if len(places) != 1:
        raise _no_float_form(f"{len(places)} graphs")
    number, wire, graph = fields[places[0]]
    if isinstance(graph, int):
        raise _no_float_form("no graph")
    fields[places[0]] = (
        number,
        wire,
        memoryview(_float_graph(list(read_fields(graph)), round_inside)),
    )
    return write_fields(fields)


def _float_graph(fields: list[Field], round_inside: bool) -> bytes:
    """Return the graph of `float_form`."""
    first = {kind: _first(fields, kind) for kind in (_INPUT, _OUTPUT)}
    pairs = set() if round_inside else _list_frame_quantizers(fields)
    last = [
        value
        for number, _, value in fields
        if number == _NODE and not isinstance(value, int) and _text(value, 4) == "Round"
    ][-1:]
    edited: list[Field] = []
    rounds = casts = 0
    for number, wire, value in fields:
        if isinstance(value, int) or number == _VALUE_INFO:  # types of inner values would be wrong
            if number != _VALUE_INFO:
                edited.append((number, wire, value))
            continue
        kind = _text(value, 4) if number == _NODE else ""
        if value is first.get(number):
            value = memoryview(_with_float_type(value))
        elif kind == "Round" or (kind and _text(value, 2) in pairs):
            rounds += kind == "Round"
            if not round_inside or value in last:
                value = memoryview(_as_identity(value))
        elif kind == "Cast" and (cast := _replace(value, 5, _cast_to_float)) != bytes(value):
            casts += 1
            value = memoryview(cast)
        edited.append((number, wire, value))
    if not rounds or rounds != casts:
        raise _no_float_form(f"{rounds} Round nodes and {casts} casts to uint8")
    return write_fields(edited)


def _list_frame_quantizers(fields: list[Field]) -> set[str]:
    """Return what quantizers and dequantizers give whose readers work on pixels, by name.

    Those before convolutions are what INT8 is about; the others store frames
    (`quantization.cell_form`).
    """
    nodes = [value for number, _, value in fields if number == _NODE and not isinstance(value, int)]
    inputs = {_text(node, 2): _text(node, 1) for node in nodes if _text(node, 4) in _QUANTIZERS}
    found = set()
    for node in nodes:
        for name in _texts(node, 1) if _text(node, 4) in ("Add", "Clip") else ():
            while name in inputs and name not in found:
                found.add(name)
                name = inputs[name]
    return found


def _as_identity(node: memoryview) -> bytes:
    """Return a node that gives its first input unchanged."""
    kept: list[Field] = []
    for number, wire, value in read_fields(node):
        is_further_input = number == 1 and any(field[0] == 1 for field in kept)
        if number == 4:
            kept.append((number, wire, memoryview(b"Identity")))
        elif number != 5 and not is_further_input:
            kept.append((number, wire, value))
    return write_fields(kept)


def _first(fields: list[Field], kind: int) -> memoryview:
    for number, _, value in fields:
        if number == kind and not isinstance(value, int):
            return value
    raise _no_float_form("no input or output")


def _text(message: memoryview, number: int) -> str:
    """Return the first text of that number in a message; empty where there is none."""
    for found, _, value in read_fields(message):
        if found == number and not isinstance(value, int):
            return bytes(value).decode(errors="replace")
    return ""


def _texts(message: memoryview, number: int) -> list[str]:
    """Return all texts of that number in a message."""
    return [
        bytes(value).decode(errors="replace")
        for found, _, value in read_fields(message)
        if found == number and not isinstance(value, int)
    ]


def _replace(message: memoryview, number: int, change: Callable[[memoryview], memoryview]) -> bytes:
    """Return a message with the fields of that number changed."""
    return write_fields(
        (found, wire, change(value) if found == number and not isinstance(value, int) else value)
        for found, wire, value in read_fields(message)
    )


def _cast_to_float(attribute: memoryview) -> memoryview:
    """Return a Cast's attribute `to` with float in place of uint8."""
    if _text(attribute, 1) != "to":
        return attribute
    return memoryview(
        write_fields(
            (number, wire, _FLOAT if (number, value) == (3, _UINT8) else value)
            for number, wire, value in read_fields(attribute)
        )
    )


def _with_float_type(info: memoryview) -> bytes:
    """Return the description of an input or output, of float type."""

    def tensor(message: memoryview) -> memoryview:
        fields = list(read_fields(message))
        if (1, _VARINT, _UINT8) not in fields:
            raise _no_float_form("frames that are not uint8")
        return memoryview(
            write_fields(
                (number, wire, _FLOAT if number == 1 else value) for number, wire, value in fields
            )
        )

    return _replace(info, 2, lambda kind: memoryview(_replace(kind, 1, tensor)))


def _no_float_form(found: str) -> GraphError:
    return GraphError(
        f"expected a graph of uint8 frames that rounds at its end, found {found}; "
        "export the bundle again"
    )


def convolution_model(channels: int = 3) -> bytes:
    """Return a model of one 3x3 convolution, of ones: `input` to `output`, (1, channels, 8, 8)."""
    shape = [1, channels, 8, 8]
    kernel = [channels, channels, 3, 3]
    weight: list[Field] = [
        *((1, _VARINT, side) for side in kernel),
        (2, _VARINT, _FLOAT),
        (8, _BYTES, memoryview(b"weight")),
        (9, _BYTES, memoryview(bytes.fromhex("0000803f") * (channels * channels * 9))),
    ]
    pads: list[Field] = [
        (1, _BYTES, memoryview(b"pads")),
        *((8, _VARINT, 1) for _ in range(4)),
        (20, _VARINT, _INTEGERS),
    ]
    node: list[Field] = [
        (1, _BYTES, memoryview(b"input")),
        (1, _BYTES, memoryview(b"weight")),
        (2, _BYTES, memoryview(b"output")),
        (3, _BYTES, memoryview(b"convolution")),
        (4, _BYTES, memoryview(b"Conv")),
        (5, _BYTES, memoryview(write_fields(pads))),
    ]
    graph: list[Field] = [
        (_NODE, _BYTES, memoryview(write_fields(node))),
        (2, _BYTES, memoryview(b"convolution")),
        (5, _BYTES, memoryview(write_fields(weight))),
        (_INPUT, _BYTES, memoryview(_float_value(b"input", shape))),
        (_OUTPUT, _BYTES, memoryview(_float_value(b"output", shape))),
    ]
    return write_fields([
        (1, _VARINT, 8),  # the IR that has opset 17
        (_GRAPH, _BYTES, memoryview(write_fields(graph))),
        (8, _BYTES, memoryview(write_fields([(2, _VARINT, 17)]))),
    ])  # fmt: skip


def _float_value(name: bytes, shape: list[int]) -> bytes:
    """Return the ValueInfoProto of a float tensor."""
    sides: list[Field] = [
        (1, _BYTES, memoryview(write_fields([(1, _VARINT, side)]))) for side in shape
    ]
    tensor: list[Field] = [(1, _VARINT, _FLOAT), (2, _BYTES, memoryview(write_fields(sides)))]
    kind = [(1, _BYTES, memoryview(write_fields(tensor)))]
    return write_fields([
        (1, _BYTES, memoryview(name)), (2, _BYTES, memoryview(write_fields(kind))),
    ])  # fmt: skip
