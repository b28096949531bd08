"""The recipe of old-photo translation."""

from __future__ import annotations

import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.training.recipe import list_recipes, read_recipe
from mirnet_edge.training.translation.recipe import (
    TRANSLATION,
    is_translation_recipe,
    read_translation_recipe,
)


def test_the_package_has_a_recipe_whose_stages_build_on_each_other():
    recipe = read_translation_recipe(TRANSLATION)
    assert [stage.name for stage in recipe.stages][:4] == ["detector", "old", "clean", "mapping"]
    assert recipe.real_held_out
    assert recipe.steps == sum(stage.steps for stage in recipe.stages)
    assert recipe.config.latent_channels == recipe.network["latent_channels"]


def test_steps_run_through_the_stages():
    recipe = read_translation_recipe(TRANSLATION)
    first, second = recipe.stages[:2]
    assert recipe.stage_at(0) == (first, 0)
    assert recipe.stage_at(first.steps - 1) == (first, first.steps - 1)
    assert recipe.stage_at(first.steps) == (second, 0)
    assert recipe.stage_at(recipe.steps - 1)[0] == recipe.stages[-1]


def test_a_file_is_told_from_other_recipes_by_its_stages(tmp_path):
    own, other = tmp_path / "own.toml", tmp_path / "other.toml"
    own.write_text(
        'schema_version = 1\nclean = ["a"]\nreal = "b"\n[[stages]]\nname = "old"\nsteps = 2\n'
        "batch = 1\ncrop = 64\nlearning_rate = 1e-3\n"
    )
    other.write_text("schema_version = 2\n[training]\nsteps = 3\n")
    assert is_translation_recipe(str(own))
    assert is_translation_recipe(TRANSLATION)
    assert not any(map(is_translation_recipe, (None, "old-photo", str(other))))
    assert read_translation_recipe(str(own), {"seed": 5}).seed == 5
    assert TRANSLATION not in list_recipes()
    with pytest.raises(OptionError):
        read_recipe(TRANSLATION)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("crop", "60", "multiple of 8"),
        ("crop", "16", "greater than or equal to 32"),
        ("name", '"unet"', "detector"),
    ],
)
def test_wrong_stages_are_refused(tmp_path, field, value, says):
    values = {"name": '"old"', "steps": "2", "batch": "1", "crop": "64", "learning_rate": "1e-3"}
    lines = "\n".join(f"{key} = {text}" for key, text in (values | {field: value}).items())
    file = tmp_path / "wrong.toml"
    file.write_text(f'schema_version = 1\nclean = ["a"]\nreal = "b"\n[[stages]]\n{lines}\n')
    with pytest.raises(OptionError, match=says):
        read_translation_recipe(str(file))


def test_networks_of_unknown_fields_are_refused(tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text(
        'schema_version = 1\nclean = ["a"]\nreal = "b"\nnetwork = { width = 3 }\n[[stages]]\n'
        'name = "old"\nsteps = 2\nbatch = 1\ncrop = 64\nlearning_rate = 1e-3\n'
    )
    with pytest.raises(OptionError, match="width"):
        read_translation_recipe(str(file))
