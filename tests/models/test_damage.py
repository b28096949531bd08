"""The damage branch: what filling does to pixels, and that the loss alone teaches the mask."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.models.damage import FILL_LEVELS, fill_damage
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import FrameInterface, to_inference_form

CONFIG = MIRNetEdgeConfig(
    channels=(8, 12, 16), stem=2, exposure_channels=4, light=True, damage_channels=4
)


def _randomized():
    torch.manual_seed(0)
    network = MIRNetEdge(CONFIG).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network


def _line_mask(width=4):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 30 : 30 + width] = 1.0
    return mask


def test_without_a_mask_every_pixel_stays():
    batch = torch.rand(2, 3, 32, 48)
    filled = fill_damage(batch, torch.zeros(2, 1, 32, 48))
    assert torch.allclose(filled, batch, atol=1e-6)


def test_pixels_outside_the_mask_stay_and_the_values_under_it_do_not_matter():
    batch, mask = torch.rand(1, 3, 64, 64), _line_mask()
    filled = fill_damage(batch, mask)
    outside = mask.expand_as(batch) == 0
    assert torch.allclose(filled[outside], batch[outside], atol=1e-6)
    other = torch.where(mask > 0, torch.rand_like(batch), batch)
    assert torch.allclose(fill_damage(other, mask), filled, atol=1e-6)


@pytest.mark.parametrize("width", [1, 4, 12, 24])
def test_a_scratch_on_a_ramp_is_filled_from_both_sides(width):
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)
    scratched = torch.where(_line_mask(width) > 0, torch.ones(()), ramp)
    before = (scratched - ramp).abs().amax()
    filled = fill_damage(scratched, _line_mask(width))
    assert (filled - ramp).abs().amax() < 0.3 * before


def test_an_area_without_any_pixel_left_is_filled_from_further_away():
    batch = torch.full((1, 3, 96, 96), 0.5)
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 28:68, 28:68] = 1.0  # more than two of the coarsest cells
    filled = fill_damage(torch.where(mask > 0, torch.ones(()), batch), mask)
    assert (filled - 0.5).abs().amax() < 0.05


def test_the_loss_closes_a_mask_that_hides_what_is_right_and_keeps_one_on_a_scratch():
    clean = torch.rand(1, 3, 16, 16).repeat_interleave(4, 2).repeat_interleave(4, 3)
    scratched = torch.where(_line_mask() > 0, torch.ones(()), clean)
    mask = (0.1 + 0.8 * _line_mask()).requires_grad_()
    (fill_damage(scratched, mask) - clean).abs().sum().backward()
    # a step of gradient descent raises the mask where the gradient is negative
    assert mask.grad[..., 31:33].mean() < -0.1
    assert mask.grad[..., :24].mean() > 0.0


def test_frames_are_multiples_of_the_coarsest_level():
    assert MIRNetEdge(CONFIG).multiple == 2**FILL_LEVELS


def test_the_mask_reaches_the_stem_and_the_filled_frame_the_head():
    network, batch = _randomized(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = network(batch)
        network.damage.leave.bias.fill_(-20.0)  # nothing is damaged
        assert not torch.allclose(network(batch), before, atol=1e-3)


def test_the_inference_form_and_the_graph_compute_the_same(tmp_path):
    network = _randomized()
    batch = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        expected = network(batch)
        assert torch.allclose(to_inference_form(network)(batch), expected, atol=1e-5)
    frames = (batch * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    deployed, graph = to_inference_form(network), tmp_path / "a.onnx"
    export_onnx(deployed, graph, io="uint8", size=(48, 64), multiple=network.multiple)
    with torch.no_grad():
        in_torch = FrameInterface(deployed, "uint8")(frames).numpy().astype(int)
    session = onnxruntime.InferenceSession(graph)
    in_onnx = session.run(None, {session.get_inputs()[0].name: frames.numpy()})[0]
    assert np.abs(in_onnx.astype(int) - in_torch).max() <= 1
