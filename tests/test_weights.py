"""The weights that the package ships: each does its task, and leaves good images alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.calibration.sets import builtin_set, fit_sample
from mirnet_edge.checkpoints.store import list_shipped_weights
from mirnet_edge.degradations import OldPhoto, age_photo
from mirnet_edge.metrics import psnr
from mirnet_edge.training.loop import restore_frames

NAMES = ("denoise", "low-light", "old-photo", "super-resolution")
# Mean gain in dB over what goes in, on the built-in set; what was measured less a tenth or more.
GAIN_DB = {"denoise": 5.0, "low-light": 9.0, "old-photo": 1.5, "super-resolution": 0.8}
LARGEST_BYTES = 4 * 2**20
CUT = (320, 320)


@pytest.fixture(scope="module")
def shipped():
    return {name: checkpoints.load(f"shipped:{name}") for name in NAMES}


def _enlarged(frame, size):
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))


def _db(output, reference):
    return float(psnr(output[None], reference[None])[0])


def test_these_are_all(shipped):
    assert list_shipped_weights() == sorted(shipped)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_small_and_its_task_has_a_built_in_set(shipped, name):
    assert checkpoints.resolve(f"shipped:{name}").stat().st_size <= LARGEST_BYTES
    assert builtin_set(shipped[name].card.task).evaluation


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bad_images_of_its_task_get_better(shipped, name):
    loaded = shipped[name]
    gains = []
    for whole in builtin_set(loaded.card.task).evaluation[::2]:
        sample = fit_sample(whole, None, CUT)
        scale = len(sample.reference) // len(sample.frame)
        before = _enlarged(sample.frame, sample.reference.shape[:2])
        after = restore_frames(loaded.model, sample.frame[None], scale)[0]
        gains.append(_db(after, sample.reference) - _db(before, sample.reference))
    assert np.mean(gains) > GAIN_DB[loaded.card.task], gains


def _clean_photos():
    return {
        sample.name.partition("-")[0]: sample.reference[: CUT[0], : CUT[1]]
        for sample in builtin_set("denoise").calibration
    }


def _color(frame):
    """Return how far the channels are from their mean, in levels."""
    gray = frame.mean(2, keepdims=True)
    return np.abs(frame - gray).max(2).mean()


@pytest.mark.slow
@pytest.mark.parametrize("photo", ["coffee", "chelsea"])
def test_a_brown_print_of_a_gray_photo_loses_brown(shipped, photo):
    brown = OldPhoto(color_loss=1.0, sepia=0.6, fading=0.5, grain=10.0)
    print_ = age_photo(_clean_photos()[photo], brown, np.random.default_rng(0))
    after = restore_frames(shipped["old-photo"].model, print_[None])[0]
    # 0.4 and 0.6 of it are left; weights that saw no gray photos made it 1.2 times as brown
    assert _color(after) < 0.8 * _color(print_)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoise", "low-light"])
def test_clean_well_lit_images_come_back_nearly_as_they_were(shipped, name):
    loaded = shipped[name]
    values = []
    for photo in ("coffee", "chelsea"):
        clean = _clean_photos()[photo]
        values.append(_db(restore_frames(loaded.model, clean[None])[0], clean))
    assert np.mean(values) > 28.0, values
