"""Is the synthetic darkness seeded, as dark as asked, and as noisy as a sensor?"""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.degradations.low_light import (
    LowLight,
    linear_from_srgb,
    reduce_light,
    srgb_from_linear,
)
from mirnet_edge.errors import OptionError


def _generator(seed=0):
    return np.random.default_rng(seed)


_FRAME = _generator(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_full_exposure_without_noise_is_the_identity():
    assert np.array_equal(reduce_light(_FRAME, LowLight(exposure=1.0), _generator()), _FRAME)


def test_every_8_bit_value_survives_the_way_to_linear_light_and_back():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(srgb_from_linear(linear_from_srgb(values)), values)


def test_a_seed_repeats_and_another_does_not():
    settings = LowLight(exposure=0.3, shot_noise=1e-3, read_noise=1e-3)
    first = reduce_light(_FRAME, settings, _generator(3))
    assert np.array_equal(first, reduce_light(_FRAME, settings, _generator(3)))
    assert not np.array_equal(first, reduce_light(_FRAME, settings, _generator(4)))


def test_less_light_is_darker():
    means = [
        reduce_light(_FRAME, LowLight(exposure=exposure), _generator()).mean()
        for exposure in (1.0, 0.3, 0.1, 0.02)
    ]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.2 * means[0]


def test_noise_has_the_stated_mean_and_variance():
    level, settings = 128, LowLight(exposure=0.5, shot_noise=2e-3, read_noise=0.01)
    frame = np.full((400, 400, 3), level, np.uint8)
    light = linear_from_srgb(reduce_light(frame, settings, _generator()))
    signal = 0.5 * float(linear_from_srgb(np.uint8([level]))[0])
    assert light.mean() == pytest.approx(signal, rel=0.01)
    assert light.var() == pytest.approx(2e-3 * signal + 0.01**2, rel=0.03)


def test_white_balance_moves_the_channels_it_names():
    gray = np.full((8, 8, 3), 120, np.uint8)
    warm = reduce_light(gray, LowLight(exposure=0.5, white_balance=(1.5, 1.0, 0.5)), _generator())
    red, green, blue = warm[0, 0].astype(int)
    assert red > green > blue


@pytest.mark.parametrize(
    "values",
    [{"exposure": 0.0}, {"exposure": 1.5}, {"read_noise": -1.0}, {"white_balance": (0.0, 1, 1)}],
)
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(OptionError, match="found"):
        LowLight(**values)
