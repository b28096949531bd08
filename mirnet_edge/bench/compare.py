"""Compare two benchmark reports of one machine: regressions of latency and quality beyond noise.

The ratio of median latencies, new over old, has a confidence interval by bootstrapping the raw
samples (Efron, "Bootstrap methods", Annals of Statistics 1979). It is a regression where the whole
interval is above the tolerance, because two runs of one program on one machine differ by a few
percent that resampling within a run does not show. Fewer than three samples, of an interrupted
run, count as noise.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mirnet_edge.bench.measure import FEWEST_RUNS
from mirnet_edge.bench.statistics import mean_quality
from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.runtime.measure import p50

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import LatencyTiming, Report, ReportRow

TOLERANCE = 0.05
TOLERATED_DROP_DB = 0.05
_RESAMPLES, _CONFIDENCE, _SEED = 4000, 0.95, 0
_UNCHANGED_KINDS = ("competitor", "baseline")

LatencyOutcome = Literal["slower", "faster", "noise", "missing"]


@dataclass(frozen=True)
class LatencyChange:
    """Latency of one entry at one size in both reports."""

    name: str
    size: str
    old_ms: float
    new_ms: float | None
    """None: the new report does not have it."""
    ratio: float
    """New over old; above 1 is slower. Divided by `machine_ratio` with `relative`."""
    low: float
    high: float
    """Ends of the ratio's 95 % confidence interval."""
    outcome: LatencyOutcome


@dataclass(frozen=True)
class QualityChange:
    """Mean PSNR of one entry on one pair set in both reports."""

    name: str
    pairs: str
    old_db: float
    new_db: float
    worse: bool
    """Whether the accuracy drop is above `TOLERATED_DROP_DB`."""


@dataclass(frozen=True)
class Comparison:
    """Changes from an old report to a new one."""

    changes: tuple[LatencyChange, ...]
    quality: tuple[QualityChange, ...]
    machine_ratio: float | None
    """Median latency ratio of the entries that are the same program in both reports: baselines,
    and competitor models with the same bytes. None where there is no such entry."""
    relative: bool
    """Whether latency ratios were divided by it."""
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    @property
    def regressions(self) -> list[str]:
        """A line for each entry that became slower, worse or is missing."""
        lines = [
            f"{one.name} {one.size}: " + (
                "no longer measured" if one.outcome == "missing"
                else f"latency x{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f})"
            )
            for one in self.changes if one.outcome in ("slower", "missing")
        ]  # fmt: skip
        return lines + [
            f"{one.name} on {one.pairs}: {one.new_db:.2f} dB instead of {one.old_db:.2f}"
            for one in self.quality
            if one.worse
        ]


def compare(
    old: Report, new: Report, *, tolerance: float = TOLERANCE, relative: bool = False
) -> Comparison:
    """Return the changes between two reports of one machine.

    Args:
        old: The former report.
        new: The present report.
        tolerance: Relative slowdown that still counts as noise.
        relative: Divide ratios by `machine_ratio`, for a machine whose speed changes.

    Raises:
        DataError: Reports of different machines or settings, or without a common entry.
        OptionError: A tolerance below 0, or `relative` without baselines or competitors.
    """
    if not tolerance >= 0:
        raise OptionError(f"--tolerance must be 0 or more, found {tolerance:g}")
    _require_comparable(old, new)
    former, latter = _timings(old), _timings(new)
    machine_ratio = _machine_ratio(old, new)
    if relative and machine_ratio is None:
        raise OptionError(
            "--relative needs competitors or baselines that both reports measured; found none"
        )
    divisor = machine_ratio if relative and machine_ratio is not None else 1.0
    new_names = {row.name for row in new.rows}
    changes = []
    for key, timing in former.items():
        if key in latter:
            changes.append(_change(key, timing, latter[key], tolerance, divisor))
        elif key[0] in new_names and not new.partial and key[1] in new.sizes:
            nan = float("nan")
            changes.append(
                LatencyChange(*key, p50(timing.samples_ms), None, nan, nan, nan, "missing")
            )
    if not changes:
        raise DataError(
            "the reports have no entry in common; expected two of the same bundles and sizes"
        )
    missing = {(one.name, one.size) for one in changes if one.outcome == "missing"}
    return Comparison(
        changes=tuple(changes),
        quality=tuple(_quality_changes(old, new)),
        machine_ratio=machine_ratio,
        relative=relative,
        only_old=_entry_names(former.keys() - latter.keys() - missing),
        only_new=_entry_names(latter.keys() - former.keys()),
    )


def ratio_interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the ratio of medians, new over old.

    Both are resampled with replacement and a fixed seed, so that outcomes are repeatable.
    """
    generator = np.random.default_rng(_SEED)
    medians = [
        np.median(generator.choice(np.asarray(samples), (_RESAMPLES, len(samples))), axis=1)
        for samples in (old, new)
    ]
    tail = 50.0 * (1.0 - _CONFIDENCE)
    low, high = np.percentile(medians[1] / medians[0], (tail, 100.0 - tail))
    return float(low), float(high)


def _change(
    key: tuple[str, str], old: LatencyTiming, new: LatencyTiming, tolerance: float, divisor: float
) -> LatencyChange:
    before, after = p50(old.samples_ms), p50(new.samples_ms)
    low, high = (edge / divisor for edge in ratio_interval(old.samples_ms, new.samples_ms))
    outcome: LatencyOutcome = "noise"
    if min(len(old.samples_ms), len(new.samples_ms)) >= FEWEST_RUNS:
        if low > 1.0 + tolerance:
            outcome = "slower"
        elif high < 1.0 / (1.0 + tolerance):
            outcome = "faster"
    return LatencyChange(*key, before, after, after / before / divisor, low, high, outcome)


def _machine_ratio(old: Report, new: Report) -> float | None:
    """Return the median latency ratio of entries that are the same program in both reports."""
    former, latter = _timings(old), _timings(new)
    known = {row.name: row for row in old.rows}
    same = {
        row.name
        for row in new.rows
        if row.kind in _UNCHANGED_KINDS
        and row.name in known
        and known[row.name].sha256 == row.sha256
    }
    ratios = [
        p50(latter[key].samples_ms) / p50(former[key].samples_ms)
        for key in former.keys() & latter.keys()
        if key[0] in same
    ]
    return statistics.median(ratios) if ratios else None


def _quality_changes(old: Report, new: Report) -> list[QualityChange]:
    hashes = [{one.name: one.sha256 for one in report.pair_sets} for report in (old, new)]
    same = {name for name, value in hashes[0].items() if hashes[1].get(name) == value}
    former, latter = _mean_psnr(old.rows), _mean_psnr(new.rows)
    return [
        QualityChange(*key, former[key], latter[key], former[key] - latter[key] > TOLERATED_DROP_DB)
        for key in former
        if key in latter and key[1] in same
    ]


def _mean_psnr(rows: Sequence[ReportRow]) -> dict[tuple[str, str], float]:
    return {
        (row.name, quality.pairs): mean.psnr_db
        for row in rows
        for quality in row.quality
        if (mean := mean_quality(quality)) is not None
    }


def _require_comparable(old: Report, new: Report) -> None:
    facts = [
        {
            "processor": one.machine.processor,
            "cores": one.machine.cores,
            "instructions": ", ".join(one.machine.instructions),
            "system": one.machine.system,
            "threads": one.settings.threads or "each backend's default",
        }
        for one in (old, new)
    ]
    for name, before in facts[0].items():
        if facts[1][name] != before:
            raise DataError(
                f"the reports are of different machines or settings: {name} {before} and "
                f"{facts[1][name]}. Measure both on one machine"
            )


def _timings(report: Report) -> dict[tuple[str, str], LatencyTiming]:
    return {(row.name, timing.size): timing for row in report.rows for timing in row.timings}


def _entry_names(keys: set[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{name} {size}" for name, size in sorted(keys))
