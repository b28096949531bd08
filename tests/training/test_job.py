"""Training jobs: data, distillation, pseudo-labels, replay, interpolation, cards, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.quantization.qat import learned_ranges_of, qat_target_of
from mirnet_edge.training import job, record
from mirnet_edge.training.job import (
    TrainingRequest,
    read_data,
    resolve_request,
    select_device,
    train_weights,
)
from mirnet_edge.training.pairs import degrade_images, mix_pairs
from mirnet_edge.training.tasks import find_task

_QUICK = {"steps": 2, "batch": 1, "crops": (32,), "exposure_steps": 0}
_SMALL = {"channels": (8, 8, 8), "exposure_channels": 4}


@dataclass
class RecordingObserver:
    """An observer that records its calls."""

    total: int = 0
    done: int = 0
    labels: int | None = None
    """Images still without a pseudo-label; None where there are none to label."""
    started: list = field(default_factory=list)
    exposure: list = field(default_factory=list)
    damage: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    fractions: list = field(default_factory=list)
    initial: list = field(default_factory=list)

    def on_loading(self, total):
        self.total = total

    def on_loaded(self):
        self.done += 1

    def on_labeling(self, total):
        self.labels = total

    def on_labeled(self):
        self.labels -= 1

    def on_start(self, recipe, step, exposure_steps):
        self.started.append((recipe.steps, step))

    def on_initial_score(self, score):
        self.initial.append(score)

    def on_exposure_step(self, step, loss):
        self.exposure.append(step)

    def on_damage_step(self, step, loss):
        self.damage.append(step)

    def on_step(self, step, loss):
        self.steps.append(step)

    def on_validated(self, score):
        self.scores.append(score)

    def on_interpolated(self, fraction, accuracy_drop_db):
        self.fractions.append((fraction, accuracy_drop_db))


def _request(data, out, *, training=None, **values):
    chosen = {"network": {} if "init" in values else _SMALL, "workers": 0, "device": "cpu"}
    return TrainingRequest(
        data=data, out=out, training=_QUICK | (training or {}), **(chosen | values)
    )


def _trained(*arguments, **values):
    return checkpoints.load(
        train_weights(_request(*arguments, **values), RecordingObserver()).weights
    )


@pytest.fixture
def save_weights(make_network, tmp_path):
    """Write random weights: save_weights("edge", seed=3) gives the file."""

    def save(name="edge", seed=3):
        path = tmp_path / f"{name}-{seed}.safetensors"
        checkpoints.save(make_network(name, seed), path, ModelCard(task="low-light"))
        return path

    return save


def test_training_saves_weights_with_a_card_and_calls_the_observer(tmp_path, write_pairs):
    observer = RecordingObserver()
    request = _request(
        write_pairs(tmp_path / "photos", 12), tmp_path / "out",
        network={**_SMALL, "exposure_members": 2},
        training={"exposure_steps": 3, "exposure_batch": 2},
    )  # fmt: skip
    trained = train_weights(request, observer)
    assert trained.weights == tmp_path / "out/low-light.safetensors"
    assert (observer.total, observer.done) == (12, 12)
    assert observer.started == [(2, 0)]
    assert observer.exposure == list(range(1, 3 * 2 + 1))
    assert observer.steps == [1, 2]
    assert observer.scores == [trained.score] == record.read_history(tmp_path / "out")
    card = checkpoints.load(trained.weights).card
    assert (card.task, card.trained_on, card.parent, card.teacher) == (
        "low-light", "photos", None, None,
    )  # fmt: skip
    assert card.recipe["crops"] == [32]
    assert card.recipe["ssim_weight"] == 0.2  # the task's own recipe
    assert card.figures["steps"] == 2
    assert card.figures["val_psnr_db"] == pytest.approx(trained.score.psnr_db, abs=1e-3)


@pytest.mark.parametrize(
    ("task", "scale", "exposed"),
    [("denoise", 1, False), ("super-resolution", 2, False), ("old-photo", 1, True)],
)
def test_clean_images_are_degraded_by_the_task(tmp_path, write_clean, task, scale, exposed):
    loaded = _trained(
        write_clean(tmp_path / "clean"), tmp_path / "out", task=task,
        network={"channels": (8, 8, 8)}, training={"whole_frame_fraction": 0.5},
    )  # fmt: skip
    assert loaded.card.task == task
    assert loaded.model.config.scale == scale
    assert (loaded.model.exposure is not None) == exposed


def test_the_same_request_gives_the_same_weights_and_another_seed_others(tmp_path, write_pairs):
    folder = write_pairs(tmp_path / "pairs")
    one, two, other = (
        _trained(folder, tmp_path / name, training={"seed": seed}).model.state_dict()
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_branches_are_trained_and_folded_into_the_weights(tmp_path, write_pairs):
    data = write_pairs(tmp_path / "photos", 12)
    wide, plain = (
        _trained(data, tmp_path / name, training={"branch_expansion": expansion})
        for name, expansion in (("wide", 1.5), ("plain", 0.0))
    )
    state, other = wide.model.state_dict(), plain.model.state_dict()
    assert list(state) == list(other)  # folded
    assert not torch.equal(state["head.weight"], other["head.weight"])
    assert wide.card.recipe["branch_expansion"] == 1.5
    resumed = torch.load(tmp_path / "wide/state.pt", weights_only=True)
    assert any("parametrizations" in key for key in resumed["model"])


def test_a_stopped_run_with_branches_resumes_to_the_same_weights(tmp_path, write_pairs):
    data = write_pairs(tmp_path / "photos", 12)
    training = {"branch_expansion": 1.0, "steps": 4, "validate_every": 2}
    whole = _trained(data, tmp_path / "whole", training=training)
    _trained(data, tmp_path / "halves", training=training, max_seconds=0.0)
    halves = _trained(data, tmp_path / "halves", training=training)
    for one, two in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_quantization_aware_training_takes_no_branches(tmp_path, write_pairs, save_weights):
    request = _request(
        write_pairs(tmp_path / "photos", 12), tmp_path / "out", init=str(save_weights()), qat=True,
        training={"branch_expansion": 2.0},
    )  # fmt: skip
    with pytest.raises(OptionError, match="leave out one of them"):
        train_weights(request, RecordingObserver())


def test_a_stopped_run_resumes(tmp_path, write_pairs):
    folder = write_pairs(tmp_path / "pairs")
    train_weights(_request(folder, tmp_path / "out", max_seconds=0.0), RecordingObserver())
    observer = RecordingObserver()
    trained = train_weights(_request(folder, tmp_path / "out"), observer)
    assert observer.started == [(2, 1)]
    assert trained.score.step == 2


def test_training_starts_from_init_and_the_card_names_it(tmp_path, write_pairs, save_weights):
    init = save_weights("mirnet")
    still = {"learning_rate": 1e-9, "ema_decay": 0.0, "weight_decay": 0.0}
    loaded = _trained(
        write_pairs(tmp_path / "pairs"), tmp_path / "out", init=str(init), training=still
    )
    assert loaded.card.parent == sha256_of(init)
    assert loaded.architecture == "mirnet"
    first, last = checkpoints.load(init).model.state_dict(), loaded.model.state_dict()
    assert all(torch.allclose(first[key], last[key], atol=1e-6) for key in first)
    assert any(not torch.equal(first[key], last[key]) for key in first)


def test_initial_weights_are_scored_before_training(tmp_path, write_pairs, save_weights):
    observer = RecordingObserver()
    still = {"learning_rate": 1e-12, "ema_decay": 0.0, "weight_decay": 0.0}
    request = _request(
        write_pairs(tmp_path / "pairs"), tmp_path / "out", init=str(save_weights()), training=still
    )
    result = train_weights(request, observer)
    (initial,) = observer.initial
    # weights that training hardly moved have the same score
    assert (initial.step, result.score.step, result.steps) == (0, 2, 2)
    assert initial.psnr_db == pytest.approx(result.score.psnr_db, abs=0.01)
    train_weights(request, observer)  # resumed: the weights are no longer the initial ones
    assert len(observer.initial) == 1


def test_without_init_there_is_no_score_before_training(tmp_path, write_pairs):
    observer = RecordingObserver()
    train_weights(_request(write_pairs(tmp_path / "pairs"), tmp_path / "out"), observer)
    assert observer.initial == []


@pytest.mark.parametrize(("recipe", "ema_decay"), [(None, 0.99), ("low-light", 0.999)])
def test_init_takes_the_fine_tuning_recipe_by_default(
    tmp_path, write_pairs, save_weights, recipe, ema_decay
):
    loaded = _trained(
        write_pairs(tmp_path / "pairs"), tmp_path / "out", init=str(save_weights()), recipe=recipe
    )
    assert loaded.card.recipe["ema_decay"] == ema_decay


@pytest.mark.parametrize(
    "values", [{"network": {"channels": (8, 8, 8)}}, {"architecture": "mirnet"}]
)
def test_init_determines_the_network(tmp_path, write_pairs, save_weights, values):
    request = _request(
        write_pairs(tmp_path / "pairs"), tmp_path / "out", init=str(save_weights()), **values
    )
    with pytest.raises(OptionError, match=r"--init determines the network; leave out --model"):
        train_weights(request, RecordingObserver())
    assert not (tmp_path / "out").exists()


def test_distillation_changes_the_weights_and_the_card_names_the_teacher(
    tmp_path, write_pairs, save_weights
):
    folder, teacher = write_pairs(tmp_path / "pairs"), save_weights("mirnet")
    distilled = _trained(folder, tmp_path / "distilled", teacher=str(teacher))
    alone = _trained(folder, tmp_path / "alone")
    assert distilled.card.teacher == sha256_of(teacher)
    assert distilled.card.parent is None
    assert not torch.equal(distilled.model.head.weight, alone.model.head.weight)


def test_unlabeled_images_get_pseudo_labels_of_the_teacher(
    tmp_path, write_pairs, write_clean, save_weights
):
    folder, teacher = write_pairs(tmp_path / "pairs"), str(save_weights("mirnet"))
    night, observer = write_clean(tmp_path / "night", 5), RecordingObserver()
    more = train_weights(
        _request(folder, tmp_path / "more", teacher=teacher, unlabeled=night), observer
    )
    assert observer.labels == 0
    assert observer.total == observer.done
    loaded = checkpoints.load(more.weights)
    assert loaded.card.note == "pseudo-labels of the teacher for night"
    fewer = _trained(folder, tmp_path / "fewer", teacher=teacher)
    assert not torch.equal(loaded.model.head.weight, fewer.model.head.weight)
    # validation is unchanged
    assert loaded.card.trained_on == fewer.card.trained_on == "pairs"


def test_overlays_damage_clean_images_and_are_refused_for_pairs(tmp_path, write_pairs, write_clean):
    clean, overlays = write_clean(tmp_path / "clean"), tmp_path / "overlays"
    overlays.mkdir()
    for number in range(3):
        pixels = np.full((24, 24, 4), 255, np.uint8)
        Image.fromarray(pixels).save(overlays / f"{number}.png")
    values = {"task": "old-photo", "network": {"channels": (8, 8, 8)}}
    damaged = _trained(clean, tmp_path / "damaged", overlays=overlays, **values)
    assert damaged.card.note == "overlays of overlays on half of the images"
    alone = _trained(clean, tmp_path / "alone", **values)
    assert not torch.equal(damaged.model.head.weight, alone.model.head.weight)
    request = _request(
        write_pairs(tmp_path / "pairs"), tmp_path / "out", overlays=overlays, **values
    )
    with pytest.raises(DataError, match="laid over clean images; found image pairs in --data"):
        train_weights(request, RecordingObserver())


def test_monochrome_fraction_adds_gray_images_to_training(tmp_path, write_clean):
    clean = write_clean(tmp_path / "clean")
    values = {"task": "old-photo", "network": {"channels": (8, 8, 8)}}
    gray = {"training": {"monochrome_fraction": 0.9}}
    alone = _trained(clean, tmp_path / "alone", training={"monochrome_fraction": 0.0}, **values)
    both = _trained(clean, tmp_path / "both", **gray, **values)
    assert not torch.equal(both.model.head.weight, alone.model.head.weight)
    assert both.card.recipe["monochrome_fraction"] == 0.9


def test_capture_noise_fraction_changes_training(tmp_path, write_clean):
    clean = write_clean(tmp_path / "clean")
    values = {"task": "old-photo", "network": {"channels": (8, 8, 8)}}
    captured = {"training": {"capture_noise_fraction": 1.0}}
    alone = _trained(clean, tmp_path / "alone", training={"capture_noise_fraction": 0.0}, **values)
    both = _trained(clean, tmp_path / "both", **captured, **values)
    assert not torch.equal(both.model.head.weight, alone.model.head.weight)
    assert both.card.recipe["capture_noise_fraction"] == 1.0


def test_pairs_of_old_photos_get_neither_gray_copies_nor_capture_noise(tmp_path, write_pairs):
    pairs = write_pairs(tmp_path / "pairs")

    def read(training):
        request = _request(pairs, tmp_path / "out", task="old-photo", training=training)
        recipe, _ = resolve_request(request)
        return recipe, read_data(
            request, recipe, find_task("old-photo"), None, RecordingObserver()
        ).train

    recipe, train = read({})
    assert (
        recipe.monochrome_fraction > 0.0 < recipe.capture_noise_fraction
    )  # the task's own recipe has both
    _, plain = read({"monochrome_fraction": 0.0, "capture_noise_fraction": 0.0})
    assert train.names == plain.names
    for one, other in zip(train.degraded, plain.degraded, strict=True):
        assert np.array_equal(one, other)


def test_capture_noise_does_not_change_validation(tmp_path, write_clean):
    def read(share):
        training = {"capture_noise_fraction": share}
        request = _request(write_clean(tmp_path / str(share)), tmp_path / "out", training=training)
        return read_data(
            request, resolve_request(request)[0], find_task("old-photo"), None, RecordingObserver()
        )

    plain, captured = read(0.0), read(1.0)
    for one, other in zip(plain.validation.degraded, captured.validation.degraded, strict=True):
        assert np.array_equal(one, other)
    trained = zip(
        degrade_images(plain.train).degraded, degrade_images(captured.train).degraded, strict=True
    )
    assert not all(np.array_equal(one, other) for one, other in trained)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "--unlabeled images get pseudo-labels of a teacher; give --teacher"),
        ({"teacher": "shipped:low-light", "unlabeled": "absent"}, "absent holds no images"),
        ({"teacher": "shipped:low-light", "data": "clean"}, "found clean images in --data"),
    ],
    ids=["no teacher", "no folder", "clean data"],
)
def test_unlabeled_images_without_a_teacher_or_pairs_are_refused(
    tmp_path, write_pairs, write_clean, values, says
):
    folders = {"data": write_pairs(tmp_path / "pairs"), "unlabeled": tmp_path / "clean"}
    write_clean(tmp_path / "clean", 10)
    for name in ("data", "unlabeled"):
        if name in values:
            folders[name] = tmp_path / values[name]
    request = _request(
        folders["data"], tmp_path / "out", unlabeled=folders["unlabeled"],
        teacher=values.get("teacher"), network={},
    )  # fmt: skip
    with pytest.raises((OptionError, DataError), match=says):
        train_weights(request, RecordingObserver())
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_another_scale_or_multiple_is_refused(tmp_path, write_pairs, save_weights):
    folder = write_pairs(tmp_path / "pairs")
    for teacher, values, says in (
        (save_weights("doubling edge"), {}, "has scale 2, the student 1; expected the same"),
        (
            save_weights("edge"),
            {"architecture": "mirnet", "network": {"channels": 8, "groups": 1, "blocks": 1}},
            "takes multiples of 16, the student of 4",
        ),
    ):
        request = _request(folder, tmp_path / "out", teacher=str(teacher), **values)
        with pytest.raises(OptionError, match=says):
            train_weights(request, RecordingObserver())
    assert not (tmp_path / "out").exists()


def test_replayed_images_make_up_half_whichever_set_is_larger(make_pairs):
    few, many = make_pairs(2, (32, 48)), make_pairs(5, (48, 32))
    for one, two in ((few, many), (many, few)):
        found = mix_pairs(one, two)
        assert len(found) == len(found.degraded) == len(found.targets) == 10
        assert sum(frame.shape == one.targets[0].shape for frame in found.targets) == 5
        assert {frame.tobytes() for frame in found.targets} == {
            frame.tobytes() for frame in (*one.targets, *two.targets)
        }
        for degraded, target in zip(found.degraded, found.targets, strict=True):
            assert np.array_equal(degraded, target // 4)
        # each kept image comes as often as the others of its set, give or take one
        assert sorted(found.names).count("0") in (4, 3)


def test_clean_images_are_replayed_too_also_with_pairs(make_pairs):
    clean = make_pairs(2, degrade=lambda frame, generator: frame // 2)
    found = mix_pairs(clean, clean)
    assert (len(found), found.degraded, found.degrade) == (4, (None,) * 4, clean.degrade)
    for one, two in ((clean, make_pairs()), (make_pairs(), clean)):
        found = mix_pairs(one, two)
        assert found.degrade is clean.degrade
        assert sum(degraded is None for degraded in found.degraded) == 3  # of six


def test_replay_is_read_and_changes_the_weights(tmp_path, write_pairs):
    folder, former = write_pairs(tmp_path / "pairs"), write_pairs(tmp_path / "former", 12, (64, 80))
    observer = RecordingObserver()
    both = train_weights(_request(folder, tmp_path / "both", replay=former), observer)
    # five pairs, and the training images of the twelve of replay
    assert (observer.total, observer.done) == (5 + 10, 5 + 10)
    alone = _trained(folder, tmp_path / "alone")
    replayed = checkpoints.load(both.weights)
    assert not torch.equal(replayed.model.head.weight, alone.model.head.weight)
    assert replayed.card.trained_on == "pairs"


def test_weights_are_interpolated_towards_init_within_the_allowed_drop(
    tmp_path, write_pairs, save_weights, monkeypatch
):
    first = save_weights()
    folder, former = write_pairs(tmp_path / "pairs"), write_pairs(tmp_path / "former", 12, (64, 80))
    found_db = iter([30.0, 29.0, 29.8, 29.5, 29.6, 29.65])  # before, all, half, three quarters, ...
    real = job.validate

    def validate(network, images):
        """Return the listed accuracies, then the measured one of the weights to be written."""
        listed_db = next(found_db, None)
        return real(network, images) if listed_db is None else (listed_db, 0, 0, 0)

    monkeypatch.setattr(job, "validate", validate)
    observer = RecordingObserver()
    request = _request(folder, tmp_path / "out", init=str(first), replay=former, max_drop_db=0.3)
    trained = train_weights(request, observer)
    assert observer.total == observer.done == 5 + 12  # with the validation images of replay
    assert [fraction for fraction, _ in observer.fractions] == [1.0, 0.5, 0.75, 0.625, 0.5625]
    assert trained.interpolation.fraction == 0.5
    saved = checkpoints.load(trained.weights)
    assert torch.equal(saved.model.head.weight, trained.interpolation.network.head.weight)
    assert not torch.equal(saved.model.head.weight, checkpoints.load(first).model.head.weight)
    assert saved.card.note == (
        "half of the images were sampled from former; interpolated weights, 0.5 of the way from "
        "the parent to the fine-tuned ones; accuracy drop 0.20 dB on the val images of former"
    )
    # the figures are those of the interpolated weights
    assert saved.card.figures["val_mae"] == round(trained.score.mae, 5)
    assert trained.score.mae != observer.scores[-1].mae


def test_without_a_gpu_cuda_and_half_precision_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto", "bf16") == select_device("cpu", "fp32") == torch.device("cpu")
    with pytest.raises(OptionError, match=r"--device cuda needs an NVIDIA GPU .* Use --device cpu"):
        select_device("cuda", "fp32")
    for name in ("auto", "cpu"):
        with pytest.raises(OptionError, match="--precision fp16 needs a GPU, found none; use bf16"):
            select_device(name, "fp16")


def test_a_gpu_is_used_unless_cpu_is_requested(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select_device("auto", "fp16") == select_device("cuda", "fp32") == torch.device("cuda")
    assert select_device("cpu", "fp32") == torch.device("cpu")
    with pytest.raises(OptionError, match="--precision fp16 needs a GPU"):
        select_device("cpu", "fp16")


@pytest.mark.parametrize(
    ("device", "precision", "says"),
    [("tpu", "fp32", "--device must be auto, cpu or cuda, found 'tpu'"),
     ("cpu", "int8", "--precision must be fp32, bf16 or fp16, found 'int8'")],
)  # fmt: skip
def test_other_devices_and_precisions_are_refused(device, precision, says):
    with pytest.raises(OptionError, match=says):
        select_device(device, precision)


@dataclass(frozen=True)
class Refused:
    id: str
    values: dict
    says: str


REFUSED = [
    Refused("task", {"task": "fog"}, "expected the task low-light, .* found 'fog'"),
    Refused("recipe", {"recipe": "fog"}, "there is no recipe fog"),
    Refused("network", {"architecture": "unet"}, "--model must be one of mirnet, .* 'unet'"),
    Refused(
        "setting",
        {"network": {"width": 3}},
        "MIRNetEdge cannot be built with .*width.* its settings are channels",
    ),
    Refused("a number", {"network": {"channels": 8}}, "MIRNetEdge cannot be built with .*: 8"),
    Refused(
        "mirnet doubling",
        {"task": "super-resolution", "architecture": "mirnet", "network": {"channels": 8}},
        "super-resolution needs a network of scale 2; a MIRNet of these settings has scale 1",
    ),
    Refused(
        "edge not doubling",
        {"task": "super-resolution", "network": {"scale": 3}},
        "needs a network of scale 2; a MIRNetEdge of these settings has scale 3",
    ),
    Refused(
        "doubling low light", {"network": {"scale": 2}}, "needs a network of scale 1; a MIRNetEdge"
    ),
    Refused("crop", {"training": {"crops": (40,)}}, r"the crop is 40 .* Choose --crop 32"),
    Refused("keep", {"max_drop_db": 0.3}, "--keep limits the accuracy drop of --init .* give both"),
    Refused("value", {"training": {"batch": 0}}, "batch must be at least 1, found 0"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_wrong_requests_are_refused_before_anything_is_written(tmp_path, write_pairs, case):
    request = _request(write_pairs(tmp_path / "pairs"), tmp_path / "out", **case.values)
    with pytest.raises(OptionError, match=case.says):
        train_weights(request, RecordingObserver())
    assert not (tmp_path / "out").exists()


def test_a_recipe_file_sets_network_and_hyperparameters(tmp_path, write_pairs):
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'schema_version = 1\narchitecture = "mirnet-v2"\n'
        "[network]\nchannels = 8\ngroups = 1\nblocks = 1\nconv_groups = [1]\n"
        '[training]\nsteps = 1\ncrops = [32]\nbatch = 1\ndistance = "l1"\n'
    )
    request = TrainingRequest(
        data=write_pairs(tmp_path / "pairs"), out=tmp_path / "out", recipe=str(recipe), workers=0,
        device="cpu",
    )  # fmt: skip
    loaded = checkpoints.load(train_weights(request, RecordingObserver()).weights)
    assert loaded.architecture == "mirnet-v2"
    assert loaded.model.config.channels == 8
    assert (loaded.card.recipe["pixel_loss"], loaded.card.recipe["exposure_steps"]) == ("l1", 0)


def test_options_override_the_recipe(tmp_path, write_pairs):
    loaded = _trained(
        write_pairs(tmp_path / "pairs"), tmp_path / "out", recipe="mirnet", architecture="edge",
        network={"channels": (8, 8, 16), "exposure_channels": 0}, training={"ema_decay": 0.5},
    )  # fmt: skip
    assert loaded.architecture == "edge"
    assert loaded.model.config.channels == (8, 8, 16)
    assert loaded.card.recipe["ema_decay"] == 0.5
    assert loaded.card.recipe["schedule"] == "constant"


def test_qat_trains_weights_and_scales_and_saves_float_weights(tmp_path, write_pairs, save_weights):
    data, init = write_pairs(tmp_path / "photos", 12), save_weights()
    request = _request(data, tmp_path / "out", init=str(init), qat=True)
    done = train_weights(request, RecordingObserver())
    found, before = checkpoints.load(done.weights), checkpoints.load(init)
    assert found.card.parent == found.card.teacher == sha256_of(init)
    assert found.card.recipe["teacher_weight"] == 0.8
    assert not torch.equal(found.model.stem.weight, before.model.stem.weight)
    # the exposure branch is frozen
    pairs = zip(found.model.exposure.parameters(), before.model.exposure.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    scales = [value for key, value in done.network.state_dict().items() if "log_scale" in key]
    assert scales
    assert all(-12.0 < float(scale) < 0.0 for scale in scales)


def test_qat_simulates_the_int8_of_the_recipes_target(tmp_path, write_pairs, save_weights):
    data, init = write_pairs(tmp_path / "photos", 12), save_weights()
    for target in ("tensorrt", "cpu"):
        training = {"qat_target": target, "steps": 1}
        out = tmp_path / target
        request = _request(data, out, init=str(init), qat=True, training=training)
        done = train_weights(request, RecordingObserver())
        assert qat_target_of(done.network) == target
        card = checkpoints.load(done.weights).card
        assert card.recipe["qat_target"] == target
        assert card.int8_ranges == (learned_ranges_of(done.network) if target == "cpu" else {})


def test_qat_resumes(tmp_path, write_pairs, save_weights):
    data, init = write_pairs(tmp_path / "photos", 12), save_weights()
    request = _request(data, tmp_path / "out", init=str(init), qat=True)
    train_weights(request, RecordingObserver())
    again = RecordingObserver()
    train_weights(request, again)
    assert again.started == [(2, 2)]


def test_qat_needs_pretrained_weights(tmp_path, write_pairs):
    data = write_pairs(tmp_path / "photos", 12)
    with pytest.raises(OptionError, match="--qat fine-tunes pretrained weights"):
        train_weights(_request(data, tmp_path / "out", qat=True), RecordingObserver())
