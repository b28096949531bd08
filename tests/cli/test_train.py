"""mirnet-train as it is typed: two steps on eight pairs, stopped and gone on with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.cli.train import main

SMALL = ["--batch", "1", "--crop", "32", "--seed", "3", "--exposure-steps", "2"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["low,high,scene,split"]
    for number in range(4):
        high = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        for kind, pixels in (("low", high // 5), ("high", high)):
            Image.fromarray(pixels).save(folder / f"{kind}{number}.png")
        split = "val" if number == 0 else "train"
        rows.append(f"low{number}.png,high{number}.png,{number},{split}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(one) for one in arguments])
    return left.value.code, *capsys.readouterr()


def test_weights_come_out_with_a_card_that_says_how(pairs, tmp_path, capsys):
    code, out, _ = run(capsys, "--data", pairs, "--out", tmp_path, "--steps", 2, *SMALL, "--json")
    told = json.loads(out)
    loaded = checkpoints.load(told["weights"])
    assert code == 0
    assert loaded.architecture == "edge"
    assert loaded.card.task == "low-light"
    assert loaded.card.trained_on == pairs.name
    assert loaded.card.recipe["steps"] == 2
    assert loaded.card.recipe["seed"] == 3
    assert loaded.card.figures["val_psnr_db"] == pytest.approx(told["psnr_db"], abs=1e-3)
    assert len(loaded.card.data_sha256) == 64


def test_a_finished_run_is_told_and_not_repeated(pairs, tmp_path, capsys):
    arguments = ["--data", pairs, "--out", tmp_path, "--steps", 1, *SMALL]
    assert run(capsys, *arguments)[0] == 0
    code, _, err = run(capsys, *arguments)
    assert code == 0
    assert "going on at step 1 of 1" in err


def test_other_options_for_a_begun_run_are_refused_by_name(pairs, tmp_path, capsys):
    arguments = ["--data", pairs, "--out", tmp_path, *SMALL]
    assert run(capsys, *arguments, "--steps", 1)[0] == 0
    code, _, err = run(capsys, *arguments, "--steps", 2)
    assert code == 2
    assert "steps" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "fog"], "--task must be low-light"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--max-minutes", "0"], "--max-minutes must be above 0"),
        (["--data", "absent"], "absent"),
    ],
)
def test_bad_options_are_one_line(pairs, tmp_path, capsys, arguments, says):
    code, out, err = run(capsys, "--data", pairs, "--out", tmp_path / "new", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert not (tmp_path / "new").exists()
