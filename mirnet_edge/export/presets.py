"""Read device presets: default options of mirnet-export and mirnet-engine for a device (TOML).

    [export]
    fp16 = true
    [engine]
    profiles = "640x360,1280x720"

Keys are the commands' long options with underscores. What is typed wins over the preset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mirnet_edge.files import read_toml


class _PresetTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ExportTable(_PresetTable):
    """Options of mirnet-export."""

    weights: str | None = None
    fp16: bool | None = None
    int8: bool | None = None
    fp8: bool | None = None
    size: str | None = None
    io: str | None = None
    max_drop: float | None = None
    target: str | None = None


class EngineTable(_PresetTable):
    """Options of mirnet-engine."""

    graph: list[str] | None = None
    profiles: str | None = None
    workspace: int | None = None
    level: int | None = None
    low_memory: bool | None = None
    cards: str | None = None
    flavor: str | None = None


class DevicePreset(_PresetTable):
    """A device preset's file."""

    device: str | None = None
    """For people."""
    export: ExportTable = ExportTable()
    engine: EngineTable = EngineTable()


_FOLDER = Path(__file__).parent / "device_presets"


def list_presets() -> list[str]:
    """Return the names of the presets of the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_preset(name_or_path: str | Path) -> DevicePreset:
    """Read a device preset of the package by name, or a file.

    Raises:
        OptionError: There is none, it is not TOML, or has a key that no command has; named.
    """
    path = Path(name_or_path)
    if not path.is_file() and str(name_or_path) in list_presets():
        path = _FOLDER / f"{name_or_path}.toml"
    absent = (
        f"there is no device preset {name_or_path}; expected a TOML file, or one of "
        f"{', '.join(list_presets())}"
    )
    return read_toml(path, DevicePreset, absent=absent)


def read_defaults(name_or_path: str | Path, command: str) -> dict[str, Any]:
    """Return the default options that a preset has for a command: export or engine."""
    table: BaseModel = getattr(read_preset(name_or_path), command)
    return table.model_dump(exclude_none=True)
