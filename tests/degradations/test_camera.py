"""Does the camera darken as asked, with a sensor's noise, and change nothing by default?"""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.degradations.camera import Camera, photograph
from mirnet_edge.degradations.low_light import linear_from_srgb
from mirnet_edge.errors import OptionError
from mirnet_edge.training.tasks import photograph_at_random


def _generator(seed=0):
    return np.random.default_rng(seed)


_FRAME = _generator(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
_GRAY = np.full((200, 200, 3), 128, np.uint8)


def test_the_default_is_the_identity():
    assert np.array_equal(photograph(_FRAME, Camera(), _generator()), _FRAME)


def test_a_seed_repeats_and_another_does_not():
    first = photograph_at_random(_FRAME, _generator(3))
    assert np.array_equal(first, photograph_at_random(_FRAME, _generator(3)))
    assert not np.array_equal(first, photograph_at_random(_FRAME, _generator(4)))


def test_the_range_of_exposures_is_kept():
    dusk, night = (
        np.mean([photograph_at_random(_GRAY, _generator(seed), limits).mean() for seed in range(8)])
        for limits in ((0.3, 0.5), (0.01, 0.02))
    )
    assert night < 0.4 * dusk
    assert dusk < _GRAY.mean()


def test_noise_has_the_stated_variance():
    settings = Camera(exposure=0.5, shot_noise=2e-3, read_noise=0.01)
    light = linear_from_srgb(photograph(_GRAY, settings, _generator()))
    signal = 0.5 * float(linear_from_srgb(np.uint8([128]))[0])
    assert light.mean() == pytest.approx(signal, rel=0.01)
    assert light.var() == pytest.approx(2e-3 * signal + 0.01**2, rel=0.05)


def test_row_noise_is_shared_by_a_row():
    rows = photograph(_GRAY, Camera(exposure=0.5, row_noise=0.02), _generator()).astype(float)
    assert rows.mean(1).std() > 1.0
    assert rows.std(1).max() == 0.0


def test_a_mosaic_keeps_flat_color_and_correlates_noise():
    settings = Camera(exposure=0.5, is_mosaic=True)
    color = np.broadcast_to(np.uint8([200, 120, 60]), _GRAY.shape)
    plain = photograph(color, Camera(exposure=0.5), _generator())
    assert np.abs(photograph(color, settings, _generator()).astype(int) - plain).max() <= 1
    noisy = photograph(_GRAY, Camera(exposure=0.5, is_mosaic=True, read_noise=0.02), _generator())
    red = noisy[..., 0].astype(float)
    neighbors = np.corrcoef(red[:, :-1].ravel(), red[:, 1:].ravel())[0, 1]
    assert neighbors > 0.2


def test_denoising_removes_noise_and_keeps_a_strong_edge():
    frame = _GRAY.copy()
    frame[:, 100:] = 250
    noisy, smoothed = (
        photograph(frame, Camera(exposure=0.5, read_noise=0.01, denoise=denoise), _generator())
        for denoise in (0.0, 1.0)
    )
    assert smoothed[:, :90].std() < 0.5 * noisy[:, :90].std()
    clean = photograph(frame, Camera(exposure=0.5), _generator()).astype(int)
    assert abs(smoothed[:, 95:105].mean() - clean[:, 95:105].mean()) < 2.0


def test_colors_that_the_matrix_leaves_in_are_duller():
    color = np.broadcast_to(np.uint8([200, 120, 60]), _GRAY.shape)

    def saturation(error):
        shown = photograph(color, Camera(crosstalk=0.3, color_error=error), _generator())
        return int(np.ptp(shown[0, 0].astype(int)))

    assert saturation(1.0) < saturation(0.0) < saturation(-1.0)
    assert abs(saturation(0.0) - 140) <= 2


def test_vignetting_darkens_corners_and_lamps_brighten():
    vignetted = photograph(_GRAY, Camera(exposure=0.5, vignetting=0.9), _generator())
    assert vignetted[0, 0, 0] < 0.5 * vignetted[100, 100, 0]
    dark, lit = (
        photograph(_GRAY, Camera(exposure=0.02, lamps=lamps), _generator()) for lamps in (0, 3)
    )
    assert lit.max() > 1.5 * dark.max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"exposure": 0.0}, {"lamps": -1}, {"vignetting": 1.0}, {"crosstalk": 0.5},
        {"color_error": 2.0}, {"white_balance": (1.0, 0.0, 1.0)}, {"shot_noise": -1.0},
    ],
)  # fmt: skip
def test_values_outside_their_ranges_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Camera(**wrong)
