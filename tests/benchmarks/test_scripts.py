"""The scripts in benchmarks/: what they make bad, what they pair, what they print."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

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
