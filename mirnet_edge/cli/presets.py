"""The option --preset of `mirnet export` and `mirnet engine`."""

from __future__ import annotations

from typing import Annotated

import typer

PRESET_FORMER_OPTIONS = {"--recipe": "--preset"}
"""The option's former spelling; "recipe" is left to training."""

# parameters of the commands that have another name than the preset's key
_PARAMETER_OF = {"cards": "capabilities"}


def _apply(context: typer.Context, preset: str | None) -> str | None:
    """Set the command's defaults to the preset's values; what is typed overrides them."""
    if preset is not None:
        from mirnet_edge.errors import OptionError
        from mirnet_edge.export.presets import read_defaults

        command = str(context.info_name).removeprefix("mirnet-")
        try:
            defaults = read_defaults(preset, command)
        except OptionError as error:  # options are read before the command's guard is entered
            raise typer.BadParameter(str(error)) from error
        context.default_map = {_PARAMETER_OF.get(key, key): one for key, one in defaults.items()}
    return preset


DevicePresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        help="Device preset of this package, or a TOML file with options; those of the command "
        "line override it.",
        callback=_apply,
        is_eager=True,
    ),
]
