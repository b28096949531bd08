"""Inspect a video before it is restored: its first frame, its clock, packets of each track."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge.errors import VideoError
from mirnet_edge.video.files.decoding import VideoReader
from mirnet_edge.video.files.timing import ClockScan, Timeline

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from av import Packet, VideoFormat
    from av import VideoFrame as Decoded
    from av.container import InputContainer
    from av.stream import Stream

    from mirnet_edge.video.files.encoding import Chroma

logger = logging.getLogger(__name__)

_SAMPLES = 2
_CLOCK_JUMPS = 0x200  # AVFMT_TS_DISCONT
_PACKETS = 2000  # of a file that is not read to its end
_STEADY_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
"""Formats that store the duration of each packet, not its time: their clock cannot go back."""


@dataclass(frozen=True, kw_only=True)
class PacketSample:
    """One of the first packets of a track."""

    payload: bytes
    pts: int | None
    dts: int | None
    duration: int
    time_base: Fraction
    is_keyframe: bool

    def packet(self, stream: Stream, start: int) -> Packet[Any]:
        """Return a new packet of a stream, START ticks earlier."""
        from av import Packet

        packet: Packet[Any] = Packet(self.payload)
        packet.stream = stream
        packet.time_base = self.time_base
        packet.dts = self.ticks - start
        packet.pts = packet.dts if self.pts is None else max(packet.dts, self.pts - start)
        packet.duration, packet.is_keyframe = self.duration, self.is_keyframe
        return packet

    @property
    def ticks(self) -> int:
        """Return its DTS, its PTS where it has none, 0 where it has neither."""
        return (self.pts or 0) if self.dts is None else self.dts


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoInspection:
    """What is known of a file before its first frame is restored."""

    first_frame: Decoded
    scan: ClockScan
    start: Fraction
    """The time of the file, in seconds, that becomes 0."""
    in_order: bool
    """Whether packets state when they are decoded and not when they are shown."""
    delay: Fraction
    """Then, the seconds from decoding the first frame to showing it."""
    samples: dict[int, list[PacketSample]]
    """The first packets of each stream that has one near the start, by its index."""
    packets: int | None
    """How many packets the video has, where the file was read to its end."""

    def sample_packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Yield the samples of all tracks, each track's from 0 on, as packets of a container."""
        for index, samples in self.samples.items():
            for sample in samples:
                yield sample.packet(container.streams[index], samples[0].ticks)

    @property
    def end_s(self) -> Fraction | None:
        """Return where the last packet ends, where the file was read to its end by one clock."""
        return None if self.packets is None or len(self.scan.sections) > 1 else self.scan.end

    def timeline(self) -> Timeline:
        """Return the corrections of times for one pass over the file."""
        return Timeline(
            self.scan.sections,
            self.start,
            may_jump_ahead=self.scan.may_jump_ahead,
            video=self.scan.video,
        )


def inspect_video(path: Path) -> VideoInspection:
    """Return what must be known of a file before its first frame is restored.

    A file whose clock can restart is read to its end once, without decoding: joined recordings are
    found so.

    Raises:
        VideoError: It cannot be read, or has no frame that can be decoded.
    """
    with VideoReader(path) as reader:
        return _Inspector(reader).inspect()


class _Inspector:
    """Reads the packets of one file and takes note of what is found."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader
        self._video = reader.stream.index
        container = reader.container
        self._is_steady = container.format.name in _STEADY_FORMATS
        jumps = bool(container.format.flags & _CLOCK_JUMPS)
        self._scan = ClockScan(self._video, jumps)
        self._samples: dict[int, list[PacketSample]] = {}
        self._has_decoding_times = container.format.name == "avi" or reader.has_no_times
        self._first: Decoded | None = None
        self._first_dts: Fraction | None = None
        self._packets = self._without_pts = 0

    def inspect(self) -> VideoInspection:
        reader = self._reader
        others = [
            stream
            for stream in reader.container.streams
            if stream.index != self._video and stream.type in ("video", "audio", "subtitle", "data")
        ]
        for total, packet in enumerate(reader.packets(*others), 1):
            self._add(packet)
            if self._is_steady and self._has_enough(len(others), total):
                break
        if self._first is None:
            raise VideoError(f"{reader.path} has no frame that can be decoded; choose another file")
        self._scan.set_offsets()
        return VideoInspection(
            first_frame=self._first,
            scan=self._scan,
            start=self._start(),
            # a few packets without a PTS are common in MPEG streams
            in_order=self._has_decoding_times or 2 * self._without_pts > self._packets,
            delay=self._delay(self._first),
            samples=self._samples,
            packets=None if self._is_steady else self._packets,
        )

    def _add(self, packet: Packet[Any]) -> None:
        stream = packet.stream
        if packet.size:
            samples = self._samples.setdefault(stream.index, [])
            if len(samples) < _SAMPLES:
                samples.append(
                    PacketSample(
                        payload=bytes(packet), pts=packet.pts, dts=packet.dts,
                        duration=packet.duration or 0, time_base=packet.time_base,
                        is_keyframe=packet.is_keyframe,
                    )
                )  # fmt: skip
        if stream.index == self._video:
            self._packets += bool(packet.size)
            self._without_pts += bool(packet.size) and packet.pts is None
            if self._first_dts is None and packet.dts is not None:
                self._first_dts = packet.dts * packet.time_base
            if self._first is None:
                self._first = next(iter(self._reader.decode(packet)), None)
        if packet.size and stream.type in ("video", "audio"):
            self._scan.add(packet)

    def _delay(self, first: Decoded) -> Fraction:
        """Return the seconds from decoding the first frame to showing it; 0 where unknown."""
        if self._has_decoding_times or first.pts is None or self._first_dts is None:
            return Fraction(0)
        return max(Fraction(0), first.pts * (first.time_base or Fraction(0)) - self._first_dts)

    def _start(self) -> Fraction:
        """Return where the first track of the file begins, in seconds."""
        stated = self._reader.container.start_time
        if stated is not None:
            return Fraction(stated, 1_000_000)
        # of a single packet FFmpeg states none
        times = [
            (one.ticks if one.pts is None else one.pts) * one.time_base
            for samples in self._samples.values()
            for one in samples
        ]
        return min(times, default=Fraction(0))

    def _has_enough(self, others: int, total: int) -> bool:
        """Return whether each stream had a packet, or has none near the start."""
        if self._first is None:
            return False
        return len(self._samples) > others or total >= _PACKETS


def display_matrix(frame: Decoded) -> tuple[int, ...] | None:
    """Return the nine numbers of a frame's display matrix, None where it has none."""
    from av.sidedata.sidedata import Type

    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:  # type: ignore[attr-defined]  # iteration gives data
            return struct.unpack("=9i", bytes(data))  # type: ignore[arg-type]
    return None


TRANSPARENCY = "its transparency"


def lost_properties(frame: Decoded, *, but: Collection[str]) -> Iterator[str]:
    """Yield what a decoded frame has that its restored one has not, as it is said in messages.

    Args:
        frame: Decoded.
        but: What is known to be lost already.
    """
    from av.sidedata.sidedata import Type

    lost = {
        Type.A53_CC: "the closed captions within the video",
        Type.DOVI_METADATA: "the Dolby Vision metadata",
        Type.DOVI_RPU_BUFFER: "the Dolby Vision metadata",
        Type.DYNAMIC_HDR_PLUS: "the HDR10+ metadata",
        Type.SPHERICAL: "the mark as a 360-degree video",
        Type.STEREO3D: "the mark as a stereoscopic video",
    }
    for data in frame.side_data:
        if data.type in lost:  # type: ignore[attr-defined]  # iteration gives data
            yield lost[data.type]  # type: ignore[attr-defined]
    if TRANSPARENCY not in but and has_transparency(frame):
        yield TRANSPARENCY


def has_transparency(frame: Decoded) -> bool:
    """Return whether a pixel of a decoded frame is not opaque."""
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return bool(frame.to_ndarray(format="rgba")[..., 3].min() < _OPAQUE)


_OPAQUE = 255


def chroma_of(frame: Decoded) -> Chroma:
    """Return the least chroma subsampling that is stored which keeps that of a decoded frame.

    4:1:1 is kept by 4:2:2, 4:4:0 by 4:4:4; RGB has none.
    """
    if is_gray(frame):
        return "420"
    across, down = _subsampling(frame.format)
    if down > 1:
        return "420" if across > 1 else "444"
    return "422" if across > 1 else "444"


def _subsampling(pixels: VideoFormat) -> tuple[int, int]:
    """Return over how many columns and rows of pixels a color goes."""
    return _SIDE // pixels.chroma_width(_SIDE), _SIDE // pixels.chroma_height(_SIDE)


_SIDE = 64  # divisible by each subsampling


def is_gray(frame: Decoded) -> bool:
    """Return whether a decoded frame has no colors."""
    return frame.format.name.startswith(("gray", "mono"))


def stored_bits(frame: Decoded) -> Literal[8, 10, 12]:
    """Return with how many bits per channel the restored frames of a video are stored."""
    bits = frame.format.components[0].bits
    return 8 if bits <= 8 else 10 if bits <= 10 else 12


def coarser_pixels(frame: Decoded, stored: str) -> Iterator[str]:
    """Yield a line for each respect in which the stored pixels are coarser than the source's.

    Args:
        frame: The first one, decoded.
        stored: FFmpeg's name of the format that is stored.
    """
    from av import VideoFormat

    result = VideoFormat(stored, _SIDE, _SIDE)
    before, after = frame.format.components[0].bits, result.components[0].bits
    if before > after:
        yield f"it has {before} bits per channel; {after} of them are stored"
    pairs = zip(_subsampling(frame.format), _subsampling(result), strict=True)
    if not is_gray(frame) and any(own < least for own, least in pairs):
        yield "its colors are stored at half their resolution (4:2:0), as all players show them"
