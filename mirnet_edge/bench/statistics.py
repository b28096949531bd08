"""Statistics of recorded samples: stability, mean quality, energy, sustained rate, Pareto front.

Pure functions of recorded values, so that tests need not measure anything.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mirnet_edge.runtime.measure import p50, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import (
        ImageQuality,
        LatencyTiming,
        MeterKind,
        PairSetQuality,
        Report,
        ReportRow,
        SustainedPart,
    )

# torch.utils.benchmark warns from 10 % on, and calls 25 % gross
SPREAD_LIMIT, DRIFT_LIMIT = 0.10, 0.05
FEWEST_SAMPLES = 5
_NAMED = 3
# runnable processes before the run, which are none of its own
LOAD_LIMIT = 0.5
# identical images count so many dB beside others, as in the quality gate
IDENTICAL_DB = 100.0
# edges of the mean luma of the input: each about twice the one before
DARKNESS_EDGES = (0.0, 0.03, 0.06, 0.12, 0.25, 1.0)
DARKNESS_LABELS = [f"{100 * low:.0f}-{100 * high:.0f} %" for low, high in pairwise(DARKNESS_EDGES)]


@dataclass(frozen=True)
class StabilityVerdict:
    """Whether a measurement is stable."""

    reasons: tuple[str, ...]
    """Why it is unstable, with values; empty where it is stable."""
    advice: str = ""
    """How to get a stable measurement."""

    @property
    def stable(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reasons


@dataclass(frozen=True)
class QualityMean:
    """Mean quality over a set of images."""

    images: int
    psnr_db: float
    psnr_gtmean_db: float
    ssim: float | None
    mae: float
    worst_db: float
    worst_image: str


def assess_stability(timing: LatencyTiming) -> StabilityVerdict:
    """Return whether a latency measurement is stable: sample count, spread, drift, warm-up."""
    samples = timing.samples_ms
    if len(samples) < FEWEST_SAMPLES:
        return StabilityVerdict(
            (f"only {len(samples)} runs, expected at least {FEWEST_SAMPLES}",),
            "raise --rounds, or --row-seconds for slow entries",
        )
    reasons = []
    spread = (percentile(samples, 75.0) - percentile(samples, 25.0)) / p50(samples)
    if spread > SPREAD_LIMIT:
        reasons.append(
            f"the interquartile range is {spread:.0%} of the median (limit {SPREAD_LIMIT:.0%})"
        )
    half = len(samples) // 2
    drift = p50(samples[-half:]) / p50(samples[:half]) - 1.0
    if abs(drift) > DRIFT_LIMIT:
        kind = "slower" if drift > 0 else "faster"
        reasons.append(
            f"the second half of the runs is {abs(drift):.0%} {kind} than the first "
            f"(limit {DRIFT_LIMIT:.0%})"
        )
    if not timing.settled:
        reasons.append(f"latency was not steady after {timing.warmup_runs} warm-up runs")
    if not reasons:
        return StabilityVerdict(())
    return StabilityVerdict(
        tuple(reasons),
        "close other programs, let the machine cool, fix its clock, or raise --rounds; ratios "
        "within this report still hold, because its entries were timed in turns",
    )


def describe_instability(report: Report) -> str | None:
    """Return in one line why a report's latencies are unstable, or None where they are stable.

    Reasons: unstable measurements, load when it began, a processor clock that changed.
    """
    timings = [(row.name, timing) for row in report.rows for timing in row.timings]
    unstable = [
        f"{name} at {timing.size}"
        for name, timing in timings
        if not assess_stability(timing).stable
    ]
    before, after = report.conditions_before, report.conditions_after
    reasons = []
    if unstable:
        first = ", ".join(unstable[:_NAMED]) + (", ..." if len(unstable) > _NAMED else "")
        reasons.append(f"{len(unstable)} of {len(timings)} measurements ({first})")
    if timings and before.load is not None and before.load > LOAD_LIMIT:
        reasons.append(f"a load of {before.load:.1f} before the run (limit {LOAD_LIMIT:g})")
    if timings and before.clock_mhz and after.clock_mhz:
        change = after.clock_mhz / before.clock_mhz - 1.0
        if abs(change) > DRIFT_LIMIT:
            reasons.append(
                f"a processor clock that went from {before.clock_mhz:.0f} to {after.clock_mhz:.0f} "
                "MHz"
            )
    return f"unstable: {'; '.join(reasons)}" if reasons else None


def median_latencies(report: Report, size: str) -> dict[str, float]:
    """Return the median latency in ms of each entry that was timed at SIZE."""
    return {
        row.name: p50(timing.samples_ms)
        for row in report.rows
        for timing in row.timings
        if timing.size == size
    }


def sustained_runs(report: Report, size: str) -> list[tuple[ReportRow, LatencyTiming]]:
    """Return the entries with a sustained run at SIZE."""
    return [
        (row, timing)
        for row in report.rows
        for timing in row.timings
        if timing.size == size and timing.sustained
    ]


def last_to_first(parts: Sequence[SustainedPart]) -> float | None:
    """Return the last part's median latency over the first's; None for fewer than two parts."""
    return parts[-1].p50_ms / parts[0].p50_ms if len(parts) > 1 else None


def energy_per_frame_mj(timing: LatencyTiming | None, kind: MeterKind) -> float | None:
    """Return the energy per frame over the sustained run, else over the energy run.

    None where the meter measured neither.
    """
    if timing is None:
        return None
    parts = timing.sustained or ([timing.energy_run] if timing.energy_run else [])
    measured = [one for one in parts if kind in one.energy_j]
    if not measured:
        return None
    return 1e3 * sum(one.energy_j[kind] for one in measured) / sum(one.runs for one in measured)


def power_w(part: SustainedPart, kind: MeterKind) -> float | None:
    """Return the mean power of a part, None where the meter did not measure it."""
    energy_j = part.energy_j.get(kind)
    return None if energy_j is None else energy_j / part.duration_s


def mean_quality(quality: PairSetQuality) -> QualityMean | None:
    """Return the means over a pair set, None where no image was measured."""
    return _mean(quality.images)


def by_darkness(quality: PairSetQuality) -> dict[str, QualityMean]:
    """Return the means by brightness of the input, darkest first; empty bins are left out."""
    means = {}
    for label, (low, high) in zip(DARKNESS_LABELS, pairwise(DARKNESS_EDGES), strict=True):
        inside = [
            one
            for one in quality.images
            if low <= one.brightness < high or one.brightness == high == DARKNESS_EDGES[-1]
        ]
        mean = _mean(inside)
        if mean is not None:
            means[label] = mean
    return means


def drop_db(row: ReportRow, rows: Sequence[ReportRow], pairs: str) -> float | None:
    """Return the accuracy drop of a bundle's entry: mean PSNR of its fp32 entry less its own.

    The fp32 entry of the same backend where it was measured, else of any backend. None where there
    is none, or the entry is fp32 itself.
    """
    if row.kind != "bundle" or row.precision == "fp32":
        return None
    model = row.name.partition(" ")[0]
    full = [
        one
        for one in rows
        if one.kind == "bundle" and one.precision == "fp32" and one.name.partition(" ")[0] == model
    ]
    full.sort(key=lambda one: one.backend != row.backend)
    own = psnr_of(row, pairs)
    known = [value for one in full if (value := psnr_of(one, pairs)) is not None]
    return known[0] - own if known and own is not None else None


def psnr_of(row: ReportRow, pairs: str) -> float | None:
    """Return an entry's mean PSNR on a pair set, None where it was not measured."""
    for quality in row.quality:
        if quality.pairs == pairs and (mean := mean_quality(quality)) is not None:
            return mean.psnr_db
    return None


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (ms, dB) points on the Pareto front, fastest first."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front, best = [], float("-inf")
    for index in order:
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def _mean(images: Sequence[ImageQuality]) -> QualityMean | None:
    if not images:
        return None
    worst = min(images, key=lambda one: _finite(one.psnr_db))
    similar = [one.ssim for one in images if one.ssim is not None]
    return QualityMean(
        images=len(images),
        psnr_db=statistics.fmean(_finite(one.psnr_db) for one in images),
        psnr_gtmean_db=statistics.fmean(_finite(one.psnr_gtmean_db) for one in images),
        ssim=statistics.fmean(similar) if similar else None,
        mae=statistics.fmean(one.mae for one in images),
        worst_db=_finite(worst.psnr_db),
        worst_image=worst.name,
    )


def _finite(psnr_db: float | None) -> float:
    return IDENTICAL_DB if psnr_db is None else min(psnr_db, IDENTICAL_DB)
