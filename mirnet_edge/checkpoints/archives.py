"""Read the layout of checkpoint files: safetensors, torch's ZIP archives, torch's older streams.

A file's claims are compared with its size before anything is allocated. Nothing is decompressed:
torch stores its records as they are.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

from mirnet_edge.checkpoints.pickles import ForeignObjectError, read_pickle
from mirnet_edge.checkpoints.stored import (
    BYTES_OF_TYPE,
    LARGEST_HEADER,
    MOST_TENSORS,
    Storage,
    StoredCheckpoint,
    StoredTensor,
    check_claims,
    check_key,
    view_of,
)
from mirnet_edge.errors import CheckpointError
from mirnet_edge.files import describe_download

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
_EXPECTED = "expected a weights file (.safetensors, .pth, .pt)"
_ADVICE = "Copy or download it again, or get it from where it was made"


# what zipfile raises for damaged archives: of names, versions, encryption, and cut records
_ZIP_ERRORS = (
    zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, struct.error,
)  # fmt: skip


class _OtherKindError(CheckpointError):
    """A whole file of a kind that is not read; its text says what to do."""


def read_layout(path: Path) -> StoredCheckpoint:
    """Return what a weights file claims to hold, checked against its size. Nothing is executed.

    Raises:
        CheckpointError: No such file, not a weights file, damaged, holding more than tensors and
            plain values, or claiming what it cannot hold.
    """
    require_file(path)
    checkpoint = _read_claims(path)
    check_claims(checkpoint)
    return checkpoint


def _read_claims(path: Path) -> StoredCheckpoint:
    """Return what a file claims, after checking each claim by itself."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
            if head.startswith(b"PK\3\4"):
                return _read_archive(file, path)
            if head[8:] == b"{":
                return _read_safetensors(file, path)
            return _read_stream(file, path)
    except ForeignObjectError as error:
        raise CheckpointError(
            f"{path} contains objects beyond tensors ({error.name[:80]}), or is no PyTorch file; "
            "such a file can run code when opened, so it was not. If you trust it, open it with "
            "the program that made it and keep the tensors: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except _OtherKindError as error:
        raise CheckpointError(f"{path} {error}") from error
    except (CheckpointError, OSError, *_ZIP_ERRORS) as error:
        raise CheckpointError(
            f"{path} is damaged or no {path.suffix} file, expected a whole weights file: "
            f"{str(error)[:300]}. {_ADVICE}"
        ) from error


def require_file(path: Path) -> None:
    """Refuse what is no file of weights by its name, or empty.

    Raises:
        CheckpointError: It is.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; {_EXPECTED}. Name a file in it")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; {_EXPECTED}. Check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; {_EXPECTED}. Copy or download it again")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    other = describe_download(head)
    if other is not None:
        raise CheckpointError(f"{path} is {other}; {_EXPECTED}")
    if path.suffix.lower() not in SUFFIXES and not _begins_as_weights(head):
        raise CheckpointError(
            f"{path} ends in {path.suffix!r} and begins as no weights file does; {_EXPECTED}. "
            "Give the file that training wrote"
        )


_HEAD_BYTES = 128
_FIRST_STREAM = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of `_MAGIC`


def _begins_as_weights(head: bytes) -> bool:
    """Return whether a file of another suffix (.pth.tar, none) begins as one of weights."""
    is_archive = head.startswith(b"PK\3\4") and b"data.pkl" in head
    return is_archive or head.startswith(_FIRST_STREAM) or head[8:10] == b'{"'


# safetensors: 8 bytes length, JSON, values

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


def _read_safetensors(file: BinaryIO, path: Path) -> StoredCheckpoint:
    header, start = _read_header(file, path.stat().st_size)
    held = path.stat().st_size - start
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise CheckpointError("its metadata is no object of texts")
    if len(header) > MOST_TENSORS:
        raise CheckpointError(f"it has {len(header)} tensors; expected at most {MOST_TENSORS}")
    document: dict[str, StoredTensor] = {}
    places: dict[str, int] = {}
    end = 0
    claims = {name: _claim(name, entry) for name, entry in header.items()}
    for name, (dtype, shape, begin, stop) in sorted(claims.items(), key=lambda one: one[1][2:]):
        count = (stop - begin) // BYTES_OF_TYPE[dtype]
        if begin != end or stop > held or count * BYTES_OF_TYPE[dtype] != stop - begin:
            raise CheckpointError(
                f"the tensor {name[:80]!r} claims bytes {begin} to {stop} of {held}; expected "
                f"them to begin at {end}"
            )
        storage = Storage(dtype=dtype, key=name, count=count)
        document[name] = view_of(storage, dtype, 0, shape, _contiguous(shape))
        if document[name].count != count:
            raise CheckpointError(
                f"the tensor {name[:80]!r} of shape {shape} has {count} values in the file"
            )
        places[name], end = start + begin, stop
    if end != held:
        raise CheckpointError(f"its tensors take {end} bytes, the file has {held} for them")
    ordered = {name: document[name] for name in header}
    return StoredCheckpoint(
        path=path, document=ordered, claims=list(ordered.values()), places=places, metadata=metadata
    )


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the values begin."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise CheckpointError(f"its header claims {length} bytes, the file has {size - 8}")
    if length > LARGEST_HEADER:
        raise CheckpointError(
            f"its header has {length} bytes; expected at most {LARGEST_HEADER} for the names of "
            "the tensors"
        )
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is no JSON ({str(error)[:80]})") from error
    if not isinstance(header, dict):
        raise CheckpointError("its header is no JSON object")
    return header, 8 + length


def _claim(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:  # noqa: ANN401  # untrusted
    """Return the type, shape, begin and end of a tensor."""
    check_key(name)
    try:
        dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
        begin, stop = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the entry of {name[:80]!r} is no tensor") from error
    if not all(type(one) is int and 0 <= one < 1 << 62 for one in (begin, stop)) or begin > stop:
        raise CheckpointError(f"the tensor {name[:80]!r} lies from {begin} to {stop}")
    return dtype, shape, begin, stop


def _contiguous(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the steps of a tensor whose values lie one after the other."""
    steps: list[int] = []
    step = 1
    for side in reversed(shape):
        steps.append(step)
        if type(side) is int and 0 < side < 1 << 62 and step < 1 << 62:
            step *= side
    # sides of 0 make steps that no value uses
    return tuple(min(one, (1 << 62) - 1) for one in reversed(steps))


# torch's archives: ZIP, since 1.6

_END_OF_DIRECTORY = b"PK\5\6"
_LONGEST_END = 22 + 65535  # of the record, and of the comment behind it
_MOST_RECORDS = MOST_TENSORS + 1000
_LARGEST_DIRECTORY = 16 << 20


def _read_archive(file: BinaryIO, path: Path) -> StoredCheckpoint:
    size = path.stat().st_size
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        records = {one.filename: one for one in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in records):
            raise _OtherKindError(
                "is a TorchScript program; expected the weights alone. Save them with "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        for one in records.values():
            if one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size:
                raise _OtherKindError(
                    f"has the compressed record {one.filename[:80]!r}; expected records as "
                    "torch.save writes them. Unpack it, and save it again with torch.save"
                )
        if sum(one.file_size for one in records.values()) > size:
            raise CheckpointError("its records claim more bytes than the file has")
        pickles = [name for name in records if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"it has {len(pickles)} records data.pkl; expected one")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "byteorder" in records and archive.read(folder + "byteorder") == b"big":
            raise CheckpointError("its values are big-endian; save it again on this machine")
        description = _description(archive, records[pickles[0]])
    places: dict[str, int] = {}

    def find_storage(dtype: str, key: str, count: int) -> Storage:
        record = records.get(f"{folder}data/{key}")
        if record is None or record.file_size < count * BYTES_OF_TYPE[dtype]:
            found = "no record" if record is None else f"{record.file_size} bytes"
            raise CheckpointError(
                f"the storage {key[:40]!r} claims {count} values of {dtype}, found {found}"
            )
        if key not in places:
            places[key] = _place_of(file, record, size)
        return Storage(dtype=dtype, key=key, count=count)

    document, claims = read_pickle(description, find_storage)
    return StoredCheckpoint(path=path, document=document, claims=claims, places=places)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Refuse an archive whose directory would take much memory to read."""
    file.seek(max(0, size - _LONGEST_END))
    tail = file.read(_LONGEST_END)
    place = tail.rfind(_END_OF_DIRECTORY)
    if place < 0 or len(tail) < place + 22:
        raise CheckpointError("its end is missing")
    _, _, _, records, length, _ = struct.unpack_from("<HHHHII", tail, place + 4)
    # 0xFFFF and 0xFFFFFFFF stand for numbers in a longer record before it
    sixty_four = tail.rfind(b"PK\6\6", 0, place)
    if sixty_four >= 0 and len(tail) >= sixty_four + 56:
        records, length = struct.unpack_from("<QQ", tail, sixty_four + 32)
    if records > _MOST_RECORDS or length > _LARGEST_DIRECTORY:
        raise CheckpointError(
            f"its directory claims {records} records in {length} bytes; expected at most "
            f"{_MOST_RECORDS}"
        )


def _description(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> io.BytesIO:
    if record.file_size > LARGEST_HEADER:
        raise CheckpointError(
            f"its description has {record.file_size} bytes; expected at most {LARGEST_HEADER}"
        )
    return io.BytesIO(archive.read(record))


def _place_of(file: BinaryIO, record: zipfile.ZipInfo, size: int) -> int:
    """Return where a record's bytes begin, behind its own header."""
    file.seek(record.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
        raise CheckpointError(f"the record {record.filename[:80]!r} has no header")
    name, extra = struct.unpack_from("<HH", header, 26)
    place = record.header_offset + 30 + int(name) + int(extra)
    if place + record.file_size > size:
        raise CheckpointError(f"the record {record.filename[:80]!r} is cut off")
    return place


# torch's older streams: pickles of a magic number, a version, the machine, the object, the keys of
# its storages; then for each storage its number of values, and these

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def _read_stream(file: BinaryIO, path: Path) -> StoredCheckpoint:
    size = path.stat().st_size
    file.seek(0)
    stream = io.BytesIO(file.read(LARGEST_HEADER))
    storages: dict[str, Storage] = {}

    def find_storage(dtype: str, key: str, count: int) -> Storage:
        found = storages.setdefault(key, Storage(dtype=dtype, key=key, count=count))
        if found != Storage(dtype=dtype, key=key, count=count):
            raise CheckpointError(f"the storage {key[:40]!r} is of two types or sizes")
        if count * BYTES_OF_TYPE[dtype] > size:
            raise CheckpointError(
                f"the storage {key[:40]!r} claims {count} values of {dtype}, the file has {size} "
                "bytes"
            )
        return found

    for expected in (_MAGIC, _VERSION):
        if read_pickle(stream, find_storage)[0] != expected:
            raise CheckpointError("it does not begin as torch's files do")
    read_pickle(stream, find_storage)  # about the machine
    document, claims = read_pickle(stream, find_storage)
    keys, _ = read_pickle(stream, find_storage)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("it has no list of storages")
    if len(keys) != len(set(keys)) or set(keys) != set(storages):
        raise CheckpointError("its list of storages is not that of its tensors")
    places = _places_in_stream(file, stream.tell(), [storages[key] for key in keys], size)
    return StoredCheckpoint(path=path, document=document, claims=claims, places=places)


def _places_in_stream(
    file: BinaryIO, place: int, storages: list[Storage], size: int
) -> dict[str, int]:
    """Return where each storage's values begin; each has its number of values before it."""
    places: dict[str, int] = {}
    for one in storages:
        file.seek(place)
        if file.read(8) != struct.pack("<q", one.count):
            raise CheckpointError(f"the storage {one.key[:40]!r} has another size than claimed")
        places[one.key] = place + 8
        place += 8 + one.count * BYTES_OF_TYPE[one.dtype]
        if place > size:
            raise CheckpointError(f"the storage {one.key[:40]!r} is cut off")
    return places
