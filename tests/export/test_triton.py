"""Model repositories for Triton, checked by Triton's own schema; IR and ORT files that run."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge.errors import BundleError, OptionError
from mirnet_edge.export.formats import (
    check_identity,
    write_openvino_ir,
    write_ort,
    write_repository,
)
from mirnet_edge.manifest import FILE_NAME, EngineFacts, bind, read_manifest
from mirnet_edge.testing.fake_tensorrt import fake_engine

_TYPE_UINT8, _TYPE_FP32, _KIND_GPU, _KIND_CPU = 2, 11, 1, 2


@pytest.fixture(scope="module")
def schema():
    grpc = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="mirnet-edge[dev]")
    from google.protobuf import text_format

    return lambda text: text_format.Parse(text, grpc.ModelConfig())


@pytest.fixture
def with_plan():
    """Put a plan into a bundle: with_plan(folder, flavor="tensorrt")."""

    def put(folder, flavor="tensorrt"):
        (folder / "fp32.plan").write_bytes(fake_engine([]))
        facts = EngineFacts(
            plan=bind(folder / "fp32.plan"), graph="fp32", flavor=flavor, version="10.3.0"
        )
        path = folder / FILE_NAME
        document = json.loads(path.read_text())
        document["engines"] = [facts.model_dump(mode="json")]
        path.write_text(json.dumps(document))
        return folder

    return put


@dataclass(frozen=True)
class Contract:
    id: str
    bundle: dict
    kind: int
    taken: list
    given: list
    batch: int


@pytest.mark.parametrize(
    "case",
    [
        Contract("any size", {}, _TYPE_UINT8, [-1, -1, 3], [-1, -1, 3], 8),
        Contract("fixed", {"size": (16, 32)}, _TYPE_UINT8, [1, 16, 32, 3], [1, 16, 32, 3], 0),
        Contract("twice", {"size": (16, 32), "scale": 2}, _TYPE_UINT8, [1, 16, 32, 3],
                 [1, 32, 64, 3], 0),
        Contract("float", {"io": "float"}, _TYPE_FP32, [3, -1, -1], [3, -1, -1], 8),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_triton_takes_the_contract(case, schema, make_bundle, with_plan, tmp_path):
    bundle = with_plan(make_bundle(**case.bundle))
    names = write_repository(bundle, tmp_path / "models")
    assert names == ["low_light_onnxruntime", "low_light_openvino", "low_light_tensorrt_fp32"]
    for name in names:
        folder = tmp_path / "models" / name
        config = schema((folder / "config.pbtxt").read_text())
        assert (config.name, config.backend) == (name, name.split("_")[2])
        on_gpu = config.backend == "tensorrt"
        dims = case.taken if not on_gpu or case.batch == 0 else [1, *case.taken]
        assert (config.input[0].name, config.output[0].name) == ("frames", "restored")
        assert config.input[0].data_type == config.output[0].data_type == case.kind
        assert list(config.input[0].dims) == dims
        assert list(config.output[0].dims)[-len(case.given) :] == case.given
        assert config.max_batch_size == (0 if on_gpu else case.batch)
        assert config.HasField("dynamic_batching") == (config.max_batch_size > 0)
        assert [one.kind for one in config.instance_group] == [_KIND_GPU if on_gpu else _KIND_CPU]
        sha256 = read_manifest(bundle).graph("fp32").onnx.sha256
        assert config.parameters["onnx_sha256"].string_value == sha256
        files = {one.name for one in (folder / "1").iterdir()}
        kinds = {"onnxruntime": {"onnx"}, "openvino": {"xml", "bin"}, "tensorrt": {"plan"}}
        assert files == {f"model.{kind}" for kind in kinds[config.backend]}


def test_the_schema_refuses_what_it_does_not_know(schema):
    from google.protobuf.text_format import ParseError

    with pytest.raises(ParseError):
        schema('name: "a" batch_size: 3')


def test_plans_of_rtx_are_left_out_and_the_server_has_no_backend_for_them(
    make_bundle, with_plan, tmp_path
):
    bundle = with_plan(make_bundle(), "tensorrt_rtx")
    names = write_repository(bundle, tmp_path / "models")
    assert names
    assert not [name for name in names if "tensorrt" in name]


def test_a_folder_with_other_files_is_not_replaced(make_bundle, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "thesis.txt").write_text("x")
    with pytest.raises(OptionError, match="no model repository"):
        write_repository(make_bundle(), tmp_path / "models")


def test_a_repository_is_replaced_as_a_whole(make_bundle, tmp_path):
    bundle = make_bundle()
    write_repository(bundle, tmp_path / "models", "first")
    write_repository(bundle, tmp_path / "models", "second")
    assert {one.name for one in (tmp_path / "models").iterdir()} == {
        "second_onnxruntime", "second_openvino",
    }  # fmt: skip


@pytest.mark.parametrize("write", [write_openvino_ir, write_ort], ids=["openvino", "ort"])
def test_formats_are_bound_to_their_graph(write, make_bundle, tmp_path):
    bundle, out = make_bundle(), tmp_path / "out"
    (path,) = write(bundle, out)
    assert path.is_file()
    check_identity(out, bundle)
    with path.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(BundleError, match="is missing or changed"):
        check_identity(out, bundle)
    write(bundle, out)
    other = make_bundle("other", scale=2)
    with pytest.raises(BundleError, match="was made of fp32"):
        check_identity(out, other)


def test_ir_and_ort_compute_what_the_graph_computes(make_bundle, tmp_path, frames_of):
    import onnxruntime
    import openvino

    bundle, frames = make_bundle(), frames_of(8, 12)
    (ir,) = write_openvino_ir(bundle, tmp_path / "ir")
    (ort,) = write_ort(bundle, tmp_path / "ort")
    given = []
    for path in (bundle / "fp32.onnx", ort):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given.append(session.run(None, {"frames": frames})[0])
    given.append(openvino.Core().compile_model(str(ir), "CPU")(frames)[0])
    for other in given[1:]:
        assert np.abs(other.astype(int) - given[0]).max() <= 1
