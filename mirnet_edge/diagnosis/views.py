"""What the diagnosis network sees of a frame: an overview, and crops at its own resolution.

Resizing removes noise and blur from a frame, so both are looked for in crops at 1:1: noise shows
best where the scene is flat, blur where it has the most detail. Light, fading and damage are
properties of the whole, which the overview shows. The cost does not grow with the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.images.contract import check_frames, pad_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame, Frames

OVERVIEW_SIDE = 160
"""Side of the overview in pixels."""
CROP_SIDE = 64
"""Side of a crop in pixels."""
CROPS = 6
"""Crops of a frame: the first half has the most detail, the second half the least."""

_GRID = 6  # places each way that crops are chosen from
_DARKEST, _BRIGHTEST = 6.0, 248.0  # mean levels between which noise is not clipped


@dataclass(frozen=True)
class FrameViews:
    """The views of one frame, or of several along a first axis."""

    overview: NDArray[np.uint8]
    """(160, 160, 3) uint8 RGB: the frame resized, without keeping its proportions."""
    crops: NDArray[np.uint8]
    """(6, 64, 64, 3) uint8 RGB at 1:1."""


def take_views(frame: Frame) -> FrameViews:
    """Return the overview and the crops of a frame; the same frame gives the same ones.

    Args:
        frame: (H, W, 3) uint8 RGB, from 1x1 up.

    Raises:
        ImageError: Not such a frame.
    """
    check_frames(frame[None] if isinstance(frame, np.ndarray) else frame)
    return FrameViews(_resize(frame), _choose_crops(frame))


def stack_views(views: Sequence[FrameViews]) -> FrameViews:
    """Return views of several frames as one, along a new first axis."""
    return FrameViews(
        np.stack([one.overview for one in views]), np.stack([one.crops for one in views])
    )


def _resize(frame: Frame) -> Frame:
    import cv2

    # leaving out rows and columns that the average has enough of is five times faster on photos
    step = max(1, min(frame.shape[:2]) // (2 * OVERVIEW_SIDE))
    size = (OVERVIEW_SIDE, OVERVIEW_SIDE)
    small = cv2.resize(frame[::step, ::step], size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _choose_crops(frame: Frame) -> Frames:
    """Return the crops with the most and the least detail of a grid of places."""
    height, width = (max(side, CROP_SIDE) for side in frame.shape[:2])
    frame = pad_to(frame[None], height, width)[0]
    rows, columns = (_places(side) for side in (height, width))
    tiles = [frame[y : y + CROP_SIDE, x : x + CROP_SIDE] for y in rows for x in columns]
    green = np.stack([tile[::2, :, 1] for tile in tiles]).astype(np.int16)  # half is enough
    detail = np.abs(np.diff(green, axis=1)).mean((1, 2)) + np.abs(np.diff(green, axis=2)).mean(
        (1, 2)
    )
    level = green.mean((1, 2))
    order = np.argsort(detail, kind="stable")
    # in clipped regions there is no noise to be seen: they come last among the flat ones
    is_clipped = (level < _DARKEST) | (level > _BRIGHTEST)
    flattest = order[np.argsort(is_clipped[order], kind="stable")]
    half = CROPS // 2
    chosen = [*_repeat(order[::-1], half), *_repeat(flattest, CROPS - half)]
    return np.stack([tiles[place] for place in chosen])


def _places(side: int) -> list[int]:
    """Return the distinct first pixels of crops along a side, evenly spaced."""
    return sorted({round(place) for place in np.linspace(0, side - CROP_SIDE, _GRID)})


def _repeat(order: NDArray[np.intp], count: int) -> list[int]:
    """Return the first COUNT of ORDER, repeated where it is shorter."""
    return [int(order[place % len(order)]) for place in range(count)]
