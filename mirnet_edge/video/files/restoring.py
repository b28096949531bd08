"""Restoring video files: every frame, at its own time, with the sound and the color tags."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.video.files.decoding import RgbDecoder, VideoReader, color_of
from mirnet_edge.video.files.muxing import (
    REPRODUCIBLE,
    SUFFIXES,
    Segment,
    Segments,
    VideoWriter,
    copied_streams,
    join_segments,
    output_of,
    parts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from av import VideoFrame as Decoded

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.restorer import Restorer

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *SUFFIXES, ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".3gp", ".y4m",
)  # fmt: skip
"""By which a file is taken for a video."""
SEGMENT_FRAMES = 250
"""After so many frames a segment is finished: where libx264 sets a key frame in any case."""


@dataclass(frozen=True, kw_only=True)
class RestoredVideo:
    """One video that was restored."""

    source: Path
    output: Path
    frames: int
    """Written: as many as could be decoded."""
    failed: int
    """Of them, those that could not be restored and are there as they came."""
    width: int
    """Of the result."""
    height: int
    seconds: float
    """What it took, decoding and encoding included."""
    resumed: int
    """Frames that an earlier run, which was cut off, had restored."""
    shortfall: str
    """What is missing of a damaged file, in one line; empty where nothing is."""


def is_video(path: Path) -> bool:
    """Say whether a name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def restore_video(
    source: Path,
    restorer: Restorer,
    out: Path,
    *,
    made_by: str = "",
    on_frame: Callable[[int, int | None], None] = lambda done, total: None,
) -> RestoredVideo:
    """Restore a video into a folder, under its own stem; it is there whole or not at all.

    Kept: the number of frames and the time of each, sound and subtitles (copied), rotation,
    color matrix, range, transfer and primaries, and the container's metadata. The images are
    H.264 with 8 bits, whatever they were.

    Finished segments of 250 frames are kept beside the result until that is there. A run that was
    cut off goes on from them, and gives the same bytes as one that was not.

    Args:
        source: The file.
        restorer: Opened here where it is not yet.
        out: The folder; made where it is missing.
        made_by: What decides the pixels beside the file and the restorer's mode: of a bundle its
            digest. What another made is not gone on from.
        on_frame: Told after each frame how many are done, and of how many where that is known.

    Raises:
        VideoError: It cannot be read or written, or holds no frame that decodes.
        OptionError: The result would replace the source.
        MirnetEdgeError: The folder cannot be written.
    """
    started = time.monotonic()
    with VideoReader(source) as reader, restorer:
        copied = copied_streams(reader)
        others = [stream.index for stream in copied]
        output = output_of(source, copied, out)
        if output.resolve() == source.resolve():
            raise OptionError(f"--out {out} would replace {source}; choose another folder")
        recipe = _recipe(source, restorer, made_by)
        segments = Segments(parts_of(output), recipe)
        with _Job(reader, restorer, segments) as job:
            for packet in reader.packets():
                for frame in reader.decoded(packet):
                    job.take(frame)
                    on_frame(job.frames, _total(reader))
            if not job.frames:
                raise VideoError(f"{source} holds no frame that can be decoded; name another file")
        shortfall = reader.shortfall(job.frames)
    with VideoReader(source) as reader:
        join_segments(job.finished, output, reader, others, _time_base(reader), job.rotation)
    segments.remove()
    height, width = job.finished[0].size
    return RestoredVideo(
        source=source,
        output=output,
        frames=job.frames,
        failed=sum(segment.failed for segment in job.finished),
        width=width,
        height=height,
        seconds=time.monotonic() - started,
        resumed=job.resumed,
        shortfall=shortfall,
    )


class _Job:
    """The images of one file at work, segment by segment, in `with`."""

    def __init__(self, reader: VideoReader, restorer: Restorer, segments: Segments) -> None:
        self._reader, self._restorer, self._segments = reader, restorer, segments
        self.finished = segments.finished()
        self.resumed = sum(segment.frames for segment in self.finished)
        self._decoder: RgbDecoder | None = None
        self._writer: VideoWriter | None = None
        self._last_pts: int | None = None
        self._first_pts = self._failed = 0
        self._told = False
        self._size = (0, 0)
        self.rotation = 0
        self.frames = 0
        """How many were decoded."""

    def __enter__(self) -> _Job:
        if self.finished:
            self._restorer.smoothing_state = self.finished[-1].smoothing_state
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        else:
            if self._writer is not None:
                self._writer.__exit__(kind, error, traceback)
            self._segments.remove_if_empty()

    def take(self, frame: Decoded) -> None:
        """Restore and write one frame, unless an earlier run did."""
        if self._decoder is None:  # a stream that changes its size goes on at its first
            self._decoder = RgbDecoder((frame.height, frame.width))
            self.rotation = frame.rotation
        pts = self._pts(frame)
        self.frames += 1
        if self.frames <= self.resumed:
            return
        after = self._restored(self._decoder.pixels(frame))
        writer = self._writer or self._begin(frame, after, pts)
        writer.write(after, pts)
        if writer.frames == SEGMENT_FRAMES:
            self._finish()

    def _begin(self, frame: Decoded, after: Frame, pts: int) -> VideoWriter:
        self._size = height, width = (after.shape[0], after.shape[1])
        self._first_pts = pts
        writer = VideoWriter(
            self._segments.path(len(self.finished)),
            height=height,
            width=width,
            time_base=_time_base(self._reader),
            rate=self._reader.rate,
            color=color_of(frame),
            aspect=self._reader.stream.sample_aspect_ratio,
        )
        self._writer = writer.__enter__()
        return self._writer

    def _finish(self) -> None:
        """Close a segment, where one is begun, and write its record."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.__exit__(None, None, None)
        number = len(self.finished)
        segment = Segment(
            path=self._segments.path(number),
            frames=writer.frames,
            failed=self._failed,
            first_pts=self._first_pts,
            size=self._size,
            smoothing_state=self._restorer.smoothing_state,
        )
        self._failed = 0
        self._segments.finish(number, segment)
        self.finished.append(segment)

    def _restored(self, pixels: Frame) -> Frame:
        try:
            return self._restorer.restore(pixels)
        except Exception as error:  # noqa: BLE001  # a frame stays as it came, whatever failed
            if not self._told:
                logger.warning("%s: a frame was not restored: %s", self._reader.path, error)
            self._told = True
            self._failed += 1
            return self._restorer.passed(pixels)

    def _pts(self, frame: Decoded) -> int:
        """Return the frame's time: its own, or the next where it has none or goes back."""
        time_base = _time_base(self._reader)
        if frame.pts is not None and frame.time_base is not None:
            pts = round(frame.pts * frame.time_base / time_base)
        else:
            step = 1 / (self._reader.rate or Fraction(25)) / time_base
            pts = 0 if self._last_pts is None else round(self._last_pts + step)
        if self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + 1
        self._last_pts = pts
        return pts


def _time_base(reader: VideoReader) -> Fraction:
    return reader.stream.time_base or Fraction(1, 90_000)


def _recipe(source: Path, restorer: Restorer, made_by: str) -> dict[str, object]:
    """Return all that a restored segment depends on, as far as it can change between two runs."""
    av = require("av", "writing video")
    facts = source.stat()
    return {
        "source": [source.name, facts.st_size, facts.st_mtime_ns],
        "restorer": [restorer.mode, made_by],
        "frames": SEGMENT_FRAMES,
        "encoder": REPRODUCIBLE,
        "versions": [version("mirnet-edge"), av.__version__, av.library_versions],
    }


def _total(reader: VideoReader) -> int | None:
    if reader.promised:
        return reader.promised
    if reader.duration_s and reader.rate:
        return round(reader.duration_s * float(reader.rate))
    return None
