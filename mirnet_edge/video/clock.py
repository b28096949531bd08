"""Time: the machine's, and a virtual one that tests turn by hand."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable


class Clock(Protocol):
    """Seconds that only rise, and the two ways to let them pass."""

    def now(self) -> float:
        """Return seconds since some moment."""

    def sleep(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Return after so many seconds, or as soon as STOP is set."""

    def wait(self, condition: threading.Condition, seconds: float | None) -> bool:
        """Wait to be notified, with CONDITION held; False where the seconds passed first."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return seconds since the machine started, or some such moment."""
        return time.monotonic()

    def sleep(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Return after so many seconds, or as soon as STOP is set."""
        if seconds <= 0.0:
            return
        if stop is None:
            time.sleep(seconds)
        else:
            stop.wait(seconds)

    def wait(self, condition: threading.Condition, seconds: float | None) -> bool:
        """Wait to be notified, with CONDITION held; False where the seconds passed first."""
        return condition.wait(seconds)


class VirtualClock:
    """A clock for one thread: waiting runs what was scheduled meanwhile, and takes no time.

    It stands for the other threads: what they would do is scheduled with `at`.
    """

    def __init__(self) -> None:
        """Start at 0 with nothing scheduled."""
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Return the virtual seconds that have passed."""
        return self._now

    def at(self, moment_s: float, event: Callable[[], None]) -> None:
        """Run EVENT when the clock passes MOMENT_S; those of one moment in the order given."""
        heapq.heappush(self._events, (moment_s, next(self._order), event))

    def sleep(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Let time pass, running what is due, until the end or until STOP is set."""
        end = self._now + max(0.0, seconds)
        while not (stop is not None and stop.is_set()):
            if not self._run_next(end):
                self._now = end
                return

    def wait(self, condition: threading.Condition, seconds: float | None) -> bool:
        """Run the next thing scheduled; False where there is none before the end.

        Raises:
            RuntimeError: Nothing is scheduled and there is no end: a real thread would hang.
        """
        del condition
        end = float("inf") if seconds is None else self._now + seconds
        if self._run_next(end):
            return True
        if seconds is None:
            raise RuntimeError("the virtual clock has nothing scheduled: this wait never ends")
        self._now = end
        return False

    def _run_next(self, end: float) -> bool:
        if not self._events or self._events[0][0] > end:
            return False
        moment, _, event = heapq.heappop(self._events)
        self._now = max(self._now, moment)
        event()
        return True


REAL_CLOCK = RealClock()
