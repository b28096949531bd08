"""The old-photo benchmark: how photos are aged, its table, its sheet and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks/old_photos.py"


@pytest.fixture(scope="module")
def benchmark_module(load_script):
    return load_script("old_photos")


def _photo(number=0):
    y, x = np.mgrid[:64, :96]
    frame = np.stack([90 + x // 2, 150 - y // 2, 100 + (x + y) // 4], 2) + 5 * number
    return frame.astype(np.uint8)


@pytest.fixture
def images(tmp_path):
    """Return a folder with two smooth color photos."""
    (tmp_path / "clean").mkdir()
    for number in range(2):
        Image.fromarray(_photo(number)).save(tmp_path / f"clean/{number}.png")
    return tmp_path / "clean"


def _made(benchmark_module, kind, count=12):
    return [benchmark_module.age(_photo(), kind, number) for number in range(count)]


def test_photos_are_aged_by_kind_and_the_same_at_every_call(benchmark_module):
    for kind in benchmark_module.KINDS:
        one, two = _made(benchmark_module, kind, 3), _made(benchmark_module, kind, 3)
        assert all(np.array_equal(a.aged, b.aged) for a, b in zip(one, two, strict=True))
    assert all(np.array_equal(one.aged, _photo()) for one in _made(benchmark_module, "clean"))
    for one in _made(benchmark_module, "black and white"):
        assert np.ptp(one.clean.astype(int), axis=2).max() <= 1
    for one in _made(benchmark_module, "color print"):
        assert np.array_equal(one.clean, _photo())


def test_damage_is_measured_on_its_pixels_alone(benchmark_module):
    photo = next(one for one in _made(benchmark_module, "color print") if one.damage.any())
    shifted = np.clip(photo.clean.astype(int) + 10, 0, 255).astype(np.uint8)
    elsewhere = np.where(photo.damage[..., None], photo.clean, shifted)
    assert photo.damage_db(shifted) == pytest.approx(10 * np.log10(255.0**2 / 100.0))
    assert photo.damage_db(elsewhere) > 100.0
    perfect = benchmark_module.measure(lambda frame: photo.clean, [photo])
    assert (perfect.psnr_db, perfect.ssim) == (100.0, pytest.approx(1.0))
    undamaged = _made(benchmark_module, "clean", 1)
    assert benchmark_module.measure(lambda frame: frame, undamaged).damage_db is None


def test_the_shipped_network_restores_prints_and_scans(images, tmp_path):
    sheet = tmp_path / "new/sheet.png"
    command = [sys.executable, SCRIPT, "shipped:old-photo", "--images", images]
    command += ["--scans", images, "--sheet", sheet]
    answer = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    rows = {(row["name"], row["precision"]): row for row in json.loads(answer.stdout)["rows"]}
    assert list(rows) == [
        ("input", ""),
        ("shipped:old-photo", "fp32"),
        ("shipped:old-photo", "int8"),
    ]
    noisy = rows["input", ""]["kinds"]["noisy scan"]
    for precision in ("fp32", "int8"):
        restored = rows["shipped:old-photo", precision]["kinds"]["noisy scan"]
        assert restored["psnr_db"] > noisy["psnr_db"]
    # two scans one below the other, each with its captioned results
    with Image.open(sheet) as opened:
        drawn = np.asarray(opened)
    assert drawn.shape == (2 * (64 + 20), 3 * 96, 3)
    scan = drawn[20:84]
    assert np.array_equal(scan[:, :96], _photo())
    assert not np.array_equal(scan[:, 96:192], _photo())


def test_the_table_has_a_column_for_each_kind(benchmark_module, capsys):
    photos = {kind: _made(benchmark_module, kind, 1) for kind in benchmark_module.KINDS}
    rows, _ = benchmark_module.measure_all((), photos, {})
    benchmark_module.print_table(rows, 1)
    table = capsys.readouterr().out
    assert "| color print | black and white | noisy scan | clean |" in table
    assert f"{rows[0]['kinds']['color print']['psnr_db']:.2f} / " in table


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give --images, --scans or both"),
        (["--scans", "none"], "--scans and --sheet go together"),
        (["--images", "none"], "none holds no images"),
    ],
    ids=str,
)
def test_missing_images_are_one_line(options, says):
    command = [sys.executable, SCRIPT, "shipped:old-photo", *options]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode != 0
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr
