"""Tiled inference: overlap, blending, global context vectors, memory per pixel.

A network with global pooling computes other global context vectors for each tile, which shows as
seams at any overlap. A context-anchored graph takes the frame's context vectors instead, the same
for all tiles:

    frame ─ context_by_tiles ─► context vectors ─ one run per tile, weight 1 ─ blending ─► frame

A tile then equals the frame but for its border, as wide as convolutions reach: the manifest states
that distance, measured at the export, and the overlap is twice it.

Context vectors are computed by tiles in two ways. Those of a thumbnail are exact: the network runs
on a small frame with the thumbnail of the whole frame. Means over the frame are the mean of the
tiles' means: near, not exact, because convolutions see nothing beyond a tile's border.
docs/decisions/010-anchored-pooling.md holds the measurements.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.images.contract import (
    check_float_frames,
    check_frames,
    crop_to,
    pad_to,
    pad_to_multiple,
    size_text,
)
from mirnet_edge.memory import resident_memory, watch_memory
from mirnet_edge.runtime.runner import (
    RunnerWrapper,
    as_context_runner,
    as_float_runner,
    check_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirnet_edge.images.contract import FloatFrames, Frame, Frames
    from mirnet_edge.manifest import ContextVector, ImageContract, ThumbnailFacts
    from mirnet_edge.runtime.runner import ContextRunner, ContextVectors, Runner


@dataclass(frozen=True)
class TileAxis:
    """The tiles along one axis of a frame: of equal length, covering the axis."""

    length: int
    """Of the frame, in pixels; a multiple of the network's."""
    tile: int
    """Length of each tile; at most `length`."""
    origins: tuple[int, ...]
    """Where they begin, rising; multiples of the network's, for the grid of strided layers."""

    @classmethod
    def of(cls, length: int, tile: int, overlap: int, multiple: int) -> TileAxis:
        """Return the fewest tiles that cover LENGTH with at least OVERLAP, evenly spread.

        Raises:
            OptionError: The overlap is too large for the tile.
        """
        if tile >= length:
            return cls(length, length, (0,))
        if overlap < 0 or tile - overlap < multiple:
            raise OptionError(
                f"tiles of {tile} pixels are too small for an overlap of {overlap}: "
                f"expected tiles of at least {overlap + multiple}. Give a larger --tile or more "
                "--max-memory"
            )
        step = (tile - overlap) // multiple * multiple
        last = length - tile
        count = -(-last // step) + 1
        inner = (place * last // (count - 1) // multiple * multiple for place in range(count - 1))
        return cls(length, tile, (*inner, last))

    def blending_weights(self, number: int, blend: int, scale: int) -> NDArray[np.float32]:
        """Return (scale tile,): the weights of a tile, the rest being those of the one before it.

        Args:
            number: Which tile.
            blend: Width of the blending in the middle of the overlap, in pixels of the source.
            scale: How many times wider restored tiles are.
        """
        weights = np.ones(scale * self.tile, np.float32)
        if number == 0:
            return weights
        shared = self.origins[number - 1] + self.tile - self.origins[number]
        middle, half = scale * shared / 2, scale * min(blend, shared) / 2
        place = np.arange(len(weights), dtype=np.float32) + 0.5 - middle
        return np.clip(place / (2 * half) + 0.5, 0.0, 1.0) if half else (place > 0) * weights


def blend_into(
    canvas: NDArray[Any], tile: NDArray[Any], at: int, weights: NDArray[np.float32]
) -> None:
    """Blend a restored tile into a canvas along their first axis.

    Args:
        canvas: (L, ...) uint8, or float, which is not rounded; changed in place.
        tile: (K, ...) of the same type.
        at: Where the tile begins.
        weights: (K,), rising from 0 to 1.
    """
    begin = int(np.searchsorted(weights, 0.0, side="right"))
    full = int(np.searchsorted(weights, 1.0))
    if full > begin:
        weight = weights[begin:full].reshape(-1, *(1,) * (tile.ndim - 1))
        below = canvas[at + begin : at + full]
        blended = below * (1 - weight) + tile[begin:full] * weight
        below[:] = np.rint(blended) if canvas.dtype == np.uint8 else blended
    canvas[at + full : at + len(tile)] = tile[full:]


def tile_slices(down: TileAxis, across: TileAxis) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles of a frame as slices, row by row."""
    for top in down.origins:
        for left in across.origins:
            yield slice(top, top + down.tile), slice(left, left + across.tile)


_WARM, _PROBE = 64, 384
"""Sides of the two frames that are run; the first one makes the one-time allocations."""


def bytes_per_pixel(runner: Runner) -> float:
    """Return the peak of additional resident memory while a frame is run, in bytes per pixel.

    Args:
        runner: Open; for frames of any size.

    Raises:
        OptionError: This system does not report a process's memory.
    """
    if resident_memory() is None:
        raise OptionError(
            "--max-memory needs Linux, which reports a process's memory; give --tile WxH"
        )
    warm, probe = (
        _noise(-(-side // runner.multiple) * runner.multiple) for side in (_WARM, _PROBE)
    )
    runner.run(warm)
    with watch_memory() as growth:
        runner.run(probe)
    height, width = probe.shape[1:3]
    return max(1.0, growth.peak_bytes / int(height * width))


def _noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)


Pixels: TypeAlias = NDArray[np.float32]
"""(H, W, 3) in 8-bit levels, not rounded."""

# Tiles are measured at the exposure of the frame: a first estimate of the context is given with
# this smoothing weight, and subtracted from what the network returns. Nearer to 1 the rounding of
# half precision would dominate.
ESTIMATE_WEIGHT = 0.9


def context_by_tiles(
    runner: ContextRunner,
    frame: Frames,
    tile: tuple[int, int],
    layout: tuple[ContextVector, ...],
    fixed: tuple[int, int] | None,
) -> ContextVectors:
    """Return (1, G): the frame's global context vectors, computed by tiles, nearly exact.

    Args:
        runner: Open.
        frame: (1, H, W, 3) uint8, sides at least those of a tile, and multiples.
        tile: (height, width) of a tile.
        layout: The graph's context vectors.
        fixed: The (height, width) of a graph of one size.
    """
    height, width = frame.shape[1:3]
    axes = (
        TileAxis.of(height, tile[0], 0, runner.multiple),
        TileAxis.of(width, tile[1], 0, runner.multiple),
    )
    decided = [(place, one.thumbnail) for place, one in _places(layout) if one.thumbnail]
    if not decided:
        return _mean_of_tiles(runner, frame, axes, None)
    # measured at each tile's own exposure the means are worth less: 51 dB instead of 55
    estimate = runner.run_with_context(_shrink(frame, tile, runner.multiple, fixed), None, 0.0)[1]
    for place, thumbnail in decided:
        stand_in = frame_with_thumbnail(thumbnail_of(frame[0], thumbnail), thumbnail, runner, fixed)
        estimate[:, place] = runner.run_with_context(stand_in, None, 0.0)[1][:, place]
    vectors = _mean_of_tiles(runner, frame, axes, estimate)
    for place, _ in decided:
        vectors[:, place] = estimate[:, place]
    return vectors


def thumbnail_of(frame: Frames, thumbnail: ThumbnailFacts) -> Pixels:
    """Return the thumbnail of a (H, W, 3) uint8 frame, as the network computes it.

    H and W are multiples of the thumbnail's factor.
    """
    side = thumbnail.factor
    height, width = (length // side for length in frame.shape[:2])
    # sums of rows of boxes first: the whole frame as floats would be four frames
    rows = frame.reshape(height, side, width * side, 3).sum(1, dtype=np.uint32)
    boxes = rows.reshape(height, width, side, 3).sum(2).astype(np.float32) / side**2
    lower = _sample(boxes, thumbnail.size[0])
    small: Pixels = _sample(lower.swapaxes(0, 1), thumbnail.size[1]).swapaxes(0, 1)
    return small


def frame_with_thumbnail(
    small: Pixels, thumbnail: ThumbnailFacts, runner: ContextRunner, fixed: tuple[int, int] | None
) -> Frames:
    """Return (1, h, w, 3) uint8: a frame with this thumbnail.

    Each pixel of the thumbnail becomes a block of boxes. Its value is no 8-bit level: so many of a
    box's pixels are rounded up that the box's mean is nearest to it. Exact but for that where the
    blocks fill the runner's multiple, and the runner takes any size, or one at least twice the
    thumbnail's boxes each way; what is padded to the multiple can move a mean by a level.
    """
    side = thumbnail.factor
    height, width = fixed or (length * side for length in thumbnail.size)
    boxes = [
        _cells(length // side, count)
        for length, count in zip((height, width), thumbnail.size, strict=True)
    ]
    spread = small[boxes[0]][:, boxes[1]].repeat(side, 0).repeat(side, 1)
    steps = (np.arange(side**2, dtype=np.float32) + 0.5) / side**2
    pattern = np.tile(steps.reshape(side, side), (len(boxes[0]), len(boxes[1])))[..., None]
    stand_in = np.floor(spread + pattern).clip(0, 255).astype(np.uint8)
    return pad_to_multiple(stand_in[None], runner.multiple)


def _cells(count: int, pixels: int) -> NDArray[np.intp]:
    """Return which of the thumbnail's PIXELS each of COUNT boxes shows."""
    return ((np.arange(count) + 0.5) * pixels / count).astype(np.intp)


def _sample(values: Pixels, count: int) -> Pixels:
    """Return COUNT samples along the first axis: bilinear, half-pixel centers, clamped."""
    place = (np.arange(count) + 0.5) * len(values) / count - 0.5
    place = place.clip(0, len(values) - 1)
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, len(values) - 1)
    share = (place - below).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    sampled: Pixels = values[below] * (1 - share) + values[above] * share
    return sampled


def _shrink(
    frame: Frames, tile: tuple[int, int], multiple: int, fixed: tuple[int, int] | None
) -> Frames:
    """Return the frame downscaled to a tile by area averaging, its aspect ratio nearly kept."""
    import cv2

    height, width = frame.shape[1:3]
    factor = min(tile[0] / height, tile[1] / width)
    sides = [max(multiple, int(factor * side) // multiple * multiple) for side in (height, width)]
    tall, wide = fixed or sides
    small = cv2.resize(frame[0], (wide, tall), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)[None]


def _mean_of_tiles(
    runner: ContextRunner,
    frame: Frames,
    axes: tuple[TileAxis, TileAxis],
    estimate: ContextVectors | None,
) -> ContextVectors:
    total = np.zeros((1, runner.context_length), np.float64)
    count = 0
    weight = 0.0 if estimate is None else ESTIMATE_WEIGHT
    for rows, columns in tile_slices(*axes):
        used = runner.run_with_context(frame[:, rows, columns], estimate, weight)[1]
        total += used if estimate is None else (used - weight * estimate) / (1 - weight)
        count += 1
    return (total / count).astype(np.float32)


def _places(layout: tuple[ContextVector, ...]) -> list[tuple[slice, ContextVector]]:
    ends = np.cumsum([one.size for one in layout])
    return [
        (slice(int(end) - one.size, int(end)), one) for end, one in zip(ends, layout, strict=True)
    ]


logger = logging.getLogger(__name__)

# Where the manifest states no distance: wide enough to blend one tile into the next.
DEFAULT_OVERLAP = 64


def tile_runner(
    runner: Runner,
    *,
    tile: tuple[int, int] | None = None,
    overlap: int | None = None,
    max_memory_mib: int | None = None,
    whole_pixels: int = 0,
) -> TiledRunner:
    """Return a runner that restores frames of any size in overlapping tiles.

    A frame that fits one tile is restored as a whole.

    Args:
        runner: Open or not; opened and closed with the result.
        tile: (height, width) of a tile, rounded up to the runner's multiple. None for the graph's
            size where that is fixed, else for what `max_memory_mib` allows, else for whole frames.
        overlap: Of neighboring tiles, in pixels. None for twice the distance from a tile's border
            that the manifest states.
        max_memory_mib: Memory limit of one run beside the frames, in MiB. The runner's memory per
            pixel is measured on the first frame.
        whole_pixels: Frames of up to so many pixels are restored as a whole in any case.

    Raises:
        OptionError: Values below 1, a tile beside a memory limit, or another tile than the
            graph's fixed size.
    """
    return TiledRunner(
        runner, tile=tile, overlap=overlap, max_memory_mib=max_memory_mib, whole_pixels=whole_pixels
    )


class TiledRunner(RunnerWrapper):
    """A tiled runner; see `tile_runner`. It takes context vectors where the wrapped runner does."""

    def __init__(
        self,
        runner: Runner,
        *,
        tile: tuple[int, int] | None,
        overlap: int | None,
        max_memory_mib: int | None,
        whole_pixels: int = 0,
    ) -> None:
        """See `tile_runner`."""
        super().__init__(runner)
        self._context_runner = as_context_runner(runner)
        self._float_runner = as_float_runner(runner)
        self._image: ImageContract | None = getattr(runner, "image", None)
        self._fixed = self._image.size if self._image else None
        self._max_memory_mib = max_memory_mib
        self._whole_pixels = whole_pixels
        _check(tile, overlap, max_memory_mib, self._fixed, runner.multiple)
        multiple = runner.multiple
        self._tile = self._fixed or (
            tile and (_round_up(tile[0], multiple), _round_up(tile[1], multiple))
        )
        reach = self._image.reach if self._image else None
        wanted = DEFAULT_OVERLAP if reach is None else 2 * reach
        self.overlap = _round_up(wanted, multiple) if overlap is None else overlap
        """Least overlap of neighboring tiles, in pixels."""
        # neighbors agree from the reach on; with less overlap they are blended
        agree = self._context_runner is not None and reach is not None and self.overlap >= 2 * reach
        self._blend = 0 if agree else self.overlap

    @property
    def context_length(self) -> int:
        """Return that of the wrapped runner."""
        return self._context_runner.context_length if self._context_runner else 0

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

    def run_with_context(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore frames with a weighted mean of their own context vectors and those given.

        Args:
            frames: As for `run`.
            context_in: (N, context_length), finite; None for a smoothing weight of 0.
            smoothing_weight: From 0, the frames' own vectors, to 1, `context_in`, which saves
                computing the frames' own.

        Returns:
            What `run` returns, and the context vectors used.

        Raises:
            MirnetEdgeError: As for `run`, or the vectors or the smoothing weight do not fit.
        """
        check_frames(frames)
        check_context(frames, context_in, smoothing_weight, self.context_length)
        return self._run(frames, context_in, smoothing_weight)

    @property
    def takes_floats(self) -> bool:
        """Whether the wrapped runner takes frames of more than 8 bits, and this one then too."""
        return self._float_runner is not None

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Restore frames without rounding to 8 bits, neither before the network nor after it.

        Global context vectors of a frame of several tiles are those of its 8-bit form.

        Args:
            frames: (N, H, W, 3) float32 RGB in [0, 1] of any size.
            context_in: (N, context_length), used in place of the frames' own; None for their own.

        Returns:
            A new array, (N, scale H, scale W, 3) in [0, 1], which belongs to the caller.

        Raises:
            MirnetEdgeError: As for `run`, or the wrapped runner gives 8 bits alone.
        """
        check_float_frames(frames)
        weight = 0.0 if context_in is None else 1.0
        check_context(frames, context_in, weight, self.context_length)
        if self._float_runner is None:
            raise EngineError(f"{self.name} gives 8 bits alone. Choose another --backend")
        tall, wide = (self.scale * side for side in frames.shape[1:3])
        restored = np.empty((len(frames), tall, wide, 3), np.float32)
        for place in range(len(frames)):
            one = slice(place, place + 1)
            padded = self._pad(frames[one])
            vectors = None if context_in is None else context_in[one]
            tile = self._tile_for(padded)
            if padded.shape[1:3] == tile:
                whole = self._float_runner.run_float(padded, vectors)
            else:
                if vectors is None and self._context_runner is not None:
                    rounded = np.rint(255.0 * padded.clip(0.0, 1.0)).astype(np.uint8)
                    vectors = self._blend_context(rounded, tile, None, 0.0)
                whole = self._restore_tiles(padded, tile, vectors)
            restored[one] = crop_to(whole, tall, wide)
        return restored

    def _pad(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Return frames whose sides are multiples, and at least a tile's of a fixed size."""
        padded = pad_to_multiple(frames, self.multiple)
        if self._fixed:
            sides = zip(padded.shape[1:3], self._fixed, strict=True)
            padded = pad_to(padded, *(max(pair) for pair in sides))
        return padded

    def _run(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        check_frames(frames)
        count, height, width = frames.shape[:3]
        tall, wide = self.scale * height, self.scale * width
        restored = np.empty((count, tall, wide, 3), np.uint8)
        vectors = np.zeros((count, self.context_length), np.float32)
        for place in range(count):
            one = slice(place, place + 1)
            whole, vectors[one] = self._restore(
                self._pad(frames[one]),
                None if context_in is None else context_in[one],
                smoothing_weight,
            )
            restored[one] = crop_to(whole, tall, wide)
        return restored, vectors

    def _restore(
        self, frame: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore a frame whose sides are multiples, and at least a tile's."""
        nothing = np.zeros((1, 0), np.float32)
        tile = self._tile_for(frame)
        if self._context_runner is None:
            if frame.shape[1:3] == tile:
                return self.runner.run(frame), nothing
            return self._restore_tiles(frame, tile, None), nothing
        if frame.shape[1:3] == tile:
            return self._context_runner.run_with_context(frame, context_in, smoothing_weight)
        vectors = self._blend_context(frame, tile, context_in, smoothing_weight)
        return self._restore_tiles(frame, tile, vectors), vectors

    def _blend_context(
        self,
        frame: Frames,
        tile: tuple[int, int],
        context_in: ContextVectors | None,
        smoothing_weight: float,
    ) -> ContextVectors:
        if context_in is not None and smoothing_weight == 1.0:
            return context_in
        if self._context_runner is None or self._image is None:
            raise TypeError("a runner with context vectors states their layout in `image`")
        own = context_by_tiles(self._context_runner, frame, tile, self._image.vectors, self._fixed)
        weight = np.float32(smoothing_weight)
        return own if context_in is None else (1 - weight) * own + weight * context_in

    def _restore_tiles(
        self, frame: NDArray[Any], tile: tuple[int, int], vectors: ContextVectors | None
    ) -> NDArray[Any]:
        """Return (1, scale H, scale W, 3) of the frame's type: the restored tiles, blended."""
        height, width = frame.shape[1:3]
        down = TileAxis.of(height, tile[0], self.overlap, self.multiple)
        across = TileAxis.of(width, tile[1], self.overlap, self.multiple)
        scale = self.scale
        canvas = np.empty((scale * height, scale * width, 3), frame.dtype)
        band = np.empty((scale * width, scale * tile[0], 3), frame.dtype)  # columns first
        for number, (rows, columns) in enumerate(tile_slices(down, across)):
            row, column = divmod(number, len(across.origins))
            piece = self._restore_tile(frame[:, rows, columns], vectors)
            weights = across.blending_weights(column, self._blend, scale)
            blend_into(band, piece.swapaxes(0, 1), scale * columns.start, weights)
            if column + 1 == len(across.origins):
                weights = down.blending_weights(row, self._blend, scale)
                blend_into(canvas, band.swapaxes(0, 1), scale * rows.start, weights)
        return canvas[None]

    def _restore_tile(self, tile: NDArray[Any], vectors: ContextVectors | None) -> NDArray[Any]:
        if self._float_runner is not None and tile.dtype == np.float32:
            restored: FloatFrames = self._float_runner.run_float(tile, vectors)[0]
            return restored
        if self._context_runner is None or vectors is None:
            piece: Frame = self.runner.run(tile)[0]
        else:
            piece = self._context_runner.run_with_context(tile, vectors, 1.0)[0][0]
        return piece

    def _tile_for(self, frame: Frames) -> tuple[int, int]:
        """Return the (height, width) of a frame's tiles; its own where it fits one."""
        height, width = frame.shape[1:3]
        if height * width <= self._whole_pixels:
            return height, width
        if self._tile is None and self._max_memory_mib is not None:
            self._tile = self._largest_tile(self._max_memory_mib)
        tile = self._tile or (height, width)
        return min(tile[0], height), min(tile[1], width)

    def _largest_tile(self, mebibytes: int) -> tuple[int, int]:
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


def _round_up(length: int, multiple: int) -> int:
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
    if tile is not None and tuple(_round_up(side, multiple) for side in tile) != tuple(fixed):
        raise OptionError(
            f"the bundle was exported for {size_text(*fixed)}, which is then the tile, found "
            f"{size_text(*tile)}: leave it out, or export again without --size"
        )
