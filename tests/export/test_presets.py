"""Recipes: what is typed wins, unknown keys are named, and every shipped recipe is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.export.presets import defaults_from, read_preset
from mirnet_edge.planning import DEVICES
from mirnet_edge.runtime.tensorrt.build import sizes_from_text

_SHIPPED = sorted((Path(__file__).parents[2] / "export" / "recipes").glob("*.toml"))


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


def test_a_command_gets_its_table_only(recipe):
    path = recipe('[export]\nfp16 = true\nsize = "640x360"\n[engine]\nlevel = 2\n')
    assert defaults_from(path, "export") == {"fp16": True, "size": "640x360"}
    assert defaults_from(path, "engine") == {"level": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [("[export]\nfp61 = true", "export.fp61"), ("[export]\nfp16 = 1", "export.fp16"),
     ("[engines]", "engines"), ("fp16 =", "is not TOML: .*Mend that line")],
)  # fmt: skip
def test_what_is_no_recipe_is_named(text, says, recipe):
    with pytest.raises(OptionError, match=says):
        read_preset(recipe(text))


def test_what_is_typed_wins(recipe, monkeypatch, capsys):
    from mirnet_edge.cli import engine
    from mirnet_edge.runtime.tensorrt import bundle_engines

    seen = []
    monkeypatch.setattr(
        bundle_engines, "build_engines", lambda bundle, **given: seen.append(given) or []
    )
    path = recipe('[engine]\nlevel = 2\nworkspace = 300\nprofiles = "ladder"\n')
    with pytest.raises(SystemExit) as left:
        engine.main(["bundle", "--recipe", str(path), "--level", "4"])
    assert left.value.code == 0
    (given,) = seen
    assert (given["settings"].level, given["settings"].workspace_mib) == (4, 300)
    assert len(given["sizes"]) == 3


def test_a_recipe_that_is_missing_ends_with_code_2(tmp_path, capsys):
    from mirnet_edge.cli import engine

    with pytest.raises(SystemExit) as left:
        engine.main(["bundle", "--recipe", str(tmp_path / "no.toml")])
    assert left.value.code == 2
    assert "no.toml cannot be read (No such file" in capsys.readouterr().err


@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_for_a_device_in_the_table(path):
    found = read_preset(path)
    assert found.device in DEVICES
    if found.engine.profiles:
        assert sizes_from_text(found.engine.profiles)
