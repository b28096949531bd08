"""Two reports compared: slowdowns and accuracy drops beyond noise; what cannot be compared."""

from __future__ import annotations

import pytest

from mirnet_edge.bench.compare import compare, ratio_interval
from mirnet_edge.errors import DataError, OptionError

_NAME = "edge openvino:int8"


@pytest.fixture
def changed(row_of, report_of):
    """Compare 10 ms with a multiple of it, of another run."""

    def make(factor, **options):
        old = report_of([row_of(_NAME, median_ms=10.0)])
        new = report_of([row_of(_NAME, median_ms=10.0 * factor, seed=2)])
        return compare(old, new, **options)

    return make


@pytest.mark.parametrize(
    ("factor", "outcome"),
    [(1.2, "slower"), (1.02, "noise"), (1.0, "noise"), (0.98, "noise"), (0.8, "faster")],
)
def test_changes_beyond_the_tolerance_are_slower_or_faster(changed, factor, outcome):
    found = changed(factor)
    (one,) = found.changes
    assert one.outcome == outcome
    assert one.low <= one.ratio <= one.high
    assert one.ratio == pytest.approx(factor, rel=0.02)
    assert len(found.regressions) == (outcome == "slower")


def test_the_tolerance_is_an_option(changed):
    assert changed(1.2, tolerance=0.4).changes[0].outcome == "noise"
    assert changed(1.05).changes[0].outcome == "noise"
    assert changed(1.05, tolerance=0.0).changes[0].outcome == "slower"
    with pytest.raises(OptionError, match="--tolerance must be 0 or more, found -1"):
        changed(1.0, tolerance=-1)


def test_the_interval_widens_with_the_spread_and_is_repeatable(samples_of):
    stable, noisy = (samples_of(10, spread=one) for one in (0.01, 0.3))
    low, high = ratio_interval(stable, samples_of(10, spread=0.01, seed=5))
    wide_low, wide_high = ratio_interval(noisy, samples_of(10, spread=0.3, seed=5))
    assert wide_high - wide_low > 5 * (high - low)
    assert ratio_interval(stable, noisy) == ratio_interval(stable, noisy)


def test_a_slowdown_within_the_spread_is_noise(row_of, report_of, samples_of, timing_of):
    old, new = (
        report_of([row_of(_NAME, timings=[timing_of(samples_of(ms, 8, 0.5, seed))])])
        for ms, seed in ((10, 1), (11, 2))
    )
    assert compare(old, new).changes[0].outcome == "noise"


def test_fewer_than_three_samples_are_noise(row_of, report_of, timing_of):
    old = report_of([row_of(_NAME, median_ms=10.0)])
    few, enough = (
        report_of([row_of(_NAME, timings=[timing_of([15.0] * count)])]) for count in (1, 3)
    )
    assert [compare(old, one).changes[0].outcome for one in (few, enough)] == ["noise", "slower"]


def test_relative_divides_by_the_slowdown_of_the_machine(row_of, report_of):
    old, new = (
        report_of(
            [row_of(_NAME, median_ms=10 * one), row_of("CLAHE", kind="baseline", median_ms=2 * one)]
        )
        for one in (1.0, 1.5)
    )
    plain, relative = compare(old, new), compare(old, new, relative=True)
    assert plain.machine_ratio == pytest.approx(1.5, rel=0.01)
    assert {one.outcome for one in plain.changes} == {"slower"}
    assert {one.outcome for one in relative.changes} == {"noise"}
    for found, ratio in ((plain, 1.5), (relative, 1.0)):
        for one in found.changes:
            assert one.low <= one.ratio <= one.high
            assert one.ratio == pytest.approx(ratio, rel=0.02)
    with pytest.raises(OptionError, match="--relative needs competitors or baselines"):
        compare(report_of(old.rows[:1]), report_of(new.rows[:1]), relative=True)


def test_an_entry_that_no_longer_runs_is_a_regression(row_of, report_of):
    other = row_of("edge openvino:fp32", median_ms=20.0)
    old = report_of([row_of(_NAME, median_ms=10.0), other])
    new = report_of([row_of(_NAME, state="failed", note="broken"), other])
    found = compare(old, new)
    assert found.regressions == [f"{_NAME} 640x480: no longer measured"]
    assert (found.only_old, found.only_new) == ((), ())


def test_an_entry_of_one_report_is_listed_and_no_regression(row_of, report_of):
    other = row_of("edge openvino:fp32", median_ms=20.0)
    old = report_of([row_of(_NAME, median_ms=10.0), other])
    found = compare(old, report_of([other, row_of("new", median_ms=1.0)]))
    assert found.regressions == []
    assert (found.only_old, found.only_new) == ((f"{_NAME} 640x480",), ("new 640x480",))


@pytest.mark.parametrize(("new_db", "worse"), [(22.0, True), (22.99, False), (24.0, False)])
def test_an_accuracy_drop_on_the_same_images_is_a_regression(row_of, report_of, new_db, worse):
    old, new = (report_of([row_of(_NAME, median_ms=10.0, psnr_db=one)]) for one in (23.0, new_db))
    found = compare(old, new)
    assert [one.worse for one in found.quality] == [worse]
    assert bool(found.regressions) is worse
    (pairs,) = new.pair_sets
    others = new.model_copy(update={"pair_sets": [pairs.model_copy(update={"sha256": "b"})]})
    assert compare(old, others).quality == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"processor": "B"}, "processor A and B"), ({"threads": 1}, "threads each backend's default")],
    ids=["machine", "threads"],
)
def test_reports_of_different_machines_or_settings_are_refused(row_of, report_of, changes, message):
    rows = [row_of(_NAME, median_ms=10.0)]
    with pytest.raises(DataError, match=f"different machines or settings: {message}"):
        compare(report_of(rows), report_of(rows, **changes))


def test_reports_without_a_common_entry_are_refused(row_of, report_of):
    one, two = (report_of([row_of(name, median_ms=1.0)]) for name in ("a", "b"))
    with pytest.raises(DataError, match="no entry in common"):
        compare(one, two)
