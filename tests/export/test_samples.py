"""Heavy networks are evaluated on smaller cuts; light ones on whole images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirnet_edge.calibration.sets import CalibrationSample, CalibrationSet
from mirnet_edge.checkpoints import LoadedCheckpoint, ModelCard
from mirnet_edge.export import workspace
from mirnet_edge.export.workspace import (
    fit_calibration_set,
    make_timing_frame,
    plan_samples,
)
from mirnet_edge.manifest import ImageContract
from mirnet_edge.models import reach as reach_module
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.keras_mirnet import KerasMIRNet, KerasMIRNetConfig
from mirnet_edge.models.memory import convolution_bytes
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig


def _loaded(model, architecture):
    return LoadedCheckpoint(
        model=model, architecture=architecture, card=ModelCard(), notice=None, sha256=""
    )


def _set(height, width, count=1):
    frame = np.zeros((height, width, 3), np.uint8)
    return CalibrationSet(
        (CalibrationSample("a", frame, None),) * count,
        (CalibrationSample("b", frame, frame),) * count,
        "", "", "",
    )  # fmt: skip


def test_light_networks_see_whole_images_up_to_the_limit():
    edge = _loaded(MIRNetEdge(), "edge")
    contract = ImageContract(io="uint8", multiple=16, size=None)
    plan = plan_samples(edge, contract, _set(500, 2000))
    seen = fit_calibration_set(_set(500, 2000), contract, plan)
    assert seen.evaluation[0].frame.shape == (500, 1280, 3)
    assert seen.evaluation[0].reference.shape == (500, 1280, 3)
    assert make_timing_frame(seen, contract, plan).shape == (1, 480, 640, 3)


@pytest.mark.parametrize(
    ("pixels_per_s", "reach", "side", "counts"),
    [
        # 60 s for calibration and 40 s for evaluation, of squares of 80 and of `side`
        (16_384, 20, 128, (40, 40)),
        (16_384, 50, 160, (40, 25)),
        (16_384, 160, 256, (40, 10)),
        (2_048, 20, 128, (19, 5)),
        (2_048, 160, 128, (19, 5)),  # 4 images of 143x143 would take the 40 s
        (16_384_000, 50, 160, (4 * 40, 40)),
    ],
    ids=["short sight", "reach", "far", "slow", "slow and far", "fast"],
)
def test_a_heavy_network_sees_as_many_cuts_as_it_can_afford(
    monkeypatch, pixels_per_s, reach, side, counts
):
    monkeypatch.setattr(workspace, "_measure_seconds_per_pixel", lambda *network: 1 / pixels_per_s)
    monkeypatch.setattr(reach_module, "measure_reach", lambda *network, **how: reach)
    contract = ImageContract(io="uint8", multiple=4, size=None)
    images = _set(300, 400, count=40)
    plan = plan_samples(_loaded(MIRNet(), "mirnet"), contract, images)
    seen = fit_calibration_set(images, contract, plan)
    assert {one.frame.shape for one in seen.calibration} == {(80, 80, 3)}
    assert {one.frame.shape for one in seen.evaluation} == {(side, side, 3)}
    assert (len(seen.calibration), len(seen.evaluation)) == counts
    assert plan.reach == reach
    assert plan.timing_s < 60
    assert make_timing_frame(seen, contract, plan).shape == (1, 128, 128, 3)


@pytest.mark.parametrize(
    ("network", "side"),
    [
        (MIRNet(), 80),
        (KerasMIRNet(KerasMIRNetConfig(variant="2021")), 64),
        (KerasMIRNet(KerasMIRNetConfig(variant="2023")), 64),
        (MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1)), 128),
    ],
    ids=["authors", "2021", "2023", "narrow"],
)
def test_a_quantizer_holds_a_bounded_part_of_the_memory(network, side, monkeypatch):
    monkeypatch.setattr(workspace, "_AFFORDABLE_MACS", 0)
    monkeypatch.setattr(workspace, "_measure_seconds_per_pixel", lambda *network: 1e-5)
    monkeypatch.setattr(reach_module, "measure_reach", lambda *network, **how: 20)
    contract = ImageContract(io="uint8", multiple=4, size=None)
    plan = plan_samples(_loaded(network, ""), contract, _set(300, 400))
    assert plan.largest_calibration == (side, side)
    batch = torch.zeros(1, 3, side, side, device="meta")
    held = convolution_bytes(to_inference_form(network), batch)
    assert held <= workspace._CALIBRATION_BYTES or side == workspace._SMALLEST_CALIBRATION_CUT


def test_the_cost_and_the_reach_are_measured():
    loaded = _loaded(MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1)), "mirnet")
    assert 0.0 < workspace._measure_seconds_per_pixel(loaded.model, 4) < 1e-3


def test_a_fixed_size_is_kept_whatever_it_costs(monkeypatch):
    monkeypatch.setattr(workspace, "_measure_seconds_per_pixel", lambda *network: 1e-4)
    contract = ImageContract(io="uint8", multiple=4, size=(320, 480))
    images = _set(64, 64, count=9)
    plan = plan_samples(_loaded(MIRNet(), "mirnet"), contract, images)
    seen = fit_calibration_set(images, contract, plan)
    assert seen.evaluation[0].frame.shape == (320, 480, 3)
    assert make_timing_frame(seen, contract, plan).shape == (1, 320, 480, 3)
    assert (len(seen.calibration), len(seen.evaluation)) == (6, 4)  # 15 s for each image


def test_references_that_are_larger_stay_as_much_larger():
    config = MIRNetEdgeConfig(channels=(8, 8, 8), stem=2, exposure_channels=0, scale=2)
    twice = _loaded(MIRNetEdge(config), "edge")
    frame, reference = (np.zeros((*size, 3), np.uint8) for size in ((990, 1400), (1980, 2800)))
    images = CalibrationSet(
        (CalibrationSample("a", frame, None),),
        (CalibrationSample("b", frame, reference),),
        "",
        "",
        "",
    )
    contract = ImageContract(io="uint8", multiple=8, size=None, scale=2)
    plan = plan_samples(twice, contract, images)
    (seen,) = fit_calibration_set(images, contract, plan).evaluation
    assert seen.frame.shape == (960, 1280, 3)
    assert seen.reference.shape == (1920, 2560, 3)
    contract = contract.model_copy(update={"size": (32, 48)})
    fixed = fit_calibration_set(images, contract, plan)
    assert fixed.evaluation[0].reference.shape == (64, 96, 3)
    assert make_timing_frame(fixed, contract, plan).shape == (1, 32, 48, 3)
