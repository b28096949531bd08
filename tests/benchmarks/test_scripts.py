"""The scripts in benchmarks/: degradations, runs to compare, tables."""

from __future__ import annotations

import argparse
import math
import sys
from itertools import pairwise
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

UNDEGRADED = {
    "low-light": {"well lit, clean"},
    "denoise": {"well lit, clean", "sigma 0"},
    "super-resolution": set(),
    "old-photo": {"well lit, clean", "black and white, clean"},
}
"""Conditions whose input equals the ground truth, by task."""


@pytest.fixture(scope="module")
def robustness(load_script):
    return load_script("robustness")


@pytest.fixture
def image(frames_of):
    return np.kron(frames_of(30, 40)[0], np.ones((4, 4, 1), np.uint8))


def input_psnr_db(robustness, task, image, condition):
    """Return the PSNR of a condition's degraded input to its ground truth."""
    low, truth = robustness.degrade(task, image, condition, np.random.default_rng(0))
    return float(psnr(robustness.enlarge_bicubic(low, truth.shape[:2])[None], truth[None])[0])


@pytest.mark.parametrize("task", UNDEGRADED)
def test_each_table_has_every_kind_of_condition_once(robustness, task):
    conditions = robustness.list_conditions(task)
    assert {one.kind for one in conditions} == {"light", "noise", "size", "JPEG", "color"}
    names = [(one.kind, one.name) for one in conditions]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("task", UNDEGRADED)
def test_a_clean_well_lit_image_is_its_own_ground_truth(robustness, image, task):
    clean = next(one for one in robustness.list_conditions(task) if not one.degraded)
    low, truth = robustness.degrade(task, image, clean, np.random.default_rng(0))
    np.testing.assert_array_equal(truth, image)
    assert low.shape == ((60, 80, 3) if task == "super-resolution" else image.shape)


@pytest.mark.parametrize(("task", "undegraded"), UNDEGRADED.items())
def test_exactly_the_named_conditions_leave_the_image_as_it_is(robustness, image, task, undegraded):
    found = {
        one.name: input_psnr_db(robustness, task, image, one)
        for one in robustness.list_conditions(task)
    }
    assert {name for name, decibel in found.items() if math.isinf(decibel)} == undegraded
    assert max(decibel for decibel in found.values() if math.isfinite(decibel)) < 40


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("denoise", "noise"),
        ("super-resolution", "noise"),
        ("denoise", "JPEG"),
        ("low-light", "light"),
    ],
)
def test_stronger_degradations_have_a_lower_psnr(robustness, image, task, kind):
    conditions = [one for one in robustness.list_conditions(task) if one.kind == kind]
    found = [input_psnr_db(robustness, task, image, one) for one in conditions]
    assert len(found) >= 3
    assert all(after < before for before, after in pairwise(found))


def test_only_low_light_has_the_lit_image_as_ground_truth(robustness, image):
    dark = robustness.Condition("light", "dark", robustness.LowLight(exposure=0.1))
    for task in UNDEGRADED:
        _, truth = robustness.degrade(task, image, dark, np.random.default_rng(0))
        assert np.array_equal(truth, image) == (task == "low-light"), task


def test_only_old_photos_have_a_ground_truth_without_colors(robustness, image):
    found = {
        task: [one for one in robustness.list_conditions(task) if one.monochrome]
        for task in UNDEGRADED
    }
    assert {task for task, conditions in found.items() if conditions} == {"old-photo"}
    degraded, clean = found["old-photo"]
    assert (degraded.degraded, clean.degraded) == (True, False)
    for condition in (degraded, clean):
        low, truth = robustness.degrade("old-photo", image, condition, np.random.default_rng(0))
        assert np.ptp(truth, 2).max() == 0
        if condition.degraded:
            assert np.ptp(low, 2).max() > 20  # it turned brown
        else:
            np.testing.assert_array_equal(low, truth)


def test_a_condition_is_measured_at_its_size_and_a_runner_that_changes_nothing_gains_nothing(
    robustness, image
):
    shapes = []

    def restore(batch):
        shapes.append(batch.shape)
        return batch

    for condition in robustness.list_conditions("denoise"):
        row = robustness.measure_condition(restore, "denoise", condition, [image])
        clean = condition.name in UNDEGRADED["denoise"]
        assert (row["input_db"] == 100.0) is clean
        assert clean or row["output_db"] == row["input_db"]
        assert shapes.pop()[1] == condition.height
        assert (row["ssim"] > 0.999) is clean


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


def test_the_pruning_table_has_psnr_gains_and_untrained_runs(load_script):
    runs = {"a": _pruned(_quality(20.25, 300)), "b": _pruned(None)}
    table = load_script("pruning").format_table(runs)
    rows = table.splitlines()[2:]
    assert rows == [
        "| unpruned | 7.50 | 1.00 | | 20.50 | | 24.00 | 0.8000 | |",
        "| a | 2.50 | 2.50 | 15.00 | 20.25 | -0.25 | 24.00 | 0.8000 | 300 |",
        "| b | 2.50 | 2.50 | 15.00 | not trained yet |  |  |  | 0 |",
    ]


def test_pruning_controls_reuse_the_widths_of_the_taylor_run(load_script):
    options = argparse.Namespace(
        weights="w", data=Path("lol"), out=Path("out"), speedup=[2.0, 4.0], backend="openvino",
        size="256x192", steps=3,
    )  # fmt: skip
    found = load_script("pruning").requests_for(options)
    assert list(found) == [
        "2x-taylor", "2x-magnitude", "2x-random", "4x-taylor", "4x-magnitude", "4x-random",
    ]  # fmt: skip
    assert found["2x-taylor"].blocks
    assert found["4x-random"].like == found["4x-taylor"].out
    assert found["4x-random"].training == found["4x-taylor"].training


@pytest.fixture(scope="module")
def low_light_sources(load_script):
    return load_script("low_light_sources")


@pytest.fixture
def low_light_folder(tmp_path, frames_of):
    from PIL import Image

    for number in range(12):
        high = np.kron(frames_of(12, 16)[0], np.ones((4, 4, 1), np.uint8))
        for folder, frame in (("vilnc/low", high // 10), ("vilnc/high", high)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(tmp_path / folder / f"{number}.png")
        photos = tmp_path / "photos/bsds500"
        photos.mkdir(parents=True, exist_ok=True)
        Image.fromarray(high).save(photos / f"{number}.png")
    return tmp_path


def test_low_light_sources_that_are_there_are_measured(low_light_sources, low_light_folder, capsys):
    sources = low_light_sources.list_sources(low_light_folder, None, 3)
    names = [source.name for source in sources]
    assert names == ["vilnc", "synthetic dusk", "synthetic night", "daylight"]
    assert capsys.readouterr().err.count("left out") == 4  # three of lol, and the bursts
    table = low_light_sources.measure(lambda frame: frame, sources, low_light_folder / "night")
    assert table["daylight"][0] == 60.0  # the largest that is counted
    assert table["vilnc"][0] < table["vilnc"][1]  # brightness alone is most of the error
    assert table["vilnc"][4] == pytest.approx(0.1, rel=0.1)  # contrast of a tenth of the light


def test_exposure_branches_are_measured_on_thumbnails(
    low_light_sources, low_light_folder, capsys, monkeypatch
):
    arguments = ["--data", str(low_light_folder), "--thumbnails"]
    monkeypatch.setattr("sys.argv", ["low_light_sources.py", "shipped:low-light", *arguments])
    low_light_sources.main()
    tables = capsys.readouterr().out.split("\n## ")
    (vilnc,) = [table for table in tables if table.startswith("vilnc\n")]
    psnr_db = float(vilnc.strip().splitlines()[-1].split("|")[2])
    assert psnr_db > 14.0  # random pixels, a tenth of the light
    assert tables[-1].splitlines()[-1].endswith("| - |")  # no flicker of thumbnails
    monkeypatch.setattr("sys.argv", ["low_light_sources.py", "shipped:denoise", *arguments])
    with pytest.raises(SystemExit, match="with an exposure branch, found none"):
        low_light_sources.main()


def test_ranks_are_means_over_figures_and_sources(low_light_sources):
    sources = [
        low_light_sources.Source("pairs", lambda: iter(()), 3),
        low_light_sources.Source("daylight", lambda: iter(()), 1),
    ]
    tables = {
        "one": {"pairs": [20.0, 25.0, 0.8, 1, 1], "daylight": [30.0, 30.0, 0.9, 1, 1]},
        "two": {"pairs": [21.0, 25.0, 0.7, 1, 1], "daylight": [40.0, 40.0, 0.9, 1, 1]},
    }
    ranks = low_light_sources.rank(tables, sources)
    assert ranks["one"]["pairs"] == pytest.approx((2 + 1.5 + 1) / 3)
    assert ranks["two"]["pairs"] == pytest.approx((1 + 1.5 + 2) / 3)
    assert (ranks["one"]["daylight"], ranks["two"]["daylight"]) == (2.0, 1.0)
    assert ranks["two"]["mean"] == pytest.approx(1.25)


def test_a_fixed_size_competitor_gets_padded_and_turned_images(low_light_sources, frames_of):
    seen = []

    def infer(batch):
        seen.append(batch.shape)
        return batch

    for frame in (frames_of(40, 60)[0], frames_of(60, 40)[0]):
        output = low_light_sources._in_fixed_size(frame, (48, 80), infer)
        assert np.array_equal(output, frame)
    assert seen == [(48, 80, 3)] * 2


def test_images_are_fitted_to_what_every_competitor_takes(low_light_sources, frames_of):
    fit = low_light_sources.fit
    assert fit(frames_of(400, 600)[0]).shape == (400, 600, 3)
    assert fit(frames_of(512, 512)[0]).shape == (400, 400, 3)
    assert fit(frames_of(900, 450)[0]).shape == (600, 300, 3)


def test_a_sheet_shows_input_models_and_ground_truth_at_one_to_one(low_light_sources, tmp_path):
    from PIL import Image

    low_light_sources.write_sheet({"as it is": lambda frame: frame}, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    cell = low_light_sources._SHEET_CROP + low_light_sources._SHEET_BORDER
    assert sheet.shape[1] == 3 * cell
    dark, same, clean = (sheet[22:222, column * cell : column * cell + 200] for column in range(3))
    assert np.array_equal(dark, same)
    assert dark.mean() < 0.7 * clean.mean()


def test_the_seeds_table_has_its_rows_and_its_mistake(
    tmp_path, capsys, monkeypatch, network_of, load_script
):
    from PIL import Image

    from mirnet_edge import checkpoints

    lines = ["low,high,scene,split"]
    for number in range(2):
        high = np.random.default_rng(number).integers(0, 200, (140, 132, 3), np.uint8)
        Image.fromarray(high).save(tmp_path / f"high{number}.png")
        Image.fromarray(high // 4).save(tmp_path / f"low{number}.png")
        lines.append(f"low{number}.png,high{number}.png,{number},{('train', 'val')[number]}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    weights = tmp_path / "seed.safetensors"
    checkpoints.save(network_of("keras-mirnet"), weights, checkpoints.ModelCard())
    monkeypatch.setattr(sys, "argv", ["seed_table.py", str(weights), "--data", str(tmp_path)])
    load_script("seed_table").main()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()[2:]
    ]
    assert [row[:2] for row in rows] == [
        [name, images]
        for images in ("1 whole", "4 crops of 128")
        for name in ("nothing", "autocontrast", "the network")
    ]
    for row in rows:
        assert float(row[5]) - float(row[2]) == pytest.approx(48.13, abs=0.011)
    nothing, stretched = rows[0], rows[1]
    assert float(stretched[2]) > float(nothing[2]) + 5  # a quarter of the range is stretched
