"""The recipe of the diagnosis, its image sources and their splits."""

from __future__ import annotations

import pytest
from PIL import Image

from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.training.diagnosis.recipe import (
    DiagnosisRecipe,
    list_overlays,
    list_sources,
    read_diagnosis_recipe,
    split_scene,
)


def _images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)


def _recipe(*sources):
    return DiagnosisRecipe(schema_version=1, sources=sources)


def test_the_package_ships_a_recipe_that_holds_out_what_it_measures():
    recipe = read_diagnosis_recipe(None)
    held_out = {one.folder for one in recipe.sources if one.held_out == 1.0}
    assert {"night", "old_photos/real", "vilnc/low", "photos/kodak", "photos/bsd100"} <= held_out
    required = [one for one in recipe.sources if not one.optional]
    assert all(one.held_out > 0.0 or one.table for one in required)


def test_splits_follow_from_names_alone_and_have_their_fractions():
    names = [f"scene {place}" for place in range(2000)]
    splits = [split_scene(name, 0.4) for name in names]
    assert splits == [split_scene(name, 0.4) for name in names]
    assert splits.count("held-out") == pytest.approx(800, abs=80)
    assert splits.count("validation") == pytest.approx(240, abs=40)
    assert {split_scene(name, 1.0) for name in names} == {"held-out"}
    assert "held-out" not in {split_scene(name, 0.0) for name in names}


def test_all_images_of_a_scene_have_one_split(tmp_path):
    names = [f"room{room}_{turn}_real.png" for room in range(40) for turn in range(3)]
    _images(tmp_path / "noise", *names)
    source = {
        "name": "noise", "folder": "noise", "scene": r"^(room\d+)_", "held_out": 0.5,
        "leave_out": ["room0_1_real"],
    }  # fmt: skip
    _images(tmp_path / "clean", *(f"{place}.png" for place in range(60)))
    clean = {"name": "clean", "folder": "clean", "clean": True, "held_out": 0.3}
    found = list_sources(_recipe(source, clean), tmp_path)
    splits = {}
    for one in found:
        splits.setdefault((one.source.name, one.scene), set()).add(one.split)
    assert all(len(own) == 1 for own in splits.values())
    assert sum(name == "noise" for name, _ in splits) == 40
    assert len(found) == 40 * 3 - 1 + 60


def test_a_table_gives_scenes_and_splits(tmp_path):
    _images(tmp_path / "lol/low", *(f"{place}.png" for place in range(60)))
    rows = [f"low/{place}.png,high/{place}.png,{place},{'val' if place < 5 else 'train'}"
            for place in range(60)]  # fmt: skip
    (tmp_path / "lol/pairs.csv").write_text("low,high,scene,split\n" + "\n".join(rows))
    source = {"name": "low", "folder": "lol", "table": "low", "clean": True}
    found = list_sources(_recipe(source), tmp_path)
    assert {one.scene for one in found if one.split == "held-out"} == {"0", "1", "2", "3", "4"}
    assert {one.split for one in found} == {"train", "validation", "held-out"}


def test_a_missing_source_is_named_unless_it_is_optional(tmp_path):
    _images(tmp_path / "clean", *(f"{place}.png" for place in range(60)))
    clean = {"name": "clean", "folder": "clean", "clean": True, "held_out": 0.3}
    night = {"name": "night", "folder": "night", "labels": ["dark"]}
    with pytest.raises(DataError, match="'night' needs it"):
        list_sources(_recipe(clean, night), tmp_path)
    assert list_sources(_recipe(clean, night | {"optional": True}), tmp_path)


def test_a_folder_of_images_is_a_source_of_clean_ones(tmp_path):
    _images(tmp_path, *(f"{place}.png" for place in range(60)))
    recipe = read_diagnosis_recipe(None)
    found = list_sources(recipe, tmp_path)
    assert len(found) == 60
    assert all(one.source.clean for one in found)
    assert list_overlays(recipe, tmp_path, "train") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x", "folder": "x", "labels": ["hazy"]},
        {"name": "x", "folder": "x", "labels": ["dark"], "clean": True},
        {"name": "x", "folder": "x", "scene": "^no group$"},
        {"name": "x", "folder": "x", "held_out": 1.5},
    ],
)
def test_sources_that_make_no_sense_are_refused(wrong, tmp_path):
    file = tmp_path / "own.toml"
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
             for key, value in wrong.items()]  # fmt: skip
    file.write_text("schema_version = 1\n[[sources]]\n" + "\n".join(lines))
    with pytest.raises(OptionError):
        read_diagnosis_recipe(str(file))
