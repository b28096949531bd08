"""The picture that is sent: before and after side by side, with the frame's number under them.

Both halves travel in one picture, so that they always belong to the same frame. The strip below
tells which frame it is, in black and white cells that survive any codec: the page cuts the strip
off, and reads it when a snapshot of exactly this frame is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images import Frame
    from mirnet_edge.video.frames import Shown

STRIP_HEIGHT = 16
CELLS = 32
"""A mark (1010), 24 bits of the number from the highest, 4 bits of check, from left to right."""
INDEX_LIMIT = 1 << 24
"""Numbers are sent modulo this: they repeat after six days of 30 frames a second."""
_MARK = 0b1010
_NARROWEST, _WIDEST = 160, 1280  # of a half: cells of 10 px, and what a small machine can encode


def side_by_side(shown: Shown) -> Frame:
    """Return before (left), after (right) and the strip below as one picture.

    Returns:
        (height + STRIP_HEIGHT, 2 width, 3) uint8 RGB, both sides even. `width` is that of what was
        restored, made even, and shrunk or enlarged to between 160 and 1280.
    """
    height, width = _half_size(*shown.after.shape[:2])
    picture: Frame = np.empty((height + STRIP_HEIGHT, 2 * width, 3), np.uint8)
    picture[:height, :width] = _fitted(shown.before.pixels, height, width)
    picture[:height, width:] = _fitted(shown.after, height, width)
    picture[height:] = _strip(shown.before.index, 2 * width)[None, :, None]
    return picture


def index_from_strip(picture: Frame) -> int | None:
    """Return the number under a picture, modulo INDEX_LIMIT; None where it cannot be read."""
    row = picture[-STRIP_HEIGHT // 2].mean(axis=-1)
    centres = ((np.arange(CELLS) + 0.5) * len(row) / CELLS).astype(int)
    word = 0
    for bit in row[centres] > 127.5:
        word = 2 * word + int(bit)
    index = word >> 4 & (INDEX_LIMIT - 1)
    return index if word == _word(index) else None


def _word(index: int) -> int:
    index %= INDEX_LIMIT
    check = sum(index >> shift & 0xF for shift in range(0, 24, 4)) & 0xF
    return _MARK << 28 | index << 4 | check


def _strip(index: int, width: int) -> NDArray[np.uint8]:
    word = _word(index)
    bits = np.array([word >> (CELLS - 1 - place) & 1 for place in range(CELLS)], np.uint8)
    strip: NDArray[np.uint8] = 255 * bits[np.arange(width) * CELLS // width]
    return strip


def _half_size(height: int, width: int) -> tuple[int, int]:
    fitted = min(max(width, _NARROWEST), _WIDEST)
    tall = round(height * fitted / width)
    return max(2, tall - tall % 2), fitted - fitted % 2


def _fitted(frame: Frame, height: int, width: int) -> Frame:
    if frame.shape[:2] == (height, width):
        return frame
    if frame.shape[0] - height in (0, 1) and frame.shape[1] - width in (0, 1):
        return frame[:height, :width]  # an odd side: a line is cut off rather than all resampled
    import cv2

    shrinks = frame.shape[1] > width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=how), np.uint8)
