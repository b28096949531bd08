"""Hold a frame rate: less work per frame, in levels, by the time that frames take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.bundle import read_manifest_here
from mirnet_edge.runtime.shipped import find_bundle
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.restorer import Restorer, bundle_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.manifest import Manifest
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.clock import Clock


def budgeted_restorer(
    bundle: str | Path,
    target_fps: float,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
) -> BudgetedRestorer:
    """Return a bundle's restorer that holds a frame rate.

    Its levels begin with the requested configuration and continue with the fastest.

    Raises:
        MirnetEdgeError: As `bundle_runners`, or the frame rate is not above 0.
    """
    runners = bundle_runners(bundle, backend, precision, threads=threads)
    manifest = read_manifest_here(find_bundle(bundle), threads=threads)
    levels = budget_levels(
        _with_fastest(list(runners), manifest), sizes=manifest.image.size is None
    )
    return BudgetedRestorer(runners, levels[0].configuration, FrameBudget(levels, target_fps))


class BudgetedRestorer(Restorer):
    """A restorer whose work per frame follows a frame budget."""

    def __init__(
        self,
        runners: Mapping[str, Callable[[], Runner]],
        first: str,
        budget: FrameBudget,
        *,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Store the configurations and the budget, which chooses among them.

        Raises:
            OptionError: `first` is not one of the configurations.
        """
        super().__init__(runners, first)
        self._budget, self._clock = budget, clock
        self._frame_count = 0
        self._curves: NDArray[np.uint8] | None = None

    @property
    def configuration(self) -> str:
        """Return the configuration in use, with the budget's reductions."""
        return str(self._budget.level)

    def restore(self, pixels: Frame) -> Frame:
        """Return the frame restored at the budget's level: (scale H, scale W, 3) uint8 RGB."""
        started_s = self._clock.now()
        level = self._budget.level
        if level.configuration != self._configuration:
            super().choose(level.configuration)
        is_skipped = self._frame_count % level.every != 0 and self._curves is not None
        self._frame_count += 1
        if is_skipped and self._curves is not None:
            restored = apply_tone_curves(self._curves, self.resize_unrestored(pixels))
        else:
            restored = self._restore_at(pixels, level.size)
            if level.every > 1:
                self._curves = fit_tone_curves(self.resize_unrestored(pixels), restored)
        now_s = self._clock.now()
        self._budget.observe(now_s, now_s - started_s)
        return restored

    def choose(self, configuration: str) -> None:
        """Raise: the budget chooses.

        Raises:
            OptionError: Always.
        """
        raise OptionError(
            f"--target-fps chooses the configuration; leave it out to always use {configuration}"
        )

    def _restore_at(self, pixels: Frame, size: float) -> Frame:
        if size == 1.0:
            return super().restore(pixels)
        import cv2

        height, width = pixels.shape[:2]
        small = (max(1, round(width * size)), max(1, round(height * size)))
        shrunk = np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), np.uint8)
        restored = super().restore(shrunk)
        scale = self._open_runner(self._configuration).scale
        full = (scale * width, scale * height)
        return np.asarray(cv2.resize(restored, full, interpolation=cv2.INTER_CUBIC), np.uint8)


_SIZES = (1.0, 0.75, 0.5)
_INTERVALS = (2, 3, 4)
_LOWER_ABOVE, _RAISE_BELOW = 0.9, 0.6  # shares of the frame time
_MIN_FRAMES, _MIN_OBSERVED_S = 4, 0.5
_RAISE_AFTER_S, _MAX_RAISE_AFTER_S = 3.0, 60.0
_MEASUREMENT_VALID_S = 30.0


@dataclass(frozen=True, kw_only=True)
class BudgetLevel:
    """The work per frame: configuration, size, and which frames the network restores."""

    configuration: str
    size: float = 1.0
    """Of both sides; below 1 the frame is shrunk, restored and enlarged again."""
    every: int = 1
    """One frame in so many is restored; the others get its tone curves."""

    def __str__(self) -> str:
        """Return the configuration and its reductions."""
        size = "" if self.size == 1.0 else f" at {self.size:.0%} size"
        every = "" if self.every == 1 else f", 1 of {self.every} frames"
        return f"{self.configuration}{size}{every}"


def budget_levels(configurations: Sequence[str], *, sizes: bool) -> list[BudgetLevel]:
    """Return the levels, from the best to the cheapest.

    Args:
        configurations: From the first choice to the fastest.
        sizes: Whether the graphs accept any size.
    """
    levels = [BudgetLevel(configuration=name) for name in configurations]
    fastest = configurations[-1]
    smaller = _SIZES[1:] if sizes else ()
    levels += [BudgetLevel(configuration=fastest, size=size) for size in smaller]
    size = levels[-1].size
    return levels + [
        BudgetLevel(configuration=fastest, size=size, every=every) for every in _INTERVALS
    ]


class FrameBudget:
    """Chooses the level of work that holds a frame rate. Pure: time and durations are passed in.

    It lowers the level where frames take more than 90 % of their time over half a second, to the
    first one that should hold by its share of pixels and frames. It raises it by one where that
    one should take less than 60 %, after a back-off that doubles with every raise that did not
    hold.
    """

    def __init__(self, levels: Sequence[BudgetLevel], target_fps: float) -> None:
        """Start at the first level.

        Raises:
            OptionError: There is no level, or the frame rate is not above 0.
        """
        if not levels or not target_fps > 0.0:
            raise OptionError(f"--target-fps must be above 0, found {target_fps:g}")
        self._levels = list(levels)
        self._frame_time_s = 1.0 / target_fps
        self._index = 0
        self._measured: dict[int, tuple[float, float]] = {}
        self._now_s = 0.0
        self._since_s: float | None = None
        self._spent_s, self._frames = 0.0, 0
        self._raise_after_s = _RAISE_AFTER_S
        self._was_raised = False

    @property
    def level(self) -> BudgetLevel:
        """Return the current level."""
        return self._levels[self._index]

    def observe(self, now_s: float, work_s: float) -> BudgetLevel:
        """Record the duration of one frame, restored or not, and return the level from now on."""
        self._now_s = now_s
        if self._since_s is None:
            self._since_s = now_s
        self._spent_s += work_s
        self._frames += 1
        observed_s = now_s - self._since_s
        if self._frames < _MIN_FRAMES * self.level.every or observed_s < _MIN_OBSERVED_S:
            return self.level
        mean_s = self._spent_s / self._frames
        self._measured[self._index] = (mean_s, now_s)
        if mean_s > _LOWER_ABOVE * self._frame_time_s:
            self._lower(mean_s)
        elif observed_s >= self._raise_after_s and self._can_raise(mean_s):
            self._was_raised = True
            self._set_level(self._index - 1)
        elif observed_s >= 2.0 * self._raise_after_s:
            self._was_raised = False  # the raised level holds
            self._restart()
        return self.level

    def _lower(self, mean_s: float) -> None:
        """Lower the level to the first that should hold, by one at least."""
        if self._was_raised:
            self._raise_after_s = min(2.0 * self._raise_after_s, _MAX_RAISE_AFTER_S)
            self._was_raised = False
        limit_s = _LOWER_ABOVE * self._frame_time_s
        lower = range(self._index + 1, len(self._levels))
        holding = (index for index in lower if self._predict_s(index, mean_s) < limit_s)
        self._set_level(next(holding, len(self._levels) - 1))

    def _can_raise(self, mean_s: float) -> bool:
        above = self._index - 1
        return above >= 0 and self._predict_s(above, mean_s) < _RAISE_BELOW * self._frame_time_s

    def _predict_s(self, index: int, mean_s: float) -> float:
        """Return the predicted time of a frame on another level, from that on this one."""
        current, other = self.level, self._levels[index]
        if current.configuration != other.configuration:
            # the last measurement while it is recent; otherwise 0, so that the level is tried
            measured_s, when_s = self._measured.get(index, (0.0, self._now_s))
            return measured_s if self._now_s - when_s < _MEASUREMENT_VALID_S else 0.0
        return mean_s * (other.size / current.size) ** 2 * current.every / other.every

    def _set_level(self, index: int) -> None:
        self._index = index
        self._restart()

    def _restart(self) -> None:
        self._since_s, self._spent_s, self._frames = None, 0.0, 0


def fit_tone_curves(before: Frame, after: Frame) -> NDArray[np.uint8]:
    """Return tone curves, (3, 256) uint8: the mean output of each input level, by channel.

    Levels that do not occur are interpolated; the curves are monotonic.
    """
    curves = np.empty((3, 256), np.uint8)
    levels = np.arange(256)
    step = max(1, int(np.sqrt(before.shape[0] * before.shape[1] / 65_536)))
    for channel in range(3):
        inputs = before[::step, ::step, channel].ravel()
        outputs = after[::step, ::step, channel].ravel()
        count = np.bincount(inputs, minlength=256)
        total = np.bincount(inputs, weights=outputs, minlength=256)
        known = count > 0
        mean = np.interp(levels, levels[known], total[known] / count[known])
        curves[channel] = np.rint(np.maximum.accumulate(mean))
    return curves


def apply_tone_curves(curves: NDArray[np.uint8], pixels: Frame) -> Frame:
    """Return a frame with the tone curves applied to its channels."""
    import cv2

    table = np.ascontiguousarray(curves.T[None])
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def _with_fastest(configurations: list[str], manifest: Manifest) -> list[str]:
    """Return the first configuration, and the fastest one where that is faster."""
    time_ms = {
        configuration.name: configuration.latency.p50_ms if configuration.latency else math.inf
        for configuration in manifest.configurations
    }
    fastest = min(configurations, key=lambda name: time_ms[name])
    return (
        [configurations[0]]
        if time_ms[fastest] >= time_ms[configurations[0]]
        else [configurations[0], fastest]
    )
