"""Restore video files: every frame at its own time, audio, subtitles and metadata kept."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.video.files.decoding import RgbDecoder, VideoReader, read_color_tags
from mirnet_edge.video.files.muxing import (
    REPRODUCIBLE,
    SUFFIXES,
    Segment,
    SegmentFolder,
    VideoWriter,
    copyable_streams,
    join_segments,
    output_path,
    segments_folder,
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
"""Of files that are treated as videos."""
SEGMENT_FRAMES = 250
"""Frames per segment: libx264 sets a key frame after as many in any case."""


@dataclass(frozen=True, kw_only=True)
class RestoredVideo:
    """The result of restoring one video."""

    source: Path
    output: Path
    frames: int
    """Frames written: as many as could be decoded."""
    failed: int
    """Those of them that could not be restored, and are written unrestored."""
    width: int
    """Of the result."""
    height: int
    seconds: float
    """The time taken, decoding and encoding included."""
    resumed: int
    """Frames that an interrupted earlier run had restored."""
    shortfall: str
    """What is missing of a damaged file, in one line; empty where nothing is."""


def is_video(path: Path) -> bool:
    """Return whether a path has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def restore_video(
    source: Path,
    restorer: Restorer,
    out: Path,
    *,
    name: str | None = None,
    overwrite: bool = True,
    fingerprint: str = "",
    on_frame: Callable[[int, int | None], None] = lambda done, total: None,
) -> RestoredVideo:
    """Restore a video into a folder; the result is written atomically.

    Kept: the number of frames and the time of each, audio and subtitles (copied), rotation,
    color matrix, range, transfer and primaries, and the container's metadata. The video stream is
    H.264 with 8 bits, whatever the source's.

    Finished segments of 250 frames are kept beside the result until it is complete. An interrupted
    run resumes from them, and gives the same bytes as an uninterrupted one.

    Args:
        source: The file.
        restorer: Opened here where it is not yet.
        out: The folder; created where it is missing.
        name: Of the result; the source's where None. Its suffix says which container is preferred.
        overwrite: False refuses to replace a file that is there.
        fingerprint: Of the bundle or network. A run does not resume from segments with another.
        on_frame: Called after each frame with the number done, and the total where it is known.

    Raises:
        VideoError: It cannot be read or written, or has no frame that can be decoded.
        OptionError: The result would replace the source, or a file where `overwrite` is False.
        MirnetEdgeError: The folder cannot be written.
    """
    started = time.monotonic()
    with VideoReader(source) as reader, restorer:
        copied = copyable_streams(reader)
        others = [stream.index for stream in copied]
        output = output_path(source, copied, out, name)
        if output.resolve() == source.resolve():
            raise OptionError(f"--out {out} would replace {source}; choose another folder")
        if output.exists() and not overwrite:
            raise OptionError(f"{output} exists already; --overwrite replaces it")
        segments = SegmentFolder(
            segments_folder(output), _segment_fingerprint(source, restorer, fingerprint)
        )
        with _SegmentWriter(reader, restorer, segments) as writer:
            for packet in reader.packets():
                for frame in reader.decode(packet):
                    writer.add(frame)
                    on_frame(writer.frames, _expected_frames(reader))
            if not writer.frames:
                raise VideoError(f"{source} has no frame that can be decoded; choose another file")
        shortfall = reader.shortfall(writer.frames)
    with VideoReader(source) as reader:
        join_segments(writer.finished, output, reader, others, _time_base(reader), writer.rotation)
    segments.remove()
    height, width = writer.finished[0].size
    return RestoredVideo(
        source=source,
        output=output,
        frames=writer.frames,
        failed=sum(segment.failed for segment in writer.finished),
        width=width,
        height=height,
        seconds=time.monotonic() - started,
        resumed=writer.resumed,
        shortfall=shortfall,
    )


class _SegmentWriter:
    """Restores the frames of one video and writes them, segment by segment."""

    def __init__(self, reader: VideoReader, restorer: Restorer, segments: SegmentFolder) -> None:
        self._reader, self._restorer, self._segments = reader, restorer, segments
        self.finished = segments.read_finished()
        self.resumed = sum(segment.frames for segment in self.finished)
        self._decoder: RgbDecoder | None = None
        self._writer: VideoWriter | None = None
        self._last_pts: int | None = None
        self._first_pts = self._failed = 0
        self._has_warned = False
        self._size = (0, 0)
        self.rotation = 0
        self.frames = 0
        """The number of frames decoded."""

    def __enter__(self) -> _SegmentWriter:
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
            self._finish_segment()
        else:
            if self._writer is not None:
                self._writer.__exit__(kind, error, traceback)
            self._segments.remove_if_empty()

    def add(self, frame: Decoded) -> None:
        """Restore and write one frame, unless an earlier run did."""
        if self._decoder is None:  # a stream that changes its size is scaled to the first
            self._decoder = RgbDecoder((frame.height, frame.width))
            self.rotation = frame.rotation
        pts = self._pts(frame)
        self.frames += 1
        if self.frames <= self.resumed:
            return
        after = self._restore(self._decoder.pixels(frame))
        writer = self._writer or self._start_segment(frame, after, pts)
        writer.write(after, pts)
        if writer.frames == SEGMENT_FRAMES:
            self._finish_segment()

    def _start_segment(self, frame: Decoded, after: Frame, pts: int) -> VideoWriter:
        self._size = height, width = (after.shape[0], after.shape[1])
        self._first_pts = pts
        writer = VideoWriter(
            self._segments.path(len(self.finished)),
            height=height,
            width=width,
            time_base=_time_base(self._reader),
            rate=self._reader.rate,
            color=read_color_tags(frame),
            aspect=self._reader.stream.sample_aspect_ratio,
        )
        self._writer = writer.__enter__()
        return self._writer

    def _finish_segment(self) -> None:
        """Close the current segment, where there is one, and write its record."""
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
        self._segments.write_record(number, segment)
        self.finished.append(segment)

    def _restore(self, pixels: Frame) -> Frame:
        try:
            return self._restorer.restore(pixels)
        except Exception as error:  # noqa: BLE001  # the frame is written unrestored instead
            if not self._has_warned:
                logger.warning("%s: a frame was not restored: %s", self._reader.path, error)
            self._has_warned = True
            self._failed += 1
            return self._restorer.resize_unrestored(pixels)

    def _pts(self, frame: Decoded) -> int:
        """Return the frame's PTS: its own, or the next where it has none or goes back."""
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


def _segment_fingerprint(source: Path, restorer: Restorer, fingerprint: str) -> dict[str, object]:
    """Return all that a restored segment depends on and that can change between two runs."""
    av = require("av", "writing video")
    stat = source.stat()
    return {
        "source": [source.name, stat.st_size, stat.st_mtime_ns],
        "restorer": [restorer.configuration, fingerprint],
        "frames": SEGMENT_FRAMES,
        "encoder": REPRODUCIBLE,
        "versions": [version("mirnet-edge"), av.__version__, av.library_versions],
    }


def _expected_frames(reader: VideoReader) -> int | None:
    if reader.frame_count:
        return reader.frame_count
    if reader.duration_s and reader.rate:
        return round(reader.duration_s * float(reader.rate))
    return None
