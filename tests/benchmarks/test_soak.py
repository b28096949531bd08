"""benchmarks/soak.py for twelve seconds instead of ten minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.restorer import single_runner_restorer


@pytest.fixture(scope="module")
def soak(load_script):
    return load_script("soak")


@pytest.fixture
def clip(write_video):
    levels = np.arange(0, 240, 8, np.uint8)[:, None, None, None]
    return write_video("clip.avi", np.broadcast_to(levels, (30, 120, 160, 3)), rate=30)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"
)
def test_memory_and_frame_age_do_not_grow(soak, clip):
    intervals, statistics = soak.soak(
        soak.RepeatingSource(clip, 4),
        single_runner_restorer(NullRunner(delay_s=0.012)),
        seconds=12.0,
        every_s=0.6,
    )
    memory_mib, age_ms = soak.growth(intervals)
    assert statistics.captured > 400  # 120 a second; the clip is reopened four times a second
    assert statistics.dropped > 0  # 12 ms of work for frames that come every 8.3
    assert statistics.shown > 120
    assert memory_mib < 3.0  # measured 0.1; keeping every frame takes 23
    assert age_ms < 25.0  # a queue would add seconds


def test_growth_of_memory_or_frame_age_is_measured(soak):
    def intervals(rss_mib, age_ms):
        return [
            soak.Interval(
                seconds=i, rss_mib=100 + rss_mib * i, shown=1, age_p50_ms=5 + age_ms * i,
                age_p95_ms=0, age_max_ms=0,
            )
            for i in range(20)
        ]  # fmt: skip

    assert soak.growth(intervals(0.0, 0.0)) == (0.0, 0.0)
    memory_mib, age_ms = soak.growth(intervals(1.0, 2.0))
    assert memory_mib == pytest.approx(12.0)
    assert age_ms == pytest.approx(24.0)


def test_timestamps_continue_where_the_clip_repeats(soak, clip):
    with soak.RepeatingSource(clip, 4) as source:
        frames = [source.read() for _ in range(75)]
    times_s = [frame.time_s for frame in frames]
    assert np.diff(times_s) == pytest.approx(1 / 120, abs=1e-5)
    assert [frame.index for frame in frames] == list(range(75))
    assert [int(f.pixels.mean()) for f in frames[:30]] == [
        int(f.pixels.mean()) for f in frames[30:60]
    ]
