"""The bundles of the package: made from its weights, found by name, opened without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mirnet_edge
from mirnet_edge.calibration.sets import builtin_set
from mirnet_edge.checkpoints.store import list_shipped_weights, resolve
from mirnet_edge.errors import BundleError
from mirnet_edge.export.shipping import is_current
from mirnet_edge.files import sha256_of
from mirnet_edge.manifest import read_manifest, verify_path
from mirnet_edge.runtime import machine_latency
from mirnet_edge.runtime.bundle import RunnerChoice, affordable_pixels
from mirnet_edge.runtime.shipped import FOLDER, find_bundle, is_shipped, list_shipped_bundles
from mirnet_edge.runtime.task_choice import TASK_NAMES

NAMES = list_shipped_bundles()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_latency, "user_cache", lambda: tmp_path / "cache")


def test_each_network_is_shipped_as_a_bundle():
    assert list_shipped_weights() == NAMES
    assert set(TASK_NAMES) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_made_from_the_weights_that_are_shipped(name):
    assert is_current(name), f"make it again: python -m mirnet_edge.export.shipping {name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_holds_what_its_manifest_binds_and_runs_on_processors(name):
    folder = find_bundle(f"shipped:{name}")
    manifest = read_manifest(folder)
    files = {verify_path(folder, graph.onnx) for graph in manifest.graphs}
    assert {file.name for file in folder.iterdir()} == {
        "manifest.json", *(file.name for file in files),
    }  # fmt: skip
    assert {graph.precision for graph in manifest.graphs} >= {"fp32"}
    assert manifest.image.vectors, "context-anchored, for tiles and temporal smoothing"
    assert {one.backend for one in manifest.configurations} == {"onnxruntime", "openvino"}
    assert manifest.default_configuration in {one.name for one in manifest.configurations}
    assert manifest.model.weights.sha256 == sha256_of(resolve(f"shipped:{name}"))


def test_int8_is_shipped_where_the_quality_gate_accepts_it():
    for name in NAMES:
        manifest = read_manifest(FOLDER / name)
        accepted = {one.precision for one in manifest.configurations if one.accepted}
        has_graph = any(graph.precision == "int8" for graph in manifest.graphs)
        assert has_graph or "int8" not in accepted


def test_other_names_are_folders(tmp_path):
    assert find_bundle(tmp_path) == tmp_path
    assert find_bundle("build/bundle") == Path("build/bundle")
    assert find_bundle(None) == FOLDER / "low-light"
    assert not is_shipped(tmp_path)
    assert is_shipped(find_bundle("shipped:denoise"))


@pytest.mark.parametrize("name", ["shipped:dehaze", "shipped:", "shipped:../weights"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(BundleError, match="it ships: shipped:denoise, shipped:low-light, "):
        mirnet_edge.open_bundle(name)


def test_a_changed_weights_file_makes_a_bundle_outdated(monkeypatch, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other weights")
    monkeypatch.setattr("mirnet_edge.export.shipping.resolve", lambda name: other)
    assert not is_current("denoise")


def test_a_shipped_bundle_is_opened_by_name_without_torch_or_an_export(tmp_path):
    program = (
        "import sys, numpy as np, mirnet_edge\n"
        "frames = np.full((1, 24, 32, 3), 40, np.uint8)\n"
        "with mirnet_edge.open_bundle('shipped:low-light', 'onnxruntime', 'fp32') as runner:\n"
        "    print(runner.name, runner.run(frames).mean() > 60)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    said, modules = done.stdout.splitlines()
    assert said == "onnxruntime:fp32 True"
    assert {"torch", "onnx", "nncf", "openvino"}.isdisjoint(modules.split())


def test_the_choice_on_this_machine_is_among_those_that_were_timed_here():
    pytest.importorskip("openvino")
    with mirnet_edge.open_bundle("shipped:low-light") as runner:
        name = runner.name
        assert runner.run(np.full((1, 24, 32, 3), 40, np.uint8)).shape == (1, 24, 32, 3)
    cache = machine_latency.user_cache()
    measured = machine_latency._measured.items()
    (found,) = [one for file, one in measured if cache in file.parents]
    assert name in found.samples
    assert {one.partition(":")[0] for one in found.samples} == {"onnxruntime", "openvino"}


def test_a_lamp_comes_out_of_int8_as_of_fp32_and_without_a_grid():
    pytest.importorskip("openvino")
    dark = builtin_set("low-light", conditions=["0.05"]).evaluation[1].frame[:320, :480].copy()
    dark[80:176, 160:288] = 255
    lamps = {}
    for precision in ("fp32", "int8"):
        with mirnet_edge.open_bundle("shipped:low-light", "openvino", precision) as runner:
            lamps[precision] = runner.run(dark[None])[0, 96:160, 176:272].astype(float)
    # calibrated on images that are dark all over: 9 levels, and a grid of cells of 4.6
    assert np.abs(lamps["int8"] - lamps["fp32"]).mean() < 2.0
    cells = lamps["int8"].reshape(16, 4, 24, 4, 3).mean((0, 2))
    assert cells.std((0, 1)).max() < 2.0  # 1.0 in fp32


def test_the_exposure_of_a_dark_frame_is_decided_alike_in_int8_and_fp32():
    pytest.importorskip("openvino")
    # four levels: means that are rounded to whole ones are wrong by a tenth and more
    dark = np.random.default_rng(0).integers(0, 4, (1, 192, 256, 3)).astype(np.uint8)
    vectors = {}
    for precision in ("fp32", "int8"):
        with mirnet_edge.open_bundle("shipped:low-light", "openvino", precision) as runner:
            _, vectors[precision] = runner.run_with_context(dark, None, 0.0)
    curve = slice(0, 18)  # the exposure's come first
    assert np.abs(vectors["int8"] - vectors["fp32"])[:, curve].max() < 1e-3


@pytest.mark.slow
def test_an_image_that_the_memory_does_not_hold_is_restored_in_tiles(monkeypatch, smooth_frames):
    (frame,) = smooth_frames(256, 320)
    dark = frame // 8
    monkeypatch.setattr("mirnet_edge.runtime.bundle._LARGE_TILE", (192, 192))
    bundles = find_bundle("shipped:low-light")
    options = {"backend": "onnxruntime", "precision": "fp32"}
    choice = RunnerChoice(bundle=bundles, whole_pixels=256 * 320, **options)
    with choice.runner() as whole, replace(choice, whole_pixels=10_000).runner() as tiled:
        first, second = (one.run(dark[None])[0].astype(int) for one in (whole, tiled))
        plain = RunnerChoice(bundle=bundles, **options).runner()
        with plain:
            np.testing.assert_array_equal(plain.run(dark[None])[0], first)
    assert 0 < np.abs(first - second).max() <= 6


def test_what_is_affordable_follows_from_the_memory_that_is_left(monkeypatch):
    for memory, pixels in ((8 << 30, 10_737_418), (None, 5_368_709)):
        monkeypatch.setattr(
            "mirnet_edge.runtime.bundle.available_memory", lambda memory=memory: memory
        )
        assert affordable_pixels() == pixels
