"""The loop learns, resumes to the same weights, and refuses a state that is not its own."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.errors import CheckpointError, OptionError, TrainingError
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.training import record
from mirnet_edge.training.loop import Recipe, Trainer
from mirnet_edge.training.pairs import Pairs

_TINY = MIRNetEdgeConfig(channels=(8, 8, 8), blocks=1, exposure_channels=4)


def _pairs(count=3, size=(32, 48)):
    generator = torch.Generator().manual_seed(0)
    high = [torch.randint(256, (3, *size), generator=generator).byte() for _ in range(count)]
    low = [picture // 4 for picture in high]
    return Pairs(tuple(map(str, range(count))), tuple(low), tuple(high), "sha")


def _recipe(**values):
    defaults = {
        "steps": 8, "batch": 2, "crop": 16, "warmup": 2, "validate_every": 4, "whole_share": 0.25,
        "exposure_steps": 2, "exposure_batch": 2,
    }  # fmt: skip
    return Recipe(**(defaults | values))


def _trainer(folder, **values):
    torch.manual_seed(0)
    return Trainer(MIRNetEdge(_TINY), _recipe(**values), folder)


def test_training_on_darkened_noise_lowers_the_loss_and_raises_psnr(tmp_path):
    trainer = _trainer(tmp_path, steps=60, learning_rate=5e-3, validate_every=20, ema=0.5)
    scores = []
    trainer.run(_pairs(), _pairs(), on_score=scores.append)
    assert [score.step for score in scores] == [20, 40, 60]
    assert scores[-1].psnr_db > scores[0].psnr_db + 0.5
    assert scores[-1].loss < scores[0].loss
    assert scores[-1].psnr_gtmean_db >= scores[-1].psnr_db


def test_a_resumed_run_ends_at_the_same_weights_bit_for_bit(tmp_path):
    straight = _trainer(tmp_path / "straight")
    straight.run(_pairs(), _pairs())

    stopped = _trainer(tmp_path / "stopped")
    stopped.run(_pairs(), _pairs(), clock=iter(range(100)).__next__, max_seconds=2.5)
    assert 0 < stopped.step < 8
    again = _trainer(tmp_path / "stopped")
    torch.manual_seed(99)  # chance outside the loop must not matter
    assert again.resume()
    assert again.step == stopped.step
    again.run(_pairs(), _pairs())
    for name, weight in straight.averaged.state_dict().items():
        assert torch.equal(weight, again.averaged.state_dict()[name]), name


def test_every_score_is_in_the_history(tmp_path):
    _trainer(tmp_path).run(_pairs(), _pairs())
    scores = record.read(tmp_path)
    assert [score.step for score in scores] == [4, 8]
    assert all(score.psnr_db > 0 for score in scores)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(tmp_path):
    _trainer(tmp_path, steps=4).run(_pairs(), _pairs())
    before = (tmp_path / "state.pt").read_bytes()
    again = _trainer(tmp_path, steps=4)
    again.resume()
    again.step = 2
    with torch.no_grad():
        again.model.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 2"):
        again.run(_pairs(), _pairs())
    assert (tmp_path / "state.pt").read_bytes() == before


def test_the_exposure_branch_learns_in_its_own_stage_and_rests_in_the_second(tmp_path):
    trainer = _trainer(tmp_path, exposure_steps=150, exposure_learning_rate=2e-2)
    low = torch.stack(_pairs().low).float() / 255.0
    before = trainer.model.exposure(low, low).mean()
    seen = []
    trainer.run(_pairs(), _pairs(), on_exposure_step=lambda step, loss: seen.append(loss))
    after = trainer.model.exposure(low, low).mean()
    assert len(seen) == 150
    assert seen[-1] < seen[0]
    # the references are four times as bright
    assert after > 1.5 * before
    first = _trainer(tmp_path / "other", exposure_steps=150, exposure_learning_rate=2e-2, steps=1)
    first.run(_pairs(), _pairs())
    for one, two in zip(
        first.averaged.exposure.parameters(), trainer.averaged.exposure.parameters(), strict=True
    ):
        assert torch.equal(one, two), "the second stage moved it"


def test_nothing_to_resume(tmp_path):
    assert not _trainer(tmp_path).resume()


@pytest.mark.parametrize("payload", [b"", b"not a state", b"PK\x03\x04broken"])
def test_a_damaged_state_is_named(tmp_path, payload):
    (tmp_path / "state.pt").write_bytes(payload)
    with pytest.raises(CheckpointError, match=r"state\.pt.*remove it to start anew"):
        _trainer(tmp_path).resume()


def test_a_state_of_another_recipe_is_refused(tmp_path):
    _trainer(tmp_path).run(_pairs(), _pairs())
    with pytest.raises(CheckpointError, match="other values of learning_rate"):
        _trainer(tmp_path, learning_rate=1e-5).resume()


def test_a_state_of_another_network_is_refused(tmp_path):
    _trainer(tmp_path).run(_pairs(), _pairs())
    other = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 16), blocks=1, exposure_channels=4))
    with pytest.raises(CheckpointError, match="another shape"):
        Trainer(other, _recipe(), tmp_path).resume()


def test_the_rate_warms_up_and_falls_to_almost_nothing():
    recipe = Recipe(steps=100, warmup=10, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) > 0.95
    assert rates[-1] < 0.002


@pytest.mark.parametrize("values", [{"steps": 0}, {"whole_share": 1.5}, {"learning_rate": 0.0}])
def test_recipes_that_make_no_sense_are_refused(values):
    with pytest.raises(OptionError, match="found"):
        Recipe(**values)
