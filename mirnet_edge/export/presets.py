"""Read device presets: default options of mirnet-export and mirnet-engine for a device (TOML).

    [export]
    fp16 = true
    [engine]
    profiles = "640x360,1280x720"

Keys are the commands' long options with underscores. What is typed wins over the preset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from mirnet_edge.files import read_toml

if TYPE_CHECKING:
    from pathlib import Path


class _PresetTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ExportTable(_PresetTable):
    """Options of mirnet-export."""

    weights: str | None = None
    fp16: bool | None = None
    int8: bool | None = None
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


def read_preset(path: Path) -> DevicePreset:
    """Read a device preset.

    Raises:
        OptionError: No such file, not TOML, or a key that no command has; named.
    """
    return read_toml(path, DevicePreset)


def read_defaults(path: Path, command: str) -> dict[str, Any]:
    """Return the default options that a preset has for a command: export or engine."""
    table: BaseModel = getattr(read_preset(path), command)
    return table.model_dump(exclude_none=True)
