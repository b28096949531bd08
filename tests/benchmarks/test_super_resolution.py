"""The super-resolution benchmark: its measure, its table and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.degradations import downscale

SCRIPT = Path(__file__).parents[2] / "benchmarks/super_resolution.py"


@pytest.fixture(scope="module")
def benchmark_module(load_script):
    return load_script("super_resolution")


@pytest.fixture
def edges():
    """Return an image of slanted edges, which bicubic interpolation blurs."""
    y, x = np.mgrid[:65, :97]
    one = np.where((y + 2 * x) % 40 < 20, 40, 210).astype(np.uint8)
    return np.stack([one, one[::-1], np.full_like(one, 90)], 2)


def test_an_error_of_the_inner_pixels_is_measured_in_studio_luma(benchmark_module, edges):
    def enlarge(small):
        truth = edges[: 2 * small.shape[0], : 2 * small.shape[1]]
        assert np.array_equal(small, downscale(truth, 2))
        wrong = truth.copy()
        wrong[2:-2, 2:-2] += 3
        wrong[:2] = 0  # the border, which is left out
        return wrong

    luma, rgb = benchmark_module.measure_image(enlarge, edges)
    assert rgb == pytest.approx(20 * math.log10(255 / 3))
    assert luma == pytest.approx(20 * math.log10(255 / (3 * 219 / 255)), abs=1e-3)


def test_the_shipped_network_is_ahead_of_bicubic_in_the_table(tmp_path, edges):
    Image.fromarray(edges).save(tmp_path / "edges.png")
    command = [sys.executable, SCRIPT, "shipped:super-resolution", "--images", tmp_path, "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    bicubic, *networks = found["rows"]
    assert found["images"] == ["edges.png"]
    assert (bicubic["name"], bicubic["precision"]) == ("bicubic", None)
    assert [row["precision"] for row in networks] == ["fp32", "int8"]
    assert min(row["luma_db"] for row in networks) > bicubic["luma_db"] + 0.5


@pytest.mark.parametrize(
    ("bundle", "images", "says"),
    [
        ("shipped:low-light", "full", "enlarges by 1; expected a bundle that enlarges by 2"),
        ("shipped:super-resolution", "empty", "holds no images"),
        ("shipped:super-resolution", "none", "holds no images"),
    ],
)
def test_what_cannot_be_measured_is_refused(bundle, images, says, tmp_path, edges):
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    Image.fromarray(edges).save(tmp_path / "full/edges.png")
    command = [sys.executable, SCRIPT, bundle, "--images", tmp_path / images]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert says in answer.stderr
