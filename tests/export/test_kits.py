"""The kits of boards name presets, commands and extras that exist."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

from mirnet_edge.export.presets import list_presets

_ROOT = Path(__file__).parents[2]
_KIT = _ROOT / "export" / "jetson"
_TEXTS = [
    _KIT / "README.md",
    _KIT / "Containerfile",
    _ROOT / "export/raspberry-pi/README.md",
    _ROOT / "export/raspberry-pi/mirnet-live.service",
    _ROOT / "docs/guides/raspberry-pi.md",
]


@pytest.mark.parametrize("path", _TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_the_kit_types_exists(path):
    text = path.read_text(encoding="utf-8")
    aliases = {entry.name for entry in distribution("mirnet-edge").entry_points}
    assert set(re.findall(r"(?<![\w/])mirnet-(?!edge|live\b)[a-z]+", text)) <= aliases
    for command in re.findall(r"(?:^|[/ `])mirnet ([a-z]+) ", text, re.M):
        assert f"mirnet-{command}" in aliases | {"mirnet-live"}, command
    assert set(re.findall(r"--preset ([\w-]+)", text)) <= set(list_presets())
    extras = set(re.findall(r"(?:mirnet-edge|/src)\[([\w,-]+)\]", text))
    known = distribution("mirnet-edge").metadata.get_all("Provides-Extra")
    assert {one for several in extras for one in several.split(",")} <= set(known)


def test_the_jetson_kit_names_its_presets():
    found = set(re.findall(r"--preset ([\w-]+)", (_KIT / "README.md").read_text("utf-8")))
    assert found == {"orin-nano-super"}


def test_every_jetpack_has_its_row():
    text = (_KIT / "README.md").read_text(encoding="utf-8")
    for jetpack in ("6.2", "7.0", "7.2"):
        assert len(re.findall(rf"^\| {re.escape(jetpack)} \|", text, re.M)) == 2
