"""The program `mirnet`: one command per module of this package, imported when it is named."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.main import get_command

from mirnet_edge.cli.application import CommandGroup, run

if TYPE_CHECKING:
    from collections.abc import Sequence

PANELS = {
    "Restore": ("restore", "diagnose", "live", "web"),
    "Export": ("export", "engine", "calibrate", "card"),
    "Train": ("train", "distill", "prune", "sensitivity"),
    "Measure": ("bench", "plan", "doctor"),
}
"""The commands, by the panel of `mirnet --help` that lists them; each is a module here."""
FORMER_NAMES = {"webcam": "live"}
"""Names of commands in older versions, which are still read."""

_PROGRAM = "mirnet"
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


class _LazyGroup(CommandGroup):
    """A group whose commands are imported when they are used, or listed in the help."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  # click's Context
        """Return the names."""
        del ctx
        return list(_PANEL_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  # click's types
        """Return the command of a name, a former one too; None where there is none."""
        if cmd_name not in self.commands:
            present = FORMER_NAMES.get(cmd_name, cmd_name)
            if present not in _PANEL_OF:
                return None
            program = import_module(f"mirnet_edge.cli.{present}").main
            self.add_command(program.build(present, _PANEL_OF[present]), cmd_name)
        return super().get_command(ctx, cmd_name)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `mirnet` and leave the program.

    Args:
        arguments: What was typed after `mirnet`; None for the process's own.

    Raises:
        SystemExit: Always; its code is described in `application`.
    """
    application = typer.Typer(rich_markup_mode="rich")
    application.callback(
        cls=_LazyGroup,
        invoke_without_command=True,
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog="mirnet COMMAND --help shows a command's options and examples.",
    )(mirnet)
    run(get_command(application), _PROGRAM, arguments)


def mirnet(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Restore images and video: train, quantize, export and run restoration networks."""
    if version:
        import mirnet_edge

        print(f"{_PROGRAM} {mirnet_edge.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
