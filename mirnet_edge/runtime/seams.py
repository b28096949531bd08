"""Where tiles lie in a frame, and how they are put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mirnet_edge.images import Frames


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis of a frame: all of one length, which cover it."""

    length: int
    """Of the frame, in pixels; a multiple of the network's."""
    tile: int
    """Of each tile; at most `length`."""
    origins: tuple[int, ...]
    """Where they begin, rising; each a multiple of the network's, because one that is not gives
    the strided layers another grid."""

    @classmethod
    def of(cls, length: int, tile: int, overlap: int, multiple: int) -> Axis:
        """Return as few tiles as cover LENGTH with at least OVERLAP in common, evenly spread.

        Raises:
            OptionError: The overlap leaves a tile nothing of its own.
        """
        if tile >= length:
            return cls(length, length, (0,))
        if overlap < 0 or tile - overlap < multiple:
            raise OptionError(
                f"tiles of {tile} pixels and an overlap of {overlap} leave nothing between: "
                f"expected tiles of at least {overlap + multiple}. Give a larger --tile or more "
                "--max-memory"
            )
        step = (tile - overlap) // multiple * multiple
        last = length - tile
        count = -(-last // step) + 1
        inner = (place * last // (count - 1) // multiple * multiple for place in range(count - 1))
        return cls(length, tile, (*inner, last))

    def ramp(self, number: int, feather: int, scale: int) -> NDArray[np.float32]:
        """Return (scale tile,): how much of a tile is taken, the rest being the one before it.

        Args:
            number: Which tile.
            feather: How wide the ramp is in the middle of the overlap, in pixels that go in.
            scale: How many pixels come out for each that goes in.
        """
        taken = np.ones(scale * self.tile, np.float32)
        if number == 0:
            return taken
        shared = self.origins[number - 1] + self.tile - self.origins[number]
        middle, half = scale * shared / 2, scale * min(feather, shared) / 2
        place = np.arange(len(taken), dtype=np.float32) + 0.5 - middle
        return np.clip(place / (2 * half) + 0.5, 0.0, 1.0) if half else (place > 0) * taken


def lay(canvas: Frames, piece: Frames, at: int, taken: NDArray[np.float32]) -> None:
    """Put a piece into a canvas along their first axis, faded in as TAKEN says.

    Args:
        canvas: (L, ...) uint8, changed in place.
        piece: (K, ...) uint8.
        at: Where the piece begins.
        taken: (K,), rising from 0 to 1.
    """
    begin = int(np.searchsorted(taken, 0.0, side="right"))
    full = int(np.searchsorted(taken, 1.0))
    if full > begin:
        share = taken[begin:full].reshape(-1, *(1,) * (piece.ndim - 1))
        below = canvas[at + begin : at + full]
        below[:] = np.rint(below * (1 - share) + piece[begin:full] * share)
    canvas[at + full : at + len(piece)] = piece[full:]


def squares(down: Axis, across: Axis) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles of a frame as slices, row by row."""
    for top in down.origins:
        for left in across.origins:
            yield slice(top, top + down.tile), slice(left, left + across.tile)
