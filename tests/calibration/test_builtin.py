"""The built-in sets: one for each task, of photos that either calibrate or evaluator."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from mirnet_edge.calibration.sets import MINIMUM_IMAGES, builtin_set
from mirnet_edge.errors import CalibrationError, MissingDependencyError
from mirnet_edge.metrics import psnr

_found = cache(builtin_set)


@dataclass(frozen=True)
class Builtin:
    task: str
    conditions: tuple[str, ...]
    scale: int = 1
    calibration_only: tuple[str, ...] = ()


_TASKS = [
    Builtin("low-light", ("0.12", "0.05", "0.02"), calibration_only=("lamps",)),
    Builtin("denoise", ("sigma15", "sigma40", "camera")),
    Builtin("super-resolution", ("half",), scale=2),
    Builtin("old-photo", ("faded", "brown", "worn")),
]
_every_task = pytest.mark.parametrize("case", _TASKS, ids=lambda case: case.task)


def _samples(task):
    found = _found(task)
    return [*found.calibration, *found.evaluation]


def _photos(samples):
    return {sample.name.partition("-")[0] for sample in samples}


@_every_task
def test_the_same_set_comes_each_time(case):
    first, second = _found(case.task), builtin_set(case.task)
    assert first.sha256 == second.sha256
    for one, two in zip(
        _samples(case.task), [*second.calibration, *second.evaluation], strict=True
    ):
        assert one.name == two.name
        assert np.array_equal(one.frame, two.frame)
        assert np.array_equal(one.reference, two.reference)


@_every_task
def test_no_photo_is_in_both_groups(case):
    found = _found(case.task)
    evaluation = _photos(found.evaluation)
    assert len(evaluation) == 4
    assert len(_photos(found.calibration)) == 6
    assert not _photos(found.calibration) & evaluation
    # under two names there may be one photo: the originals are compared too
    originals = [
        {sample.reference.tobytes() for sample in group}
        for group in (found.calibration, found.evaluation)
    ]
    assert not originals[0] & originals[1]


@_every_task
def test_every_photo_is_degraded_in_each_of_the_tasks_ways(case):
    samples = _samples(case.task)
    names = [sample.name for sample in samples]
    assert len(names) == len(set(names)) >= MINIMUM_IMAGES
    found = _found(case.task)
    for group, conditions in (
        (found.calibration, (*case.conditions, *case.calibration_only)),
        (found.evaluation, case.conditions),
    ):
        assert {sample.name for sample in group} == {
            f"{photo}-{condition}" for photo in _photos(group) for condition in conditions
        }
    assert len({sample.frame.tobytes() for sample in samples}) == len(samples)
    assert found.source == f"built-in: scikit-image photos, {case.task}"
    for condition in case.conditions:
        assert condition in found.note
    assert "--calibration DIR" in found.note


@_every_task
def test_references_have_the_size_of_what_a_network_gives(case):
    for sample in _samples(case.task):
        height, width = sample.frame.shape[:2]
        assert sample.frame.dtype == sample.reference.dtype == np.uint8
        assert sample.reference.shape == (case.scale * height, case.scale * width, 3), sample.name


def test_every_task_has_photos_of_its_own_making():
    assert len({_found(case.task).sha256 for case in _TASKS}) == len(_TASKS)


def test_lamps_are_white_in_dark_images():
    lit = [one for one in _found("low-light").calibration if one.name.endswith("-lamps")]
    assert lit
    for sample in lit:
        white = (sample.frame == 255).all(2).mean()
        assert 0.03 < white < 0.5, sample.name
        assert np.median(sample.frame) < 128, sample.name


def test_the_low_light_set_is_dark():
    for sample in _samples("low-light"):
        if sample.name.endswith("-lamps"):
            continue
        assert sample.frame.mean() < 0.6 * sample.reference.mean(), sample.name


def test_the_noise_of_the_denoising_set_is_as_strong_as_its_name_says():
    for sample in _samples("denoise"):
        found = float(psnr(sample.frame[None], sample.reference[None])[0])
        if sample.name.endswith("-sigma15"):  # 24.6 dB; less is clipped than is not
            assert 24.0 < found < 26.5, sample.name
        elif sample.name.endswith("-sigma40"):  # 16.1 dB
            assert 15.5 < found < 18.5, sample.name
        else:
            assert 20.0 < found < 35.0, sample.name


def test_the_small_images_show_what_the_large_ones_do():
    for sample in _samples("super-resolution"):
        height, width = sample.frame.shape[:2]
        mean = sample.reference.reshape(height, 2, width, 2, 3).mean((1, 3))
        found = float(psnr(sample.frame[None] / 255.0, mean[None] / 255.0)[0])
        assert found > 30.0, sample.name  # aliases, or half a pixel aside, cost more


def test_old_photos_have_lost_contrast_or_got_dirt():
    for sample in _samples("old-photo"):
        found = float(psnr(sample.frame[None], sample.reference[None])[0])
        assert 8.0 < found < 30.0, sample.name


@pytest.mark.parametrize("task", ["deblur", "unknown", "", "Low-Light"])
def test_a_task_without_a_set_is_refused_with_those_that_have_one(task):
    with pytest.raises(CalibrationError) as raised:
        builtin_set(task)
    message = str(raised.value)
    assert f"no built-in set for the task {task!r}" in message
    assert "low-light, denoise, super-resolution, old-photo" in message
    assert "--calibration DIR" in message


def test_without_scikit_image_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependencyError, match="the built-in calibration set"):
        builtin_set("low-light")
