"""What every command shares, on commands made up here."""

from __future__ import annotations

import contextvars
import logging
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import typer

from mirnet_edge import errors
from mirnet_edge.cli.application import command, print_error
from mirnet_edge.errors import MirnetEdgeError, OptionError, PrecisionRejected

logger = logging.getLogger("mirnet_edge.tests")


def _failing(error):
    def fail() -> None:
        """Fail."""
        raise error

    return command(fail)


@pytest.fixture
def calls():
    return []


@pytest.fixture
def main(calls):
    def count_sheep(
        sheep: Annotated[list[Path], typer.Argument(help="Which.")],
        at_most: Annotated[int, typer.Option(help="Where to stop.")] = 3,
        dry: Annotated[bool, typer.Option("--dry")] = False,
    ) -> None:
        """Count sheep until asleep."""
        calls.append((sheep, at_most, dry))
        typer.echo("asleep")

    return command(count_sheep)


def test_options_arrive_as_typed_and_the_end_is_0(ran, main, calls, tmp_path):
    result = ran(main, tmp_path, "--at-most", "5", "--dry")
    assert (result.code, result.out, result.err) == (0, "asleep\n", "")
    assert calls == [([tmp_path], 5, True)]


def test_what_is_left_out_has_its_default(ran, main, calls, tmp_path):
    ran(main, tmp_path)
    assert calls == [([tmp_path], 3, False)]


def test_without_arguments_it_takes_the_programs_own(ran, main, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mirnet-count-sheep", str(tmp_path), "--at-most", "7"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert not raised.value.code
    assert calls == [([tmp_path], 7, False)]


def test_version_answers_before_anything_is_asked_for(ran, main, calls):
    result = ran(main, "--version")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"mirnet-count-sheep {version('mirnet-edge')}\n"
    assert calls == []


def test_version_answers_whatever_else_is_typed(ran, main):
    result = ran(main, "--at-most", "many", "--version")
    assert (result.code, result.err) == (0, "")


def test_help_shows_the_docstring_and_all_options(ran, main, calls):
    result = ran(main, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Usage: mirnet-count-sheep" in result.out
    assert "Count sheep until asleep." in result.out
    for option in ("--at-most", "--dry", "--verbose", "-v", "--version"):
        assert option in result.out
    assert "completion" not in result.out
    assert calls == []


@dataclass(frozen=True)
class Misused:
    id: str
    arguments: tuple[str, ...]
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Misused("missing argument", (), "sheep"),
        Misused("unknown option", ("x", "--wolves"), "--wolves"),
        Misused("not a number", ("x", "--at-most", "many"), "--at-most"),
        Misused("no value", ("x", "--at-most"), "--at-most"),
    ],
    ids=lambda case: case.id,
)
def test_wrong_usage_is_2_and_names_the_option(case, ran, main, calls):
    result = ran(main, *case.arguments)
    assert (result.code, result.out) == (2, "")
    assert case.says in result.err
    assert calls == []


@dataclass(frozen=True)
class Ending:
    id: str
    error: BaseException
    code: int
    line: str


_KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]
_USER_ERRORS = [kind for kind in _KINDS if issubclass(kind, MirnetEdgeError)]


@pytest.mark.parametrize(
    "case",
    [
        *(Ending(kind.__name__, kind("it is so"), 2, "it is so") for kind in _USER_ERRORS),
        Ending("several lines", OptionError("one\n  two\r\n\tthree"), 2, "one two three"),
        Ending("markup", OptionError("[bold]:smile: {x}"), 2, "[bold]:smile: {x}"),
        Ending("long", OptionError("word " * 100), 2, ("word " * 100).strip()),
        Ending("rejected", PrecisionRejected("int8 lost 0.3 dB"), 3, "int8 lost 0.3 dB"),
        Ending("interrupted", KeyboardInterrupt(), 130, "interrupted; what was finished is kept"),
    ],
    ids=lambda case: case.id,
)
def test_what_a_user_can_put_right_is_one_line_and_a_code(case, ran):
    result = ran(_failing(case.error), *())
    assert (result.code, result.out) == (case.code, "")
    assert result.line == f"mirnet-fail: {case.line}"


def test_every_error_of_ours_is_covered():
    assert {MirnetEdgeError, OptionError} < set(_USER_ERRORS)
    assert set(_KINDS) - set(_USER_ERRORS) == {PrecisionRejected}


@pytest.mark.parametrize("error", [ValueError("ours"), OSError("disk"), AssertionError()])
def test_a_fault_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised:
        _failing(error)([])
    assert raised.value is error


def test_a_fault_of_ours_is_printed_as_python_prints_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer puts its own there
    with pytest.raises(ValueError) as raised:
        _failing(ValueError("ours"))([])
    sys.excepthook(raised.type, raised.value, raised.tb)
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ValueError: ours\n")


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_command_may_choose_its_code(code, ran):
    result = ran(_failing(typer.Exit(code)))
    assert (result.code, result.out, result.err) == (code, "", "")


def test_a_complaint_is_one_line_on_stderr(capsys):
    contextvars.Context().run(print_error, " several\nlines ")
    assert capsys.readouterr() == ("", "mirnet: several lines\n")


# messages of the library


@pytest.fixture
def talkative():
    def talk() -> None:
        """Talk."""
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logger.log(level, "a message")
        logging.getLogger("elsewhere").warning("not ours")
        typer.echo("a result")

    return command(talk)


@dataclass(frozen=True)
class Verbosity:
    options: tuple[str, ...]
    levels: list[str]


_VERBOSITIES = [
    Verbosity((), ["WARNING"]),
    Verbosity(("-v",), ["INFO", "WARNING"]),
    Verbosity(("--verbose",), ["INFO", "WARNING"]),
    Verbosity(("-vv",), ["DEBUG", "INFO", "WARNING"]),
    Verbosity(("-v", "-v", "-v"), ["DEBUG", "INFO", "WARNING"]),
]


@pytest.mark.parametrize("case", _VERBOSITIES, ids=lambda case: " ".join(case.options) or "silent")
def test_verbosity_says_which_messages_are_told_on_stderr(case, ran, talkative):
    result = ran(talkative, *case.options)
    assert (result.code, result.out) == (0, "a result\n")
    assert result.err.splitlines() == [f"{level} a message" for level in case.levels]


def test_a_second_command_in_one_process_repeats_nothing_and_is_as_silent(ran, talkative):
    ran(talkative, "-vv")
    result = ran(talkative)
    assert result.err.splitlines() == ["WARNING a message"]


TALKATIVE = """
import json, sys
from mirnet_edge.cli.application import command

def talk(words: int) -> None:
    print(json.dumps(["word"] * words))

command(talk)()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("words", [9, 90_000], ids=["little", "much"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("target", ["full disk", "closed pipe", "full pipe"])
def test_a_stdout_that_cannot_be_written_is_said_in_one_line(target, unbuffered, words):
    reading, writing = os.pipe()
    if target == "full disk":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
        said = "No space left on device"
    elif target == "closed pipe":
        os.close(reading)
        said = "Broken pipe"
    else:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while os.write(writing, bytes(4096)):
                pass
        said = "unavailable|could not complete"
    done = subprocess.run(
        [sys.executable, "-c", TALKATIVE, str(words)],
        stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writing)
    if target != "closed pipe":
        os.close(reading)
    (line,) = done.stderr.splitlines()
    assert re.search(rf"^mirnet-talk: stdout cannot be written: .*({said})", line)
    assert done.returncode == 2


def test_an_error_on_another_file_is_no_error_of_stdout(ran):
    def fail() -> None:
        """Fail."""
        raise OSError("a fault of ours")

    with pytest.raises(OSError, match="a fault of ours"):
        ran(command(fail))
