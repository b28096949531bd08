from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.video.live.sources import SyntheticSource


def _read(count=3, **options):
    with SyntheticSource(width=32, height=24, **options) as source:
        return [source.read() for _ in range(count)]


def test_the_same_seed_gives_the_same_frames_and_another_others():
    first, again, other = _read(seed=1), _read(seed=1), _read(seed=2)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
    assert (first[0].pixels != other[0].pixels).any()


def test_it_is_dark_noisy_and_moves():
    with SyntheticSource(width=64, height=48) as source:
        frames = [source.read().pixels for _ in range(61)]
    assert 2 < np.mean(frames) < 80
    still = frames[0].astype(int) - frames[1]
    assert 2 < still.std() < 15  # noise, between two frames
    assert np.abs(frames[0].astype(int) - frames[60]).mean() > 3  # the lamp went half its way


def test_frames_are_counted_and_timed():
    frames = _read(fps=30000 / 1001)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[2].time_s == pytest.approx(2 * 1001 / 30000, rel=1e-9)


def test_it_ends_and_can_be_opened_again():
    source = SyntheticSource(width=8, height=8, frames=2)
    for _ in range(2):
        with source:
            assert [source.read() is None for _ in range(4)] == [False, False, True, True]


def test_it_refuses_what_makes_no_sense():
    with pytest.raises(OptionError, match="found 0x480"):
        SyntheticSource(width=0)
    with pytest.raises(OptionError, match="at 0"):
        SyntheticSource(fps=0.0)
    with pytest.raises(OptionError, match="not open"):
        SyntheticSource().read()
