"""The live pipeline: capture thread, latest-frame buffer, restoration, statistics.

A frame waits for nothing but the one at hand. So its age when it is shown is at most two frame
times of the source, plus restoring and showing it, however slow those are.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.errors import MirnetEdgeError, SourceInterruptedError, VideoError
from mirnet_edge.files import write_atomically
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import BufferClosed, DisplayedFrame, LatestFrameBuffer, LiveFigures
from mirnet_edge.video.live.controls import Controls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.frames import VideoFrame
    from mirnet_edge.video.live.sinks import Sink
    from mirnet_edge.video.live.sources import Source
    from mirnet_edge.video.restorer import Restorer

_SMALLEST_MS, _LARGEST_MS, _STEP = 1e-3, 1e7, 1.01


@dataclass(frozen=True, kw_only=True)
class DurationSpread:
    """How long something took, over all times it was done. All zero where it never was."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Durations:
    """A histogram of durations whose bins are 1 % wide: percentiles are that exact."""

    def __init__(self) -> None:
        """Start empty."""
        bins = math.ceil(math.log(_LARGEST_MS / _SMALLEST_MS) / math.log(_STEP)) + 1
        self._counts = np.zeros(bins, np.int64)
        self._total_ms = 0.0
        self._max_ms = 0.0
        self.count = 0
        """How many were added."""

    def add(self, milliseconds: float) -> None:
        """Count one duration; what lies below 0.001 ms counts as that."""
        clamped = min(max(milliseconds, _SMALLEST_MS), _LARGEST_MS)
        self._counts[int(math.log(clamped / _SMALLEST_MS) / math.log(_STEP))] += 1
        self.count += 1
        self._total_ms += milliseconds
        self._max_ms = max(self._max_ms, milliseconds)

    def percentile(self, q: float) -> float:
        """Return what q percent of the durations do not exceed, to 1 %; 0 where there are none."""
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(self.count * q / 100.0))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_SMALLEST_MS * _STEP ** (place + 1), self._max_ms)

    def spread(self) -> DurationSpread:
        """Return the figures so far."""
        return DurationSpread(
            count=self.count,
            mean_ms=self._total_ms / self.count if self.count else 0.0,
            p50_ms=self.percentile(50.0),
            p95_ms=self.percentile(95.0),
            p99_ms=self.percentile(99.0),
            max_ms=self._max_ms,
        )


@dataclass(frozen=True, kw_only=True)
class LiveStatistics:
    """What a live run came to. Captured = shown + dropped + held, and one where it was cut off."""

    source: str
    mode: str
    """What restored at the end."""
    seconds: float
    """From the first frame shown to the last."""
    captured: int
    shown: int
    dropped: int
    """Replaced by newer frames before they could be restored, or grown too old to be shown."""
    held: int
    """Came while the image was frozen."""
    failed: int
    """Could not be restored, and were shown as they came."""
    reconnects: int
    fps: float
    """Frames shown per second: intervals, not frames, over `seconds`."""
    frame_time_ms: float
    """Between two frames of the source, as they came."""
    age: DurationSpread
    """From capture to the end of the sinks."""
    stages: dict[str, DurationSpread]
    """read: getting a frame out of the source · convert: its pixels · restore · show: all sinks."""

    def write_json(self, path: Path) -> None:
        """Write the figures, whole or not at all.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


_WINDOW_S = 1.0
_LONGEST_WINDOW = 256
_WEIGHT = 0.1


class FrameTime:
    """Seconds between two frames of the source: announced at first, then as they come."""

    def __init__(self, announced_s: float | None) -> None:
        """Begin with what the source says, which cameras do not keep to in the dark."""
        self._announced_s = announced_s
        self._measured_s: float | None = None
        self._last: VideoFrame | None = None

    @property
    def seconds(self) -> float | None:
        """Return the longer of both; None where neither is known."""
        known = [s for s in (self._announced_s, self._measured_s) if s is not None]
        return max(known, default=None)

    @property
    def measured_ms(self) -> float:
        """Return what was measured, 0 where nothing was."""
        return 1e3 * (self._measured_s or 0.0)

    def see(self, frame: VideoFrame) -> None:
        """Take a frame's distance from the last one; those between were dropped."""
        last, self._last = self._last, frame
        if last is None or frame.index <= last.index:  # the source was opened again
            return
        step_s = (frame.captured_s - last.captured_s) / (frame.index - last.index)
        before = step_s if self._measured_s is None else self._measured_s
        self._measured_s = before + _WEIGHT * (step_s - before)


class LiveCounters:
    """The counters of one live run. For the main thread."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.shown = self.stale = self.held = self.failed = 0
        self._age, self._convert = Durations(), Durations()
        self._restore, self._show = Durations(), Durations()
        self._first_s: float | None = None
        self._recent: deque[float] = deque(maxlen=_LONGEST_WINDOW)

    def count(
        self,
        *,
        now_s: float,
        age_s: float,
        convert_s: float,
        restore_s: float | None,
        show_s: float,
    ) -> None:
        """Count a frame that was shown.

        Args:
            now_s: The time of it.
            age_s: From its capture to now.
            convert_s: What it took to make pixels of it.
            restore_s: What restoring took; None where it was not tried.
            show_s: What the sinks took.
        """
        self.shown += 1
        self._age.add(1e3 * age_s)
        self._convert.add(1e3 * convert_s)
        self._show.add(1e3 * show_s)
        if restore_s is not None:
            self._restore.add(1e3 * restore_s)
        if self._first_s is None:
            self._first_s = now_s
        self._recent.append(now_s)
        while len(self._recent) > 2 and now_s - self._recent[0] > _WINDOW_S:
            self._recent.popleft()

    @property
    def fps(self) -> float:
        """Return the frames shown per second over the last second, 0 before the second frame."""
        return _rate(len(self._recent), self._recent[0], self._recent[-1]) if self._recent else 0.0

    @property
    def age_p95_ms(self) -> float:
        """Return the age that 19 of 20 frames stay below."""
        return self._age.percentile(95.0)

    def figures(
        self,
        controls: Controls,
        *,
        mode: str,
        age_s: float,
        restore_s: float,
        captured: int,
        dropped: int,
        note: str,
    ) -> LiveFigures:
        """Return how things stand at one frame."""
        return LiveFigures(
            fps=self.fps,
            age_ms=1e3 * age_s,
            age_p95_ms=self.age_p95_ms,
            restore_ms=1e3 * restore_s,
            captured=captured,
            shown=self.shown,
            dropped=dropped + self.stale,
            failed=self.failed,
            mode=mode,
            modes=controls.modes,
            restoring=controls.restoring,
            frozen=controls.frozen,
            recording=controls.recording,
            snapshots=controls.snapshots,
            note=note,
        )

    def statistics(
        self,
        *,
        source: str,
        mode: str,
        captured: int,
        dropped: int,
        reconnects: int,
        frame_time_ms: float,
        read: DurationSpread,
    ) -> LiveStatistics:
        """Return what the run came to so far."""
        first, last = self._first_s or 0.0, self._recent[-1] if self._recent else 0.0
        return LiveStatistics(
            source=source,
            mode=mode,
            seconds=last - first,
            captured=captured,
            shown=self.shown,
            dropped=dropped + self.stale,
            held=self.held,
            failed=self.failed,
            reconnects=reconnects,
            fps=_rate(self.shown, first, last),
            frame_time_ms=frame_time_ms,
            age=self._age.spread(),
            stages={
                "read": read,
                "convert": self._convert.spread(),
                "restore": self._restore.spread(),
                "show": self._show.spread(),
            },
        )


def _rate(count: int, first_s: float, last_s: float) -> float:
    return (count - 1) / (last_s - first_s) if last_s > first_s else 0.0


logger = logging.getLogger(__name__)

_JOIN_S = 0.5
_LATE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ReconnectPolicy:
    """How long to put up with a source that gives nothing."""

    first_pause_s: float = 0.25
    """Before an interrupted source is opened again; twice as long each time."""
    longest_pause_s: float = 4.0
    give_up_s: float = 30.0
    """After which an interrupted source that does not come back is an error."""
    blocked_s: float = 30.0
    """After which a source that is stuck in one call is an error."""


class Capture:
    """Reads a source on a thread of its own into a latest-frame buffer, between `with` and its end.

    The source's end and its faults close the latest-frame buffer. A thread that is stuck in the
    source when the block ends is left behind: it is a daemon, and the program ends without it.
    """

    def __init__(
        self,
        source: Source,
        buffer: LatestFrameBuffer[VideoFrame],
        clock: Clock,
        reconnect_policy: ReconnectPolicy,
    ) -> None:
        """Remember what to read; nothing is opened yet."""
        self._source = source
        self._buffer = buffer
        self._clock = clock
        self._reconnect_policy = reconnect_policy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._origin: float | None = None
        self._called_at: float | None = None
        self._heard_at = clock.now()
        self._trouble: VideoError | None = None
        self.reads = Durations()
        """What getting a frame out of the source took."""
        self.reconnects = 0
        """How often an interrupted source came back."""

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._buffer.close()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            logger.warning("%s did not let go; it is left behind", self._source.name)

    @property
    def trouble(self) -> str:
        """Return what keeps frames from coming, in one line; empty where nothing does."""
        trouble = self._trouble
        return "" if trouble is None else f"{trouble}; trying again"

    def check(self) -> None:
        """Refuse to wait any longer for a source that is stuck. Called by the main thread.

        Raises:
            VideoError: It has been in one call for too long.
        """
        called_at = self._called_at
        if called_at is None:
            return
        stuck_s = self._clock.now() - called_at
        if stuck_s > self._reconnect_policy.blocked_s:
            raise VideoError(
                f"{self._source.name} has given nothing for {stuck_s:.0f} s and does not answer; "
                "check the camera or the network, and start again"
            )

    def _run(self) -> None:
        try:
            self._read_to_end()
        except BaseException as error:  # noqa: BLE001  # carried to the main thread
            self._buffer.close(error)
        else:
            self._buffer.close()

    def _read_to_end(self) -> None:
        pause_s = self._reconnect_policy.first_pause_s
        while not self._stop.is_set():
            frames_before = self.reads.count
            try:
                self._read_once()
            except VideoError as error:
                # a fault while opening again what was interrupted is part of the interruption
                if not isinstance(error, SourceInterruptedError) and self._trouble is None:
                    raise
                if self.reads.count > frames_before:
                    pause_s = self._reconnect_policy.first_pause_s
                self._called_at = None
                self._bear(error)
                self._clock.sleep(pause_s, self._stop)
                pause_s = min(2.0 * pause_s, self._reconnect_policy.longest_pause_s)
            else:
                return

    def _bear(self, error: VideoError) -> None:
        silent_s = self._clock.now() - self._heard_at
        if silent_s > self._reconnect_policy.give_up_s:
            raise VideoError(
                f"{self._source.name} did not come back within {silent_s:.0f} s: {error}"
            ) from error
        if self._trouble is None:
            logger.warning("%s: %s; trying again", self._source.name, error)
        self._trouble = error

    def _read_once(self) -> None:
        """Open the source and read until it ends or the block does."""
        self._origin = None
        self._called_at = self._clock.now()
        with self._source as source:
            while not self._stop.is_set():
                started = self._called_at = self._clock.now()
                frame = source.read()
                self._called_at = None
                if frame is None:
                    return
                self._heard_at = self._clock.now()
                self.reads.add(1e3 * (self._heard_at - started))
                if self._trouble is not None:
                    self._trouble = None
                    self.reconnects += 1
                self._buffer.put(self._at_its_time(frame) if source.paced else frame)

    def _at_its_time(self, frame: VideoFrame) -> VideoFrame:
        """Wait until a file's frame is due, as if a camera took it then."""
        now, time_s = self._clock.now(), frame.time_s
        if time_s is None:
            return frame
        if self._origin is None or now - (self._origin + time_s) > _LATE_S:
            # a reader that fell behind goes on from here, rather than race after lost time
            self._origin = now - time_s
        self._clock.sleep(self._origin + time_s - now, self._stop)
        return frame.captured_at(self._clock.now())


_GLANCE_S = 0.1  # how often sinks are served while no frame comes: windows have keys to answer
_OLDEST_FRAME_TIMES = 2.0


class CaptureLike(Protocol):
    """What fills the latest-frame buffer while its `with` lasts: `Capture`, or a test."""

    reads: Durations
    reconnects: int

    @property
    def trouble(self) -> str:
        """Return what keeps frames from coming, in one line; empty where nothing does."""

    def check(self) -> None:
        """Raise where waiting any longer is of no use."""

    def __enter__(self) -> CaptureLike: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Live:
    """One live run: iterate to run it; every step is a frame that the sinks have got.

    It ends with the source, with `Controls.stop`, or with what any stage raises. Leaving the loop
    early ends it too: everything is closed, in the thread that iterates.
    """

    def __init__(
        self,
        source: Source,
        restorer: Restorer,
        sinks: Sequence[Sink] = (),
        *,
        controls: Controls | None = None,
        clock: Clock = REAL_CLOCK,
        reconnect_policy: ReconnectPolicy | None = None,
        capturing: Callable[
            [Source, LatestFrameBuffer[VideoFrame], Clock, ReconnectPolicy], CaptureLike
        ] = Capture,
    ) -> None:
        """Say what is to run; nothing is opened yet.

        Args:
            source: Read on a thread of its own.
            restorer: Opened here where it is not yet.
            sinks: Get every frame in turn, on the thread that iterates; see `Detached`.
            controls: By which windows and pages ask for things; None where nobody does.
            clock: Must be the source's.
            reconnect_policy: With a source that gives nothing.
            capturing: What reads the source; replaced in tests.
        """
        self.controls = controls or Controls()
        self._source, self._restorer, self._sinks = source, restorer, list(sinks)
        self._clock = clock
        self._tally = LiveCounters()
        self._frame_time = FrameTime(source.frame_time_s)
        self._buffer: LatestFrameBuffer[VideoFrame] = LatestFrameBuffer(clock)
        self._capture = capturing(
            source, self._buffer, clock, reconnect_policy or ReconnectPolicy()
        )
        self._last: DisplayedFrame | None = None
        self._note = ""
        self._failing = False

    def run(self) -> LiveStatistics:
        """Run to the end and return what it came to."""
        for _ in self:
            pass
        return self.statistics()

    def statistics(self) -> LiveStatistics:
        """Return what the run came to so far."""
        return self._tally.statistics(
            source=self._source.name,
            mode=self._restorer.mode,
            captured=self._buffer.put_count,
            dropped=self._buffer.dropped,
            reconnects=self._capture.reconnects,
            frame_time_ms=self._frame_time.measured_ms,
            read=self._capture.reads.spread(),
        )

    def __iter__(self) -> Iterator[DisplayedFrame]:
        with ExitStack() as stack:
            stack.enter_context(self._restorer)
            self.controls.offer_modes(self._restorer.modes)
            for sink in self._sinks:
                stack.enter_context(sink)
            stack.enter_context(self._capture)
            stack.callback(self.controls.stop)  # a source that waits for somebody waits no longer
            while not self.controls.stopped:
                try:
                    frame = self._buffer.take(_GLANCE_S)
                except BufferClosed:
                    return
                self._follow_controls()
                if frame is None:
                    self._capture.check()
                    self._show_again()
                elif self.controls.frozen and self._last is not None:
                    self._tally.held += 1
                    self._show_again()
                elif self._is_fresh(frame):
                    yield self._shown(frame)

    def _is_fresh(self, frame: VideoFrame) -> bool:
        """Say whether a frame is young enough; one that waited out a stall of both ends is not."""
        self._frame_time.see(frame)
        frame_time_s = self._frame_time.seconds
        age_s = self._clock.now() - frame.captured_s
        fresh = frame_time_s is None or age_s <= _OLDEST_FRAME_TIMES * frame_time_s
        self._tally.stale += not fresh
        return fresh

    def _shown(self, frame: VideoFrame) -> DisplayedFrame:
        """Restore a frame, give it to the sinks, count it."""
        restoring = self.controls.restoring
        taken_s = self._clock.now()
        pixels = frame.pixels
        started_s = self._clock.now()
        after = self._restored(pixels) if restoring else None
        restored_s = self._clock.now()
        restore_s = restored_s - started_s
        shown = DisplayedFrame(
            before=frame,
            after=self._restorer.passed(pixels) if after is None else after,
            restored=after is not None,
            figures=self._tally.figures(
                self.controls,
                mode=self._restorer.mode,
                age_s=restored_s - frame.captured_s,
                restore_s=restore_s,
                captured=self._buffer.put_count,
                dropped=self._buffer.dropped,
                note=self._note,
            ),
        )
        self._give(shown)
        now_s = self._clock.now()
        self._tally.count(
            now_s=now_s,
            age_s=now_s - frame.captured_s,
            convert_s=started_s - taken_s,
            restore_s=restore_s if restoring else None,
            show_s=now_s - restored_s,
        )
        return shown

    def _restored(self, pixels: Frame) -> Frame | None:
        """Return the frame restored; None where that failed, which is counted and told."""
        try:
            after = self._restorer.restore(pixels)
        except Exception as error:  # noqa: BLE001  # a frame is shown as it came, whatever failed
            self._tally.failed += 1
            note = f"a frame was not restored: {' '.join(str(error).split())}"
            if note != self._note:
                logger.warning("%s", note)
            self._note = note
            self._failing = True
            return None
        if self._failing:
            self._note, self._failing = "", False
        return after

    def _follow_controls(self) -> None:
        mode = self.controls.take_mode()
        if mode is None or mode == self._restorer.mode:
            return
        try:
            self._restorer.choose(mode)
        except MirnetEdgeError as error:
            logger.warning("%s", error)
            self._note = f"{mode} cannot be opened: {error}"
        else:
            self._note = ""

    def _show_again(self) -> None:
        """Let the sinks work while there is nothing new, with the figures of now."""
        if self._last is None:
            return
        frame = self._last.before
        figures = self._tally.figures(
            self.controls,
            mode=self._restorer.mode,
            age_s=self._clock.now() - frame.captured_s,
            restore_s=1e-3 * self._last.figures.restore_ms,
            captured=self._buffer.put_count,
            dropped=self._buffer.dropped,
            note=self._capture.trouble or self._note,
        )
        self._give(
            DisplayedFrame(
                before=frame,
                after=self._last.after,
                restored=self._last.restored,
                figures=figures,
            )
        )

    def _give(self, shown: DisplayedFrame) -> None:
        self._last = shown
        for sink in self._sinks:
            sink.show(shown)
