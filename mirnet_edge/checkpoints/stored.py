"""What a checkpoint file claims to hold, before anything is allocated: tensors by their place.

No module here that reads a claim imports torch: files that lie are refused before that takes
seconds. Nothing in a file is ever executed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


BYTES_OF_TYPE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2,
    "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16, "complex32": 4,
}  # fmt: skip
"""Types of tensors by torch's names."""
LARGEST_HEADER = 4 << 20
"""Bytes of a safetensors header, or of a pickle, that are read at most."""
MOST_TENSORS = 20_000
LONGEST_KEY = 1000
_MOST_AXES = 16
_NAMED = 3
_MOST_BYTES_PER_FILE_BYTE = 2  # tensors may lie over each other: tied weights do


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Values that one or more tensors are views of."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a file: a view of a storage."""

    storage: Storage
    dtype: str
    offset: int
    """Of its first value in the storage, in values of its type."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return its number of values."""
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """Return how many values of the storage lie from its first to its last."""
        if not self.count:
            return 0
        steps = zip(self.shape, self.stride, strict=True)
        return 1 + sum((side - 1) * step for side, step in steps)

    @property
    def is_floating(self) -> bool:
        """Return whether it holds floats."""
        return "float" in self.dtype


@dataclass(frozen=True, kw_only=True)
class OtherTensor:
    """A tensor that is no dense array of values: sparse, quantized, nested."""

    kind: str


@dataclass(frozen=True, kw_only=True)
class OtherObject:
    """An object that is neither a tensor nor a plain value, of which only its kind is known."""

    kind: str


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """A file's content by its claims, all of which were checked against its size."""

    path: Path
    document: Any
    """Dictionaries, lists and plain values with `StoredTensor` in them. It may hold itself."""
    claims: list[StoredTensor] = field(default_factory=list)
    """All tensors, wherever they are in the document."""
    places: dict[str, int] = field(default_factory=dict)
    """Where each storage begins in the file, by its key."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Of a safetensors file."""


@dataclass(frozen=True, kw_only=True)
class KerasConvolution:
    """A convolution found in a file; its values are not read yet."""

    label: str
    """Where it lies in the file, for messages."""
    name: str | None
    """The layer's name in the session that made it; None where the file does not tell it."""
    place: int | None
    """Its place in the order of the graph; None where the file does not tell it."""
    kernel: tuple[int, ...]
    """(height, width, inputs, outputs)."""
    bias: tuple[int, ...]
    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    """Return kernel and bias."""


def view_of(storage: Storage, dtype: str, offset: Any, shape: Any, stride: Any) -> StoredTensor:  # noqa: ANN401  # untrusted
    """Return a tensor after checking that its values lie in the storage, each once.

    Raises:
        CheckpointError: They do not, or the numbers are none.
    """
    for numbers in (shape, stride):
        if not isinstance(numbers, tuple) or len(numbers) > _MOST_AXES:
            raise CheckpointError(f"a tensor has no list of at most {_MOST_AXES} sides")
    for number in (offset, *shape, *stride):
        if type(number) is not int or not 0 <= number < 1 << 62:
            raise CheckpointError(f"a tensor has the side, step or offset {str(number)[:30]}")
    if len(shape) != len(stride):
        raise CheckpointError("a tensor has another number of sides than of steps")
    tensor = StoredTensor(storage=storage, dtype=dtype, offset=offset, shape=shape, stride=stride)
    held = storage.count * BYTES_OF_TYPE[storage.dtype] // BYTES_OF_TYPE[dtype]
    if tensor.count > held or offset + tensor.extent > held:
        raise CheckpointError(
            f"a tensor of shape {shape} and steps {stride} claims {tensor.count} values, its "
            f"storage holds {held}"
        )
    if tensor.count > tensor.extent:
        raise CheckpointError(
            f"a tensor of shape {shape} and steps {stride} repeats values: it claims "
            f"{tensor.count} of {tensor.extent}"
        )
    return tensor


def printable(key: str) -> str:
    """Return a key from an untrusted file as it may stand in a one-line message."""
    return repr(key if len(key) <= 80 else key[:77] + "...")


def check_key(key: str) -> None:
    """Refuse a name that is too long to be one of a network's.

    Raises:
        CheckpointError: It is.
    """
    if len(key) > LONGEST_KEY:
        raise CheckpointError(f"a key of {len(key)} characters; expected at most {LONGEST_KEY}")


def check_claims(checkpoint: StoredCheckpoint) -> None:
    """Refuse a file without values, or whose tensors together need more memory than it explains.

    Raises:
        CheckpointError: It is one.
    """
    path = checkpoint.path
    if not any(one.count for one in checkpoint.claims):
        raise CheckpointError(
            f"{path} holds {describe(checkpoint.document)}; expected a state dict (names with "
            "tensors), bare or inside dictionaries. Save model.state_dict()"
        )
    total = sum(one.extent * BYTES_OF_TYPE[one.dtype] for one in set(checkpoint.claims))
    size = path.stat().st_size
    if total > _MOST_BYTES_PER_FILE_BYTE * size:
        raise CheckpointError(
            f"{path}: its tensors claim {total} bytes, the file has {size}; expected each value "
            "stored once. Get the file from where it was made"
        )


def describe(document: object) -> str:
    """Return in words what a document without tensors is."""
    if isinstance(document, (StoredTensor, OtherTensor)):
        return "a tensor without a name"
    if not isinstance(document, dict):
        return f"a {type(document).__name__}"
    names = [printable(key) for key in document if isinstance(key, str)]
    if not document:
        return "nothing"
    return f"no tensor under {', '.join(names[:_NAMED]) or 'a name'}"
