"""Two reports of one machine: what became slower or worse, beyond noise.

The ratio of medians, new over old, with a confidence interval from resampling the raw samples
(Efron, "Bootstrap methods", Annals of Statistics 1979). A row is a regression where the whole
interval lies above what is tolerated: two runs of one program on one machine differ by a few
percent that no resampling within a run can see. Fewer than three samples, of a run that was
interrupted, have no such interval: they are called noise.
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
_YARDSTICKS = ("competitor", "baseline")

Outcome = Literal["slower", "faster", "noise", "gone"]


@dataclass(frozen=True)
class LatencyChange:
    """One row at one size in both reports."""

    name: str
    size: str
    old_ms: float
    new_ms: float | None
    """None: it is no longer measured."""
    ratio: float
    """New over old; above 1 is slower. Divided by the machine's own where that was asked for."""
    low: float
    high: float
    """Where the ratio lies with 95 % confidence."""
    outcome: Outcome


@dataclass(frozen=True)
class QualityChange:
    """One row on one set of images in both reports."""

    name: str
    pairs: str
    old_db: float
    new_db: float
    worse: bool


@dataclass(frozen=True)
class Comparison:
    """What two reports say of each other."""

    changes: tuple[LatencyChange, ...]
    quality: tuple[QualityChange, ...]
    machine_ratio: float | None
    """How much slower rows ran that no change of ours touches: classical methods, competitors with
    the same bytes. None where both reports have none."""
    relative: bool
    """Whether ratios were divided by it."""
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    @property
    def regressions(self) -> list[str]:
        """Return one line for each row that became slower or worse."""
        lines = [
            f"{one.name} {one.size}: " + (
                "no longer measured" if one.outcome == "gone"
                else f"{one.ratio:.2f} times the time ({one.low:.2f} to {one.high:.2f})"
            )
            for one in self.changes if one.outcome in ("slower", "gone")
        ]  # fmt: skip
        return lines + [
            f"{one.name} on {one.pairs}: {one.new_db:.2f} dB instead of {one.old_db:.2f}"
            for one in self.quality
            if one.worse
        ]


def compare(
    old: Report, new: Report, *, tolerance: float = TOLERANCE, relative: bool = False
) -> Comparison:
    """Compare two reports.

    Args:
        old: What was.
        new: What is.
        tolerance: How much slower, as a share, is still called noise.
        relative: Divide ratios by `machine_ratio`, for a machine whose speed changes.

    Raises:
        DataError: Reports of different machines or settings, or without a common row.
        OptionError: A tolerance below 0, or `relative` without yardsticks.
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
    yet = {row.name: row for row in new.rows}
    changes = []
    for key, timing in former.items():
        if key in latter:
            changes.append(_change(key, timing, latter[key], tolerance, divisor))
        elif key[0] in yet and not new.partial and key[1] in new.sizes:
            nothing = float("nan")
            changes.append(
                LatencyChange(*key, p50(timing.samples_ms), None, nothing, nothing, nothing, "gone")
            )
    if not changes:
        raise DataError(
            "the reports have no row in common; expected two of the same bundles and sizes"
        )
    gone = {(one.name, one.size) for one in changes if one.outcome == "gone"}
    return Comparison(
        changes=tuple(changes),
        quality=tuple(_quality_changes(old, new)),
        machine_ratio=machine_ratio,
        relative=relative,
        only_old=_named(former.keys() - latter.keys() - gone),
        only_new=_named(latter.keys() - former.keys()),
    )


def ratio_interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Return where the ratio of medians, new over old, lies with 95 % confidence.

    Both are resampled with replacement, always in the same way, so that a verdict can be repeated.
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
    outcome: Outcome = "noise"
    if min(len(old.samples_ms), len(new.samples_ms)) < FEWEST_RUNS:
        return LatencyChange(*key, before, after, after / before / divisor, low, high, outcome)
    if low > 1.0 + tolerance:
        outcome = "slower"
    elif high < 1.0 / (1.0 + tolerance):
        outcome = "faster"
    return LatencyChange(*key, before, after, after / before / divisor, low, high, outcome)


def _machine_ratio(old: Report, new: Report) -> float | None:
    """Return the median ratio of rows that are the same program in both reports."""
    former, latter = _timings(old), _timings(new)
    known = {row.name: row for row in old.rows}
    same = {
        row.name for row in new.rows
        if row.kind in _YARDSTICKS and row.name in known and known[row.name].sha256 == row.sha256
    }  # fmt: skip
    ratios = [
        p50(latter[key].samples_ms) / p50(former[key].samples_ms)
        for key in former.keys() & latter.keys()
        if key[0] in same
    ]
    return statistics.median(ratios) if ratios else None


def _quality_changes(old: Report, new: Report) -> list[QualityChange]:
    hashes = [{one.name: one.sha256 for one in report.pair_sets} for report in (old, new)]
    same = {name for name, value in hashes[0].items() if hashes[1].get(name) == value}
    former, latter = _decibels(old.rows), _decibels(new.rows)
    return [
        QualityChange(*key, former[key], latter[key], former[key] - latter[key] > TOLERATED_DROP_DB)
        for key in former
        if key in latter and key[1] in same
    ]


def _decibels(rows: Sequence[ReportRow]) -> dict[tuple[str, str], float]:
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
            "threads": one.settings.threads or "each backend's choice",
        }
        for one in (old, new)
    ]
    for name, before in facts[0].items():
        if facts[1][name] != before:
            raise DataError(
                f"the reports are of different machines or settings: {name} {before} and "
                f"{facts[1][name]}. Measure both on one"
            )


def _timings(report: Report) -> dict[tuple[str, str], LatencyTiming]:
    return {(row.name, timing.size): timing for row in report.rows for timing in row.timings}


def _named(keys: set[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{name} {size}" for name, size in sorted(keys))
