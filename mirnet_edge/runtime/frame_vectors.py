"""A frame's pooled vectors where the frame itself does not fit: found out tile by tile.

Two kinds of vector, two ways. What is decided on a thumbnail is decided on the whole frame's
thumbnail, exactly: a small frame is made up that has the same one. What is a mean over the frame
is the mean of the tiles' means: near, not exact, because at a tile's border convolutions see
nothing beyond it. All tiles then get the same vectors, and that is what keeps seams away.
docs/decisions/010-anchored-pooling.md holds the measurements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.images import pad_to_multiple
from mirnet_edge.runtime.seams import Axis, squares

if TYPE_CHECKING:
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import PooledVector, Thumbnail
    from mirnet_edge.runtime.runner import AnchoredRunner, Vectors

Pixels: TypeAlias = NDArray[np.float32]
"""(H, W, 3) in 8-bit levels, not rounded."""

# While tiles are measured they are exposed as the frame will be: the first guess is given with
# this memory, and taken out again from what comes back. Nearer to 1 the rounding of half
# precision would be left.
_GUIDANCE = 0.9


def vectors_by_tiles(
    runner: AnchoredRunner,
    frame: Frames,
    tile: tuple[int, int],
    layout: tuple[PooledVector, ...],
    fixed: tuple[int, int] | None,
) -> Vectors:
    """Return (1, G): about what the frame's vectors are.

    Args:
        runner: Open.
        frame: (1, H, W, 3) uint8, sides at least those of a tile, and multiples.
        tile: (height, width) of what the runner takes at once.
        layout: The vectors of the graph.
        fixed: The (height, width) of a graph of one size.
    """
    height, width = frame.shape[1:3]
    axes = (
        Axis.of(height, tile[0], 0, runner.multiple),
        Axis.of(width, tile[1], 0, runner.multiple),
    )
    decided = [(place, one.thumbnail) for place, one in _places(layout) if one.thumbnail]
    if not decided:
        return _mean_of_tiles(runner, frame, axes, None)
    # measured at each tile's own exposure the means are worth less: 51 dB instead of 55
    guess = runner.run_anchored(_shrunk(frame, tile, runner.multiple, fixed), None, 0.0)[1]
    for place, thumbnail in decided:
        stand_in = stand_in_for(thumbnail_of(frame[0], thumbnail), thumbnail, runner, fixed)
        guess[:, place] = runner.run_anchored(stand_in, None, 0.0)[1][:, place]
    vectors = _mean_of_tiles(runner, frame, axes, guess)
    for place, _ in decided:
        vectors[:, place] = guess[:, place]
    return vectors


def thumbnail_of(frame: Frames, thumbnail: Thumbnail) -> Pixels:
    """Return the thumbnail of a (H, W, 3) uint8 frame, as the network makes it.

    H and W are multiples of the thumbnail's factor.
    """
    side = thumbnail.factor
    height, width = (length // side for length in frame.shape[:2])
    # sums of rows of boxes first: the whole frame as floats would be four frames
    rows = frame.reshape(height, side, width * side, 3).sum(1, dtype=np.uint32)
    boxes = rows.reshape(height, width, side, 3).sum(2).astype(np.float32) / side**2
    lower = _sampled(boxes, thumbnail.size[0])
    small: Pixels = _sampled(lower.swapaxes(0, 1), thumbnail.size[1]).swapaxes(0, 1)
    return small


def stand_in_for(
    small: Pixels, thumbnail: Thumbnail, runner: AnchoredRunner, fixed: tuple[int, int] | None
) -> Frames:
    """Return (1, h, w, 3) uint8, a frame that has this thumbnail.

    Each pixel of the thumbnail becomes a block of boxes. It is no 8-bit level; of a box's pixels
    as many are rounded up as bring the mean to within half a box's pixel of it. Exact but for
    that where the runner takes any size, or one at least twice the thumbnail's boxes each way.
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


def _sampled(values: Pixels, count: int) -> Pixels:
    """Return COUNT samples along the first axis: bilinear, half-pixel centres, clamped."""
    place = (np.arange(count) + 0.5) * len(values) / count - 0.5
    place = place.clip(0, len(values) - 1)
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, len(values) - 1)
    share = (place - below).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    sampled: Pixels = values[below] * (1 - share) + values[above] * share
    return sampled


def _shrunk(
    frame: Frames, tile: tuple[int, int], multiple: int, fixed: tuple[int, int] | None
) -> Frames:
    """Return the frame as small as a tile: areas are averaged, its shape is about kept."""
    import cv2

    height, width = frame.shape[1:3]
    factor = min(tile[0] / height, tile[1] / width)
    sides = [max(multiple, int(factor * side) // multiple * multiple) for side in (height, width)]
    tall, wide = fixed or sides
    small = cv2.resize(frame[0], (wide, tall), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)[None]


def _mean_of_tiles(
    runner: AnchoredRunner, frame: Frames, axes: tuple[Axis, Axis], guess: Vectors | None
) -> Vectors:
    total = np.zeros((1, runner.vector_length), np.float64)
    count = 0
    memory = 0.0 if guess is None else _GUIDANCE
    for rows, columns in squares(*axes):
        used = runner.run_anchored(frame[:, rows, columns], guess, memory)[1]
        total += used if guess is None else (used - memory * guess) / (1 - memory)
        count += 1
    return (total / count).astype(np.float32)


def _places(layout: tuple[PooledVector, ...]) -> list[tuple[slice, PooledVector]]:
    ends = np.cumsum([one.size for one in layout])
    return [
        (slice(int(end) - one.size, int(end)), one) for end, one in zip(ends, layout, strict=True)
    ]
