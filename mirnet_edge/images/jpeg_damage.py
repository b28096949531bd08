"""JPEG files damaged in their middle: decoders give wrong pixels for them without an error.

Behind a damaged place a decoder takes other codes than were written, and so ends before the data or
lacks some at its end; libjpeg warns of that, but Pillow does not pass it on. Here it is found by
decoding the file with changes where the data of a scan, or of a restart interval, ends:

- bytes that are added there change pixels only where data was lacking;
- changes of the last bytes change no pixel only where the decoder did not come that far.
"""

from __future__ import annotations

import io
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_BASELINE, _FRAMES = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)  # of Huffman codes, which Pillow decodes
_RESTART, _INTERVAL, _SCAN, _END = range(0xD0, 0xD8), 0xDD, 0xDA, 0xD9
_ADDED, _CHANGED, _TRIES = 64, 8, 3


def is_damaged(payload: bytes) -> bool:
    """Return whether the data of a JPEG that can be decoded is more or less than its pixels need.

    Of progressive ones it is found only where it is less. A change that leaves the number of bits
    as it was, a wrong color for example, is not found.
    """
    layout = _layout_of(payload)
    if layout is None or not layout.intervals:
        return False
    if not layout.has_all_restarts:
        return True
    before = _pixels(payload)
    # of one color, all codes may be the same one, whatever the bytes are
    if before is None or _is_flat(before):
        return False
    noise = random.Random(0)
    longer = _pixels(_with_more(payload, layout, noise))
    if longer is None or not np.array_equal(before, longer):
        return True
    return layout.is_baseline and layout.scans == 1 and _has_rest(payload, layout, before, noise)


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    """Return whether all pixels are equal: first of the first row, which mostly says no."""
    return bool((pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all())


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the coded data of an image lies."""

    is_baseline: bool
    block: tuple[int, int]
    """Height and width of the blocks in which pixels are coded."""
    per_interval: int
    """How many blocks an interval has; 0 for all."""
    scans: int
    intervals: tuple[tuple[int, int], ...]
    """Start and end of each interval of coded data."""
    size: tuple[int, int]
    """Height and width of the image."""
    numbers: tuple[int, ...]
    """Of the restart markers between intervals, in the file's order, from 0 to 7."""

    @property
    def has_all_restarts(self) -> bool:
        """Return whether there are as many restart markers as intervals need, in their order.

        Of several scans it is not known: they have blocks of their own.
        """
        if self.scans != 1 or not self.per_interval:
            return True
        (height, width), (rows, columns) = self.size, self.block
        blocks = -(-height // rows) * -(-width // columns)
        needed = -(-blocks // self.per_interval) - 1
        return self.numbers == tuple(number % 8 for number in range(needed))


def _layout_of(payload: bytes) -> _Layout | None:
    """Return the layout of a JPEG's first image; None where it is of another kind, or is cut."""
    place, frame, per_interval, scans = 2, None, 0, 0
    intervals: list[tuple[int, int]] = []
    numbers: list[int] = []
    while (found := _MARKER.match(payload, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == _END:
            break
        length = int.from_bytes(payload[place : place + 2], "big")
        content = payload[place + 2 : place + length]
        place += length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = (marker, content)
        elif marker == _INTERVAL:
            per_interval = int.from_bytes(content[:2], "big")
        elif marker == _SCAN:
            scans += 1
            place = _add_intervals(payload, place, intervals, numbers)
    if frame is None or frame[0] not in _FRAMES or len(frame[1]) < 9:
        return None
    factors = [one for one in frame[1][7::3] if one & 15 and one >> 4] or [0x11]
    gray = frame[1][5] == 1
    return _Layout(
        is_baseline=frame[0] in _BASELINE,
        block=(8, 8)
        if gray
        else (8 * max(one & 15 for one in factors), 8 * max(one >> 4 for one in factors)),
        per_interval=per_interval,
        scans=scans,
        intervals=tuple(intervals),
        size=(int.from_bytes(frame[1][1:3], "big"), int.from_bytes(frame[1][3:5], "big")),
        numbers=tuple(numbers),
    )


def _add_intervals(
    payload: bytes, start: int, intervals: list[tuple[int, int]], numbers: list[int]
) -> int:
    """Add the intervals of a scan whose data begins at START; return where its end marker is."""
    while (found := _MARKER.search(payload, start)) is not None:
        intervals.append((start, found.start()))
        if found[1][0] not in _RESTART:
            return found.start()
        numbers.append(found[1][0] - _RESTART.start)
        start = found.end()
    return len(payload)


def _with_more(payload: bytes, layout: _Layout, noise: random.Random) -> bytes:
    """Return a JPEG with bytes added to the end of each interval."""
    parts, place = [], 0
    for _, end in layout.intervals:
        parts += [payload[place:end], _random_bytes(_ADDED, noise)]
        place = end
    return b"".join([*parts, payload[place:]])


def _has_rest(
    payload: bytes, layout: _Layout, before: NDArray[np.uint8], noise: random.Random
) -> bool:
    """Return whether the data of an interval goes on behind its last pixel."""
    is_read = np.zeros(len(layout.intervals), bool)
    for _ in range(_TRIES):
        changed = bytearray(payload)
        for start, end in layout.intervals:
            # some cameras fill up with zeros or with the first byte of markers
            data = len(payload[start:end].rstrip(b"\0\xff"))
            first = start + max(0, data - _CHANGED)
            changed[first : start + data] = _random_bytes(start + data - first, noise)
        after = _pixels(bytes(changed))
        if after is None:
            return False  # the changed bytes are read
        is_read |= _changed_intervals(before, after, layout)
        if is_read.all():
            return False
    return True


def _changed_intervals(
    before: NDArray[np.uint8], after: NDArray[np.uint8], layout: _Layout
) -> NDArray[np.bool_]:
    """Return for each interval whether a pixel of it differs."""
    count = len(layout.intervals)
    if count == 1 or not layout.per_interval:
        return np.full(count, not np.array_equal(before, after))
    differs = (before != after).reshape(*before.shape[:2], -1).any(-1)
    height, width = layout.block
    rows, columns = -(-differs.shape[0] // height), -(-differs.shape[1] // width)
    padded = np.zeros((rows * height, columns * width), bool)
    padded[: differs.shape[0], : differs.shape[1]] = differs
    blocks = padded.reshape(rows, height, columns, width).any((1, 3)).ravel()
    starts = range(0, len(blocks), layout.per_interval)
    return np.array([blocks[at : at + layout.per_interval].any() for at in starts])


def _random_bytes(count: int, noise: random.Random) -> bytes:
    """Return bytes that begin no marker."""
    return bytes(noise.choices(range(255), k=count))


def _pixels(payload: bytes) -> NDArray[np.uint8] | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG",)) as image:
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError):
        return None
