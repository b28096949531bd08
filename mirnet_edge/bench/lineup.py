"""What a benchmark's order comes to: its rows, its sets of pictures and its clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.bench import contestants
from mirnet_edge.bench.contestants import Contestant
from mirnet_edge.bench.full_mirnet import NOTE, full_macs
from mirnet_edge.bench.pairs import sources_of
from mirnet_edge.bench.record import Row
from mirnet_edge.bench.steadiness import STILL, built_in_clip
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.manifest import read_manifest

if TYPE_CHECKING:
    from mirnet_edge.bench.pairs import Source
    from mirnet_edge.bench.steadiness import Clip
    from mirnet_edge.bench.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to measure, and where its files lie."""

    suite: Suite
    suite_name: str | None
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the frames that are timed."""
    root: Path
    """The folder that rivals and pictures are looked up in."""
    out: Path
    command: str
    clips: tuple[Clip, ...] = ()
    """Videos that flicker is measured on."""


def task_of(suite: Suite) -> str | None:
    """Return what the first bundle does, else what the suite says, else nothing."""
    for bundle in suite.bundles:
        return read_manifest(Path(bundle)).model.task
    return next((entry.task for entry in suite.quality if entry.task is not None), None)


def entries_of(order: Order, task: str | None) -> list[tuple[Contestant, Row]]:
    """Return who takes part, with the facts of each row.

    Raises:
        MirnetEdgeError: Someone is not there, or two have one name.
        OptionError: Nobody takes part, or a row that is to run for minutes does not.
    """
    suite = order.suite
    entries = contestants.of_bundles(
        [Path(bundle) for bundle in suite.bundles], backends=suite.backends, threads=suite.threads
    )
    rivals = [order.root / rival for rival in suite.rivals]
    entries += contestants.of_rivals(rivals, task, threads=suite.threads)
    entries += contestants.of_baselines(suite.baselines, task)
    if suite.full_mirnet:
        row = Row(
            name="full MIRNet",
            kind="random weights",
            task=task,
            backend="torch",
            precision="fp32",
            state="measured",
            note=NOTE,
            macs_640x480=full_macs(),
        )
        entries.append((Contestant(source="full mirnet", threads=suite.threads), row))
    names = [row.name for _, row in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(f"two rows are called {', '.join(twice)}; rename the file or the folder")
    if not entries:
        raise OptionError("nothing to measure; give --bundle, --rival or --baseline")
    for name in suite.sustained_rows:
        if name not in names:
            raise OptionError(
                f"sustained_rows names {name!r}; expected rows of this run: {', '.join(names)}"
            )
    return entries


def sets_of(order: Order, task: str | None) -> list[Source]:
    """Return the sets of pictures that quality is measured on.

    Raises:
        DataError: One is not there, or has pictures without a partner.
    """
    sources = []
    for entry in order.suite.quality:
        wanted = entry.task or task
        if wanted is None:
            continue
        places = ":".join(
            part if part == "built-in" else str(order.root / part)
            for part in entry.pairs.split(":")
        )
        sources += sources_of(places, wanted, suffixes=entry.suffixes, sigmas=entry.sigma)
    return sources


def clips_of(order: Order, task: str | None) -> list[Clip]:
    """Return the clips of the order, and the still one where the suite asks for it."""
    still = STILL in order.suite.frames and task is not None
    return [*([built_in_clip(str(task))] if still else []), *order.clips]
