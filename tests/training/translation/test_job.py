"""Old-photo translation is trained end to end on tiny photos; a stopped run resumes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.errors import CheckpointError
from mirnet_edge.training.translation.job import (
    TranslationRequest,
    load_translation,
    read_translation_history,
    train_translation,
)
from mirnet_edge.training.translation.recipe import TRANSLATION

_NETWORK = {
    "stem_channels": 4, "channels": 8, "latent_channels": 6, "vae_blocks": 1, "mapping_blocks": 1,
    "attention_channels": 4, "detector_channels": 4,
}  # fmt: skip
_NAMES = ("detector", "old", "clean", "mapping")


def _stages(**steps):
    return [
        {"name": name, "steps": steps.get(name, 2), "batch": 2, "crop": 32, "learning_rate": 1e-2}
        for name in _NAMES
    ]


class Observer:
    """Counts what is done."""

    def __init__(self):
        self.losses, self.began_at, self.scores = [], None, []

    def on_begin(self, steps, step):
        self.began_at = step

    def on_step(self, step, loss):
        self.losses.append(loss)

    def on_translation_score(self, score):
        self.scores.append(score)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, count in (("clean", 10), ("real", 2)):
        (folder / name).mkdir()
        for place in range(count):
            coarse = generator.integers(40, 230, (6, 8, 3), np.uint8)
            Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(
                folder / name / f"{place}.png"
            )
    return folder


def _request(data, out, **fields):
    overrides = {
        "clean": ["clean"], "real": "real", "real_held_out": ["1"], "network": _NETWORK,
        "stages": _stages(), "validate_every": 3, "warmup_steps": 1,
    }  # fmt: skip
    return TranslationRequest(data=data, out=out, overrides=overrides | fields)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    observer = Observer()
    return train_translation(_request(data, out), observer), observer, out


def test_training_goes_through_all_stages_and_writes_weights(trained):
    found, observer, out = trained
    assert len(observer.losses) == 8
    assert found.is_finished
    scores = [(one.step, one.stage) for one in read_translation_history(out)]
    assert scores == [
        (2, "detector"), (3, "old"), (4, "old"), (6, "clean"), (8, "mapping"),
    ]  # fmt: skip
    last = {one.stage: one for one in found.history}
    assert 0.0 <= last["detector"].damage_iou <= 1.0
    assert math.isnan(last["detector"].psnr_db)
    assert all(last[name].psnr_db > 3.0 for name in ("old", "clean", "mapping"))
    assert last["mapping"].damage_db > 3.0
    again = load_translation(out / f"{TRANSLATION}.safetensors")
    assert again.config == found.network.config
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_stopped_run_resumes_and_ends_with_the_same_weights(trained, data, tmp_path):
    whole, _, _ = trained
    request = _request(data, tmp_path)
    stopped = dataclasses.replace(request, max_seconds=0.0)
    for done in range(1, 4):  # the third step is the first of the second stage
        half = train_translation(stopped, Observer())
        assert not half.is_finished
        assert half.history[-1].step == done
    second = Observer()
    resumed = train_translation(request, second)
    assert (second.began_at, len(second.losses), resumed.is_finished) == (3, 5, True)
    for name, tensor in whole.network.state_dict().items():
        assert torch.allclose(tensor, resumed.network.state_dict()[name], atol=1e-6), name


def test_a_finished_run_is_not_trained_again(trained, data, tmp_path):
    found, _, out = trained
    observer = Observer()
    again = train_translation(_request(data, out), observer)
    assert (observer.began_at, observer.losses, again.is_finished) == (8, [], True)
    assert len(again.history) == len(found.history)


def test_stages_train_their_own_network_alone(data, tmp_path):
    request = dataclasses.replace(_request(data, tmp_path), max_seconds=0.0)
    states = [train_translation(request, Observer()).network.state_dict() for _ in range(8)]
    for step, name in ((1, "detector"), (3, "old"), (5, "clean"), (7, "mapping")):
        changed = {
            key.split(".")[0]
            for key, tensor in states[step].items()
            if not torch.equal(tensor, states[step - 1][key])
        }
        assert changed == {name}


def test_the_clean_vae_begins_with_the_old_ones_weights(data, tmp_path):
    request = _request(data, tmp_path, stages=[*_stages(clean=1)[:2], *_stages(clean=1)[2:]])
    stages = [{**one, "learning_rate": 1e-12} if one["name"] == "clean" else one
              for one in request.overrides["stages"]]  # fmt: skip
    request = dataclasses.replace(request, overrides=request.overrides | {"stages": stages[:3]})
    network = train_translation(request, Observer()).network
    for one, two in zip(network.old.parameters(), network.clean.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_stages_that_have_not_begun_may_change_and_no_others(trained, data, tmp_path):
    request = dataclasses.replace(_request(data, tmp_path), max_seconds=0.0)
    train_translation(request, Observer())
    longer = _request(data, tmp_path, stages=_stages(mapping=3))
    observer = Observer()
    assert train_translation(longer, observer).is_finished
    assert len(observer.losses) == 8
    for other in ({"kl_weight": 0.5}, {"stages": _stages(detector=3)}):
        with pytest.raises(CheckpointError, match="another recipe"):
            train_translation(_request(data, tmp_path, **other), Observer())


def test_held_out_photos_are_decoded_better_and_the_mapping_learns(data, tmp_path):
    stages = [
        {**stage, "learning_rate": 3e-3, "batch": 4}
        for stage in _stages(detector=1, old=100, clean=50, mapping=60)
    ]
    observer = Observer()
    train_translation(_request(data, tmp_path, stages=stages, validate_every=20), observer)
    old = [score.psnr_db for score in observer.scores if score.stage == "old"]
    assert old[-1] > old[0] + 0.8
    mapping = observer.losses[-60:]
    assert np.mean(mapping[-20:]) < 0.95 * np.mean(mapping[:20])


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no weights of old-photo translation"):
        load_translation(tmp_path / "none.safetensors")
