"""The check that an export computes what the network computed, and that it can fail."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mirnet_edge.errors import GraphError
from mirnet_edge.export.onnx_graph import MINIMUM_DB, check_parity
from mirnet_edge.manifest import ImageContract
from mirnet_edge.models.inference_form import to_inference_form

_SIZE = (32, 48)


def _image(io="uint8", size=None):
    return ImageContract(io=io, multiple=16, size=size)


@dataclass(frozen=True)
class Case:
    network: str
    io: str = "uint8"
    size: tuple | None = _SIZE

    @property
    def id(self):
        return f"{self.network}, {self.io}, {'fixed' if self.size else 'any size'}"


@pytest.mark.parametrize(
    "case",
    [
        Case("edge"), Case("edge", size=None), Case("mirnet"), Case("mirnet-v2"),
        Case("keras-mirnet"), Case("keras-mirnet", size=None),
        Case("enlarging", size=None),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_an_export_agrees_with_its_network(case, graph_of, network_of, smooth_frames):
    path = graph_of(case.network, io=case.io, size=case.size)
    frames = smooth_frames(*_SIZE)
    image = _image(case.io, case.size)
    found = check_parity(network_of(case.network), path, frames, image)
    # above what 8 bits could show (58.9 dB is half a level): it is taken before the rounding.
    # 99 dB on a processor without AVX-512
    assert found > 90


def test_a_graph_of_other_weights_is_refused_by_name(graph_of, network_of, smooth_frames):
    path = graph_of("edge")
    with pytest.raises(GraphError, match=rf"{re.escape(path.name)} differs.*at least 80") as caught:
        check_parity(network_of("edge", seed=1), path, smooth_frames(*_SIZE), _image(size=_SIZE))
    assert "report it" in str(caught.value)


def test_the_network_may_be_in_another_form(graph_of, network_of, smooth_frames):
    deployed = to_inference_form(network_of("edge"))
    found = check_parity(deployed, graph_of("edge"), smooth_frames(*_SIZE), _image(size=_SIZE))
    assert found > 100


# --- graphs of a few nodes --------------------------------------------------------------------


class _Scaled(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, batch):
        return batch * self.gain


@dataclass(frozen=True)
class Deviation:
    id: str
    relative: float
    """How far the graph's gain is from the network's."""
    passes: bool


@pytest.mark.parametrize("io", ["uint8", "float"])
@pytest.mark.parametrize(
    "case",
    [
        Deviation("none", 0.0, passes=True),
        Deviation("90 dB", 10 ** (-90 / 20), passes=True),
        Deviation("70 dB", 10 ** (-70 / 20), passes=False),  # 8 bits would not show it
        Deviation("40 dB", 10 ** (-40 / 20), passes=False),
    ],
    ids=lambda case: case.id,
)
def test_the_limit_is_80_db_before_rounding(case, io, make_graph, tmp_path):
    path = make_graph(tmp_path / "net.onnx", io=io, gain=0.9 + case.relative)
    frames = np.full((1, 16, 16, 3), 255, np.uint8)
    network = _Scaled(0.9)
    if case.passes:
        found = check_parity(network, path, frames, _image(io))
        assert found >= MINIMUM_DB
        if case.relative:
            assert found == pytest.approx(90, abs=0.2)
    else:
        with pytest.raises(GraphError, match=rf"net\.onnx differs from the network: {case.id[:2]}"):
            check_parity(network, path, frames, _image(io))


def test_what_both_clamp_is_not_a_difference(make_graph, tmp_path):
    path = make_graph(tmp_path / "net.onnx", gain=1.5)
    frames = np.full((1, 16, 16, 3), 255, np.uint8)
    assert check_parity(_Scaled(2.5), path, frames, _image()) == math.inf


def test_a_graph_that_gives_no_numbers_is_refused(make_graph, tmp_path):
    path = make_graph(tmp_path / "net.onnx", io="float", gain=math.nan)
    frames = np.full((1, 16, 16, 3), 99, np.uint8)
    with pytest.raises(GraphError, match="differs from the network"):
        check_parity(_Scaled(1.0), path, frames, _image("float"))


def test_a_network_that_gives_no_numbers_is_refused(make_graph, tmp_path):
    path = make_graph(tmp_path / "net.onnx", gain=1.0)
    frames = np.full((1, 16, 16, 3), 99, np.uint8)
    with pytest.raises(GraphError, match="nan dB"):
        check_parity(_Scaled(math.nan), path, frames, _image())


def test_colors_in_another_order_are_seen(make_graph, tmp_path):
    class Swapped(nn.Module):
        def forward(self, batch):
            return torch.flip(batch, [1])

    path = make_graph(tmp_path / "net.onnx", gain=1.0)
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    frames[..., 0] = 200
    with pytest.raises(GraphError, match="differs"):
        check_parity(Swapped(), path, frames, _image())
    assert check_parity(_Scaled(1.0), path, frames, _image()) > MINIMUM_DB


def test_the_rounding_may_come_after_the_channels_moved_last(make_graph, smooth_frames, tmp_path):
    path = make_graph(tmp_path / "net.onnx", gain=0.9)
    model = onnx.load(path)
    rounding, moving = model.graph.node[-3:-1]
    assert (rounding.op_type, moving.op_type) == ("Round", "Transpose")
    moving.input[0], moving.output[0] = rounding.input[0], "moved"
    rounding.input[0], rounding.output[0] = "moved", model.graph.node[-1].input[0]
    kept = onnx.NodeProto()
    kept.CopyFrom(rounding)
    rounding.CopyFrom(moving)
    moving.CopyFrom(kept)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    frames = smooth_frames(16, 32)
    assert check_parity(_Scaled(0.9), path, frames, _image()) > 100
    with pytest.raises(GraphError, match="differs"):
        check_parity(_Scaled(0.8), path, frames, _image())


@pytest.mark.parametrize("more", [-1, 1], ids=["none", "two"])
def test_a_graph_without_one_rounding_is_refused(more, make_graph, tmp_path):
    path = make_graph(tmp_path / "net.onnx", gain=1.0)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "Round")
    if more > 0:
        second = model.graph.node.add()
        second.CopyFrom(node)
        second.output[0] = "unread"
    else:
        node.op_type = "Floor"
    onnx.save(model, path)
    with pytest.raises(GraphError, match=rf"net\.onnx has {1 + more} Round nodes, expected one"):
        check_parity(_Scaled(1.0), path, np.zeros((1, 16, 16, 3), np.uint8), _image())
