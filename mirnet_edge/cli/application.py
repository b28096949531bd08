"""What every command shares: --version, -v, one line for what a user can put right, exit codes.

0 done · 2 a `MirnetEdgeError`, or wrong usage · 3 a precision was rejected by the gate ·
130 interrupted · anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, get_type_hints

import typer

from mirnet_edge.errors import MirnetEdgeError, OptionError, PrecisionRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

_USER_ERROR, _REJECTED, _INTERRUPTED = 2, 3, 130
_LOG_HANDLER = "mirnet-edge command"


class CommandProgram(Protocol):
    """A console script."""

    def __call__(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Run the command and leave the program.

        Args:
            arguments: What was typed after the command's name; None for the process's own.

        Raises:
            SystemExit: Always; its code is described in this module.
        """


def command(function: Callable[..., None], name: str | None = None) -> CommandProgram:
    """Return the console script `mirnet-NAME` of a function called NAME.

    Args:
        function: Its parameters are typer's; its docstring is the help.
        name: What messages call it where its own name does not do: a command's second word.
    """
    program = name or f"mirnet-{function.__name__.replace('_', '-')}"

    def main(arguments: Sequence[str] | None = None) -> NoReturn:
        application = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        application.command()(_guarded(function, program))
        typed = sys.argv[1:] if arguments is None else list(arguments)
        application(args=typed, prog_name=program)
        raise SystemExit(0)  # typer has left already

    return main


def print_error(program: str, error: BaseException | str) -> None:
    """Print one line on stderr, whatever the message holds."""
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)


def parsed_size(text: str, option: str) -> tuple[int, int]:
    """Return (height, width) of a size that was written WIDTHxHEIGHT after an option.

    Raises:
        OptionError: Not written so.
    """
    found = re.fullmatch(r"(-?\d+)[x×](-?\d+)", text)
    if not found:
        raise OptionError(f"{option} must be WIDTHxHEIGHT like 640x480, found {text!r}")
    return int(found[2]), int(found[1])


def stderr() -> Console:
    """Return a console for what is not a command's result: progress, and lines for people."""
    from rich.console import Console

    return Console(stderr=True)


def _guarded(function: Callable[..., None], program: str) -> Callable[..., None]:
    """Return the function with two more options, whose errors are lines and exit codes."""

    def show_version(wanted: bool) -> None:
        if wanted:
            import mirnet_edge

            print(f"{program} {mirnet_edge.__version__}")
            raise typer.Exit

    @functools.wraps(function)
    def guarded(*, verbose: int, version: bool, **options: Any) -> None:  # noqa: ANN401  # typer's
        del version  # its callback has answered
        _set_up_logging(verbose)
        try:
            function(**options)
        except MirnetEdgeError as error:
            print_error(program, error)
            raise typer.Exit(_USER_ERROR) from error
        except PrecisionRejected as error:
            print_error(program, error)
            raise typer.Exit(_REJECTED) from error
        except KeyboardInterrupt as error:
            # who was interrupted may know better what is kept
            print_error(program, str(error) or "interrupted; what was finished is kept")
            raise typer.Exit(_INTERRUPTED) from error

    shared = {
        "verbose": (
            Annotated[
                int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv even more.")
            ],
            0,
        ),
        "version": (
            Annotated[
                bool,
                typer.Option(
                    "--version", callback=show_version, is_eager=True, help="Show the version."
                ),
            ],
            False,
        ),
    }
    _extend_signature(guarded, function, shared)
    return guarded


def _extend_signature(
    guarded: Callable[..., None], function: Callable[..., None], shared: dict[str, tuple[Any, Any]]
) -> None:
    """Give typer, which reads signatures, the function's parameters and the shared ones."""
    hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, (annotation, default) in shared.items()
    ]
    guarded.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    guarded.__annotations__ = {
        **hints,
        **{name: annotation for name, (annotation, _) in shared.items()},
    }


def _set_up_logging(verbosity: int) -> None:
    """Send this package's messages to stderr: warnings; with -v what it does; with -vv all."""
    logger = logging.getLogger("mirnet_edge")
    for former in [one for one in logger.handlers if one.name == _LOG_HANDLER]:
        logger.removeHandler(former)
    handler = logging.StreamHandler(sys.stderr)
    handler.name = _LOG_HANDLER
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))
