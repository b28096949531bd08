"""Kits for Hailo and RKNN: what is in them, and their scripts with stand-ins for the compilers."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from mirnet_edge.errors import OptionError
from mirnet_edge.export.kits import KITS, to_opset, write_kit
from mirnet_edge.export.workspace import ExportOptions, open_workspace

# As the toolkits' documentation describes their calls. ONNX Runtime stands in for the simulators;
# ERROR is added to what they compute.
_HAILO = """
import contextlib, json, sys
from pathlib import Path
import numpy as np, onnxruntime
CALLS = []
class InferenceContext:
    SDK_QUANTIZED = "quantized"
class ClientRunner:
    def __init__(self, hw_arch):
        CALLS.append(["arch", hw_arch])
    def translate_onnx_model(self, path, name, net_input_shapes):
        self.path = path
        CALLS.append(["translate", net_input_shapes])
    def load_model_script(self, path):
        CALLS.append(["script", Path(path).read_text()])
    def optimize(self, images):
        CALLS.append(["optimize", list(images.shape), str(images.dtype), float(images.max())])
    def save_har(self, path):
        Path(path).write_bytes(b"har")
    @contextlib.contextmanager
    def infer_context(self, kind):
        yield kind
    def infer(self, context, images):
        session = onnxruntime.InferenceSession(self.path)
        batch = images.transpose(0, 3, 1, 2) / np.float32(255)  # the script's normalization
        found = np.concatenate([session.run(None, {"frames": one[None]})[0] for one in batch])
        return found.transpose(0, 2, 3, 1) + ERROR
    def compile(self):
        (Path(__file__).parent / "calls.json").write_text(json.dumps(CALLS))
        return b"hef"
"""
_RKNN = """
import json
from pathlib import Path
import numpy as np, onnxruntime
CALLS = []
class RKNN:
    def __init__(self, verbose):
        pass
    def config(self, **options):
        CALLS.append(["config", options])
    def load_onnx(self, path):
        self.path = path
        return 0
    def build(self, do_quantization, dataset):
        images = [np.load(line) for line in Path(dataset).read_text().split()]
        CALLS.append(["build", do_quantization, len(images), list(images[0].shape)])
        return 0
    def export_rknn(self, path):
        Path(path).write_bytes(b"rknn")
        return 0
    def init_runtime(self):
        return STATUS
    def inference(self, inputs, data_format):
        assert data_format == ["nhwc"]
        batch = inputs[0].transpose(0, 3, 1, 2).astype(np.float32) / 255
        return [onnxruntime.InferenceSession(self.path).run(None, {"frames": batch})[0] + ERROR]
    def release(self):
        (Path(__file__).parents[1] / "calls.json").write_text(json.dumps(CALLS))
"""


@pytest.fixture(scope="module")
def workspace(network_of, smooth_frames, tmp_path_factory):
    from mirnet_edge import checkpoints
    from mirnet_edge.checkpoints import ModelCard

    folder = tmp_path_factory.mktemp("kits")
    weights, images = folder / "small.safetensors", folder / "images"
    images.mkdir()
    checkpoints.save(network_of("edge"), weights, ModelCard(task="low-light"))
    for place, frame in enumerate(smooth_frames(32, 48, 8)):
        Image.fromarray(frame).save(images / f"{place}.png")
    options = ExportOptions(
        weights=str(weights), out=folder / "bundle", kits=KITS, size=(32, 48), target="cpu",
        calibration=images,
    )  # fmt: skip
    made = folder / "work"
    made.mkdir()
    return open_workspace(options, made)


@pytest.fixture(scope="module")
def kits(workspace):
    return {name: write_kit(workspace, name) for name in KITS}


@pytest.fixture
def compile_kit(kits, tmp_path):
    """Run a kit's script with a stand-in: compile_kit("rknn", error=0.0) -> (process, calls)."""

    def run(name, *, error=0.0, status=0):
        if name == "hailo":
            (tmp_path / "hailo_sdk_client.py").write_text(f"ERROR = {error}\n{_HAILO}")
        else:
            (tmp_path / "rknn").mkdir()
            (tmp_path / "rknn" / "__init__.py").write_text("")
            text = f"ERROR, STATUS = {error}, {status}\n{_RKNN}"
            (tmp_path / "rknn" / "api.py").write_text(text)
        done = subprocess.run(
            [sys.executable, str(kits[name] / "compile.py")],
            capture_output=True, text=True, check=False, timeout=120,
            env={"PYTHONPATH": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        calls = tmp_path / "calls.json"
        return done, json.loads(calls.read_text()) if calls.exists() else []

    return run


@pytest.mark.parametrize("name", KITS)
def test_a_kit_holds_a_static_network_of_an_older_onnx_its_images_and_what_is_expected(
    name, kits, workspace
):
    folder = kits[name]
    model = onnx.load(folder / "network.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [one.version for one in model.opset_import] == [17]
    shapes = [
        [side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 3, 32, 48]] * 2
    images, expected = (np.load(folder / f"{one}.npy") for one in ("calibration", "expected"))
    assert images.shape == (len(workspace.images.calibration), 32, 48, 3)
    assert images.dtype == expected.dtype == np.uint8
    assert np.array_equal(images[0], workspace.images.calibration[0].frame)
    readme = (folder / "README.md").read_text()
    assert "Not compiled here" in readme
    assert "$" not in readme
    assert "$" not in (folder / "compile.py").read_text()
    ast.parse((folder / "compile.py").read_text())


def test_what_is_expected_is_what_the_network_gives(kits, workspace):
    import torch

    folder = kits["rknn"]
    images, expected = (np.load(folder / f"{one}.npy") for one in ("calibration", "expected"))
    batch = torch.from_numpy(images[: len(expected)]).permute(0, 3, 1, 2) / 255.0
    with torch.inference_mode():
        found = workspace.loaded.model(batch).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.rint(255 * found) - expected).max() <= 1


@pytest.mark.parametrize("name", KITS)
def test_the_script_compiles_compares_and_writes(name, compile_kit, kits, workspace):
    done, calls = compile_kit(name)
    assert done.returncode == 0, done.stderr
    assert "dB against fp32 on" in done.stdout
    assert float(done.stdout.split()[0]) > 45
    count = len(workspace.images.calibration)
    if name == "hailo":
        assert (kits[name] / "network.hef").read_bytes() == b"hef"
        found = {call[0]: call[1:] for call in calls}
        assert found["arch"] == ["hailo8"]
        assert found["translate"] == [[1, 3, 32, 48]]
        shape, kind, largest = found["optimize"]
        assert (shape, kind) == ([count, 32, 48, 3], "float32")
        assert largest > 1.5  # levels, which the script divides by 255
        assert "[255.0, 255.0, 255.0]" in found["script"][0]
        assert f"calibset_size={count}" in found["script"][0]
    else:
        assert (kits[name] / "network.rknn").read_bytes() == b"rknn"
        assert calls[0][1]["target_platform"] == "rk3588"
        assert calls[0][1]["std_values"] == [[255, 255, 255]]
        assert calls[1] == ["build", True, count, [1, 3, 32, 48]]


@pytest.mark.parametrize("name", KITS)
def test_a_compiled_network_that_is_wrong_is_refused_by_its_script(name, compile_kit):
    done, _ = compile_kit(name, error=0.05)
    assert done.returncode == 1
    assert "too far from fp32: give more calibration images" in done.stderr


def test_a_toolkit_that_fails_is_told(compile_kit):
    done, _ = compile_kit("rknn", status=-1)
    assert done.returncode == 1
    assert "starting the simulator failed with status -1" in done.stderr


def test_a_shipped_network_computes_the_same_in_the_older_onnx(tmp_path):
    from mirnet_edge import checkpoints
    from mirnet_edge.export.onnx_graph import export_onnx
    from mirnet_edge.models.inference_form import to_inference_form

    network = checkpoints.load("shipped:low-light").model
    path = tmp_path / "network.onnx"
    export_onnx(to_inference_form(network), path, io="float", size=(32, 48), multiple=16)
    batch = np.random.default_rng(0).random((1, 3, 32, 48), np.float32)
    newest = onnx.load(path)
    outputs = [
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"frames": batch})[0]
        for model in (newest, to_opset(newest, 17))
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_a_kit_needs_a_size_and_images(tmp_path):
    with pytest.raises(OptionError, match="--format hailo needs the one size"):
        ExportOptions(weights="shipped:low-light", out=tmp_path, kits=("hailo",))
    with pytest.raises(OptionError, match="--format rknn needs images"):
        ExportOptions(weights="my.pth", out=tmp_path, kits=("rknn",), size=(32, 48))


def test_the_option_names_the_kits(capsys, tmp_path):
    from mirnet_edge.cli.export import main

    with pytest.raises(SystemExit) as left:
        main(["--format", "coral", "--size", "64x64", "--out", str(tmp_path / "bundle")])
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert "coral" in err
    assert "hailo" in err
    with pytest.raises(SystemExit) as left:
        main(["--format", "hailo", "--out", str(tmp_path / "bundle")])
    assert left.value.code == 2
    assert "--format hailo needs the one size" in " ".join(capsys.readouterr().err.split())
