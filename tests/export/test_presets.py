"""Device presets: what is typed wins, unknown keys are named, and every shipped one is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirnet_edge.devices import DEVICES
from mirnet_edge.errors import OptionError
from mirnet_edge.export.presets import read_defaults, read_preset
from mirnet_edge.runtime.tensorrt.build import sizes_from_text

_SHIPPED = sorted((Path(__file__).parents[2] / "export" / "presets").glob("*.toml"))


@pytest.fixture
def preset(tmp_path):
    def write(text):
        path = tmp_path / "preset.toml"
        path.write_text(text)
        return path

    return write


def test_a_command_gets_its_table_only(preset):
    path = preset('[export]\nfp16 = true\nsize = "640x360"\n[engine]\nlevel = 2\n')
    assert read_defaults(path, "export") == {"fp16": True, "size": "640x360"}
    assert read_defaults(path, "engine") == {"level": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [("[export]\nfp61 = true", "export.fp61"), ("[export]\nfp16 = 1", "export.fp16"),
     ("[engines]", "engines"), ("fp16 =", "is not TOML: .*Correct that line")],
)  # fmt: skip
def test_what_is_no_preset_is_named(text, says, preset):
    with pytest.raises(OptionError, match=says):
        read_preset(preset(text))


@pytest.mark.parametrize("option", ["--preset", "--recipe"])
def test_what_is_typed_wins(preset, make_bundle, monkeypatch, option):
    from mirnet_edge.cli import engine
    from mirnet_edge.runtime.tensorrt import bundle_engines

    seen = []
    monkeypatch.setattr(
        bundle_engines, "build_engines", lambda bundle, **given: seen.append(given) or []
    )
    path = preset('[engine]\nlevel = 2\nworkspace = 300\nprofiles = "ladder"\n')
    with pytest.raises(SystemExit) as left:
        engine.main([str(make_bundle()), option, str(path), "--level", "4"])
    assert left.value.code == 0
    (given,) = seen
    assert (given["settings"].level, given["settings"].workspace_mib) == (4, 300)
    assert len(given["sizes"]) == 3


def test_a_preset_that_is_missing_ends_with_code_2(tmp_path, capsys):
    from mirnet_edge.cli import engine

    with pytest.raises(SystemExit) as left:
        engine.main(["bundle", "--preset", str(tmp_path / "no.toml")])
    assert left.value.code == 2
    assert "no.toml; expected a TOML file, or one of a100, " in capsys.readouterr().err


@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_preset_is_for_a_device_in_the_table(path):
    found = read_preset(path)
    assert found.device in DEVICES
    if found.engine.profiles:
        assert sizes_from_text(found.engine.profiles)
