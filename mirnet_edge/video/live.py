"""Live video: the newest frame is restored and shown, the others are dropped and counted.

A frame waits for nothing but the one at hand. So its age when it is shown is at most two frame
times of the source, plus restoring and showing it, however slow those are.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.video.capture import Capture, Patience
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.controls import Controls
from mirnet_edge.video.frames import Shown
from mirnet_edge.video.mailbox import Mailbox, MailboxClosed
from mirnet_edge.video.tally import FrameTime, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from mirnet_edge.images import Frame
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.frames import VideoFrame
    from mirnet_edge.video.restorer import Restorer
    from mirnet_edge.video.sinks import Sink
    from mirnet_edge.video.sources import Source
    from mirnet_edge.video.statistics import Durations, LiveStatistics

logger = logging.getLogger(__name__)

_GLANCE_S = 0.1  # how often sinks are served while no frame comes: windows have keys to answer
_OLDEST_FRAME_TIMES = 2.0


class Capturing(Protocol):
    """What fills the mailbox while its `with` lasts: `Capture`, or a test."""

    reads: Durations
    reconnects: int

    @property
    def trouble(self) -> str:
        """Return what keeps frames from coming, in one line; empty where nothing does."""

    def check(self) -> None:
        """Raise where waiting any longer is of no use."""

    def __enter__(self) -> Capturing: ...

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
        patience: Patience | None = None,
        capturing: Callable[[Source, Mailbox[VideoFrame], Clock, Patience], Capturing] = Capture,
    ) -> None:
        """Say what is to run; nothing is opened yet.

        Args:
            source: Read on a thread of its own.
            restorer: Opened here where it is not yet.
            sinks: Get every frame in turn, on the thread that iterates; see `Detached`.
            controls: By which windows and pages ask for things; None where nobody does.
            clock: Must be the source's.
            patience: With a source that gives nothing.
            capturing: What reads the source; replaced in tests.
        """
        self.controls = controls or Controls()
        self._source, self._restorer, self._sinks = source, restorer, list(sinks)
        self._clock = clock
        self._tally = Tally()
        self._frame_time = FrameTime(source.frame_time_s)
        self._mailbox: Mailbox[VideoFrame] = Mailbox(clock)
        self._capture = capturing(source, self._mailbox, clock, patience or Patience())
        self._last: Shown | None = None
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
            captured=self._mailbox.put_count,
            dropped=self._mailbox.dropped,
            reconnects=self._capture.reconnects,
            frame_time_ms=self._frame_time.measured_ms,
            read=self._capture.reads.spread(),
        )

    def __iter__(self) -> Iterator[Shown]:
        with ExitStack() as stack:
            stack.enter_context(self._restorer)
            self.controls.offer_modes(self._restorer.modes)
            for sink in self._sinks:
                stack.enter_context(sink)
            stack.enter_context(self._capture)
            stack.callback(self.controls.stop)  # a source that waits for somebody waits no longer
            while not self.controls.stopped:
                try:
                    frame = self._mailbox.take(_GLANCE_S)
                except MailboxClosed:
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

    def _shown(self, frame: VideoFrame) -> Shown:
        """Restore a frame, give it to the sinks, count it."""
        restoring = self.controls.restoring
        taken_s = self._clock.now()
        pixels = frame.pixels
        started_s = self._clock.now()
        after = self._restored(pixels) if restoring else None
        restored_s = self._clock.now()
        restore_s = restored_s - started_s
        shown = Shown(
            before=frame,
            after=self._restorer.passed(pixels) if after is None else after,
            restored=after is not None,
            figures=self._tally.figures(
                self.controls,
                mode=self._restorer.mode,
                age_s=restored_s - frame.captured_s,
                restore_s=restore_s,
                captured=self._mailbox.put_count,
                dropped=self._mailbox.dropped,
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
            captured=self._mailbox.put_count,
            dropped=self._mailbox.dropped,
            note=self._capture.trouble or self._note,
        )
        self._give(
            Shown(
                before=frame,
                after=self._last.after,
                restored=self._last.restored,
                figures=figures,
            )
        )

    def _give(self, shown: Shown) -> None:
        self._last = shown
        for sink in self._sinks:
            sink.show(shown)
