"""Statistics of recorded samples; nothing is timed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mirnet_edge.bench.record import MachineConditions
from mirnet_edge.bench.statistics import (
    assess_stability,
    by_darkness,
    describe_instability,
    drop_db,
    mean_quality,
    pareto,
    psnr_of,
)


def test_a_small_spread_is_stable(timing_of, samples_of):
    assert assess_stability(timing_of(samples_of(10.0))).stable


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([10.0] * 4, "only 4 runs, expected at least 5"),
        ([10.0, 14.0] * 10, "the interquartile range is 33% of the median (limit 10%)"),
        ([10.0] * 10 + [11.0] * 10, "the second half of the runs is 10% slower than the first"),
        ([11.0] * 10 + [10.0] * 10, "the second half of the runs is 9% faster than the first"),
    ],
    ids=["few", "spread", "slower", "faster"],
)
def test_unstable_measurements_have_reasons_and_advice(timing_of, samples, reason):
    found = assess_stability(timing_of(samples))
    assert not found.stable
    assert any(one.startswith(reason) for one in found.reasons)
    assert "--rounds" in found.advice


def test_a_warm_up_that_was_not_steady_is_a_reason(timing_of, samples_of):
    (reason,) = assess_stability(timing_of(samples_of(10.0), settled=False)).reasons
    assert reason == "latency was not steady after 6 warm-up runs"


@dataclass(frozen=True)
class Unstable:
    id: str
    load: float | None
    clocks: tuple[float | None, float | None]
    samples: list[float] | None
    says: str | None


@pytest.mark.parametrize(
    "case",
    [
        Unstable("quiet", 0.2, (3000.0, 2950.0), None, None),
        Unstable("unknown conditions", None, (None, None), None, None),
        Unstable("load", 2.7, (3000.0, 3000.0), None, "a load of 2.7 before the run (limit 0.5)"),
        Unstable("clock", 0.0, (3000.0, 2100.0), None, "clock that went from 3000 to 2100 MHz"),
        Unstable(
            "spread", 0.0, (None, None), [10.0, 14.0] * 10,
            "1 of 2 measurements (edge openvino:int8 at 640x480)",
        ),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_a_report_is_unstable_by_its_measurements_its_load_and_its_clock(
    case, row_of, report_of, timing_of, samples_of
):
    rows = [
        row_of("edge onnxruntime:fp32", median_ms=20.0),
        row_of("edge openvino:int8", timings=[timing_of(case.samples or samples_of(8.0))]),
    ]
    before, after = (
        MachineConditions(load=case.load, clock_mhz=clock, celsius=None) for clock in case.clocks
    )
    found = describe_instability(report_of(rows, conditions_before=before, conditions_after=after))
    if case.says is None:
        assert found is None
    else:
        assert found.startswith("unstable: ")
        assert case.says in found


def test_the_pareto_front_has_the_points_that_no_other_beats():
    assert pareto([(10, 20), (5, 18), (20, 19), (5, 17), (30, 25)]) == [1, 0, 4]


def test_means_worst_image_and_darkness(row_of):
    (quality,) = row_of("edge a:fp32", psnr_db=20.0).quality
    mean = mean_quality(quality)
    assert (mean.psnr_db, mean.worst_db, mean.worst_image) == (21.0, 20.0, "p0")
    bins = by_darkness(quality)
    assert {label: one.psnr_db for label, one in bins.items()} == {
        "0-3 %": 20.0, "6-12 %": 21.0, "12-25 %": 22.0
    }  # fmt: skip
    assert sum(one.images for one in bins.values()) == len(quality.images)


def test_identical_images_count_as_100_db(row_of):
    (quality,) = row_of("edge a:fp32", psnr_db=20.0).quality
    same = quality.images[0].model_copy(update={"psnr_db": None})
    mean = mean_quality(quality.model_copy(update={"images": [same, *quality.images[1:]]}))
    assert mean.psnr_db == pytest.approx((100 + 21 + 22) / 3)


def test_the_drop_is_against_fp32_of_the_same_backend_then_of_any(row_of):
    rows = [
        row_of("edge b:fp32", psnr_db=24.0), row_of("edge a:fp32", psnr_db=23.0),
        row_of("edge a:int8", psnr_db=22.5), row_of("edge c:int8", psnr_db=22.0),
        row_of("other a:fp32", psnr_db=30.0), row_of("CLAHE", kind="baseline", psnr_db=9.0),
    ]  # fmt: skip
    drops = [drop_db(row, rows, "night") for row in rows]
    assert drops == [None, None, pytest.approx(0.5), pytest.approx(2.0), None, None]
    assert psnr_of(rows[0], "day") is None
