"""Levels of work per frame: what each does, how long it takes here, and how much it loses.

A level restores frames with one configuration of one network, at full size or smaller, all frames
or some. What a smaller level loses is detail: the restored small frame is enlarged, and detail of
the full frame, taken through the small frame's tone curves, is added to it. The share of it is
measured, since the detail of a noisy frame is mostly noise.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.metrics import psnr
from mirnet_edge.runtime.measure import p50
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.video.clock import REAL_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.clock import Clock

logger = logging.getLogger(__name__)

_SIZES = (1.0, 0.75, 0.5)
_INTERVALS = (2, 3, 4)
_AREA_BELOW = 0.5
_CLOCK_STEP_S = 1e-6
_CURVE_PIXELS = 16_384  # four times as many take 2.5 ms instead of 0.6
HOLDS_BELOW = 0.9
"""Share of the frame time that a level may take."""


@dataclass(frozen=True, kw_only=True)
class BudgetLevel:
    """The work per frame: configuration, size, and which frames the network restores."""

    configuration: str
    size: float = 1.0
    """Of both sides; below 1 the frame is shrunk, restored and enlarged again."""
    every: int = 1
    """One frame in so many is restored; the others get its tone curves."""
    detail: float = 0.0
    """Share of the full frame's detail that is added to an enlarged one."""

    def __str__(self) -> str:
        """Return the configuration and its reductions."""
        size = "" if self.size == 1.0 else f" at {self.size:.0%} size"
        every = "" if self.every == 1 else f", 1 of {self.every} frames"
        return f"{self.configuration}{size}{every}"


@dataclass(frozen=True, kw_only=True)
class MeasuredLevel:
    """A level as it was measured on the first frames."""

    level: BudgetLevel
    frame_s: float
    """Of a frame, with its share of those that are not restored; above 0."""
    psnr_db: float
    """Of its frames to those of the first level; infinite for that one."""


def budget_levels(configurations: Sequence[str], *, sizes: bool) -> list[BudgetLevel]:
    """Return the levels: each configuration, at smaller sizes, then with frames left out.

    Args:
        configurations: From the first choice to the fastest.
        sizes: Whether the graphs accept any size.
    """
    levels = [BudgetLevel(configuration=name) for name in configurations]
    smaller = _SIZES[1:] if sizes else ()
    levels += [
        BudgetLevel(configuration=name, size=size) for size in smaller for name in configurations
    ]
    cheapest = levels[-1]
    return levels + [replace(cheapest, every=every) for every in _INTERVALS]


def restore_at(
    restore: Callable[[Frame], Frame], pixels: Frame, level: BudgetLevel, scale: int
) -> Frame:
    """Return a frame restored at a level's size, (scale H, scale W, 3) uint8 RGB.

    Args:
        restore: Restores a frame of any size, and enlarges it by the scale.
        pixels: (H, W, 3) uint8 RGB.
        level: Its size and share of detail; the latter is added where the scale is 1.
        scale: Of the network.
    """
    if level.size == 1.0:
        return restore(pixels)
    import cv2

    height, width = pixels.shape[:2]
    small = (max(1, round(width * level.size)), max(1, round(height * level.size)))
    # the area of a factor that is not whole takes 5 ms for a 720p frame, bilinear ones 0.5
    shrinking = cv2.INTER_AREA if level.size <= _AREA_BELOW else cv2.INTER_LINEAR
    shrunk = np.asarray(cv2.resize(pixels, small, interpolation=shrinking), np.uint8)
    restored = restore(shrunk)
    full = (scale * width, scale * height)
    if scale > 1:
        return np.asarray(cv2.resize(restored, full, interpolation=cv2.INTER_CUBIC), np.uint8)
    # c are the tone curves, d the share: enlarged(restored - d c(shrunk)) + d c(full frame)
    table = level.detail * fit_tone_curves(shrunk, restored).astype(np.float32)
    table = np.ascontiguousarray(np.rint(table).astype(np.int16).T[None])
    residual = cv2.subtract(restored, cv2.LUT(shrunk, table), dtype=cv2.CV_16S)
    enlarged = cv2.resize(residual, full, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.add(enlarged, cv2.LUT(pixels, table), dtype=cv2.CV_8U), np.uint8)


def measure_levels(
    runners: Mapping[str, Callable[[], Runner]],
    levels: Sequence[BudgetLevel],
    frames: Sequence[Frame],
    *,
    clock: Clock = REAL_CLOCK,
) -> list[MeasuredLevel]:
    """Return the levels as they do on frames of a source, with the detail that loses least.

    Each configuration is opened in turn and closed again. A level that leaves frames out is
    computed from the one that restores all of them: what it saves is known, and what it loses
    is measured.

    Args:
        runners: What opens each configuration.
        levels: Of these configurations; the first is what the others are compared with.
        frames: In their order.
        clock: Of the times.

    Returns:
        The levels in their order, without those of a configuration that failed.

    Raises:
        MirnetEdgeError: The configuration of the first level failed.
    """
    measured: dict[BudgetLevel, MeasuredLevel] = {}
    references: list[Frame] = []
    for name in dict.fromkeys(one.configuration for one in levels):
        own = [one for one in levels if one.configuration == name]
        try:
            measured |= _measure_configuration(runners[name](), own, frames, references, clock)
        except MirnetEdgeError as error:
            if not references:  # the one that the others are compared with
                raise
            logger.warning("%s is left out: %s", name, error)
    return [measured[level] for level in levels if level in measured]


def _measure_configuration(
    opened: Runner,
    levels: Sequence[BudgetLevel],
    frames: Sequence[Frame],
    references: list[Frame],
    clock: Clock,
) -> dict[BudgetLevel, MeasuredLevel]:
    """Return the levels of one configuration; where there are no references, add its results."""
    measured: dict[BudgetLevel, MeasuredLevel] = {}
    with smooth_over_time(opened) as runner:

        def restore(pixels: Frame) -> Frame:
            restored: Frame = runner.run(pixels[None])[0]
            return restored

        for level in (one for one in levels if one.every == 1):
            found, results = _measure_level(restore, level, frames, references, runner.scale, clock)
            references.extend(results if not references else ())
            measured[level] = found
            for other in levels:
                if other.every > 1 and replace(other, every=1) == level:
                    reduced = replace(found.level, every=other.every)
                    measured[other] = _leave_out(reduced, found, frames, results, references, clock)
    return measured


def _measure_level(
    restore: Callable[[Frame], Frame],
    level: BudgetLevel,
    frames: Sequence[Frame],
    references: Sequence[Frame],
    scale: int,
    clock: Clock,
) -> tuple[MeasuredLevel, list[Frame]]:
    """Return a level that restores every frame, and its results; without references it is one."""
    restore_at(restore, frames[0], level, scale)  # compiles the size
    if level.size < 1.0 and scale == 1:
        level = replace(level, detail=_fit_detail(restore, level, frames[0], references[0]))
    results, times_s = [], []
    for frame in frames:
        started_s = clock.now()
        results.append(restore_at(restore, frame, level, scale))
        times_s.append(clock.now() - started_s)
    frame_s = max(p50(times_s), _CLOCK_STEP_S)  # another program may disturb one of them
    loss = _joint_psnr(results, references) if references else math.inf
    return MeasuredLevel(level=level, frame_s=frame_s, psnr_db=loss), results


def _fit_detail(
    restore: Callable[[Frame], Frame], level: BudgetLevel, frame: Frame, reference: Frame
) -> float:
    """Return the share of detail, from 0 to 1, whose result is nearest to a reference."""
    bare, whole = (
        restore_at(restore, frame, replace(level, detail=detail), 1).astype(np.float32)
        for detail in (0.0, 1.0)
    )
    detail = whole - bare
    energy = float(np.vdot(detail, detail))
    if energy == 0.0:
        return 0.0
    share = float(np.vdot(reference.astype(np.float32) - bare, detail)) / energy
    return float(np.clip(share, 0.0, 1.0))


def _leave_out(
    level: BudgetLevel,
    whole: MeasuredLevel,
    frames: Sequence[Frame],
    results: Sequence[Frame],
    references: Sequence[Frame],
    clock: Clock,
) -> MeasuredLevel:
    """Return the level that restores one frame in some, from the one that restores all."""
    shown: list[Frame] = []
    curves = np.zeros((3, 256), np.uint8)
    started_s = clock.now()
    for place, (frame, restored) in enumerate(zip(frames, results, strict=True)):
        source = frame if frame.shape == restored.shape else _enlarge(frame, restored)
        if place % level.every == 0:
            curves = fit_tone_curves(source, restored)
        shown.append(restored if place % level.every == 0 else apply_tone_curves(curves, source))
    added_s = (clock.now() - started_s) / len(frames)
    return MeasuredLevel(
        level=level, frame_s=whole.frame_s / level.every + added_s,
        psnr_db=_joint_psnr(shown, references),
    )  # fmt: skip


def _enlarge(frame: Frame, restored: Frame) -> Frame:
    """Return a frame in the size of its restored one."""
    import cv2

    size = (restored.shape[1], restored.shape[0])
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _joint_psnr(results: Sequence[Frame], references: Sequence[Frame]) -> float:
    """Return the PSNR over all pixels of frames in dB; infinite where all are equal."""
    errors = [
        10.0 ** (-0.1 * float(psnr(one[None], other[None])[0]))
        for one, other in zip(results, references, strict=True)
    ]
    mean = sum(errors) / len(errors)
    return math.inf if mean == 0.0 else -10.0 * math.log10(mean)


def choose_level(measured: Sequence[MeasuredLevel], frame_time_s: float) -> MeasuredLevel:
    """Return the level of least loss that holds a frame rate, else the fastest one.

    Args:
        measured: At least one.
        frame_time_s: Seconds between two frames of that rate.
    """
    holding = [one for one in measured if one.frame_s <= HOLDS_BELOW * frame_time_s]
    if not holding:
        return min(measured, key=lambda one: one.frame_s)
    return max(holding, key=lambda one: (_rank(one), -one.frame_s))


def keep_useful(measured: Sequence[MeasuredLevel]) -> list[MeasuredLevel]:
    """Return the levels than which no other is both as fast and as good, the slowest first."""
    kept: list[MeasuredLevel] = []
    for one in sorted(measured, key=lambda level: (level.frame_s, -level.psnr_db)):
        if not kept or _rank(one) > _rank(kept[-1]):
            kept.append(one)
    return kept[::-1]


def _rank(measured: MeasuredLevel) -> tuple[bool, float]:
    """Return what makes a level better than another.

    Those that leave frames out come last: their frames flicker, which PSNR does not show.
    """
    return measured.level.every == 1, measured.psnr_db


def describe_choice(
    measured: Sequence[MeasuredLevel], level: BudgetLevel, frame_time_s: float
) -> list[str]:
    """Return what was measured and chosen, in one line each.

    Args:
        measured: All levels, the one that they are compared with first.
        level: The chosen one.
        frame_time_s: Seconds between two frames of the wanted rate.
    """
    first = measured[0]
    chosen = next(one for one in measured if one.level == level)
    lines = [
        f"  {one.level}: {1e3 * one.frame_s:.1f} ms, {_loss_text(one, first)}" for one in measured
    ]
    holds = chosen.frame_s <= HOLDS_BELOW * frame_time_s
    found = "" if holds else "; no level holds the frame rate, this is the fastest"
    return [
        f"measured on the first frames, PSNR to the result of {first.level}:",
        *lines,
        f"--target-fps {1.0 / frame_time_s:g}: {chosen.level}, {1e3 * chosen.frame_s:.1f} of "
        f"{1e3 * frame_time_s:.1f} ms, {_loss_text(chosen, first)}{found}",
    ]


def _loss_text(one: MeasuredLevel, first: MeasuredLevel) -> str:
    if one.level == first.level:
        return "nothing lost"
    return "the same frames" if math.isinf(one.psnr_db) else f"{one.psnr_db:.1f} dB"


def fit_tone_curves(before: Frame, after: Frame) -> NDArray[np.uint8]:
    """Return tone curves, (3, 256) uint8: the mean output of each input level, by channel.

    Levels that do not occur are interpolated; the curves are monotonic.
    """
    step = max(1, int(np.sqrt(before.shape[0] * before.shape[1] / _CURVE_PIXELS)))
    inputs, outputs = (
        np.ascontiguousarray(one[::step, ::step]).reshape(-1, 3) for one in (before, after)
    )
    places = (inputs + np.arange(0, 3 * 256, 256, dtype=np.int32)).ravel()
    counts = np.bincount(places, minlength=3 * 256).reshape(3, 256)
    totals = np.bincount(places, outputs.ravel(), minlength=3 * 256).reshape(3, 256)
    curves = np.empty((3, 256), np.uint8)
    levels = np.arange(256)
    for curve, count, total in zip(curves, counts, totals, strict=True):
        known = count > 0
        mean = np.interp(levels, levels[known], total[known] / count[known])
        curve[:] = np.rint(np.maximum.accumulate(mean))
    return curves


def apply_tone_curves(curves: NDArray[np.uint8], pixels: Frame) -> Frame:
    """Return a frame with the tone curves applied to its channels."""
    import cv2

    table = np.ascontiguousarray(curves.T[None])
    return np.asarray(cv2.LUT(pixels, table), np.uint8)
