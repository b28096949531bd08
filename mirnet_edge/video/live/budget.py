"""Hold a frame rate: less work per frame, in levels, by the time that frames take."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime.bundle import read_manifest_here
from mirnet_edge.runtime.shipped import FOLDER, find_bundle, is_shipped, list_shipped_bundles
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.live.budget_levels import (
    HOLDS_BELOW,
    apply_tone_curves,
    budget_levels,
    choose_level,
    describe_choice,
    fit_tone_curves,
    keep_useful,
    measure_levels,
    restore_at,
)
from mirnet_edge.video.restorer import Restorer, bundle_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.manifest import Manifest
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.live.budget_levels import BudgetLevel, MeasuredLevel

logger = logging.getLogger(__name__)


def budgeted_restorer(
    bundle: str | Path,
    target_fps: float,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
    on_choice: Callable[[str], None] = logger.info,
) -> BudgetedRestorer:
    """Return a bundle's restorer that holds a frame rate.

    Its levels are the requested configuration, the fastest one, and the fastest of the package's
    other networks of the same task, at three sizes and with frames left out. Which of them holds
    the frame rate at the least loss is measured on the first frames.

    Args:
        bundle: The bundle's folder, or `shipped:NAME`.
        target_fps: Frames per second to hold.
        backend: The backend to start with, or auto.
        precision: The precision to start with, or auto.
        threads: Threads of the backend; None for its default.
        on_choice: Called with one line for each level that was measured, and one for the choice.

    Raises:
        MirnetEdgeError: As `bundle_runners`, or the frame rate is not above 0.
    """
    folder = find_bundle(bundle)
    runners = bundle_runners(folder, backend, precision, threads=threads)
    manifest = read_manifest_here(folder, threads=threads)
    configurations = _with_fastest(list(runners), manifest)
    first = configurations[0]
    for sibling in _find_siblings(folder, manifest):
        others = bundle_runners(sibling, backend, threads=threads)
        name = f"{sibling.name} {next(iter(others))}"
        runners[name] = next(iter(others.values()))
        configurations.append(name)
    levels = budget_levels(configurations, sizes=manifest.image.size is None)
    return BudgetedRestorer(runners, first, levels, target_fps, on_choice=on_choice)


def _find_siblings(folder: Path, manifest: Manifest) -> list[Path]:
    """Return the package's other bundles of a shipped bundle's task and scale."""
    if not is_shipped(folder):
        return []
    others = [FOLDER / name for name in list_shipped_bundles() if name != folder.name]
    return [
        other
        for other in others
        if (known := read_manifest(other)).model.task == manifest.model.task
        and known.image.scale == manifest.image.scale
    ]


class BudgetedRestorer(Restorer):
    """A restorer whose work per frame follows a frame budget.

    The first frames are restored at the first level. Then all levels are measured on them, and
    the one of least loss that holds the frame rate is used from there on; the budget leaves it
    for another where frames take longer or less later.
    """

    def __init__(
        self,
        runners: Mapping[str, Callable[[], Runner]],
        first: str,
        levels: Sequence[BudgetLevel],
        target_fps: float,
        *,
        on_choice: Callable[[str], None] = logger.info,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Store the configurations and the levels to choose from.

        Raises:
            OptionError: `first` is not one of the configurations, there is no level, or the frame
                rate is not above 0.
        """
        super().__init__(runners, first)
        check_budget(levels, target_fps)
        self._levels, self._target_fps = list(levels), target_fps
        self._budget: FrameBudget | None = None
        self._clock, self._on_choice = clock, on_choice
        self._samples: list[Frame] = []
        self._frame_count = 0
        self._curves: NDArray[np.uint8] | None = None

    @property
    def level(self) -> BudgetLevel:
        """Return the level in use."""
        return self._levels[0] if self._budget is None else self._budget.level

    @property
    def configuration(self) -> str:
        """Return the configuration in use, with the budget's reductions."""
        return str(self.level)

    def restore(self, pixels: Frame) -> Frame:
        """Return the frame restored at the budget's level: (scale H, scale W, 3) uint8 RGB."""
        if self._budget is None:
            self._sample(pixels)
        started_s = self._clock.now()
        level = self.level
        if level.configuration != self._configuration:
            super().choose(level.configuration)
        is_skipped = self._frame_count % level.every != 0 and self._curves is not None
        self._frame_count += 1
        if is_skipped and self._curves is not None:
            restored = apply_tone_curves(self._curves, self.resize_unrestored(pixels))
        else:
            restored = restore_at(super().restore, pixels, level, self.scale)
            if level.every > 1:
                self._curves = fit_tone_curves(self.resize_unrestored(pixels), restored)
        now_s = self._clock.now()
        if self._budget is not None:
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

    def _sample(self, pixels: Frame) -> None:
        """Keep one of the first frames; where there are enough, measure the levels on them."""
        if self._samples and self._samples[0].shape != pixels.shape:
            self._samples.clear()  # the source changed its size
        self._samples.append(pixels)
        if len(self._samples) < SAMPLE_FRAMES:
            return
        frames, self._samples = self._samples, []
        measured = measure_levels(self._runners, self._levels, frames, clock=self._clock)
        self._budget = FrameBudget(measured, self._target_fps)
        for line in describe_choice(measured, self._budget.level, 1.0 / self._target_fps):
            self._on_choice(line)


SAMPLE_FRAMES = 4
"""Frames at the start that levels are measured on."""


_LOWER_ABOVE, _RAISE_BELOW = HOLDS_BELOW, 0.6  # shares of the frame time
_MIN_FRAMES, _MIN_OBSERVED_S = 4, 0.5
_RAISE_AFTER_S, _MAX_RAISE_AFTER_S = 3.0, 60.0


def check_budget(levels: Sequence[object], target_fps: float) -> None:
    """Refuse a budget of no level or no frame rate.

    Raises:
        OptionError: There is no level, or the frame rate is not above 0.
    """
    if not levels or not target_fps > 0.0:
        raise OptionError(f"--target-fps must be above 0, found {target_fps:g}")


class FrameBudget:
    """Chooses the level of work that holds a frame rate. Pure: time and durations are passed in.

    It lowers the level where frames take more than 90 % of their time over half a second, to the
    first one that should hold by the ratio of their measured times. It raises it by one where that
    one should take less than 60 %, after a back-off that doubles with every raise that did not
    hold.
    """

    def __init__(self, measured: Sequence[MeasuredLevel], target_fps: float) -> None:
        """Start at the level of least loss that holds the frame rate.

        Args:
            measured: The levels. Those than which another is both faster and better are left out.
            target_fps: Frames per second.

        Raises:
            OptionError: There is no level, or the frame rate is not above 0.
        """
        check_budget(measured, target_fps)
        self._frame_time_s = 1.0 / target_fps
        chosen = choose_level(measured, self._frame_time_s)
        self._levels = keep_useful(measured)
        self._index = self._levels.index(chosen)
        self._since_s: float | None = None
        self._spent_s, self._frames = 0.0, 0
        self._raise_after_s = _RAISE_AFTER_S
        self._was_raised = False

    @property
    def level(self) -> BudgetLevel:
        """Return the current level."""
        return self._levels[self._index].level

    def observe(self, now_s: float, work_s: float) -> BudgetLevel:
        """Record the duration of one frame, restored or not, and return the level from now on."""
        if self._since_s is None:
            self._since_s = now_s
        self._spent_s += work_s
        self._frames += 1
        observed_s = now_s - self._since_s
        if self._frames < _MIN_FRAMES * self.level.every or observed_s < _MIN_OBSERVED_S:
            return self.level
        mean_s = self._spent_s / self._frames
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
        return mean_s * self._levels[index].frame_s / self._levels[self._index].frame_s

    def _set_level(self, index: int) -> None:
        self._index = index
        self._restart()

    def _restart(self) -> None:
        self._since_s, self._spent_s, self._frames = None, 0.0, 0


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
