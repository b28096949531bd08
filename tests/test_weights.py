"""The weights that the package ships: each does its task, and leaves good pictures alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.calibration.builtin import builtin_set
from mirnet_edge.calibration.sets import fitted
from mirnet_edge.checkpoints.store import shipped_names
from mirnet_edge.metrics import psnr
from mirnet_edge.training.validation import restored

NAMES = ("denoise", "low-light", "low-light-nano", "old-photo", "super-resolution")
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
    assert shipped_names() == sorted(shipped)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_small_and_its_task_has_a_built_in_set(shipped, name):
    assert checkpoints.resolve(f"shipped:{name}").stat().st_size <= LARGEST_BYTES
    assert builtin_set(shipped[name].card.task).judging


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bad_pictures_of_its_task_get_better(shipped, name):
    loaded = shipped[name]
    gains = []
    for whole in builtin_set(loaded.card.task).judging[::2]:
        sample = fitted(whole, None, CUT)
        scale = len(sample.reference) // len(sample.frame)
        before = _enlarged(sample.frame, sample.reference.shape[:2])
        after = restored(loaded.model, sample.frame[None], scale)[0]
        gains.append(_db(after, sample.reference) - _db(before, sample.reference))
    assert np.mean(gains) > GAIN_DB[loaded.card.task], gains


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoise", "low-light"])
def test_clean_well_lit_pictures_come_back_nearly_as_they_were(shipped, name):
    loaded = shipped[name]
    references = {
        sample.name.partition("-")[0]: sample.reference
        for sample in builtin_set("denoise").calibrating
    }
    values = []
    for photo in ("coffee", "chelsea"):
        clean = references[photo][: CUT[0], : CUT[1]]
        values.append(_db(restored(loaded.model, clean[None])[0], clean))
    assert np.mean(values) > 28.0, values
