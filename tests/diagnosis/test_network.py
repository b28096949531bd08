"""The package's diagnosis network: its size, its file, and what it says of degraded photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirnet_edge.diagnosis import diagnose_frames
from mirnet_edge.diagnosis.network import GRAPH, score_views
from mirnet_edge.diagnosis.views import (
    CROP_SIDE,
    CROPS,
    OVERVIEW_CHANNELS,
    OVERVIEW_SIDE,
    FrameViews,
)
from mirnet_edge.errors import ImageError
from mirnet_edge.export.diagnosis import ViewsInterface, export_diagnosis
from mirnet_edge.models.diagnosis import DiagnosisNetwork
from mirnet_edge.training.diagnosis.job import load_diagnosis

WEIGHTS = GRAPH.with_name("weights.safetensors")


def test_the_network_is_within_its_budget():
    network = DiagnosisNetwork()
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    side = OVERVIEW_SIDE, OVERVIEW_SIDE
    network.eval()(
        torch.zeros(1, OVERVIEW_CHANNELS, *side), torch.zeros(1, CROPS, 3, CROP_SIDE, CROP_SIDE)
    )
    assert sum(one.numel() for one in network.parameters()) <= 300_000
    assert macs <= 60e6  # 5 ms on two cores of 12 GMAC/s
    assert GRAPH.stat().st_size + WEIGHTS.stat().st_size <= 2_000_000


def test_the_shipped_graph_computes_what_the_shipped_weights_do():
    generator = np.random.default_rng(0)
    views = FrameViews(
        generator.integers(0, 256, (3, OVERVIEW_SIDE, OVERVIEW_SIDE, OVERVIEW_CHANNELS), np.uint8),
        generator.integers(0, 256, (3, CROPS, CROP_SIDE, CROP_SIDE, 3), np.uint8),
    )
    scores, sigma = score_views(views)
    network = ViewsInterface(load_diagnosis(WEIGHTS)).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(views.overview), torch.from_numpy(views.crops))
    assert np.allclose(scores, expected[0].numpy(), atol=1e-4)
    assert np.allclose(sigma, expected[1].numpy(), rtol=1e-3)


def test_exporting_the_same_network_twice_gives_the_same_file(tmp_path):
    network = load_diagnosis(WEIGHTS)
    for name in ("one.onnx", "two.onnx"):
        export_diagnosis(network, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_a_clean_photo_is_fine(photos, name):
    found = diagnose_frames([photos[name]])
    assert found.top_label == "fine"
    assert found.tasks == ()


NOT_FOUND = {
    ("astronaut", "scratched"), ("chelsea", "scratched"), ("coffee", "scratched"),
    ("astronaut", "cracked"), ("chelsea", "cracked"), ("coffee", "cracked"),
    ("coffee", "small"), ("astronaut", "sepia"),
}  # fmt: skip
"""Thresholds keep daylight alone at the price of these; see docs/decisions/020-diagnosis.md."""


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize(
    ("kind", "label", "task"),
    [
        ("dark", "dark", "low-light"),
        ("noisy", "noisy", "denoise"),
        ("faded", "faded", "old-photo"),
        ("sepia", "faded", "old-photo"),
        ("scratched", "scratched", "old-photo"),
        ("cracked", "scratched", "old-photo"),
        ("blurred", "low-resolution", None),
        ("small", "low-resolution", "super-resolution"),
    ],
)
def test_a_degraded_photo_is_found(photos, degraded, name, kind, label, task, request):
    if (name, kind) in NOT_FOUND:  # a miss, which weights that find it turn into a failure
        miss = pytest.mark.xfail(reason="missed by the shipped weights", raises=AssertionError)
        request.applymarker(miss)
    found = diagnose_frames([degraded(name, kind)])
    assert label in found.labels
    assert found.tasks == (() if task is None else (task,))


def test_sigma_follows_the_noise(photos, degraded):
    assert diagnose_frames([degraded("coffee", "noisy")]).sigma == pytest.approx(18.0, rel=0.3)


def test_no_frame_is_refused():
    with pytest.raises(ImageError, match="at least one frame"):
        diagnose_frames([])
