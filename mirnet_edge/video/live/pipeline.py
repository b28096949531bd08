"""The live pipeline: capture thread, latest-frame buffer, restoration, sinks, statistics.

    capture thread:  Source ─► LatestFrameBuffer
    main thread:               LatestFrameBuffer ─► Restorer ─► Sinks

There is no queue: under backpressure the newest frame replaces the waiting one, which is dropped.
So a frame's age when it is displayed is at most two frame intervals of the source plus the time of
restoring and displaying it, however slow those are.
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
from mirnet_edge.runtime.chaining import blend_frames
from mirnet_edge.video.clock import REAL_CLOCK, BackOff
from mirnet_edge.video.frames import BufferClosed, DisplayedFrame, LatestFrameBuffer, LiveStatus
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.playback import FilePlayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.frames import LiveState, VideoFrame
    from mirnet_edge.video.live.sinks import Sink
    from mirnet_edge.video.live.sources import Source
    from mirnet_edge.video.restorer import Restorer

logger = logging.getLogger(__name__)

_POLL_S = 0.1  # without a new frame sinks are called this often: windows handle keys then
_MAX_AGE_INTERVALS = 2.0  # an older frame waited while both source and sinks were stalled
_STALLED_S, _STALLED_INTERVALS = 1.0, 4.0  # without a frame for the longer of both
_JOIN_S = 0.5
_RESYNC_S = 0.5


class Live:
    """One live run. Iterating runs it, and yields each frame after the sinks got it.

    It ends with the source, with `Controls.stop`, or with an error of any stage. Leaving the loop
    early ends it too: everything is closed, on the thread that iterates.
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
        make_capture: Callable[
            [Source, LatestFrameBuffer[VideoFrame], Clock, ReconnectPolicy], FrameCapture
        ]
        | None = None,
    ) -> None:
        """Store the parts; nothing is opened yet.

        Args:
            source: Read on a capture thread.
            restorer: Opened here where it is not open yet.
            sinks: Called with every frame, in order, on the thread that iterates; `DetachedSink`
                runs one on its own thread.
            controls: Requests of windows and pages; None where there are none.
            clock: Must be the source's.
            reconnect_policy: For a source that is interrupted or stuck.
            make_capture: Returns what reads the source, None for `Capture`; replaced in tests.
        """
        self.controls = controls or Controls()
        self._source, self._restorer, self._sinks = source, restorer, list(sinks)
        self._clock = clock
        self._counters = LiveCounters()
        self._frame_interval = FrameInterval(source.frame_time_s)
        self._buffer: LatestFrameBuffer[VideoFrame] = LatestFrameBuffer(clock)
        self._capture = (make_capture or Capture)(
            source, self._buffer, clock, reconnect_policy or ReconnectPolicy()
        )
        self._player = source if isinstance(source, FilePlayer) else None
        self._last: DisplayedFrame | None = None
        self._last_taken_s = clock.now()
        self._last_settings: tuple[object, ...] = ()
        self._chosen = ""  # the configuration requested last
        self._note = ""
        self._has_restore_error = False

    def run(self) -> LiveStatistics:
        """Run to the end and return the statistics."""
        for _ in self:
            pass
        return self.statistics()

    def statistics(self) -> LiveStatistics:
        """Return the statistics of the run so far."""
        counters = self._counters
        durations = counters.summarize()
        return LiveStatistics(
            source=self._source.name,
            configuration=self._restorer.configuration,
            placement=self._restorer.placement,
            seconds=counters.seconds,
            captured=self._buffer.put_count,
            shown=counters.shown,
            dropped=self._buffer.dropped + counters.stale,
            held=counters.held,
            failed=counters.failed,
            reconnects=self._capture.reconnects,
            fps=counters.mean_fps,
            frame_time_ms=self._frame_interval.measured_ms,
            age=durations.pop("age"),
            stages={"read": self._capture.read_times.summarize(), **durations},
        )

    def __iter__(self) -> Iterator[DisplayedFrame]:
        with ExitStack() as stack:
            stack.enter_context(self._restorer)
            self.controls.set_configurations(self._restorer.configurations)
            for sink in self._sinks:
                stack.enter_context(sink)
            stack.enter_context(self._capture)
            stack.callback(self.controls.stop)  # ends a source that waits for a viewer
            while not self.controls.stopped:
                try:
                    frame = self._buffer.take(_POLL_S)
                except BufferClosed:
                    return
                self._apply_controls()
                if frame is None:
                    self._capture.check_stuck()
                    self._display_last()
                    continue
                self._last_taken_s = self._clock.now()
                if self.controls.frozen and self._last is not None:
                    self._counters.held += 1
                    self._display_last()
                elif self._is_fresh(frame):
                    yield self._process(frame)

    def _is_fresh(self, frame: VideoFrame) -> bool:
        """Return whether a frame is recent enough to be displayed; count it otherwise."""
        self._frame_interval.update(frame)
        interval_s = self._frame_interval.seconds
        age_s = self._clock.now() - frame.captured_s
        is_fresh = interval_s is None or age_s <= _MAX_AGE_INTERVALS * interval_s
        self._counters.stale += not is_fresh
        return is_fresh

    def _process(self, frame: VideoFrame) -> DisplayedFrame:
        """Restore a frame, pass it to the sinks, count it."""
        taken_s = self._clock.now()
        pixels = frame.pixels
        converted_s = self._clock.now()
        restoring, after = self._restore_by_controls(pixels)
        restored_s = self._clock.now()
        restore_s = restored_s - converted_s
        shown = DisplayedFrame(
            before=frame,
            after=self._restorer.resize_unrestored(pixels) if after is None else after,
            restored=after is not None,
            status=self._status(frame, now_s=restored_s, restore_s=restore_s),
        )
        self._counters.shown += 1  # before: a recorded frame is counted, whenever a signal arrives
        self._display(shown)
        now_s = self._clock.now()
        self._counters.add(
            now_s=now_s,
            age_s=now_s - frame.captured_s,
            convert_s=converted_s - taken_s,
            restore_s=restore_s if restoring else None,
            show_s=now_s - restored_s,
        )
        return shown

    def _restore_by_controls(self, pixels: Frame) -> tuple[bool, Frame | None]:
        """Return whether restoration is on, and the restored frame at the chosen strength.

        The frame is None where restoration is off, or failed.
        """
        restoring, strength = self.controls.restoring, self.controls.strength
        self._last_settings = (restoring, strength, self._chosen)
        restoring = restoring and strength > 0.0
        after = self._restore(pixels) if restoring else None
        if after is not None and strength < 1.0:
            after = blend_frames(pixels[None], after[None], strength)[0]
        return restoring, after

    def _restore(self, pixels: Frame) -> Frame | None:
        """Return the restored frame, or None where that failed, which is counted and reported."""
        try:
            after = self._restorer.restore(pixels)
        except Exception as error:  # noqa: BLE001  # the source's frame is displayed instead
            self._counters.failed += 1
            note = f"a frame was not restored: {' '.join(str(error).split())}"
            if note != self._note:
                logger.warning("%s", note)
            self._note = note
            self._has_restore_error = True
            return None
        if self._has_restore_error:
            self._note, self._has_restore_error = "", False
        return after

    def _apply_controls(self) -> None:
        """Change the configuration where one was requested; on failure keep the current one."""
        configuration = self.controls.take_configuration()
        if configuration is None or configuration == self._restorer.configuration:
            return
        try:
            self._restorer.choose(configuration)
        except MirnetEdgeError as error:
            logger.warning("%s", error)
            self._note = f"{configuration} cannot be opened: {error}"
        else:
            self._note, self._chosen = "", configuration

    def _display_last(self) -> None:
        """Pass the last frame to the sinks again, with the current status.

        It is restored again where restoration, strength or configuration were changed: a frame
        that is looked at for long is the one to compare them on. It is not counted again.
        """
        last = self._last
        if last is None:
            return
        after, restored = last.after, last.restored
        started_s, restore_s = self._clock.now(), 1e-3 * last.status.restore_ms
        if self._last_settings != (self.controls.restoring, self.controls.strength, self._chosen):
            _, anew = self._restore_by_controls(last.before.pixels)
            restore_s = self._clock.now() - started_s
            restored = anew is not None
            after = self._restorer.resize_unrestored(last.before.pixels) if anew is None else anew
        status = self._status(last.before, now_s=self._clock.now(), restore_s=restore_s)
        self._display(
            DisplayedFrame(before=last.before, after=after, restored=restored, status=status)
        )

    def _display(self, shown: DisplayedFrame) -> None:
        self._last = shown
        for sink in self._sinks:
            sink.show(shown)

    def _status(self, frame: VideoFrame, *, now_s: float, restore_s: float) -> LiveStatus:
        counters, controls, player = self._counters, self.controls, self._player
        state = self._state(now_s)
        return LiveStatus(
            fps=counters.fps if state in ("live", "playing") else 0.0,
            age_ms=1e3 * (now_s - frame.captured_s),
            age_p95_ms=counters.age_p95_ms,
            restore_ms=1e3 * restore_s,
            captured=self._buffer.put_count,
            shown=counters.shown,
            dropped=self._buffer.dropped + counters.stale,
            failed=counters.failed,
            configuration=self._restorer.configuration,
            configurations=controls.configurations,
            restoring=controls.restoring,
            frozen=controls.frozen,
            recording=controls.recording,
            snapshots=controls.snapshots,
            note=self._capture.interruption or self._note or controls.note,
            state=state,
            strength=controls.strength,
            playback=None if player is None else player.playback,
            placement=self._restorer.placement,
        )

    def _state(self, now_s: float) -> LiveState:
        player = self._player
        if self.controls.frozen:
            return "frozen"
        if player is not None and player.ended:
            return "ended"
        if player is not None and self.controls.paused:
            return "paused"
        interval_s = self._frame_interval.seconds or 0.0
        silent_s = now_s - self._last_taken_s
        if self._capture.interruption or silent_s > max(
            _STALLED_S, _STALLED_INTERVALS * interval_s
        ):
            return "stalled"
        return "live" if player is None else "playing"


# capture


@dataclass(frozen=True, kw_only=True)
class ReconnectPolicy:
    """Back-off and timeouts for a source that is interrupted or stuck."""

    first_pause_s: float = 0.25
    """Before an interrupted source is opened again; twice as long after each failure."""
    longest_pause_s: float = 4.0
    give_up_s: float = 30.0
    """The longest interruption; after it the run ends with an error."""
    blocked_s: float = 30.0
    """The watchdog's limit: a source that is in one call for longer ends the run."""


class FrameCapture(Protocol):
    """Fills the latest-frame buffer while it is open: `Capture`, or a fake in tests."""

    read_times: DurationHistogram
    reconnects: int

    @property
    def interruption(self) -> str:
        """Return why the source gives no frames, in one line; empty where it does."""

    def check_stuck(self) -> None:
        """Raise where the source is stuck."""

    def __enter__(self) -> FrameCapture: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Capture:
    """Reads a source on its own thread into a latest-frame buffer, while it is open.

    The source's end and its errors close the buffer. A thread that is stuck in the source at the
    end is abandoned: it is a daemon, and the program ends without it.
    """

    def __init__(
        self,
        source: Source,
        buffer: LatestFrameBuffer[VideoFrame],
        clock: Clock,
        reconnect_policy: ReconnectPolicy,
    ) -> None:
        """Store the parts; nothing is opened yet."""
        self._source = source
        self._buffer = buffer
        self._clock = clock
        self._policy = reconnect_policy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._start_s: float | None = None
        self._call_started_s: float | None = None
        self._last_frame_s = clock.now()
        self._error: VideoError | None = None
        self.read_times = DurationHistogram()
        """The time of each read from the source."""
        self.reconnects = 0
        """How often the source was interrupted and came back."""

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._buffer.close()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            logger.warning("%s is stuck; its capture thread is abandoned", self._source.name)

    @property
    def interruption(self) -> str:
        """Return why the source gives no frames, in one line; empty where it does."""
        error = self._error
        return "" if error is None else f"{error}; trying again"

    def check_stuck(self) -> None:
        """Raise where the source is stuck (the watchdog). Called by the main thread.

        Raises:
            VideoError: The source is in one call for longer than the policy allows.
        """
        call_started_s = self._call_started_s
        if call_started_s is None:
            return
        stuck_s = self._clock.now() - call_started_s
        if stuck_s > self._policy.blocked_s:
            raise VideoError(
                f"{self._source.name} has given no frame for {stuck_s:.0f} s and does not respond; "
                "check the camera or the network, and start again"
            )

    def _run(self) -> None:
        try:
            self._read_with_reconnects()
        except BaseException as error:  # noqa: BLE001  # raised again on the main thread
            self._buffer.close(error)
        else:
            self._buffer.close()

    def _read_with_reconnects(self) -> None:
        back_off = BackOff(self._policy.first_pause_s, self._policy.longest_pause_s)
        while not self._stop.is_set():
            frames_before = self.read_times.count
            try:
                self._read_until_end()
            except VideoError as error:
                # an error while reopening an interrupted source is part of the interruption
                if not isinstance(error, SourceInterruptedError) and self._error is None:
                    raise
                if self.read_times.count > frames_before:
                    back_off.reset()
                self._call_started_s = None
                self._record_interruption(error)
                self._clock.sleep(back_off.next_pause_s(), self._stop)
            else:
                return

    def _record_interruption(self, error: VideoError) -> None:
        """Keep the error for `interruption`; raise where the source was away for too long."""
        away_s = self._clock.now() - self._last_frame_s
        if away_s > self._policy.give_up_s:
            raise VideoError(
                f"{self._source.name} did not come back within {away_s:.0f} s: {error}"
            ) from error
        if self._error is None:
            logger.warning("%s: %s; trying again", self._source.name, error)
        self._error = error

    def _read_until_end(self) -> None:
        """Open the source and put its frames into the buffer until it ends or the run does."""
        self._start_s = None
        self._call_started_s = self._clock.now()
        with self._source as source:
            while not self._stop.is_set():
                started_s = self._call_started_s = self._clock.now()
                frame = source.read()
                self._call_started_s = None
                if frame is None:
                    return
                self._last_frame_s = self._clock.now()
                self.read_times.add(1e3 * (self._last_frame_s - started_s))
                if self._error is not None:
                    self._error = None
                    self.reconnects += 1
                self._buffer.put(self._wait_until_due(frame) if source.paced else frame)

    def _wait_until_due(self, frame: VideoFrame) -> VideoFrame:
        """Wait until a file's frame is due, and return it as if a camera captured it then."""
        now, time_s = self._clock.now(), frame.time_s
        if time_s is None:
            return frame
        if self._start_s is None or now - (self._start_s + time_s) > _RESYNC_S:
            # a reader that fell behind continues at normal speed rather than catching up
            self._start_s = now - time_s
        self._clock.sleep(self._start_s + time_s - now, self._stop)
        return frame.captured_at(self._clock.now())


# statistics

_FPS_WINDOW_S = 1.0
_MAX_WINDOW_FRAMES = 256
_INTERVAL_WEIGHT = 0.1
_MIN_MS, _MAX_MS, _BIN_RATIO = 1e-3, 1e7, 1.01


@dataclass(frozen=True, kw_only=True)
class LiveStatistics:
    """Statistics of a live run: captured = shown + dropped + held, give or take the last frame."""

    source: str
    configuration: str
    """The one in use at the end: `backend:precision`."""
    placement: str
    """What computed the last frame, as its backend told; empty where it does not."""
    seconds: float
    """From the first displayed frame to the last."""
    captured: int
    shown: int
    dropped: int
    """Replaced by newer frames before they could be restored, or too old to be displayed."""
    held: int
    """Captured while the display was frozen."""
    failed: int
    """Could not be restored, and were displayed unrestored."""
    reconnects: int
    fps: float
    """Displayed frames per second: intervals, not frames, over `seconds`."""
    frame_time_ms: float
    """The source's frame interval, as measured."""
    age: DurationSummary
    """Frame age: from capture until all sinks have displayed the frame."""
    stages: dict[str, DurationSummary]
    """read: from the source · convert: to RGB pixels · restore · show: all sinks."""

    def write_json(self, path: Path) -> None:
        """Write the statistics as JSON, atomically.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class DurationSummary:
    """Mean, percentiles and maximum of a stage's durations. All zero where there are none."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class LiveCounters:
    """The counters of one live run. For the main thread."""

    def __init__(self) -> None:
        """Start at zero."""
        self.shown = self.stale = self.held = self.failed = 0
        stages = ("age", "convert", "restore", "show")
        self._durations = {stage: DurationHistogram() for stage in stages}
        self._first_s: float | None = None
        self._recent: deque[float] = deque(maxlen=_MAX_WINDOW_FRAMES)

    def add(
        self,
        *,
        now_s: float,
        age_s: float,
        convert_s: float,
        restore_s: float | None,
        show_s: float,
    ) -> None:
        """Add the times of a displayed frame, which `shown` counts already.

        Args:
            now_s: When it was displayed.
            age_s: From its capture to now.
            convert_s: The time of converting it to RGB pixels.
            restore_s: The time of restoring it; None where restoration is off.
            show_s: The time of the sinks.
        """
        self._durations["age"].add(1e3 * age_s)
        self._durations["convert"].add(1e3 * convert_s)
        self._durations["show"].add(1e3 * show_s)
        if restore_s is not None:
            self._durations["restore"].add(1e3 * restore_s)
        if self._first_s is None:
            self._first_s = now_s
        self._recent.append(now_s)
        while len(self._recent) > 2 and now_s - self._recent[0] > _FPS_WINDOW_S:
            self._recent.popleft()

    @property
    def fps(self) -> float:
        """Return the displayed frames per second over the last second, 0 before the second one."""
        return _rate(len(self._recent), self._recent[-1] - self._recent[0]) if self._recent else 0.0

    @property
    def age_p95_ms(self) -> float:
        """Return the 95th percentile of the frame ages."""
        return self._durations["age"].percentile(95.0)

    @property
    def seconds(self) -> float:
        """Return the time from the first displayed frame to the last."""
        return self._recent[-1] - self._first_s if self._first_s is not None else 0.0

    @property
    def mean_fps(self) -> float:
        """Return the displayed frames per second over the whole run."""
        return _rate(self.shown, self.seconds)

    def summarize(self) -> dict[str, DurationSummary]:
        """Return the durations of the stages, and the frame ages."""
        return {name: histogram.summarize() for name, histogram in self._durations.items()}


def _rate(count: int, seconds: float) -> float:
    return (count - 1) / seconds if seconds > 0.0 else 0.0


class FrameInterval:
    """The seconds between two frames of the source: as announced, then as measured."""

    def __init__(self, announced_s: float | None) -> None:
        """Start with the announced interval, which cameras exceed in the dark."""
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
        """Return the measured interval, 0 where there is none yet."""
        return 1e3 * (self._measured_s or 0.0)

    def update(self, frame: VideoFrame) -> None:
        """Update the moving average with a frame; dropped frames before it are accounted for."""
        last, self._last = self._last, frame
        if last is None or frame.index <= last.index or not frame.continuous:
            return  # the source was opened again, or a file was paused
        interval_s = (frame.captured_s - last.captured_s) / (frame.index - last.index)
        before = interval_s if self._measured_s is None else self._measured_s
        self._measured_s = before + _INTERVAL_WEIGHT * (interval_s - before)


class DurationHistogram:
    """A histogram of durations whose bins are 1 % wide: percentiles are that exact."""

    def __init__(self) -> None:
        """Start empty."""
        bins = math.ceil(math.log(_MAX_MS / _MIN_MS) / math.log(_BIN_RATIO)) + 1
        self._counts = np.zeros(bins, np.int64)
        self._total_ms = 0.0
        self._max_ms = 0.0
        self.count = 0
        """How many were added."""

    def add(self, milliseconds: float) -> None:
        """Add one duration; one below 0.001 ms counts as that."""
        clamped = min(max(milliseconds, _MIN_MS), _MAX_MS)
        self._counts[int(math.log(clamped / _MIN_MS) / math.log(_BIN_RATIO))] += 1
        self.count += 1
        self._total_ms += milliseconds
        self._max_ms = max(self._max_ms, milliseconds)

    def percentile(self, q: float) -> float:
        """Return the q-th percentile in ms, to 1 %; 0 where the histogram is empty."""
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(self.count * q / 100.0))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_MIN_MS * _BIN_RATIO ** (place + 1), self._max_ms)

    def summarize(self) -> DurationSummary:
        """Return count, mean, percentiles and maximum so far."""
        return DurationSummary(
            count=self.count,
            mean_ms=self._total_ms / self.count if self.count else 0.0,
            p50_ms=self.percentile(50.0),
            p95_ms=self.percentile(95.0),
            p99_ms=self.percentile(99.0),
            max_ms=self._max_ms,
        )
