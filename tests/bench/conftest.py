"""Fixtures of recorded reports: no test of them measures time."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.bench.record import (
    BenchmarkSettings,
    ImageQuality,
    LatencyTiming,
    MachineConditions,
    PairSet,
    PairSetQuality,
    Report,
    ReportRow,
    SustainedPart,
)
from mirnet_edge.manifest import MachineFacts


def _samples(median_ms, count=40, spread=0.02, seed=1):
    """Return samples of a stable measurement: log-normal around the median."""
    noise = np.random.default_rng(seed).normal(0.0, spread, count)
    return [round(float(median_ms * np.exp(one)), 4) for one in noise]


def _quality(psnr_db):
    images = [
        ImageQuality(
            name=f"p{place}", brightness=0.02 + 0.06 * place, psnr_db=psnr_db + place,
            psnr_gtmean_db=psnr_db + 2, ssim=0.8, mae=0.05,
        )
        for place in range(3)
    ]  # fmt: skip
    return PairSetQuality(pairs="night", images=images)


@pytest.fixture
def samples_of():
    """Return latency samples: samples_of(median_ms, count=40, spread=0.02, seed=1)."""
    return _samples


@pytest.fixture
def timing_of():
    """Return a timing of 640x480: timing_of([1.0, 2.0], settled=True)."""

    def make(samples, settled=True, **changes):
        known = {"width": 640, "height": 480, "samples_ms": samples, "warmup_runs": 6}
        return LatencyTiming(**(known | {"settled": settled} | changes))

    return make


@pytest.fixture
def parts_of():
    """Return half-minute parts: parts_of([10.0, 12.0], energy_j={"package": 60.0})."""

    def make(medians_ms, energy_j=None):
        return [
            SustainedPart(
                end_s=30.0 * (place + 1), duration_s=30.0, runs=int(30_000 / median), p50_ms=median,
                p95_ms=1.1 * median, energy_j=energy_j or {},
                conditions=MachineConditions(
                    load=1.0, clock_mhz=3000.0 - 100 * place, celsius=None
                ),
            )
            for place, median in enumerate(medians_ms)
        ]  # fmt: skip

    return make


@pytest.fixture
def row_of(timing_of):
    """Return a row: row_of("edge openvino:int8", median_ms=10.0, psnr_db=23.0)."""

    def make(name, *, median_ms=None, psnr_db=None, kind="bundle", seed=1, **changes):
        backend, _, precision = name.partition(" ")[2].partition(":")
        known = {
            "name": name, "kind": kind, "task": "low-light", "backend": backend or None,
            "precision": precision or None, "state": "measured", "accepted": kind == "bundle",
            "timings": [] if median_ms is None else [timing_of(_samples(median_ms, seed=seed))],
            "quality": [] if psnr_db is None else [_quality(psnr_db)],
        }  # fmt: skip
        return ReportRow(**(known | changes))

    return make


@pytest.fixture
def report_of():
    """Return a report: report_of([row, ...], processor="A"); keywords change its fields."""

    def make(rows, *, processor="A", threads=None, **changes):
        nothing = MachineConditions(load=None, clock_mhz=None, celsius=None)
        known = {
            "created": "2026-11-25T00:00:00+00:00", "partial": False, "revision": None,
            "machine": MachineFacts(
                processor=processor, cores=2, instructions=["avx2"], system="Linux", python="3.11"
            ),
            "versions": {"mirnet-edge": "0.1.0"},
            "settings": BenchmarkSettings(
                command="mirnet-bench", suite=None, rounds=40, row_seconds=20, threads=threads,
                affinity=[0, 1],
            ),
            "conditions_before": nothing, "conditions_after": nothing, "rows": rows,
            "pair_sets": [
                PairSet(name="night", task="low-light", images=3, unreadable=[], sha256="a")
            ] if any(row.quality for row in rows) else [],
        }  # fmt: skip
        return Report(**(known | changes))

    return make
