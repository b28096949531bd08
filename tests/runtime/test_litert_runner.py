"""The backend LiteRT, on a model that is written here: it swaps red and blue."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge import manifest
from mirnet_edge.errors import BundleError, EngineError, ImageError, MissingDependencyError
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime import litert_runner
from mirnet_edge.runtime.backends import find_backend
from mirnet_edge.runtime.bundle import choose_configuration, fitting_configurations, open_bundle
from mirnet_edge.runtime.litert_runner import LiteRtRunner

SIZE = (32, 48)


@pytest.fixture
def runner(tmp_path):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "litert-fp32.tflite"
    path.write_bytes(_swapping_model(*SIZE))
    image = ImageContract(io="uint8", multiple=16, size=SIZE)
    return LiteRtRunner(path, image, name="litert:fp32", precision="fp32", threads=1)


def _swapping_model(height, width):
    """Return a .tflite file whose one operator reverses the last axis of (1, H, W, 3) uint8."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name, shape, kind, buffer):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
        return made

    axis = schema.BufferT()
    axis.data = np.frombuffer(np.array([3], np.int32).tobytes(), np.uint8)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.REVERSE_V2
    code.version = 3
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1], [2]
    graph = schema.SubGraphT()
    shape = [1, height, width, 3]
    graph.tensors = [
        tensor("frames", shape, schema.TensorType.UINT8, 0),
        tensor("axis", [1], schema.TensorType.INT32, 1),
        tensor("restored", shape, schema.TensorType.UINT8, 0),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), axis]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_frame_is_padded_run_and_cropped(runner):
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 45, 3), np.uint8)
    with runner:
        restored = runner.run(frames)
        again = runner.run(frames[:1])
    assert np.array_equal(restored, frames[..., ::-1])
    assert np.array_equal(again, frames[:1, ..., ::-1])
    assert restored.flags.owndata


def test_another_size_is_refused(runner):
    with runner, pytest.raises(ImageError, match=r"litert-fp32\.tflite was exported for 48x32"):
        runner.run(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_broken_file_is_one_line(runner):
    runner.path.write_bytes(b"TFL3" + bytes(64))
    with pytest.raises(EngineError, match="could not open it") as caught, runner:
        pass
    assert "\n" not in str(caught.value)


def test_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    image = ImageContract(io="uint8", multiple=16, size=SIZE)
    absent = LiteRtRunner(tmp_path / "a.tflite", image, name="litert:fp32", precision="fp32")
    with (
        pytest.raises(MissingDependencyError, match=r'pip install "mirnet-edge\[litert\]"'),
        absent,
    ):
        pass


def test_the_row_is_registered():
    row = find_backend("litert")
    assert row is litert_runner.BACKEND
    assert row.target == "litert"
    assert "int8" in row.precisions


def _add_model(bundle, make_mode):
    """Add a LiteRT model of one size to a bundle for any size, as the fastest configuration."""
    written = manifest.read_manifest(bundle)
    model = bundle / "litert-fp32.tflite"
    model.write_bytes(_swapping_model(*SIZE))
    facts = manifest.GraphFacts(
        name="litert-fp32", precision="fp32", targets=["litert"], onnx=manifest.bind(model),
        against_fp32=None, against_truth=None, truth_drop_db=None, size=SIZE,
    )  # fmt: skip
    mode = make_mode("litert:fp32", p50_ms=0.1, graph="litert-fp32")
    added = written.model_copy(
        update={
            "graphs": [*written.graphs, facts],
            "configurations": [*written.configurations, mode],
        }
    )
    (bundle / manifest.FILE_NAME).write_bytes(manifest.to_json(added))
    return added


def test_a_model_of_one_size_in_a_bundle_for_any_size_is_for_those_who_name_it(
    make_bundle, make_mode, frames_of
):
    pytest.importorskip("ai_edge_litert")
    bundle = make_bundle()
    added = _add_model(bundle, make_mode)
    assert open_bundle(bundle).name == "onnxruntime:fp32"
    assert [one.name for one in fitting_configurations(added)] == ["onnxruntime:fp32"]
    only = added.model_copy(update={"configurations": added.configurations[-1:]})
    with pytest.raises(BundleError, match="takes frames of 48x32 alone; ask for it with --backend"):
        choose_configuration(only)
    with open_bundle(bundle, "litert") as runner:
        frames = frames_of(*SIZE)
        assert np.array_equal(runner.run(frames), frames[..., ::-1])
        with pytest.raises(ImageError, match=r"litert-fp32\.tflite was exported for 48x32"):
            runner.run(frames_of(64, 64))
    with open_bundle(bundle) as runner:
        assert runner.run(frames_of(17, 5)).shape == (1, 17, 5, 3)
