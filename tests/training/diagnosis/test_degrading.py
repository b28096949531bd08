"""Degraded samples have the labels that were asked for, and the truth about the others."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data

from mirnet_edge.degradations import Overlay
from mirnet_edge.diagnosis.labels import LABELS
from mirnet_edge.training.diagnosis.degrading import LabeledFrame, degrade_for_label, targets_of

CHELSEA = np.ascontiguousarray(skimage.data.chelsea()[:240, :320])
TURNS = range(12)


def _overlay():
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:40] = 255
    return Overlay(np.full((40, 60, 3), 255, np.uint8), alpha)


@pytest.mark.parametrize("label", LABELS)
def test_most_samples_have_their_label_and_none_denies_it(label):
    made = [
        degrade_for_label(CHELSEA, label, np.random.default_rng(turn), [_overlay()])
        for turn in TURNS
    ]
    assert all(label in one.present | one.unknown for one in made)
    assert sum(label in one.present for one in made) >= 0.6 * len(made)
    assert all(one.frame.shape == CHELSEA.shape and one.frame.dtype == np.uint8 for one in made)


def test_fine_samples_have_no_label_and_stay_close_to_the_image():
    for turn in TURNS:
        made = degrade_for_label(CHELSEA, "fine", np.random.default_rng(turn))
        assert not made.present | made.unknown
        assert 60.0 < made.frame.mean() < 180.0


def _tone_curve(label, seed):
    """Return what a gray ramp of 224 levels became, (columns, RGB); noise is averaged out."""
    ramp = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (64, 1))[..., None], 3, 2)
    made = degrade_for_label(ramp, label, np.random.default_rng(seed))
    return np.median(made.frame[16:48].astype(float), 0)[16:240]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_faded_lost_more_contrast_than_haze_takes_or_has_a_tone(seed):
    fine = _tone_curve("fine", seed)
    assert np.ptp(fine.mean(1)) > 0.8 * 224
    faded = _tone_curve("faded", seed)
    tone = np.ptp(faded.mean(0))
    assert np.ptp(faded.mean(1)) < 0.8 * 224 or tone > 5.0


@pytest.mark.parametrize("label", ["fine", "noisy", "low-resolution", "scratched"])
def test_a_frame_that_became_dark_on_the_way_is_not_called_lit(label):
    dim = (CHELSEA * 0.35).astype(np.uint8)
    made = degrade_for_label(dim, label, np.random.default_rng(0))
    assert "dark" in made.unknown
    assert "dark" not in degrade_for_label(CHELSEA, "fine", np.random.default_rng(0)).unknown


def test_the_same_generator_gives_the_same_sample():
    one, two = (
        degrade_for_label(CHELSEA, "scratched", np.random.default_rng(7), [_overlay()])
        for _ in range(2)
    )
    assert np.array_equal(one.frame, two.frame)
    assert (one.present, one.sigma) == (two.present, two.sigma)


def test_sigma_is_that_of_the_noise_that_was_added():
    flat = np.full((240, 320, 3), 120, np.uint8)
    sigmas = []
    for turn in range(20):
        made = degrade_for_label(flat, "noisy", np.random.default_rng(turn))
        assert made.sigma == pytest.approx(made.frame.std((0, 1)).mean(), rel=0.25)
        sigmas.append(made.sigma)
    assert min(sigmas) < 8.0 < 25.0 < max(sigmas)


@pytest.mark.parametrize(
    ("sigma", "present", "unknown"), [(0.5, False, False), (2.0, False, True), (9.0, True, False)]
)
def test_noise_between_two_levels_is_neither_present_nor_absent(sigma, present, unknown):
    made = LabeledFrame(CHELSEA)
    made.set_noise(sigma)
    assert ("noisy" in made.present, "noisy" in made.unknown) == (present, unknown)


def test_targets_follow_the_order_of_the_labels():
    made = LabeledFrame(CHELSEA, {"noisy", "scratched"}, {"dark"})
    assert targets_of(made) == ([0.0, 1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0])
