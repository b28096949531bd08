"""mirnet-train as it is typed: a step or two on tiny images, stopped and gone on with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.cli.train import main

SMALL = [
    "--batch", "1", "--crop", "32", "--seed", "3", "--exposure-steps", "2", "--channels", "8,8,8",
    "--device", "cpu",
]  # fmt: skip


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


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_weights_have_a_card_that_describes_the_training(pairs, tmp_path, ran):
    found = ran(main, "--data", pairs, "--out", tmp_path, "--steps", 2, *SMALL, "--json")
    told = json.loads(found.out)
    loaded = checkpoints.load(told["weights"])
    assert found.code == 0
    assert loaded.architecture == "edge"
    assert loaded.model.config.channels == (8, 8, 8)
    assert loaded.card.task == "low-light"
    assert loaded.card.trained_on == pairs.name
    assert loaded.card.recipe["steps"] == told["step"] == 2
    assert loaded.card.recipe["seed"] == 3
    assert loaded.card.recipe["exposure_steps"] == 2
    assert loaded.card.figures["val_psnr_db"] == pytest.approx(told["psnr_db"], abs=1e-3)
    assert len(loaded.card.data_sha256) == 64


def test_a_finished_run_is_reported_and_not_repeated(pairs, tmp_path, ran):
    arguments = ["--data", pairs, "--out", tmp_path, "--steps", 1, *SMALL]
    first = ran(main, *arguments)
    assert first.code == 0
    assert re.search(r"^exposure branch: 12 steps, loss \d\.\d{4}$", first.err, re.MULTILINE)
    assert f"{tmp_path / 'low-light.safetensors'}: " in first.out
    assert "dB, SSIM 0." in first.out
    again = ran(main, *arguments)
    assert again.code == 0
    assert "going on at step 1 of 1" in again.err
    assert again.out == first.out


def test_changed_options_of_a_resumed_run_are_refused_by_name(pairs, tmp_path, ran):
    arguments = ["--data", pairs, "--out", tmp_path, *SMALL]
    assert ran(main, *arguments, "--steps", 1).code == 0
    found = ran(main, *arguments, "--steps", 2)
    assert (found.code, found.out) == (2, "")
    assert "steps" in found.err.splitlines()[-1]


def test_clean_images_are_enough_to_learn_denoising(clean, tmp_path, ran):
    found = ran(
        main, "--task", "denoise", "--data", clean, "--out", tmp_path, "--steps", 1, *SMALL,
        "--precision", "bf16", "--workers", 0,
    )  # fmt: skip
    assert found.code == 0
    loaded = checkpoints.load(tmp_path / "denoise.safetensors")
    assert loaded.card.task == "denoise"
    assert loaded.model.exposure is None


def test_mirnet_trains_by_the_paper_s_recipe(pairs, tmp_path, ran):
    found = ran(
        main, "--recipe", "paper", "--model", "mirnet", "--channels", 8, "--blocks", 1,
        "--data", pairs, "--out", tmp_path, "--steps", 1, "--batch", 1, "--crop", 32,
        "--device", "cpu",
    )  # fmt: skip
    assert found.code == 0
    loaded = checkpoints.load(tmp_path / "low-light.safetensors")
    assert loaded.architecture == "mirnet"
    assert (loaded.model.config.channels, loaded.model.config.blocks) == (8, 1)
    assert (loaded.card.recipe["ema_decay"], loaded.card.recipe["schedule"]) == (0.0, "constant")


def test_init_teacher_and_replay_are_taken_from_the_command_line(pairs, clean, tmp_path, ran):
    first = tmp_path / "first"
    assert ran(main, "--data", pairs, "--out", first, "--steps", 1, *SMALL).code == 0
    weights = first / "low-light.safetensors"
    found = ran(
        main, "--data", pairs, "--out", tmp_path / "second", "--init", weights, "--teacher",
        weights, "--replay", pairs, "--unlabeled", clean, "--steps", 1, "--batch", 1, "--crop", 32,
        "--device", "cpu", "--exposure-steps", 0, "--learning-rate", 1e-5,
    )  # fmt: skip
    assert found.code == 0
    card = checkpoints.load(tmp_path / "second/low-light.safetensors").card
    assert card.parent == card.teacher == checkpoints.load(weights).sha256
    assert found.err.count("before training: PSNR ") == 1
    assert card.recipe["learning_rate"] == 1e-5
    # four pairs, the three of them that are trained on again, and three without references
    assert " 10/10 " in found.err
    assert card.note.startswith(f"pseudo-labels of the teacher for {clean.name}; half of")


def test_interpolated_weights_and_their_accuracy_drop_are_printed(pairs, tmp_path, ran):
    first = tmp_path / "first"
    assert ran(main, "--data", pairs, "--out", first, "--steps", 1, *SMALL).code == 0
    arguments = (
        "--data", pairs, "--out", tmp_path / "second", "--init", first / "low-light.safetensors",
        "--replay", pairs, "--keep", 60, "--steps", 1, "--batch", 1, "--crop", 32,
        "--device", "cpu",
    )  # fmt: skip
    said = ran(main, *arguments)
    assert said.code == 0
    assert "100% of the way from" in said.out
    found = json.loads(ran(main, *arguments, "--json").out)
    assert found["share"] == 1.0
    assert found["accuracy_drop_db"] < 60


def test_a_run_stops_when_its_minutes_are_up(pairs, tmp_path, ran):
    found = ran(
        main, "--data", pairs, "--out", tmp_path, "--steps", 500, *SMALL, "--max-minutes", 1e-6,
        "--json",
    )  # fmt: skip
    assert found.code == 0
    told = json.loads(found.out)
    assert (told["step"], told["steps"]) == (1, 500)
    # one more step, as text
    said = ran(
        main, "--data", pairs, "--out", tmp_path, "--steps", 500, *SMALL, "--max-minutes", 1e-6
    )
    assert "stopped by --max-minutes after 2 of 500 steps" in said.out


@dataclass(frozen=True)
class Refused:
    id: str
    arguments: list[str]
    says: str


REFUSED = [
    Refused("task", ["--task", "fog"], "expected the task low-light, denoise"),
    Refused("steps", ["--steps", "0"], "--steps must be above 0, found 0"),
    Refused("minutes", ["--max-minutes", "0"], "--max-minutes must be above 0, found 0"),
    Refused("workers", ["--workers", "-1"], "--workers must not be negative, found -1"),
    Refused("data", ["--data", "absent"], "--data absent is not a folder"),
    Refused("replay", ["--replay", "absent"], "--replay absent is not a folder"),
    Refused("unlabeled", ["--unlabeled", "."], "get pseudo-labels of a teacher; give --teacher"),
    Refused(
        "keep", ["--keep", "0.3"], "--keep limits the accuracy drop of --init on the images of"
    ),
    Refused(
        "keep less",
        ["--init", "shipped:low-light", "--replay", ".", "--keep", "-1"],
        "--keep must be 0 dB or more, found -1",
    ),
    Refused(
        "keep int8",
        ["--init", "shipped:low-light", "--replay", ".", "--keep", "1", "--qat"],
        "--keep interpolates float weights; leave out --keep or --qat",
    ),
    Refused("recipe", ["--recipe", "fog"], "there is no recipe fog"),
    Refused("channels", ["--channels", "wide"], "--channels must be numbers, as 32,48,64; found"),
    Refused("no channels", ["--channels", ""], "--channels must be numbers"),
    Refused("two channels", ["--channels", "8,8"], "channels must be three positive numbers"),
    Refused("model", ["--model", "unet"], "'unet' is not one of 'edge', 'mirnet', 'mirnet-v2'"),
    Refused("blocks", ["--blocks", "0"], "blocks must be at least 1"),
    Refused("crop", ["--crop", "40"], "Choose --crop 32"),
    Refused("device", ["--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
    Refused("precision", ["--precision", "int8"], "'int8' is not one of 'fp32', 'bf16', 'fp16'"),
    Refused("half", ["--device", "cpu", "--precision", "fp16"], "use bf16 on a processor"),
    Refused("init", ["--init", "absent.safetensors"], "absent.safetensors does not exist"),
    Refused("teacher", ["--teacher", "shipped:fog"], "the package ships no weights 'shipped:fog'"),
    Refused(
        "init with channels",
        ["--init", "shipped:low-light", "--channels", "8,8,8"],
        "--init determines the network",
    ),
    Refused(
        "mirnet doubling",
        ["--task", "super-resolution", "--model", "mirnet"],
        "needs a network of scale 2; a MIRNet of these settings has scale 1",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_bad_options_are_one_line_and_nothing_is_written(pairs, tmp_path, ran, case):
    found = ran(main, "--data", pairs, "--out", tmp_path / "new", *case.arguments)
    assert (found.code, found.out) == (2, "")
    lines = [line for line in found.err.splitlines() if line.startswith("mirnet-train: ")]
    assert case.says in lines[0]
    assert len(lines) == 1
    assert found.err.splitlines()[-1] == lines[0]
    assert not (tmp_path / "new").exists()
