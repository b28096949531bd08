"""The exported file: what it takes and gives, what it does not hold, and that it is repeatable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mirnet_edge.errors import GraphError
from mirnet_edge.export.onnx_graph import export_onnx, to_fp16
from mirnet_edge.images.contract import batch_from_frames, frames_from_batch

_SIZE = (32, 48)


class _Brighter(nn.Module):
    """A network small enough to be exported in every test."""

    multiple = 4

    def __init__(self, gain=1.5):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.mul_(0.2)
            self.conv.weight[range(3), range(3), 1, 1] += gain

    def forward(self, batch):
        return self.conv(batch)


@pytest.fixture(scope="module")
def brighter():
    torch.manual_seed(0)
    return _Brighter().eval()


def _export(network, path, **options):
    export_onnx(network, path, **{"io": "uint8", "size": _SIZE, "multiple": 4, **options})
    return path


@pytest.fixture(scope="module")
def exported(brighter, tmp_path_factory):
    """Return the file of the small network: exported("uint8", (32, 48)); None for any size."""
    folder = tmp_path_factory.mktemp("brighter")

    @cache
    def make(io, size):
        return _export(brighter, folder / f"{io}-{size}.onnx", io=io, size=size)

    return make


def _run(path, given):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(["restored"], {"frames": given})
    return found


def _expected(network, frames):
    with torch.inference_mode():
        return network(torch.from_numpy(batch_from_frames(frames))).clamp(0, 1).numpy()


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [_SIZE, None], ids=["fixed", "any size"])
def test_the_same_network_gives_the_same_bytes(brighter, exported, tmp_path, size):
    # another name, another folder, and a network of the same weights
    copy = _Brighter().eval()
    copy.load_state_dict(brighter.state_dict())
    two = _export(copy, tmp_path / "two.onnx", size=size)
    assert two.read_bytes() == exported("uint8", size).read_bytes()


def test_other_weights_give_other_bytes(exported, tmp_path):
    two = _export(_Brighter(gain=1.6).eval(), tmp_path / "two.onnx")
    assert two.read_bytes() != exported("uint8", _SIZE).read_bytes()


def _messages(message):
    """Yield a protobuf message and all that it is made of."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = [value] if hasattr(value, "ListFields") else value
            for part in parts:
                if hasattr(part, "ListFields"):
                    yield from _messages(part)


@pytest.mark.parametrize("size", [_SIZE, None], ids=["fixed", "any size"])
def test_nothing_of_this_machine_is_in_the_file(graph_of, size):
    path = graph_of("edge", size=size)
    model = onnx.load(path)
    parts = list(_messages(model))
    assert len(parts) > 100
    for part in parts:
        names = {field.name for field, value in part.ListFields() if value}
        assert not names & {"metadata_props", "doc_string"}, type(part)
    content = path.read_bytes()
    for trace in (b"stack_trace", b".py", b"File ", str(Path.home()).encode(), b"site-packages"):
        assert trace not in content
    assert not model.graph.value_info
    assert [one.data_location for one in model.graph.initializer if one.data_location] == []


def test_the_search_above_can_fail():
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    model.graph.node.add(op_type="Relu").metadata_props.add(key="a", value="b")
    found = [field.name for part in _messages(model) for field, _ in part.ListFields()]
    assert "metadata_props" in found


@pytest.mark.parametrize("name", ["edge", "mirnet", "mirnet-v2", "keras-mirnet"])
def test_a_file_is_one_checked_opset_20_graph(graph_of, name):
    path = graph_of(name)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert {(one.domain, one.version) for one in model.opset_import} == {("", 20)}
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert [one.name for one in model.graph.input] == ["frames"]
    assert [one.name for one in model.graph.output] == ["restored"]
    assert [one.name for one in path.parent.iterdir() if one.stem == path.stem] == [path.name]


def _sides(value):
    return [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]


@dataclass(frozen=True)
class Contract:
    io: str
    size: tuple | None
    kind: int
    shape: list

    @property
    def id(self):
        return f"{self.io}, {'fixed' if self.size else 'any size'}"


@pytest.mark.parametrize(
    "case",
    [
        Contract("uint8", _SIZE, onnx.TensorProto.UINT8, [1, 32, 48, 3]),
        Contract("float", _SIZE, onnx.TensorProto.FLOAT, [1, 3, 32, 48]),
        Contract("uint8", None, onnx.TensorProto.UINT8, ["n", "4*h", "4*w", 3]),
        Contract("float", None, onnx.TensorProto.FLOAT, ["n", 3, "4*h", "4*w"]),
    ],
    ids=lambda case: case.id,
)
def test_the_contract_stands_in_the_file(case, exported):
    graph = onnx.load(exported(case.io, case.size)).graph
    for value in (graph.input[0], graph.output[0]):
        assert value.type.tensor_type.elem_type == case.kind
        assert _sides(value) == case.shape


# --- what it computes -------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    count: int
    height: int
    width: int

    @property
    def id(self):
        return f"{self.count} of {self.width}x{self.height}"


# 16 is the multiple itself; 2 of 96x64 is the example that it was traced with
_SIZES = [
    Size(1, 16, 16), Size(1, 16, 64), Size(1, 64, 96), Size(2, 64, 96), Size(3, 48, 32),
    Size(1, 128, 16), Size(16, 16, 16),
]  # fmt: skip


@pytest.mark.parametrize("case", _SIZES, ids=lambda case: case.id)
def test_one_graph_takes_every_number_and_size(case, graph_of, network_of, smooth_frames):
    frames = smooth_frames(case.height, case.width, case.count)
    found = _run(graph_of("edge", size=None), frames)
    assert found.dtype == np.uint8
    assert found.shape == frames.shape
    expected = frames_from_batch(_expected(network_of("edge"), frames))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.99


def test_frames_of_one_batch_do_not_see_each_other(graph_of, smooth_frames):
    frames = smooth_frames(32, 48, 3)
    frames[1] = 255 - frames[1]
    together = _run(graph_of("edge", size=None), frames)
    for place in range(3):
        alone = _run(graph_of("edge", size=None), frames[place : place + 1])
        assert np.abs(alone[0].astype(int) - together[place]).max() <= 1


@dataclass(frozen=True)
class Float:
    size: tuple
    fixed: bool

    @property
    def id(self):
        return f"{self.size}, {'fixed' if self.fixed else 'any size'}"


@pytest.mark.parametrize(
    "case",
    [Float(_SIZE, fixed=True), *(Float(size, fixed=False) for size in (_SIZE, (8, 4), (4, 4)))],
    ids=lambda case: case.id,
)
def test_float_graphs_give_what_the_network_gives(case, exported, brighter, smooth_frames):
    frames = smooth_frames(*case.size)
    found = _run(exported("float", _SIZE if case.fixed else None), batch_from_frames(frames))
    assert found.dtype == np.float32
    assert found.max() == 1.0, "the image is too dark to see the clamp"
    np.testing.assert_allclose(found, _expected(brighter, frames), atol=1e-5)


@pytest.mark.parametrize("name", ["edge", "mirnet", "mirnet-v2", "keras-mirnet"])
def test_a_graph_of_fixed_size_gives_what_the_network_gives(
    name, graph_of, network_of, smooth_frames
):
    frames = smooth_frames(*_SIZE)
    found = _run(graph_of(name), frames)
    expected = frames_from_batch(_expected(network_of(name), frames))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 10


@pytest.mark.parametrize("given", [(1, 16, 48, 3), (2, 32, 48, 3), (1, 32, 64, 3)])
def test_a_graph_of_fixed_size_takes_no_other(graph_of, given):
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        _run(graph_of("edge"), np.zeros(given, np.uint8))


# --- half precision ---------------------------------------------------------------------------


def test_a_half_copy_is_written_whole_and_keeps_the_contract(graph_of, tmp_path):
    source = graph_of("edge", size=None)
    before = source.read_bytes()
    for name in ("one.onnx", "two.onnx"):
        to_fp16(source, tmp_path / name)
    assert source.read_bytes() == before
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    half, full = onnx.load(tmp_path / "one.onnx"), onnx.load(source)
    assert half.graph.input == full.graph.input
    assert half.graph.output == full.graph.output
    kinds = {one.data_type for one in half.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


# --- failures ---------------------------------------------------------------------------------


class _Undecided(_Brighter):
    """Its way depends on what it sees, which no graph can say."""

    def forward(self, batch):
        return self.conv(batch) if batch.sum().item() > 0 else batch


class _Failing(_Brighter):
    def forward(self, batch):
        raise ValueError(*self.words)


@dataclass(frozen=True)
class Failure:
    id: str
    words: tuple
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Failure("with a reason", ("no such layer\nand more",), "_Failing cannot be exported"),
        Failure("without one", (), "_Failing cannot be exported"),
    ],
    ids=lambda case: case.id,
)
def test_a_network_that_fails_gives_one_line(case, tmp_path):
    network = _Failing()
    network.words = case.words
    with pytest.raises(GraphError, match=case.says) as caught:
        _export(network, tmp_path / "net.onnx")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is not None
    assert not list(tmp_path.iterdir())


def test_a_network_that_decides_by_values_cannot_be_exported(tmp_path):
    with pytest.raises(GraphError, match=r"_Undecided cannot be exported: .*report it"):
        _export(_Undecided(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reason", ["", "\n\nlate words"], ids=["silent", "late"])
def test_an_exporter_that_gives_no_reason_is_an_error_all_the_same(
    brighter, tmp_path, monkeypatch, reason
):
    def broken(*_, **__):
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(GraphError, match="_Brighter cannot be exported") as caught:
        _export(brighter, tmp_path / "net.onnx")
    assert len(str(caught.value).splitlines()) == 1


def test_an_exporter_that_gives_nothing_is_an_error(brighter, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: None)
    with pytest.raises(GraphError, match="torch gave no ONNX program"):
        _export(brighter, tmp_path / "net.onnx")


def test_nothing_is_printed(brighter, tmp_path, capfd):
    _export(brighter, tmp_path / "net.onnx")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
