"""Restoring frames tile by tile, without seams where the runner takes the frame's vectors.

    frame ─ frame_vectors.vectors_by_tiles ─► vectors ─ one run per tile, memory 1 ─ seams ─► frame

A network that pools over the frame gives each tile other vectors, and no overlap mends that. With
the vectors of the frame given to all tiles, a tile equals the frame from a short distance off its
border on: the bundle's manifest holds it, measured at the export, and the overlap is twice that.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.images import check_frames, crop_to, pad_to, pad_to_multiple, size_text
from mirnet_edge.runtime.footprint import bytes_per_pixel
from mirnet_edge.runtime.frame_vectors import vectors_by_tiles
from mirnet_edge.runtime.runner import Around, anchored, check_anchors
from mirnet_edge.runtime.seams import Axis, lay, squares

if TYPE_CHECKING:
    from mirnet_edge.images import Frame, Frames
    from mirnet_edge.manifest import ImageContract
    from mirnet_edge.runtime.runner import Runner, Vectors

logger = logging.getLogger(__name__)

# Where nobody measured how far a cut reaches: wide enough to fade one tile into the next.
_USUAL_OVERLAP = 64


def tiled(
    runner: Runner,
    *,
    tile: tuple[int, int] | None = None,
    overlap: int | None = None,
    max_memory_mib: int | None = None,
) -> Tiled:
    """Return a runner that restores frames of any size by tiles that the given runner takes.

    A frame that fits one tile is restored as a whole.

    Args:
        runner: Open or not; opened and closed with the result.
        tile: (height, width) of a tile, rounded up to the runner's multiple. None for the graph's
            size where that is fixed, else for what `max_memory_mib` allows, else for whole frames.
        overlap: What neighbouring tiles have in common, in pixels. None for twice the distance
            that the manifest says a cut reaches.
        max_memory_mib: How much memory one run may take beside the frames, in MiB. What the
            runner takes for a pixel is measured when it is first needed.

    Raises:
        OptionError: Values below 1, a tile beside a memory limit, or another tile than the
            graph's fixed size.
    """
    return Tiled(runner, tile=tile, overlap=overlap, max_memory_mib=max_memory_mib)


class Tiled(Around):
    """A runner in tiles; see `tiled`. It takes vectors where the runner inside does."""

    def __init__(
        self,
        runner: Runner,
        *,
        tile: tuple[int, int] | None,
        overlap: int | None,
        max_memory_mib: int | None,
    ) -> None:
        """See `tiled`."""
        super().__init__(runner)
        self._anchored = anchored(runner)
        self._image: ImageContract | None = getattr(runner, "image", None)
        self._fixed = self._image.size if self._image else None
        self._max_memory_mib = max_memory_mib
        _check(tile, overlap, max_memory_mib, self._fixed, runner.multiple)
        multiple = runner.multiple
        self._tile = self._fixed or (tile and (_up(tile[0], multiple), _up(tile[1], multiple)))
        reach = self._image.reach if self._image else None
        wanted = _USUAL_OVERLAP if reach is None else 2 * reach
        self.overlap = _up(wanted, multiple) if overlap is None else overlap
        """What neighbouring tiles have in common at least, in pixels."""
        # beyond the reach neighbours agree; short of it they are faded into each other
        agree = self._anchored is not None and reach is not None and self.overlap >= 2 * reach
        self._feather = 0 if agree else self.overlap

    @property
    def vector_length(self) -> int:
        """Return that of the runner inside."""
        return self._anchored.vector_length if self._anchored else 0

    def run(self, frames: Frames) -> Frames:
        """Restore frames of any size.

        Args:
            frames: (N, H, W, 3) uint8 RGB.

        Returns:
            A new array, (N, scale H, scale W, 3), which belongs to the caller.

        Raises:
            ImageError: Not such frames.
            EngineError: Used outside `with`, or the backend failed.
            OptionError: The memory limit allows no tile larger than the overlap.
        """
        return self._run(frames, None, 0.0)[0]

    def run_anchored(
        self, frames: Frames, given: Vectors | None, memory: float
    ) -> tuple[Frames, Vectors]:
        """Restore frames of any size with vectors between their own and those given.

        Args:
            frames: As for `run`.
            given: (N, vector_length), finite; None for memory 0.
            memory: From 0, the frames' own vectors, to 1, those given, which spares measuring.

        Returns:
            What `run` returns, and the vectors that were used.

        Raises:
            MirnetEdgeError: As for `run`, or the vectors or the memory do not fit.
        """
        check_frames(frames)
        check_anchors(frames, given, memory, self.vector_length)
        return self._run(frames, given, memory)

    def _run(self, frames: Frames, given: Vectors | None, memory: float) -> tuple[Frames, Vectors]:
        check_frames(frames)
        count, height, width = frames.shape[:3]
        tall, wide = self.scale * height, self.scale * width
        restored = np.empty((count, tall, wide, 3), np.uint8)
        vectors = np.zeros((count, self.vector_length), np.float32)
        for place in range(count):
            one = slice(place, place + 1)
            padded = pad_to_multiple(frames[one], self.multiple)
            if self._fixed:
                sides = zip(padded.shape[1:3], self._fixed, strict=True)
                padded = pad_to(padded, *(max(pair) for pair in sides))
            whole, vectors[one] = self._restored(
                padded, None if given is None else given[one], memory
            )
            restored[one] = crop_to(whole, tall, wide)
        return restored, vectors

    def _restored(
        self, frame: Frames, given: Vectors | None, memory: float
    ) -> tuple[Frames, Vectors]:
        """Return a frame whose sides are multiples, and at least a tile's, restored."""
        nothing = np.zeros((1, 0), np.float32)
        tile = self._tile_for(frame)
        if self._anchored is None:
            if frame.shape[1:3] == tile:
                return self.runner.run(frame), nothing
            return self._joined(frame, tile, None), nothing
        if frame.shape[1:3] == tile:
            return self._anchored.run_anchored(frame, given, memory)
        vectors = self._blended(frame, tile, given, memory)
        return self._joined(frame, tile, vectors), vectors

    def _blended(
        self, frame: Frames, tile: tuple[int, int], given: Vectors | None, memory: float
    ) -> Vectors:
        if given is not None and memory == 1.0:
            return given
        if self._anchored is None or self._image is None:
            raise TypeError("a runner with vectors states their layout in `image`")
        own = vectors_by_tiles(self._anchored, frame, tile, self._image.vectors, self._fixed)
        return own if given is None else (1 - np.float32(memory)) * own + np.float32(memory) * given

    def _joined(self, frame: Frames, tile: tuple[int, int], vectors: Vectors | None) -> Frames:
        """Return (1, scale H, scale W, 3): the tiles restored and put together."""
        height, width = frame.shape[1:3]
        down = Axis.of(height, tile[0], self.overlap, self.multiple)
        across = Axis.of(width, tile[1], self.overlap, self.multiple)
        scale = self.scale
        canvas = np.empty((scale * height, scale * width, 3), np.uint8)
        band = np.empty((scale * width, scale * tile[0], 3), np.uint8)  # columns first
        for number, (rows, columns) in enumerate(squares(down, across)):
            row, column = divmod(number, len(across.origins))
            piece = self._piece(frame[:, rows, columns], vectors)
            taken = across.ramp(column, self._feather, scale)
            lay(band, piece.swapaxes(0, 1), scale * columns.start, taken)
            if column + 1 == len(across.origins):
                taken = down.ramp(row, self._feather, scale)
                lay(canvas, band.swapaxes(0, 1), scale * rows.start, taken)
        return canvas[None]

    def _piece(self, tile: Frames, vectors: Vectors | None) -> Frame:
        if self._anchored is None or vectors is None:
            piece: Frame = self.runner.run(tile)[0]
        else:
            piece = self._anchored.run_anchored(tile, vectors, 1.0)[0][0]
        return piece

    def _tile_for(self, frame: Frames) -> tuple[int, int]:
        """Return the (height, width) of the tiles of a frame, its own where that fits."""
        height, width = frame.shape[1:3]
        if self._tile is None and self._max_memory_mib is not None:
            self._tile = self._affordable(self._max_memory_mib)
        tile = self._tile or (height, width)
        return min(tile[0], height), min(tile[1], width)

    def _affordable(self, mebibytes: int) -> tuple[int, int]:
        """Return the (height, width) of the largest square tile that fits a memory limit."""
        needed = bytes_per_pixel(self.runner)
        side = math.isqrt(int((mebibytes << 20) / needed)) // self.multiple * self.multiple
        least = self.overlap + self.multiple
        if side < least:
            raise OptionError(
                f"--max-memory {mebibytes} allows tiles of {size_text(side, side)} at "
                f"{needed / 1024:.1f} KiB a pixel; expected at least {size_text(least, least)}. "
                f"Give {math.ceil(least**2 * needed / (1 << 20))} MiB, or a smaller overlap"
            )
        logger.info(
            "%s: tiles of %s, %.1f KiB a pixel", self.name, size_text(side, side), needed / 1024
        )
        return side, side


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _check(
    tile: tuple[int, int] | None,
    overlap: int | None,
    max_memory_mib: int | None,
    fixed: tuple[int, int] | None,
    multiple: int,
) -> None:
    if tile is not None and min(tile) < 1:
        raise OptionError(f"--tile must be positive, found {size_text(*tile)}; try 512x512")
    if overlap is not None and overlap < 0:
        raise OptionError(f"overlap must be 0 or more, found {overlap}")
    if max_memory_mib is not None and max_memory_mib < 1:
        raise OptionError(f"--max-memory must be at least 1 MiB, found {max_memory_mib}")
    if max_memory_mib is not None and tile is not None:
        raise OptionError("--tile WxH and --max-memory exclude each other; give one of them")
    if fixed is None:
        return
    if max_memory_mib is not None:
        raise OptionError(
            f"the bundle was exported for {size_text(*fixed)}, which is then the tile: leave "
            "--max-memory out, or export again without --size"
        )
    if tile is not None and tuple(_up(side, multiple) for side in tile) != tuple(fixed):
        raise OptionError(
            f"the bundle was exported for {size_text(*fixed)}, which is then the tile, found "
            f"{size_text(*tile)}: leave it out, or export again without --size"
        )
