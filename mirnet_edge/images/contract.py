"""The image contract: frames and batches, conversion, padding and cropping.

A frame is (H, W, 3) uint8 RGB; frames are (N, H, W, 3). A batch is (N, 3, H, W) float32 RGB in
[0, 1]. Every network states a multiple that height and width must have: frames are enlarged by
reflection at the bottom and the right, and cut back.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ImageError

Frame: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
Frames: TypeAlias = NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""
FloatFrames: TypeAlias = NDArray[np.float32]
"""(N, H, W, 3) float32 RGB in [0, 1]: frames of more than 8 bits."""
Batch: TypeAlias = NDArray[np.float32]
"""(N, 3, H, W) float32 RGB in [0, 1]."""

_Pixels = TypeVar("_Pixels", bound=NDArray[Any])

LUMA = np.array([0.299, 0.587, 0.114])
"""Share of R, G and B in brightness: ITU-R BT.601, as OpenCV's RGB to gray."""


def check_frames(frames: Frames) -> None:
    """Refuse what is not (N, H, W, 3) uint8 with at least one pixel.

    Raises:
        ImageError: Another type, number of axes or channels, or nothing in it.
    """
    if not isinstance(frames, np.ndarray):
        raise ImageError(
            f"frames must be a numpy array (N, H, W, 3) of uint8, found {type(frames).__name__}; "
            "convert with numpy.asarray"
        )
    if frames.dtype != np.uint8:
        raise ImageError(
            f"frames must be uint8 from 0 to 255, found {frames.dtype}; for floats in [0, 1] give "
            "(frames * 255).round().astype('uint8')"
        )
    _check_shape(frames)


def check_float_frames(frames: FloatFrames) -> None:
    """Refuse what is not (N, H, W, 3) float32 with at least one pixel.

    Raises:
        ImageError: Another type, number of axes or channels, or nothing in it.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.float32:
        found = getattr(frames, "dtype", type(frames).__name__)
        raise ImageError(
            f"frames must be a numpy array (N, H, W, 3) of float32 in [0, 1], found {found}; for "
            "16 bits give (frames / 65535).astype('float32')"
        )
    _check_shape(frames)


def _check_shape(frames: NDArray[Any]) -> None:
    if frames.ndim != 4:
        hint = "give frame[None] for a single one" if frames.ndim == 3 else "stack them"
        raise ImageError(f"frames must have 4 axes (N, H, W, 3), found {frames.ndim}; {hint}")
    if frames.shape[3] != 3:
        raise ImageError(
            f"frames must have 3 channels (R, G, B) on their last axis, found {frames.shape[3]} in "
            f"shape {frames.shape}; convert gray or RGBA images to RGB first"
        )
    if frames.size == 0:
        raise ImageError(f"frames must hold at least one pixel, found shape {frames.shape}")


def size_text(height: int, width: int) -> str:
    """Return a size as users see it: WIDTHxHEIGHT."""
    return f"{width}x{height}"


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Return the (height, width) that `pad_to_multiple` enlarges to."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_to_multiple(frames: _Pixels, multiple: int) -> _Pixels:
    """Enlarge frames at the bottom and the right until both sides are multiples.

    The padding reflects the frame as numpy.pad's mode "reflect" does: without repeating the edge,
    and back and forth where the frame is smaller than the padding.

    Args:
        frames: (N, H, W, C) of any type, from 1x1 up.
        multiple: At least 1.

    Returns:
        A new array, or `frames` itself where nothing is missing.
    """
    height, width = frames.shape[1:3]
    return pad_to(frames, *padded_size(height, width, multiple))


def pad_to(frames: _Pixels, tall: int, wide: int) -> _Pixels:
    """Enlarge frames at the bottom and the right, as `pad_to_multiple` does, to a size.

    Args:
        frames: (N, H, W, C) of any type, from 1x1 up.
        tall: At least H.
        wide: At least W.

    Returns:
        A new array, or `frames` itself where nothing is missing.
    """
    count, height, width, channels = frames.shape
    if (tall, wide) == (height, width):
        return frames
    # on every frame's path: numpy.pad takes 3 ms for a 720p frame, writing the two strips 1 ms
    padded = np.empty((count, tall, wide, channels), frames.dtype)
    padded[:, :height, :width] = frames
    padded[:, height:, :width] = frames[:, _reflect_indices(height, tall)]
    padded[:, :, width:] = padded[:, :, _reflect_indices(width, wide)]
    return cast("_Pixels", padded)


def _reflect_indices(length: int, enlarged: int) -> NDArray[np.intp]:
    """Return the indices that pad a side of LENGTH by reflection."""
    period = max(1, 2 * (length - 1))
    place = np.arange(length, enlarged) % period
    return np.minimum(place, period - place)


def crop_to(frames: _Pixels, height: int, width: int) -> _Pixels:
    """Return the top left part of that size, a view of FRAMES.

    Raises:
        ImageError: The frames are smaller.
    """
    if frames.shape[1] < height or frames.shape[2] < width:
        raise ImageError(
            f"frames are {size_text(*frames.shape[1:3])}, expected at least "
            f"{size_text(height, width)}; give the padded ones"
        )
    return cast("_Pixels", frames[:, :height, :width])


def batch_from_frames(frames: Frames) -> Batch:
    """Return frames as a network's input.

    Args:
        frames: (N, H, W, 3) uint8 RGB.

    Returns:
        (N, 3, H, W) float32 RGB in [0, 1], contiguous.
    """
    # order "C" after the transpose: a contiguous array in one pass
    batch: Batch = frames.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    batch *= np.float32(1.0 / 255.0)
    return batch


def frames_from_batch(batch: Batch) -> Frames:
    """Return a network's output as frames: clamped, rounded half to even.

    Args:
        batch: (N, 3, H, W) floating RGB; what lies outside [0, 1] is clamped, NaN is black.

    Returns:
        (N, H, W, 3) uint8 RGB, contiguous.
    """
    levels = np.nan_to_num(np.asarray(batch, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    np.clip(levels, 0.0, 1.0, out=levels)
    levels *= np.float32(255.0)
    np.rint(levels, out=levels)
    frames: Frames = levels.transpose(0, 2, 3, 1).astype(np.uint8, order="C")
    return frames
