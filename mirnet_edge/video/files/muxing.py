"""Encode and mux videos: output files, finished segments, joining with source streams."""

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
from mirnet_edge.files import replaced_file, write_atomically
from mirnet_edge.runtime.temporal_smoothing import SmoothingState
from mirnet_edge.video.files.decoding import (
    SWSCALE_MATRIX,
    SWSCALE_RANGE,
    exact_conversion_flags,
    reason_of,
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
    from mirnet_edge.video.frames import ColorTags, DisplayedFrame, Matrix

logger = logging.getLogger(__name__)

_OTHERS = (".mp4", ".mkv")  # of results whose source's own container cannot hold H.264


def output_of(source: Path, copied: Sequence[Stream], out: Path) -> Path:
    """Return the result's file: in its own container where that holds H.264 with any timestamps."""
    suffix = source.suffix
    if suffix.lower() not in SUFFIXES:
        usual, lenient = _OTHERS
        codecs = {stream.codec_context.name for stream in copied}
        suffix = usual if codecs <= _codecs_of("mp4") else lenient
    return out / f"{source.stem}{suffix}"


def parts_of(output: Path) -> Path:
    """Return the folder that holds a result's finished segments until it is there."""
    return output.with_name(f".{output.name}.parts")


def has_parts(source: Path, out: Path) -> bool:
    """Say whether finished segments of a video lie in OUT, from which a run would go on."""
    return any(Segments(parts_of(output), {}).any() for output in _outputs(source, out))


def is_restored(source: Path, out: Path) -> bool:
    """Say whether OUT holds a video's result, whatever made it: results are there whole."""
    return any(
        output.is_file() and output.resolve() != source.resolve()
        for output in _outputs(source, out)
    )


def _outputs(source: Path, out: Path) -> set[Path]:
    return {out / f"{source.stem}{suffix}" for suffix in (source.suffix, *_OTHERS)}


def copied_streams(reader: VideoReader) -> list[Stream]:
    """Return the streams beside the images that can be copied; tells of those that cannot."""
    streams = reader.container.streams
    copied: list[Stream] = list(streams.audio)
    for stream in streams.subtitles:
        same = reader.path.suffix.lower() in SUFFIXES
        if same:
            copied.append(stream)
        else:
            logger.warning("%s: its subtitles are not kept in another container", reader.path)
    return copied


def _codecs_of(container: str) -> set[str]:
    av = require("av", "writing video")
    with av.open(io.BytesIO(), "w", format=container) as empty:
        return set(empty.supported_codecs)


SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
"""Of the files that are written: containers that hold H.264 with any timestamps."""
PART_SUFFIX = ".nut"
"""Of a part that is to be joined with others: a container that keeps any time base."""
_H273_MATRIX: dict[Matrix, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
# near the eye's limit: restoring is not to be undone by the file it is kept in
_QUALITY = {"crf": "16", "preset": "veryfast"}
REPRODUCIBLE = {"x264-params": "cpu-independent=1", "threads": "4", "thread_type": "frame"}
"""Options of libx264 by which the frames and the other options alone decide a file's bytes.

Without the first, its AVX-512 code for the macroblock tree gives other sizes from run to run (x264
165, frames 64 wide). Without the others, it cuts a frame into as many slices as there are cores.
"""
_TICK = Fraction(1, 90_000)


class VideoWriter:
    """An H.264 file that is being written; it appears under its name when `with` ends well."""

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
        """Say what is to be written; nothing is yet.

        Args:
            path: Its suffix is one of `SUFFIXES`, or `PART_SUFFIX`.
            height: Of the frames.
            width: Of the frames; where a side is odd, chroma is stored at full size (4:4:4).
            time_base: Seconds per unit of the times.
            rate: Frames per second on average, for the encoder's own use.
            color: By which frames are coded, and tagged.
            aspect: Width over height of a pixel; None for square ones.
            quality: Options of libx264, beside `REPRODUCIBLE`, which they may replace.

        Raises:
            OptionError: Another suffix.
        """
        if path.suffix.lower() not in (*SUFFIXES, PART_SUFFIX):
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
        """How many were written."""

    def __enter__(self) -> VideoWriter:
        av = require("av", "writing video")
        from av.video.reformatter import VideoReformatter

        with ExitStack() as stack:
            part = stack.enter_context(replaced_file(self._path))
            self._container = stack.enter_context(av.open(str(part), "w"))
            self._reformatter = VideoReformatter()
            self._video = self._container.add_stream(
                "libx264", rate=self._rate or Fraction(30), options=self._options
            )
            self._set_up_video()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)  # keeps nothing
            return
        with self._stack, write_errors(self._path):
            if self.frames:
                self._container.mux(self._video.encode(None))

    def write(self, pixels: Frame, pts: int) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB of the writer's size.
            pts: In units of the time base; rises from frame to frame.

        Raises:
            VideoError: Another size, or it cannot be written.
        """
        if pixels.shape[:2] != self._size:
            raise VideoError(
                f"{self._path}: expected frames of {self._size[1]}x{self._size[0]}, found "
                f"{pixels.shape[1]}x{pixels.shape[0]}; write another file for another size"
            )
        layout = self._video.codec_context.pix_fmt or "yuv420p"
        frame = luma_and_chroma(self._reformatter, pixels, layout, self._color)
        frame.pts, frame.time_base = pts, self._time_base
        with write_errors(self._path):
            self._container.mux(self._video.encode(frame))
        self.frames += 1

    def _set_up_video(self) -> None:
        height, width = self._size
        context = self._video.codec_context
        context.height, context.width = height, width
        context.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        context.time_base = self._video.time_base = self._time_base
        write_color_tags(context, self._color)
        if self._aspect:
            context.sample_aspect_ratio = self._aspect


def write_color_tags(context: VideoCodecContext, color: ColorTags) -> None:
    """Write into an encoder's stream how its frames are coded."""
    context.colorspace = _H273_MATRIX[color.matrix]
    context.color_range = SWSCALE_RANGE[color.range]
    context.color_trc = color.transfer
    context.color_primaries = color.primaries


def luma_and_chroma(
    reformatter: VideoReformatter, pixels: Frame, layout: str, color: ColorTags
) -> Coded:
    """Return (H, W, 3) uint8 RGB as an encoder takes it, coded by a matrix and range.

    Args:
        reformatter: Keeps its tables from frame to frame.
        pixels: The frame.
        layout: FFmpeg's name of how luma and chroma are stored.
        color: How they are coded.
    """
    from av import VideoFrame

    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return reformatter.reformat(
        rgb,
        format=layout,
        src_color_range=SWSCALE_RANGE["full"],
        dst_colorspace=SWSCALE_MATRIX[color.matrix],
        dst_color_range=SWSCALE_RANGE[color.range],
        interpolation=exact_conversion_flags(),
    )


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what PyAV raises while it writes PATH into one line.

    Raises:
        VideoError: It cannot be written.
    """
    av = require("av", "writing video")
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be written: {reason_of(error)}. Free the disk, or choose another name"
        ) from error


class Recorder:
    """A sink that writes what is shown while recording is on, one file per time it was switched on.

    Frames keep the times at which they were captured; those that live video drops are missing.
    To be used through `Detached`: encoding takes longer than a sink may.
    """

    def __init__(self, path: Path) -> None:
        """Remember the name; later recordings are called STEM-2, STEM-3.

        Raises:
            OptionError: Its suffix is none that is written.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError(
                f"--record must end in {', '.join(SUFFIXES)}, found {path.name}; rename it"
            )
        require("av", "recording")
        self._path = path
        self._writer: VideoWriter | None = None
        self._size: tuple[int, int] | None = None
        self._origin_s = 0.0
        self._last_pts = -1
        self.files: list[Path] = []
        """Those begun, in order."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish()  # what was recorded is kept, whatever ended the run

    def show(self, shown: DisplayedFrame) -> None:
        """Write a frame, where recording is on and the frame is a new one.

        Raises:
            VideoError: It cannot be written.
        """
        if not shown.figures.recording:
            self._finish()
            return
        if self._writer is None or shown.after.shape[:2] != self._size:
            self._begin(shown)
        pts = round((shown.before.captured_s - self._origin_s) / _TICK)
        if self._writer is not None and pts > self._last_pts:
            self._writer.write(shown.after, pts)
            self._last_pts = pts

    def _begin(self, shown: DisplayedFrame) -> None:
        self._finish()
        number = len(self.files) + 1
        name = self._path.name if number == 1 else f"{self._path.stem}-{number}{self._path.suffix}"
        height, width = shown.after.shape[:2]
        writer = VideoWriter(
            self._path.with_name(name), height=height, width=width, time_base=_TICK, rate=None,
            color=shown.before.color,
        )  # fmt: skip
        self._writer = writer.__enter__()
        self.files.append(self._path.with_name(name))
        self._size, self._last_pts = (height, width), -1
        self._origin_s = shown.before.captured_s

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(None, None, None)


_RECIPE = "recipe.json"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a video that is restored and coded."""

    path: Path
    frames: int
    failed: int
    """Of them, those that could not be restored."""
    first_pts: int
    """In units of the source's time base."""
    size: tuple[int, int]
    """(height, width) of its frames."""
    smoothing_state: SmoothingState | None
    """What the frame after it is smoothed with."""


class Segments:
    """A folder of finished segments of one video; it is there only while something is unfinished.

    A segment counts once its record is there, which is written after the segment itself, whole or
    not at all: a kill at any moment loses what is not finished, and nothing else.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, object]) -> None:
        """Name the folder; nothing is read or written yet.

        Args:
            folder: Beside the result.
            recipe: All that the segments depend on; others are thrown away. Made of what JSON has.
        """
        self._folder = folder
        self._recipe = json.dumps(recipe, indent=1, sort_keys=True)

    def finished(self) -> list[Segment]:
        """Return what can be gone on from, in order; what was made otherwise is removed."""
        known = self._folder / _RECIPE
        if not known.is_file() or known.read_text() != self._recipe:
            self.remove()
            return []
        segments: list[Segment] = []
        while self._record(len(segments)).is_file():
            segments.append(self._read(len(segments)))
        return segments

    def path(self, number: int) -> Path:
        """Return where a segment is to be written."""
        return self._folder / f"{number:05}{PART_SUFFIX}"

    def finish(self, number: int, segment: Segment) -> None:
        """Write a segment's record, after the segment.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        if number == 0:
            write_atomically(self._folder / _RECIPE, self._recipe.encode())
        arrays = {
            "frames": np.array([segment.frames, segment.failed]),
            "first_pts": np.array(segment.first_pts),
            "size": np.array(segment.size),
        }
        if segment.smoothing_state is not None:
            smoothing_state = segment.smoothing_state
            arrays |= {
                "shape": np.array(smoothing_state.shape), "seen": smoothing_state.seen,
                "level": smoothing_state.level, "decided": smoothing_state.decided,
            }  # fmt: skip
        record = io.BytesIO()
        np.savez(record, allow_pickle=False, **arrays)  # exact, as JSON's decimals are not
        write_atomically(self._record(number), record.getvalue())

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder where no segment is finished."""
        if not self.any():
            self.remove()

    def any(self) -> bool:
        """Say whether a segment is finished, whatever it was made by."""
        return self._record(0).is_file()

    def _record(self, number: int) -> Path:
        return self._folder / f"{number:05}.npz"

    def _read(self, number: int) -> Segment:
        with np.load(self._record(number)) as record:
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
    """Write a file of segments, copying packets; it is there whole or not at all.

    Args:
        segments: In order, coded alike.
        output: Of a suffix that holds H.264.
        source: Newly opened; gives the metadata and the packets of other streams.
        others: The indices of those of its streams that are copied.
        time_base: Of the segments' first times, and of the images in the file.
        rotation: Degrees counterclockwise by which players are to turn it.

    Raises:
        VideoError: It cannot be written.
        MirnetEdgeError: The folder cannot be written.
    """
    av = require("av", "writing video")
    with (
        replaced_file(output) as part,
        write_errors(output),
        av.open(str(segments[0].path)) as first,
        av.open(str(part), "w") as container,
    ):
        video = container.add_stream_from_template(first.streams.video[0])
        video.time_base = time_base
        if rotation:
            video.set_display_rotation(rotation)
        streams = source.container.streams
        copies = {one: container.add_stream_from_template(streams[one]) for one in others}
        container.metadata.update(source.container.metadata)
        images = ((packet, video) for packet in retime_packets(segments, time_base))
        for packet, stream in merge(images, _others(source, copies), key=_decoded_at):
            packet.stream = stream
            container.mux(packet)


def retime_packets(segments: Sequence[Segment], time_base: Fraction) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments in coding order, with times that fit together.

    A decoder needs DTS that rise and never pass PTS. Each segment's own do, but those of the next
    begin before them where frames come at uneven intervals. So they are set anew, over all: the
    packet in place i gets the PTS of the frame that is shown in place i - d, where d is the largest
    number of packets that any frame is coded ahead of its turn.
    """
    places = [_times(segment, time_base) for segment in segments]
    order = sorted(chain.from_iterable(places))
    delay = max(map(_furthest_ahead, places))
    steps = [after - before for before, after in pairwise(order)]
    # nobody says how long the last frame lasts: as long as the others do on average
    lasts = dict(zip(order, [*steps, round(fmean(steps)) if steps else 1], strict=True))
    place = 0
    for segment, of in zip(segments, places, strict=True):
        for packet, pts in zip(_packets(segment), of, strict=True):
            shown = place - delay
            packet.pts = pts
            packet.dts = order[shown] if shown >= 0 else order[0] + shown * lasts[order[0]]
            packet.duration = lasts[pts]
            packet.time_base = time_base
            yield packet
            place += 1


def _furthest_ahead(times: list[int]) -> int:
    """Return by how many packets a frame is coded ahead of its turn, at most."""
    turns = {pts: turn for turn, pts in enumerate(sorted(times))}
    return max(place - turns[pts] for place, pts in enumerate(times))


def _times(segment: Segment, time_base: Fraction) -> list[int]:
    """Return the PTS of a segment's packets in coding order, as its source counts them."""
    # every packet that an encoder makes has its time
    own = [
        round(cast("int", packet.pts) * packet.time_base / time_base)
        for packet in _packets(segment)
    ]
    shift = segment.first_pts - min(own)  # the container begins at 0
    return [pts + shift for pts in own]


def _packets(segment: Segment) -> Iterator[Packet[Any]]:
    av = require("av", "writing video")
    with av.open(str(segment.path)) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _others(source: VideoReader, copies: dict[int, Stream]) -> Iterator[tuple[Packet[Any], Stream]]:
    """Yield the packets of other streams with the streams that they are copied to."""
    if not copies:
        return
    streams = source.container.streams
    for packet in source.packets(*(streams[index] for index in copies)):
        # some are of images; those without a time mark the end, and hold nothing
        if packet.stream.index in copies and packet.dts is not None:
            yield packet, copies[packet.stream.index]


def _decoded_at(timed: tuple[Packet[Any], Stream]) -> float:
    packet, _ = timed
    return float(cast("int", packet.dts) * packet.time_base)  # `_others` leaves out the rest
