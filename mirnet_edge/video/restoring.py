"""Restoring video files: every frame, at its own time, with the sound and the colour tags."""

from __future__ import annotations

import io
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.video.decoding import RgbDecoder, VideoReader, colour_of
from mirnet_edge.video.encoding import SUFFIXES, VideoWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from av import Packet
    from av import VideoFrame as Decoded
    from av.stream import Stream

    from mirnet_edge.images import Frame
    from mirnet_edge.video.restorer import Restorer

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *SUFFIXES, ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".3gp", ".y4m",
)  # fmt: skip
"""By which a file is taken for a video."""


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
    on_frame: Callable[[int, int | None], None] = lambda done, total: None,
) -> RestoredVideo:
    """Restore a video into a folder, under its own stem; it is there whole or not at all.

    Kept: the number of frames and the time of each, sound and subtitles (copied), rotation,
    colour matrix, range, transfer and primaries, and the container's metadata. The pictures are
    H.264 with 8 bits, whatever they were.

    Args:
        source: The file.
        restorer: Opened here where it is not yet.
        out: The folder; made where it is missing.
        on_frame: Told after each frame how many are done, and of how many where that is known.

    Raises:
        VideoError: It cannot be read or written, or holds no frame that decodes.
        OptionError: The result would replace the source.
        MirnetEdgeError: The folder cannot be written.
    """
    started = time.monotonic()
    with VideoReader(source) as reader, restorer, ExitStack() as stack:
        copied = _copied(reader)
        output = out / f"{source.stem}{_suffix(source, copied)}"
        if output.resolve() == source.resolve():
            raise OptionError(f"--out {out} would replace {source}; choose another folder")
        job = _Job(reader, restorer, output, copied, stack)
        for packet in reader.packets(*copied):
            if packet.stream.index != reader.stream.index:
                job.copy(packet)
                continue
            for frame in reader.decoded(packet):
                job.restore(frame)
                on_frame(job.frames, _total(reader))
        if job.writer is None:
            raise VideoError(f"{source} holds no frame that can be decoded; name another file")
        shortfall = reader.shortfall(job.frames)
    height, width = job.size
    return RestoredVideo(
        source=source,
        output=output,
        frames=job.frames,
        failed=job.failed,
        width=width,
        height=height,
        seconds=time.monotonic() - started,
        shortfall=shortfall,
    )


class _Job:
    """One file at work. The writer is made at the first frame, which tells what it needs."""

    def __init__(
        self,
        reader: VideoReader,
        restorer: Restorer,
        output: Path,
        copied: list[Stream],
        stack: ExitStack,
    ) -> None:
        self._reader, self._restorer, self._output = reader, restorer, output
        self._copied, self._stack = copied, stack
        self._early: list[Packet[Any]] = []
        self._decoder: RgbDecoder | None = None
        self._last_pts: int | None = None
        self.writer: VideoWriter | None = None
        self.size = (0, 0)
        self.frames = self.failed = 0

    def copy(self, packet: Packet[Any]) -> None:
        """Pass on a packet of sound or text."""
        if self.writer is None:
            self._early.append(packet)
        else:
            self.writer.copy(packet)

    def restore(self, frame: Decoded) -> None:
        """Restore and write one frame."""
        if self._decoder is None:  # a stream that changes its size goes on at its first
            self._decoder = RgbDecoder((frame.height, frame.width))
        after = self._restored(self._decoder.pixels(frame))
        if self.writer is None:
            self.size = (after.shape[0], after.shape[1])
            self.writer = self._stack.enter_context(self._new_writer(frame))
            for packet in self._early:
                self.writer.copy(packet)
            self._early.clear()
        self.writer.write(after, self._pts(frame))
        self.frames += 1

    def _restored(self, pixels: Frame) -> Frame:
        try:
            return self._restorer.restore(pixels)
        except Exception as error:  # noqa: BLE001  # a frame stays as it came, whatever failed
            if not self.failed:
                logger.warning("%s: a frame was not restored: %s", self._reader.path, error)
            self.failed += 1
            return self._restorer.passed(pixels)

    def _pts(self, frame: Decoded) -> int:
        """Return the frame's time: its own, or the next where it has none or goes back."""
        time_base = self._time_base
        if frame.pts is not None and frame.time_base is not None:
            pts = round(frame.pts * frame.time_base / time_base)
        else:
            step = 1 / (self._reader.rate or Fraction(25)) / time_base
            pts = 0 if self._last_pts is None else round(self._last_pts + step)
        if self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + 1
        self._last_pts = pts
        return pts

    @property
    def _time_base(self) -> Fraction:
        return self._reader.stream.time_base or Fraction(1, 90_000)

    def _new_writer(self, frame: Decoded) -> VideoWriter:
        height, width = self.size
        return VideoWriter(
            self._output,
            height=height,
            width=width,
            time_base=self._time_base,
            rate=self._reader.rate,
            colour=colour_of(frame),
            rotation=frame.rotation,
            aspect=self._reader.stream.sample_aspect_ratio,
            copied=self._copied,
            metadata=self._reader.container.metadata,
        )


def _copied(reader: VideoReader) -> list[Stream]:
    """Return the streams beside the pictures that can be copied; tells of those that cannot."""
    streams = reader.container.streams
    copied: list[Stream] = list(streams.audio)
    for stream in streams.subtitles:
        same = reader.path.suffix.lower() in SUFFIXES
        if same:
            copied.append(stream)
        else:
            logger.warning("%s: its subtitles are not kept in another container", reader.path)
    return copied


def _suffix(source: Path, copied: list[Stream]) -> str:
    """Return the result's suffix: its own where that holds H.264 with any timestamps."""
    if source.suffix.lower() in SUFFIXES:
        return source.suffix
    codecs = {stream.codec_context.name for stream in copied}
    return ".mp4" if codecs <= _codecs_of("mp4") else ".mkv"


def _codecs_of(container: str) -> set[str]:
    av = require("av", "writing video")
    with av.open(io.BytesIO(), "w", format=container) as empty:
        return set(empty.supported_codecs)


def _total(reader: VideoReader) -> int | None:
    if reader.promised:
        return reader.promised
    if reader.duration_s and reader.rate:
        return round(reader.duration_s * float(reader.rate))
    return None
