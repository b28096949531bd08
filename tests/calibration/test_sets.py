"""Calibration sets: what calibrates never judges, and what is too little or broken is named."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.calibration.sets import Sample, builtin_low_light, fitted, read_set
from mirnet_edge.errors import CalibrationError


def _write(path, seed, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _folder(tmp_path, count):
    for index in range(count):
        _write(tmp_path / f"{index:02}.png", index)
    return tmp_path


def _hashes(samples):
    return {hashlib.sha256(sample.frame.tobytes()).hexdigest() for sample in samples}


def test_every_fourth_picture_judges_and_the_groups_are_disjoint(tmp_path):
    found = read_set(_folder(tmp_path, 10))
    assert [sample.name for sample in found.judging] == ["03", "07"]
    assert len(found.calibrating) == 8
    assert not _hashes(found.calibrating) & _hashes(found.judging)


def test_a_pair_table_calibrates_on_train_and_judges_on_val_with_references(tmp_path):
    rows = ["low,high,scene,split"]
    for index in range(9):
        _write(tmp_path / "low" / f"{index}.png", index)
        _write(tmp_path / "high" / f"{index}.png", 100 + index)
        rows.append(f"low/{index}.png,high/{index}.png,{index},{'val' if index < 2 else 'train'}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    found = read_set(tmp_path)
    assert [sample.name for sample in found.judging] == ["0", "1"]
    assert all(sample.reference is not None for sample in found.judging)
    assert {sample.name for sample in found.calibrating} == set("2345678")


def test_the_hash_belongs_to_the_content_and_not_to_the_names(tmp_path):
    first = read_set(_folder(tmp_path / "a", 8))
    second = read_set(_folder(tmp_path / "b", 8))
    assert first.sha256 == second.sha256
    _write(tmp_path / "b" / "00.png", 50)
    assert read_set(tmp_path / "b").sha256 != first.sha256


def test_large_sets_are_thinned_evenly(tmp_path):
    found = read_set(_folder(tmp_path, 24), calibrating=4, judging=2)
    assert found.calibrating[0].name == "00"
    assert len(found.calibrating) == 4
    assert len(found.judging) == 2


@pytest.mark.parametrize(("count", "says"), [(0, "0 pictures"), (1, "1 picture;"), (7, "7 pic")])
def test_too_few_pictures_are_counted(tmp_path, count, says):
    with pytest.raises(CalibrationError, match=f"{says}.*expected at least 8"):
        read_set(_folder(tmp_path, count))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CalibrationError, match="nowhere is not a folder"):
        read_set(tmp_path / "nowhere")


def test_a_text_file_named_png_is_named(tmp_path):
    _folder(tmp_path, 10)
    (tmp_path / "05.png").write_text("not a picture")
    with pytest.raises(CalibrationError, match=r"05\.png"):
        read_set(tmp_path)


def test_a_copy_in_both_groups_is_refused(tmp_path):
    _folder(tmp_path, 8)
    _write(tmp_path / "03.png", 0)  # what 00.png holds
    with pytest.raises(CalibrationError, match="00 would both calibrate and judge"):
        read_set(tmp_path)


def test_the_built_in_set_is_dark_repeatable_and_disjoint():
    first, second = builtin_low_light(), builtin_low_light()
    assert first.sha256 == second.sha256
    assert not _hashes(first.calibrating) & _hashes(first.judging)
    photos = [
        {sample.name.split("-")[0] for sample in group}
        for group in (first.calibrating, first.judging)
    ]
    assert not photos[0] & photos[1]
    for sample in first.judging:
        assert sample.frame.mean() < 0.6 * sample.reference.mean()


def test_fitting_cuts_the_middle_and_fills_by_reflection():
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    sample = Sample("a", frame, frame + np.uint8(1))
    cut = fitted(sample, (4, 4), None)
    assert np.array_equal(cut.frame, frame[1:5, 2:6])
    assert np.array_equal(cut.reference, cut.frame + 1)
    grown = fitted(sample, (8, 8), None)
    assert np.array_equal(grown.frame[6], frame[4])
    assert fitted(sample, None, (4, 100)).frame.shape == (4, 8, 3)
    assert fitted(sample, None, None).frame.shape == frame.shape
