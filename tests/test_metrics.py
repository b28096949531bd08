"""Metrics against their definitions, scikit-image, and what must hold of any of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirnet_edge import metrics
from mirnet_edge.errors import ImageError

_ALL = [metrics.psnr, metrics.psnr_gtmean, metrics.ssim, metrics.mae]
_SYMMETRIC = [metrics.psnr, metrics.ssim, metrics.mae]


def _photo(seed=0, count=1):
    """Return smooth images, (N, 24, 31, 3) float64 in [0, 1], that noise can be told from."""
    generator = np.random.default_rng(seed)
    phases = generator.uniform(0, 3, (count, 1, 1, 3))
    rows, columns = np.mgrid[0:24, 0:31]
    return 0.5 + 0.4 * np.sin(rows[..., None] / 4 + columns[..., None] / 6 + phases)


def _noisy(image, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 1)


def _levels(image):
    return (image * 255).round().astype(np.uint8)


def test_psnr_of_a_known_error():
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert metrics.psnr(black + 51, black)[0] == pytest.approx(20 * math.log10(5))  # 51 / 255


def test_psnr_counts_the_border():
    one = np.full((1, 12, 12, 3), 100, np.uint8)
    two = one.copy()
    two[0, 0, 0] = 200
    assert metrics.psnr(one, two)[0] == pytest.approx(
        10 * math.log10(12 * 12 / (100 / 255) ** 2), abs=1e-9
    )


def test_psnr_takes_the_mean_over_an_image_not_over_the_batch():
    reference = _levels(_photo(count=3))
    restored = reference.copy()
    restored[1] = _levels(_noisy(_photo(1)[0], 0.1))
    values = metrics.psnr(restored, reference)
    assert values.shape == (3,)
    assert np.isinf(values).tolist() == [True, False, True]
    assert values[1] == metrics.psnr(restored[1:2], reference[1:2])[0]


def test_psnr_agrees_with_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    one, two = _levels(_photo()), _levels(_noisy(_photo(), 0.05))
    assert metrics.psnr(one, two)[0] == pytest.approx(peak_signal_noise_ratio(one[0], two[0]))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_ssim_agrees_with_scikit_image(sigma):
    from skimage.metrics import structural_similarity

    one = _photo()
    two = _noisy(one, sigma)
    # scikit-image's mean leaves out the same border: where the window would reach outside
    expected = structural_similarity(
        one[0], two[0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        channel_axis=-1, data_range=1,
    )  # fmt: skip
    assert metrics.ssim(one, two)[0] == pytest.approx(expected, abs=1e-6)


def test_ssim_needs_room_for_its_window():
    small = np.zeros((1, 10, 30, 3), np.uint8)
    with pytest.raises(ImageError, match=r"30x10; SSIM needs at least 11x11"):
        metrics.ssim(small, small)
    window = np.zeros((1, 11, 11, 3), np.uint8)
    assert metrics.ssim(window, window)[0] == 1.0


@pytest.mark.parametrize("metric", _ALL, ids=lambda metric: metric.__name__)
def test_equality(metric):
    best = {metrics.ssim: 1.0, metrics.mae: 0.0}.get(metric, math.inf)
    for image in (_photo(), _levels(_photo())):
        assert metric(image, image.copy()).tolist() == [best]


@pytest.mark.parametrize("metric", _SYMMETRIC, ids=lambda metric: metric.__name__)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), sigma=st.floats(0.01, 0.5))
def test_symmetric(metric, seed, sigma):
    one = _photo(seed)
    two = _noisy(one, sigma, seed)
    assert metric(one, two)[0] == pytest.approx(metric(two, one)[0], rel=1e-12)


@pytest.mark.parametrize("metric", _ALL, ids=lambda metric: metric.__name__)
def test_more_noise_is_worse(metric):
    one = _photo()
    values = [metric(_levels(_noisy(one, sigma)), _levels(one))[0] for sigma in (0.02, 0.05, 0.2)]
    worse = values if metric is metrics.mae else values[::-1]
    assert worse == sorted(worse)
    assert len(set(values)) == 3


@pytest.mark.parametrize("metric", _ALL, ids=lambda metric: metric.__name__)
def test_bytes_and_floats_mean_the_same(metric):
    one, two = _levels(_photo()), _levels(_noisy(_photo(), 0.1))
    expected = metric(one, two)
    np.testing.assert_allclose(metric(one / 255, two / 255), expected, rtol=1e-12)
    np.testing.assert_allclose(metric(one, two / 255), expected, rtol=1e-12)


def test_floats_are_clamped():
    one = np.ones((1, 2, 2, 3))
    assert metrics.psnr(one + 0.5, one)[0] == math.inf
    assert metrics.mae(one * -3.0, one * 0.0)[0] == 0.0


def test_mae_of_a_known_error():
    black = np.zeros((2, 3, 3, 3), np.uint8)
    assert metrics.mae(black + 51, black).tolist() == pytest.approx([0.2, 0.2])


def test_brightness_alone_is_forgiven_by_gtmean_only():
    reference = 0.5 * _photo()
    darker = 0.5 * reference
    assert metrics.psnr(darker, reference)[0] < 20
    assert metrics.psnr_gtmean(darker, reference)[0] > 250  # equal but for float rounding
    noisy = _noisy(reference, 0.1)
    assert metrics.psnr_gtmean(noisy, reference)[0] < 25


def test_gtmean_weighs_channels_as_gray_does():
    reference = np.zeros((1, 2, 2, 3))
    reference[..., 1] = 0.4
    red = np.zeros((1, 2, 2, 3))
    red[..., 0] = 0.4
    scaled = red * (0.587 / 0.299)
    expected = metrics.psnr(scaled, reference)[0]
    assert metrics.psnr_gtmean(red, reference)[0] == pytest.approx(expected)


def test_gtmean_of_a_black_image_is_its_psnr():
    reference = _photo()
    black = np.zeros_like(reference)
    assert metrics.psnr_gtmean(black, reference) == metrics.psnr(black, reference)


@pytest.mark.parametrize("metric", _ALL, ids=lambda metric: metric.__name__)
def test_shapes_and_types_that_do_not_fit_are_named(metric):
    image = _levels(_photo())
    with pytest.raises(ImageError, match=r"\(1, 24, 31, 3\) and \(1, 24, 30, 3\)"):
        metric(image, image[:, :, 1:])
    with pytest.raises(ImageError, match=r"image.None"):
        metric(image[0], image[0])
    with pytest.raises(ImageError, match=r"uint8, or floating.*int64"):
        metric(image.astype(np.int64), image)


def _still_video(noise, count=12):
    rng = np.random.default_rng(0)
    scene = np.repeat(np.repeat(rng.uniform(0.1, 0.3, (4, 6, 3)), 16, 0), 16, 1)
    jitter = rng.normal(0, noise, (count, 1, 1, 1))
    return (scene * (1 + jitter)).clip(0, 1)


def test_flicker_is_one_for_a_constant_gain_and_grows_with_one_that_changes():
    source = _still_video(0.01)
    # the floor under dark blocks' brightness weighs a little less on brighter ones
    assert metrics.flicker(2 * source, source) == pytest.approx(1.0, abs=0.05)
    unsteady = 2 * source * (1 + 0.02 * (np.arange(12)[:, None, None, None] % 2))
    assert metrics.flicker(unsteady.clip(0, 1), source) > 1.2
    held = np.repeat(source.mean(0, keepdims=True), 12, 0)
    assert metrics.flicker(held, source) == pytest.approx(0.0, abs=1e-9)
    assert metrics.flicker(source.repeat(2, 1).repeat(2, 2), source) == pytest.approx(1.0)
    resting = np.full((4, 64, 96, 3), 64, np.uint8)  # exactly
    assert metrics.flicker(source[:4], resting) == np.inf
    assert metrics.flicker(resting, resting) == 1.0


def test_flicker_counts_what_stands_still_and_nothing_else():
    source = _still_video(0.001)
    source[::2, :, :16] = 0.9  # moves
    worse = source.copy()
    worse[1::2, :, :16] = 0.0
    assert metrics.flicker(worse, source) == pytest.approx(1.0)
    with pytest.raises(ImageError, match="no block of the source stands still"):
        metrics.flicker(source[..., :16, :], source[..., :16, :])


@pytest.mark.parametrize("shape", [(2, 64, 96, 3), (12, 8, 8, 3)], ids=["too short", "too small"])
def test_flicker_refuses_what_is_no_video(shape):
    with pytest.raises(ImageError, match="expected two videos of at least 3 frames"):
        metrics.flicker(np.zeros(shape), np.zeros(shape))
    with pytest.raises(ImageError, match="expected two videos"):
        metrics.flicker(np.zeros((4, 64, 64, 3)), np.zeros((5, 64, 64, 3)))


def _clip(*levels):
    """Return (N, 16, 16, 3): one gray block, whose level in each frame is given."""
    return np.stack([np.full((16, 16, 3), float(one)) for one in levels])


def test_flicker_is_the_ratio_of_variances_relative_to_each_blocks_brightness():
    dark, bright = np.array([0.200, 0.204, 0.202]), np.array([0.600, 0.602, 0.601])
    source = np.concatenate([_clip(*dark), _clip(*bright)], axis=2)
    restored = np.concatenate([_clip(*(3 * dark)), _clip(*(bright + dark - 0.2))], axis=2)

    def relative(levels):
        return levels.var() / (levels.mean() + metrics._LUMA_FLOOR) ** 2

    came_out = (relative(3 * dark) + relative(bright + dark - 0.2)) / 2
    went_in = (relative(dark) + relative(bright)) / 2
    assert metrics.flicker(restored, source) == pytest.approx(came_out / went_in, rel=1e-9)


def test_flicker_takes_a_block_whose_deviation_is_at_the_limit_and_says_where_none_is():
    source = _clip(0.5, 0.52, 0.5, 0.52)
    limit = float(metrics._blocks(source, 16).std(0).max())
    assert metrics.flicker(source, source, still=limit) == 1.0
    says = r"within 2\.0 levels; give a clip of a camera that stands still, or a larger limit"
    with pytest.raises(ImageError, match=says):
        metrics.flicker(source, source)


@pytest.mark.parametrize("shape", [(3, 8, 64, 3), (3, 64, 8, 3), (2, 64, 64, 3)])
def test_flicker_needs_three_frames_of_a_block_each(shape):
    with pytest.raises(ImageError, match="at least 3 frames of 16x16"):
        metrics.flicker(np.zeros(shape), np.zeros(shape))


def test_gtmean_clamps_what_the_gain_makes_too_bright():
    restored, reference = np.full((1, 4, 4, 3), 0.2), np.full((1, 4, 4, 3), 0.8)
    restored[0, 0, 0] = 1.0
    gain = (reference @ metrics.LUMA).mean() / (restored @ metrics.LUMA).mean()
    expected = metrics.psnr(np.minimum(restored * gain, 1.0), reference)
    assert metrics.psnr_gtmean(restored, reference) == pytest.approx(expected)


@pytest.mark.parametrize("metric", _ALL)
def test_single_precision_is_measured_in_double(metric):
    one, two = _noisy(_photo(), 0.1).astype(np.float32), _photo().astype(np.float32)
    exact = metric(one.astype(np.float64), two.astype(np.float64))
    assert metric(one, two).tobytes() == exact.tobytes()


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.psnr_gtmean, metrics.mae])
def test_no_image_at_all_is_refused(metric):
    with pytest.raises(ImageError, match="expected two sets of images of one shape"):
        metric(np.zeros((0, 16, 16, 3)), np.zeros((0, 16, 16, 3)))


def test_colorfulness_is_the_formula_and_zero_for_gray():
    generator = np.random.default_rng(0)
    image = generator.random((1, 20, 30, 3))
    red, green, blue = np.moveaxis(image[0], 2, 0)
    one, two = red - green, 0.5 * (red + green) - blue
    expected = (one.var() + two.var()) ** 0.5 + 0.3 * (one.mean() ** 2 + two.mean() ** 2) ** 0.5
    assert metrics.colorfulness(image)[0] == pytest.approx(expected)
    assert metrics.colorfulness(np.repeat(image[..., :1], 3, 3))[0] == pytest.approx(0.0)


def test_contrast_is_the_deviation_of_luma():
    image = np.zeros((1, 4, 4, 3))
    image[:, :2] = 0.8
    assert metrics.contrast(image)[0] == pytest.approx(0.4)
