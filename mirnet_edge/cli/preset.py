"""The option --preset of mirnet-export and mirnet-engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _apply(context: typer.Context, path: Path | None) -> Path | None:
    """Give the command's options the preset's values as defaults; what is typed wins."""
    if path is not None:
        from mirnet_edge.errors import OptionError
        from mirnet_edge.export.presets import read_defaults

        command = str(context.info_name).removeprefix("mirnet-")
        try:
            context.default_map = read_defaults(path, command)
        except OptionError as error:  # options are read before the command's guard is entered
            raise typer.BadParameter(str(error)) from error
    return path


Preset = Annotated[
    Path | None,
    typer.Option(
        "--preset",
        help="A device preset (TOML): default options for a device; those typed win.",
        callback=_apply,
        is_eager=True,
    ),
]
FormerPreset = Annotated[
    Path | None,
    typer.Option("--recipe", help="As --preset.", hidden=True, callback=_apply, is_eager=True),
]
