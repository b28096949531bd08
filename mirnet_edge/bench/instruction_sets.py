"""The benchmark of one processor by instruction set (`mirnet bench --suite cpu`).

Each instruction set and size is measured by a process of its own (`processor_timing.py`), whose
OpenVINO is limited by ONEDNN_MAX_CPU_ISA. ONNX Runtime has no such limit: its rows use all
instructions everywhere, which is said. Ratios are medians over interleaved rounds of processor
time, which holds on a busy machine too.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mirnet_edge.bench import telemetry
from mirnet_edge.bench.processor_timing import PEAK, ProcessorRequest, ProcessorRow
from mirnet_edge.bench.tables import ReportTable
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import MachineFacts, StrictDocument
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.measure import p50
from mirnet_edge.runtime.openvino_runner import INSTRUCTION_LIMIT
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirnet_edge.bench.job import BenchmarkRequest

_NEEDED = {
    "SSE41": "", "AVX2": "avx2", "AVX2_VNNI": "avx_vnni", "AVX512_CORE": "avx512f",
    "AVX512_CORE_VNNI": "avx512_vnni", "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_int8", "ALL": "",
}  # fmt: skip
"""What a processor needs, in /proc/cpuinfo, for each limit; ALL is no limit."""
UNLIMITED_BACKEND = "onnxruntime"
"""Has no option that limits its instructions."""


class InstructionSetTiming(StrictDocument):
    """The rows of one instruction set at one size, timed in the same rounds."""

    instruction_set: str
    """A value of ONEDNN_MAX_CPU_ISA, or ALL."""
    width: int
    height: int
    rows: list[ProcessorRow]

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT."""
        return size_text(self.height, self.width)

    @property
    def ours(self) -> ProcessorRow | None:
        """The first bundle's row of the least processor time, which ratios are to; None without.

        One that keeps to the instruction set, where there is one.
        """
        first = next((one.name for one in self.rows if one.name != PEAK), "")
        measured = [one for one in self.rows if one.processor_ms and one.name == first]
        limited = [one for one in measured if one.backend != UNLIMITED_BACKEND]
        return min(limited or measured, key=lambda one: p50(one.processor_ms), default=None)


class ProcessorReport(StrictDocument):
    """The report of a benchmark by instruction set (`report.json`)."""

    kind: Literal["instruction sets"] = "instruction sets"
    schema_version: Literal[1] = 1
    created: str
    """UTC, ISO 8601."""
    command: str
    machine: MachineFacts
    revision: str | None
    versions: dict[str, str]
    threads: int | None
    load: float | None
    """Runnable processes before, mean of the last minute."""
    absent: list[str]
    """Instruction sets of the suite that this processor does not have."""
    timings: list[InstructionSetTiming]


@dataclass
class InstructionSetJob:
    """A benchmark by instruction set.

    Raises:
        OptionError: No such instruction set, or an option of what only other suites measure.
        BundleError: A bundle is missing.
    """

    request: BenchmarkRequest
    on_stage: Callable[[str], None]
    timings: list[InstructionSetTiming] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the suite and find what this processor can run."""
        suite = self.request.suite
        self._load = telemetry.open_sensors().conditions().load
        for name in suite.instruction_sets:
            if name not in _NEEDED:
                raise OptionError(
                    f"instruction_sets are of {', '.join(_NEEDED)}, found {name!r} in the suite"
                )
        if suite.quality or suite.frames or suite.sustained or suite.full_mirnet:
            raise OptionError(
                "a suite with instruction_sets measures time alone; leave out --pairs, --frames, "
                "--sustained and --full-mirnet, or choose another suite"
            )
        known = machine.describe().instructions
        self._sets = [
            one for one in suite.instruction_sets if not _NEEDED[one] or _NEEDED[one] in known
        ] or ["ALL"]
        self._bundles = tuple(str(find_bundle(one)) for one in suite.bundles)

    def run(self) -> Iterator[InstructionSetTiming]:
        """Yield each timing as it is there; the report holds those so far.

        Raises:
            EngineError: A process failed.
        """
        for size in self.request.sizes:
            for name in self._sets:
                self.timings.append(self._measure(name, size))
                yield self.timings[-1]

    def report(self) -> ProcessorReport:
        """Return what was measured so far."""
        suite = self.request.suite
        return ProcessorReport(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            command=self.request.command,
            machine=machine.describe(),
            revision=telemetry.revision(),
            versions=machine.tool_versions(),
            threads=suite.threads,
            load=self._load,
            absent=[one for one in suite.instruction_sets if one not in self._sets],
            timings=self.timings,
        )

    def _measure(self, name: str, size: tuple[int, int]) -> InstructionSetTiming:
        suite = self.request.suite
        self.on_stage(f"{size_text(*size)}: {name}")
        request = ProcessorRequest(
            bundles=self._bundles,
            competitors=tuple(str(self.request.root / one) for one in suite.competitors),
            height=size[0], width=size[1], rounds=suite.rounds, row_seconds=suite.row_seconds,
            threads=suite.threads,
        )  # fmt: skip
        rows = time_in_process(request, name)
        return InstructionSetTiming(instruction_set=name, width=size[1], height=size[0], rows=rows)


def time_in_process(request: ProcessorRequest, instruction_set: str) -> list[ProcessorRow]:
    """Return the rows of a request, timed in a process that is limited to an instruction set.

    Raises:
        EngineError: The process failed.
    """
    environment = {key: value for key, value in os.environ.items() if key != INSTRUCTION_LIMIT}
    if instruction_set != "ALL":
        environment[INSTRUCTION_LIMIT] = instruction_set
    command = [sys.executable, "-m", "mirnet_edge.bench.processor_timing", request.to_json()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(
            f"timing with {instruction_set} ended with exit code {done.returncode}: "
            f"{' '.join(done.stderr.split())[-300:]}. Leave it out of the suite"
        )
    return [ProcessorRow(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def timing_table(timing: InstructionSetTiming) -> ReportTable:
    """Return the rows of a timing that were measured, with ratios and shares of the peak."""
    ours = timing.ours
    lines = []
    for row in timing.rows:
        if not row.processor_ms:
            continue
        speed = _gmacs_per_second(row)
        ratio = "" if ours is None else f"{_ratio(row, ours):.2f}"
        lines.append([
            f"{row.name} {row.configuration}{' *' if row.backend == UNLIMITED_BACKEND else ''}",
            f"{p50(row.processor_ms):.1f}", f"{p50(row.wall_ms):.1f}", ratio,
            "" if row.macs is None else f"{row.macs / 1e9:.2f}",
            "" if speed is None else f"{speed:.1f}", _share(row, timing.rows, speed),
        ])  # fmt: skip
    headings = (
        f"{timing.size}, {timing.instruction_set}", "CPU ms", "wall ms", "x ours", "GMACs",
        "GMACs/s", "of peak",
    )  # fmt: skip
    return ReportTable(headings, lines)


def best_competitors(timing: InstructionSetTiming) -> Iterator[tuple[str, str, float]]:
    """Yield each other network, the configuration it is fastest in, and its time over ours."""
    ours = timing.ours
    if ours is None:
        return
    others = {one.name for one in timing.rows} - {PEAK, ours.name}
    for name in sorted(others):
        rows = [one for one in timing.rows if one.name == name and one.processor_ms]
        if rows:
            best = min(rows, key=lambda one: p50(one.processor_ms))
            yield name, best.configuration, _ratio(best, ours)


def describe_timing(timing: InstructionSetTiming) -> list[str]:
    """Return what follows from a timing and what is missing in it, in one line each."""
    where = f"{timing.size}, {timing.instruction_set}"
    ours = timing.ours
    lines = [] if ours is None else [f"{where}: ours is {ours.name} {ours.configuration}"]
    lines += [
        f"{where}: {name} takes {ratio:.1f} times the time in its best runtime, {configuration}"
        for name, configuration, ratio in best_competitors(timing)
    ]
    lines += [
        f"{where}: {one.name} {one.configuration} was not measured: {one.note}"
        for one in timing.rows if one.note
    ]  # fmt: skip
    return lines if ours is not None else [f"{where}: no bundle was measured", *lines]


def write_processor_report(report: ProcessorReport, folder: Path) -> None:
    """Write report.json and report.md, each atomically.

    Raises:
        MirnetEdgeError: The folder cannot be written.
    """
    write_atomically(folder / "report.json", (report.model_dump_json(indent=1) + "\n").encode())
    write_atomically(folder / "report.md", to_markdown(report).encode())


def to_markdown(report: ProcessorReport) -> str:
    """Return the report as Markdown: machine, a table by size and instruction set, ratios."""
    facts = report.machine
    threads = "the backends' choice" if report.threads is None else report.threads
    libraries = ", ".join(
        f"{name} {report.versions[name]}"
        for name in ("openvino", "onnxruntime") if name in report.versions
    )  # fmt: skip
    load = "" if report.load is None else f", load before {report.load:.1f}"
    parts = [
        f"# Processor by instruction set, {report.created}",
        f"`{report.command}`: {facts.processor}, {facts.cores} cores, threads {threads}, "
        f"{libraries}{load}. Interleaved rounds; medians; processor time of all threads. The peak "
        "is a 3x3 convolution of 64 channels. Bundles take and give 8-bit frames; of the others "
        f"the graph alone is timed. \\* ONNX Runtime cannot be limited: these rows use all of the "
        "processor's instructions.",
    ]
    for timing in report.timings:
        table = timing_table(timing)
        head = [table.headings, ["---"] * len(table.headings)]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in (*head, *table.lines))
        notes = "\n".join(f"- {line}" for line in describe_timing(timing))
        parts += [rows.replace(" *", " \\*"), notes]
    if report.absent:
        parts.append(f"This processor does not have {', '.join(report.absent)}.")
    return "\n\n".join(parts) + "\n"


def _gmacs_per_second(row: ProcessorRow) -> float | None:
    return None if row.macs is None else row.macs / p50(row.processor_ms) / 1e6


def _ratio(row: ProcessorRow, ours: ProcessorRow) -> float:
    """Return the median of the ratios of the rounds that both were timed in."""
    pairs = zip(row.processor_ms, ours.processor_ms, strict=False)
    return p50([one / other for one, other in pairs])


def _share(row: ProcessorRow, rows: list[ProcessorRow], speed: float | None) -> str:
    """Return the share of the peak in the row's precision, for INT8 with bf16 INT8's."""
    precision = row.precision.partition("+")[0]
    peak = next((one for one in rows if one.name == PEAK and one.precision == precision), None)
    if speed is None or peak is None or not peak.processor_ms:
        return ""
    return f"{speed / (_gmacs_per_second(peak) or speed):.0%}"
