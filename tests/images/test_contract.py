"""The image contract: padding and back, frames and batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirnet_edge.errors import ImageError
from mirnet_edge.images.contract import (
    batch_from_frames,
    check_frames,
    crop_to,
    frames_from_batch,
    pad_to_multiple,
    padded_size,
)

_SIDE = st.integers(1, 20)


@settings(max_examples=150, deadline=None)
@given(_SIDE, _SIDE, st.integers(1, 17), st.integers(1, 3))
def test_padding_is_numpys_reflection_and_cropping_undoes_it(height, width, multiple, count):
    generator = np.random.default_rng([height, width, multiple])
    frames = generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    padded = pad_to_multiple(frames, multiple)
    tall, wide = padded_size(height, width, multiple)
    assert tall % multiple == wide % multiple == 0
    assert 0 <= tall - height < multiple
    assert 0 <= wide - width < multiple
    missing = ((0, 0), (0, tall - height), (0, wide - width), (0, 0))
    np.testing.assert_array_equal(padded, np.pad(frames, missing, mode="reflect"))
    np.testing.assert_array_equal(crop_to(padded, height, width), frames)


def test_frames_that_fit_are_not_copied(frames_of):
    frames = frames_of(8, 12)
    assert pad_to_multiple(frames, 4) is frames


def test_cropping_to_more_than_there_is_says_both_sizes(frames_of):
    with pytest.raises(ImageError, match="frames are 7x5, expected at least 8x5"):
        crop_to(frames_of(5, 7), 5, 8)


def test_every_level_survives_the_way_to_a_batch_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    batch = batch_from_frames(levels)
    assert batch.dtype == np.float32
    assert batch.shape == (1, 3, 16, 16)
    assert batch.flags.c_contiguous
    assert batch.min() == 0.0
    assert batch.max() == 1.0
    np.testing.assert_array_equal(frames_from_batch(batch), levels)


def test_channels_become_the_second_axis(frames_of):
    frames = frames_of(2, 3)
    np.testing.assert_allclose(batch_from_frames(frames)[0, 1], frames[0, ..., 1] / 255, rtol=1e-6)


def test_a_batch_is_clamped_and_rounded_half_to_even():
    values = np.array([-0.2, 0.0, 2.5 / 255, 3.5 / 255, 1.0, 7.0], np.float32)
    batch = np.broadcast_to(values, (1, 3, 1, 6)).copy()
    kept = batch.copy()
    frames = frames_from_batch(batch)
    assert frames.dtype == np.uint8
    assert frames.flags.c_contiguous
    assert frames[0, 0, :, 0].tolist() == [0, 0, 2, 4, 255, 255]
    np.testing.assert_array_equal(batch, kept)


def test_what_is_not_a_number_is_black_and_infinite_is_clamped():
    batch = np.full((1, 3, 1, 3), np.nan, np.float32)
    batch[..., 1], batch[..., 2] = np.inf, -np.inf
    assert frames_from_batch(batch)[0, 0, :, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([[1]], "numpy array.*found list"),
        (np.zeros((1, 2, 2, 3), np.float32), "uint8.*found float32.*255"),
        (np.zeros((2, 2, 3), np.uint8), r"4 axes.*found 3; give frame\[None\]"),
        (np.zeros((2, 2), np.uint8), "4 axes.*found 2"),
        (np.zeros((1, 2, 2, 4), np.uint8), "3 channels.*found 4"),
        (np.zeros((1, 0, 2, 3), np.uint8), "at least one pixel"),
        (np.zeros((0, 2, 2, 3), np.uint8), "at least one pixel"),
    ],
)
def test_what_is_no_frames_is_refused_in_words(frames, says):
    with pytest.raises(ImageError, match=says):
        check_frames(frames)


def test_frames_are_accepted(frames_of):
    check_frames(frames_of(1, 1))
