"""Mux results: the restored video, the source's other tracks, and what is said of them."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from itertools import chain, pairwise
from math import ceil
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from mirnet_edge.dependencies import require
from mirnet_edge.files import replace_file
from mirnet_edge.video.files.containers import FALLBACK_SUFFIXES
from mirnet_edge.video.files.encoding import convert_write_errors
from mirnet_edge.video.files.segments import SegmentFolder, segments_folder
from mirnet_edge.video.files.sound import AacTrack, read_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction
    from pathlib import Path
    from types import TracebackType

    from av import Packet
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

    from mirnet_edge.video.files.containers import OutputPlan
    from mirnet_edge.video.files.decoding import VideoReader
    from mirnet_edge.video.files.inspection import VideoInspection
    from mirnet_edge.video.files.segments import Segment


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputVideo:
    """The restored video stream, as it is muxed."""

    sample: bytes
    """A segment with a frame or more, encoded like the video."""
    time_base: Fraction
    rate: Fraction | None
    matrix: tuple[int, ...] | None
    """The display matrix."""
    aspect: Fraction | None = None
    """The pixel aspect ratio, for codecs that do not store it themselves."""


class OutputFile:
    """A result that is being written, while its context is open."""

    def __init__(
        self,
        target: Path | io.BytesIO,
        plan: OutputPlan,
        source: InputContainer,
        inspection: VideoInspection,
        video: OutputVideo,
    ) -> None:
        """Store what it will hold.

        Args:
            target: A file, or a buffer for a trial.
            plan: The container and the tracks.
            source: Open; its metadata is copied.
            inspection: Of the source.
            video: The restored video stream.
        """
        self._target, self._plan = target, plan
        self._source, self._inspection, self._video = source, inspection, video
        self._stack = ExitStack()
        self._copies: dict[int, Stream] = {}
        self._encoders: dict[int, AacTrack] = {}
        self._last_dts: dict[int, int] = {}

    def __enter__(self) -> OutputFile:
        av = require("av", "writing video")
        plan = self._plan
        target = self._target if isinstance(self._target, io.BytesIO) else f"file:{self._target}"
        with ExitStack() as stack:
            sample = stack.enter_context(av.open(io.BytesIO(self._video.sample)))
            self._container: OutputContainer = stack.enter_context(
                av.open(
                    target, "w", format=plan.format, container_options=self._options()
                )
            )  # fmt: skip
            self._add_video(sample.streams.video[0])
            for index in sorted((*plan.copied, *plan.encoded, *plan.covers)):
                self._add_track(index)
            self._add_attachments()
            self._add_metadata()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def write(self, frames: Iterator[Packet[Any]], source: Iterator[Packet[Any]]) -> None:
        """Mux the video and the source's other tracks.

        Args:
            frames: Packets of the restored video, in coding order.
            source: All of the source's packets in the file's order, on a continuous time line;
                those of tracks that are not kept are skipped.
        """
        self._write_covers()
        video = ((packet, self._stream) for packet in frames)
        for packet, stream in merge(video, self._other_packets(source), key=_dts_s):
            packet.stream = stream
            self._container.mux(packet)

    def write_samples(self) -> None:
        """Mux one packet of each track: it fails where the whole would fail."""
        av = require("av", "writing video")
        with av.open(io.BytesIO(self._video.sample)) as sample:
            frames = [packet for packet in sample.demux(video=0) if packet.size]
            for number, packet in enumerate(frames):
                packet.dts = packet.pts = number
            self.write(iter(frames), self._inspection.sample_packets(self._source))

    def _options(self) -> dict[str, str]:
        """Return the muxer's options."""
        if self._plan.format == "matroska":
            return {
                "fflags": "+bitexact"
            }  # without random numbers: a resumed run gives equal bytes
        if any(key.startswith(_APPLE_KEYS) for key in self._source.metadata):
            return {"movflags": "use_metadata_tags"}
        return {}

    def _add_video(self, template: VideoStream) -> None:
        video = self._container.add_stream_from_template(template)
        video.time_base = self._video.time_base
        if template.codec_context.name == "hevc" and self._plan.format != "matroska":
            video.codec_context.codec_tag = "hvc1"  # Apple's players refuse "hev1"
        if self._video.aspect is not None:
            video.codec_context.sample_aspect_ratio = self._video.aspect
        if self._video.matrix is not None:
            video.set_display_matrix(self._video.matrix)
        source = self._source.streams[self._inspection.scan.video]
        video.disposition = source.disposition
        video.metadata.update(self._stream_metadata(source))
        rate, timecode = self._video.rate, self._timecode()
        if rate and timecode:
            if self._plan.format != "matroska":
                video.codec_context.framerate = rate  # of the track of timecodes
            video.metadata["timecode"] = timecode
        self._stream = video

    def _timecode(self) -> str:
        """Return the timecode of the first frame, empty where there is none or it is left out."""
        video = self._source.streams[self._inspection.scan.video]
        for place in (video.metadata, self._source.metadata):
            for key, value in place.items():
                if key.lower() == "timecode" and self._plan.keeps_timecode:
                    return str(value)
        return ""

    def _add_track(self, index: int) -> None:
        source: Any = self._source.streams[index]  # of a kind that follows from the plan
        if index in self._plan.covers and self._plan.format == "matroska":
            (cover, *_) = self._inspection.samples[index]
            kind = _IMAGE_TYPES.get(source.codec_context.name, "image/jpeg")
            name = source.metadata.get("filename") or f"cover.{kind.rpartition('/')[2]}"
            self._container.add_attachment(name, kind.replace("jpg", "jpeg"), cover.payload)
            return
        if index in self._plan.encoded:
            track = AacTrack(source, self._container)
            self._encoders[index] = track
            stream: Stream = track.stream
        else:
            copy = self._container.add_stream_from_template(source, opaque=True)
            stream = self._copies[index] = copy
            layout = read_layout(source.codec_context) if source.type == "audio" else None
            if layout is not None and layout.can_be_named:  # MP4 needs a name
                copy.codec_context.layout = layout.known_name
        stream.disposition = source.disposition
        stream.metadata.update(self._stream_metadata(source))

    def _add_attachments(self) -> None:
        if not self._plan.keeps_attachments:
            return
        for stream in self._source.streams.attachments:
            kind = stream.mimetype or "application/octet-stream"
            self._container.add_attachment(stream.name or "attachment", kind, stream.data)

    def _add_metadata(self) -> None:
        start = self._inspection.start
        chapters = self._source.chapters()
        if self._plan.keeps_chapters and chapters:
            self._container.set_chapters([_shifted_chapter(one, start) for one in chapters])
        if self._plan.keeps_metadata:
            self._container.metadata.update(
                {
                    key: value
                    for key, value in self._source.metadata.items()
                    if key.lower() not in _CONTAINER_KEYS
                }
            )

    def _stream_metadata(self, source: Stream) -> dict[str, str]:
        """Return what a track's metadata says that is true of the result, too."""
        if not self._plan.keeps_metadata:
            return {}
        return {
            key: value
            for key, value in source.metadata.items()
            if not key.lower().startswith(_DERIVED_KEYS)
        }

    def _write_covers(self) -> None:
        for index in self._plan.covers:
            if index in self._copies:
                (cover, *_) = self._inspection.samples[index]
                self._container.mux(cover.packet(self._copies[index], cover.ticks))

    def _other_packets(self, source: Iterator[Packet[Any]]) -> Iterator[tuple[Packet[Any], Stream]]:
        """Yield the packets of all tracks but the video, with the output streams they go to."""
        for packet in source:
            index = packet.stream.index
            if not packet.size or index in self._plan.covers:
                continue
            if index in self._encoders:
                track = self._encoders[index]
                for encoded in track.encode(packet):
                    yield encoded, track.stream
            elif index in self._copies:
                self._make_increasing(packet)
                yield packet, self._copies[index]
        for track in self._encoders.values():
            for encoded in track.flush():
                yield encoded, track.stream

    def _make_increasing(self, packet: Packet[Any]) -> None:
        """Make a packet's DTS exceed the last one's of its track, where the container asks it.

        By a tick of the container: a shorter step would be rounded to none.
        """
        index, dts = packet.stream.index, cast("int", packet.dts)
        last = self._last_dts.get(index)
        if not packet.duration and last is not None and packet.stream.type == "audio":
            packet.duration = max(0, dts - last)  # without one, MP4 does not show the last packet
        step = max(1, ceil((self._copies[index].time_base or 0) / packet.time_base))
        if self._plan.format != "matroska" and last is not None and dts < last + step:
            packet.dts = last + step
            packet.pts = max(cast("int", packet.pts), packet.dts)
        self._last_dts[index] = cast("int", packet.dts)


_APPLE_KEYS = "com."
_IMAGE_TYPES = {"mjpeg": "image/jpg", "png": "image/png", "bmp": "image/bmp", "gif": "image/gif"}
# of the container that was read, not of the film; the timecode is written by `_add_video`
_CONTAINER_KEYS = frozenset(
    ("major_brand", "minor_version", "compatible_brands", "encoder", "timecode", "duration")
)
_DERIVED_KEYS = (
    "duration", "encoder", "bps", "number_of_", "_statistics", "source_id", "vendor_id",
    "alpha_mode", "timecode", "rotate", "filename", "mimetype",
)  # fmt: skip


def _shifted_chapter(chapter: Any, start: Fraction) -> Any:  # noqa: ANN401  # PyAV's dictionary
    shift = round(start / chapter["time_base"])
    begin, end = (max(0, chapter[key] - shift) for key in ("start", "end"))
    return {**chapter, "start": begin, "end": max(begin, end)}


def join_segments(
    segments: Sequence[Segment],
    output: Path,
    plan: OutputPlan,
    source: VideoReader,
    inspection: VideoInspection,
    video: OutputVideo,
    *,
    last_duration: int | None,
    end_s: Fraction | None,
) -> None:
    """Mux segments and the source's other tracks into one file, atomically.

    Args:
        segments: In order, encoded alike.
        output: Its suffix is the plan's.
        plan: The tracks.
        source: Newly opened.
        inspection: Of the source.
        video: The restored video stream.
        last_duration: Of the last frame, in units of the video's time base; None where the source
            states none.
        end_s: Where other tracks end, in seconds of the result, because the source has grown; None
            for their own ends.

    Raises:
        VideoError: It cannot be written.
        MirnetEdgeError: The folder cannot be written.
    """
    timeline = inspection.timeline()
    tracks = [source.container.streams[index] for index in (*plan.copied, *plan.encoded)]
    with (
        replace_file(output) as part,
        convert_write_errors(output),
        OutputFile(part, plan, source.container, inspection, video) as file,
    ):
        packets = source.packets(*tracks) if tracks else iter(())
        corrected = (timeline.corrected(packet) for packet in packets)
        file.write(
            retime_packets(segments, video.time_base, last_duration),
            (packet for packet in corrected if end_s is None or _begins_before(packet, end_s)),
        )


def _begins_before(packet: Packet[Any], end_s: Fraction) -> bool:
    return packet.pts is None or packet.pts * packet.time_base < end_s


def retime_packets(
    segments: Sequence[Segment], time_base: Fraction, last_duration: int | None = None
) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments in coding order, with consistent time stamps.

    A decoder requires DTS that increase and do not exceed PTS. This holds within each segment, but
    with a variable frame rate the next segment's DTS may begin before the last one's end. So all
    DTS are set again: packet i gets the PTS of the frame displayed at position i - d, where d is
    the largest number of positions that any frame is coded ahead of its display order.

    Args:
        segments: In order.
        time_base: Of the time stamps.
        last_duration: Of the last frame, where it differs much from the mean of the others: the
            last image of a slide show. None where that is unknown.
    """
    times = [_pts_in_coding_order(segment, time_base) for segment in segments]
    order = sorted(chain.from_iterable(times))
    delay = max(map(_reorder_depth, times))
    steps = [after - before for before, after in pairwise(order)]
    durations = dict(zip(order, [*steps, _last_duration(steps, last_duration)], strict=True))
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
            position += 1
            if position == len(order):  # MP4 sums the durations in coding order
                begin = order[0] - delay * durations[order[0]]
                total = order[-1] + durations[order[-1]] - order[0]
                least = durations[pts] if pts == order[-1] else 1  # of what is shown last
                packet.duration = max(least, total - (packet.dts - begin))
            yield packet


def _last_duration(steps: list[int], stated: int | None) -> int:
    """Return the mean of STEPS; what the source states, where there are none or that is far off."""
    mean = fmean(steps) if steps else 0.0
    if stated and not mean / 2 < stated < 2 * mean:
        return stated
    return max(1, round(mean))


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
    with av.open(f"file:{segment.path}") as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _dts_s(packet_and_stream: tuple[Packet[Any], Stream]) -> float:
    packet, _ = packet_and_stream
    return float(cast("int", packet.dts) * packet.time_base)  # all have one


def output_path(source: Path, plan: OutputPlan, out: Path, name: str | None = None) -> Path:
    """Return the result's file.

    Args:
        source: The video.
        plan: Its container is the result's.
        out: The folder of the result.
        name: Of the result; the source's where None. Its suffix is replaced where needed.
    """
    named = out / (name or source.name)
    if named.suffix.lower() == plan.suffix.lower():
        return named
    return _with_suffix(source, named, plan.suffix)


def has_segments(source: Path, out: Path, name: str | None = None) -> bool:
    """Return whether OUT has finished segments of a video, from which a run would resume."""
    return any(
        SegmentFolder(segments_folder(output), {}).has_finished()
        for output in possible_outputs(source, out, name)
    )


def find_restored(source: Path, out: Path, name: str | None = None) -> Path | None:
    """Return a video's result in OUT, whatever its configuration; None where there is none."""
    for output in sorted(possible_outputs(source, out, name)):
        if output.is_file() and output.resolve() != source.resolve():
            return output
    return None


def remove_stale_segments(source: Path, out: Path, name: str | None = None) -> None:
    """Remove the segments of a result that is complete, left by a kill right after it was written.

    Those that are newer than the result are of a run that replaces it, and are kept.
    """
    for output in possible_outputs(source, out, name):
        folder = segments_folder(output)
        if not (output.is_file() and folder.is_dir()):
            continue
        newest = max((one.stat().st_mtime for one in folder.iterdir()), default=0.0)
        if newest <= output.stat().st_mtime:
            SegmentFolder(folder, {}).remove()


def possible_outputs(source: Path, out: Path, name: str | None = None) -> set[Path]:
    """Return the files that `output_path` may choose from."""
    named = out / (name or source.name)
    return {named, *(_with_suffix(source, named, suffix) for suffix in FALLBACK_SUFFIXES)}


def _with_suffix(source: Path, named: Path, suffix: str) -> Path:
    """Return a result's name with another suffix, or with one where the source has none."""
    return named.with_suffix(suffix) if source.suffix else named.with_name(named.name + suffix)
