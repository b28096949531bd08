"""Flicker of entries: still and changing runners, failures, clips without static blocks."""

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


class JitteringRunner(NullRunner):
    """Brightens every second frame."""

    def __init__(self):
        super().__init__()
        self._count = 0

    def run(self, frames):
        self._count += 1
        return np.clip(frames * (1.0 + 0.1 * (self._count % 2)), 0, 255).astype(np.uint8)


class FailingRunner(NullRunner):
    def run(self, frames):
        raise EngineError("the engine\nis gone")


@pytest.fixture
def clip(frames_of):
    return BenchmarkClip("room", still_clip(frames_of(60, 80)[0] // 4, 6))


def test_a_still_clip_is_a_static_scene_with_noise(clip):
    assert clip.frames.shape == (6, 384, 512, 3)
    assert not np.array_equal(clip.frames[0], clip.frames[1])
    assert np.abs(clip.frames[0].astype(int).mean() - clip.frames[1].mean()) < 0.5
    assert flicker(clip.frames, clip.frames) == 1.0  # raises where no block is static
    assert np.array_equal(built_in_clip("denoise").frames, built_in_clip("denoise").frames)


def test_flicker_is_relative_to_the_source(clip):
    measured, started = FlickerMeasurement(clip), []
    with NullRunner() as still, JitteringRunner() as jittering, FailingRunner() as broken:
        runners = {"still": still, "jittering": jittering, "broken": broken}
        measure_flicker(runners, measured, 60.0, started.append)
    assert started == ["still", "jittering", "broken"]
    assert measured.flicker["still"].ratio == 1.0
    assert measured.flicker["jittering"].ratio > 10.0
    assert (measured.flicker["broken"].ratio, measured.flicker["broken"].note) == (
        None, "the engine is gone",
    )  # fmt: skip
    facts = measured.facts
    assert (facts.name, facts.frames, facts.width, facts.height) == ("room", 6, 512, 384)


def test_an_entry_beyond_its_time_limit_has_a_note(clip):
    measured = FlickerMeasurement(clip)
    with NullRunner() as runner:
        measure_flicker({"slow": runner}, measured, -1.0)
    assert measured.flicker["slow"].ratio is None
    assert "takes longer than" in measured.flicker["slow"].note


def test_a_clip_without_static_blocks_has_a_note_and_is_not_restored():
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 1), np.uint8).repeat(3, -1)
    frames[::2] //= 4
    measured = FlickerMeasurement(BenchmarkClip("storm", frames))
    measure_flicker({"broken": FailingRunner()}, measured, 60.0)
    assert measured.flicker == {}
    assert "no block of the source stands still" in measured.note
