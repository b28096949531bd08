"""Holding a frame rate: how much is done for a frame, on a ladder, by what it takes here."""

from __future__ import annotations

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

    from mirnet_edge.images import Frame
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.clock import Clock

_SIZES = (1.0, 0.75, 0.5)
_EVERY = (2, 3, 4)
_FULL, _ROOMY = 0.9, 0.6
_FRAMES, _LOOK_S = 8, 0.5
_PATIENCE_S, _LONGEST_PATIENCE_S = 3.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Rung:
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


def ladder(modes: Sequence[str], *, sizes: bool) -> list[Rung]:
    """Return the rungs from the best to the cheapest.

    Args:
        modes: From the first choice to the fastest.
        sizes: Whether the graphs take any size.
    """
    rungs = [Rung(mode=mode) for mode in modes]
    smaller = _SIZES[1:] if sizes else ()
    rungs += [Rung(mode=modes[-1], size=size) for size in smaller]
    last = rungs[-1]
    return rungs + [Rung(mode=last.mode, size=last.size, every=every) for every in _EVERY]


class Budget:
    """Chooses the rung. Pure: it is told the time and what frames took.

    Down, where frames take more than 90 % of their time, after half a second. Up, where the rung
    above would fit into 60 % by what it took before (or, never tried, by its share of pixels and
    frames), and only after a wait that doubles with every ascent that had to be undone.
    """

    def __init__(self, rungs: Sequence[Rung], target_fps: float) -> None:
        """Begin at the top.

        Raises:
            OptionError: No rung, or no frame per second.
        """
        if not rungs or not target_fps > 0.0:
            raise OptionError(f"--target-fps must be above 0, found {target_fps:g}")
        self._rungs = list(rungs)
        self._budget_s = 1.0 / target_fps
        self._place = 0
        self._cost_s: dict[int, float] = {}
        self._since_s: float | None = None
        self._spent_s, self._frames = 0.0, 0
        self._patience_s = _PATIENCE_S
        self._climbed = False

    @property
    def rung(self) -> Rung:
        """Return what is to be done now."""
        return self._rungs[self._place]

    def observe(self, now_s: float, work_s: float) -> Rung:
        """Take what one frame took, restored or not, and return what is to be done from now on."""
        if self._since_s is None:
            self._since_s = now_s
        self._spent_s += work_s
        self._frames += 1
        looked_s = now_s - self._since_s
        if self._frames < _FRAMES * self.rung.every or looked_s < _LOOK_S:
            return self.rung
        mean_s = self._spent_s / self._frames
        self._cost_s[self._place] = mean_s
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
        if self._climbed:
            self._patience_s = min(2.0 * self._patience_s, _LONGEST_PATIENCE_S)
            self._climbed = False
        if self._place + 1 < len(self._rungs):
            self._go(self._place + 1)
        else:
            self._cost_s[self._place] = mean_s
            self._restart()

    def _fits_above(self, mean_s: float) -> bool:
        if self._place == 0:
            return False
        here, above = self.rung, self._rungs[self._place - 1]
        share = (above.size / here.size) ** 2 * here.every / above.every
        # two modes have no share: what the other took is remembered, or tried where it is not
        expected_s = mean_s * share if share > 1.0 else self._cost_s.get(self._place - 1, 0.0)
        return expected_s < _ROOMY * self._budget_s

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
        budget: Budget,
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

    Levels that do not occur lie on the line between their neighbours; the curves rise.
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
    first, *others = runners
    any_size = read_manifest(Path(bundle)).image.size is None
    rungs = ladder([first, *others[:1]], sizes=any_size)
    return BudgetedRestorer(runners, first, Budget(rungs, target_fps))
