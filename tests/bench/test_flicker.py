"""Flicker of a row: what is steady, what breathes, and why there is sometimes no figure."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.bench.quality import (
    BenchmarkClip,
    FlickerMeasurement,
    built_in_clip,
    measure_flicker,
    still_clip,
)
from mirnet_edge.errors import EngineError
from mirnet_edge.metrics import flicker
from mirnet_edge.testing.null_runner import NullRunner


class Breathing(NullRunner):
    """Brightens every second frame."""

    def __init__(self):
        super().__init__()
        self._count = 0

    def run(self, frames):
        self._count += 1
        return np.clip(frames * (1.0 + 0.1 * (self._count % 2)), 0, 255).astype(np.uint8)


class Broken(NullRunner):
    def run(self, frames):
        raise EngineError("the engine\nis gone")


@pytest.fixture
def clip(frames_of):
    return BenchmarkClip("room", still_clip(frames_of(60, 80)[0] // 4, 6))


def test_a_still_clip_stands_still_but_for_its_noise(clip):
    assert clip.frames.shape == (6, 384, 512, 3)
    assert not np.array_equal(clip.frames[0], clip.frames[1])
    assert np.abs(clip.frames[0].astype(int).mean() - clip.frames[1].mean()) < 0.5
    assert flicker(clip.frames, clip.frames) == 1.0  # nothing stands still would raise
    assert np.array_equal(built_in_clip("denoise").frames, built_in_clip("denoise").frames)


def test_who_does_nothing_is_as_steady_as_the_source_and_who_breathes_is_not(clip):
    seen, told = FlickerMeasurement(clip), []
    with NullRunner() as still, Breathing() as breathing, Broken() as broken:
        runners = {"still": still, "breathing": breathing, "broken": broken}
        measure_flicker(runners, seen, 60.0, told.append)
    assert told == ["still", "breathing", "broken"]
    assert seen.flicker["still"].ratio == 1.0
    assert seen.flicker["breathing"].ratio > 10.0
    assert (seen.flicker["broken"].ratio, seen.flicker["broken"].note) == (
        None, "the engine is gone",
    )  # fmt: skip
    facts = seen.facts
    assert (facts.name, facts.frames, facts.width, facts.height) == ("room", 6, 512, 384)


def test_a_row_that_is_too_slow_says_so(clip):
    seen = FlickerMeasurement(clip)
    with NullRunner() as runner:
        measure_flicker({"slow": runner}, seen, -1.0)
    assert seen.flicker["slow"].ratio is None
    assert "takes longer than" in seen.flicker["slow"].note


def test_a_clip_where_nothing_stands_still_is_noted_and_nothing_is_restored():
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 1), np.uint8).repeat(3, -1)
    frames[::2] //= 4
    seen = FlickerMeasurement(BenchmarkClip("storm", frames))
    measure_flicker({"broken": Broken()}, seen, 60.0)
    assert seen.flicker == {}
    assert "no block of the source stands still" in seen.note
