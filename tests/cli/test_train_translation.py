"""`mirnet train --recipe old-photo-translation` as it is typed, with a tiny recipe of that form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.cli.train import main

RECIPE = """
schema_version = 1
clean = ["clean"]
real = "real"
real_held_out = ["1"]

[network]
stem_channels = 4
channels = 8
latent_channels = 6
vae_blocks = 1
mapping_blocks = 1
attention_channels = 4
detector_channels = 4
"""
STAGE = '\n[[stages]]\nname = "{}"\nsteps = 1\nbatch = 1\ncrop = 32\nlearning_rate = 1e-3\n'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("clean", 3), ("real", 2)):
        (folder / name).mkdir()
        for place in range(count):
            pixels = np.random.default_rng(place).integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    stages = "".join(map(STAGE.format, ("detector", "old", "clean", "mapping")))
    (folder / "recipe.toml").write_text(RECIPE + stages)
    return folder


def test_all_stages_are_trained_and_the_graph_is_exported(data, tmp_path, ran):
    typed = ["--data", data, "--out", tmp_path, "--task", "old-photo"]
    typed += ["--recipe", data / "recipe.toml"]
    stopped = ran(main, *typed, "--max-minutes", "0.00001")
    assert stopped.code == 0
    assert "the same command resumes" in stopped.out
    assert not (tmp_path / "old-photo-translation.onnx").exists()
    found = ran(main, *typed, "--json")
    assert found.code == 0
    printed = json.loads(found.out)
    assert (printed["step"], printed["finished"]) == (4, True)
    assert set(printed["mapping"]) == {"loss", "psnr_db", "damage_db"}
    assert set(printed["detector"]) == {"loss", "damage_iou"}
    assert (tmp_path / "old-photo-translation.onnx").is_file()
    assert "going on at step 1 of 4" in found.err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--task", "low-light"], "needs --task old-photo, found low-light"),
        (["--task", "old-photo", "--steps", "3"], "leave out --steps"),
        (["--task", "old-photo", "--device", "cuda"], "leave out --device"),
        (["--task", "old-photo", "--precision", "fp16"], "choose fp32 or bf16"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, tmp_path, ran, typed, says):
    found = ran(
        main, "--data", data, "--out", tmp_path, "--recipe", "old-photo-translation", *typed
    )
    assert found.code == 2
    assert says in found.err
