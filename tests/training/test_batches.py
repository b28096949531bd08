"""Batches: repeatable, shared between processes and threads, both sides cut and turned alike."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mirnet_edge.errors import DataError
from mirnet_edge.training.batches import (
    BatchSampling,
    ExposureJitter,
    add_sensor_noise,
    iterate_batches,
    require_image_sizes,
    sample_batch,
)
from mirnet_edge.training.pairs import Pairs


def _sampling(**values):
    return BatchSampling(**({"size": 4, "crop": 16, "multiple": 8} | values))


def _pairs(degraded, target, **values):
    return Pairs(
        tuple(f"image {index}" for index in range(len(target))), degraded, target, "sha", **values
    )


def _flat(degraded=60, target=180):
    return _pairs(
        (np.full((24, 24, 3), degraded, np.uint8),), (np.full((24, 24, 3), target, np.uint8),)
    )


def _random(size, count=3):
    generator = np.random.default_rng(0)
    return tuple(generator.integers(0, 256, (*size, 3), np.uint8) for _ in range(count))


def _doubled(frames):
    """Return frames whose every other pixel is the given ones, however they are turned."""
    return tuple(frame.repeat(2, 0).repeat(2, 1) for frame in frames)


def _negative(frame, generator):
    return 255 - frame


def _halved(frame, generator):
    return frame[::2, ::2]


def _equal(one, two):
    return all(
        torch.equal(getattr(one, side), getattr(two, side))
        for side in ("degraded", "target", "thumbnail")
    )


_BUSY = {
    "well_lit_fraction": 0.3, "exposure_jitter": 0.5, "noise_jitter": 8.0, "thumbnails": True,
}  # fmt: skip


def test_a_seed_and_a_step_give_the_same_batch_and_others_another(make_pairs):
    pairs = make_pairs(4, (48, 64))
    first, again, step, seed = (
        sample_batch(pairs, _sampling(**_BUSY), seed=seed, step=step)
        for seed, step in ((1, 5), (1, 5), (1, 6), (2, 5))
    )
    assert _equal(first, again)
    assert not torch.equal(first.target, step.target)
    assert not torch.equal(first.target, seed.target)


def test_the_pairs_of_a_batch_differ_from_each_other(make_pairs):
    batch = sample_batch(make_pairs(4, (48, 64)), _sampling(size=8), seed=0, step=0)
    assert len({one.numpy().tobytes() for one in batch.target}) == 8


@pytest.mark.parametrize("mixup", [0.0, 1.0])
@pytest.mark.parametrize("crop", [16, None])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_several_processes_make_up_the_whole_batch(
    make_pairs, mixup, crop, processes
):
    pairs, sampling = make_pairs(4, (48, 64)), _sampling(size=6, mixup=mixup, crop=crop, **_BUSY)
    for step in range(3):
        whole = sample_batch(pairs, sampling, seed=0, step=step)
        for rank in range(processes):
            share = sample_batch(
                pairs, sampling, seed=0, step=step, rows=slice(rank, None, processes)
            )
            assert torch.equal(share.degraded, whole.degraded[rank::processes])
            assert torch.equal(share.target, whole.target[rank::processes])
            assert torch.equal(share.thumbnail, whole.thumbnail[rank::processes])


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_that_draw_ahead_change_nothing(make_pairs, workers):
    pairs, steps = make_pairs(4, (48, 64)), range(3, 10)

    def sample(workers):
        return list(
            iterate_batches(
                pairs,
                lambda step: _sampling(size=1 + step % 3, **_BUSY),
                steps,
                seed=0,
                rows=slice(None),
                workers=workers,
            )
        )

    asked, ahead = sample(0), sample(workers)
    assert [len(batch.degraded) for batch in asked] == [1, 2, 3, 1, 2, 3, 1]
    assert len(ahead) == len(asked)
    assert all(_equal(one, two) for one, two in zip(asked, ahead, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_are_threads_beside_this_one(make_pairs, workers):
    seen = set()

    def noticed(frame, generator):
        seen.add(threading.current_thread())
        return frame

    pairs = make_pairs(2, (48, 64), degrade=noticed)
    for _ in iterate_batches(
        pairs, lambda step: _sampling(), range(4), seed=0, rows=slice(None), workers=workers
    ):
        pass
    assert (threading.current_thread() in seen) == (workers == 0)


@pytest.mark.parametrize("steps", [range(0), range(1), range(2)])
def test_few_steps_end_with_many_workers(make_pairs, steps):
    found = iterate_batches(
        make_pairs(), lambda step: _sampling(), steps, seed=0, rows=slice(None), workers=3
    )
    assert len(list(found)) == len(steps)


@dataclass(frozen=True)
class View:
    id: str
    pairs: Pairs
    degraded_from_target: object
    degraded_size: tuple[int, int]
    """Of whole frames."""


_ODD = (35, 51)
VIEWS = [
    View("equal", _pairs(_random(_ODD), _random(_ODD)), lambda target: target, (32, 48)),
    View(
        "made bad",
        _pairs((None,) * 3, _random(_ODD), degrade=_negative),
        lambda target: 1.0 - target,
        (32, 48),
    ),
    View(
        "doubled",
        _pairs(_random(_ODD), _doubled(_random(_ODD)), scale=2),
        lambda target: target[..., ::2, ::2],
        (32, 48),
    ),
    View(
        "made small",
        _pairs((None,) * 3, _random((70, 102)), degrade=_halved, scale=2),
        lambda target: target[..., ::2, ::2],
        (32, 48),
    ),
]


@pytest.mark.parametrize("crop", [16, 32, None])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
def test_both_sides_show_the_same_view(view, crop):
    scale = view.pairs.scale
    sides = view.degraded_size if crop is None else (crop // scale, crop // scale)
    for step in range(12):
        batch = sample_batch(view.pairs, _sampling(crop=crop), seed=0, step=step)
        assert batch.degraded.shape == (4, 3, *sides)
        assert batch.target.shape == (4, 3, sides[0] * scale, sides[1] * scale)
        assert torch.allclose(batch.degraded, view.degraded_from_target(batch.target), atol=1e-6)


def _coordinates(size=(40, 56)):
    """Return an image whose red is the row and whose green the column."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    image = np.stack((rows, columns, 0 * rows), 2)
    return _pairs((image,), (image,))


def _orientation(image):
    """Return whether it is turned, and which of its sides run backwards."""
    turned = bool((image[0].diff(dim=0) == 0).all())
    if turned:
        image = image.transpose(1, 2)
    return (
        turned,
        bool(image[0, 0, 0] > image[0, -1, 0]),
        bool(image[1, 0, 0] > image[1, 0, -1]),
    )


def test_crops_come_from_everywhere_in_all_eight_orientations():
    batch = sample_batch(_coordinates(), _sampling(size=800), seed=0, step=0)
    assert len({_orientation(image) for image in batch.target}) == 8
    corners = (batch.target * 255.0).round().amin((2, 3))
    assert corners[:, 0].unique().tolist() == list(range(40 - 16 + 1))
    assert corners[:, 1].unique().tolist() == list(range(56 - 16 + 1))


def test_whole_frames_are_flipped_and_not_turned():
    batch = sample_batch(_coordinates(), _sampling(size=60, crop=None), seed=0, step=0)
    found = {_orientation(image) for image in batch.target}
    assert found == {(False, rows, columns) for rows in (False, True) for columns in (False, True)}


def test_whole_frames_of_a_batch_have_one_size():
    images = (*_random((32, 48)), *_random((48, 32)), *_random((24, 24)))
    pairs = _pairs(images, images)
    sizes = {
        sample_batch(pairs, _sampling(crop=None), seed=0, step=step).target.shape[2:]
        for step in range(30)
    }
    assert sizes == {(32, 48), (48, 32), (24, 24)}


def test_a_light_moves_towards_the_reference_and_half_of_them_all_the_way():
    batch = sample_batch(_flat(), _sampling(size=600, well_lit_fraction=1.0), seed=0, step=0)
    way = ((batch.degraded[:, 0, 0, 0] * 255.0 - 60.0) / (180.0 - 60.0)).clamp(0.0, 1.0)
    assert float((way > 1.0 - 1e-5).float().mean()) == pytest.approx(0.5, abs=0.07)
    rest = way[way < 1.0 - 1e-5]
    # less than half way is dark still
    assert float(rest.mean()) == pytest.approx(0.75, abs=0.04)
    assert float(rest.min()) >= 0.5 - 1e-4
    assert torch.equal(batch.target, torch.full_like(batch.target, batch.target[0, 0, 0, 0]))


def test_so_many_are_lit_as_the_share_says():
    batch = sample_batch(_flat(), _sampling(size=800, well_lit_fraction=0.25), seed=0, step=0)
    lit = batch.degraded[:, 0, 0, 0] * 255.0 > 60.01
    assert float(lit.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_what_is_lit_stays_free_of_noise():
    sampling = _sampling(size=60, well_lit_fraction=1.0, noise_jitter=40.0)
    batch = sample_batch(_flat(), sampling, seed=0, step=0)
    assert float(batch.degraded.flatten(2).std(2).max()) < 1e-6


def test_half_of_the_others_are_lighter_or_darker_by_so_many_stops():
    batch = sample_batch(_flat(), _sampling(size=600, exposure_jitter=0.5), seed=0, step=0)
    stops = torch.log2(batch.degraded[:, 0, 0, 0] * 255.0 / 60.0)
    assert float((stops.abs() > 1e-5).float().mean()) == pytest.approx(0.5, abs=0.07)
    assert 0.4 < float(stops.max()) <= 0.5 + 1e-5
    assert -0.5 - 1e-5 <= float(stops.min()) < -0.4


def test_half_of_the_images_get_more_noise_and_not_too_much():
    batch = sample_batch(_flat(), _sampling(size=400, noise_jitter=6.0), seed=0, step=0)
    deviations = batch.degraded.flatten(1).std(1) * 255.0
    assert float((deviations > 1e-3).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert 5.0 < float(deviations.max()) < 1.1 * 6.0
    assert float(batch.target.flatten(1).std(1).max()) < 1e-6


def test_nothing_is_changed_unless_asked_for():
    batch = sample_batch(_flat(), _sampling(size=50), seed=0, step=0)
    assert torch.allclose(batch.degraded, torch.tensor(60.0 / 255.0))
    assert batch.thumbnail is None


def test_pixels_stay_between_0_and_1(make_pairs):
    sampling = _sampling(size=40, well_lit_fraction=0.3, exposure_jitter=3.0, noise_jitter=80.0)
    batch = sample_batch(make_pairs(), sampling, seed=0, step=0)
    for side in (batch.degraded, batch.target):
        assert side.dtype == torch.float32
        assert side.is_contiguous(memory_format=torch.channels_last)
        assert 0.0 <= float(side.min()) < float(side.max()) <= 1.0


def test_light_is_exposure_or_the_way_to_the_reference():
    degraded, target = np.full((4, 4, 3), 0.6, np.float32), np.full((4, 4, 3), 0.8, np.float32)
    assert np.array_equal(ExposureJitter().apply(degraded, target), degraded)
    assert np.allclose(ExposureJitter(towards_target=1.0).apply(degraded, target), target)
    assert np.allclose(ExposureJitter(towards_target=0.5).apply(degraded, target), 0.7)
    assert np.array_equal(ExposureJitter(gain=2.0).apply(degraded, target), np.ones_like(degraded))


def test_mixup_mixes_both_sides_with_one_share():
    black, white = (np.full((24, 24, 3), level, np.uint8) for level in (0, 255))
    pairs = _pairs((black, white), (black, white))
    shares = set()
    for step in range(12):
        batch = sample_batch(pairs, _sampling(size=8, mixup=1.0), seed=0, step=step)
        assert torch.allclose(batch.degraded, batch.target, atol=1e-6)
        shares |= {round(float(level), 4) for level in batch.target[:, 0, 0, 0]} - {0.0, 1.0}
    assert len(shares) > 12


def test_so_many_batches_are_mixed_as_the_share_says():
    black, white = (np.full((24, 24, 3), level, np.uint8) for level in (0, 255))
    pairs = _pairs((black, white), (black, white))

    def mixed(seed):
        for step in range(200):
            batch = sample_batch(pairs, _sampling(size=8, mixup=0.3), seed=seed, step=step)
            level = batch.target[:, 0, 0, 0]
            yield bool(((level > 1e-3) & (level < 1.0 - 1e-3)).any())

    one, other = list(mixed(0)), list(mixed(1))
    assert sum(one) / 200 == pytest.approx(0.3, abs=0.1)
    assert sum(a != b for a, b in zip(one, other, strict=True)) > 40


def test_the_thumbnail_shows_the_frame_and_not_the_crop():
    pairs = _pairs(_random((48, 64), 1), _random((48, 64), 1))
    batch = sample_batch(pairs, _sampling(size=8, thumbnails=True), seed=0, step=0)
    expected = pairs.thumbnails(0)[0]
    flipped = [expected.flip(axes) for axes in ((), (1,), (2,), (1, 2))]
    for found in batch.thumbnail:
        assert any(torch.allclose(found, one, atol=1e-6) for one in flipped)


def _half_black(frame, generator):
    """Blacken the left of a frame, or its right, whatever is cut out of it afterwards."""
    bad = frame.copy()
    half = frame.shape[1] // 2
    bad[:, slice(0, half) if generator.integers(2) else slice(half, None)] = 0
    return bad


def test_the_thumbnail_of_a_image_made_bad_shows_what_befell_the_whole_of_it():
    pairs = _pairs((None,), (np.full((48, 72, 3), 200, np.uint8),), degrade=_half_black)
    batch = sample_batch(pairs, _sampling(size=24, thumbnails=True), seed=0, step=0)
    means = batch.thumbnail.mean((1, 2, 3)) * 255.0
    assert means.tolist() == pytest.approx([100.0] * 24, abs=6.0)
    crops = {round(float(degraded.mean()) * 255.0) for degraded in batch.degraded}
    assert {0, 200} <= crops


def test_the_thumbnail_is_in_the_light_of_its_crop():
    sampling = _sampling(size=40, thumbnails=True, well_lit_fraction=0.5, exposure_jitter=0.5)
    batch = sample_batch(_flat(), sampling, seed=0, step=0)
    assert batch.thumbnail.shape == (40, 3, 24, 36)
    assert torch.allclose(
        batch.thumbnail.amax((1, 2, 3)), batch.degraded.amax((1, 2, 3)), atol=1e-6
    )
    assert len(batch.degraded[:, 0, 0, 0].unique()) > 10


def test_the_thumbnail_of_a_whole_frame_is_flipped_with_it():
    sampling = _sampling(size=20, crop=None, thumbnails=True)
    batch = sample_batch(_coordinates((48, 72)), sampling, seed=0, step=0)
    for degraded, thumbnail in zip(batch.degraded, batch.thumbnail, strict=True):
        assert _orientation(thumbnail) == _orientation(degraded)


@pytest.mark.parametrize(("crop", "side"), [(32, 32), (None, 8)])
def test_a_image_that_is_too_small_is_refused_by_name(crop, side):
    small = tuple(np.zeros((size, 40, 3), np.uint8) for size in (7, 7))
    pairs = Pairs(("kitchen", "kitchen"), small, small, "sha")
    with pytest.raises(DataError, match=f"kitchen is 40x7, smaller than the crop of {side}"):
        sample_batch(pairs, _sampling(crop=crop), seed=0, step=0)


def test_all_images_that_are_smaller_than_a_crop_are_counted():
    images = tuple(np.zeros((side, 40, 3), np.uint8) for side in (32, 7, 33, 31))
    pairs = Pairs(("hall", "kitchen", "yard", "attic"), images, images, "sha")
    require_image_sizes(pairs, 7)
    with pytest.raises(
        DataError, match=r"at least 32x32, .* 2 smaller of 4, such as kitchen, 40x7"
    ):
        require_image_sizes(pairs, 32)


def test_a_thread_s_refusal_is_heard():
    small = (np.zeros((8, 40, 3), np.uint8),)
    pairs = Pairs(("kitchen",), small, small, "sha")
    found = iterate_batches(
        pairs, lambda step: _sampling(crop=32), range(9), seed=0, rows=slice(None), workers=2
    )
    with pytest.raises(DataError, match="kitchen"):
        next(found)


def test_the_second_half_shows_the_scenes_of_the_first_with_other_noise(make_pairs):
    pairs = make_pairs(4, (48, 64))
    sampling = _sampling(noise_pairs=True, thumbnails=True)
    batch = sample_batch(pairs, sampling, seed=0, step=0)
    plain = sample_batch(pairs, _sampling(thumbnails=True), seed=0, step=0)
    for side in ("target", "thumbnail"):
        one = getattr(batch, side)
        assert torch.equal(one[:2], one[2:])
        assert torch.equal(one[:2], getattr(plain, side)[:2])
    assert not torch.equal(batch.target[0], batch.target[1])
    noise = batch.degraded - plain.degraded[[0, 1, 0, 1]]
    assert not torch.equal(noise[0], noise[2])
    again = sample_batch(pairs, sampling, seed=0, step=0, rows=slice(1, None, 2))
    assert torch.equal(again.degraded, batch.degraded[1::2])
    lit = sample_batch(
        pairs, _sampling(noise_pairs=True, well_lit_fraction=1.0), seed=0, step=0
    ).degraded
    assert torch.equal(lit[:2], lit[2:])


def test_the_two_halves_have_more_or_less_noise(make_pairs):
    pairs = make_pairs(4, (48, 64))
    ratios = []
    for step in range(20):
        batch = sample_batch(pairs, _sampling(noise_pairs=True), seed=0, step=step)
        plain = sample_batch(pairs, _sampling(), seed=0, step=step)
        spread = (batch.degraded - plain.degraded[[0, 1, 0, 1]]).std((1, 2, 3))
        ratios += (spread[2:] / spread[:2]).tolist()
    assert min(ratios) < 0.5
    assert max(ratios) > 2.0


def test_sensor_noise_grows_with_the_light_and_is_at_whole_levels():
    generator = np.random.default_rng(0)
    for light in (0.1, 0.5):
        noisy = add_sensor_noise(
            np.full((200, 200, 3), light, np.float32), sigma=2.0, photons=300.0,
            generator=generator,
        )  # fmt: skip
        expected = 255.0 * np.sqrt((2.0 / 255.0) ** 2 + light / 300.0)
        assert 255.0 * noisy.std() == pytest.approx(expected, rel=0.03)
        np.testing.assert_allclose(255.0 * noisy, np.round(255.0 * noisy), atol=1e-3)
