"""Running a command in this process."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def line(self):
        """Return the only line on stderr."""
        (line,) = self.err.splitlines()
        return line


@pytest.fixture
def ran(capsys):
    """Run a command: ran(main, "--out", path) gives its exit code, stdout and stderr."""
    logger = logging.getLogger("mirnet_edge")
    handlers, level = list(logger.handlers), logger.level

    def run(main, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(raised.value.code or 0, out, err)

    yield run
    logger.handlers[:] = handlers
    logger.setLevel(level)
