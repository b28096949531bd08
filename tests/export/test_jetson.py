"""The Jetson kit names files, commands and options that exist."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_KIT = _ROOT / "export" / "jetson"
_TEXTS = [_KIT / "README.md", _KIT / "Containerfile"]


@pytest.mark.parametrize("path", _TEXTS, ids=lambda path: path.name)
def test_what_the_kit_types_exists(path):
    text = path.read_text(encoding="utf-8")
    commands = {entry.name for entry in distribution("mirnet-edge").entry_points}
    assert set(re.findall(r"mirnet-(?!edge)[a-z]+", text)) <= commands
    presets = re.findall(r"export/[\w/.-]+\.toml", text)
    assert presets or path.suffix != ".md"
    for file in presets:
        assert (_ROOT / file).is_file()
    for extra in re.findall(r"(?:mirnet-edge|/src)\[([\w-]+)\]", text):
        assert f"\n{extra} = [" in (_ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_jetpack_has_its_row():
    text = (_KIT / "README.md").read_text(encoding="utf-8")
    for jetpack in ("6.2", "7.0", "7.2"):
        assert len(re.findall(rf"^\| {re.escape(jetpack)} \|", text, re.M)) == 2
