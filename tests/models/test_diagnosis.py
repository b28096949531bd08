"""The fixed layers of the diagnosis network: what they tell apart without any weights."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.models.diagnosis import (
    SPECTRUM,
    TONES,
    DiagnosisConfig,
    DiagnosisNetwork,
    FrameStatistics,
)


def _scene(seed=0):
    colors = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(colors, size=(96, 96), mode="bilinear")


def _tones(colors):
    overview = torch.cat([colors, torch.zeros(1, 2, 96, 96)], 1)
    return FrameStatistics()(overview, torch.rand(1, 6, 3, 64, 64))[1][0]


def test_statistics_have_their_sizes_and_are_finite_for_a_frame_of_one_color():
    for level in (0.0, 0.5, 1.0):
        overview, crops = torch.full((2, 5, 96, 96), level), torch.full((2, 6, 3, 64, 64), level)
        spectrum, tones = FrameStatistics()(overview, crops)
        assert spectrum.shape == (2, 6, SPECTRUM)
        assert tones.shape == (2, TONES)
        assert spectrum.isfinite().all()
        assert tones.isfinite().all()


def test_one_color_for_each_brightness_is_told_from_a_scene_of_that_color():
    """The last two features of each color difference: its spread within a tone and in all."""
    scene = _scene()
    gray = scene.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    sepia = gray * torch.tensor([1.0, 0.88, 0.68]).view(1, 3, 1, 1)
    within = [_tones(colors)[[TONES - 12, TONES - 2]].mean() for colors in (scene, sepia, gray)]
    assert within[0] - within[1] > 1.5
    assert within[1] >= within[2]


def test_blacks_that_are_gray_are_seen_in_the_quantiles():
    scene = _scene()
    difference = (_tones(0.2 + 0.6 * scene) - _tones(scene)).abs()
    assert difference[32:65].max() > 0.7  # the logarithm of a channel's black level


@pytest.mark.parametrize("frames", [1, 3])
def test_a_network_scores_frames_apart(frames):
    torch.manual_seed(0)
    network = DiagnosisNetwork(DiagnosisConfig(overview_channels=(4, 8), crop_channels=8)).eval()
    overview, crops = torch.rand(frames, 5, 96, 96), torch.rand(frames, 6, 3, 64, 64)
    with torch.inference_mode():
        logits, sigma = network(overview, crops)
        last = network(overview[-1:], crops[-1:])
    assert logits.shape == (frames, 5)
    assert torch.allclose(logits[-1:], last[0], atol=1e-5)
    assert torch.allclose(sigma[-1:], last[1], rtol=1e-4)
