"""Heavy networks are evaluated on smaller cuts; light ones on whole images."""

from __future__ import annotations

import numpy as np

from mirnet_edge.calibration.sets import CalibrationSample, CalibrationSet
from mirnet_edge.checkpoints import LoadedCheckpoint, ModelCard
from mirnet_edge.export.workspace import fit_calibration_set, make_timing_frame
from mirnet_edge.manifest import ImageContract
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNet


def _loaded(model, architecture):
    return LoadedCheckpoint(
        model=model, architecture=architecture, card=ModelCard(), notice=None, sha256=""
    )


def _set(height, width):
    frame = np.zeros((height, width, 3), np.uint8)
    return CalibrationSet(
        (CalibrationSample("a", frame, None),), (CalibrationSample("b", frame, frame),), "", "", ""
    )


def test_light_networks_see_whole_images_up_to_the_limit():
    edge = _loaded(MIRNetEdge(), "edge")
    contract = ImageContract(io="uint8", multiple=16, size=None)
    seen = fit_calibration_set(_set(500, 2000), contract, edge)
    assert seen.evaluation[0].frame.shape == (500, 1280, 3)
    assert seen.evaluation[0].reference.shape == (500, 1280, 3)
    assert make_timing_frame(seen, contract, edge).shape == (1, 480, 640, 3)


def test_the_full_network_sees_cuts_it_can_afford():
    full = _loaded(MIRNet(), "mirnet")
    contract = ImageContract(io="uint8", multiple=4, size=None)
    seen = fit_calibration_set(_set(960, 1280), contract, full)
    height, width = seen.calibration[0].frame.shape[:2]
    # 479 GMACs at 256x256: a quarter of that is 128x128
    assert 128 * 128 <= height * width <= 160 * 160
    assert make_timing_frame(seen, contract, full).shape[1:3] == (128, 152)


def test_a_fixed_size_is_kept_whatever_it_costs():
    contract = ImageContract(io="uint8", multiple=4, size=(320, 480))
    full = _loaded(MIRNet(), "mirnet")
    seen = fit_calibration_set(_set(64, 64), contract, full)
    assert seen.evaluation[0].frame.shape == (320, 480, 3)
    assert make_timing_frame(seen, contract, full).shape == (1, 320, 480, 3)


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
    (seen,) = fit_calibration_set(images, contract, twice).evaluation
    assert seen.frame.shape == (960, 1280, 3)
    assert seen.reference.shape == (1920, 2560, 3)
    contract = contract.model_copy(update={"size": (32, 48)})
    fixed = fit_calibration_set(images, contract, twice)
    assert fixed.evaluation[0].reference.shape == (64, 96, 3)
    assert make_timing_frame(fixed, contract, twice).shape == (1, 32, 48, 3)
