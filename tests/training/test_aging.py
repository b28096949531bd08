"""Synthetic old photos: the mask is exact."""

from __future__ import annotations

import numpy as np

from mirnet_edge.degradations import OldPhoto, Overlay
from mirnet_edge.training.aging import SEEN_LEVELS, age_with_damage, choose_window

FLAT = np.full((64, 80, 3), 100, np.uint8)


def test_the_mask_is_where_damage_shows_and_nowhere_else():
    for seed in range(6):
        aging = OldPhoto(dust=3.0, scratches=2, creases=1, cracks=1, hairs=2, patches=1)
        made = age_with_damage(FLAT, np.random.default_rng(seed), aging=aging)
        difference = np.abs(made.aged.astype(int) - FLAT).max(2)
        assert np.array_equal(made.damage, difference >= SEEN_LEVELS)
        assert 0.0 < made.damage.mean() < 0.5


def test_aging_alone_is_no_damage():
    aging = OldPhoto(fading=0.8, sepia=0.5, grain=12.0)
    made = age_with_damage(FLAT, np.random.default_rng(0), aging=aging)
    assert not made.damage.any()
    assert np.abs(made.aged.astype(int) - FLAT).mean() > 5.0


def test_an_overlay_is_damage():
    alpha = np.zeros((64, 80), np.uint8)
    alpha[20:40, 20:60] = 255
    overlay = Overlay(np.full((64, 80, 3), 255, np.uint8), alpha)
    masks = [
        age_with_damage(FLAT, np.random.default_rng(seed), [overlay], aging=OldPhoto()).damage
        for seed in range(12)
    ]
    assert max(mask.mean() for mask in masks) > 0.1


def test_a_scanners_noise_is_not_in_the_mask():
    quiet, noisy = (
        age_with_damage(
            FLAT, np.random.default_rng(3), aging=OldPhoto(scratches=2), capture_noise_fraction=one
        )
        for one in (0.0, 1.0)
    )
    assert np.array_equal(quiet.damage, noisy.damage)
    assert not np.array_equal(quiet.aged, noisy.aged)


def test_windows_lie_inside_and_mostly_on_damage():
    damage = np.zeros((64, 80), bool)
    damage[10, 70] = True
    generator = np.random.default_rng(0)
    windows = [choose_window(damage, 24, generator) for _ in range(200)]
    assert all(damage[window].shape == (24, 24) for window in windows)
    # 60 % are put around it; of the others a tenth meets it
    assert 0.5 < np.mean([damage[window].any() for window in windows]) < 0.8
