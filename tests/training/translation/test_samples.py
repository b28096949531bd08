"""Samples of old-photo translation: masks are exact, held-out photos stay out, steps repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.training.aging import SEEN_LEVELS
from mirnet_edge.training.translation.recipe import TranslationRecipe
from mirnet_edge.training.translation.samples import (
    BatchMaker,
    OldPhotoData,
    load_data,
)

_STAGE = {"name": "mapping", "steps": 1, "batch": 2, "crop": 32, "learning_rate": 1e-3}


def _recipe(**values):
    usual = {"schema_version": 1, "clean": ["clean"], "real": "real", "stages": [_STAGE]}
    return TranslationRecipe.model_validate(usual | values)


def _random(number, size=(96, 96)):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


def test_batches_follow_from_the_step_alone():
    photos = OldPhotoData(((_random(0), _random(1)),), (_random(2, (40, 50)),), ())
    one, two = (BatchMaker(photos, _recipe()) for _ in range(2))
    first, again, other = one.aged(5, 3, 32), two.aged(5, 3, 32), two.aged(6, 3, 32)
    assert first.clean.shape == first.aged.shape == (3, 3, 32, 32)
    assert first.damage.shape == (3, 1, 32, 32)
    for name in ("clean", "aged", "damage"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.aged, other.aged)
    assert torch.equal(one.real(5, 2, 64), two.real(5, 2, 64))  # larger than the scan
    assert torch.equal(one.clean(5, 2, 32), two.clean(5, 2, 32))


def test_a_fraction_of_the_photos_is_gray_or_has_not_aged():
    photos = OldPhotoData(((_random(0),),), (_random(2),), ())
    gray = BatchMaker(photos, _recipe(monochrome_fraction=0.99)).clean(0, 4, 32)
    assert (gray.amax(1) - gray.amin(1)).max() < 0.01
    damaged = BatchMaker(
        photos, _recipe(damage_only_fraction=1.0, capture_noise_fraction=0.0)
    ).aged(0, 4, 32)
    intact = damaged.damage.expand(-1, 3, -1, -1) == 0.0
    assert (damaged.aged - damaged.clean)[intact].abs().max() < SEEN_LEVELS / 255.0


@pytest.fixture
def data(tmp_path):
    for folder, count in (("clean", 12), ("real", 3)):
        (tmp_path / folder).mkdir()
        for place in range(count):
            image = np.full((40, 48, 3), 10 * place, np.uint8)
            Image.fromarray(image).save(tmp_path / folder / f"{place:02}.png")
    return tmp_path


def test_held_out_photos_and_scans_are_not_trained_on(data):
    train, held_out = load_data(_recipe(real_held_out=["01"]), data)
    assert [len(one.clean[0]) for one in (train, held_out)] == [10, 2]
    assert [int(scan[0, 0, 0]) for scan in train.real] == [0, 20]
    assert [int(scan[0, 0, 0]) for scan in held_out.real] == [10]
    assert train.overlays == ()
    levels = {int(photo[0, 0, 0]) for photo in held_out.clean[0]}
    assert levels.isdisjoint(int(photo[0, 0, 0]) for photo in train.clean[0])


def test_folders_that_do_not_fit_are_named(data):
    with pytest.raises(OptionError, match="names 07"):
        load_data(_recipe(real_held_out=["07"]), data)
    with pytest.raises(OptionError, match="names 00, 01, 02"):
        load_data(_recipe(real_held_out=["00", "01", "02"]), data)
    with pytest.raises(DataError, match="no images"):
        load_data(_recipe(real="scans"), data)
