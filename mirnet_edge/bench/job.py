"""The benchmark job: suite, entries, latency, cold start, quality, report."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mirnet_edge.bench import entries, telemetry
from mirnet_edge.bench.entries import NOTE, BenchmarkEntry, full_macs
from mirnet_edge.bench.measure import (
    LOOP_S,
    Progress,
    SustainedRun,
    SustainedSchedule,
    TimingMethod,
    measure_cold,
    run_sustained,
    sustained_schedule,
    time_in_turns,
    timing_frame,
)
from mirnet_edge.bench.quality import (
    BUILT_IN,
    STILL,
    FlickerMeasurement,
    QualityMeasurement,
    built_in_clip,
    find_pair_sources,
    measure_flicker,
    measure_quality,
)
from mirnet_edge.bench.record import BenchmarkSettings, Report, ReportRow
from mirnet_edge.bench.telemetry import MachineSensors, open_sensors
from mirnet_edge.errors import EngineError, MirnetEdgeError, OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import StrictDocument, read_manifest
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirnet_edge.bench.measure import ColdStart
    from mirnet_edge.bench.quality import BenchmarkClip, PairSource
    from mirnet_edge.bench.record import SustainedPart
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

_FOLDER = Path("benchmarks/suites")
_SUFFIX = ".toml"


class PairSetEntry(StrictDocument):
    """Images to measure quality on."""

    pairs: str
    """LOW:HIGH, a folder, or `built-in`; folders are looked up in --data."""
    task: str | None = None
    """None: that of the first bundle."""
    suffixes: tuple[str, str] | None = None
    sigma: tuple[float, ...] = ()


class BenchmarkSuite(StrictDocument):
    """A benchmark to run."""

    former_keys: ClassVar[dict[str, str]] = {"rivals": "competitors"}
    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
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
    """Other rows that do: names of competitors and classical methods."""
    competitors: tuple[str, ...] = ()
    """ONNX files, looked up in --data."""
    baselines: tuple[str, ...] | None = None
    """Names; None: those of the task."""
    full_mirnet: bool = False
    """Time the full network too, with random weights."""
    cold: bool = True
    """Measure cold start and memory, each row in a process of its own."""
    quality: tuple[PairSetEntry, ...] = (PairSetEntry(pairs=BUILT_IN),)
    frames: tuple[str, ...] = ()
    """Videos to measure flicker on, looked up in --data, or `still`: a camera at rest."""


def read_suite(name_or_path: str) -> BenchmarkSuite:
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
    return read_toml(path, BenchmarkSuite, absent=absent)


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """What to measure, and where its files lie."""

    suite: BenchmarkSuite
    suite_name: str | None
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the frames that are timed."""
    root: Path
    """The folder that competitors and images are looked up in."""
    out: Path
    command: str
    clips: tuple[BenchmarkClip, ...] = ()
    """Videos that flicker is measured on."""


def task_of(suite: BenchmarkSuite) -> str | None:
    """Return what the first bundle does, else what the suite says, else nothing."""
    for bundle in suite.bundles:
        return read_manifest(Path(bundle)).model.task
    return next((entry.task for entry in suite.quality if entry.task is not None), None)


def load_entries(
    order: BenchmarkRequest, task: str | None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return who takes part, with the facts of each row.

    Raises:
        MirnetEdgeError: Someone is not there, or two have one name.
        OptionError: Nobody takes part, or a row that is to run for minutes does not.
    """
    suite = order.suite
    lineup = entries.bundle_entries(
        [Path(bundle) for bundle in suite.bundles], backends=suite.backends, threads=suite.threads
    )
    competitors = [order.root / competitor for competitor in suite.competitors]
    lineup += entries.competitor_entries(competitors, task, threads=suite.threads)
    lineup += entries.baseline_entries(suite.baselines, task)
    if suite.full_mirnet:
        row = ReportRow(
            name="full MIRNet",
            kind="random weights",
            task=task,
            backend="torch",
            precision="fp32",
            state="measured",
            note=NOTE,
            macs_640x480=full_macs(),
        )
        lineup.append((BenchmarkEntry(source="full mirnet", threads=suite.threads), row))
    names = [row.name for _, row in lineup]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(f"two rows are called {', '.join(twice)}; rename the file or the folder")
    if not lineup:
        raise OptionError("nothing to measure; give --bundle, --competitor or --baseline")
    for name in suite.sustained_rows:
        if name not in names:
            raise OptionError(
                f"sustained_rows names {name!r}; expected rows of this run: {', '.join(names)}"
            )
    return lineup


def load_pair_sets(order: BenchmarkRequest, task: str | None) -> list[PairSource]:
    """Return the sets of images that quality is measured on.

    Raises:
        DataError: One is not there, or has images without a partner.
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
        sources += find_pair_sources(places, wanted, suffixes=entry.suffixes, sigmas=entry.sigma)
    return sources


def load_clips(order: BenchmarkRequest, task: str | None) -> list[BenchmarkClip]:
    """Return the clips of the order, and the still one where the suite asks for it."""
    still = STILL in order.suite.frames and task is not None
    return [*([built_in_clip(str(task))] if still else []), *order.clips]


@dataclass
class BenchmarkJob:
    """A benchmark in progress: whatever happens, `report` says what was measured."""

    order: BenchmarkRequest
    on_stage: Callable[[str], None]
    sensors: MachineSensors = field(default_factory=open_sensors)
    entries: list[tuple[BenchmarkEntry, ReportRow]] = field(init=False)
    findings: list[QualityMeasurement] = field(init=False)
    seen: list[FlickerMeasurement] = field(init=False)
    progress: dict[tuple[int, int], dict[str, Progress]] = field(default_factory=dict)
    endured: dict[tuple[tuple[int, int], str], SustainedRun] = field(default_factory=dict)
    """Runs without pause, of minutes or only for energy, by size and row."""
    cold: dict[tuple[tuple[int, int], str], ColdStart] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a row cannot run here, by row."""

    def __post_init__(self) -> None:
        """Find out who takes part and on what.

        Raises:
            MirnetEdgeError: A bundle, competitor, method or set of pairs that is not there or not
                one.
        """
        self._before = self.sensors.conditions()
        suite = self.order.suite
        self._minutes = None if suite.sustained is None else sustained_schedule(suite.sustained)
        self._task = task_of(suite)
        self.entries = load_entries(self.order, self._task)
        self.findings = [
            QualityMeasurement(source) for source in load_pair_sets(self.order, self._task)
        ]
        self.seen = [FlickerMeasurement(clip) for clip in load_clips(self.order, self._task)]

    def run(self) -> None:
        """Measure. When this is interrupted, `report` holds what there is until then."""
        suite = self.order.suite
        method = TimingMethod(rounds=suite.rounds, row_seconds=suite.row_seconds)
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
            revision=telemetry.revision(),
            tools=machine.tool_versions(),
            settings=BenchmarkSettings(
                command=self.order.command,
                suite=self.order.suite_name,
                rounds=suite.rounds,
                row_seconds=suite.row_seconds,
                threads=suite.threads,
                affinity=telemetry.affinity(),
                sustained_minutes=suite.sustained,
            ),
            before=self._before,
            after=self.sensors.conditions(),
            meters=self.sensors.covers,
            sensor_notes=list(self.sensors.notes),
            rows=[self._finished(row) for _, row in self.entries],
            pair_sets=[one.pair_set for one in self.findings if one.images or one.unreadable],
            clips=[one.facts for one in self.seen if one.flicker or one.note],
            crops=[crop for one in self.findings for crop in one.crops],
        )

    def _time(self, size: tuple[int, int], method: TimingMethod) -> None:
        text = size_text(*size)
        self.progress[size] = {}
        with ExitStack() as opened:
            runners = self._opened(self.entries, opened)
            self.on_stage(f"{text}: warming up {len(runners)} rows")
            frame = timing_frame(*size)
            time_in_turns(
                runners,
                frame,
                method,
                self.progress[size],
                lambda done, rounds: self.on_stage(f"{text}: round {done} of {rounds}"),
            )
            self._endure(runners, frame, size)

    def _endure(self, runners: Mapping[str, Runner], frame: Frames, size: tuple[int, int]) -> None:
        """Run rows without pause: the chosen for minutes, the others as long as energy needs."""
        suite = self.order.suite
        seconds = min(LOOP_S, suite.row_seconds)
        for _, row in self.entries:
            progress = self.progress[size].get(row.name)
            if progress is None or progress.failure is not None:
                continue
            chosen = row.kind == "bundle" or row.name in suite.sustained_rows
            pace = self._minutes if chosen else None
            if pace is None and not self.sensors.meters:
                continue
            what = "energy" if pace is None else f"{suite.sustained:g} minutes without pause"
            stage = f"{size_text(*size)}: {row.name}: {what}"
            self.on_stage(stage)

            def tell(part: SustainedPart, stage: str = stage) -> None:
                self.on_stage(f"{stage}, {part.end_s / 60:.1f} done")

            found = self.endured[size, row.name] = SustainedRun(pace is not None)
            run_sustained(
                runners[row.name],
                frame,
                pace or SustainedSchedule(seconds, seconds),
                self.sensors,
                found,
                tell,
            )

    def _start_cold(self) -> None:
        for size, progress in self.progress.items():
            for entry, row in self.entries:
                if row.name in progress and progress[row.name].samples_ms:
                    self.on_stage(f"{size_text(*size)}: cold start of {row.name}")
                    found = measure_cold(entry, *size)
                    if found is not None:
                        self.cold[size, row.name] = found

    def _judge(self, findings: QualityMeasurement) -> None:
        source = findings.source
        entries = [
            (entry, row)
            for entry, row in self.entries
            if row.task == source.task and row.kind != "random weights"
        ]
        with ExitStack() as opened:
            runners = self._opened(entries, opened)
            measure_quality(
                runners,
                findings,
                self.order.out,
                lambda done: self.on_stage(f"{source.name}: image {done} of {len(source)}"),
            )

    def _watch(self, seen: FlickerMeasurement) -> None:
        entries = [one for one in self.entries if one[1].kind != "random weights"]
        with ExitStack() as opened:
            measure_flicker(
                self._opened(entries, opened),
                seen,
                self.order.suite.row_seconds,
                lambda row: self.on_stage(f"{seen.clip.name}: flicker of {row}"),
            )

    def _opened(
        self, entries: list[tuple[BenchmarkEntry, ReportRow]], opened: ExitStack
    ) -> dict[str, Runner]:
        """Open what runs here; why the others do not is remembered for their rows."""
        runners: dict[str, Runner] = {}
        for entry, row in entries:
            if row.state == "missing" or row.name in self.missing:
                continue
            try:
                runners[row.name] = opened.enter_context(entry.runner())
            except MirnetEdgeError as error:
                self.missing[row.name] = " ".join(str(error).split())
        return runners

    def _finished(self, row: ReportRow) -> ReportRow:
        """Return a row with all that was measured of it."""
        reason = self.missing.get(row.name)
        if reason is not None:
            return row.model_copy(update={"state": "missing", "note": reason})
        timings, failures = [], []
        for size, progress in self.progress.items():
            one = progress.get(row.name)
            if one is None:
                continue
            endured = self.endured.get((size, row.name), SustainedRun())
            failures += [
                f"{size_text(*size)}: {failure}"
                for failure in (one.failure, endured.failure)
                if failure is not None
            ]
            timing = one.timing
            if timing is not None:
                cold = self.cold.get((size, row.name))
                figures: dict[str, object] = {} if cold is None else {
                    "cold_start_ms": cold.start_ms, "peak_memory_mib": cold.peak_memory_mib,
                }  # fmt: skip
                figures |= endured.figures
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
