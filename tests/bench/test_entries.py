"""Competitor models: supported layouts, curve maps, extra inputs, refused files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from mirnet_edge.bench.entries import apply_zero_dce_curves, count_macs, open_competitor
from mirnet_edge.errors import EngineError

_PEERS = Path(__file__).parents[3] / "shared/data/peers"


@pytest.fixture
def write(tmp_path):
    """Write a network: write(nodes, {name: shape}, output shape)."""

    def make(nodes, inputs, output=(1, 3, "h", "w"), kind=TensorProto.FLOAT):
        graph = helper.make_graph(
            nodes,
            "competitor",
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info("out", kind, output)],
        )
        path = tmp_path / "competitor.onnx"
        opset = helper.make_opsetid("", 20)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        path.write_bytes(model.SerializeToString())
        return path

    return make


_IMAGE = (1, 3, "h", "w")


@pytest.mark.parametrize("io", ["float", "uint8"])
def test_image_to_image_networks_run_on_frames_of_any_size(make_graph, tmp_path, frames_of, io):
    frames = frames_of(37, 53) // 2
    with open_competitor(make_graph(tmp_path / "plain.onnx", io=io)) as competitor:
        restored = competitor.run(frames)
    assert restored.shape == frames.shape
    assert np.abs(restored - 1.5 * frames).max() <= 1.0
    assert competitor.stages_s[1] > 0


def test_curve_maps_are_applied_eight_times(write, frames_of):
    node = helper.make_node("Concat", ["image"] * 8, ["out"], axis=1)
    path = write([node], {"image": _IMAGE}, (1, 24, "h", "w"))
    frames = frames_of(16, 24)
    value = frames.astype(np.float64) / 255
    strength = value.copy()
    for _ in range(8):
        value = value + strength * (value**2 - value)
    with open_competitor(path) as competitor:
        assert np.abs(competitor.run(frames) - 255 * value).max() <= 1.0


def test_curves_of_zero_change_nothing():
    batch = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(
        apply_zero_dce_curves(batch, np.zeros((1, 24, 4, 4), np.float32)), batch
    )


def test_gamma_and_strength_inputs_have_fixed_values(write, frames_of):
    nodes = [
        helper.make_node("Mul", ["image", "gamma"], ["bright"]),
        helper.make_node("Add", ["bright", "strength"], ["out"]),
    ]
    path = write(nodes, {"gamma": (1,), "image": _IMAGE, "strength": (1,)})
    frames = frames_of(8, 8) // 2
    with open_competitor(path) as competitor:
        assert np.abs(competitor.run(frames) - (frames + 0.05 * 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ({"image": _IMAGE, "mask": (1, 1, "h", "w")}, _IMAGE),
        ({"image": _IMAGE, "t": (1,)}, _IMAGE),
        ({"image": (1, 4, "h", "w")}, _IMAGE),
        ({"image": (1, 3)}, (1, 3)),
        ({"image": _IMAGE}, (1, 12, "h", "w")),
    ],
    ids=["mask", "time", "four channels", "no image", "other maps"],
)
def test_unsupported_inputs_and_outputs_are_refused_in_one_line(write, inputs, output):
    # concatenated: 12 channels out of 3
    node = helper.make_node("Concat", ["image"] * 4, ["out"], axis=1)
    nodes = [node] if output[1] == 12 else [helper.make_node("Sum", list(inputs), ["out"])]
    path = write(nodes, inputs, output)
    with pytest.raises(EngineError, match=r"expected (one|an) image") as raised:
        open_competitor(path)
    assert "\n" not in str(raised.value)


def test_missing_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(EngineError, match="is not there"):
        open_competitor(path)
    path.write_bytes(b"no")
    with pytest.raises(EngineError, match="is not an ONNX file that opens"):
        open_competitor(path)


def test_macs_are_counted_or_unknown(make_graph, tmp_path, write):
    assert count_macs(make_graph(tmp_path / "a.onnx"), 48, 64) == 48 * 64 * 9 * 9
    node = helper.make_node("Identity", ["image"], ["out"])
    assert count_macs(write([node], {"image": _IMAGE}), 48, 64) is None


@pytest.mark.skipif(not _PEERS.is_dir(), reason="needs ../shared/data/peers")
@pytest.mark.parametrize("name", ["zero_dce", "bread_halfres", "bread_fullres"])
def test_competitors_brighten_a_dark_frame_of_an_odd_size(name, frames_of):
    frames = frames_of(45, 61) // 8
    with open_competitor(_PEERS / f"{name}.onnx") as competitor:
        restored = competitor.run(frames)
    assert restored.shape == frames.shape
    assert restored.mean() > 1.2 * frames.mean()
