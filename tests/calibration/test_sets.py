"""Reading sets: calibration and evaluation images differ, and what is broken is named."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mirnet_edge.calibration.sets import CalibrationSample, cut_many, fit_sample, read_set
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


def test_every_fourth_image_is_for_evaluation_and_the_groups_are_disjoint(tmp_path):
    found = read_set(_folder(tmp_path, 10))
    assert [sample.name for sample in found.evaluation] == ["03", "07"]
    assert len(found.calibration) == 8
    assert not _hashes(found.calibration) & _hashes(found.evaluation)


def _pairs(folder, size=(24, 32), reference=(24, 32)):
    rows = ["low,high,scene,split"]
    for index in range(9):
        _write(folder / "low" / f"{index}.png", index, size)
        _write(folder / "high" / f"{index}.png", 100 + index, reference)
        rows.append(f"low/{index}.png,high/{index}.png,{index},{'val' if index < 2 else 'train'}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder


def test_a_pair_table_calibrates_on_train_and_evaluates_on_val_with_references(tmp_path):
    found = read_set(_pairs(tmp_path))
    assert [sample.name for sample in found.evaluation] == ["0", "1"]
    assert all(sample.reference is not None for sample in found.evaluation)
    assert {sample.name for sample in found.calibration} == set("2345678")


def test_the_hash_belongs_to_the_content_and_not_to_the_names(tmp_path):
    first = read_set(_folder(tmp_path / "a", 8))
    second = read_set(_folder(tmp_path / "b", 8))
    assert first.sha256 == second.sha256
    _write(tmp_path / "b" / "00.png", 50)
    assert read_set(tmp_path / "b").sha256 != first.sha256


def test_large_sets_are_thinned_evenly(tmp_path):
    found = read_set(_folder(tmp_path, 24), calibration=4, evaluation=2)
    assert found.calibration[0].name == "00"
    assert len(found.calibration) == 4
    assert len(found.evaluation) == 2


@pytest.mark.parametrize(("count", "says"), [(0, "0 images"), (1, "1 image;"), (7, "7 images")])
def test_too_few_images_are_counted(tmp_path, count, says):
    with pytest.raises(CalibrationError, match=f"{says}.*expected at least 8"):
        read_set(_folder(tmp_path, count))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CalibrationError, match="nowhere is not a folder"):
        read_set(tmp_path / "nowhere")


def test_a_text_file_named_png_is_named(tmp_path):
    _folder(tmp_path, 10)
    (tmp_path / "05.png").write_text("not an image")
    with pytest.raises(CalibrationError, match=r"05\.png"):
        read_set(tmp_path)


def test_a_copy_in_both_groups_is_refused(tmp_path):
    _folder(tmp_path, 8)
    _write(tmp_path / "03.png", 0)  # what 00.png holds
    with pytest.raises(CalibrationError, match="00 would be in both groups"):
        read_set(tmp_path)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_references_are_as_much_larger_as_the_network_enlarges(tmp_path, scale):
    size, reference = (5, 7), (5 * scale, 7 * scale)
    found = read_set(_pairs(tmp_path, size, reference), scale=scale)
    assert {sample.frame.shape for sample in found.evaluation} == {(*size, 3)}
    assert {sample.reference.shape for sample in found.evaluation} == {(*reference, 3)}


@dataclass(frozen=True)
class Unequal:
    id: str
    scale: int
    reference: tuple[int, int]
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Unequal("not enlarged", 2, (24, 32), "32x24; expected 64x48"),
        Unequal("enlarged without need", 1, (48, 64), "64x48; expected 32x24"),
        Unequal("one side", 2, (48, 32), "32x48; expected 64x48"),
        Unequal("nearly", 2, (48, 63), "63x48; expected 64x48"),
        Unequal("turned", 2, (64, 48), "48x64; expected 64x48"),
    ],
    ids=lambda case: case.id,
)
def test_references_of_another_size_are_refused_with_both_sizes(tmp_path, case):
    _pairs(tmp_path, reference=case.reference)
    says = rf"0\.png is 32x24 and its reference {case.says}. Leave the pair out"
    with pytest.raises(CalibrationError, match=says):
        read_set(tmp_path, scale=case.scale)


def test_fitting_cuts_the_middle_and_fills_by_reflection():
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    sample = CalibrationSample("a", frame, frame + np.uint8(1))
    cut = fit_sample(sample, (4, 4), None)
    assert np.array_equal(cut.frame, frame[1:5, 2:6])
    assert np.array_equal(cut.reference, cut.frame + 1)
    grown = fit_sample(sample, (8, 8), None)
    assert np.array_equal(grown.frame[6], frame[5])
    assert fit_sample(sample, None, (4, 100)).frame.shape == (4, 8, 3)
    assert fit_sample(sample, None, None).frame.shape == frame.shape


def _pair(height, width, scale):
    """Return a sample whose frame is the mean of each scale x scale cell of its reference."""
    generator = np.random.default_rng([height, width, scale])
    reference = generator.integers(
        0, 256, (scale * height, scale * width, 3), dtype=np.uint8
    )  # fmt: skip
    return CalibrationSample("a", _means(reference, scale), reference)


def _means(reference, scale):
    height, width = (side // scale for side in reference.shape[:2])
    cells = reference.reshape(height, scale, width, scale, 3).astype(int)
    return (cells.sum((1, 3)) // scale**2).astype(np.uint8)


def _same_view(sample, scale):
    return np.array_equal(sample.frame, _means(sample.reference, scale))


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 4),
)
def test_a_reference_is_cut_where_its_frame_is(sides, wanted, scale):
    sample = _pair(*sides, scale)
    assert _same_view(sample, scale)
    cut = fit_sample(sample, None, wanted)
    smaller = tuple(map(min, sides, wanted))
    assert cut.frame.shape == (*smaller, 3)
    assert _same_view(cut, scale)
    if smaller == wanted:  # no filling: a fixed size is cut from the same place
        fixed = fit_sample(sample, wanted, None)
        assert np.array_equal(fixed.frame, cut.frame)
        assert np.array_equal(fixed.reference, cut.reference)


@pytest.mark.parametrize("margin", [1, 2, 3, 5])
def test_a_doubled_reference_keeps_its_view_whatever_the_margin(margin):
    sample = _pair(8 + margin, 12 + margin, 2)
    cut = fit_sample(sample, (8, 12), None)
    assert cut.reference.shape == (16, 24, 3)
    assert _same_view(cut, 2)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_reference_is_filled_as_its_frame_is(scale):
    grown = fit_sample(_pair(6, 8, scale), (9, 13), None)
    assert grown.frame.shape == (9, 13, 3)
    assert grown.reference.shape == (9 * scale, 13 * scale, 3)
    assert _same_view(grown, scale)


@pytest.mark.parametrize(
    ("size", "count", "places"),
    [
        ((40, 60), 1, [(15, 25)]),
        ((40, 60), 3, [(15, 25)]),
        ((40, 60), 4, [(5, 10), (5, 40), (25, 10), (25, 40)]),
        ((18, 60), 4, [(4, 25)]),  # two rows of 10 would overlap
        ((40, 60), 9, [(y, x) for y in (1, 14, 28) for x in (5, 25, 45)]),
    ],
)
def test_several_cuts_of_an_image_do_not_overlap(size, count, places):
    rows, columns = np.indices(size).astype(np.uint8)
    frame = np.stack([rows, columns, rows], axis=2)
    cuts = cut_many(CalibrationSample("a", frame, None), (10, 10), count)
    assert {one.frame.shape for one in cuts} == {(10, 10, 3)}
    assert [tuple(int(side) for side in one.frame[0, 0, :2]) for one in cuts] == places


def test_an_image_that_is_smaller_than_a_cut_stays_whole():
    frame = np.zeros((8, 30, 3), np.uint8)
    (whole,) = cut_many(CalibrationSample("a", frame, None), (10, 10), 4)
    assert whole.frame.shape == (8, 10, 3)
