"""Encode and mux videos: the H.264 writer, segments of a resumable run, joining them, names."""

from __future__ import annotations

import io
import json
import logging
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from itertools import chain, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.files import hidden_sibling, replace_file, write_atomically
from mirnet_edge.runtime.temporal_smoothing import SmoothingState
from mirnet_edge.video.files.decoding import (
    SWSCALE_MATRIX,
    SWSCALE_RANGE,
    exact_conversion_flags,
    ffmpeg_reason,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from av import Packet
    from av import VideoFrame as Coded
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.reformatter import VideoReformatter

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.files.decoding import VideoReader
    from mirnet_edge.video.frames import ColorTags, Matrix

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
"""Of output files: containers that hold H.264 with any time stamps."""
SEGMENT_SUFFIX = ".nut"
"""Of segments: a container that keeps any time base."""
_H273_MATRIX: dict[Matrix, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
# visually lossless: encoding must not undo the restoration
_QUALITY = {"crf": "16", "preset": "veryfast"}
REPRODUCIBLE = {"x264-params": "cpu-independent=1", "threads": "4", "thread_type": "frame"}
"""Options of libx264 that make a file's bytes depend on the frames and other options only.

Without the first, its AVX-512 code for the macroblock tree gives other sizes from run to run (x264
165, frames 64 wide). Without the others, it splits a frame into as many slices as there are cores.
"""


class VideoWriter:
    """Writes an H.264 file while its context is open; the file appears whole or not at all."""

    def __init__(
        self,
        path: Path,
        *,
        height: int,
        width: int,
        time_base: Fraction,
        rate: Fraction | None,
        color: ColorTags,
        aspect: Fraction | None = None,
        quality: Mapping[str, str] = _QUALITY,
    ) -> None:
        """Store the options; `with` opens the file.

        Args:
            path: Its suffix is one of `SUFFIXES`, or `SEGMENT_SUFFIX`.
            height: Of the frames.
            width: Of the frames; where a side is odd, chroma is not subsampled (4:4:4).
            time_base: Seconds per unit of PTS.
            rate: The average frame rate, for the encoder's rate control.
            color: The color metadata, by which frames are coded.
            aspect: The pixel aspect ratio, width over height; None for square pixels.
            quality: Options of libx264; they override those in `REPRODUCIBLE`.

        Raises:
            OptionError: The suffix is not supported.
        """
        if path.suffix.lower() not in (*SUFFIXES, SEGMENT_SUFFIX):
            raise OptionError(
                f"expected a video name ending in {', '.join(SUFFIXES)}, found {path.name}"
            )
        self._path = path
        self._size = (height, width)
        self._time_base, self._rate = time_base, rate
        self._color, self._aspect = color, aspect
        self._options = {**REPRODUCIBLE, **quality}
        self._stack = ExitStack()
        self.frames = 0
        """The number of frames written."""

    def __enter__(self) -> VideoWriter:
        av = require("av", "writing video")
        from av.video.reformatter import VideoReformatter

        with ExitStack() as stack:
            part = stack.enter_context(replace_file(self._path))
            self._container = stack.enter_context(av.open(str(part), "w"))
            self._reformatter = VideoReformatter()
            self._video = self._container.add_stream(
                "libx264", rate=self._rate or Fraction(30), options=self._options
            )
            self._set_up_stream()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)  # discards the file
            return
        with self._stack, convert_write_errors(self._path):
            if self.frames:
                self._container.mux(self._video.encode(None))

    def write(self, pixels: Frame, pts: int) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB of the writer's size.
            pts: In units of the time base, increasing from frame to frame.

        Raises:
            VideoError: The frame has another size, or cannot be written.
        """
        if pixels.shape[:2] != self._size:
            raise VideoError(
                f"{self._path}: expected frames of {self._size[1]}x{self._size[0]}, found "
                f"{pixels.shape[1]}x{pixels.shape[0]}; start another file for another size"
            )
        pixel_format = self._video.codec_context.pix_fmt or "yuv420p"
        frame = convert_to_yuv(self._reformatter, pixels, pixel_format, self._color)
        frame.pts, frame.time_base = pts, self._time_base
        with convert_write_errors(self._path):
            self._container.mux(self._video.encode(frame))
        self.frames += 1

    def _set_up_stream(self) -> None:
        height, width = self._size
        context = self._video.codec_context
        context.height, context.width = height, width
        context.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        context.time_base = self._video.time_base = self._time_base
        write_color_tags(context, self._color)
        if self._aspect:
            context.sample_aspect_ratio = self._aspect


def write_color_tags(context: VideoCodecContext, color: ColorTags) -> None:
    """Set the color metadata of an encoder's stream."""
    context.colorspace = _H273_MATRIX[color.matrix]
    context.color_range = SWSCALE_RANGE[color.range]
    context.color_trc = color.transfer
    context.color_primaries = color.primaries


def convert_to_yuv(
    reformatter: VideoReformatter, pixels: Frame, pixel_format: str, color: ColorTags
) -> Coded:
    """Return an RGB frame converted to luma and chroma, for an encoder.

    Args:
        reformatter: Caches its tables from frame to frame.
        pixels: (H, W, 3) uint8 RGB.
        pixel_format: FFmpeg's name of the format, for example yuv420p.
        color: The color matrix and range.
    """
    from av import VideoFrame

    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return reformatter.reformat(
        rgb,
        format=pixel_format,
        src_color_range=SWSCALE_RANGE["full"],
        dst_colorspace=SWSCALE_MATRIX[color.matrix],
        dst_color_range=SWSCALE_RANGE[color.range],
        interpolation=exact_conversion_flags(),
    )


@contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Convert PyAV's errors on writing PATH to a `VideoError`.

    Raises:
        VideoError: It cannot be written.
    """
    av = require("av", "writing video")
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be written: {ffmpeg_reason(error)}. Free disk space or choose "
            "another name"
        ) from error


_FINGERPRINT = "fingerprint.json"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A finished segment of a video: restored and encoded."""

    path: Path
    frames: int
    failed: int
    """Those of them that could not be restored."""
    first_pts: int
    """In units of the source's time base."""
    size: tuple[int, int]
    """(height, width) of its frames."""
    smoothing_state: SmoothingState | None
    """The smoothing state after its last frame."""


class SegmentFolder:
    """The finished segments of one video; the folder is removed once the result is complete.

    A segment is finished once its record is written, atomically and after the segment: killing the
    process at any moment loses the unfinished segment only.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, object]) -> None:
        """Store the folder; nothing is read or written yet.

        Args:
            folder: Beside the result.
            fingerprint: All that the segments depend on, in JSON types; segments with another
                fingerprint are removed.
        """
        self._folder = folder
        self._fingerprint = json.dumps(fingerprint, indent=1, sort_keys=True)

    def read_finished(self) -> list[Segment]:
        """Return the finished segments, in order; remove those with another fingerprint."""
        fingerprint = self._folder / _FINGERPRINT
        if not fingerprint.is_file() or fingerprint.read_text() != self._fingerprint:
            self.remove()
            return []
        segments: list[Segment] = []
        while self._record_path(len(segments)).is_file():
            segments.append(self._read(len(segments)))
        return segments

    def path(self, number: int) -> Path:
        """Return the file of a segment."""
        return self._folder / f"{number:05}{SEGMENT_SUFFIX}"

    def write_record(self, number: int, segment: Segment) -> None:
        """Write a segment's record, which marks it as finished.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        if number == 0:
            write_atomically(self._folder / _FINGERPRINT, self._fingerprint.encode())
        arrays = {
            "frames": np.array([segment.frames, segment.failed]),
            "first_pts": np.array(segment.first_pts),
            "size": np.array(segment.size),
        }
        if segment.smoothing_state is not None:
            smoothing_state = segment.smoothing_state
            arrays |= {
                "shape": np.array(smoothing_state.shape), "seen": smoothing_state.signature,
                "level": smoothing_state.mean_signature, "decided": smoothing_state.context,
            }  # fmt: skip
        record = io.BytesIO()
        np.savez(record, allow_pickle=False, **arrays)  # exact, unlike JSON's decimals
        write_atomically(self._record_path(number), record.getvalue())

    def remove(self) -> None:
        """Remove the folder with its files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder where no segment is finished."""
        if not self.has_finished():
            self.remove()

    def has_finished(self) -> bool:
        """Return whether a segment is finished, whatever its fingerprint."""
        return self._record_path(0).is_file()

    def _record_path(self, number: int) -> Path:
        return self._folder / f"{number:05}.npz"

    def _read(self, number: int) -> Segment:
        with np.load(self._record_path(number)) as record:
            smoothing_state = None
            if "seen" in record:
                shape = tuple(int(side) for side in record["shape"])
                smoothing_state = SmoothingState(
                    shape, record["seen"], record["level"], record["decided"]
                )
            frames, failed = (int(count) for count in record["frames"])
            height, width = (int(side) for side in record["size"])
            return Segment(
                path=self.path(number), frames=frames, failed=failed,
                first_pts=int(record["first_pts"]),
                size=(height, width), smoothing_state=smoothing_state,
            )  # fmt: skip


def join_segments(
    segments: Sequence[Segment],
    output: Path,
    source: VideoReader,
    others: Sequence[int],
    time_base: Fraction,
    rotation: int,
) -> None:
    """Remux segments and the source's other streams into one file, atomically.

    Args:
        segments: In order, encoded alike.
        output: Its suffix is one of `SUFFIXES`.
        source: Newly opened; its metadata and other streams are copied.
        others: The indices of the source's streams to copy.
        time_base: Of the segments' first PTS, and of the output's video stream.
        rotation: Degrees counterclockwise by which players rotate the video.

    Raises:
        VideoError: It cannot be written.
        MirnetEdgeError: The folder cannot be written.
    """
    av = require("av", "writing video")
    with (
        replace_file(output) as part,
        convert_write_errors(output),
        av.open(str(segments[0].path)) as first,
        av.open(str(part), "w") as container,
    ):
        video = container.add_stream_from_template(first.streams.video[0])
        video.time_base = time_base
        if rotation:
            video.set_display_rotation(rotation)
        streams = source.container.streams
        copies = {index: container.add_stream_from_template(streams[index]) for index in others}
        container.metadata.update(source.container.metadata)
        frames = ((packet, video) for packet in retime_packets(segments, time_base))
        for packet, stream in merge(frames, _other_packets(source, copies), key=_dts_s):
            packet.stream = stream
            container.mux(packet)


def retime_packets(segments: Sequence[Segment], time_base: Fraction) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments in coding order, with consistent time stamps.

    A decoder requires DTS that increase and do not exceed PTS. This holds within each segment, but
    with a variable frame rate the next segment's DTS may begin before the last one's end. So all
    DTS are set again: packet i gets the PTS of the frame displayed at position i - d, where d is
    the largest number of positions that any frame is coded ahead of its display order.
    """
    times = [_pts_in_coding_order(segment, time_base) for segment in segments]
    order = sorted(chain.from_iterable(times))
    delay = max(map(_reorder_depth, times))
    steps = [after - before for before, after in pairwise(order)]
    # the last frame has no duration: it gets the mean of the others
    durations = dict(zip(order, [*steps, round(fmean(steps)) if steps else 1], strict=True))
    position = 0
    for segment, segment_times in zip(segments, times, strict=True):
        for packet, pts in zip(_packets(segment), segment_times, strict=True):
            displayed = position - delay
            packet.pts = pts
            packet.dts = (
                order[displayed] if displayed >= 0 else order[0] + displayed * durations[order[0]]
            )
            packet.duration = durations[pts]
            packet.time_base = time_base
            yield packet
            position += 1


def _reorder_depth(times: list[int]) -> int:
    """Return by how many positions a frame is coded ahead of its display order, at most."""
    displayed = {pts: position for position, pts in enumerate(sorted(times))}
    return max(position - displayed[pts] for position, pts in enumerate(times))


def _pts_in_coding_order(segment: Segment, time_base: Fraction) -> list[int]:
    """Return the PTS of a segment's packets in coding order, on the source's time line."""
    # all packets of an encoder have a PTS
    own = [
        round(cast("int", packet.pts) * packet.time_base / time_base)
        for packet in _packets(segment)
    ]
    shift = segment.first_pts - min(own)  # the segment's container starts at 0
    return [pts + shift for pts in own]


def _packets(segment: Segment) -> Iterator[Packet[Any]]:
    av = require("av", "writing video")
    with av.open(str(segment.path)) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _other_packets(
    source: VideoReader, copies: dict[int, Stream]
) -> Iterator[tuple[Packet[Any], Stream]]:
    """Yield the packets of the source's other streams, with the output streams they go to."""
    if not copies:
        return
    streams = source.container.streams
    for packet in source.packets(*(streams[index] for index in copies)):
        # video packets are skipped; those without a DTS are empty and mark the end
        if packet.stream.index in copies and packet.dts is not None:
            yield packet, copies[packet.stream.index]


def _dts_s(packet_and_stream: tuple[Packet[Any], Stream]) -> float:
    packet, _ = packet_and_stream
    return float(cast("int", packet.dts) * packet.time_base)  # `_other_packets` skips those without


_FALLBACK_SUFFIXES = (".mp4", ".mkv")  # where the source's container cannot hold H.264


def output_path(source: Path, copied: Sequence[Stream], out: Path, name: str | None = None) -> Path:
    """Return the result's file: in the container of its name where that can hold H.264.

    Args:
        source: The video.
        copied: Its streams that are copied.
        out: The folder of the result.
        name: Of the result; the source's where None. Its suffix is replaced where needed.
    """
    named = out / (name or source.name)
    if named.suffix.lower() in SUFFIXES:
        return named
    mp4, mkv = _FALLBACK_SUFFIXES
    codecs = {stream.codec_context.name for stream in copied}
    return named.with_suffix(mp4 if codecs <= _supported_codecs("mp4") else mkv)


def segments_folder(output: Path) -> Path:
    """Return the folder of a result's finished segments."""
    return hidden_sibling(output, ".parts")


def has_segments(source: Path, out: Path, name: str | None = None) -> bool:
    """Return whether OUT has finished segments of a video, from which a run would resume."""
    return any(
        SegmentFolder(segments_folder(output), {}).has_finished()
        for output in possible_outputs(source, out, name)
    )


def is_restored(source: Path, out: Path, name: str | None = None) -> bool:
    """Return whether OUT has a video's result, whatever its configuration."""
    return any(
        output.is_file() and output.resolve() != source.resolve()
        for output in possible_outputs(source, out, name)
    )


def possible_outputs(source: Path, out: Path, name: str | None = None) -> set[Path]:
    """Return the files that `output_path` may choose from."""
    named = out / (name or source.name)
    return {named.with_suffix(suffix) for suffix in (named.suffix, *_FALLBACK_SUFFIXES)}


def copyable_streams(reader: VideoReader) -> list[Stream]:
    """Return the audio and subtitle streams that can be copied; warn about those that cannot."""
    streams = reader.container.streams
    copied: list[Stream] = list(streams.audio)
    for stream in streams.subtitles:
        if reader.path.suffix.lower() in SUFFIXES:
            copied.append(stream)
        else:
            logger.warning(
                "%s: its subtitles are not copied, because the result has another container",
                reader.path,
            )
    return copied


def _supported_codecs(container: str) -> set[str]:
    av = require("av", "writing video")
    with av.open(io.BytesIO(), "w", format=container) as empty:
        return set(empty.supported_codecs)
