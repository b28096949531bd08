"""Chains of runners, and results blended with their source; their context vectors go along."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.runtime.chaining import (
    BlendingRunner,
    ChainRunner,
    blend_frames,
    chain_runners,
    enlarge,
)
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.testing.null_runner import NullRunner


class Adding(NullRunner):
    """Adds its context vector, one number: the frame's maximum, or what is given."""

    context_length = 1
    takes_floats = False

    def __init__(self, level, **options):
        super().__init__(f"add {level}", **options)
        self.level = level
        self.given = []

    def run(self, frames):
        return self.run_with_context(frames, None, 0.0)[0]

    def run_with_context(self, frames, context_in, smoothing_weight):
        own = frames.reshape(len(frames), -1).max(1, keepdims=True).astype(np.float32)
        self.given.append(None if context_in is None else context_in.copy())
        if context_in is not None:
            own = (1 - smoothing_weight) * own + smoothing_weight * context_in
        return super().run(frames) + np.uint8(self.level), own


def _gray(level, height=4, width=6):
    return np.full((1, height, width, 3), level, np.uint8)


def test_each_runner_takes_what_the_one_before_gave():
    runners = [Adding(3), NullRunner(scale=2, multiple=4), Adding(5, scale=3, multiple=6)]
    chain = ChainRunner(runners)
    assert chain.name == "add 3 + null + add 5"
    assert (chain.scale, chain.multiple, chain.context_length) == (6, 12, 2)
    with chain:
        restored = chain.run(_gray(10))
        assert all(one.is_open for one in runners)
    assert restored.shape == (1, 24, 36, 3)
    assert (restored == 18).all()
    assert not any(one.is_open for one in runners)


def test_a_chain_of_one_is_that_one_and_of_none_is_refused():
    runner = NullRunner()
    assert chain_runners([runner]) is runner
    with pytest.raises(OptionError, match="at least one runner"):
        chain_runners([])


def test_the_first_is_closed_where_the_second_cannot_be_opened():
    class Refusing(NullRunner):
        def _open(self):
            raise EngineError("no device")

    first = NullRunner()
    with pytest.raises(EngineError), ChainRunner([first, Refusing()]):
        pass
    assert not first.is_open


def test_each_runner_of_a_chain_is_smoothed_by_its_own_vectors():
    runners = [Adding(1), NullRunner(), Adding(2)]
    with smooth_over_time(ChainRunner(runners), smoothing_weight=0.5) as smoother:
        smoother.run(_gray(100))
        smoother.run(_gray(101))
        state = smoother.smoothing_state
    # the second frame's: halfway between its own and the first's, of each runner
    np.testing.assert_allclose(state.context, [[100.5, 101.5]], atol=0.1)
    np.testing.assert_array_equal(runners[0].given[1], [[100]])
    np.testing.assert_array_equal(runners[2].given[1], [[101]])


def test_a_chain_without_vectors_takes_none():
    chain = ChainRunner([NullRunner(), NullRunner()])
    assert chain.context_length == 0
    with smooth_over_time(chain) as smoother:
        assert smoother.run(_gray(9)).shape == (1, 4, 6, 3)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_a_result_is_blended_with_its_source_at_its_own_size(strength, smooth_frames):
    frames = smooth_frames(12, 16)

    class Negative(NullRunner):
        def run(self, frames):
            return 255 - super().run(frames)

    with BlendingRunner(Negative(scale=2), strength) as runner:
        blended = runner.run(frames)
    enlarged = enlarge(frames[0], 24, 32)
    restored = 255 - frames.repeat(2, 1).repeat(2, 2)[0]
    expected = strength * restored.astype(float) + (1 - strength) * enlarged
    np.testing.assert_allclose(blended[0], expected, atol=0.51)
    assert blended.dtype == np.uint8


def test_blending_keeps_the_vectors_of_the_runner_inside():
    inside = Adding(8)
    with BlendingRunner(inside, 0.5) as runner:
        assert runner.context_length == 1
        restored, used = runner.run_with_context(_gray(100), np.full((1, 1), 20, np.float32), 1.0)
    assert (restored == 104).all()
    np.testing.assert_array_equal(used, [[20]])
    with BlendingRunner(NullRunner(), 0.5) as runner:
        assert runner.context_length == 0
        with pytest.raises(OptionError, match="takes no context vectors"):
            runner.run_with_context(_gray(1), None, 0.0)


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan")])
def test_a_strength_that_makes_no_sense_is_refused(strength):
    with pytest.raises(OptionError, match="--strength must lie from 0"):
        BlendingRunner(NullRunner(), strength)


def test_several_frames_are_blended_each_with_its_own(frames_of):
    frames = frames_of(4, 6, 3)
    np.testing.assert_array_equal(blend_frames(frames, frames[::-1], 0.0), frames)
    np.testing.assert_array_equal(blend_frames(frames, frames[::-1], 1.0), frames[::-1])


class Floating(Adding):
    """Also takes floats, to which it adds a hundredth."""

    takes_floats = True

    def run_float(self, frames, context_in=None):
        self.given.append(None if context_in is None else context_in.copy())
        enlarged = frames.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
        return enlarged + np.float32(0.01)


def test_frames_of_more_than_8_bits_are_not_rounded_between_the_runners():
    runners = [Floating(1), Floating(2, scale=2)]
    frames = np.full((1, 4, 6, 3), 0.5, np.float32)
    with BlendingRunner(ChainRunner(runners), 0.25) as runner:
        assert runner.takes_floats
        restored = runner.run_float(frames, np.array([[7, 8]], np.float32))
    assert restored.dtype == np.float32
    assert restored.shape == (1, 8, 12, 3)
    np.testing.assert_allclose(restored, 0.505, atol=1e-6)
    assert [one.given[-1].tolist() for one in runners] == [[[7.0]], [[8.0]]]


def test_a_chain_with_one_of_8_bits_takes_8_bits(monkeypatch):
    chain = ChainRunner([Floating(1), Adding(2)])
    assert not chain.takes_floats
    frames = np.zeros((1, 4, 6, 3), np.float32)
    with chain, pytest.raises(EngineError, match="add 2 takes frames of 8 bits"):
        chain.run_float(frames)


def test_floats_are_enlarged_as_levels_are(smooth_frames):
    (frame,) = smooth_frames(8, 10)
    exact = enlarge((frame / 255).astype(np.float32), 16, 20)
    np.testing.assert_allclose(255 * exact, enlarge(frame, 16, 20), atol=1.01)
    gray = enlarge(exact[..., 0], 32, 40)
    assert (gray.shape, gray.dtype) == ((32, 40), np.float32)
