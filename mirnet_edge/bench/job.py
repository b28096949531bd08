"""The benchmark job: suite, entries, latency, cold start, quality, report."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mirnet_edge.bench import entries, telemetry
from mirnet_edge.bench.measure import (
    ENERGY_RUN_S,
    LatencyMeasurement,
    SustainedRun,
    SustainedSchedule,
    TimingMethod,
    measure_cold_start,
    run_sustained,
    sustained_schedule,
    time_interleaved,
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
from mirnet_edge.checkpoints.cards import assumed_task
from mirnet_edge.errors import EngineError, MirnetEdgeError, OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import StrictDocument, read_manifest
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirnet_edge.bench.entries import BenchmarkEntry
    from mirnet_edge.bench.measure import ColdStart
    from mirnet_edge.bench.quality import BenchmarkClip, PairSource
    from mirnet_edge.bench.record import SustainedPart
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

_FOLDER = Path(__file__).parent / "suites"
_SUFFIX = ".toml"


class PairSetEntry(StrictDocument):
    """A pair set of a suite."""

    pairs: str
    """LOW:HIGH, a folder, or `built-in`; folders are relative to --data."""
    task: str | None = None
    """None: the task of the first bundle."""
    suffixes: tuple[str, str] | None = None
    """How the names of degraded and clean images end, where one folder holds both."""
    sigma: tuple[float, ...] = ()
    """Degrade clean images by white noise of these strengths, a pair set for each."""


class BenchmarkSuite(StrictDocument):
    """What to benchmark, and how (`benchmarks/suites/*.toml`)."""

    former_keys: ClassVar[dict[str, str]] = {"rivals": "competitors"}
    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
    title: str = ""
    parts: tuple[str, ...] = ()
    """Names of suites that are run one after another, each with a report of its own; all other
    fields are those of the parts then."""
    bundles: tuple[str, ...] = ()
    """Bundle folders, relative to the working directory; --bundle replaces them."""
    backends: tuple[str, ...] = ()
    """Empty: all backends of a bundle's configurations."""
    sizes: tuple[str, ...] = ("640x480",)
    rounds: int = Field(default=30, ge=1)
    row_seconds: float = Field(default=20.0, gt=0)
    """Time limit of an entry at one size; slower entries run in fewer rounds."""
    threads: int | None = Field(default=None, ge=1)
    sustained: float | None = Field(default=None, gt=0)
    """Minutes of a sustained run of each bundle entry at each size; None: no such run."""
    sustained_rows: tuple[str, ...] = ()
    """Names of competitors and baselines that get a sustained run too."""
    competitors: tuple[str, ...] = ()
    """ONNX files, relative to --data."""
    baselines: tuple[str, ...] | None = None
    """Names; None: all baselines of the task."""
    full_mirnet: bool = False
    """Time the full network too, with random weights."""
    cold: bool = True
    """Measure cold start and peak memory, each entry in its own process."""
    quality: tuple[PairSetEntry, ...] = (PairSetEntry(pairs=BUILT_IN),)
    frames: tuple[str, ...] = ()
    """Videos to measure flicker on, relative to --data, or `still`: a static scene with noise."""
    instruction_sets: tuple[str, ...] = ()
    """Time everything once under each limit of OpenVINO's instructions, beside a convolution's
    peak (`instruction_sets.py`), and nothing else; the names are those of ONEDNN_MAX_CPU_ISA."""


def read_suite(name_or_path: str) -> BenchmarkSuite:
    """Return a suite of the package by name, or of a TOML file.

    Raises:
        OptionError: There is no such suite, or the file is not a suite.
    """
    named = _FOLDER / f"{name_or_path}{_SUFFIX}"
    path = named if named.is_file() else Path(name_or_path)
    known = ", ".join(sorted(one.stem for one in _FOLDER.glob(f"*{_SUFFIX}")))
    absent = f"there is no suite {name_or_path}; expected a TOML file, or one of {known}"
    return read_toml(path, BenchmarkSuite, absent=absent)


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """A suite with its files and output folder."""

    suite: BenchmarkSuite
    suite_name: str | None
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the timed frames."""
    root: Path
    """The folder of competitors and images."""
    out: Path
    command: str
    clips: tuple[BenchmarkClip, ...] = ()
    """Videos to measure flicker on."""


@dataclass(frozen=True)
class BenchmarkStage:
    """What a benchmark job is doing."""

    name: str
    progress: str = ""
    """How much of the stage is done, such as "round 3 of 30"; empty when it starts."""

    def __str__(self) -> str:
        """Return stage and progress as one line."""
        return f"{self.name}: {self.progress}" if self.progress else self.name


def suite_task(suite: BenchmarkSuite) -> str | None:
    """Return the task of the first bundle, else of the first pair set that has one, else None."""
    for bundle in suite.bundles:
        return assumed_task(read_manifest(find_bundle(bundle)).model.task)
    return next((entry.task for entry in suite.quality if entry.task is not None), None)


def load_entries(
    request: BenchmarkRequest, task: str | None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return all entries of a request with the facts of their report rows.

    Raises:
        MirnetEdgeError: An entry is missing, or two have one name.
        OptionError: There is no entry, or `sustained_rows` names an unknown one.
    """
    suite = request.suite
    found = entries.bundle_entries(
        [find_bundle(bundle) for bundle in suite.bundles],
        backends=suite.backends,
        threads=suite.threads,
    )
    competitors = [request.root / competitor for competitor in suite.competitors]
    found += entries.competitor_entries(competitors, task, threads=suite.threads)
    found += entries.baseline_entries(suite.baselines, task)
    if suite.full_mirnet:
        found.append(entries.full_mirnet_entry(task, threads=suite.threads))
    names = [row.name for _, row in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(
            f"expected a name for each entry, found {', '.join(twice)} twice; rename the file or "
            "the folder"
        )
    if not found:
        raise OptionError("nothing to measure; give --bundle, --competitor or --baseline")
    for name in suite.sustained_rows:
        if name not in names:
            raise OptionError(
                f"sustained_rows names {name!r}; expected entries of this run: {', '.join(names)}"
            )
    return found


def load_pair_sources(request: BenchmarkRequest, task: str | None) -> list[PairSource]:
    """Return the pair sets of a request.

    Raises:
        DataError: A pair set is missing, or has images without a partner.
    """
    sources = []
    for entry in request.suite.quality:
        wanted = entry.task or task
        if wanted is None:
            continue
        places = ":".join(
            part if part == BUILT_IN else str(request.root / part)
            for part in entry.pairs.split(":")
        )
        sources += find_pair_sources(places, wanted, suffixes=entry.suffixes, sigmas=entry.sigma)
    return sources


def load_clips(request: BenchmarkRequest, task: str | None) -> list[BenchmarkClip]:
    """Return the clips of a request, the built-in still one first where the suite names it."""
    still = [built_in_clip(task)] if STILL in request.suite.frames and task is not None else []
    return [*still, *request.clips]


@dataclass
class BenchmarkJob:
    """A benchmark in progress; `report` returns what was measured so far, at any time.

    Raises:
        MirnetEdgeError: A bundle, competitor, baseline or pair set is missing or not usable.
    """

    request: BenchmarkRequest
    on_stage: Callable[[BenchmarkStage], None]
    sensors: MachineSensors = field(default_factory=open_sensors)
    entries: list[tuple[BenchmarkEntry, ReportRow]] = field(init=False)
    quality: list[QualityMeasurement] = field(init=False)
    flicker: list[FlickerMeasurement] = field(init=False)
    latency: dict[tuple[int, int], dict[str, LatencyMeasurement]] = field(default_factory=dict)
    sustained: dict[tuple[tuple[int, int], str], SustainedRun] = field(default_factory=dict)
    """Runs without pause, of minutes or only for energy, by size and entry."""
    cold_starts: dict[tuple[tuple[int, int], str], ColdStart] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why an entry cannot run here, by its name."""

    def __post_init__(self) -> None:
        """Load entries, pair sets and clips."""
        self._conditions_before = self.sensors.conditions()
        suite = self.request.suite
        self._schedule = None if suite.sustained is None else sustained_schedule(suite.sustained)
        task = suite_task(suite)
        self.entries = load_entries(self.request, task)
        self.quality = [QualityMeasurement(one) for one in load_pair_sources(self.request, task)]
        self.flicker = [FlickerMeasurement(clip) for clip in load_clips(self.request, task)]

    def run(self) -> None:
        """Measure latency, cold start, quality and flicker; may be interrupted."""
        suite = self.request.suite
        method = TimingMethod(rounds=suite.rounds, row_seconds=suite.row_seconds)
        for size in self.request.sizes:
            self._measure_latency(size, method)
        if suite.cold:
            self._measure_cold_starts()
        for quality in self.quality:
            self._measure_quality(quality)
        for flicker in self.flicker:
            self._measure_flicker(flicker)

    def report(self, *, partial: bool) -> Report:
        """Return what was measured so far."""
        suite = self.request.suite
        return Report(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            partial=partial,
            machine=machine.describe(),
            revision=telemetry.revision(),
            versions=machine.tool_versions(),
            settings=BenchmarkSettings(
                command=self.request.command,
                suite=self.request.suite_name,
                rounds=suite.rounds,
                row_seconds=suite.row_seconds,
                threads=suite.threads,
                affinity=telemetry.affinity(),
                sustained_minutes=suite.sustained,
            ),
            conditions_before=self._conditions_before,
            conditions_after=self.sensors.conditions(),
            meters=self.sensors.covers,
            sensor_notes=list(self.sensors.notes),
            rows=[self._complete_row(row) for _, row in self.entries],
            pair_sets=[one.pair_set for one in self.quality if one.images or one.unreadable],
            clips=[one.facts for one in self.flicker if one.flicker or one.note],
            crops=[crop for one in self.quality for crop in one.crops],
        )

    def _measure_latency(self, size: tuple[int, int], method: TimingMethod) -> None:
        name = f"{size_text(*size)}: latency"
        self.latency[size] = {}
        with ExitStack() as stack:
            runners = self._open_runners(self.entries, stack)
            self.on_stage(BenchmarkStage(f"{name} of {len(runners)} entries"))
            frame = timing_frame(*size)
            time_interleaved(
                runners,
                frame,
                method,
                self.latency[size],
                lambda done, rounds: self.on_stage(
                    BenchmarkStage(name, f"round {done} of {rounds}")
                ),
            )
            for row in (row for _, row in self.entries if row.name in runners):
                self._run_sustained(row, runners[row.name], frame, size)

    def _run_sustained(
        self, row: ReportRow, runner: Runner, frame: Frames, size: tuple[int, int]
    ) -> None:
        """Run an entry without pause: for minutes if it is chosen, else as long as energy needs."""
        suite = self.request.suite
        if self.latency[size][row.name].failure is not None:
            return
        chosen = row.kind == "bundle" or row.name in suite.sustained_rows
        schedule = self._schedule if chosen else None
        what = "sustained run"
        is_sustained = schedule is not None
        if schedule is None:
            if not self.sensors.meters:
                return
            seconds = min(ENERGY_RUN_S, suite.row_seconds)
            what, schedule = "energy", SustainedSchedule(seconds, seconds)
        name = f"{size_text(*size)}: {what} of {row.name}"
        minutes = schedule.seconds / 60.0
        self.on_stage(BenchmarkStage(name))

        def show(part: SustainedPart) -> None:
            self.on_stage(BenchmarkStage(name, f"{part.end_s / 60.0:.1f} of {minutes:.1f} minutes"))

        run = self.sustained[size, row.name] = SustainedRun(is_sustained)
        run_sustained(runner, frame, schedule, self.sensors, run, show)

    def _measure_cold_starts(self) -> None:
        for size, measured in self.latency.items():
            for entry, row in self.entries:
                if row.name in measured and measured[row.name].samples_ms:
                    self.on_stage(BenchmarkStage(f"{size_text(*size)}: cold start of {row.name}"))
                    found = measure_cold_start(entry, *size)
                    if found is not None:
                        self.cold_starts[size, row.name] = found

    def _measure_quality(self, quality: QualityMeasurement) -> None:
        source = quality.source
        chosen = [
            (entry, row)
            for entry, row in self.entries
            if row.task == source.task and row.kind != "random weights"
        ]
        name = f"quality on {source.name}"
        self.on_stage(BenchmarkStage(name))
        with ExitStack() as stack:
            measure_quality(
                self._open_runners(chosen, stack),
                quality,
                self.request.out,
                lambda done: self.on_stage(BenchmarkStage(name, f"image {done} of {len(source)}")),
            )

    def _measure_flicker(self, flicker: FlickerMeasurement) -> None:
        chosen = [one for one in self.entries if one[1].kind != "random weights"]
        with ExitStack() as stack:
            measure_flicker(
                self._open_runners(chosen, stack),
                flicker,
                self.request.suite.row_seconds,
                lambda row: self.on_stage(BenchmarkStage(f"{flicker.clip.name}: flicker of {row}")),
            )

    def _open_runners(
        self, chosen: list[tuple[BenchmarkEntry, ReportRow]], stack: ExitStack
    ) -> Mapping[str, Runner]:
        """Return the runners that open here; `missing` says why the others do not."""
        runners: dict[str, Runner] = {}
        for entry, row in chosen:
            if row.state == "missing" or row.name in self.missing:
                continue
            try:
                runners[row.name] = stack.enter_context(entry.runner())
            except MirnetEdgeError as error:
                self.missing[row.name] = " ".join(str(error).split())
        return runners

    def _complete_row(self, row: ReportRow) -> ReportRow:
        """Return a row with all that was measured of its entry."""
        reason = self.missing.get(row.name)
        if reason is not None:
            return row.model_copy(update={"state": "missing", "note": reason})
        timings, failures = [], []
        for size, by_entry in self.latency.items():
            measured = by_entry.get(row.name)
            if measured is None:
                continue
            run = self.sustained.get((size, row.name), SustainedRun())
            failures += [
                f"{size_text(*size)}: {failure}"
                for failure in (measured.failure, run.failure)
                if failure is not None
            ]
            timing = measured.timing
            if timing is not None:
                cold = self.cold_starts.get((size, row.name))
                fields: dict[str, object] = {} if cold is None else {
                    "cold_start_ms": cold.start_ms, "peak_memory_mib": cold.peak_memory_mib,
                }  # fmt: skip
                timings.append(timing.model_copy(update=fields | run.timing_fields))
        failures += [
            f"{one.source.name}: {one.failures[row.name]}"
            for one in self.quality
            if row.name in one.failures
        ]
        changes: dict[str, object] = {
            "timings": timings,
            "quality": [found for one in self.quality if (found := one.of_entry(row.name))],
            "flicker": [one.flicker[row.name] for one in self.flicker if row.name in one.flicker],
        }
        if failures:
            changes |= {"state": "failed", "note": "; ".join(failures)}
        return row.model_copy(update=changes)
