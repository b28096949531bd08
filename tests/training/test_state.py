"""Training states: resumed completely, also those of schema 1, or refused in one line."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.errors import CheckpointError, MirnetEdgeError
from mirnet_edge.training import loop
from mirnet_edge.training.loop import Trainer
from mirnet_edge.training.recipe import FORMER_FIELDS


@pytest.fixture
def make_trainer(make_network, make_recipe):
    """Return a trainer: make_trainer(folder, "mirnet", steps=3)."""

    def make(folder, network="plain edge", **values):
        return Trainer(make_network(network), make_recipe(**values), folder, workers=0)

    return make


def test_nothing_to_resume(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path)
    assert not loop.resume_state(trainer)
    assert trainer.step == 0


def test_a_state_restores_weights_ema_weights_moments_and_step(tmp_path, make_trainer, make_pairs):
    trainer = make_trainer(tmp_path)
    trainer.run(make_pairs(), make_pairs())
    again = make_trainer(tmp_path)
    assert loop.resume_state(again)
    assert again.step == 8
    for name in ("model", "ema_model"):
        one, two = (getattr(which, name).state_dict() for which in (trainer, again))
        assert all(torch.equal(one[key], two[key]) for key in one)
    one, two = (which.optimizer.state_dict()["state"] for which in (trainer, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key]["exp_avg"], two[key]["exp_avg"]) for key in one)


def test_a_state_with_the_field_names_of_schema_1_is_resumed(tmp_path, make_trainer, make_pairs):
    make_trainer(tmp_path).run(make_pairs(), make_pairs())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    former = {new: old for old, new in FORMER_FIELDS.items()}
    state["recipe"] = {former.get(name, name): value for name, value in state["recipe"].items()}
    assert "whole_share" in state["recipe"]
    torch.save(state, tmp_path / "state.pt")
    again = make_trainer(tmp_path)
    assert loop.resume_state(again)
    assert again.step == 8


@pytest.mark.parametrize("payload", [b"", b"not a state", b"PK\x03\x04broken"])
def test_a_damaged_state_is_named(tmp_path, make_trainer, payload):
    (tmp_path / "state.pt").write_bytes(payload)
    with pytest.raises(CheckpointError, match=r"state\.pt.*remove it to train from the start"):
        loop.resume_state(make_trainer(tmp_path))


@pytest.mark.parametrize("held", [{}, [1, 2], {"step": 3, "recipe": {}}])
def test_a_file_that_is_no_state_is_named(tmp_path, make_trainer, held):
    torch.save(held, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt is not a training state"):
        loop.resume_state(make_trainer(tmp_path))


def test_a_state_of_another_recipe_is_refused_and_the_differences_named(
    tmp_path, make_trainer, make_pairs
):
    make_trainer(tmp_path).run(make_pairs(), make_pairs())
    with pytest.raises(CheckpointError, match="other values of learning_rate, steps; give the"):
        loop.resume_state(make_trainer(tmp_path, learning_rate=1e-5, steps=9))
    assert loop.resume_state(make_trainer(tmp_path, validate_every=2))


@pytest.mark.parametrize("network", ["doubling edge", "mirnet"])
def test_a_state_of_another_network_is_refused(tmp_path, make_trainer, make_pairs, network):
    make_trainer(tmp_path).run(make_pairs(), make_pairs())
    with pytest.raises(CheckpointError, match="another shape"):
        loop.resume_state(make_trainer(tmp_path, network))


def test_a_full_disk_is_one_line_and_the_former_state_is_kept(
    tmp_path, make_trainer, make_pairs, monkeypatch
):
    trainer = make_trainer(tmp_path, steps=4, validate_every=4)
    trainer.run(make_pairs(), make_pairs())
    before = (tmp_path / "state.pt").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    trainer.step = 2
    with pytest.raises(
        MirnetEdgeError,
        match=r"state\.pt cannot be written \(No space left .*what was there is kept",
    ) as raised:
        trainer.run(make_pairs(), make_pairs())
    assert "\n" not in str(raised.value)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    assert loop.resume_state(make_trainer(tmp_path, steps=4, validate_every=4))
