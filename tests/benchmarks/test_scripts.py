"""The scripts in benchmarks/: what they make bad, what they pair, what they print."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import DataError
from mirnet_edge.metrics import psnr

FOLDER = Path(__file__).parents[2] / "benchmarks"
TASKS = ("low-light", "denoise", "super-resolution", "old-photo")


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def robustness():
    return script("robustness")


@pytest.fixture
def photo(frames_of):
    return np.kron(frames_of(30, 40)[0], np.ones((4, 4, 1), np.uint8))


@pytest.mark.parametrize("task", TASKS)
def test_each_table_has_every_kind_of_condition_once(robustness, task):
    conditions = robustness.conditions_of(task)
    assert {one.kind for one in conditions} == {"light", "noise", "size", "JPEG", "colour"}
    names = [(one.kind, one.name) for one in conditions]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("task", TASKS)
def test_a_well_lit_clean_photo_is_itself_what_is_to_come_out(robustness, photo, task):
    (clean,) = (one for one in robustness.conditions_of(task) if not one.bad)
    bad, truth = robustness.made_bad(task, photo, clean, np.random.default_rng(0))
    assert np.array_equal(truth, photo)
    assert np.array_equal(robustness.enlarged(bad, truth), photo) or task == "super-resolution"


@pytest.mark.parametrize("task", TASKS)
def test_every_other_condition_makes_the_photo_bad(robustness, photo, task):
    for condition in robustness.conditions_of(task):
        if condition.bad and condition.name not in ("sigma 0", "240 lines", "1080 lines"):
            bad, truth = robustness.made_bad(task, photo, condition, np.random.default_rng(0))
            before = float(psnr(robustness.enlarged(bad, truth)[None], truth[None])[0])
            noisy_or_smaller = task in ("denoise", "low-light", "old-photo")
            assert before < 45 or not noisy_or_smaller, condition


def test_only_low_light_is_to_bring_the_light_back(robustness, photo):
    dark = robustness.Condition("light", "dark", robustness.LowLight(exposure=0.1))
    for task in TASKS:
        _, truth = robustness.made_bad(task, photo, dark, np.random.default_rng(0))
        assert np.array_equal(truth, photo) == (task == "low-light")


def test_pictures_are_paired_by_their_suffixes_and_what_is_missing_is_named(tmp_path):
    quality = script("quality")
    for name in ("a_real.png", "a_mean.png", "b_real.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(DataError, match=r"1 of them without one that ends in _mean \(b_mean.png\)"):
        quality.by_suffixes(tmp_path, "_real", "_mean")
    (tmp_path / "b_real.png").unlink()
    (pair,) = quality.by_suffixes(tmp_path, "_real", "_mean")
    assert (pair.low.name, pair.high.name) == ("a_real.png", "a_mean.png")
    with pytest.raises(DataError, match="0 pictures whose names end in _noisy"):
        quality.by_suffixes(tmp_path, "_noisy", "_mean")


def test_quality_holds_a_bundle_against_the_baselines_of_its_task(
    make_bundle, tmp_path, monkeypatch, capsys, frames_of
):
    folder = tmp_path / "pairs"
    for kind, gain in (("low", 1.0), ("high", 1.5)):
        (folder / kind).mkdir(parents=True)
        for number in range(2):
            frame = frames_of(48, 64, 2)[number] // 2
            Image.fromarray((frame * gain).astype(np.uint8)).save(folder / kind / f"{number}.png")
    bundle = make_bundle()  # it brightens by half
    monkeypatch.setattr(sys, "argv", ["quality", str(bundle), "--data", str(folder), "--json"])
    script("quality").main()
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"as it is", "gamma", "CLAHE", "onnxruntime:fp32"} <= set(rows)
    assert rows["onnxruntime:fp32"]["psnr_db"] > 45 > rows["as it is"]["psnr_db"]
    assert {row["pictures"] for row in rows.values()} == {1}
