"""The training loop: networks learn, resume bit for bit, EMA, distillation, L2-SP, divergence."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mirnet_edge.errors import DataError, OptionError, TrainingError
from mirnet_edge.training import loop, record
from mirnet_edge.training.batches import BatchSampling, sample_batch
from mirnet_edge.training.loop import Trainer, restore_frames
from mirnet_edge.training.loss import flicker_penalty, residual_penalty
from mirnet_edge.training.pairs import degrade_images

_BUSY = {"well_lit_fraction": 0.2, "exposure_jitter": 0.3, "noise_jitter": 4.0, "mixup": 0.3}
NETWORKS = ["edge", "plain edge", "mirnet", "mirnet-v2"]


def _noised(frame, generator):
    noise = generator.normal(0.0, 30.0, frame.shape)
    return np.clip(frame // 2 + noise, 0, 255).astype(np.uint8)


def _halved(frame, generator):
    return frame[::2, ::2]


def _equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def _squared_distance(one, two):
    with torch.no_grad():
        return sum(
            float((a - b).square().sum())
            for a, b in zip(one.parameters(), two.parameters(), strict=True)
        )


@pytest.fixture
def make_trainer(make_network, make_recipe):
    """Return a trainer: make_trainer(folder, "mirnet", teacher=None, precision="fp32", steps=3)."""

    def make(
        folder,
        network="edge",
        *,
        teacher=None,
        precision="fp32",
        workers=0,
        compiled=False,
        **values,
    ):
        return Trainer(
            make_network(network), make_recipe(**values), folder, teacher=teacher,
            precision=precision, workers=workers, compiled=compiled,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("network", NETWORKS)
def test_training_on_dark_images_lowers_the_loss_and_raises_psnr(
    tmp_path, make_trainer, make_pairs, network
):
    trainer = make_trainer(
        tmp_path, network, steps=60, learning_rate=5e-3, validate_every=20, ema_decay=0.5
    )
    scores = []
    last = trainer.run(make_pairs(), make_pairs(), on_score=scores.append)
    assert [score.step for score in scores] == [20, 40, 60]
    assert last == scores[-1]
    assert scores[-1].loss < scores[0].loss
    assert scores[-1].psnr_db > scores[0].psnr_db + 0.3
    assert scores[-1].psnr_gtmean_db >= scores[-1].psnr_db - 0.1


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_compiled_network_trains_alike_and_saves_the_same_state(
    tmp_path, make_trainer, make_pairs, monkeypatch, weight
):
    graphs = []

    def traced(module, inputs):
        graphs.append(module)
        return module.forward

    # what torch.compile traces, without the minute that its C++ takes
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiler(network, backend=traced))
    trainers = [
        make_trainer(
            tmp_path / str(compiled), compiled=compiled, steps=3, validate_every=3,
            residual_weight=weight, residual_limit=0.01,
        )
        for compiled in (False, True)
    ]  # fmt: skip
    for trainer in trainers:
        trainer.run(make_pairs(), make_pairs())
    assert graphs
    plain, compiled = (trainer.ema_model.state_dict() for trainer in trainers)
    assert all(torch.allclose(plain[key], compiled[key], atol=1e-5) for key in plain)
    again = make_trainer(
        tmp_path / "True", steps=3, validate_every=3, residual_weight=weight, residual_limit=0.01
    )
    loop.resume_state(again)  # a state is the same with and without compilation
    assert again.step == 3


def test_training_on_clean_images_that_are_degraded_lowers_the_loss(
    tmp_path, make_trainer, make_pairs
):
    clean = make_pairs(degrade=_noised)
    trainer = make_trainer(tmp_path, steps=40, learning_rate=5e-3, validate_every=20, ema_decay=0.5)
    scores = []
    trainer.run(clean, degrade_images(clean), on_score=scores.append)
    assert scores[-1].loss < scores[0].loss


@pytest.mark.parametrize("degrade", [None, _halved], ids=["pairs", "clean"])
def test_images_become_twice_as_large(tmp_path, make_trainer, make_pairs, degrade):
    trainer = make_trainer(tmp_path, "doubling edge", steps=40, learning_rate=5e-3, ema_decay=0.5)
    train, validation = make_pairs(scale=2, degrade=degrade), make_pairs(2, (34, 46), scale=2)
    losses = []
    score = trainer.run(train, validation, on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert score.psnr_db > 5.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_ends_at_the_same_weights_bit_for_bit(
    tmp_path, make_trainer, make_pairs, network, optimizer
):
    values = {
        "optimizer": optimizer,
        "exposure_steps": 2,
        "exposure_batch": 2,
        "recycle_every": 3,
        **_BUSY,
    }
    straight = make_trainer(tmp_path / "straight", network, **values)
    straight.run(make_pairs(), make_pairs())

    stopped = make_trainer(tmp_path / "stopped", network, **values)
    stopped.run(make_pairs(), make_pairs(), clock=iter(range(100)).__next__, max_seconds=2.5)
    assert 0 < stopped.step < 8
    again = make_trainer(tmp_path / "stopped", network, workers=2, **values)
    torch.manual_seed(99)  # the global random state must not matter
    assert loop.resume_state(again)
    assert again.step == stopped.step
    again.run(make_pairs(), make_pairs())
    assert _equal(straight.ema_model, again.ema_model)
    assert _equal(straight.model, again.model)
    assert not _equal(straight.model, stopped.model)


@pytest.mark.parametrize(("stops_at", "kept"), [(2, None), (6, 4)])
def test_an_interrupted_run_says_what_is_kept(tmp_path, make_trainer, make_pairs, stops_at, kept):
    def interrupt(step, loss):
        if step == stops_at:
            raise KeyboardInterrupt

    trainer = make_trainer(tmp_path)
    with pytest.raises(KeyboardInterrupt, match=f"interrupted at step {stops_at} of 8") as raised:
        trainer.run(make_pairs(), make_pairs(), on_step=interrupt)
    again = make_trainer(tmp_path)
    assert loop.resume_state(again) == (kept is not None)
    if kept is None:
        assert "nothing is kept" in str(raised.value)
    else:
        assert again.step == kept
        assert f"the state of step {kept} is kept in {tmp_path}" in str(raised.value)


@pytest.mark.parametrize(
    ("stops_in", "kept"), [("on_damage_step", "exposure"), ("on_step", "damage, exposure")]
)
def test_a_run_interrupted_after_the_stage_of_a_branch_does_not_repeat_it(
    tmp_path, make_trainer, make_pairs, stops_in, kept
):
    values = {"exposure_steps": 4, "exposure_batch": 2, "damage_steps": 3, **_BUSY}
    train, validation = make_pairs(degrade=_noised), make_pairs()
    straight = make_trainer(tmp_path / "straight", "damage edge", **values)
    straight.run(train, validation)

    def interrupt(step, loss):
        raise KeyboardInterrupt

    stopped = make_trainer(tmp_path / "stopped", "damage edge", **values)
    with pytest.raises(KeyboardInterrupt, match=rf"the trained branches \({kept}\) is kept"):
        stopped.run(train, validation, **{stops_in: interrupt})
    again = make_trainer(tmp_path / "stopped", "damage edge", **values)
    assert loop.resume_state(again)
    assert again.step == 0
    again.run(train, validation, on_exposure_step=lambda *_: pytest.fail("repeated"))
    assert _equal(straight.ema_model, again.ema_model)


def test_another_seed_ends_elsewhere(tmp_path, make_trainer, make_pairs):
    one, two = (make_trainer(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    for trainer in (one, two):
        trainer.run(make_pairs(), make_pairs())
    assert not _equal(one.model, two.model)


def test_every_score_is_in_the_history(tmp_path, make_trainer, make_pairs):
    make_trainer(tmp_path).run(make_pairs(), make_pairs())
    scores = record.read_history(tmp_path)
    assert [score.step for score in scores] == [4, 8]
    assert all(score.psnr_db > 0 for score in scores)


def test_a_finished_run_is_validated_and_not_repeated(tmp_path, make_trainer, make_pairs):
    first = make_trainer(tmp_path).run(make_pairs(), make_pairs())
    again = make_trainer(tmp_path)
    loop.resume_state(again)
    score = again.run(make_pairs(), make_pairs(), on_step=lambda step, loss: pytest.fail("trained"))
    assert (score.step, score.psnr_db) == (first.step, first.psnr_db)


def test_steps_have_the_recipe_s_learning_rate(tmp_path, make_trainer, make_pairs):
    trainer = make_trainer(tmp_path, schedule="constant", learning_rate=1e-3, warmup_steps=4)
    rates = []
    trainer.run(
        make_pairs(),
        make_pairs(),
        on_step=lambda step, loss: rates.append(
            [group["lr"] for group in trainer.optimizer.param_groups]
        ),
    )
    assert rates == [[trainer.recipe.learning_rate_at(step)] * 2 for step in range(8)]


def test_a_plateau_halves_the_learning_rate_also_after_a_stop(tmp_path, make_trainer, make_pairs):
    # so small that the weights, and PSNR, stay: every validation after the first is a plateau
    values = {
        "schedule": "plateau", "plateau_validations": 1, "learning_rate": 1e-20,
        "validate_every": 2, "ema_decay": 0.0, "weight_decay": 0.0, "warmup_steps": 0,
    }  # fmt: skip
    rates = []

    def note(trainer):
        return lambda step, loss: rates.append(trainer.optimizer.param_groups[0]["lr"])

    first = make_trainer(tmp_path, **values)
    clock = iter([0.0, 0.0, 0.0, 0.0, *[1.0] * 99])
    first.run(
        make_pairs(), make_pairs(), on_step=note(first), clock=lambda: next(clock), max_seconds=0.5
    )
    second = make_trainer(tmp_path, **values)
    loop.resume_state(second)
    assert second.psnr_db == first.psnr_db
    assert 0 < second.step < 8
    second.run(make_pairs(), make_pairs(), on_step=note(second))
    assert rates == pytest.approx([1e-20] * 4 + [5e-21] * 2 + [2.5e-21] * 2, abs=0.0)


def test_biases_do_not_decay(tmp_path, make_trainer):
    decayed, kept = make_trainer(tmp_path, weight_decay=0.3).optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert {weight.ndim for weight in decayed["params"]} == {4}
    assert {weight.ndim for weight in kept["params"]} == {1}


def test_without_ema_the_saved_weights_are_the_last_ones(tmp_path, make_trainer, make_pairs):
    trainer = make_trainer(tmp_path / "none", ema_decay=0.0)
    trainer.run(make_pairs(), make_pairs())
    assert _equal(trainer.ema_model, trainer.model)
    other = make_trainer(tmp_path / "some", ema_decay=0.9)
    other.run(make_pairs(), make_pairs())
    assert not _equal(other.ema_model, other.model)
    assert _equal(other.model, trainer.model)


def test_the_exposure_branch_trains_in_its_own_stage_and_is_frozen_in_the_second(
    tmp_path, make_trainer, make_pairs
):
    values = {"exposure_steps": 150, "exposure_learning_rate": 2e-2, "exposure_batch": 2}
    trainer = make_trainer(tmp_path, **values)
    degraded = torch.stack([torch.from_numpy(frame) for frame in make_pairs().degraded])
    degraded = degraded.permute(0, 3, 1, 2).float() / 255.0
    before = trainer.model.exposure(degraded, degraded).mean()
    seen = []
    trainer.run(
        make_pairs(), make_pairs(), on_exposure_step=lambda step, loss: seen.append((step, loss))
    )
    after = trainer.model.exposure(degraded, degraded).mean()
    assert [step for step, _ in seen] == list(range(1, 151))
    assert seen[-1][1] < seen[0][1]
    # the targets are four times as bright
    assert after > 1.5 * before
    first = make_trainer(tmp_path / "other", steps=1, **values)
    first.run(make_pairs(), make_pairs())
    assert _equal(first.ema_model.exposure, trainer.ema_model.exposure)


def test_the_damage_branch_has_a_stage_of_its_own_and_then_learns_with_the_rest(
    tmp_path, make_trainer, make_pairs
):
    seen, saved = [], []

    def on_damage_step(step, loss):
        seen.append(step)
        saved.append(copy.deepcopy(trainer.model))

    trainer = make_trainer(tmp_path, "damage edge", damage_steps=3, steps=1)
    trainer.run(make_pairs(degrade=_noised), make_pairs(), on_damage_step=on_damage_step)
    assert seen == [1, 2, 3]
    assert not _equal(saved[0].damage, saved[-1].damage)
    assert _equal(saved[0].stem, saved[-1].stem)
    assert not _equal(saved[-1].damage, trainer.model.damage)
    without = make_trainer(tmp_path / "without", steps=1, damage_steps=3)
    without.run(
        make_pairs(), make_pairs(), on_damage_step=lambda step, loss: pytest.fail("a stage")
    )


@pytest.mark.parametrize(("every", "recycled"), [(0, False), (3, True)])
def test_dead_channels_are_recycled_while_training(
    tmp_path, make_trainer, make_pairs, every, recycled
):
    trainer = make_trainer(tmp_path, recycle_every=every, exposure_steps=0)
    body = trainer.model.blocks[0].bottom.body
    with torch.no_grad():
        body[0].bias.fill_(-100.0)
    fired = []
    body[1].register_forward_hook(lambda *given: fired.append(bool((given[2] > 0.0).any())))
    trainer.run(make_pairs(), make_pairs())
    assert fired[-1] is recycled


def test_images_smaller_than_a_later_crop_are_refused_before_training(
    tmp_path, make_trainer, make_pairs
):
    pairs = make_pairs()
    side = min(pairs.targets[0].shape[:2])
    steps = []
    trainer = make_trainer(
        tmp_path / "run", "plain edge", steps=8, crops=(16, (side // 16 + 1) * 16)
    )
    with pytest.raises(DataError, match=f"such as {pairs.names[0]}"):
        trainer.run(pairs, pairs, on_step=lambda step, loss: steps.append(step))
    assert not steps


def test_a_penalty_keeps_the_residual_small(tmp_path, make_trainer, make_pairs):
    excess = []
    for weight in (0.0, 20.0):
        trainer = make_trainer(
            tmp_path / str(weight), "plain edge", steps=60, learning_rate=5e-3,
            residual_weight=weight, residual_limit=0.1,
        )  # fmt: skip
        pairs = make_pairs()
        trainer.run(pairs, make_pairs())
        frames = torch.from_numpy(np.stack(pairs.degraded)).permute(0, 3, 1, 2) / 255.0
        _, residual = trainer.model(frames, with_residual=True)
        excess.append(float(residual_penalty(residual.detach(), 0.1)))
    assert excess[1] < 0.5 * excess[0]


def test_a_flicker_penalty_makes_results_of_noisy_frames_alike(tmp_path, make_trainer, make_pairs):
    pairs, found = make_pairs(size=(64, 64)), []
    sampling = BatchSampling(size=16, crop=None, multiple=16, noise_pairs=True)
    noisy = sample_batch(pairs, sampling, seed=99, step=0).degraded
    for weight in (0.0, 20.0):
        trainer = make_trainer(
            tmp_path / str(weight), "plain edge", steps=60, batch=4, learning_rate=5e-3,
            crops=(64,), flicker_weight=weight,
        )  # fmt: skip
        trainer.run(pairs, make_pairs())
        found.append(float(flicker_penalty(trainer.model(noisy)).detach()))
    assert found[1] < 0.8 * found[0]


def test_a_residual_is_limited_only_where_the_head_has_a_gate(tmp_path, make_trainer):
    with pytest.raises(OptionError, match=r"residual_weight is for .* has a gate"):
        make_trainer(tmp_path, "mirnet", residual_weight=1.0)


def test_exposure_trainable_false_freezes_the_exposure_branch(tmp_path, make_trainer, make_pairs):
    for trainable in (True, False):
        trainer = make_trainer(tmp_path / str(trainable), exposure_trainable=trainable)
        before = copy.deepcopy(trainer.model)
        trainer.run(make_pairs(), make_pairs())
        assert _equal(before.exposure, trainer.model.exposure) != trainable
        assert not _equal(before.stem, trainer.model.stem)


def test_the_exposure_stage_learns_from_clean_images_too(tmp_path, make_trainer, make_pairs):
    seen = []
    make_trainer(tmp_path, steps=1, exposure_steps=60, exposure_learning_rate=2e-2).run(
        make_pairs(degrade=_noised),
        make_pairs(),
        on_exposure_step=lambda step, loss: seen.append(loss),
    )
    assert np.mean(seen[-5:]) < 0.9 * np.mean(seen[:5])


@pytest.mark.parametrize("network", ["plain edge", "mirnet"])
def test_a_network_without_the_branch_has_no_first_stage(
    tmp_path, make_trainer, make_pairs, network
):
    make_trainer(tmp_path, network, steps=1, exposure_steps=5).run(
        make_pairs(), make_pairs(), on_exposure_step=lambda step, loss: pytest.fail("a stage")
    )


def test_without_a_first_stage_the_branch_learns_with_the_rest(tmp_path, make_trainer, make_pairs):
    trainer = make_trainer(tmp_path)
    before = copy.deepcopy(trainer.model.exposure)
    trainer.run(make_pairs(), make_pairs())
    assert not _equal(before, trainer.model.exposure)


def _seen_thumbnails(network):
    """Return a list that fills with the thumbnails that reach an exposure branch."""
    seen = []

    network.exposure.register_forward_pre_hook(lambda branch, inputs: seen.append(inputs[1]))
    return seen


def test_student_and_teacher_get_the_thumbnail_of_the_whole_frame(
    tmp_path, make_trainer, make_network, make_pairs
):
    pairs, teacher = make_pairs(2, (48, 64)), make_network("edge", seed=5)
    trainer = make_trainer(tmp_path, teacher=teacher, steps=1, whole_frame_fraction=0.0)
    frames = [pairs.thumbnails(index)[0] for index in range(2)]
    expected = [frame.flip(axes) for frame in frames for axes in ((), (1,), (2,), (1, 2))]
    for network in (trainer.model, teacher):
        seen = _seen_thumbnails(network)
        trainer.step = 0
        trainer.run(pairs, make_pairs())
        for thumbnail in seen[0]:
            assert any(torch.allclose(thumbnail, one, atol=1e-6) for one in expected)


def _black_teacher(network):
    """Return a teacher whose outputs are black."""
    with torch.no_grad():
        for weight in (network.head.weight, network.head.bias):
            weight.zero_()
        network.head.bias[:] = -9.0
    return network.eval()


@pytest.mark.parametrize("kind", ["edge", "plain edge"])
def test_distillation_moves_outputs_towards_the_teacher_s(
    tmp_path, make_trainer, make_network, make_pairs, kind
):
    means = []
    for weight in (0.0, 0.5, 1.0):
        trainer = make_trainer(
            tmp_path / str(weight), teacher=_black_teacher(make_network(kind)),
            teacher_weight=weight, steps=40, learning_rate=1e-2, ema_decay=0.5, validate_every=40,
        )  # fmt: skip
        trainer.run(make_pairs(), make_pairs())
        means.append(restore_frames(trainer.ema_model, make_pairs().degraded[0][None]).mean())
    assert means[0] > means[1] + 10.0 > means[2] + 20.0


def test_a_teacher_stays_as_it_was(tmp_path, make_trainer, make_network, make_pairs):
    teacher = make_network("mirnet", seed=5).train()
    before = copy.deepcopy(teacher)
    make_trainer(tmp_path, teacher=teacher, steps=2).run(make_pairs(), make_pairs())
    assert _equal(before, teacher)
    assert not teacher.training


def test_l2_sp_keeps_the_weights_near_the_initial_ones(
    tmp_path, make_trainer, make_network, make_pairs
):
    distances = []
    for weight in (0.0, 10.0):
        trainer = make_trainer(
            tmp_path / str(weight), steps=20, learning_rate=3e-3, l2_sp_weight=weight
        )
        trainer.run(make_pairs(), make_pairs())
        distances.append(_squared_distance(trainer.model, make_network()))
    assert 0.0 < distances[1] < 0.3 * distances[0]


def test_l2_sp_keeps_its_initial_weights_after_a_resume(tmp_path, make_trainer, make_pairs):
    values = {"l2_sp_weight": 10.0, "learning_rate": 3e-3}
    straight = make_trainer(tmp_path / "straight", **values)
    straight.run(make_pairs(), make_pairs())
    stopped = make_trainer(tmp_path / "stopped", **values)
    stopped.run(make_pairs(), make_pairs(), clock=iter(range(100)).__next__, max_seconds=2.5)
    again = make_trainer(tmp_path / "stopped", **values)
    loop.resume_state(again)
    again.run(make_pairs(), make_pairs())
    assert _equal(straight.model, again.model)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(
    tmp_path, make_trainer, make_pairs
):
    make_trainer(tmp_path, steps=4).run(make_pairs(), make_pairs())
    before = (tmp_path / "state.pt").read_bytes()
    again = make_trainer(tmp_path, steps=4)
    loop.resume_state(again)
    again.step = 2
    with torch.no_grad():
        again.model.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 2"):
        again.run(make_pairs(), make_pairs())
    assert (tmp_path / "state.pt").read_bytes() == before


def test_diverged_weights_are_not_saved(tmp_path, make_trainer, make_pairs):
    trainer = make_trainer(tmp_path, steps=4)
    with torch.no_grad():
        next(iter(trainer.model.blocks.parameters())).fill_(1e5)
    with pytest.raises(TrainingError, match=r"grown to 1e\+05 at step 4; nothing was saved yet"):
        trainer.run(make_pairs(), make_pairs())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_trains_float32_weights(tmp_path, make_trainer, make_pairs, network):
    exact, rounded = (
        make_trainer(tmp_path / precision, network, precision=precision)
        for precision in ("fp32", "bf16")
    )
    scores = [trainer.run(make_pairs(), make_pairs()) for trainer in (exact, rounded)]
    assert {weight.dtype for weight in rounded.model.parameters()} == {torch.float32}
    assert not _equal(exact.model, rounded.model)
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=0.05)


@pytest.mark.parametrize(
    ("network", "crop", "advised"),
    [("edge", 24, 32), ("mirnet", 17, 16), ("doubling edge", 24, 32), ("plain edge", 40, 32)],
)
def test_a_crop_that_is_no_multiple_is_refused_and_another_advised(
    tmp_path, make_trainer, network, crop, advised
):
    with pytest.raises(
        OptionError, match=rf"the crop is {crop} pixels wide; .* Choose --crop {advised}$"
    ):
        make_trainer(tmp_path, network, crops=(64, crop))
    assert not list(tmp_path.iterdir())
