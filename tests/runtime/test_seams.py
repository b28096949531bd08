"""Where tiles lie, and putting them together: properties over every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.tiling import TileAxis, blend_into, tile_slices

_axes = st.builds(
    lambda multiple, tile, overlap, length: (
        multiple * length, multiple * (tile + overlap), multiple * overlap, multiple,
    ),
    st.sampled_from((1, 4, 16)), st.integers(1, 9), st.integers(0, 9), st.integers(1, 60),
)  # fmt: skip


@given(_axes)
def test_tiles_cover_the_frame_on_the_multiple_and_overlap(drawn):
    length, tile, overlap, multiple = drawn
    axis = TileAxis.of(length, tile, overlap, multiple)
    assert axis.tile == min(tile, length)
    assert axis.origins[0] == 0
    assert axis.origins[-1] + axis.tile == length
    assert all(origin % multiple == 0 for origin in axis.origins)
    for before, after in zip(axis.origins, axis.origins[1:], strict=False):
        assert before < after <= before + tile - overlap


@given(_axes, st.integers(0, 40), st.sampled_from((1, 2, 3)))
def test_what_is_cut_up_and_joined_is_what_it_was(drawn, feather, scale):
    axis = TileAxis.of(*drawn)
    whole = np.random.default_rng(0).integers(0, 256, (scale * axis.length, 2, 3), np.uint8)
    canvas = np.zeros_like(whole)
    for number, origin in enumerate(axis.origins):
        piece = whole[scale * origin : scale * (origin + axis.tile)]
        blend_into(canvas, piece, scale * origin, axis.blending_weights(number, feather, scale))
    assert np.array_equal(canvas, whole)


def test_the_outermost_pixels_of_an_inner_border_are_never_used():
    axis = TileAxis.of(96, 48, 16, 16)
    for feather in (0, 16):
        canvas = np.zeros((96, 1), np.uint8)
        for number, origin in enumerate(axis.origins):
            piece = np.full((48, 1), 100, np.uint8)
            piece[0 if number else slice(0)] = 255
            piece[-1 if number + 1 < len(axis.origins) else slice(0)] = 255
            blend_into(canvas, piece, origin, axis.blending_weights(number, feather, 1))
        # faded over the whole overlap, a border's pixel counts for a thirty-second at most
        assert canvas.max() <= (100 if feather == 0 else 105)


def test_a_fade_rises_evenly_over_the_middle_of_the_overlap():
    ramp = TileAxis(96, 64, (0, 32)).blending_weights(1, 8, 1)
    assert np.all(ramp[:12] == 0)
    assert np.all(ramp[20:] == 1)
    assert np.all(np.diff(ramp[11:21]) > 0)
    assert ramp[12] + ramp[19] == pytest.approx(1)


def test_squares_go_row_by_row():
    found = [(rows.start, columns.start) for rows, columns in tile_slices(
        TileAxis(8, 4, (0, 4)), TileAxis(12, 8, (0, 4)))]  # fmt: skip
    assert found == [(0, 0), (0, 4), (4, 0), (4, 4)]


@pytest.mark.parametrize("overlap", [17, 32, -1])
def test_an_overlap_that_leaves_a_tile_nothing_is_refused_in_one_line(overlap):
    with pytest.raises(OptionError, match="tiles of 32 pixels") as caught:
        TileAxis.of(64, 32, overlap, 16)
    assert "\n" not in str(caught.value)


def test_the_tile_that_is_nearer_is_used_without_blending():
    """In an odd overlap the middle pixel is the first tile's."""
    for overlap, expected in ((2, [0, 1, 1, 1, 1, 1]), (3, [0, 0, 1, 1, 1, 1])):
        weights = TileAxis(12 - overlap, 6, (0, 6 - overlap)).blending_weights(1, 0, 1)
        assert weights.tolist() == expected


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("blend", [0, 8])
def test_blending_weights_are_single_precision(number, blend):
    assert TileAxis(96, 64, (0, 32)).blending_weights(number, blend, 2).dtype == np.float32


def test_a_frame_of_one_tile_needs_no_overlap():
    assert TileAxis.of(64, 64, 64, 8) == TileAxis(64, 64, (0,))


def test_the_least_tile_of_the_message_is_accepted():
    with pytest.raises(OptionError, match="expected tiles of at least 40"):
        TileAxis.of(96, 32, 32, 8)
    with pytest.raises(OptionError, match="at least 40"):
        TileAxis.of(96, 39, 32, 8)
    assert TileAxis.of(96, 40, 32, 8).origins[:2] == (0, 8)
