"""The whole benchmark: contestants → times in turns → cold starts → quality → report."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.bench import contestants, surroundings
from mirnet_edge.bench.cold import measure_cold
from mirnet_edge.bench.contestants import Contestant
from mirnet_edge.bench.full_mirnet import NOTE, full_macs
from mirnet_edge.bench.measure import Method, Progress, time_in_turns, timing_frame
from mirnet_edge.bench.pairs import sources_of
from mirnet_edge.bench.quality import Findings, measure_quality
from mirnet_edge.bench.record import Report, Row, Settings
from mirnet_edge.bench.steadiness import STILL, Seen, built_in_clip, measure_flicker
from mirnet_edge.errors import EngineError, MirnetEdgeError, OptionError
from mirnet_edge.images import size_text
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.bench.cold import Cold
    from mirnet_edge.bench.pairs import Source
    from mirnet_edge.bench.steadiness import Clip
    from mirnet_edge.bench.suites import Suite
    from mirnet_edge.runtime.runner import Runner


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


@dataclass
class Bench:
    """A benchmark in progress: whatever happens, `report` says what was measured."""

    order: Order
    on_stage: Callable[[str], None]
    entries: list[tuple[Contestant, Row]] = field(init=False)
    findings: list[Findings] = field(init=False)
    seen: list[Seen] = field(init=False)
    progress: dict[tuple[int, int], dict[str, Progress]] = field(default_factory=dict)
    cold: dict[tuple[tuple[int, int], str], Cold] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a row cannot run here, by row."""

    def __post_init__(self) -> None:
        """Find out who takes part and on what.

        Raises:
            MirnetEdgeError: A bundle, rival, method or set of pairs that is not there or not one.
        """
        self._before = surroundings.conditions()
        self._task = _task_of(self.order.suite)
        self.entries = _entries_of(self.order, self._task)
        if not self.entries:
            raise OptionError("nothing to measure; give --bundle, --rival or --baseline")
        self.findings = [Findings(source) for source in _sources_of(self.order, self._task)]
        self.seen = [Seen(clip) for clip in _clips_of(self.order, self._task)]

    def run(self) -> None:
        """Measure. When this is interrupted, `report` holds what there is until then."""
        suite = self.order.suite
        method = Method(rounds=suite.rounds, row_seconds=suite.row_seconds)
        for size in self.order.sizes:
            self._time(size, method)
        if suite.cold:
            self._start_cold()
        for findings in self.findings:
            self._judge(findings)
        for seen in self.seen:
            self._watch(seen)

    def report(self, *, partial: bool) -> Report:
        """Return what was measured so far."""
        suite = self.order.suite
        return Report(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            partial=partial,
            machine=machine.describe(),
            revision=surroundings.revision(),
            tools=machine.tool_versions(),
            settings=Settings(
                command=self.order.command,
                suite=self.order.suite_name,
                rounds=suite.rounds,
                row_seconds=suite.row_seconds,
                threads=suite.threads,
                affinity=surroundings.affinity(),
            ),
            before=self._before,
            after=surroundings.conditions(),
            rows=[self._finished(row) for _, row in self.entries],
            pair_sets=[one.pair_set for one in self.findings if one.pictures or one.unreadable],
            clips=[one.facts for one in self.seen if one.flicker or one.note],
            crops=[crop for one in self.findings for crop in one.crops],
        )

    def _time(self, size: tuple[int, int], method: Method) -> None:
        text = size_text(*size)
        self.progress[size] = {}
        with ExitStack() as opened:
            runners = self._opened(self.entries, opened)
            self.on_stage(f"{text}: warming up {len(runners)} rows")
            time_in_turns(
                runners,
                timing_frame(*size),
                method,
                self.progress[size],
                lambda done, rounds: self.on_stage(f"{text}: round {done} of {rounds}"),
            )

    def _start_cold(self) -> None:
        for size, progress in self.progress.items():
            for contestant, row in self.entries:
                if row.name in progress and progress[row.name].samples_ms:
                    self.on_stage(f"{size_text(*size)}: cold start of {row.name}")
                    found = measure_cold(contestant, *size)
                    if found is not None:
                        self.cold[size, row.name] = found

    def _judge(self, findings: Findings) -> None:
        source = findings.source
        entries = [
            (contestant, row)
            for contestant, row in self.entries
            if row.task == source.task and row.kind != "random weights"
        ]
        with ExitStack() as opened:
            runners = self._opened(entries, opened)
            measure_quality(
                runners,
                findings,
                self.order.out,
                lambda done: self.on_stage(f"{source.name}: picture {done} of {len(source)}"),
            )

    def _watch(self, seen: Seen) -> None:
        entries = [one for one in self.entries if one[1].kind != "random weights"]
        with ExitStack() as opened:
            measure_flicker(
                self._opened(entries, opened),
                seen,
                self.order.suite.row_seconds,
                lambda row: self.on_stage(f"{seen.clip.name}: flicker of {row}"),
            )

    def _opened(
        self, entries: list[tuple[Contestant, Row]], opened: ExitStack
    ) -> dict[str, Runner]:
        """Open what runs here; why the others do not is remembered for their rows."""
        runners: dict[str, Runner] = {}
        for contestant, row in entries:
            if row.state == "missing" or row.name in self.missing:
                continue
            try:
                runners[row.name] = opened.enter_context(contestant.runner())
            except MirnetEdgeError as error:
                self.missing[row.name] = " ".join(str(error).split())
        return runners

    def _finished(self, row: Row) -> Row:
        """Return a row with all that was measured of it."""
        reason = self.missing.get(row.name)
        if reason is not None:
            return row.model_copy(update={"state": "missing", "note": reason})
        timings, failures = [], []
        for size, progress in self.progress.items():
            one = progress.get(row.name)
            if one is None:
                continue
            if one.failure is not None:
                failures.append(f"{size_text(*size)}: {one.failure}")
            timing = one.timing
            if timing is not None:
                cold = self.cold.get((size, row.name))
                figures = {} if cold is None else {
                    "cold_start_ms": cold.start_ms, "peak_memory_mib": cold.peak_memory_mib,
                }  # fmt: skip
                timings.append(timing.model_copy(update=figures))
        failures += [
            f"{one.source.name}: {one.failures[row.name]}"
            for one in self.findings
            if row.name in one.failures
        ]
        qualities = [found for one in self.findings if (found := one.quality(row.name))]
        flicker = [one.flicker[row.name] for one in self.seen if row.name in one.flicker]
        changes: dict[str, object] = {
            "timings": timings, "quality": qualities, "flicker": flicker,
        }  # fmt: skip
        if failures:
            changes |= {"state": "failed", "note": "; ".join(failures)}
        return row.model_copy(update=changes)


def _task_of(suite: Suite) -> str | None:
    """Return what the first bundle does, else what the suite says, else nothing."""
    for bundle in suite.bundles:
        return read_manifest(Path(bundle)).model.task
    return next((entry.task for entry in suite.quality if entry.task is not None), None)


def _entries_of(order: Order, task: str | None) -> list[tuple[Contestant, Row]]:
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
    return entries


def _sources_of(order: Order, task: str | None) -> list[Source]:
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


def _clips_of(order: Order, task: str | None) -> list[Clip]:
    """Return the clips of the order, and the still one where the suite asks for it."""
    still = STILL in order.suite.frames and task is not None
    return [*([built_in_clip(str(task))] if still else []), *order.clips]
