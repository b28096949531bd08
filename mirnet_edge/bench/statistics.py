"""What raw samples say: percentiles, whether they can be believed, means over images.

Pure functions of recorded figures, so that they are tested without timing anything.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.runtime.measure import p50, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import ImageQuality, LatencyTiming, PairSetQuality, ReportRow

# torch.utils.benchmark warns from 10 % on, and calls 25 % gross
SPREAD_LIMIT, DRIFT_LIMIT = 0.10, 0.05
FEWEST_SAMPLES = 5
# identical images count so many dB beside others, as in the gate
IDENTICAL_DB = 100.0
# upper edges of the mean luma of what goes in, from 0 to 1: each about twice the one before
DARKNESS_EDGES = (0.03, 0.06, 0.12, 0.25, 1.0)


@dataclass(frozen=True)
class StabilityVerdict:
    """Whether a row's times can be believed."""

    reasons: tuple[str, ...]
    """What speaks against them, with figures; none where they are stable."""
    advice: str = ""
    """What to do about it."""

    @property
    def stable(self) -> bool:
        """Say whether nothing speaks against them."""
        return not self.reasons


@dataclass(frozen=True)
class QualityMean:
    """Figures over a set of images."""

    images: int
    psnr_db: float
    psnr_gtmean_db: float
    ssim: float | None
    mae: float
    worst_db: float
    worst_image: str


def assess_stability(timing: LatencyTiming) -> StabilityVerdict:
    """Say whether times can be believed, why not, and what to do."""
    samples = timing.samples_ms
    if len(samples) < FEWEST_SAMPLES:
        return StabilityVerdict(
            (f"only {len(samples)} runs, expected at least {FEWEST_SAMPLES}",),
            "raise --rounds, or --row-seconds for slow rows",
        )
    reasons = []
    median = p50(samples)
    spread = (percentile(samples, 75.0) - percentile(samples, 25.0)) / median
    if spread > SPREAD_LIMIT:
        reasons.append(
            f"the middle half of the runs spreads over {spread:.0%} of the median "
            f"(limit {SPREAD_LIMIT:.0%})"
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
        reasons.append(f"times had not settled after {timing.warmup_runs} warm-up runs")
    if not reasons:
        return StabilityVerdict(())
    return StabilityVerdict(
        tuple(reasons),
        "close other programs, let the machine cool, fix its clock, or raise --rounds; "
        "ratios within this report still hold, for its rows took turns",
    )


def mean_quality(quality: PairSetQuality) -> QualityMean | None:
    """Return the means over a set's images, None where no image was measured."""
    return _mean(quality.images)


def by_darkness(quality: PairSetQuality) -> dict[str, QualityMean]:
    """Return means by how dark the images were that went in; only ranges that hold some."""
    found, low = {}, 0.0
    for high in DARKNESS_EDGES:
        last = high == DARKNESS_EDGES[-1]
        inside = [
            one
            for one in quality.images
            if low <= one.brightness and (one.brightness < high or last)
        ]
        label = f"{100 * low:.0f}-{100 * high:.0f} %"
        mean = _mean(inside)
        if mean is not None:
            found[label] = mean
        low = high
    return found


def drop_db(row: ReportRow, rows: Sequence[ReportRow], pairs: str) -> float | None:
    """Return how much lower a bundle's mean PSNR is than that of its fp32 rows.

    The same backend's where it was measured, else any backend's; None where there is none, or
    the row is fp32 itself.
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
    """Return a row's mean PSNR on a set, None where it was not measured."""
    for quality in row.quality:
        if quality.pairs == pairs and (mean := mean_quality(quality)) is not None:
            return mean.psnr_db
    return None


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which of the (ms, dB) points no other beats in both, the fastest first."""
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    front, best = [], float("-inf")
    for place in order:
        if points[place][1] > best:
            front.append(place)
            best = points[place][1]
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


def _finite(decibel: float | None) -> float:
    return IDENTICAL_DB if decibel is None else min(decibel, IDENTICAL_DB)
