"""A diagnosis network is trained end to end on tiny images; a stopped run resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.diagnosis.labels import LABELS
from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.training.diagnosis.job import (
    DiagnosisRequest,
    SampleInputs,
    load_diagnosis,
    loss_of,
    read_history,
    shift_thresholds,
    train_diagnosis,
)
from mirnet_edge.training.diagnosis.report import measure_diagnosis, write_report


class Observer:
    """Counts what is done."""

    def __init__(self):
        self.made, self.steps, self.begun_at = 0, [], None

    def on_samples(self, total):
        self.total = total

    def on_sample(self):
        self.made += 1

    def on_begin(self, steps, step):
        self.begun_at = step

    def on_step(self, step, loss):
        self.steps.append(loss)

    def on_score(self, score):
        pass


@pytest.fixture(scope="module")
def clean_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    generator = np.random.default_rng(0)
    for place in range(24):
        coarse = generator.integers(40, 230, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC).save(
            folder / f"scene_{place}.png"
        )
    return folder


def _request(data, out, **overrides):
    fields = {
        "samples": 24, "validation_samples": 12, "batch": 4, "validate_every": 2, "steps": 4,
    }  # fmt: skip
    return DiagnosisRequest(data=data, out=out, overrides=fields | overrides)


@pytest.fixture(scope="module")
def trained(clean_images, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    observer = Observer()
    return train_diagnosis(_request(clean_images, out), observer), observer, out


def test_training_writes_weights_history_and_state(trained):
    found, observer, out = trained
    assert observer.made == observer.total == 48
    assert len(observer.steps) == 4
    assert found.is_finished
    assert [one.step for one in read_history(out)] == [2, 4]
    again = load_diagnosis(out / "diagnosis.safetensors").state_dict()
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_a_stopped_run_resumes_and_ends_with_the_same_weights(trained, clean_images, tmp_path):
    whole, _, _ = trained
    request = _request(clean_images, tmp_path)
    first = Observer()
    stopped = DiagnosisRequest(
        data=request.data, out=request.out, overrides=request.overrides, max_seconds=0.0
    )
    half = train_diagnosis(stopped, first)
    assert not half.is_finished
    assert half.history[-1].step == 1
    second = Observer()
    resumed = train_diagnosis(request, second)
    assert (second.made, second.begun_at, resumed.is_finished) == (0, 1, True)
    for name, tensor in whole.network.state_dict().items():
        assert torch.allclose(tensor.float(), resumed.network.state_dict()[name].float()), name


def test_another_recipe_does_not_resume(trained, clean_images):
    _, _, out = trained
    with pytest.raises(CheckpointError, match="another recipe"):
        train_diagnosis(_request(clean_images, out, learning_rate=1e-4), Observer())


def test_too_few_images_are_refused(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    with pytest.raises(OptionError, match="no clean image with the split"):
        train_diagnosis(_request(tmp_path, tmp_path / "out"), Observer())


def test_the_report_holds_figures_of_held_out_images(trained, tmp_path):
    found, _, _ = trained
    measured = measure_diagnosis(found)
    held_out = [one for one in found.images if one.split == "held-out"]
    assert len(measured.images) == len(held_out) > 0
    report = write_report(tmp_path, found, measured).read_text()
    right = sum(one.is_right for one in measured.images)
    assert f"| {len(held_out)} | {len(held_out)} | {right} |" in report
    assert all(f"| {label} |" in report for label in LABELS)
    for chart in ("diagnosis-curves.svg", "diagnosis-confusion.svg"):
        assert chart in report
        assert (tmp_path / chart).read_text().startswith("<svg")


def test_unknown_labels_cost_nothing_and_fine_samples_weigh_more():
    logits, sigma = torch.full((1, 5), 3.0), torch.ones(1)
    targets = torch.zeros(1, 12)
    assert loss_of(logits, sigma, targets, 2.0) == 0.0
    targets[:, 5] = 1.0  # dark is known to be absent
    wrong = loss_of(logits, sigma, targets, 2.0)
    assert wrong > 2.5
    pair = torch.cat([targets, targets])
    pair[1, 1], pair[1, 6] = 1.0, 1.0  # the second is noisy, and the network says so
    assert loss_of(logits.repeat(2, 1), sigma.repeat(2), pair, 4.0) > loss_of(
        logits.repeat(2, 1), sigma.repeat(2), pair, 1.0
    )


def test_thresholds_shift_until_few_fine_samples_reach_them(trained):
    found, _, _ = trained
    samples = SampleInputs(found.held_out)
    with torch.no_grad():
        found.network.head[-1].bias[0] += 1.0
    shifted = shift_thresholds(found.network, samples)
    before, after = found.network.head[-1].bias, shifted.head[-1].bias
    assert (after[:5] <= before[:5]).all()
    assert after[5] == before[5]
