"""The inputs and outputs of `mirnet restore` that are no files: pipes and numbered images."""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

PIPE = "-"
_NUMBER = re.compile(r"%(?:0(\d+))?d")


@dataclass(frozen=True, kw_only=True)
class ExpandedInputs:
    """Inputs, with the files of numbered images in place of their common name."""

    paths: tuple[Path, ...]
    """In order."""
    sequences: dict[Path, tuple[Path, ...]]
    """All files of a sequence, by each of them."""


def expand_sequences(inputs: Sequence[Path]) -> ExpandedInputs:
    """Return the inputs, with the files of `frame_%05d.png` in place of that name, in order.

    Raises:
        OptionError: There is no file of such a name.
    """
    paths: list[Path] = []
    sequences: dict[Path, tuple[Path, ...]] = {}
    for path in inputs:
        numbered = _numbered_files(path)
        paths += numbered or [path]
        sequences |= dict.fromkeys(numbered, tuple(numbered))
    return ExpandedInputs(paths=tuple(paths), sequences=sequences)


def _numbered_files(path: Path) -> list[Path]:
    """Return the files of a sequence; none where its name is none, or a file's.

    Raises:
        OptionError: There is none of that name.
    """
    found = _NUMBER.search(path.name)
    if found is None or path.exists():
        return []
    digits = rf"(\d{{{found[1]},}})" if found[1] else r"(\d+)"
    name = re.compile(
        re.escape(path.name[: found.start()]) + digits + re.escape(path.name[found.end() :])
    )
    numbered = [
        (int(match[1]), one)
        for one in (path.parent.iterdir() if path.parent.is_dir() else ())
        if (match := name.fullmatch(one.name))
    ]
    if not numbered:
        raise OptionError(
            f"expected numbered images for {path}, found none in {path.parent}; check the name and "
            "the number of digits"
        )
    return [one for _, one in sorted(numbered)]


@dataclass
class PipedFiles:
    """Puts files in place of `-`: of standard input, and of standard output, while it is open.

    Both are whole files: a video's index is at its end, and its sound is read in a second pass.
    """

    inputs: Sequence[Path]
    out: str | None
    prints_json: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be piped.

        Raises:
            OptionError: `-` beside other inputs, without `--out`, for several results or with JSON.
        """
        self._stack = ExitStack()
        self._results: Path | None = None
        reads = Path(PIPE) in self.inputs
        if reads and (len(self.inputs) > 1 or self.out is None):
            found = "no --out" if self.out is None else f"{len(self.inputs)} inputs"
            raise OptionError(
                f"expected - as the only input, with --out FILE or --out -, found {found}; "
                "restore other files by another command"
            )
        if self.out == PIPE and (len(self.inputs) > 1 or self.inputs[0].is_dir()):
            raise OptionError(
                "--out - writes one result to standard output, and there are more; name a folder"
            )

        if self.out == PIPE and self.prints_json:
            raise OptionError("--json and --out - both write to standard output; choose one")

    def __enter__(self) -> PipedFiles:
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="mirnet-")))
        if Path(PIPE) in self.inputs:
            spooled = folder / "stdin"
            with spooled.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            self.inputs = [spooled]
        if self.out == PIPE:
            self._results = folder / "results"
            self.out = f"{self._results}{os.sep}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            if error is None and self._results is not None and self._results.is_dir():
                for result in self._results.iterdir():
                    with result.open("rb") as file:
                        shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
