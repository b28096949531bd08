"""The comparison of old-photo networks: what is filled, what is measured, which photos are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.translation import OldPhotoTranslation, TranslationConfig


@pytest.fixture(scope="module")
def translation(load_script):
    return load_script("old_photo_translation")


@pytest.fixture(scope="module")
def restorers(translation):
    torch.manual_seed(0)
    config = TranslationConfig(
        stem_channels=4, channels=8, latent_channels=6, vae_blocks=1, mapping_blocks=1,
        attention_channels=4, detector_channels=4,
    )  # fmt: skip
    fast = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), exposure_channels=0))
    return translation.Restorers(OldPhotoTranslation(config).eval(), fast.eval())


def _photo(seed=0, size=(60, 76)):
    coarse = np.random.default_rng(seed).integers(0, 256, (*(side // 4 for side in size), 3))
    return np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)


def test_what_is_filled_changes_damage_alone(translation, restorers):
    frame, truth = _photo(), np.zeros((60, 76), bool)
    truth[20:24, 10:50] = True
    results, found = restorers.restore_all(frame, truth)
    assert found.shape == truth.shape
    fast = results["fast network"]
    beside = ~translation.widen(truth)
    for name in ("fast, true mask filled by translation", "fast, true mask filled by inpainting"):
        assert np.array_equal(results[name][beside], fast[beside])
        assert not np.array_equal(results[name][truth], fast[truth])
    filled = restorers.translate(fast, truth)
    assert np.array_equal(results["fast, true mask filled by translation"][truth], filled[truth])


def test_inpainting_removes_a_scratch_of_a_flat_photo(translation):
    frame, truth = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), bool)
    truth[:, 20] = True
    frame[truth] = 255
    filled = translation.inpaint(frame, truth).astype(int)
    assert np.abs(filled - 90)[4:-4].max() <= 2  # OpenCV is less exact at the image's border


def test_pairs_are_the_same_at_every_call_and_their_damage_is_measured_alone(translation):
    photo = _photo()
    for kind in translation.KINDS:
        one, two = (translation.make_pair(photo, 3, kind, ()) for _ in range(2))
        assert np.array_equal(one.aged, two.aged)
    pair = next(
        made
        for place in range(20)
        if (made := translation.make_pair(photo, place, translation.KINDS[0], ())).damage.any()
    )
    beside = np.where(pair.damage[..., None], pair.clean, 0).astype(np.uint8)
    assert pair.damage_db(beside) == pytest.approx(10 * np.log10(255.0**2 / 1e-6))
    wrong = np.clip(pair.clean.astype(int) + 10 * pair.damage[..., None], 0, 255).astype(np.uint8)
    assert pair.damage_db(wrong) >= 10 * np.log10(255.0**2 / 100.0) - 1e-6


def test_the_table_has_every_result_and_the_sheet_every_scan(translation, restorers, tmp_path):
    pair = translation.make_pair(_photo(), 0, translation.KINDS[1], ())
    figures, iou = translation.measure(restorers, [pair])
    assert 0.0 <= iou <= 1.0
    assert len(figures) == 8
    assert figures["input"][1] == pytest.approx(pair.damage_db(pair.aged))
    from PIL import Image

    translation.write_sheet(restorers, [_photo(1), _photo(2, (40, 40))], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 76, 60 + 40 + 2 * 20)


def test_larger_scans_are_fitted(translation):
    assert translation.fit(np.zeros((1024, 512, 3), np.uint8)).shape == (512, 256, 3)
    assert translation.fit(np.zeros((40, 30, 3), np.uint8)).shape == (40, 30, 3)
