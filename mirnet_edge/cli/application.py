"""What every command shares: --version, -v, one-line errors with suggestions, exit codes.

0 done · 2 a `MirnetEdgeError`, or wrong usage · 3 a precision was rejected by the gate ·
130 interrupted · anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import functools
import inspect
import io
import logging
import os
import re
import shlex
import sys
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, cast, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mirnet_edge.dependencies import EXTRAS, available, missing_text
from mirnet_edge.errors import MirnetEdgeError, OutputError, PrecisionRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

_USER_ERROR, _REJECTED, _INTERRUPTED = 2, 3, 130
_LOG_HANDLER = "mirnet-edge command"
# what typer raises for wrong usage; some versions bring click along, others depend on it
_UsageError: Any = typer.BadParameter.__bases__[0]
_LEAST_SIMILARITY, _TIE = 0.65, 0.1
_CONTEXT_SETTINGS = {"help_option_names": ["--help", "-h"]}

_program: ContextVar[str] = ContextVar("program", default="mirnet")
_command_line: ContextVar[str] = ContextVar("command_line", default="mirnet")


class CommandProgram:
    """A command of `mirnet`, which can also be called as a console script of its own."""

    def __init__(
        self,
        function: Callable[..., None],
        *,
        script: str,
        examples: Sequence[str] = (),
        former_options: Mapping[str, str] | None = None,
        subcommands: Mapping[str, CommandProgram] | None = None,
    ) -> None:
        """Describe the command; it is built when it is first used.

        Args:
            function: Its parameters are typer's; its docstring is the help.
            script: Name of the console script.
            examples: Command lines for the end of the help, without the program's name `mirnet`.
            former_options: Spellings of older versions that are still read, and the present ones.
            subcommands: Commands whose name is a second word; without one `function` is called.
        """
        self.function = function
        self.script = script
        self.examples = examples
        self.former_options = former_options or {}
        self.subcommands = subcommands or {}

    def __call__(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Run the console script and leave the program.

        Args:
            arguments: What was typed after the script's name; None for the process's own.

        Raises:
            SystemExit: Always; its code is described in this module.
        """
        run(self.build(self.script), self.script, arguments)

    def build(self, name: str, panel: str | None = None) -> Any:  # noqa: ANN401  # click's Command
        """Return the click command.

        Args:
            name: What it is called by.
            panel: Of the group's help it is listed in.
        """
        application = typer.Typer(add_completion=False, rich_markup_mode="rich")
        guarded = _guard(self.function)
        described: dict[str, Any] = {
            "help": _help(self.function),
            "epilog": _epilog(self.examples),
            "rich_help_panel": panel,
            "context_settings": _CONTEXT_SETTINGS,
        }
        if not self.subcommands:
            application.command(name, cls=Command, **described)(guarded)
            built: Any = get_command(application)
        else:
            application.callback(cls=CommandGroup, invoke_without_command=True, **described)(
                guarded
            )
            built = get_command(application)
            for word, program in self.subcommands.items():
                built.add_command(program.build(word), word)
            built.rich_help_panel = panel
            built.name = name
        built.former_options = self.former_options
        return built


def command(
    function: Callable[..., None],
    *,
    script: str | None = None,
    examples: Sequence[str] = (),
    former_options: Mapping[str, str] | None = None,
    subcommands: Mapping[str, CommandProgram] | None = None,
) -> CommandProgram:
    """Return the command of a function; `mirnet-NAME` is its console script.

    Args:
        function: As `CommandProgram` takes it.
        script: The console script where it is not `mirnet-` and the function's name.
        examples: As `CommandProgram` takes them.
        former_options: The same.
        subcommands: The same.
    """
    return CommandProgram(
        function,
        script=script or f"mirnet-{function.__name__.replace('_', '-')}",
        examples=examples,
        former_options=former_options,
        subcommands=subcommands,
    )


def run(built: Any, program: str, arguments: Sequence[str] | None) -> NoReturn:  # noqa: ANN401
    """Run a click command and leave the program.

    Args:
        built: The command or group.
        program: What it was called by.
        arguments: What was typed after that; None for the process's own.

    Raises:
        SystemExit: Always.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    _command_line.set(shlex.join([program, *typed]))
    try:
        with _checked_stdout():
            code = built.main(args=typed, prog_name=program, standalone_mode=False)
    except OutputError as error:  # of a help page, or of what is written last
        print_error(error)
        code = _USER_ERROR
    except _UsageError as error:
        _program.set(error.ctx.command_path if error.ctx else program)
        print_error(_usage_message(error, typed))
        code = _USER_ERROR
    except typer.Abort:  # Ctrl-C before the command's own code
        code = _INTERRUPTED
    raise SystemExit(code or 0)


@contextmanager
def _checked_stdout() -> Iterator[None]:
    """Make what cannot be printed an `OutputError`, and write all at the end of the block."""
    stream = sys.stdout
    sys.stdout = cast("TextIO", _CheckedStream(stream))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = stream


class _CheckedStream:
    """A stream that raises `OutputError` where it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever a stream has
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        raw = getattr(self._stream, "buffer", None)
        with self._errors():
            if not isinstance(raw, io.RawIOBase):
                return self._stream.write(text)
            # `python -u` would lose what a full pipe does not take, without an error
            rest = text.encode(self._stream.encoding, self._stream.errors or "strict")
            while rest:
                written = raw.write(rest)
                if not written:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                rest = rest[written:]
            return len(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # the interpreter would write the rest once more when it ends, and complain again
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            raise OutputError(
                f"stdout cannot be written: {error.strerror}. Send it to a file on a disk with "
                "room, or to a program that reads it to its end"
            ) from error


def command_line() -> str:
    """Return what was typed, as a shell would take it."""
    return _command_line.get()


def print_error(error: BaseException | str) -> None:
    """Print one line on stderr after the command's name, whatever the message holds."""
    print(printable(f"{_program.get()}: {' '.join(str(error).split())}"), file=sys.stderr)


def printable(text: str) -> str:
    """Return text in which a file's name does nothing to a terminal.

    Bytes that are not UTF-8, which no stream takes, are replaced; control characters, line breaks
    and marks that turn the direction of text are escaped.
    """
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), whole)


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def stderr() -> Console:
    """Return a console for what is not a command's result: progress, and lines for people."""
    from rich.console import Console

    return Console(stderr=True)


def suggest(typed: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the names that TYPED may stand for; empty without any."""
    found = find_similar(typed, known)
    return f" Did you mean {' or '.join(found[:3])}?" if found else ""


def find_similar(typed: str, known: Iterable[str]) -> list[str]:
    """Return the names that TYPED may stand for, the most similar first.

    Names that begin with what was typed; without any, those that resemble it about equally.
    """
    stem = _stem(typed)
    by_stem = {_stem(name): name for name in sorted(known)}
    found = [name for one, name in by_stem.items() if len(stem) > 1 and one.startswith(stem)]
    if not found:
        alike = difflib.get_close_matches(stem, by_stem, cutoff=_LEAST_SIMILARITY)
        ratios = [difflib.SequenceMatcher(None, stem, one).ratio() for one in alike]
        near = zip(alike, ratios, strict=True)
        found = [by_stem[one] for one, ratio in near if ratio > max(ratios) - _TIE]
    return found


def _stem(name: str) -> str:
    """Return the part of a name that typos are compared in: no dashes, no `shipped:`."""
    return name.lower().lstrip("-").removeprefix("shipped:")


class Command(TyperCommand):
    """A click command that still reads former spellings of its options."""

    former_options: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # click's Context
        """Parse what was typed."""
        return super().parse_args(ctx, _rename_options(args, self.former_options))


class CommandGroup(TyperGroup):
    """A click group that suggests a command where none of that name is there."""

    former_options: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # click's Context
        """Parse what was typed."""
        return super().parse_args(ctx, _rename_options(args, self.former_options))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401  # click's types
        """Return the name, the command and the remaining arguments."""
        typed = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, typed) is None:
            hint = suggest(typed, self.list_commands(ctx))
            ctx.fail(
                f"No such command {typed!r}.{hint or f' {ctx.command_path} --help lists them'}"
            )
        return super().resolve_command(ctx, args)


def _help(function: Callable[..., None]) -> str:
    """Return the docstring, one line per paragraph: the terminal wraps them."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


def _epilog(examples: Sequence[str]) -> str | None:
    """Return the end of a help page: one line per example, none of which is markup."""
    if not examples:
        return None
    lines = [f"mirnet {example}".replace("[", r"\[") for example in examples]
    return "\n\n".join([f"[bold]Example{'s' if len(lines) > 1 else ''}[/bold]", *lines])


def _rename_options(arguments: list[str], former: Mapping[str, str]) -> list[str]:
    """Return the arguments with former spellings of options replaced, `--` and beyond kept."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    renamed = []
    for argument in arguments[:end]:
        option, equals, value = argument.partition("=")
        renamed.append(former.get(option, option) + equals + value)
    return renamed + arguments[end:]


def _usage_message(error: Any, typed: Sequence[str]) -> str:  # noqa: ANN401  # click's UsageError
    """Return what is wrong with the usage, and what was likely meant."""
    name = type(error).__name__
    if name == "NoArgsIsHelpError":
        return f"a command is missing; {_program.get()} --help lists them"
    option = getattr(error, "option_name", None)
    if name == "NoSuchOption" and isinstance(option, str):
        if not option.startswith("--"):
            # -int8 is read as -i, -n, ...: the word that was typed says more
            words = [one for one in typed if one.startswith(option[:1]) and option[1:] in one]
            option = next((one for one in words if not one.startswith("--")), option)
        hint = suggest(option, _visible_options(error.ctx))
        message = f"No such option {option.partition('=')[0]}.{hint}"
        return message if hint else f"{message} {_program.get()} --help lists them"
    message = str(error.format_message()).replace("Value error, ", "")  # pydantic's
    if message.startswith("Got unexpected extra argument"):
        message += f"; {_program.get()} --help lists the options"
    return message


def _visible_options(context: Any) -> list[str]:  # noqa: ANN401  # click's Context
    options = [] if context is None else context.command.get_params(context)
    return [
        name
        for option in options
        if not getattr(option, "hidden", False)
        for name in option.opts
        if name.startswith("--")
    ]


def _guard(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with two more options, whose errors are lines and exit codes."""

    def show_version(context: typer.Context, wanted: bool) -> None:
        if wanted:
            import mirnet_edge

            print(f"{context.command_path} {mirnet_edge.__version__}")
            raise typer.Exit

    @functools.wraps(function)
    def guarded(*, context: typer.Context, verbose: int, version: bool, **options: Any) -> None:  # noqa: ANN401
        del version  # its callback has answered
        if context.invoked_subcommand is not None:
            return  # that is called next
        _program.set(context.command_path)
        _set_up_logging(verbose)
        try:
            function(**options)
        except MirnetEdgeError as error:
            print_error(error)
            raise typer.Exit(_USER_ERROR) from error
        except PrecisionRejected as error:
            print_error(error)
            raise typer.Exit(_REJECTED) from error
        except ModuleNotFoundError as error:
            # an extra's package that a command imports without asking for it first
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS or available(package):
                raise
            print_error(missing_text(context.info_name or "this command", package))
            raise typer.Exit(_USER_ERROR) from error
        except KeyboardInterrupt as error:
            # the interrupted code may say what is kept
            print_error(str(error) or "interrupted; what was finished is kept")
            raise typer.Exit(_INTERRUPTED) from error

    shared = {
        "context": (typer.Context, inspect.Parameter.empty),
        "verbose": (
            Annotated[
                int,
                typer.Option(
                    "--verbose",
                    "-v",
                    count=True,
                    show_default=False,
                    help="Print messages of what is done; -vv prints all.",
                ),
            ],
            0,
        ),
        "version": (
            Annotated[
                bool,
                typer.Option(
                    "--version",
                    callback=show_version,
                    is_eager=True,
                    help="Print the version and exit.",
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
