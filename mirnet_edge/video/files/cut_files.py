"""MP4 and QuickTime files that end within a box: recordings that were killed, broken downloads."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FIRST = (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"wide", b"free", b"skip")
_WITHOUT_MEDIA = (b"mfra", b"free", b"skip", b"wide", b"uuid", b"sidx")
_TO_THE_END, _LONG = 0, 1  # sizes with a meaning; ISO/IEC 14496-12, 4.2


@dataclass(frozen=True, kw_only=True)
class BoxScan:
    """The outer boxes of a file."""

    names: frozenset[bytes]
    whole: int
    """Where the last whole box ends."""
    cut_name: bytes
    """The name of the box within which the file ends, empty where there is none."""
    missing: int
    """How many bytes of that box are missing."""

    @property
    def lacks_media(self) -> bool:
        """Return whether the file ends within sound, video or what tells where they lie."""
        return bool(self.cut_name) and self.cut_name not in _WITHOUT_MEDIA

    @property
    def lacks_index(self) -> bool:
        """Return whether there is media without the index that is written at last."""
        return b"mdat" in self.names and not self.names & {b"moov", b"moof"}


def scan_boxes(path: Path) -> BoxScan | None:
    """Return the outer boxes of an MP4 or QuickTime file; None of any other, or of none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            return _scan(file, size)
    except OSError:
        return None  # opening it as a video says more


def _scan(file: io.BufferedReader, size: int) -> BoxScan | None:
    place, names = 0, set[bytes]()
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if not names and name not in _FIRST:
            return None
        names.add(name)
        if length == _LONG:
            length = int.from_bytes(head[8:], "big")
        if length == _TO_THE_END:
            place = size
            break
        if length < 8:
            return None  # no boxes, or damaged ones
        if place + length > size:
            return BoxScan(
                names=frozenset(names), whole=place, cut_name=name, missing=place + length - size
            )
        place += length
    return BoxScan(names=frozenset(names), whole=place, cut_name=b"", missing=0) if names else None


class FileStart(io.RawIOBase):
    """Reads a file up to a place, as if it ended there."""

    def __init__(self, path: Path, end: int) -> None:
        """Open the file.

        Raises:
            OSError: It cannot be opened.
        """
        self._file, self._end = path.open("rb"), end

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be sought in."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to SIZE bytes."""
        left = max(0, self._end - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place and return it."""
        if whence == io.SEEK_END:
            place += self._end
            whence = io.SEEK_SET
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
