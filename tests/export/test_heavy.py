"""A heavy network is exported whole on cuts, and the bundle says which."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.export import workspace
from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.workspace import ExportOptions
from mirnet_edge.models import reach as reach_module

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # beside other programs


def test_a_heavy_network_is_calibrated_and_evaluated_on_cuts(tmp_path, network_of, monkeypatch):
    monkeypatch.setattr(workspace, "_AFFORDABLE_MACS", 0)
    monkeypatch.setattr(workspace, "_measure_seconds_per_pixel", lambda *network: 1e-4)
    monkeypatch.setattr(workspace, "_SMALLEST_CUT", 64)
    monkeypatch.setattr(reach_module, "measure_reach", lambda *network, **how: 20)
    weights, images = tmp_path / "heavy.safetensors", tmp_path / "images"
    checkpoints.save(network_of("edge"), weights, checkpoints.ModelCard(task="low-light"))
    images.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 60, (150, 140, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    stages = []
    options = ExportOptions(
        weights=str(weights), calibration=images, out=tmp_path / "bundle", int8=True, target="cpu"
    )
    made = export_bundle(options, stages.append).manifest
    assert "quantize for CPUs on 24 cuts of 6 images" in stages
    assert made.calibration.images == 6
    assert (made.gate.crop, made.gate.reach, made.gate.images) == ((96, 96), 20, 2)
    timed = [one.latency for one in made.configurations if one.latency is not None]
    assert {(one.height, one.width) for one in timed} == {(64, 64)}
    assert any(one.precision == "int8" for one in made.configurations)
