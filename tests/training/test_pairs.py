"""Pairs: read from files, refused when they do not fit, made bad the same at every call."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import DataError
from mirnet_edge.training.listing import PairFiles, list_pairs
from mirnet_edge.training.pairs import (
    add_monochrome,
    concatenate_pairs,
    degrade_images,
    load_pairs,
)


def _flat(path, level, size=(32, 32)):
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path)
    return path


def _folder(tmp_path):
    rows = ["low,high,scene,split"]
    for index, split in enumerate(("val", "train")):
        _flat(tmp_path / f"low{index}.png", 40 * index + 10)
        _flat(tmp_path / f"high{index}.png", 40 * index + 200)
        rows.append(f"low{index}.png,high{index}.png,{index},{split}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def _halved(frame, generator):
    return frame[::2, ::2]


def _noised(frame, generator):
    return frame // 2 + generator.integers(0, 100, frame.shape, np.uint8)


def test_splits_are_kept_apart(tmp_path):
    listing = list_pairs(_folder(tmp_path))
    assert [pair.scene for pair in listing.val] == ["0"]
    loaded = load_pairs(listing.train)
    assert len(loaded) == 1
    assert loaded.names == ("low1",)
    assert loaded.degraded[0][0, 0].tolist() == [50, 50, 50]
    assert loaded.targets[0][0, 0].tolist() == [240, 240, 240]
    assert loaded.targets[0].shape == (32, 32, 3)


def test_loading_reports_each_pair(tmp_path):
    folder, told = _folder(tmp_path), []
    load_pairs([*list_pairs(folder).train, *list_pairs(folder).val], on_loaded=told.append)
    assert told == [1, 2]


@pytest.mark.parametrize("changed", ["low1.png", "high1.png"])
def test_the_hash_follows_the_content_of_both_sides(tmp_path, changed):
    train = list_pairs(_folder(tmp_path)).train
    before = load_pairs(train).sha256
    assert load_pairs(train).sha256 == before
    assert len(before) == 64
    _flat(tmp_path / changed, 0)
    assert load_pairs(train).sha256 != before


def test_images_that_do_not_fit_are_named_with_their_sizes(tmp_path):
    train = list_pairs(_folder(tmp_path)).train
    _flat(tmp_path / "high1.png", 0, (16, 32))
    with pytest.raises(DataError, match=r"low1\.png is 32x32 and .*high1\.png 32x16; expected its"):
        load_pairs(train)
    (tmp_path / "high1.png").write_text("no image")
    with pytest.raises(DataError, match=r"high1\.png"):
        load_pairs(train)


def test_targets_of_scale_2_are_twice_as_large(tmp_path):
    degraded, target = tmp_path / "low.png", tmp_path / "high.png"
    pair = PairFiles(_flat(degraded, 10, (17, 23)), _flat(target, 20, (34, 46)), "a")
    loaded = load_pairs([pair], scale=2)
    assert (loaded.degraded[0].shape, loaded.targets[0].shape) == ((17, 23, 3), (34, 46, 3))
    assert loaded.scale == 2
    _flat(target, 20, (34, 45))
    with pytest.raises(
        DataError, match=r"low\.png is 23x17 and .*high\.png 45x34; expected 2 times its size"
    ):
        load_pairs([pair], scale=2)


def test_pairs_need_no_degradation_even_where_the_task_has_one(tmp_path):
    loaded = load_pairs(list_pairs(_folder(tmp_path)).train, degrade=_noised)
    assert loaded.degrade is None
    assert degrade_images(loaded) is loaded


@pytest.mark.parametrize(("scale", "size"), [(1, (33, 47)), (2, (32, 46))])
def test_clean_images_are_cropped_to_the_scale_and_have_no_degraded_ones(tmp_path, scale, size):
    pair = PairFiles(None, _flat(tmp_path / "kitchen.png", 90, (33, 47)), "kitchen")
    loaded = load_pairs([pair], degrade=_halved, scale=scale)
    assert loaded.degraded == (None,)
    assert loaded.targets[0].shape == (*size, 3)
    assert loaded.names == ("kitchen",)
    assert loaded.degrade is _halved


def test_clean_images_are_degraded_the_same_at_every_call(make_pairs):
    clean = make_pairs(2, degrade=_noised)
    once, again = degrade_images(clean), degrade_images(clean)
    assert once.degrade is None
    assert len(once) == 2
    for one, other in zip(once.degraded, again.degraded, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(once.degraded[0], once.targets[0])


def test_a_table_holds_pairs_and_clean_images(tmp_path):
    folder = _folder(tmp_path)
    _flat(folder / "clean.png", 90)
    pair = list_pairs(folder).train[0]
    loaded = load_pairs(
        [pair, PairFiles(None, folder / "clean.png", "clean")], degrade=lambda frame, _: frame // 3
    )
    assert [degraded is None for degraded in loaded.degraded] == [False, True]
    found = degrade_images(loaded)
    assert found.degrade is None
    assert np.array_equal(found.degraded[0], loaded.degraded[0])
    assert np.array_equal(found.inputs[1], loaded.targets[1] // 3)
    with pytest.raises(ValueError, match="found clean images"):
        loaded.inputs  # noqa: B018
    with pytest.raises(ValueError, match="found the clean image 1"):
        loaded.thumbnails(1)
    with pytest.raises(ValueError, match="expected a degradation"):
        load_pairs([PairFiles(None, folder / "clean.png", "clean")])


def test_gray_copies_are_of_clean_images_alone(make_pairs):
    clean, pairs = make_pairs(4, degrade=_noised), make_pairs(3)
    found = add_monochrome(concatenate_pairs(pairs, clean), 0.5)
    assert len(found) == len(found.degraded) == 3 + 4 + 4
    assert [degraded is None for degraded in found.degraded] == [False] * 3 + [True] * 8


@pytest.mark.parametrize(("count", "share", "gray"), [(6, 0.25, 2), (3, 0.5, 3), (2, 0.8, 8)])
def test_a_fraction_of_clean_images_are_gray_copies_of_evenly_spaced_ones(
    make_pairs, count, share, gray
):
    clean = make_pairs(count, degrade=_noised)
    found = add_monochrome(clean, share)
    assert len(found) == len(found.targets) == count + gray
    assert found.targets[:count] == clean.targets
    assert found.degrade is clean.degrade
    for name, frame in zip(found.names[count:], found.targets[count:], strict=True):
        assert np.ptp(frame, 2).max() == 0
        original = clean.targets[int(name)] @ [0.299, 0.587, 0.114]
        assert np.abs(frame[..., 0] - original).max() <= 1.0
    assert len(set(found.names[count:])) == min(count, gray)
