"""What the diagnosis network sees of a frame: an overview, its damage, and crops at 1:1.

Resizing removes noise and blur from a frame, so both are looked for in crops at its own resolution:
noise shows best where the scene is flat, blur where it has the most detail. Frames of many pixels
are first averaged to about 2000: what is seen at 1:1 alone, in a photo of 12 megapixels, is nothing
to restore. Light and fading are properties of the whole, which the overview shows. Scratches and
dust are thin, and averaging would remove them: two more channels of the overview keep the largest
difference of every cell. The cost does not grow with the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.images.contract import check_frames, pad_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame, Frames

OVERVIEW_SIDE, OVERVIEW_CHANNELS = 96, 5
"""Side of the overview in pixels, and its channels: RGB, thin bright things, thin dark things."""
CROP_SIDE = 64
"""Side of a crop in pixels."""
CROPS = 6
"""Crops of a frame: the first half has the most detail; the second half has the least of the dark,
the middle and the bright places, as noise depends on light."""

_GRID = 10  # places each way that crops are chosen from
# of the first pixel of a crop: the spectrum of a JPEG file is clearest on its own grid of blocks,
# and crops that lie on it in some images only would tell images apart by their size
_ALIGNMENT = 8
_LARGEST_SIDE = 2048  # of a frame whose crops are at its own resolution
_DARKEST, _BRIGHTEST = 12.0, 240.0  # mean levels between which noise is not clipped
_CELL = 5  # pixels of the resized frame, each way, of one pixel of the overview
_THICKEST = 7  # pixels of the resized frame: thicker lines and spots are no damage


@dataclass(frozen=True)
class FrameViews:
    """The views of one frame, or of several along a first axis."""

    overview: NDArray[np.uint8]
    """(96, 96, 5) uint8: the frame resized, without keeping its proportions, in RGB; then how much
    thin things are brighter, and how much they are darker, than what is around them."""
    crops: NDArray[np.uint8]
    """(6, 64, 64, 3) uint8 RGB: at 1:1 up to 2048 pixels a side, of larger frames averages."""


def take_views(frame: Frame) -> FrameViews:
    """Return the overview and the crops of a frame; the same frame gives the same ones.

    Args:
        frame: (H, W, 3) uint8 RGB, from 1x1 up.

    Raises:
        ImageError: Not such a frame.
    """
    check_frames(frame[None] if isinstance(frame, np.ndarray) else frame)
    return FrameViews(_view_whole(frame), _choose_crops(frame))


def stack_views(views: Sequence[FrameViews]) -> FrameViews:
    """Return views of several frames as one, along a new first axis."""
    return FrameViews(
        np.stack([one.overview for one in views]), np.stack([one.crops for one in views])
    )


def _view_whole(frame: Frame) -> NDArray[np.uint8]:
    """Return the overview."""
    import cv2

    side = _CELL * OVERVIEW_SIDE
    # interpolation leaves out pixels that the average of a cell has enough of
    resized = cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR)
    size = (OVERVIEW_SIDE, OVERVIEW_SIDE)
    colors = cv2.resize(resized, size, interpolation=cv2.INTER_AREA)
    # scratches and dust are white or black: the least and the largest channel show them, and hide
    # thin things that have a color
    red, green, blue = cv2.split(resized)
    least, largest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    thin, cell = (np.ones((length, length), np.uint8) for length in (_THICKEST, _CELL))
    center = slice(_CELL // 2, None, _CELL)
    damage = [
        cv2.dilate(cv2.morphologyEx(plane, operation, thin), cell)[center, center]
        for plane, operation in ((least, cv2.MORPH_TOPHAT), (largest, cv2.MORPH_BLACKHAT))
    ]
    return np.dstack([colors, *damage])


def _choose_crops(frame: Frame) -> Frames:
    """Return the crops with the most and the least detail of a grid of places."""
    import cv2

    factor = math.ceil(max(frame.shape[:2]) / _LARGEST_SIDE)
    side = factor * CROP_SIDE
    height, width = (max(length, side) for length in frame.shape[:2])
    frame = pad_to(frame[None], height, width)[0]
    rows, columns = (_places(length, factor) for length in (height, width))
    tiles = [frame[y : y + side, x : x + side] for y in rows for x in columns]
    # half of the rows of one channel are enough
    green = np.stack([tile[:: 2 * factor, ::factor, 1] for tile in tiles]).astype(np.int16)
    detail = np.abs(np.diff(green, axis=1)).mean((1, 2)) + np.abs(np.diff(green, axis=2)).mean(
        (1, 2)
    )
    level = green.mean((1, 2))
    order = np.argsort(detail, kind="stable")
    half = CROPS // 2
    # in clipped regions there is no noise to be seen: they are taken where there is nothing else
    is_clipped = (level < _DARKEST) | (level > _BRIGHTEST)
    seen = order if is_clipped.all() else order[~is_clipped[order]]
    flattest = []
    for group in np.array_split(seen[np.argsort(level[seen], kind="stable")], half):
        places = group if len(group) else seen
        flattest.append(int(places[np.argmin(detail[places])]))
    chosen = [tiles[place] for place in (*_repeat(order[::-1], half), *flattest)]
    if factor > 1:
        size = (CROP_SIDE, CROP_SIDE)
        averaged = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in chosen]
        return np.stack(averaged).astype(np.uint8)
    return np.stack(chosen)


def _places(length: int, factor: int) -> list[int]:
    """Return the distinct first pixels of crops along a side, evenly spaced."""
    step = factor * _ALIGNMENT
    places = np.linspace(0, length - factor * CROP_SIDE, _GRID).astype(int)
    return sorted({int(place) // step * step for place in places})


def _repeat(order: NDArray[np.intp], count: int) -> list[int]:
    """Return the first COUNT of ORDER, repeated where it is shorter."""
    return [int(order[place % len(order)]) for place in range(count)]
