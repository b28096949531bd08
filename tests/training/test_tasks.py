"""Tasks: what each does to a clean image is repeatable, of the right size, and bad."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.training import tasks
from mirnet_edge.training.tasks import TASKS, add_capture_noise, find_task

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def _scene(size=(64, 96)):
    """Return patches of color with some texture: neither flat nor noise."""
    generator = np.random.default_rng(0)
    patches = cv2.resize(
        generator.integers(30, 226, (8, 12, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC
    ).astype(int)
    texture = generator.integers(-12, 13, (*size, 3))
    return np.clip(patches + texture, 0, 255).astype(np.uint8)


SCENE = _scene()


def _bad(task, seed):
    return task.degrade(SCENE, np.random.default_rng(seed))


def _enlarged(frame, scale):
    height, width = frame.shape[:2]
    return cv2.resize(frame, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)


def _errors(task, seeds=range(24)):
    """Return the mean absolute difference to the clean image for each seed, in levels."""
    return [
        np.abs(_enlarged(_bad(task, seed), task.scale).astype(int) - SCENE).mean() for seed in seeds
    ]


@every_task
def test_a_seed_repeats_and_others_differ(task):
    assert np.array_equal(_bad(task, 1), _bad(task, 1))
    assert len({_bad(task, seed).tobytes() for seed in range(8)}) > 1


@every_task
def test_size_and_type_are_as_stated_and_the_clean_image_is_left_alone(task):
    before = SCENE.copy()
    for seed in range(8):
        bad = _bad(task, seed)
        assert bad.dtype == np.uint8
        assert bad.shape == (64 // task.scale, 96 // task.scale, 3)
    assert np.array_equal(SCENE, before)


@every_task
def test_a_bad_image_is_worse_in_every_draw_and_much_worse_in_some(task):
    errors = _errors(task)
    assert min(errors) > 0.5
    assert max(errors) > 5.0
    assert max(errors) > 1.05 * min(errors)


def test_low_light_is_darker_in_every_draw_by_several_stops_in_some():
    means = [_bad(find_task("low-light"), seed).mean() / SCENE.mean() for seed in range(24)]
    assert max(means) < 0.9
    assert min(means) < 0.2


def test_denoise_keeps_the_light_and_has_strong_and_weak_noise():
    task = find_task("denoise")
    means = [_bad(task, seed).mean() for seed in range(24)]
    assert means == pytest.approx([SCENE.mean()] * 24, abs=4.0)
    errors = _errors(task)
    assert min(errors) < 8.0
    assert max(errors) > 25.0


def test_some_noise_is_shared_by_neighbors_and_channels_as_a_camera_s_is():
    gray = np.full((96, 96, 3), 128, np.uint8)
    found = []
    for seed in range(40):
        noise = find_task("denoise").degrade(gray, np.random.default_rng(seed)).astype(float) - 128
        variance = noise.var() or 1.0
        along = (noise[:, :-1] * noise[:, 1:]).mean() / variance
        across = (noise[..., 0] * noise[..., 1]).mean() / variance
        found.append((along > 0.2, across > 0.2, abs(along) < 0.03 and abs(across) < 0.03))
    neighbors, channels, white = (sum(column) for column in zip(*found, strict=True))
    assert neighbors >= 5
    assert channels >= 5
    assert white >= 15


def test_a_quarter_of_white_noise_is_compressed(monkeypatch):
    seen = []
    monkeypatch.setattr(tasks, "add_noise", lambda frame, noise, _: seen.append(noise) or frame)
    gray = np.full((8, 8, 3), 128, np.uint8)
    for seed in range(2000):
        find_task("denoise").degrade(gray, np.random.default_rng(seed))
    white = [one for one in seen if one.photons is None]
    compressed = [one for one in white if one.jpeg_quality is not None]
    assert 0.55 < len(white) / len(seen) < 0.65
    assert 0.2 < len(compressed) / len(white) < 0.3
    assert min(one.jpeg_quality for one in compressed) < 50
    assert max(one.jpeg_quality for one in compressed) > 90
    assert max(one.sigma for one in compressed) > 45.0


def test_super_resolution_asks_for_twice_the_sides_and_old_photos_for_the_same():
    assert {task.name: task.scale for task in TASKS} == {
        "low-light": 1,
        "denoise": 1,
        "super-resolution": 2,
        "old-photo": 1,
    }


def test_an_old_photo_has_less_contrast_or_color():
    def spread(frame):
        return frame.astype(float).std((0, 1)).mean(), np.ptp(frame.astype(int), axis=2).mean()

    contrast, color = spread(SCENE)
    found = [spread(_bad(find_task("old-photo"), seed)) for seed in range(24)]
    assert np.mean([one for one, _ in found]) < 0.9 * contrast
    assert np.mean([one for _, one in found]) < 0.9 * color


def test_an_unknown_task_is_refused_and_the_known_ones_are_named():
    with pytest.raises(OptionError, match=r"expected the task low-light, denoise, .*, found 'fog'"):
        find_task("fog")


def _same(frame, generator):
    return frame


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_images_is_captured(share):
    captured = add_capture_noise(_same, share)
    changed = [
        not np.array_equal(captured(SCENE, np.random.default_rng(seed)), SCENE)
        for seed in range(200)
    ]
    # two fifths have white noise; of the others half have no noise, three tenths no JPEG
    assert np.mean(changed) == pytest.approx(0.91 * share, abs=0.08)


def test_a_captured_image_is_as_the_task_made_it_with_noise_or_jpeg_on_top():
    def darker(frame, generator):
        return (frame // 2).astype(np.uint8)

    captured = add_capture_noise(darker, 1.0)
    errors = np.array(
        [
            np.abs(captured(SCENE, np.random.default_rng(seed)).astype(int) - SCENE // 2).mean()
            for seed in range(100)
        ]
    )
    assert errors.max() < 45.0
    assert errors.max() > 25.0  # noise of 30 levels and more
    assert ((errors > 0.0) & (errors < 8.0)).sum() > 20  # JPEG alone, or weak noise
    assert np.array_equal(
        captured(SCENE, np.random.default_rng(1)), captured(SCENE, np.random.default_rng(1))
    )


def test_two_fifths_of_the_captured_images_have_white_noise():
    captured = add_capture_noise(_same, 1.0)
    gray = np.full((48, 48, 3), 128, np.uint8)
    white = 0
    for seed in range(200):
        noise = captured(gray, np.random.default_rng(seed)).astype(float) - 128.0
        if noise.std() < 1.0:
            continue
        neighbors = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
        colors = np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1]
        white += abs(neighbors) < 0.1 and abs(colors) < 0.1
    # half of the white noise is JPEG-compressed, which correlates colors
    assert 0.15 * 200 < white < 0.35 * 200
