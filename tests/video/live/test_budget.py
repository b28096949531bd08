from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.errors import OptionError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.live.budget import BudgetedRestorer, FrameBudget, budgeted_restorer
from mirnet_edge.video.live.budget_levels import (
    BudgetLevel,
    MeasuredLevel,
    apply_tone_curves,
    budget_levels,
    fit_tone_curves,
)

NAMES = budget_levels(["slow", "fast"], sizes=True)


def measured_by_pixels(levels):
    """Return levels with the times of a fast, idle machine, by pixels; cheaper ones lose more."""
    times = [
        1e-3 * (0.5 if one.configuration == "fast" else 1.0) * one.size**2 / one.every
        for one in levels
    ]
    return [
        MeasuredLevel(level=one, frame_s=time_s, psnr_db=50.0 + 1e4 * time_s)
        for one, time_s in zip(levels, times, strict=True)
    ]


LEVELS = measured_by_pixels(NAMES)


def machine(full_s, overhead_s=0.0, fast=0.5):
    """Return what a frame takes on a level: by pixels, with some part that does not shrink."""

    def work_s(level, turn):
        restored = turn % level.every == 0
        configuration = fast if level.configuration == "fast" else 1.0
        return overhead_s + (configuration * full_s * level.size**2 if restored else 0.0)

    return work_s


def run(budget, work_s, seconds, target_fps, start_s=0.0):
    """Return the levels over time, frames coming at the target rate or as fast as they are done."""
    now, turn, levels = start_s, 0, []
    while now < start_s + seconds:
        took = work_s(budget.level, turn)
        now += max(took, 1 / target_fps)
        turn += 1
        budget.observe(now, took)
        levels.append((now, budget.level))
    return levels


def test_levels_reduce_configuration_size_and_frames():
    assert [str(level) for level in NAMES] == [
        "slow", "fast", "slow at 75% size", "fast at 75% size", "slow at 50% size",
        "fast at 50% size", "fast at 50% size, 1 of 2 frames", "fast at 50% size, 1 of 3 frames",
        "fast at 50% size, 1 of 4 frames",
    ]  # fmt: skip
    assert [level.size for level in budget_levels(["a"], sizes=False)] == [1.0] * 4


def test_a_fast_machine_stays_at_the_first_level():
    budget = FrameBudget(LEVELS, 30.0)
    levels = run(budget, machine(0.02), 20.0, 30.0)
    assert {level for _, level in levels} == {NAMES[0]}


@given(st.floats(0.01, 1.0), st.sampled_from([5.0, 15.0, 30.0]))
def test_the_budget_settles_at_a_level_that_holds_the_rate_if_any_does(full_s, fps):
    budget, work_s = FrameBudget(LEVELS, fps), machine(full_s)
    levels = run(budget, work_s, 60.0, fps)
    late = [level for now, level in levels if now > 30.0]
    costs = {level: sum(work_s(level, turn) for turn in range(12)) / 12 for level in set(late)}
    cost = [costs[level] for level in late]
    cheapest = sum(work_s(NAMES[-1], turn) for turn in range(12)) / 12
    held = np.mean(cost) <= 1 / fps
    assert held or cheapest > 0.85 / fps


def test_the_budget_does_not_oscillate_between_two_levels():
    # the level above always looks roomy by its share, and never is: a fixed part is hidden in it
    def work_s(level, turn):
        return 0.5 if level.size == 1.0 else 0.01

    budget = FrameBudget(measured_by_pixels(budget_levels(["a"], sizes=True)), 30.0)
    levels = run(budget, work_s, 600.0, 30.0)
    moves = sum(one != two for (_, one), (_, two) in itertools.pairwise(levels))
    assert moves < 60
    last_minutes = [pair for pair in levels if pair[0] > 300.0]
    at_the_top = sum(level.size == 1.0 for _, level in last_minutes) / len(last_minutes)
    assert at_the_top < 0.05


def test_the_level_is_raised_when_the_machine_is_idle_again():
    budget = FrameBudget(LEVELS, 30.0)
    run(budget, machine(0.2), 10.0, 30.0)
    assert budget.level != NAMES[0]
    run(budget, machine(0.005), 60.0, 30.0, start_s=10.0)
    assert budget.level == NAMES[0]


def test_a_single_slow_frame_does_not_change_the_level():
    budget = FrameBudget(LEVELS, 30.0)
    for turn in range(300):
        budget.observe(turn / 30, 0.2 if turn == 150 else 0.01)
    assert budget.level == NAMES[0]


def test_a_frame_rate_of_zero_is_refused():
    with pytest.raises(OptionError, match="--target-fps must be above 0, found 0"):
        FrameBudget(LEVELS, 0.0)


class Slow(NullRunner):
    def __init__(self, clock, name, per_pixel_s):
        super().__init__(name)
        self.clock, self.per_pixel_s = clock, per_pixel_s
        self.sizes = []

    def run(self, frames):
        self.sizes.append(frames.shape[1:3])
        self.clock.sleep(self.per_pixel_s * frames.shape[1] * frames.shape[2])
        return np.minimum(super().run(frames).astype(int) * 2, 255).astype(np.uint8)


def make_restorer(clock, runners, levels, target_fps, lines=None):
    return BudgetedRestorer(
        {name: lambda runner=runner: runner for name, runner in runners.items()},
        next(iter(runners)), levels, target_fps, clock=clock,
        on_choice=(lambda line: None) if lines is None else lines.append,
    )  # fmt: skip


def test_the_restorer_chooses_by_measurement_and_frames_keep_their_size(frames_of):
    clock, lines = VirtualClock(), []
    runner = Slow(clock, "a", 0.1 / (40 * 60))
    levels = budget_levels(["a"], sizes=True)
    pixels = frames_of(40, 60)[0] // 4
    configurations = []
    with make_restorer(clock, {"a": runner}, levels, 25.0, lines) as restorer:
        for _ in range(50):
            assert restorer.restore(pixels).shape == pixels.shape
            configurations.append(restorer.configuration)
            clock.sleep(0.01)
        with pytest.raises(OptionError, match="--target-fps chooses the configuration"):
            restorer.choose("a")
    assert configurations[:4] == ["a", "a", "a", "a at 50% size"]
    assert set(configurations[4:]) == {"a at 50% size"}
    assert runner.sizes[0] == (40, 60)
    assert runner.sizes[-1] == (20, 30)
    assert lines[-1].startswith("--target-fps 25: a at 50% size, 25.0 of 40.0 ms, ")
    assert lines[1] == "  a: 100.0 ms, nothing lost"


def test_the_restorer_lowers_the_level_where_the_machine_becomes_slower(frames_of):
    clock = VirtualClock()
    runner = Slow(clock, "a", 0.01 / (40 * 60))
    pixels = frames_of(40, 60)[0] // 4
    with make_restorer(clock, {"a": runner}, budget_levels(["a"], sizes=True), 25.0) as restorer:
        for _ in range(10):
            restorer.restore(pixels)
        assert restorer.configuration == "a"
        runner.per_pixel_s *= 7
        for _ in range(40):
            restorer.restore(pixels)
            clock.sleep(0.01)
        assert restorer.configuration != "a"


def test_skipped_frames_get_the_tone_curves_of_the_last_restored_one(frames_of):
    clock = VirtualClock()
    runner = Slow(clock, "a", 0.0)
    levels = [BudgetLevel(configuration="a", every=2)]
    pixels = frames_of(40, 60)[0] // 4
    with make_restorer(clock, {"a": runner}, levels, 25.0) as restorer:
        first, second = restorer.restore(pixels), restorer.restore(pixels)
    assert runner.calls == 1
    np.testing.assert_array_equal(first, 2 * pixels)
    np.testing.assert_array_equal(second, first)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3.0))
def test_tone_curves_reproduce_any_monotonic_change_of_levels(seed, gamma):
    before = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    after = np.rint(255 * (before / 255) ** gamma).astype(np.uint8)
    curves = fit_tone_curves(before, after)
    assert (np.diff(curves.astype(int), axis=1) >= 0).all()
    np.testing.assert_array_equal(apply_tone_curves(curves, before), after)


def test_a_bundle_opens_with_a_frame_budget(make_bundle, make_mode):
    configurations = [make_mode("onnxruntime:fp32", p50_ms=5.0)]
    restorer = budgeted_restorer(make_bundle(modes=configurations), 30.0)
    assert restorer.configuration == "onnxruntime:fp32"
    with restorer:
        assert restorer.restore(np.zeros((8, 8, 3), np.uint8)).shape == (8, 8, 3)
