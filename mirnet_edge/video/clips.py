"""Short pieces of video in memory, for measuring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import VideoError
from mirnet_edge.video.streams import FileSource

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.images import Frame, Frames


def read_clip(path: Path, count: int, *, widest: int | None = None) -> Frames:
    """Return the first frames of a video, (N, H, W, 3) uint8 RGB, upright.

    Args:
        path: Of any format that FFmpeg knows.
        count: How many frames.
        widest: Frames that are wider are made smaller.

    Raises:
        VideoError: It is no video, or has fewer frames than that.
    """
    import cv2

    frames: list[Frame] = []
    with FileSource(path) as source:
        while len(frames) < count and (read := source.read()) is not None:
            pixels = read.pixels
            height, width = pixels.shape[:2]
            if widest is not None and width > widest:
                size = (widest, round(widest * height / width))
                pixels = np.asarray(
                    cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8
                )
            frames.append(pixels)
    if len(frames) < count:
        raise VideoError(
            f"{path} has {len(frames)} frames that can be decoded; expected at least {count}"
        )
    return np.stack(frames)
