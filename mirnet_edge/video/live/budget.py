"""Holding a frame rate: how much is done for a frame, on a ladder, by what it takes here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.manifest import read_manifest
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.restorer import Restorer, bundle_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.manifest import Manifest
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.clock import Clock

_SIZES = (1.0, 0.75, 0.5)
_EVERY = (2, 3, 4)
_FULL, _ROOMY = 0.9, 0.6
_FRAMES, _LOOK_S = 4, 0.5
_PATIENCE_S, _LONGEST_PATIENCE_S = 3.0, 60.0
_NEWS_S = 30.0


@dataclass(frozen=True, kw_only=True)
class BudgetLevel:
    """How much is done for a frame."""

    mode: str
    size: float = 1.0
    """Of both sides; below 1 the frame is restored smaller and enlarged again."""
    every: int = 1
    """One frame in so many is restored; the others get its curves."""

    def __str__(self) -> str:
        """Return the mode and what was taken off."""
        size = "" if self.size == 1.0 else f" at {self.size:.0%} size"
        every = "" if self.every == 1 else f", 1 of {self.every} frames"
        return f"{self.mode}{size}{every}"


def budget_levels(modes: Sequence[str], *, sizes: bool) -> list[BudgetLevel]:
    """Return the rungs from the best to the cheapest.

    Args:
        modes: From the first choice to the fastest.
        sizes: Whether the graphs take any size.
    """
    rungs = [BudgetLevel(mode=mode) for mode in modes]
    smaller = _SIZES[1:] if sizes else ()
    rungs += [BudgetLevel(mode=modes[-1], size=size) for size in smaller]
    last = rungs[-1]
    return rungs + [BudgetLevel(mode=last.mode, size=last.size, every=every) for every in _EVERY]


class FrameBudget:
    """Chooses the rung. Pure: it is told the time and what frames took.

    Down, where frames take more than 90 % of their time over half a second: to the first rung that
    should hold by its share of pixels and frames. Up, one rung, where that one would fit into
    60 %, and only after a wait that doubles with every ascent that had to be undone.
    """

    def __init__(self, rungs: Sequence[BudgetLevel], target_fps: float) -> None:
        """Begin at the top.

        Raises:
            OptionError: No rung, or no frame per second.
        """
        if not rungs or not target_fps > 0.0:
            raise OptionError(f"--target-fps must be above 0, found {target_fps:g}")
        self._rungs = list(rungs)
        self._budget_s = 1.0 / target_fps
        self._place = 0
        self._costs: dict[int, tuple[float, float]] = {}
        self._now_s = 0.0
        self._since_s: float | None = None
        self._spent_s, self._frames = 0.0, 0
        self._patience_s = _PATIENCE_S
        self._climbed = False

    @property
    def rung(self) -> BudgetLevel:
        """Return what is to be done now."""
        return self._rungs[self._place]

    def observe(self, now_s: float, work_s: float) -> BudgetLevel:
        """Take what one frame took, restored or not, and return what is to be done from now on."""
        self._now_s = now_s
        if self._since_s is None:
            self._since_s = now_s
        self._spent_s += work_s
        self._frames += 1
        looked_s = now_s - self._since_s
        if self._frames < _FRAMES * self.rung.every or looked_s < _LOOK_S:
            return self.rung
        mean_s = self._spent_s / self._frames
        self._costs[self._place] = (mean_s, now_s)
        if mean_s > _FULL * self._budget_s:
            self._descend(mean_s)
        elif looked_s >= self._patience_s and self._fits_above(mean_s):
            self._climbed = True
            self._go(self._place - 1)
        elif looked_s >= 2.0 * self._patience_s:
            self._climbed = False  # it holds
            self._restart()
        return self.rung

    def _descend(self, mean_s: float) -> None:
        """Go down to the first rung that should hold, one at least."""
        if self._climbed:
            self._patience_s = min(2.0 * self._patience_s, _LONGEST_PATIENCE_S)
            self._climbed = False
        lower = range(self._place + 1, len(self._rungs))
        holds = (
            place for place in lower if self._expected_s(place, mean_s) < _FULL * self._budget_s
        )
        self._go(next(holds, len(self._rungs) - 1))

    def _fits_above(self, mean_s: float) -> bool:
        above = self._place - 1
        return above >= 0 and self._expected_s(above, mean_s) < _ROOMY * self._budget_s

    def _expected_s(self, place: int, mean_s: float) -> float:
        """Return what a frame should take on another rung, by what it takes on this one."""
        here, there = self.rung, self._rungs[place]
        if here.mode != there.mode:
            # what it took when it was tried, for as long as that is news; a trial otherwise
            cost_s, when_s = self._costs.get(place, (0.0, self._now_s))
            return cost_s if self._now_s - when_s < _NEWS_S else 0.0
        return mean_s * (there.size / here.size) ** 2 * here.every / there.every

    def _go(self, place: int) -> None:
        self._place = place
        self._restart()

    def _restart(self) -> None:
        self._since_s, self._spent_s, self._frames = None, 0.0, 0


class BudgetedRestorer(Restorer):
    """A restorer that does for each frame what a budget allows."""

    def __init__(
        self,
        runners: Mapping[str, Callable[[], Runner]],
        first: str,
        budget: FrameBudget,
        *,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Remember what can be chosen, and what chooses.

        Raises:
            OptionError: `first` is no runner's name.
        """
        super().__init__(runners, first)
        self._budget, self._clock = budget, clock
        self._turn = 0
        self._curves: NDArray[np.uint8] | None = None

    @property
    def mode(self) -> str:
        """Return the mode at work and what the budget took off."""
        return str(self._budget.rung)

    def restore(self, pixels: Frame) -> Frame:
        """Return a frame restored as far as the budget allows: (scale H, scale W, 3)."""
        started_s = self._clock.now()
        rung = self._budget.rung
        if rung.mode != self._mode:
            super().choose(rung.mode)
        skipped = self._turn % rung.every != 0 and self._curves is not None
        self._turn += 1
        if skipped and self._curves is not None:
            restored = apply_curves(self._curves, self.passed(pixels))
        else:
            restored = self._restored_at(pixels, rung.size)
            if rung.every > 1:
                self._curves = curves_between(self.passed(pixels), restored)
        now_s = self._clock.now()
        self._budget.observe(now_s, now_s - started_s)
        return restored

    def choose(self, mode: str) -> None:
        """Refuse: the budget chooses.

        Raises:
            OptionError: Always.
        """
        raise OptionError(f"--target-fps chooses the mode; leave it out to run {mode} throughout")

    def _restored_at(self, pixels: Frame, size: float) -> Frame:
        if size == 1.0:
            return super().restore(pixels)
        import cv2

        height, width = pixels.shape[:2]
        small = (max(1, round(width * size)), max(1, round(height * size)))
        shrunk = np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), np.uint8)
        restored = super().restore(shrunk)
        scale = self._opened(self._mode).scale
        full = (scale * width, scale * height)
        return np.asarray(cv2.resize(restored, full, interpolation=cv2.INTER_CUBIC), np.uint8)


def curves_between(before: Frame, after: Frame) -> NDArray[np.uint8]:
    """Return (3, 256): what each level of each channel became on average.

    Levels that do not occur lie on the line between their neighbors; the curves rise.
    """
    curves = np.empty((3, 256), np.uint8)
    levels = np.arange(256)
    step = max(1, int(np.sqrt(before.shape[0] * before.shape[1] / 65_536)))
    for channel in range(3):
        seen = before[::step, ::step, channel].ravel()
        became = after[::step, ::step, channel].ravel()
        count = np.bincount(seen, minlength=256)
        total = np.bincount(seen, weights=became, minlength=256)
        known = count > 0
        mean = np.interp(levels, levels[known], total[known] / count[known])
        curves[channel] = np.rint(np.maximum.accumulate(mean))
    return curves


def apply_curves(curves: NDArray[np.uint8], pixels: Frame) -> Frame:
    """Return a frame with each level replaced by what the curves of its channel say."""
    import cv2

    table = np.ascontiguousarray(curves.T[None])
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def budgeted_restorer(
    bundle: str | Path,
    target_fps: float,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
) -> BudgetedRestorer:
    """Return a restorer of a bundle that holds a frame rate.

    The ladder begins with the mode that was asked for, and goes on with the fastest.

    Raises:
        MirnetEdgeError: As `bundle_runners`, or no frame per second.
    """
    runners = bundle_runners(bundle, backend, precision, threads=threads)
    manifest = read_manifest(Path(bundle))
    rungs = budget_levels(
        _fastest_below(list(runners), manifest), sizes=manifest.image.size is None
    )
    return BudgetedRestorer(runners, rungs[0].mode, FrameBudget(rungs, target_fps))


def _fastest_below(modes: list[str], manifest: Manifest) -> list[str]:
    """Return the first mode, and the fastest of the others where that is faster."""
    time_ms = {
        mode.name: mode.latency.p50_ms if mode.latency else math.inf
        for mode in manifest.configurations
    }
    fastest = min(modes, key=lambda name: time_ms[name])
    return [modes[0]] if time_ms[fastest] >= time_ms[modes[0]] else [modes[0], fastest]
