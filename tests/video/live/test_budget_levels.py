"""Levels of work per frame: enlarged frames, their detail, and what levels lose."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mirnet_edge.errors import EngineError
from mirnet_edge.metrics import psnr
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.live.budget_levels import (
    BudgetLevel,
    MeasuredLevel,
    budget_levels,
    choose_level,
    describe_choice,
    keep_useful,
    measure_levels,
    restore_at,
)

FULL, THREE_QUARTERS, HALF = (
    BudgetLevel(configuration="a", size=size) for size in (1.0, 0.75, 0.5)
)


class Brightening(NullRunner):
    """Doubles levels; takes time by pixels."""

    def __init__(self, clock, *, per_frame_s=0.1, gain=2.0):
        super().__init__("a")
        self.clock, self.per_pixel_s, self.gain = clock, per_frame_s / (40 * 60), gain

    def run(self, frames):
        self.clock.sleep(self.per_pixel_s * frames.shape[1] * frames.shape[2])
        return np.clip(self.gain * super().run(frames).astype(int), 0, 255).astype(np.uint8)


def double(pixels):
    return np.clip(2 * pixels.astype(int), 0, 255).astype(np.uint8)


def psnr_db(one, other):
    return float(psnr(one[None], other[None])[0])


@pytest.mark.parametrize("level", [THREE_QUARTERS, HALF])
def test_detail_of_the_full_frame_is_added_through_the_tone_curves(frames_of, level):
    frame = frames_of(40, 60)[0] // 4  # noise: what a small frame cannot hold
    bare = restore_at(double, frame, level, 1)
    detailed = restore_at(
        double, frame, BudgetLevel(configuration="a", size=level.size, detail=1.0), 1
    )
    assert bare.shape == detailed.shape == frame.shape
    assert psnr_db(detailed, double(frame)) > psnr_db(bare, double(frame)) + 10.0


def test_a_smooth_frame_comes_out_as_at_full_size(smooth_frames):
    frame = smooth_frames(48, 64)[0] // 4
    for level in (THREE_QUARTERS, HALF):
        assert psnr_db(restore_at(double, frame, level, 1), double(frame)) > 40.0


def test_a_network_that_enlarges_gives_its_own_size(frames_of):
    frame = frames_of(40, 60)[0]
    enlarged = restore_at(
        lambda small: np.kron(small, np.ones((2, 2, 1), np.uint8)), frame, HALF, 2
    )
    assert enlarged.shape == (80, 120, 3)


def test_times_and_losses_are_measured_on_the_frames(frames_of):
    clock = VirtualClock()
    frames = list(frames_of(40, 60, 4) // 4)
    runners = {"a": lambda: Brightening(clock), "b": lambda: Brightening(clock, gain=1.9)}
    levels = budget_levels(["a", "b"], sizes=True)
    measured = {str(one.level): one for one in measure_levels(runners, levels, frames, clock=clock)}
    assert list(measured) == [str(one) for one in levels]
    assert measured["a"].frame_s == pytest.approx(0.1)
    assert measured["a"].psnr_db == math.inf
    assert measured["b at 50% size"].frame_s == pytest.approx(0.025)
    assert measured["b at 50% size, 1 of 4 frames"].frame_s == pytest.approx(0.00625)
    expected = np.mean([np.mean((2.0 * one - np.floor(1.9 * one)) ** 2) for one in frames])
    assert measured["b"].psnr_db == pytest.approx(10 * math.log10(255**2 / expected), abs=0.5)


def test_the_share_of_detail_is_the_one_that_loses_least(frames_of):
    def smooth(pixels):
        """Double levels and keep half of the detail, as a denoising network does."""
        mean = pixels.astype(float).mean((0, 1))
        return double(np.rint(mean + 0.5 * (pixels - mean)).astype(np.uint8))

    class Smoothing(Brightening):
        def run(self, frames):
            super().run(frames)
            return np.stack([smooth(frame) for frame in frames])

    clock = VirtualClock()
    frames = list(frames_of(40, 60, 4) // 4)
    full, half = measure_levels({"a": lambda: Smoothing(clock)}, [FULL, HALF], frames, clock=clock)
    # the tone curves have the network's contrast already: all of their detail
    assert half.level.detail > 0.8
    bare = restore_at(smooth, frames[0], HALF, 1)
    assert half.psnr_db > psnr_db(bare, smooth(frames[0])) + 3.0
    assert full.psnr_db == math.inf


def test_a_configuration_that_fails_is_left_out_unless_it_is_the_first(frames_of, caplog):
    def fail():
        raise EngineError("b.onnx is damaged")

    clock, frames = VirtualClock(), list(frames_of(40, 60, 4) // 4)
    runners = {"a": lambda: Brightening(clock), "b": fail}
    levels = budget_levels(["a", "b"], sizes=False)
    measured = measure_levels(runners, levels, frames, clock=clock)
    assert [one.level for one in measured] == levels[:1]
    assert "b is left out: b.onnx is damaged" in caplog.text
    with pytest.raises(EngineError, match="is damaged"):
        measure_levels(runners, levels[::-1], frames, clock=clock)


def test_frames_of_an_enlarging_network_are_left_out_too(frames_of):
    frames = list(frames_of(20, 30, 4))
    levels = budget_levels(["a"], sizes=False)
    measured = measure_levels({"a": lambda: NullRunner("a", scale=2)}, levels, frames)
    assert [one.level.every for one in measured] == [1, 2, 3, 4]
    losses = [one.psnr_db for one in measured[1:]]
    assert max(losses) < math.inf
    assert min(losses) == losses[-1]  # three of the four frames


def test_frames_left_out_lose_what_has_changed_meanwhile(frames_of):
    clock = VirtualClock()

    class Fading(Brightening):
        """A gain that rises from frame to frame."""

        def run(self, frames):
            self.gain += 0.1
            return super().run(frames)

    frames = [frames_of(40, 60)[0] // 8] * 4
    levels = budget_levels(["a"], sizes=False)
    still = measure_levels({"a": lambda: Brightening(clock)}, levels, frames, clock=clock)
    assert {one.psnr_db for one in still} == {math.inf}
    fading = measure_levels({"a": lambda: Fading(clock)}, levels, frames, clock=clock)
    losses = [one.psnr_db for one in fading]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 50.0


def level(name, frame_s, psnr_db):
    return MeasuredLevel(level=BudgetLevel(configuration=name), frame_s=frame_s, psnr_db=psnr_db)


MEASURED = [
    level("best", 0.05, math.inf), level("worse and slow", 0.045, 30.0), level("good", 0.029, 40.0),
    level("fast", 0.01, 20.0),
]  # fmt: skip


def test_the_best_level_that_holds_the_rate_is_chosen_else_the_fastest():
    assert choose_level(MEASURED, 1 / 30).level.configuration == "good"
    assert choose_level(MEASURED, 1 / 15).level.configuration == "best"
    assert choose_level(MEASURED, 1 / 200).level.configuration == "fast"


def test_frames_are_left_out_only_where_no_other_level_holds():
    skipping = MeasuredLevel(
        level=BudgetLevel(configuration="good", every=2), frame_s=0.02, psnr_db=60.0
    )
    assert choose_level([*MEASURED, skipping], 1 / 30).level == MEASURED[2].level
    assert choose_level([MEASURED[0], skipping], 1 / 30) == skipping


def test_levels_that_are_slower_and_worse_are_left_out():
    kept = [one.level.configuration for one in keep_useful(MEASURED)]
    assert kept == ["best", "good", "fast"]


def test_the_choice_is_described_with_its_time_and_loss():
    lines = describe_choice(MEASURED, MEASURED[2].level, 1 / 30)
    assert lines[0] == "measured on the first frames, PSNR to the result of best:"
    assert lines[1:5] == [
        "  best: 50.0 ms, nothing lost", "  worse and slow: 45.0 ms, 30.0 dB",
        "  good: 29.0 ms, 40.0 dB", "  fast: 10.0 ms, 20.0 dB",
    ]  # fmt: skip
    assert lines[5] == "--target-fps 30: good, 29.0 of 33.3 ms, 40.0 dB"
    (*_, said) = describe_choice(MEASURED, MEASURED[3].level, 1 / 200)
    assert said.endswith("; no level holds the frame rate, this is the fastest")
