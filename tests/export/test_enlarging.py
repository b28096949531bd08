"""From weights that enlarge to a bundle that does; and which images each task is evaluated on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import mirnet_edge
from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.errors import CalibrationError
from mirnet_edge.export import analysis, sensitivity, workspace
from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.workspace import ExportOptions
from mirnet_edge.images.contract import batch_from_frames
from mirnet_edge.manifest import ImageContract, read_manifest
from mirnet_edge.metrics import psnr
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.quantization.ptq import outliers_of

_ASKED, _SIZE = (22, 39), (24, 40)
"""What is asked for, and the next multiples of 8."""


@pytest.fixture(scope="module")
def weights(network_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("enlarging") / "twice.safetensors"
    checkpoints.save(network_of("enlarging"), path, ModelCard(task="super-resolution"))
    return path


@pytest.fixture(scope="module")
def pairs(smooth_frames, tmp_path_factory):
    """Return a folder of images and of their originals, twice as large."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["low,high,split"]
    for index, large in enumerate(smooth_frames(60, 90, 9)):
        height, width = (side // 2 for side in large.shape[:2])
        small = large.reshape(height, 2, width, 2, 3).mean((1, 3)).round().astype(np.uint8)
        for name, frame in (("low", small), ("high", large)):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(frame).save(folder / name / f"{index}.png")
        split = "val" if index < 3 else "train"
        rows.append(f"low/{index}.png,high/{index}.png,{split}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def exported(weights, pairs, tmp_path_factory):
    return export_bundle(
        ExportOptions(
            weights=str(weights),
            out=tmp_path_factory.mktemp("enlarging") / "bundle",
            int8=True,
            size=_ASKED,
            calibration=pairs,
        )
    )


def test_the_manifest_says_that_it_enlarges(exported):
    found = read_manifest(exported.bundle)
    assert found.image == ImageContract(io="uint8", multiple=8, size=_SIZE, scale=2)
    assert found.model.task == "super-resolution"
    assert found.model.config["scale"] == 2
    assert {graph.name for graph in found.graphs} == {"fp32", "int8-cpu", "int8-tensorrt"}
    assert exported.parity_db > 80.0


def test_accuracy_is_against_references_of_its_own_size(exported):
    found = read_manifest(exported.bundle)
    assert (found.gate.images, found.gate.references) == (3, 3)
    assert found.configurations
    assert all(one.against_truth is not None for one in found.configurations)
    int8 = next(one for one in found.configurations if one.name == "onnxruntime:int8")
    assert int8.against_fp32.mean_db > 30.0


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnxruntime", "fp32"), ("openvino", "fp32"), ("torch", "fp32"), ("onnxruntime", "int8")],
)
def test_every_backend_doubles_a_frame_as_the_network_does(
    backend, precision, exported, network_of, smooth_frames
):
    frames = smooth_frames(*_SIZE, 2)
    with torch.inference_mode():
        batch = network_of("enlarging")(torch.from_numpy(batch_from_frames(frames)))
    expected = 255.0 * batch.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 10, "the image is too flat to see anything"
    with mirnet_edge.open_bundle(exported.bundle, backend, precision) as runner:
        assert runner.scale == 2
        restored = runner.run(frames)
        odd = runner.run(frames[:1, :21, :37])
    assert restored.shape == (2, 2 * _SIZE[0], 2 * _SIZE[1], 3)
    assert odd.shape == (1, 42, 74, 3)
    if precision == "fp32":
        assert np.abs(restored - expected).max() <= 1
    else:
        assert psnr(restored, np.rint(expected).astype(np.uint8)).min() > 30.0


def test_torch_and_onnxruntime_agree_on_frames_that_are_padded(exported, smooth_frames):
    frames = smooth_frames(21, 37)
    restored = []
    for backend in ("torch", "onnxruntime"):
        with mirnet_edge.open_bundle(exported.bundle, backend, "fp32") as runner:
            restored.append(runner.run(frames).astype(int))
    assert restored[0].shape == (1, 42, 74, 3)
    assert np.abs(restored[0] - restored[1]).max() <= 1


def test_without_images_of_ones_own_the_built_in_ones_are_halved_photos(weights, tmp_path):
    out = export_bundle(
        ExportOptions(
            weights=str(weights), out=tmp_path / "bundle", size=_ASKED, io="float", target="cpu"
        )
    )
    assert out.manifest.gate.source == "built-in: scikit-image photos, super-resolution"
    assert out.manifest.gate.references == out.manifest.gate.images == 4
    assert out.manifest.image == ImageContract(io="float", multiple=8, size=_SIZE, scale=2)
    frame = np.full((1, 21, 37, 3), 99, np.uint8)
    with mirnet_edge.open_bundle(out.bundle) as runner:
        assert runner.run(frame).shape == (1, 42, 74, 3)


# which images


@pytest.fixture
def weights_for(tmp_path):
    def make(task, **settings):
        path = tmp_path / "own.safetensors"
        network = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), exposure_channels=0, **settings))
        checkpoints.save(network, path, ModelCard(task=task))
        return str(path)

    return make


class _Seen(Exception):  # noqa: N818  # it ends the export where enough was seen
    pass


@pytest.mark.parametrize(
    ("task", "evaluated_as"),
    [("low-light", "low-light"), ("denoise", "denoise"), ("old-photo", "old-photo"),
     ("unknown", "low-light")],
)  # fmt: skip
def test_the_cards_task_picks_the_built_in_set(
    task, evaluated_as, weights_for, tmp_path, monkeypatch
):
    def stop(found):
        raise _Seen(found)

    monkeypatch.setattr(workspace, "builtin_set", stop)
    with pytest.raises(_Seen, match=f"^{evaluated_as}$"):
        export_bundle(ExportOptions(weights=weights_for(task), out=tmp_path / "bundle"))


def test_a_task_without_a_set_needs_images_and_says_so(weights_for, tmp_path):
    out = tmp_path / "bundle"
    with pytest.raises(CalibrationError, match=r"task 'deblur'; expected one of .*--calibration"):
        export_bundle(ExportOptions(weights=weights_for("deblur"), out=out))
    assert not out.exists()


def test_references_of_another_scale_are_refused_before_the_work(weights_for, pairs, tmp_path):
    options = ExportOptions(
        weights=weights_for("super-resolution", stem=2, scale=4),
        out=tmp_path / "bundle",
        calibration=pairs,
    )
    stages = []
    with pytest.raises(CalibrationError, match=r"45x30 and its reference 90x60; expected 180x120"):
        export_bundle(options, on_stage=stages.append)
    assert "export fp32" not in stages


@pytest.mark.parametrize(
    ("task", "scale"), [("super-resolution", 1), ("super-resolution", 4), ("denoise", 2)]
)
def test_a_built_in_set_of_another_scale_is_refused_before_the_work(
    task, scale, weights_for, tmp_path
):
    def stop_at_work(stage):
        if stage == "export fp32":
            raise _Seen(stage)

    options = ExportOptions(weights=weights_for(task, stem=2, scale=scale), out=tmp_path / "bundle")
    with pytest.raises(CalibrationError, match="--calibration DIR"):
        export_bundle(options, on_stage=stop_at_work)


@pytest.mark.parametrize(
    ("config", "outliers"),
    [
        ({"scale": 2, "light": True, "exposure_channels": 0}, 1e-4),
        ({"light": True, "full_convolutions": True, "exposure_channels": 0}, 1e-4),
        ({"light": True, "full_convolutions": True}, 0.0),
        ({"light": True}, 0.0),
        ({"exposure_channels": 0}, 0.0),
    ],
)
def test_networks_that_only_add_a_residual_leave_outliers_out(config, outliers):
    assert outliers_of(MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), **config))) == outliers


@pytest.mark.parametrize("mixed", [True, False])
def test_searches_by_block_leave_the_same_outliers_out(
    mixed, weights_for, pairs, tmp_path, monkeypatch
):
    def stop(fp32, samples, backend, how, deliver=None):
        raise _Seen(how.outliers)

    monkeypatch.setattr(sensitivity, "quantize_all_blocks", stop)
    monkeypatch.setattr(analysis, "quantize_all_blocks", stop)
    weights = weights_for("super-resolution", stem=2, scale=2, light=True)
    options = {"weights": weights, "out": tmp_path / "out", "calibration": pairs}
    work, request = (
        (export_bundle, ExportOptions(**options, int8=True, mixed=True, size=_ASKED))
        if mixed
        else (analysis.analyze_sensitivity, analysis.SensitivityRequest(**options))
    )
    with pytest.raises(_Seen, match=r"^0\.0001$"):
        work(request)
