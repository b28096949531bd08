"""Temporal smoothing, with a runner whose one context vector is its frame's brightness."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.temporal_smoothing import SceneCutDetector, smooth_over_time
from mirnet_edge.testing.null_runner import NullRunner


class Brightness(NullRunner):
    """Paints each frame in the context vector it uses."""

    context_length = 1

    def run_with_context(self, frames, context_in, smoothing_weight):
        own = frames.mean((1, 2, 3), dtype=np.float32)[:, None]
        used = (
            own
            if context_in is None
            else (1 - smoothing_weight) * own + smoothing_weight * context_in
        )
        painted = np.zeros_like(frames) + np.rint(used)[:, None, None].astype(np.uint8)
        return painted, used


class Broken(Brightness):
    """Overflows on its second frame."""

    def run_with_context(self, frames, context_in, smoothing_weight):
        self.calls += 1
        painted, used = super().run_with_context(frames, context_in, smoothing_weight)
        return painted, used if self.calls != 2 else np.full_like(used, np.nan)


class Flickering(NullRunner):
    """Has no context vectors; every second frame comes out half as bright again."""

    def run(self, frames):
        self.calls += 1
        return np.rint(frames * (1.0 + 0.5 * (self.calls % 2))).astype(np.uint8)


def _flat(level, size=(36, 64)):
    return np.full((1, *size, 3), level, np.uint8)


def test_a_still_scene_is_smoothed_exponentially():
    with smooth_over_time(Brightness(), smoothing_weight=0.5) as video:
        found = [int(video.run(_flat(level))[0, 0, 0, 0]) for level in (100, 104, 104, 104)]
    assert found == [100, 102, 103, 104]


def test_several_frames_at_once_are_as_one_by_one():
    frames = np.concatenate([_flat(level) for level in (100, 104, 102, 240, 238)])
    with smooth_over_time(Brightness()) as video:
        together = video.run(frames)
    with smooth_over_time(Brightness()) as video:
        apart = np.concatenate([video.run(frame[None]) for frame in frames])
    assert np.array_equal(together, apart)


@pytest.mark.parametrize("after", [240, 10], ids=["a light goes on", "a light goes off"])
def test_a_cut_starts_anew(after):
    with smooth_over_time(Brightness()) as video:
        for level in (60, 62, 60):
            video.run(_flat(level))
        assert video.used_weight == pytest.approx(0.9)
        assert video.run(_flat(after))[0, 0, 0, 0] == after
        assert video.used_weight == 0.0


def test_another_scene_of_the_same_brightness_is_a_cut():
    left = np.concatenate([_flat(20, (36, 32)), _flat(200, (36, 32))], axis=2)
    with smooth_over_time(Brightness()) as video:
        video.run(left)
        video.run(left[:, :, ::-1])
        assert video.used_weight == 0.0


def test_a_slow_fade_does_not_leave_the_context_behind():
    with smooth_over_time(Brightness(), smoothing_weight=0.95) as video:
        lag = [abs(int(video.run(_flat(level))[0, 0, 0, 0]) - level) for level in range(40, 200, 2)]
    # twenty frames of two levels each is what 0.95 alone would lag behind
    assert max(lag) < 30


def test_another_size_a_new_opening_and_reset_are_scene_cuts():
    video = smooth_over_time(Brightness())
    with video:
        video.run(_flat(100))
        assert video.run(_flat(104, (40, 64)))[0, 0, 0, 0] == 104
        video.reset()
        assert video.run(_flat(102, (40, 64)))[0, 0, 0, 0] == 102
    with video:
        assert video.run(_flat(104, (40, 64)))[0, 0, 0, 0] == 104


def test_context_vectors_that_are_not_finite_are_not_kept():
    with smooth_over_time(Broken()) as video:
        found = [int(video.run(_flat(level))[0, 0, 0, 0]) for level in (100, 102, 104)]
        assert video.used_weight == 0.0
    assert found[2] == 104


def test_a_failed_frame_leaves_no_smoothing_state():
    failing = Brightness()
    with smooth_over_time(failing) as video:
        video.run(_flat(100))
        failing.run_with_context, kept = None, failing.run_with_context
        with pytest.raises(TypeError):
            video.run(_flat(102))
        failing.run_with_context = kept
        assert video.run(_flat(104))[0, 0, 0, 0] == 104


def test_without_context_vectors_the_gain_is_smoothed():
    with smooth_over_time(Flickering()) as video:
        found = [float(video.run(_flat(100)).mean()) for _ in range(10)]
    assert np.abs(np.diff(found[2:])).max() < 8  # 50 as they come


def test_without_context_vectors_the_frame_after_a_cut_is_not_smoothed():
    with smooth_over_time(Flickering()) as video:
        video.run(_flat(40))
        assert video.run(_flat(160)).mean() == 160


def test_a_smoothing_weight_of_0_is_the_plain_runner(frames_of):
    with smooth_over_time(Flickering(), smoothing_weight=0.0) as video, Flickering() as plain:
        for number in range(3):
            frame = frames_of(20, 30 + number) // 2
            assert np.array_equal(video.run(frame), plain.run(frame))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_smoothing_weight_outside_its_range_is_refused_in_one_line(weight):
    with pytest.raises(OptionError, match=r"smoothing weight must lie in \[0, 1\]") as caught:
        smooth_over_time(NullRunner(), smoothing_weight=weight)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("still", "cut"), [(0.1, 0.1), (-0.1, 0.1), (0.2, 0.1)])
def test_limits_out_of_order_are_refused(still, cut):
    with pytest.raises(OptionError, match="must rise"):
        SceneCutDetector(still=still, cut=cut)


def test_it_says_of_itself_what_the_runner_does():
    inner = NullRunner("x:fp32", multiple=4, scale=2)
    video = smooth_over_time(inner)
    assert (video.name, video.multiple, video.scale) == ("x:fp32", 4, 2)
    with video:
        assert inner.is_open
        assert video.run(_flat(9)).shape == (1, 72, 128, 3)
    assert not inner.is_open
