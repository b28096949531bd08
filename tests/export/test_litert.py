"""Bundles with LiteRT models. The conversion itself runs where `litert-torch` is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.dependencies import available
from mirnet_edge.errors import MissingDependencyError, OptionError
from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.workspace import ExportOptions
from mirnet_edge.runtime.bundle import open_bundle

SIZE = (96, 128)


@pytest.mark.parametrize(
    ("options", "found"),
    [({"size": None}, "any size"), ({"size": SIZE, "anchored": True}, "--anchored")],
    ids=["any size", "anchored"],
)
def test_models_have_one_size_and_take_frames_alone(options, found, tmp_path):
    with pytest.raises(OptionError, match=f"found {found}; give --size"):
        ExportOptions(out=tmp_path / "bundle", litert=True, **options)


def test_without_the_converter_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("mirnet_edge.export.job.available", lambda name: name != "litert_torch")
    options = ExportOptions(out=tmp_path / "bundle", litert=True, size=SIZE)
    with pytest.raises(MissingDependencyError, match=r"mirnet-edge\[litert-export\]"):
        export_bundle(options)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available("litert_torch"), reason="needs litert-torch")
def test_every_precision_goes_through_the_gate(smooth_frames, tmp_path):
    from mirnet_edge import checkpoints
    from mirnet_edge.checkpoints import ModelCard
    from mirnet_edge.export.litert import list_pixel_convolutions
    from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig

    images = tmp_path / "images"
    images.mkdir()
    for place, frame in enumerate(smooth_frames(*SIZE, count=9)):
        Image.fromarray(frame // 2).save(images / f"{place}.png")
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4)).eval()
    checkpoints.save(network, weights, ModelCard(task="low-light"))
    bundle = export_bundle(
        ExportOptions(
            weights=str(weights), out=tmp_path / "bundle", size=SIZE, target="cpu", fp16=True,
            int8=True, calibration=images, litert=True,
        )
    )  # fmt: skip
    found = {one.name: one for one in bundle.manifest.configurations}
    assert {"litert:fp32", "litert:fp16", "litert:int8"} <= set(found)
    assert all(one.latency for name, one in found.items() if name.startswith("litert"))
    fp32 = (bundle.bundle / "litert-fp32.tflite").read_bytes()
    # 6 in the streams, 3 attention maps, 4 between the streams, stem and both parts of the head
    assert len(list_pixel_convolutions(fp32)) == 16
    frames = np.random.default_rng(0).integers(0, 90, (1, *SIZE, 3), np.uint8)
    with open_bundle(bundle.bundle, "litert", "fp32") as one:
        restored = one.run(frames)
    with open_bundle(bundle.bundle, "onnxruntime", "fp32") as two:
        expected = two.run(frames)
    assert np.abs(restored.astype(int) - expected).max() <= 1
