"""mirnet-calibrate as it is typed."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from mirnet_edge.cli.calibrate import main


def _views(folder, count):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"{number}.png")
    return folder


def test_a_set_is_written_and_described(ran, tmp_path):
    source = _views(tmp_path / "in", 10)
    done = ran(main, "--source", source, "--out", tmp_path / "set", "--json")
    assert done.code == 0
    assert json.loads(done.out)["images"] == 10
    assert (tmp_path / "set" / "set.toml").is_file()


def test_an_empty_source_is_one_line(ran, tmp_path):
    (tmp_path / "in").mkdir()
    done = ran(main, "--source", tmp_path / "in", "--out", tmp_path / "set")
    assert done.code == 2
    assert "gave 0 frames" in done.line
