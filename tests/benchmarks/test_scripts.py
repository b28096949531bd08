"""The scripts in benchmarks/: what they make bad, what they pair, what they print."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.checkpoints.families import plain_config
from mirnet_edge.metrics import psnr
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.pruning.record import (
    LatencyGoal,
    NetworkSize,
    PruneRecord,
    PruningAttempt,
    PruningOptions,
    PruningQuality,
    PruningRound,
)
from mirnet_edge.pruning.timing import timing_conditions

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
    assert {one.kind for one in conditions} == {"light", "noise", "size", "JPEG", "color"}
    names = [(one.kind, one.name) for one in conditions]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("task", TASKS)
def test_a_well_lit_clean_photo_is_itself_what_is_to_come_out(robustness, photo, task):
    clean = next(one for one in robustness.conditions_of(task) if not one.bad)
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


def test_an_old_photo_without_colors_is_to_come_out_without(robustness, photo):
    found = {
        task: [one for one in robustness.conditions_of(task) if one.monochrome] for task in TASKS
    }
    assert {task for task, conditions in found.items() if conditions} == {"old-photo"}
    for condition in found["old-photo"]:
        bad, truth = robustness.made_bad("old-photo", photo, condition, np.random.default_rng(0))
        assert np.ptp(truth, 2).max() == 0
        assert np.array_equal(bad, truth) != condition.bad
        assert np.ptp(bad, 2).max() > 20 or not condition.bad  # it turned brown


def _pruned(distilled):
    network = MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1))
    config = plain_config(network.config)
    asked = PruningOptions(
        weights_sha256="0", data="lol", task="low-light", speedup=2.0, latency_ms=None, like=None,
        backend="onnxruntime", size=(16, 16), importance="taylor", round_to=8, blocks=False,
        rounds=1, recipe="prune", training={}, seed=0,
    )  # fmt: skip
    attempts = [
        PruningAttempt(config=config, predicted_ms=9.0, unpruned_ms=20.0, pruned_ms=time)
        for time in (12.0, 8.0)
    ]
    only = PruningRound(
        goal=LatencyGoal(speedup=2.0), candidates=[], kept=[[0]], attempts=attempts, best=1,
        table_unpruned_ms=18.0, reached=True, cut=_quality(15.0), distilled=distilled,
    )  # fmt: skip
    return PruneRecord(
        asked=asked, conditions=timing_conditions(network, "onnxruntime", (16, 16), 8),
        unpruned=_quality(20.5), unpruned_size=NetworkSize(gmacs=7.5, parameters=9),
        pruned_size=NetworkSize(gmacs=2.5, parameters=3), rounds=[only],
    )  # fmt: skip


def _quality(psnr_db, steps=0):
    return PruningQuality(psnr_db=psnr_db, psnr_gtmean_db=24.0, ssim=0.8, steps=steps)


def test_the_pruning_table_says_what_was_lost_and_what_was_not_trained():
    table = script("pruning").table_of({"a": _pruned(_quality(20.25, 300)), "b": _pruned(None)})
    rows = table.splitlines()[2:]
    assert rows == [
        "| unpruned | 7.50 | 1.00 | | 20.50 | | 24.00 | 0.8000 | |",
        "| a | 2.50 | 2.50 | 15.00 | 20.25 | -0.25 | 24.00 | 0.8000 | 300 |",
        "| b | 2.50 | 2.50 | 15.00 | not trained yet |  |  |  | 0 |",
    ]


def test_the_controls_of_the_pruning_table_take_the_widths_of_the_first():
    given = argparse.Namespace(
        weights="w", data=Path("lol"), out=Path("out"), speedup=[2.0, 4.0], backend="openvino",
        size="256x192", steps=3,
    )  # fmt: skip
    found = script("pruning").requests_for(given)
    assert list(found) == [
        "2x-taylor", "2x-magnitude", "2x-random", "4x-taylor", "4x-magnitude", "4x-random",
    ]  # fmt: skip
    assert found["2x-taylor"].blocks
    assert found["4x-random"].like == found["4x-taylor"].out
    assert found["4x-random"].training == found["4x-taylor"].training
