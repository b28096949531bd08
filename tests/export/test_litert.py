"""Bundles with LiteRT models. The conversion itself runs where `litert-torch` is installed."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.dependencies import available
from mirnet_edge.errors import GraphError, MissingDependencyError, OptionError
from mirnet_edge.export import litert, litert_models
from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.litert_models import make_litert_models
from mirnet_edge.export.workspace import ExportOptions, SamplePlan
from mirnet_edge.manifest import (
    ContextVector,
    ImageContract,
    RejectionReason,
    read_manifest,
)
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


def _workspace(folder, *, image=None, timing_s=math.inf, **options):
    """Return what `make_litert_models` reads of an export without --size."""
    return SimpleNamespace(
        options=ExportOptions(out=folder, **options),
        image=image or ImageContract(io="uint8", multiple=16, size=None),
        plan=SamplePlan(timing_s=timing_s),
        path=folder.joinpath,
    )


_VECTORS = (ContextVector(name="pool", size=8),)


@pytest.mark.parametrize(
    ("how", "installed", "says"),
    [
        ({}, False, r'pip install "mirnet-edge\[litert-export\]"'),
        (
            {"image": ImageContract(io="uint8", multiple=16, size=None, vectors=_VECTORS)},
            True,
            "export without --anchored",
        ),
        ({"timing_s": 45.0}, True, "the network is heavy; --format litert --size"),
    ],
    ids=["not installed", "anchored", "heavy"],
)
def test_all_targets_tell_in_one_line_why_litert_is_left_out(
    how, installed, says, tmp_path, monkeypatch
):
    monkeypatch.setattr(litert_models, "available", lambda name: installed)
    made = make_litert_models(_workspace(tmp_path, **how))
    assert made.files == []
    assert not made.have_own_size
    assert "\n" not in made.omitted
    assert re.search(says, made.omitted)


def test_other_targets_want_no_litert(tmp_path):
    made = make_litert_models(_workspace(tmp_path, target="cpu"))
    assert (made.files, made.omitted) == ([], None)


@pytest.mark.parametrize("asked", [False, True], ids=["all targets", "--format litert"])
def test_a_network_that_cannot_be_converted_ends_the_export_only_where_it_was_asked_for(
    asked, tmp_path, monkeypatch
):
    def fail(workspace, sized):
        workspace.path("litert-fp32.tflite").write_bytes(b"half of it")
        raise GraphError("no such operator")

    monkeypatch.setattr(litert_models, "available", lambda name: True)
    monkeypatch.setattr(litert_models, "_write_models", fail)
    image = ImageContract(io="uint8", multiple=16, size=SIZE)
    workspace = _workspace(tmp_path, image=image, litert=asked, size=SIZE)
    if asked:
        with pytest.raises(GraphError, match="no such operator"):
            make_litert_models(workspace)
        return
    assert make_litert_models(workspace).omitted == "no such operator"
    assert not list(tmp_path.iterdir())


def test_a_tensor_without_a_range_is_told_from_one_that_was_not_seen():
    ranges = {
        "dead": {"min": np.zeros((1, 1)), "max": np.zeros((1, 1))},
        "alive": {"min": np.zeros((1, 1)), "max": np.array([[0.25]])},
    }
    found = [litert._is_zero(ranges, name) for name in ("dead", "alive", "unseen")]
    assert found == [True, False, False]


def _save(network, tmp_path):
    """Write weights and nine dark images; return the options of an export of them."""
    from mirnet_edge import checkpoints
    from mirnet_edge.checkpoints import ModelCard

    weights = tmp_path / "weights.safetensors"
    checkpoints.save(network, weights, ModelCard(task="low-light"))
    return {"weights": str(weights), "calibration": tmp_path / "images", "int8": True}


@pytest.fixture
def network(smooth_frames, tmp_path):
    from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig

    images = tmp_path / "images"
    images.mkdir()
    for place, frame in enumerate(smooth_frames(*SIZE, count=9)):
        Image.fromarray(frame // 2).save(images / f"{place}.png")
    torch.manual_seed(0)
    return MIRNetEdge(MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4)).eval()


def _compare_with_onnx(bundle):
    """Assert that the fp32 model gives what ONNX Runtime gives, within a level."""
    manifest = read_manifest(bundle)
    frames = np.random.default_rng(0).integers(
        0, 90, (1, *manifest.image_of("litert-fp32").size, 3), np.uint8
    )
    with open_bundle(bundle, "litert", "fp32") as one:
        restored = one.run(frames)
    with open_bundle(bundle, "onnxruntime", "fp32") as two:
        expected = two.run(frames)
    assert np.abs(restored.astype(int) - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available("litert_torch"), reason="needs litert-torch")
def test_all_targets_have_litert_models_of_the_timed_size_with_verdicts(network, tmp_path):
    """One block of the network is dead: its convolutions have no range to quantize with."""
    stream = next(one for one in network.modules() if type(one).__name__ == "DualAttentionBlock")
    with torch.no_grad():
        first = next(one for one in stream.modules() if isinstance(one, torch.nn.Conv2d))
        first.weight.zero_()
        first.bias.fill_(-1.0)
    exported = export_bundle(ExportOptions(out=tmp_path / "bundle", **_save(network, tmp_path)))
    manifest = read_manifest(exported.bundle)
    found = {one.name: one for one in manifest.configurations if one.backend == "litert"}
    assert set(found) == {"litert:fp32", "litert:int8"}
    for one in found.values():
        assert manifest.image_of(one.graph).size == (480, 640)
        assert one.rejection is None or one.rejection.reason is not RejectionReason.UNSUPPORTED
        assert one.latency
    assert not exported.omitted
    assert not any(name.startswith("litert") for name in exported.rejected)
    assert not manifest.default_configuration.startswith("litert")
    _compare_with_onnx(exported.bundle)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available("litert_torch"), reason="needs litert-torch")
def test_every_precision_goes_through_the_gate(network, tmp_path):
    from mirnet_edge.export.litert import list_pixel_convolutions

    options = _save(network, tmp_path)
    bundle = export_bundle(
        ExportOptions(
            out=tmp_path / "bundle", size=SIZE, target="cpu", fp16=True, litert=True, **options
        )
    )
    found = {one.name: one for one in bundle.manifest.configurations}
    assert {"litert:fp32", "litert:fp16", "litert:int8"} <= set(found)
    assert all(one.latency for name, one in found.items() if name.startswith("litert"))
    fp32 = (bundle.bundle / "litert-fp32.tflite").read_bytes()
    # 6 in the streams, 3 attention maps, 4 between the streams, stem and both parts of the head
    assert len(list_pixel_convolutions(fp32)) == 16
    _compare_with_onnx(bundle.bundle)
