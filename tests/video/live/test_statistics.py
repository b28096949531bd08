from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import DurationHistogram, LiveCounters


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), st.floats(0.0, 100.0))
def test_percentiles_are_exact_to_one_percent(samples, q):
    durations = DurationHistogram()
    for sample in samples:
        durations.add(sample)
    exact = np.percentile(samples, q, method="inverted_cdf")
    assert durations.percentile(q) == pytest.approx(exact, rel=0.0101)


@given(st.lists(st.floats(0.0, 1e9), max_size=50))
def test_the_figures_are_ordered_and_take_no_more_memory(samples):
    durations = DurationHistogram()
    size = durations._counts.nbytes
    for sample in samples:
        durations.add(sample)
    summary = durations.summarize()
    assert 0.0 <= summary.p50_ms <= summary.p95_ms <= summary.p99_ms <= summary.max_ms
    assert summary.count == len(samples)
    assert durations._counts.nbytes == size


def test_frames_per_second_are_intervals_over_time():
    # three ticks of a true 10 a second are two intervals: 10, not 15
    counters = LiveCounters()
    for now_s in (0.0, 0.1, 0.2):
        counters.add(now_s=now_s, age_s=0.0, convert_s=0.0, restore_s=None, show_s=0.0)
    assert counters.fps == pytest.approx(10.0)


def test_frames_per_second_follow_a_change_within_a_second():
    counters = LiveCounters()
    for now_s in (*np.arange(0.0, 10.0, 0.1), *np.arange(10.0, 11.5, 0.02)):
        counters.add(now_s=now_s, age_s=0.0, convert_s=0.0, restore_s=0.0, show_s=0.0)
    assert counters.fps == pytest.approx(50.0, rel=0.05)


def test_the_file_holds_what_the_dataclass_holds(tmp_path):
    counters = LiveCounters()
    counters.add(now_s=1.0, age_s=0.02, convert_s=0.004, restore_s=0.01, show_s=0.001)
    statistics = counters.statistics(
        source="synthetic", configuration="null", captured=3, dropped=2, reconnects=0,
        frame_time_ms=33.3,
        read=DurationHistogram().summarize(),
    )  # fmt: skip
    statistics.write_json(tmp_path / "s.json")
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["captured"] == written["shown"] + written["dropped"] == 3
    assert written["age"]["p95_ms"] == pytest.approx(20.0)
    assert written["stages"]["restore"]["count"] == 1
    assert written["stages"]["convert"]["mean_ms"] == pytest.approx(4.0)
    assert replace(statistics, shown=5) != statistics


def test_a_configuration_that_is_not_offered_is_refused():
    from mirnet_edge.errors import OptionError

    controls = Controls(("a", "b"))
    with pytest.raises(OptionError, match="expected a configuration of a, b, found 'c'"):
        controls.choose_configuration("c")
    controls.choose_configuration("a")
    controls.choose_configuration("b")
    assert controls.take_configuration() == "b"
    assert controls.take_configuration() is None
