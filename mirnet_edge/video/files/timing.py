"""Times of packets and frames: clocks that restart, missing PTS, a result that begins near 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av import Packet
    from av import VideoFrame as Decoded

_BACK_S = Fraction(1, 10)
"""A DTS that goes back by more than this begins another section of the clock; a PTS by 1 s."""
_REORDER_S = Fraction(1)
_AHEAD_S = Fraction(10)
"""A step that is longer begins another section, in formats whose clock may jump; as in FFmpeg."""
_NEAR_S = Fraction(1)
_LONGEST_DELAY = 64
"""Packets that a decoder takes before their frames: reordering by up to 16, and its threads."""


@dataclass(kw_only=True)
class ClockSection:
    """A part of a file in which the video's clock runs on: times of the file, in seconds."""

    start: Fraction
    end: Fraction
    offset: Fraction = Fraction(0)
    """Added to the file's times, so that sections follow each other."""

    def holds(self, time: Fraction) -> bool:
        """Return whether a packet of another stream may belong to it."""
        return self.start - _NEAR_S <= time <= self.end + _NEAR_S


class ClockReader:
    """Finds out where the clock of one stream jumps, from its packets in the file's order."""

    def __init__(self, *, may_jump_ahead: bool) -> None:
        """Start before the first packet.

        Args:
            may_jump_ahead: Whether a long step is a jump and not a pause: in MPEG transport and
                program streams, which are joined byte by byte.
        """
        self._may_jump_ahead = may_jump_ahead
        self._last: tuple[Fraction, bool] | None = None

    def jumps(self, packet: Packet[Any]) -> bool:
        """Return whether the clock jumped between the packet before and this one."""
        time = packet_time(packet)
        if time is None:
            return False
        has_dts = packet.dts is not None
        last, self._last = self._last, (time, has_dts)
        if last is None:
            return False
        exact = has_dts and last[1]
        step = time - last[0]
        return step < -(_BACK_S if exact else _REORDER_S) or (
            self._may_jump_ahead and step > _AHEAD_S
        )


def packet_time(packet: Packet[Any]) -> Fraction | None:
    """Return a packet's DTS in seconds, its PTS where it has none, else None."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else ticks * packet.time_base


@dataclass(kw_only=True)
class _StreamClock:
    """The state of one stream while its packets' times are corrected."""

    section: int = 0
    end: Fraction | None = None
    """Where its last packet ends, corrected."""
    last_dts: int | None = None


class Timeline:
    """Gives packets continuous times, from 0; for one pass over a file, in the file's order."""

    def __init__(
        self, sections: Sequence[ClockSection], start: Fraction, *, may_jump_ahead: bool, video: int
    ) -> None:
        """Start before the first packet.

        Args:
            sections: Of the video's clock; see `ClockScan`.
            start: The time of the file, in seconds, that becomes 0.
            may_jump_ahead: As for `ClockReader`.
            video: The index of the video stream.
        """
        self._sections = tuple(sections) or (ClockSection(start=Fraction(0), end=Fraction(0)),)
        self._start, self._video = start, video
        self._reader = ClockReader(may_jump_ahead=may_jump_ahead)
        self._streams: dict[int, _StreamClock] = {}

    def correct(self, packet: Packet[Any]) -> None:
        """Replace a packet's PTS and DTS by those on the continuous time line."""
        state = self._streams.setdefault(packet.stream.index, _StreamClock())
        if packet.stream.index == self._video:
            if self._reader.jumps(packet):
                state.section = min(state.section + 1, len(self._sections) - 1)
            _shift(packet, self._sections[state.section].offset - self._start)
            return
        if packet.pts is None and packet.dts is None and state.end is not None:
            packet.pts = packet.dts = round(state.end / packet.time_base)
        else:
            self._choose_section(packet, state)
            _shift(packet, self._sections[state.section].offset - self._start)
        _make_monotone(packet, state)

    def corrected(self, packet: Packet[Any]) -> Packet[Any]:
        """Return a packet after `correct`."""
        if packet.size:
            self.correct(packet)
        return packet

    def _choose_section(self, packet: Packet[Any], state: _StreamClock) -> None:
        """Set the section of a packet of sound or subtitles: the one in which it follows the last.

        In the file, it may come a little before or after the video of the same section.
        """
        time = packet_time(packet)
        if len(self._sections) == 1 or time is None:
            return
        video = self._streams.get(self._video, _StreamClock()).section
        near = range(max(state.section, video - 1), min(video + 2, len(self._sections)))
        fitting = [number for number in near if self._sections[number].holds(time)]
        if not fitting:
            return
        if state.end is None:
            state.section = min(fitting, key=lambda number: abs(number - video))
            return
        expected = state.end + self._start - time  # the offset of a packet that follows the last
        state.section = min(
            fitting, key=lambda number: abs(self._sections[number].offset - expected)
        )


def _shift(packet: Packet[Any], seconds: Fraction) -> None:
    if not seconds:
        return
    ticks = round(seconds / packet.time_base)
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks


def _make_monotone(packet: Packet[Any], state: _StreamClock) -> None:
    """Complete the times of a packet without reordering; its DTS does not go back."""
    dts = packet.pts if packet.dts is None else packet.dts
    if dts is None:  # the first packet of a stream without any times
        dts = 0
    if state.last_dts is not None:
        dts = max(dts, state.last_dts)
    pts = dts if packet.pts is None else max(packet.pts, dts)
    packet.dts, packet.pts, state.last_dts = dts, pts, dts
    state.end = (pts + (packet.duration or 0)) * packet.time_base


@dataclass(kw_only=True)
class _Jump:
    """Two packets of a stream of sound between which the clock jumps, in the file's times."""

    end: Fraction
    start: Fraction


@dataclass
class ClockScan:
    """Finds the sections of a file's clock, from all of its packets in the file's order."""

    video: int
    may_jump_ahead: bool
    sections: list[ClockSection] = field(default_factory=list)
    end: Fraction = Fraction(0)
    """Where the last packet of any stream ends, in the file's times."""
    _readers: dict[int, ClockReader] = field(default_factory=dict)
    _ends: dict[int, Fraction] = field(default_factory=dict)
    _jumps: dict[int, list[_Jump]] = field(default_factory=dict)

    def add(self, packet: Packet[Any]) -> None:
        """Take the next packet of video or sound."""
        time, index = packet_time(packet), packet.stream.index
        if time is None:
            return
        reader = self._readers.setdefault(index, ClockReader(may_jump_ahead=self.may_jump_ahead))
        jumped = reader.jumps(packet)
        shown = time if packet.pts is None else packet.pts * packet.time_base
        end = shown + (packet.duration or 0) * packet.time_base
        self.end = max(self.end, end)
        if index != self.video:
            if jumped:
                self._jumps.setdefault(index, []).append(_Jump(end=self._ends[index], start=shown))
            self._ends[index] = end
        elif jumped or not self.sections:
            self.sections.append(ClockSection(start=shown, end=end))
        else:
            section = self.sections[-1]
            section.start, section.end = min(section.start, shown), max(section.end, end)

    def set_offsets(self) -> None:
        """Set the offset of each section: it begins where the one before ends, in every stream."""
        for number, (before, section) in enumerate(
            zip(self.sections, self.sections[1:], strict=False)
        ):
            gaps = [before.end - section.start]
            gaps += [
                jumps[number].end - jumps[number].start
                for jumps in self._jumps.values()
                if len(jumps) == len(self.sections) - 1
            ]
            section.offset = before.offset + max(gaps)


class FrameTimes:
    """Gives decoded frames increasing PTS, on the time line of their packets."""

    def __init__(
        self,
        time_base: Fraction,
        step: Fraction | None,
        *,
        in_order: bool,
        delay: Fraction = Fraction(0),
    ) -> None:
        """Start before the first frame.

        Args:
            time_base: Of the PTS it gives.
            step: The usual time between two frames in seconds, None where that is unknown.
            in_order: Whether the container stores when packets are decoded and not when they are
                shown: then the frame shown as the n-th gets the n-th of those times.
            delay: Added to those times, in seconds: from decoding to showing.
        """
        self._time_base = time_base
        self._step = max(1, round((step or Fraction(1, 25)) / time_base))
        self._in_order, self._delay = in_order, round(delay / time_base)
        self._decoding_times: list[int] = []
        self._last: int | None = None
        self._count = 0
        self.last_duration: int | None = None
        """Of the frame before, as the source states it, in units of the time base."""

    @property
    def duration_of_last(self) -> int | None:
        """Return `last_duration`; of a single frame without one, the usual time between two."""
        return self.last_duration or (self._step if self._count == 1 else None)

    @property
    def end_s(self) -> Fraction:
        """Return where the last frame ends, in seconds."""
        return ((self._last or 0) + (self.last_duration or self._step)) * self._time_base

    def add_packet(self, packet: Packet[Any]) -> None:
        """Take note of a packet that is decoded."""
        if self._in_order and packet.size and packet.dts is not None:
            heappush(self._decoding_times, round(packet.dts * packet.time_base / self._time_base))
            if len(self._decoding_times) > _LONGEST_DELAY:  # packets without a frame of their own
                heappop(self._decoding_times)

    def drop_packet(self, packet: Packet[Any]) -> None:
        """Take note that a packet could not be decoded."""
        if self._in_order and packet.size and packet.dts is not None:
            time = round(packet.dts * packet.time_base / self._time_base)
            if time in self._decoding_times:
                self._decoding_times.remove(time)
                heapify(self._decoding_times)

    def next_pts(self, frame: Decoded) -> int:
        """Return the frame's PTS in units of the time base; larger than the last one."""
        pts: int | None = None
        if self._in_order:
            if self._decoding_times:
                pts = heappop(self._decoding_times) + self._delay
        elif frame.pts is not None and frame.time_base is not None:
            pts = round(frame.pts * frame.time_base / self._time_base)
        if pts is None:
            step = self.last_duration or self._step
            pts = 0 if self._last is None else self._last + step
        elif self._last is not None and pts <= self._last:
            pts = self._last + max(1, self._step // 2)
        self._last, self._count = pts, self._count + 1
        duration = frame.duration * (frame.time_base or self._time_base) / self._time_base
        self.last_duration = round(duration) or None
        return pts
