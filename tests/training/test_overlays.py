"""Overlays: laid over half of the images, with other ones for validation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.training.tasks import Task, find_task, make_overlay_tasks

PLAIN = Task("old-photo", lambda frame, generator: frame)
BLACK = np.zeros((40, 60, 3), np.uint8)


def _folder(path, count=12, *, mode="RGBA"):
    """Write opaque overlays of 20, 40, 60 ... levels of red."""
    path.mkdir()
    for number in range(count):
        pixels = np.full((24, 24, len(mode)), 255, np.uint8)
        pixels[..., 0] = 20 * (number + 1)
        Image.fromarray(pixels).save(path / f"{number:02}.png")
    return path


def _reds(task, samples=200):
    """Return the strongest red of each random sample; 10 for the weakest at half strength."""
    return np.array(
        [task.degrade(BLACK, np.random.default_rng(seed))[..., 0].max() for seed in range(samples)]
    )


def test_half_of_the_images_have_damage_and_all_overlays_are_used(tmp_path):
    train, validation = make_overlay_tasks(PLAIN, _folder(tmp_path / "overlays"))
    reds = _reds(train)
    assert (reds > 0).mean() == pytest.approx(0.5, abs=0.12)
    assert reds.max() > 180
    assert train.name == validation.name == "old-photo"


def test_validation_overlays_are_not_in_training(tmp_path):
    # the first and the eleventh validate: the first alone is there with ten
    train, validation = make_overlay_tasks(PLAIN, _folder(tmp_path / "overlays", 10))
    assert 0 < _reds(validation).max() <= 20
    trained = _reds(train)
    assert trained[trained > 0].min() >= 20  # the second's 40 at half strength


def test_overlays_lie_over_the_task_s_own_damage(tmp_path):
    train, _ = make_overlay_tasks(find_task("old-photo"), _folder(tmp_path / "overlays"))
    clean = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    own = [find_task("old-photo").degrade(clean, np.random.default_rng(seed)) for seed in range(20)]
    both = [train.degrade(clean, np.random.default_rng(seed)) for seed in range(20)]
    same = sum(np.array_equal(one, other) for one, other in zip(own, both, strict=True))
    assert 4 <= same <= 16


def test_opaque_overlays_other_tasks_and_too_few_are_refused(tmp_path):
    opaque = _folder(tmp_path / "opaque", 2, mode="RGB")
    with pytest.raises(DataError, match=r"0[01]\.png covers nothing; expected damage with transp"):
        make_overlay_tasks(PLAIN, opaque)
    overlays = _folder(tmp_path / "overlays", 2)
    with pytest.raises(OptionError, match="needs --task old-photo, found denoise"):
        make_overlay_tasks(find_task("denoise"), overlays)
    with pytest.raises(DataError, match="no pair with the split 'train'"):
        make_overlay_tasks(PLAIN, _folder(tmp_path / "one", 1))
