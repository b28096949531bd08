"""What is to be measured: suites, as TOML files, and what the command line adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mirnet_edge.bench.pairs import BUILT_IN
from mirnet_edge.manifest import Document
from mirnet_edge.toml_files import read_toml

_FOLDER = Path("benchmarks/suites")
_SUFFIX = ".toml"


class PairsEntry(Document):
    """Pictures to measure quality on."""

    pairs: str
    """LOW:HIGH, a folder, or `built-in`; folders are looked up in --data."""
    task: str | None = None
    """None: that of the first bundle."""
    suffixes: tuple[str, str] | None = None
    sigma: tuple[float, ...] = ()


class Suite(Document):
    """A benchmark to run."""

    schema_version: Literal[1] = 1
    title: str = ""
    bundles: tuple[str, ...] = ()
    """Folders, as seen from where the command runs; --bundle replaces them."""
    backends: tuple[str, ...] = ()
    """None: all that a bundle has modes for."""
    sizes: tuple[str, ...] = ("640x480",)
    rounds: int = Field(default=30, ge=1)
    row_seconds: float = Field(default=20.0, gt=0)
    threads: int | None = Field(default=None, ge=1)
    sustained: float | None = Field(default=None, gt=0)
    """Minutes that each bundle's row runs without pause, at each size; None: not at all."""
    sustained_rows: tuple[str, ...] = ()
    """Other rows that do: names of rivals and classical methods."""
    rivals: tuple[str, ...] = ()
    """ONNX files, looked up in --data."""
    baselines: tuple[str, ...] | None = None
    """Names; None: those of the task."""
    full_mirnet: bool = False
    """Time the full network too, with random weights."""
    cold: bool = True
    """Measure cold start and memory, each row in a process of its own."""
    quality: tuple[PairsEntry, ...] = (PairsEntry(pairs=BUILT_IN),)
    frames: tuple[str, ...] = ()
    """Videos to measure flicker on, looked up in --data, or `still`: a camera at rest."""


def read_suite(name_or_path: str) -> Suite:
    """Return a suite of `benchmarks/suites`, by its name, or a file of the user's.

    Raises:
        OptionError: There is no such suite, or the file is not one.
    """
    named = _FOLDER / f"{name_or_path}{_SUFFIX}"
    path = named if named.is_file() else Path(name_or_path)
    known = ", ".join(sorted(one.stem for one in _FOLDER.glob(f"*{_SUFFIX}"))) or "none here"
    absent = (
        f"there is no suite {name_or_path}; expected a TOML file, or a name in {_FOLDER}: {known}"
    )
    return read_toml(path, Suite, absent=absent)
