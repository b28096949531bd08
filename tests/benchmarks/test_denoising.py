"""The denoising benchmark: its noise, its sources, its table and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks/denoising.py"


@pytest.fixture(scope="module")
def benchmark_module(load_script):
    return load_script("denoising")


@pytest.fixture
def images(tmp_path):
    """Return a folder with two smooth gray images."""
    y, x = np.mgrid[:64, :96]
    (tmp_path / "clean").mkdir()
    for number in range(2):
        frame = np.stack([90 + x // 2, 150 - y // 2, 100 + (x + y) // 4], 2) + 5 * number
        Image.fromarray(frame.astype(np.uint8)).save(tmp_path / f"clean/{number}.png")
    return tmp_path / "clean"


@pytest.fixture
def pairs(tmp_path, images):
    """Return a folder of pairs, of which the first validates: eight levels apart."""
    for name, shift in (("low", 8), ("high", 0)):
        (tmp_path / name).mkdir()
        for path in images.iterdir():
            frame = np.asarray(Image.open(path)) + np.uint8(shift)
            Image.fromarray(frame).save(tmp_path / name / path.name)
    return tmp_path


def test_noise_has_the_strength_of_its_column_and_pairs_are_those_that_validate(
    benchmark_module, images, pairs
):
    found = benchmark_module.read_sources(images, [pairs])
    assert list(found) == ["clean", "sigma 5", "sigma 15", "sigma 25", "sigma 50", pairs.name]
    assert [len(one) for one in found.values()] == [2, 2, 2, 2, 2, 1]
    for sigma in (5, 15, 25):
        noisy = found[f"sigma {sigma}"]
        error = np.float64(noisy.inputs[0]) - noisy.targets[0]
        assert error.std() == pytest.approx(sigma, rel=0.05)
    psnr_db, _ = benchmark_module.measure(lambda frame: frame, found[pairs.name])
    assert psnr_db == pytest.approx(20 * np.log10(255 / 8), abs=1e-6)
    assert found["clean"].inputs[1] is not None
    assert np.array_equal(found["clean"].inputs[1], found["clean"].targets[1])


def test_the_shipped_network_denoises_in_the_table(images, pairs):
    command = [sys.executable, SCRIPT, "shipped:denoise", "--images", images, "--pairs", pairs]
    answer = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    rows = {(row["name"], row["precision"]): row for row in json.loads(answer.stdout)["rows"]}
    assert list(rows) == [
        ("input", "fp32"),
        ("shipped:denoise", "fp32"),
        ("shipped:denoise", "int8"),
    ]
    noisy = rows["input", "fp32"]["sources"]["sigma 25"]
    for precision in ("fp32", "int8"):
        restored = rows["shipped:denoise", precision]["sources"]["sigma 25"]
        assert restored["psnr_db"] > noisy["psnr_db"] + 8
        assert restored["ssim"] > noisy["ssim"] + 0.3
    assert "clean" not in rows["input", "fp32"]["sources"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "sigma 50 (2)" in table
    assert f"{noisy['psnr_db']:.2f} / {noisy['ssim']:.3f}" in table


@pytest.mark.parametrize(
    ("options", "says"),
    [([], "give --images, --pairs or both"), (["--images", "none"], "none holds no images")],
    ids=str,
)
def test_missing_images_are_one_line(options, says):
    command = [sys.executable, SCRIPT, "shipped:denoise", *options]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode != 0
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr
