"""The loss is what its formula says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from mirnet_edge.metrics import ssim
from mirnet_edge.training.loss import (
    charbonnier_loss,
    color_loss,
    edge_loss,
    flicker_penalty,
    frequency_loss,
    l1_loss,
    match_brightness,
    ms_ssim_loss,
    residual_penalty,
    ssim_loss,
    total_loss,
)
from mirnet_edge.training.recipe import TrainingRecipe


def _images(size=(24, 40), seed=0):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(2, 3, *size, generator=generator)
    noise = torch.randn(reference.shape, generator=generator)
    return (reference + 0.1 * noise).clamp(0, 1), reference


def _impulse(height=16, width=24, value=0.5):
    image = torch.zeros(1, 1, height, width)
    image[..., height // 2, width // 2] = value
    return image


def test_charbonnier_is_the_formula():
    one, two = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.2]])
    expected = ((0.4**2 + 0.01**2) ** 0.5 + 0.01) / 2
    assert torch.isclose(charbonnier_loss(one, two, epsilon=0.01), torch.tensor(expected))


def test_charbonnier_is_symmetric_and_grows_with_distance():
    one, near, far = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4) * 0.01, torch.ones(2, 3, 4, 4)
    assert charbonnier_loss(one, one + near) == charbonnier_loss(one + near, one)
    assert charbonnier_loss(one, one + near) < charbonnier_loss(one, one + far)


def test_the_absolute_distance_is_the_mean_of_differences():
    one, two = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.3]])
    assert float(l1_loss(one, two)) == pytest.approx((0.4 + 0.1) / 2)
    assert float(l1_loss(one, one)) == 0.0


def test_edges_see_an_impulse_as_the_laplacian_does():
    value = 0.5
    inside = (16 - 2) * (24 - 2)  # where the 3x3 kernel lies in the image
    floor = 1e-3
    expected = (
        math.hypot(4 * value, floor) + 4 * math.hypot(value, floor) + (inside - 5) * floor
    ) / inside
    found = edge_loss(_impulse(value=value), torch.zeros(1, 1, 16, 24))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_edges_do_not_see_what_is_flat_or_a_ramp():
    reference = _images()[1]
    ramp = torch.linspace(0, 1, 40) + torch.linspace(0, 1, 24)[:, None]
    for smooth in (torch.tensor(0.3), ramp):
        # what is left is the constant under Charbonnier's root
        assert float(edge_loss(reference + smooth, reference)) == pytest.approx(1e-3, rel=1e-2)
    restored, reference = _images()
    assert float(edge_loss(restored, reference)) > 0.1


def test_edges_keep_the_channels_apart():
    red = torch.zeros(1, 3, 16, 24)
    red[:, :1] = _impulse()
    alone = edge_loss(_impulse(), torch.zeros(1, 1, 16, 24))
    assert float(edge_loss(red, torch.zeros_like(red))) == pytest.approx((float(alone) + 2e-3) / 3)


def test_frequencies_share_an_impulse_equally():
    impulse = torch.zeros(1, 1, 16, 24)
    impulse[..., 0, 0] = 0.5
    # each coefficient is the impulse / sqrt(pixels), all of it real
    expected = 0.5 / math.sqrt(16 * 24) / 2
    found = frequency_loss(impulse, torch.zeros_like(impulse))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_frequencies_put_a_constant_into_one_coefficient():
    flat = torch.full((1, 1, 16, 24), 0.5)
    expected = 0.5 * math.sqrt(16 * 24) / (2 * 16 * (24 // 2 + 1))
    assert float(frequency_loss(flat, torch.zeros_like(flat))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [(16, 24), (64, 64), (128, 96)])
def test_frequencies_of_noise_are_as_strong_as_the_noise_at_every_size(size):
    noise = 0.1 * torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    # Parseval: real and imaginary parts have half the variance each; |x| of a Gaussian follows
    expected = 0.1 / math.sqrt(2.0) * math.sqrt(2.0 / math.pi)
    assert float(frequency_loss(noise, torch.zeros_like(noise))) == pytest.approx(
        expected, rel=0.05
    )


def test_structural_dissimilarity_is_one_minus_the_metric():
    restored, reference = _images()
    measured = ssim(*(one.permute(0, 2, 3, 1).numpy() for one in (restored, reference)))
    found = ssim_loss(restored, reference)
    assert float(found) == pytest.approx(1.0 - np.mean(measured), abs=1e-5)


def _halved(image):
    """Return (H, W, 3) at half the size: the mean of every four pixels."""
    height, width = (side // 2 for side in image.shape[:2])
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))


def _paper_ms_ssim(one, two, exponents):
    """Wang et al., 2003, equation 7, of one channel each, by SciPy's convolution."""
    place = np.arange(11) - 5
    window = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def under_window(image):
        return convolve(image, window[..., None])[5:-5, 5:-5]

    product = np.ones(3)
    for scale, exponent in enumerate(exponents):
        mean_1, mean_2 = under_window(one), under_window(two)
        variance_1, variance_2 = (
            under_window(image**2) - mean**2 for image, mean in ((one, mean_1), (two, mean_2))
        )
        covariance = under_window(one * two) - mean_1 * mean_2
        alike = (2 * covariance + 0.03**2) / (variance_1 + variance_2 + 0.03**2)
        if scale == len(exponents) - 1:
            alike = alike * (2 * mean_1 * mean_2 + 1e-4) / (mean_1**2 + mean_2**2 + 1e-4)
        product = product * alike.mean((0, 1)) ** exponent
        one, two = _halved(one), _halved(two)
    return product.mean()


@pytest.mark.parametrize(
    ("size", "exponents"),
    [
        ((176, 190), (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)),
        ((175, 300), tuple(np.array([0.0448, 0.2856, 0.3001, 0.2363]) / 0.8668)),
        ((21, 40), (1.0,)),
    ],
    ids=["five scales", "four", "one"],
)
def test_multiscale_dissimilarity_is_one_minus_the_paper_s(size, exponents):
    restored, reference = (one[:1].double() for one in _images(size))
    expected = _paper_ms_ssim(
        *(one[0].permute(1, 2, 0).numpy() for one in (restored, reference)), exponents
    )
    assert 0.1 < expected < 0.999
    found = ms_ssim_loss(restored, reference)
    assert float(found) == pytest.approx(1.0 - expected, abs=1e-5)


def test_structure_turned_upside_down_counts_as_none_and_still_teaches():
    reference = _images((48, 48))[1]
    restored = (1.0 - reference).requires_grad_()
    found = ms_ssim_loss(restored, reference)
    assert 0.99 < float(found.detach()) <= 1.0
    found.backward()
    assert torch.isfinite(restored.grad).all()


@pytest.mark.parametrize(
    "measure",
    [ssim_loss, ms_ssim_loss, edge_loss, frequency_loss, l1_loss],
)
def test_of_equals_nothing_is_left_and_others_have_a_gradient(measure):
    restored, reference = _images()
    assert float(measure(reference, reference)) == pytest.approx(0.0, abs=2e-3)
    restored.requires_grad_()
    measure(restored, reference).backward()
    assert torch.isfinite(restored.grad).all()
    assert restored.grad.abs().max() > 0.0


@pytest.mark.parametrize(
    ("pixel_loss", "measure"), [("charbonnier", charbonnier_loss), ("l1", l1_loss)]
)
def test_the_total_is_the_weighted_sum(pixel_loss, measure):
    pair = _images()
    assert torch.equal(total_loss(*pair, TrainingRecipe(pixel_loss=pixel_loss)), measure(*pair))
    recipe = TrainingRecipe(
        pixel_loss=pixel_loss,
        ssim_weight=0.1,
        ms_ssim_weight=0.3,
        edge_weight=0.05,
        frequency_weight=0.02,
    )
    expected = (
        measure(*pair)
        + 0.1 * ssim_loss(*pair)
        + 0.3 * ms_ssim_loss(*pair)
        + 0.05 * edge_loss(*pair)
        + 0.02 * frequency_loss(*pair)
    )
    assert torch.allclose(total_loss(*pair, recipe), expected)


def test_the_color_loss_grows_with_dullness_and_ignores_where_colors_are():
    _, reference = _images()
    gray = reference.mean(1, keepdim=True)
    losses = [
        float(color_loss(gray + kept * (reference - gray), reference)) for kept in (1, 0.8, 0.4)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 1e-6 < losses[1]
    assert float(color_loss(reference.flip(3), reference)) == pytest.approx(0.0, abs=1e-6)
    assert float(color_loss(0.5 * reference, reference)) > 0.01


def test_the_color_loss_of_regions_sees_where_colors_are():
    reference = torch.full((1, 3, 32, 32), 0.5)
    reference[:, 0, :16, :16] = 0.9
    moved = reference.roll(16, 3)
    assert float(color_loss(moved, reference)) == pytest.approx(0.0, abs=1e-6)
    assert float(color_loss(moved, reference, region=16)) > 0.05
    recipe = TrainingRecipe(color_weight=0.5, color_region=16)
    seen = total_loss(moved, reference, recipe) - total_loss(
        moved, reference, replace(recipe, color_region=0)
    )
    assert float(seen) > 0.02


def test_equal_brightness_hides_a_wrong_exposure_and_nothing_else():
    restored, reference = _images()
    half = TrainingRecipe(ssim_weight=0.1)
    blind = TrainingRecipe(ssim_weight=0.1, equal_brightness_fraction=1.0)
    assert torch.allclose(match_brightness(0.5 * reference, reference), reference, atol=1e-5)
    dark = float(total_loss(0.5 * reference, reference, blind))
    assert dark == pytest.approx(float(total_loss(reference, reference, half)), abs=1e-4)
    assert float(total_loss(0.5 * reference, reference, half)) > 10 * dark
    assert float(total_loss(restored, reference, blind)) == pytest.approx(
        float(total_loss(match_brightness(restored, reference), reference, half))
    )


def test_equal_brightness_of_a_black_image_stays_finite():
    black = torch.zeros(1, 3, 16, 16, requires_grad=True)
    recipe = TrainingRecipe(equal_brightness_fraction=0.5, color_weight=0.5)
    total_loss(black, torch.rand(1, 3, 16, 16), recipe).backward()
    assert torch.isfinite(black.grad).all()


def test_a_residual_is_penalized_beyond_its_limit_only():
    residual = torch.tensor([[[[-0.7, 0.5, 0.2, 0.9]]]])
    assert float(residual_penalty(residual, 0.5)) == pytest.approx((0.2 + 0.4) / 4)
    assert float(residual_penalty(residual, 1.0)) == 0.0


def test_flicker_is_the_difference_of_blocks_relative_to_their_light():
    batch = torch.full((4, 3, 32, 48), 0.5)
    assert float(flicker_penalty(batch)) == 0.0
    batch[2, :, :16, :16] += 0.02  # one block of six, in the second of the first scene
    expected = 0.02 / (0.51 + 0.02) / 12
    assert float(flicker_penalty(batch)) == pytest.approx(expected, rel=1e-3)
    dark = batch - 0.4
    assert float(flicker_penalty(dark)) > 3 * expected
    fine = torch.zeros(2, 3, 16, 16) + 0.5
    fine[1, ..., ::2] += 0.1  # what averages out within a block is no flicker
    fine[1, ..., 1::2] -= 0.1
    assert float(flicker_penalty(fine)) == pytest.approx(0.0, abs=1e-6)


def test_a_color_that_changes_at_equal_luma_is_flicker_too():
    batch = torch.full((2, 3, 16, 16), 0.5)
    batch[1] += torch.tensor([0.114, 0.0, -0.299])[:, None, None] / 4.0  # the luma stays
    expected = (0.114 + 0.299) / 4.0 / 3.0 / (0.5 + 0.02)
    assert float(flicker_penalty(batch)) == pytest.approx(expected, rel=1e-3)
