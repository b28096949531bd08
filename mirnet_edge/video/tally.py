"""What a live run counts while it goes on: the figures of each frame, the statistics of all."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mirnet_edge.video.frames import Figures
from mirnet_edge.video.statistics import Durations, LiveStatistics

if TYPE_CHECKING:
    from mirnet_edge.video.controls import Controls
    from mirnet_edge.video.frames import VideoFrame
    from mirnet_edge.video.statistics import Spread

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


class Tally:
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
    ) -> Figures:
        """Return how things stand at one frame."""
        return Figures(
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
        read: Spread,
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
