"""Overlays: what they hide, how they lie, and that strength and chance rule them."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.degradations import Overlay, overlay_damage
from mirnet_edge.errors import OptionError

GRAY = np.full((60, 80, 3), 100, np.uint8)


def _overlay(size=(40, 40), *, cover=255, where=(slice(5, 15), slice(20, 26))):
    """A red patch in a corner that is not the middle."""
    colors = np.zeros((*size, 3), np.uint8)
    colors[..., 0] = 250
    laid = np.zeros(size, np.uint8)
    laid[where] = cover
    return Overlay(colors, laid)


def _laid(overlay, seed=0, frame=GRAY, **values):
    return overlay_damage(frame, overlay, np.random.default_rng(seed), **values)


def test_strength_zero_and_an_empty_overlay_leave_the_frame_as_it_is():
    assert np.array_equal(_laid(_overlay(), strength=0.0), GRAY)
    assert np.array_equal(_laid(_overlay(cover=0)), GRAY)


@pytest.mark.parametrize(("cover", "strength", "red"), [(255, 1.0, 250), (255, 0.5, 175)])
def test_pixels_move_towards_the_overlay_as_far_as_it_covers(cover, strength, red):
    laid = _laid(_overlay(cover=cover, where=(slice(None), slice(None))), strength=strength)
    assert np.array_equal(laid[..., 0], np.full((60, 80), red))
    assert (laid[..., 1] < 100).all()


def test_a_half_transparent_overlay_hides_half():
    laid = _laid(_overlay(cover=102, where=(slice(None), slice(None))))
    assert set(laid[..., 0].ravel()) == {160}  # 100 + 0.4 * (250 - 100)


def test_colors_that_nothing_covers_with_are_not_seen_at_edges():
    white = _overlay()
    white.colors[:] = 0
    white.colors[white.alpha > 0] = 255
    for seed in range(8):
        assert _laid(white, seed).min() == 100


def test_only_what_is_covered_changes_and_the_frame_is_left_alone():
    before = GRAY.copy()
    changed = (_laid(_overlay()) != GRAY).any(2)
    # 60 of 1600 pixels of the overlay, enlarged with it
    assert 0.01 < changed.mean() < 0.09
    assert np.array_equal(GRAY, before)


def test_it_covers_frames_of_every_shape_and_lies_any_way_round():
    for size in ((60, 80), (200, 30), (17, 300)):
        frame = np.full((*size, 3), 100, np.uint8)
        whole = _overlay((40, 70), where=(slice(None), slice(None)))
        assert (_laid(whole, frame=frame)[..., 0] == 250).all()
    centers = set()
    for seed in range(60):
        rows, columns = np.nonzero((_laid(_overlay(), seed) != GRAY).any(2))
        if len(rows):
            centers.add((rows.mean() > 30, columns.mean() > 40, np.ptp(rows) > np.ptp(columns)))
    assert len(centers) == 8


def test_a_seed_repeats_and_others_differ():
    assert np.array_equal(_laid(_overlay(), 1), _laid(_overlay(), 1))
    assert len({_laid(_overlay(), seed).tobytes() for seed in range(8)}) > 5


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_outside_its_range_is_refused(strength):
    with pytest.raises(OptionError, match=rf"strength must lie in \[0, 1\], found {strength}"):
        _laid(_overlay(), strength=strength)
