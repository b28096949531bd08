"""Read the variables of a TensorFlow SavedModel or checkpoint, without TensorFlow.

A tensor bundle is two files. `NAME.index` is a sorted string table (LevelDB's format): blocks of
keys and values with shared prefixes, each value a protobuf that says type, shape, and where in
`NAME.data-00000-of-00001` the bytes lie. One string tensor, the object graph, says which variable
of which layer a key is.

Only these parts of the formats are read; nothing is executed, and a size is believed only where the
file is that large.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.checkpoints.crc32c import masked_crc32c
from mirnet_edge.checkpoints.keras_paths import INDEX_SUFFIX, data_files
from mirnet_edge.checkpoints.stored import LONGEST_KEY, KerasConvolution, printable
from mirnet_edge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # a byte for the compression, four for a checksum
_MOST_INDEX_BYTES = 4 * 2**20
_MOST_GRAPH_BYTES = 16 * 2**20
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_STRING = 7
_FLOATS = {1: "<f4", 2: "<f8", 14: "bfloat16", 19: "<f2"}
"""Numbers of TensorFlow's floating types."""
_AGAIN = "Copy or download the whole folder again"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """Where a tensor lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int | None
    is_sliced: bool


def read_bundle(index: Path) -> list[KerasConvolution]:
    """Return the convolutions of a tensor bundle; their values are read later.

    Raises:
        CheckpointError: A file is missing or damaged, or a variable is of no convolution.
    """
    try:
        bundle = _Bundle(index)
        return list(bundle.convolutions())
    except (IndexError, struct.error, ValueError, UnicodeDecodeError) as error:
        raise _damaged(index, f"{type(error).__name__} in its records") from error
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read ({error.strerror}). {_AGAIN}") from error


def _damaged(index: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{index} is damaged or no index of TensorFlow's checkpoints ({reason}); expected a "
        f"SavedModel's variables. {_AGAIN}"
    )


class _Bundle:
    """An opened tensor bundle."""

    def __init__(self, index: Path) -> None:
        self.index = index
        self.entries = {
            key.decode(): _entry(value)
            for key, value in _table(index)
            if key  # "" is the header
        }
        self.shards = data_files(index)
        if not self.shards:
            raise CheckpointError(
                f"{index} has no data file beside it; expected "
                f"{index.name.removesuffix(INDEX_SUFFIX)}.data-00000-of-00001. {_AGAIN}"
            )

    def convolutions(self) -> Iterator[KerasConvolution]:
        names = self._full_names()
        owners: dict[str, dict[str, str]] = {}
        for key, entry in self.entries.items():
            if not key.endswith(_VALUE) or ".OPTIMIZER_SLOT" in key:
                continue
            owner, _, part = key.removesuffix(_VALUE).rpartition("/")
            if re.match(r"(?:optimizer|keras_api/metrics|save_counter)(?:/|$)", f"{owner}/{part}"):
                continue
            if entry.dtype in _FLOATS and entry.shape:
                full = names.get(key, "")
                # a layer exported by Keras 3 lies in a list, the variable's own name tells more
                if full.rpartition("/")[2].partition(":")[0] in ("kernel", "bias"):
                    owner, _, part = full.partition(":")[0].rpartition("/")
                owners.setdefault(owner, {}).setdefault(part, key)
        for owner, parts in owners.items():
            yield self._convolution(owner, parts, names)

    def _convolution(
        self, owner: str, parts: dict[str, str], names: dict[str, str]
    ) -> KerasConvolution:
        if set(parts) != {"kernel", "bias"}:
            raise CheckpointError(
                f"{self.index}: {printable(owner)} holds {', '.join(map(printable, parts))}; "
                "expected kernel and bias of convolutions alone, which is all that a MIRNet of "
                "the Keras examples has. Give weights of a MIRNet"
            )
        kernel, bias = (self.entries[parts[part]] for part in ("kernel", "bias"))
        layer = names.get(parts["kernel"], "").partition(":")[0].rpartition("/")[0]
        place = re.search(r"layer_with_weights-(\d{1,6})$", owner)
        return KerasConvolution(
            label=owner,
            name=layer.rpartition("/")[2] or None,
            place=int(place[1]) if place else None,
            kernel=self._checked(kernel, owner),
            bias=self._checked(bias, owner),
            read=self._reader(kernel, bias, owner),
        )

    def _full_names(self) -> dict[str, str]:
        """Return the name that each variable had in its session, by key."""
        entry = self.entries.get(_GRAPH_KEY)
        if entry is None or entry.dtype != _STRING:
            return {}
        if entry.size > _MOST_GRAPH_BYTES:
            raise _damaged(self.index, f"an object graph of {entry.size} bytes")
        text = self._bytes(entry, _GRAPH_KEY)
        length, start = _varint(text, 0)  # of the one string; then a checksum of the lengths
        graph = text[start + 4 : start + 4 + length]
        names = {}
        for number, node in _fields(graph):
            for inner, attribute in _fields(node) if number == 1 else ():
                if inner == 2:
                    described = dict(_fields(attribute))
                    names[described.get(3, b"").decode()] = described.get(2, b"").decode()
        return names

    def _checked(self, entry: _Entry, label: str) -> tuple[int, ...]:
        """Return a tensor's shape; refuse one whose bytes are not in its file."""
        kind = _FLOATS[entry.dtype]
        width = 2 if kind == "bfloat16" else np.dtype(kind).itemsize
        held = self.shards[entry.shard].stat().st_size if entry.shard < len(self.shards) else 0
        claimed = math.prod(entry.shape) * width
        if entry.is_sliced or claimed != entry.size or not 0 <= entry.offset <= held - entry.size:
            raise CheckpointError(
                f"{self.index}: a tensor of {printable(label)} claims {claimed} bytes "
                f"{entry.shape} at {entry.offset}, its data file has {held}; expected whole "
                f"tensors. {_AGAIN}"
            )
        return entry.shape

    def _bytes(self, entry: _Entry, label: str) -> bytes:
        with self.shards[entry.shard].open("rb") as stream:
            stream.seek(entry.offset)
            data = stream.read(min(entry.size, self.shards[entry.shard].stat().st_size))
        # TensorFlow's checksum of a string tensor is one of its parts, not of these bytes
        is_checked = entry.checksum is not None and entry.dtype != _STRING
        if len(data) != entry.size or (is_checked and masked_crc32c(data) != entry.checksum):
            raise CheckpointError(
                f"{self.shards[entry.shard]} is damaged: the bytes of {printable(label)} do not "
                f"match their checksum. {_AGAIN}"
            )
        return data

    def _reader(
        self, kernel: _Entry, bias: _Entry, label: str
    ) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        def values(entry: _Entry) -> np.ndarray:
            data = self._bytes(entry, label)
            if _FLOATS[entry.dtype] == "bfloat16":
                wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
                return wide.view(np.float32).reshape(entry.shape)
            return np.frombuffer(data, _FLOATS[entry.dtype]).astype(np.float32).reshape(entry.shape)

        return lambda: (values(kernel), values(bias))


def _table(index: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a sorted string table."""
    size = index.stat().st_size
    if not _FOOTER_BYTES <= size <= _MOST_INDEX_BYTES:
        raise _damaged(index, f"{size} bytes")
    content = index.read_bytes()
    footer = content[-_FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise _damaged(index, "no magic number at its end")
    _, at = _handle(footer, 0)  # of the block for filters
    handle, _ = _handle(footer, at)
    for _, place in _block(content, handle, index):
        yield from _block(content, _handle(place, 0)[0], index)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return (offset, size) of a block, and where the text goes on."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(content: bytes, handle: tuple[int, int], index: Path) -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle
    end = offset + size
    if end + _TRAILER_BYTES > len(content) - _FOOTER_BYTES or size < 4:
        raise _damaged(index, "a block lies beyond its end")
    kind, checksum = struct.unpack("<BI", content[end : end + _TRAILER_BYTES])
    if masked_crc32c(content[offset : end + 1]) != checksum:
        raise _damaged(index, "a block does not match its checksum")
    if kind:
        raise CheckpointError(
            f"{index} is compressed; TensorFlow writes it plain. Load the model there and save "
            "its weights with model.save_weights('mirnet.weights.h5')"
        )
    block = content[offset:end]
    restarts = struct.unpack("<I", block[-4:])[0]
    stop, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < stop:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        if len(key) > LONGEST_KEY:  # each entry repeats what it shares with the one before
            raise _damaged(index, f"a key of {len(key)} bytes")
        yield key, block[at + own : at + own + length]
        at += own + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and where the text goes on."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than ten bytes")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a protobuf message that hold bytes: their numbers and contents."""
    for number, value in _all_fields(message):
        if isinstance(value, bytes):
            yield number, value


def _all_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + length > len(message):
            raise ValueError("a field ends beyond its message")
        content = message[at : at + length]
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, "little")
        at += length


def _entry(message: bytes) -> _Entry:
    numbers: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    is_sliced = False
    for number, value in _all_fields(message):
        if isinstance(value, int):
            numbers[number] = value
        elif number == 2:
            # a dimension of size 0 has no field
            shape = tuple(
                next(
                    (size for one, size in _all_fields(dim) if one == 1 and isinstance(size, int)),
                    0,
                )
                for inner, dim in _fields(value)
                if inner == 2
            )
        elif number == 7:
            is_sliced = True
    return _Entry(
        dtype=numbers.get(1, 0),
        shape=shape,
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        checksum=numbers.get(6),
        is_sliced=is_sliced,
    )
