"""Write a video's source and its result side by side, to look at both at once."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from mirnet_edge.runtime.restore import side_by_side
from mirnet_edge.video.files.decoding import (
    RgbDecoder,
    VideoReader,
    read_color_tags,
    rotate_upright,
)
from mirnet_edge.video.files.encoding import EncodingOptions, VideoWriter
from mirnet_edge.video.files.inspection import inspect_video
from mirnet_edge.video.files.restoring import FrameReader, video_time_base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from fractions import Fraction
    from pathlib import Path

    from av import VideoFrame as Decoded

    from mirnet_edge.images.contract import Frame


def compare_videos(
    source: Path,
    restored: Path,
    output: Path,
    *,
    on_frame: Callable[[int], None] = lambda done: None,
) -> tuple[int, int]:
    """Write the frames of a video and of its result side by side, and return (height, width).

    Each frame has the time of the result's. Frames stand upright, those of the source enlarged to
    the result's size, as a player shows them; 8 bits per channel, and no sound.

    Args:
        source: The video that was restored.
        restored: What `restore_video` wrote of it.
        output: An .mp4 file; it appears whole or not at all.
        on_frame: Called after each frame with the number done.

    Raises:
        VideoError: One of them cannot be read, or the comparison cannot be written.
        MirnetEdgeError: The folder cannot be written.
    """
    inspection = inspect_video(source)
    size = (0, 0)
    with VideoReader(source) as before, VideoReader(restored) as after, ExitStack() as stack:
        decoder: RgbDecoder | None = None
        writer: VideoWriter | None = None
        frames = FrameReader(before, inspection)
        for (old, pts), new in zip(frames, _decode_all(after), strict=False):
            decoder = decoder or RgbDecoder((new.height, new.width), keeps_aspect=True)
            pixels = side_by_side(*_upright(decoder, (old, new), new.rotation))
            if writer is None:
                size = (pixels.shape[0], pixels.shape[1])
                options = EncodingOptions(
                    height=size[0], width=size[1], time_base=video_time_base(before),
                    rate=before.rate, color=read_color_tags(new),
                    aspect=_upright_aspect(after.stream.sample_aspect_ratio, new.rotation),
                )  # fmt: skip
                writer = stack.enter_context(VideoWriter(output, options))
            writer.write(pixels, pts)
            on_frame(writer.frames)
    return size


def _decode_all(reader: VideoReader) -> Iterator[Decoded]:
    for packet in reader.packets():
        yield from reader.decode(packet)


def _upright(decoder: RgbDecoder, frames: Iterable[Decoded], rotation: int) -> list[Frame]:
    return [rotate_upright(decoder.pixels(frame), rotation) for frame in frames]


def _upright_aspect(aspect: Fraction | None, rotation: int) -> Fraction | None:
    """Return the pixel aspect ratio of frames that were rotated upright."""
    is_on_its_side = round(rotation / 90) % 2 == 1
    return 1 / aspect if aspect and is_on_its_side else aspect
