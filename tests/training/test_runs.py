"""Recipes of several runs: each from the weights before, resumed, averaged, refused."""

from __future__ import annotations

from unittest.mock import Mock, call

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.errors import OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.training import job, runs
from mirnet_edge.training.job import TrainingRequest, train_weights
from mirnet_edge.training.recipe import read_recipe
from mirnet_edge.training.runs import train_by_recipe

_RECIPE = """
schema_version = 2
architecture = "edge"

[network]
channels = [8, 8, 8]
exposure_channels = 4

[training]
steps = 2
batch = 1
crops = [32]
exposure_steps = 0

[[runs]]

[[runs]]
training = { steps = 3, seed = 4, learning_rate = 1e-2 }
"""


@pytest.fixture
def request_of(tmp_path, write_pairs):
    """Return a request: request_of(recipe text, max_seconds=0)."""
    write_pairs(tmp_path / "data")
    path = tmp_path / "several.toml"

    def make(text=_RECIPE, **values):
        path.write_text(text)
        return TrainingRequest(
            data=tmp_path / "data", out=tmp_path / "out", recipe=str(path), workers=0,
            device="cpu", **values,
        )  # fmt: skip

    return make


def test_each_run_starts_from_the_weights_of_the_one_before(request_of, tmp_path):
    observer = Mock()
    trained = train_by_recipe(request_of(), observer)
    assert observer.on_run.call_args_list == [
        call(1, 2, is_finished=False), call(2, 2, is_finished=False),
    ]  # fmt: skip
    first, second = (
        checkpoints.load(str(tmp_path / f"out/run-{number}/low-light.safetensors"))
        for number in (1, 2)
    )
    assert (first.card.recipe["steps"], second.card.recipe["steps"]) == (2, 3)
    assert (first.card.parent, second.card.parent) == (None, first.sha256)
    assert second.card.recipe["seed"] == 4
    assert second.card.recipe["crops"] == [32]  # of all runs
    assert trained.weights == tmp_path / "out/low-light.safetensors"
    assert sha256_of(trained.weights) == second.sha256
    assert trained.score.step == trained.steps == 3


def test_a_stopped_run_is_resumed_and_a_finished_one_is_skipped(request_of, monkeypatch):
    trained = []

    def train(request, observer):
        trained.append(request.run)
        return train_weights(request, observer)

    monkeypatch.setattr(runs, "train_weights", train)
    stopped = train_by_recipe(request_of(max_seconds=0.0), Mock())
    assert (stopped.score.step, stopped.steps, trained) == (1, 2, [1])
    train_by_recipe(request_of(), Mock())
    assert trained == [1, 1, 2]
    observer = Mock()
    again = train_by_recipe(request_of(), observer)
    assert observer.on_run.call_args_list[0] == call(1, 2, is_finished=True)
    assert (trained, again.score.step) == ([1, 1, 2, 2], 3)


def test_other_initial_weights_train_every_run_again(request_of, tmp_path):
    train_by_recipe(request_of(), Mock())
    other = tmp_path / "other.safetensors"
    other.write_bytes((tmp_path / "out/low-light.safetensors").read_bytes())
    for folder in (tmp_path / "out").glob("run-*"):
        (folder / "state.pt").unlink()
    observer = Mock()
    train_by_recipe(request_of(init=str(other)), observer)
    assert observer.on_run.call_args_list[0] == call(1, 2, is_finished=False)


def test_a_finished_run_whose_recipe_has_changed_is_not_skipped(request_of, tmp_path):
    train_by_recipe(request_of(), Mock())
    for folder in (tmp_path / "out").glob("run-*"):
        (folder / "state.pt").unlink()
    observer = Mock()
    train_by_recipe(request_of(_RECIPE.replace("batch = 1", "batch = 2")), observer)
    assert observer.on_run.call_args_list[0] == call(1, 2, is_finished=False)


def test_a_finished_run_that_now_ends_otherwise_ends_again_without_training(request_of, tmp_path):
    train_by_recipe(request_of(), Mock())
    weights = tmp_path / "out/run-1/low-light.safetensors"
    before = sha256_of(weights)
    (tmp_path / "out/run-2/state.pt").unlink()  # of the weights before
    text = _RECIPE.replace("[[runs]]\n\n", "[[runs]]\nsilence_fraction = 0.3\n\n", 1)
    observer = Mock()
    train_by_recipe(request_of(text), observer)
    assert observer.on_run.call_args_list[0] == call(1, 2, is_finished=False)
    assert observer.on_start.call_args_list[0].args[1] == 2  # at its last step
    assert sha256_of(weights) != before
    train_by_recipe(request_of(text), observer)
    assert observer.on_run.call_args_list[2] == call(1, 2, is_finished=True)


def test_the_last_weights_are_interpolated_from_those_of_the_run_before(request_of, tmp_path):
    text = f"{_RECIPE}interpolation = 0.25\n"
    train_by_recipe(request_of(), Mock())
    whole = checkpoints.load(str(tmp_path / "out/low-light.safetensors")).model
    first = checkpoints.load(str(tmp_path / "out/run-1/low-light.safetensors")).model
    trained = train_by_recipe(request_of(text), Mock())
    loaded = checkpoints.load(str(trained.weights))
    assert not torch.equal(whole.head.weight, first.head.weight)
    torch.testing.assert_close(
        loaded.model.head.weight, torch.lerp(first.head.weight, whole.head.weight, 0.25)
    )
    assert "0.25 of the way from the parent" in loaded.card.note
    assert loaded.card.figures["val_psnr_db"] == pytest.approx(trained.score.psnr_db, abs=1e-3)


def test_a_run_has_data_of_its_own_and_may_be_quantization_aware(request_of, tmp_path, write_pairs):
    write_pairs(tmp_path / "data/more", 6)
    text = _RECIPE.replace("training = {", 'data = "more"\nqat = true\ntraining = {')
    trained = train_by_recipe(request_of(text), Mock())
    assert checkpoints.load(str(trained.weights)).card.trained_on == "more"
    assert checkpoints.load(str(trained.weights)).card.teacher is not None  # its fp32 self


def test_channels_that_contribute_least_are_zero_after_a_run(request_of, tmp_path):
    trained = train_by_recipe(
        request_of(_RECIPE.replace("[[runs]]\n\n", "[[runs]]\nsilence_fraction = 0.9\n\n")
                   .replace("channels = [8, 8, 8]", "channels = [16, 16, 16]\nlight = true")
                   .replace("steps = 3", "steps = 1")), Mock(),
    )  # fmt: skip
    first, last = (
        checkpoints.load(str(path))
        for path in (tmp_path / "out/run-1/low-light.safetensors", trained.weights)
    )
    assert "contribute least (0.9 of a layer) on" in first.card.note
    assert last.card.note is None
    maker = first.model.blocks[0].middle.body[0]
    zero = (maker.weight.abs().sum((1, 2, 3)) == 0.0) & (maker.bias == 0.0)
    assert 8 <= int(zero.sum()) < len(zero)
    assert int(zero.sum()) % 8 == 0


def test_weights_are_scored_without_those_channels(request_of, monkeypatch):
    def ruin(network, batches, *, fraction):
        with torch.no_grad():
            network.head.bias.fill_(9.0)  # all white
        return {"head": 8}

    monkeypatch.setattr(job, "silence_dead_channels", ruin)
    text = _RECIPE.replace("training = {", "silence_fraction = 0.5\ntraining = {")
    whole = train_by_recipe(request_of(), Mock()).score.psnr_db
    trained = train_by_recipe(request_of(text), Mock())
    figures = checkpoints.load(str(trained.weights)).card.figures
    assert figures["val_psnr_db"] == pytest.approx(trained.score.psnr_db, abs=1e-3)
    assert trained.score.psnr_db < whole - 1.0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"training": {"steps": 9}}, "an option for steps"),
        ({"architecture": "mirnet"}, "an option for model"),
        ({"qat": True, "init": "shipped:low-light"}, "leave out --qat"),
    ],
)
def test_options_of_a_single_run_are_refused(values, says, request_of, tmp_path):
    with pytest.raises(OptionError, match=says):
        train_by_recipe(request_of(**values), Mock())
    assert not (tmp_path / "out").exists()


def test_who_trains_one_run_refuses_several(request_of):
    with pytest.raises(OptionError, match="has 2 runs"):
        train_weights(request_of(), Mock())


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ("training = { stepz = 3 }", "unknown fields stepz"),
        ("qat = true\ninterpolation = 0.5", "exclude each other"),
        ("interpolation = 0", "greater than 0"),
        ("qat = true\nsilence_fraction = 0.02", "exclude each other"),
        ("silence_fraction = 1.0", "less than 1"),
        ("init = 'x'", "runs.2.init"),
    ],
)
def test_a_wrong_run_is_refused(added, says, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(f"{_RECIPE}\n[[runs]]\n{added}\n")
    with pytest.raises(OptionError, match=says):
        read_recipe(str(path))
