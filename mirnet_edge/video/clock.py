"""Clocks: the machine's monotonic clock and a virtual one for tests; back-off pauses."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable


class Clock(Protocol):
    """A monotonic clock that can also sleep and wait."""

    def now(self) -> float:
        """Return monotonic seconds since an arbitrary start."""

    def sleep(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Sleep for SECONDS, or until STOP is set."""

    def wait(self, condition: threading.Condition, seconds: float | None) -> bool:
        """Wait on a held CONDITION; return False on timeout."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return monotonic seconds since an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Sleep for SECONDS, or until STOP is set."""
        if seconds <= 0.0:
            return
        if stop is None:
            time.sleep(seconds)
        else:
            stop.wait(seconds)

    def wait(self, condition: threading.Condition, seconds: float | None) -> bool:
        """Wait on a held CONDITION; return False on timeout."""
        return condition.wait(seconds)


class VirtualClock:
    """A clock for tests on one thread: sleeping runs scheduled events and takes no real time.

    Events that other threads would cause are scheduled with `at`.
    """

    def __init__(self) -> None:
        """Start at 0 without events."""
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Return the virtual seconds since the start."""
        return self._now

    def at(self, moment_s: float, event: Callable[[], None]) -> None:
        """Schedule EVENT for MOMENT_S; those of one moment run in the order of the calls."""
        heapq.heappush(self._events, (moment_s, next(self._order), event))

    def sleep(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Advance the time by SECONDS, running due events, or until STOP is set."""
        end = self._now + max(0.0, seconds)
        while not (stop is not None and stop.is_set()):
            if not self._run_next(end):
                self._now = end
                return

    def wait(self, condition: threading.Condition, seconds: float | None) -> bool:
        """Run the next scheduled event; return False where there is none before the timeout.

        Raises:
            RuntimeError: There is neither an event nor a timeout: a real thread would hang.
        """
        del condition
        end = float("inf") if seconds is None else self._now + seconds
        if self._run_next(end):
            return True
        if seconds is None:
            raise RuntimeError(
                "expected a scheduled event or a timeout, found neither: this wait never ends"
            )
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


class BackOff:
    """Pauses between attempts, each twice as long as the last, up to a limit."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        """Start with the first pause."""
        self._first_s, self._longest_s = first_s, longest_s
        self._pause_s = first_s

    def next_pause_s(self) -> float:
        """Return the pause before the next attempt, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(2.0 * pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Start with the first pause again, after a success."""
        self._pause_s = self._first_s
