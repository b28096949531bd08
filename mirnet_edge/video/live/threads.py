"""Hold a source's frame rate with few threads, so that other programs keep their cores."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from typing import TYPE_CHECKING

from mirnet_edge.runtime.machine import usable_cores
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.live.budget_levels import HOLDS_BELOW
from mirnet_edge.video.restorer import Restorer, bundle_openers, bundle_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.clock import Clock

logger = logging.getLogger(__name__)

_WARM_UP = 2  # frames after opening whose times say nothing
_FRAMES = 60  # of whose times the median counts: single seconds are slower than the rest
# where frames take this many times longer than that, the median of few of them is enough
_FAR_ABOVE, _FEW_FRAMES = 1.5, 4
_USUAL_FRAME_TIME_S = 1.0 / 30.0  # of sources that announce no frame rate, such as browsers


class FewThreadsRestorer(Restorer):
    """A restorer that starts with one thread and takes more where frames would be late.

    Several threads restore a frame sooner but take more processor time together than one. Nothing
    is measured apart: the times of the frames themselves count, and once it took more threads it
    keeps them.
    """

    def __init__(
        self,
        runners_of: Callable[[int | None], Mapping[str, Callable[[], Runner]]],
        first: str,
        frame_time_s: Callable[[], float | None],
        *,
        cores: int,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Store the configurations; `with` opens the first.

        Args:
            runners_of: Returns the configurations' runners, as `Restorer` takes them, for a number
                of threads; for None with the backends' default.
            first: The configuration to start with.
            frame_time_s: Returns the source's frame interval in seconds; None where it is unknown,
                then 30 frames a second are assumed.
            cores: Threads from which on the backends' default is used.
            clock: Times the frames.

        Raises:
            OptionError: `first` is not one of the configurations.
        """
        self._runners_of, self._frame_time_s = runners_of, frame_time_s
        self._cores, self._clock = cores, clock
        self._threads: int | None = 1 if cores > 1 else None
        self._interval_s = _USUAL_FRAME_TIME_S
        self._times_s: deque[float] = deque(maxlen=_FRAMES)
        self._skipped = 0
        super().__init__(runners_of(self._threads), first)

    @property
    def threads(self) -> int | None:
        """Return the number of threads in use; None for the backends' default."""
        return self._threads

    def choose(self, configuration: str) -> None:
        """Change to another configuration, with the same number of threads; see `Restorer`."""
        super().choose(configuration)
        self._forget_times()

    def restore(self, pixels: Frame) -> Frame:
        """Return the restored frame: a new array, (scale H, scale W, 3) uint8 RGB."""
        if self._threads is not None:
            self._take_threads()
        started_s = self._clock.now()
        restored = super().restore(pixels)
        if self._skipped < _WARM_UP:
            self._skipped += 1
        else:
            self._times_s.append(self._clock.now() - started_s)
        return restored

    def _take_threads(self) -> None:
        """Take more threads where the last frames were too slow for the frame rate."""
        # a source that is opened anew, after an interruption, announces none for a moment
        self._interval_s = self._frame_time_s() or self._interval_s
        limit_s = HOLDS_BELOW * self._interval_s
        for count, factor in ((_FEW_FRAMES, _FAR_ABOVE), (_FRAMES, 1.0)):
            times_s = list(self._times_s)[-count:]
            if len(times_s) == count and statistics.median(times_s) > factor * limit_s:
                self._reopen(self._more_threads(statistics.median(times_s) / limit_s))
                return

    def _more_threads(self, factor: float) -> int | None:
        """Return the threads for frames that are to take less time by a factor."""
        now = self._threads or 1
        # one more than in proportion, as not all of the work is divided among threads
        wanted = int(now * factor) + 2
        return wanted if wanted < self._cores else None

    def _reopen(self, threads: int | None) -> None:
        state = self.smoothing_state
        self.close_runners()
        self._threads = threads
        self._runners = dict(self._runners_of(threads))
        self._forget_times()
        self.smoothing_state = state
        logger.info("restoring with %s threads now", threads or "all")

    def _forget_times(self) -> None:
        self._times_s.clear()
        self._skipped = 0


def few_threads_restorer(
    bundle: str | Path,
    frame_time_s: Callable[[], float | None],
    backend: str = "auto",
    precision: str = "auto",
) -> Restorer:
    """Return a bundle's restorer with as few threads as hold the frame rate.

    Args:
        bundle: The bundle's folder, or `shipped:NAME`.
        frame_time_s: Returns the source's frame interval in seconds, or None.
        backend: The backend to start with, or auto.
        precision: The precision to start with, or auto.

    Raises:
        MirnetEdgeError: As `bundle_runners`.
    """
    runners = bundle_runners(bundle, backend, precision)

    def runners_of(threads: int | None) -> Mapping[str, Callable[[], Runner]]:
        return runners if threads is None else bundle_openers(bundle, runners, threads)

    return FewThreadsRestorer(runners_of, next(iter(runners)), frame_time_s, cores=usable_cores())
