"""Ranges that mirnet-calibrate kept: an export takes the best of them, or says why it does not."""

from __future__ import annotations

import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.export.analysis import compare_estimators
from mirnet_edge.export.graphs import make_graphs
from mirnet_edge.export.workspace import ExportOptions, open_workspace
from mirnet_edge.quantization.ranges import RANGES_FILE, RangeCache


@pytest.fixture(scope="module")
def weights(tmp_path_factory, network_of):
    path = tmp_path_factory.mktemp("calibrated") / "tiny.safetensors"
    checkpoints.save(network_of("edge"), path, ModelCard(task="low-light"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights, smooth_frames):
    """Return a set whose ranges were compared."""
    folder = tmp_path_factory.mktemp("set")
    for number, frame in enumerate(smooth_frames(32, 48, count=8)):
        Image.fromarray(frame // 4).save(folder / f"{number}.png")
    compared = compare_estimators(str(weights), folder)
    assert _kept(folder).best == compared.best
    return folder


def _kept(folder):
    return RangeCache.model_validate_json((folder / RANGES_FILE).read_bytes())


def _exported(weights, folder, out):
    """Return the INT8 graph for TensorRT, its facts, and what was said."""
    out.mkdir()
    said = []
    options = ExportOptions(
        weights=str(weights), out=out, int8=True, target="tensorrt", calibration=folder
    )
    made, _ = make_graphs(open_workspace(options, out, said.append))
    return (out / made[-1].file).read_bytes(), made[-1], "; ".join(said)


def test_the_best_ranges_are_taken_and_named(weights, folder, tmp_path):
    graphs = {}
    for method in ("minmax", "entropy"):
        chosen = _kept(folder).model_copy(update={"best": method})
        (folder / RANGES_FILE).write_text(chosen.model_dump_json())
        graphs[method], file, said = _exported(weights, folder, tmp_path / method)
        assert file.ranges == method
        assert f"use the {method} ranges of" in said
    assert graphs["minmax"] != graphs["entropy"]


def test_ranges_of_other_weights_are_not_used_and_it_is_said(folder, tmp_path, network_of):
    other = tmp_path / "other.safetensors"
    checkpoints.save(network_of("edge", 1), other, ModelCard(task="low-light"))
    _, file, said = _exported(other, folder, tmp_path / "out")
    assert file.ranges == "minmax"
    assert "estimate minmax ranges anew" in said
    assert "was calibrated on other graph" in said
