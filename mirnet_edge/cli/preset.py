"""The option --recipe of mirnet-export and mirnet-engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _apply(context: typer.Context, path: Path | None) -> Path | None:
    """Give the command's options the recipe's values as defaults; what is typed wins."""
    if path is not None:
        from mirnet_edge.errors import OptionError
        from mirnet_edge.export.presets import defaults_from

        command = str(context.info_name).removeprefix("mirnet-")
        try:
            context.default_map = defaults_from(path, command)
        except OptionError as error:  # options are read before the command's guard is entered
            raise typer.BadParameter(str(error)) from error
    return path


Recipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        help="A TOML file with options for a device; those of the command line win.",
        callback=_apply,
        is_eager=True,
    ),
]
