"""Frames of a video file at intervals, to look at what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.video.files.decoding import RgbDecoder, VideoReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av import VideoFrame as Decoded

    from mirnet_edge.images.contract import Frame

INTERVAL_S = 3.0
LARGEST_COUNT = 12
"""Of frames, of a whole film: those of a long one are further apart."""


def sample_frames(
    path: Path, *, interval_s: float = INTERVAL_S, largest_count: int = LARGEST_COUNT
) -> Iterator[Frame]:
    """Yield frames of a video at intervals, (H, W, 3) uint8 RGB; decoded on demand.

    Each is the key frame at or before its time: what lies between them is not decoded. Of a video
    without a stated duration the first frame alone is given.

    Args:
        path: The file.
        interval_s: Seconds from frame to frame, at least.
        largest_count: Frames of the whole file, at most.

    Raises:
        VideoError: It cannot be read.
    """
    with VideoReader(path) as reader:
        duration_s = reader.duration_s or 0.0
        step_s = max(interval_s, duration_s / largest_count)
        decoder: RgbDecoder | None = None
        for place in range(max(1, round(duration_s / step_s))):
            frame = _frame_from(reader, place * step_s)
            if frame is None:
                return
            decoder = decoder or RgbDecoder((frame.height, frame.width))
            yield decoder.pixels(frame)


def _frame_from(reader: VideoReader, time_s: float) -> Decoded | None:
    """Return the key frame at or before a time from the start; None where none can be decoded."""
    av = require("av", "reading video")
    if time_s > 0.0:
        start = reader.container.start_time or 0
        try:
            reader.container.seek(start + round(time_s * av.time_base))
        except av.FFmpegError:  # a stream that cannot seek
            return None
    for packet in reader.packets():
        for frame in reader.decode(packet):
            return frame
    return None
