"""Which files are trained on: tables and folders, and what is refused by name."""

from __future__ import annotations

import pytest

from mirnet_edge.errors import DataError
from mirnet_edge.training.listing import list_pairs

HEADER = "low,high,scene,split"


def _table(folder, *rows):
    (folder / "pairs.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def _folders(folder, degraded, target):
    for name, stems in (("low", degraded), ("high", target)):
        (folder / name).mkdir()
        for stem in stems:
            (folder / name / stem).touch()
    return folder


def test_a_table_assigns_scenes_to_splits(tmp_path):
    found = list_pairs(
        _table(tmp_path, "a.png,b.png,1,train", "c.png,d.png,2,val", "e.png,f.png,3,test")
    )
    assert [pair.scene for pair in found.train] == ["1"]
    assert [(pair.degraded.name, pair.target.name) for pair in found.val] == [("c.png", "d.png")]
    assert found.val[0].degraded.parent == tmp_path


def test_a_row_without_a_degraded_image_is_a_clean_one(tmp_path):
    found = list_pairs(
        _table(tmp_path, "a.png,b.png,1,train", ",clean.png,2,train", ",d.png,3,val")
    )
    assert [pair.degraded and pair.degraded.name for pair in found.train] == ["a.png", None]
    assert found.train[1].target == tmp_path / "clean.png"
    assert found.val[0].degraded is None


def test_folders_are_matched_by_name_and_every_tenth_validates(tmp_path):
    stems = [f"{number:02}" for number in range(25)]
    folder = _folders(
        tmp_path, [f"{one}.png" for one in stems] + [".hidden.png"], [f"{one}.jpg" for one in stems]
    )
    found = list_pairs(folder)
    assert [pair.scene for pair in found.val] == ["00", "10", "20"]
    assert len(found.train) == 22
    assert all(pair.degraded.stem == pair.target.stem for pair in found.train)


def test_clean_images_have_no_degraded_ones_and_every_tenth_validates(tmp_path):
    for number in range(25):
        (tmp_path / f"{number:02}.{'jpg' if number % 2 else 'PNG'}").touch()
    for other in (".hidden.png", "notes.txt", "low.md"):
        (tmp_path / other).touch()
    found = list_pairs(tmp_path)
    assert [pair.scene for pair in found.val] == ["00", "10", "20"]
    assert [pair.target.stem for pair in found.train] == [
        f"{number:02}" for number in range(25) if number % 10
    ]
    assert all(pair.degraded is None for pair in (*found.train, *found.val))


def test_pairs_take_precedence_over_clean_images_beside_them(tmp_path):
    (tmp_path / "preview.png").touch()
    found = list_pairs(_folders(tmp_path, ["a.png", "b.png"], ["a.png", "b.png"]))
    assert {pair.scene for pair in (*found.train, *found.val)} == {"a", "b"}
    _table(tmp_path, "c.png,d.png,1,train", "e.png,f.png,2,val")
    assert [pair.scene for pair in list_pairs(tmp_path).train] == ["1"]


def test_an_absent_folder_and_one_clean_image_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent holds neither .* nor images"):
        list_pairs(tmp_path / "absent")
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="no pair with the split 'train'"):
        list_pairs(tmp_path)


def test_scenes_in_both_splits_are_refused_and_named(tmp_path):
    folder = _table(tmp_path, "a.png,b.png,kitchen,train", "c.png,d.png,kitchen,val")
    with pytest.raises(DataError, match="scenes in both train and val: kitchen"):
        list_pairs(folder)


def test_names_without_a_partner_are_refused_and_named(tmp_path):
    folder = _folders(tmp_path, ["a.png", "b.png"], ["a.png", "c.png"])
    with pytest.raises(DataError, match=r"2 images without a partner .*: b, c"):
        list_pairs(folder)


def test_many_names_are_counted(tmp_path):
    folder = _folders(tmp_path, [f"{number}.png" for number in range(9)], [])
    with pytest.raises(DataError, match=r"9 images .* 0, 1, 2, 3, 4 and 4 more"):
        list_pairs(folder)


def test_other_folders_are_refused_with_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"neither a pairs\.csv .* nor the folders low/ and high/"):
        list_pairs(tmp_path)
    (tmp_path / "pairs.csv").write_text("low,high\n")
    with pytest.raises(DataError, match=r"lacks the columns scene, split"):
        list_pairs(tmp_path)
    with pytest.raises(DataError, match=r"has the splits valid; expected train, val or test"):
        list_pairs(_table(tmp_path, "a.png,b.png,1,valid"))
    with pytest.raises(DataError, match="no pair with the split 'val'"):
        list_pairs(_table(tmp_path, "a.png,b.png,1,train"))


def test_two_images_of_one_name_are_refused(tmp_path):
    folder = _folders(tmp_path, ["a.png", "a.jpg"], ["a.png"])
    with pytest.raises(DataError, match=r"a\.jpg and a\.png share the name a"):
        list_pairs(folder)
