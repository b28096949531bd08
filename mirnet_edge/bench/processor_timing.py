"""Time bundles and competitors on one processor under the instruction set of this process.

`python -m mirnet_edge.bench.processor_timing REQUEST` is what `instruction_sets.py` starts once for
each instruction set and size: OpenVINO reads its limit, ONEDNN_MAX_CPU_ISA, when it is loaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from pydantic import Field

from mirnet_edge.bench.convolution_peak import INPUT_SHAPE, MACS, convolution_peak_graph
from mirnet_edge.bench.entries import count_macs, write_with_frame_size
from mirnet_edge.bench.measure import FEWEST_RUNS, PAUSE_S, timing_frame
from mirnet_edge.errors import DataError
from mirnet_edge.images.contract import batch_from_frames
from mirnet_edge.manifest import ImageContract, StrictDocument, read_manifest
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.measure import pause_garbage_collection
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.openvino_runner import OpenVinoRunner, supports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import Configuration, Precision
    from mirnet_edge.runtime.runner import GraphRunner

_Opener: TypeAlias = Callable[[ExitStack], Callable[[], object]]
"""Opens a network until the stack ends, and returns what runs it once."""
PEAK = "peak"
_CPU_BACKENDS = ("openvino", "onnxruntime")


class ProcessorRow(StrictDocument):
    """The timed runs of one network in one runtime."""

    name: str
    """Of the bundle, the competitor's file, or `peak`."""
    backend: str
    precision: str
    macs: int | None = None
    """Multiply-accumulates of one run; None where they are not known."""
    processor_ms: list[float] = Field(default_factory=list)
    """Processor time of all threads per run, in the order of the rounds; empty where it failed."""
    wall_ms: list[float] = Field(default_factory=list)
    note: str = ""
    """Why it was not measured."""

    @property
    def configuration(self) -> str:
        """Return `backend:precision`."""
        return f"{self.backend}:{self.precision}"


@dataclass(frozen=True, kw_only=True)
class ProcessorRequest:
    """What one process times."""

    bundles: tuple[str, ...]
    competitors: tuple[str, ...]
    """ONNX files; those that are missing get a row that says so."""
    height: int
    width: int
    rounds: int
    row_seconds: float
    threads: int | None

    def to_json(self) -> str:
        """Return the request for another process."""
        return json.dumps(asdict(self))


@dataclass
class _TimedRun:
    """A network that is open, and its runs so far."""

    row: ProcessorRow
    run: Callable[[], object]
    processor_ms: list[float]
    wall_ms: list[float]
    note: str = ""

    def time_once(self) -> bool:
        """Add one run; return whether it went well."""
        try:
            with pause_garbage_collection():
                processor_s, wall_s = time.process_time(), time.perf_counter()
                self.run()
                self.wall_ms.append(1e3 * (time.perf_counter() - wall_s))
                self.processor_ms.append(1e3 * (time.process_time() - processor_s))
        except Exception as error:  # noqa: BLE001  # of any library: this row ends, others go on
            self.note = " ".join(str(error).split())[:200]
        return not self.note

    def complete(self) -> ProcessorRow:
        """Return the row with its runs."""
        if self.note:
            return self.row.model_copy(update={"note": self.note})
        return self.row.model_copy(
            update={"processor_ms": self.processor_ms, "wall_ms": self.wall_ms}
        )


def time_processor(request: ProcessorRequest) -> list[ProcessorRow]:
    """Return a row for each network and runtime, all timed in the same interleaved rounds.

    Bundles take an 8-bit frame and give one; of competitors the graph alone is timed, without the
    conversions that it needs from and to 8 bits.
    """
    finished: list[ProcessorRow] = []
    opened: list[_TimedRun] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for row, open_run in _list_rows(request, folder):
            try:
                timed = _TimedRun(row, open_run(stack), [], [])
            except Exception as error:  # noqa: BLE001  # as above
                finished.append(row.model_copy(update={"note": " ".join(str(error).split())[:200]}))
                continue
            if timed.time_once():  # allocates and compiles
                opened.append(timed)
            else:
                finished.append(timed.complete())
        _time_rounds(opened, request)
    return [one.complete() for one in opened] + finished


def _time_rounds(opened: list[_TimedRun], request: ProcessorRequest) -> None:
    """Time all in turns, the slow ones in as many rounds as their time allows, three at least."""
    wanted = {}
    for one in opened:
        one.time_once()
        typical_s = 1e-3 * one.wall_ms[-1]
        affordable = int(request.row_seconds / max(typical_s, 1e-9))
        wanted[id(one)] = max(FEWEST_RUNS, min(request.rounds, affordable))
        one.processor_ms.clear()
        one.wall_ms.clear()
    for turn in range(request.rounds):
        for one in opened:
            if turn < wanted[id(one)] and not one.note:
                time.sleep(PAUSE_S)
                one.time_once()


def _list_rows(request: ProcessorRequest, folder: Path) -> Iterator[tuple[ProcessorRow, _Opener]]:
    """Yield each row and what opens it: peaks, bundles, competitors."""
    threads = request.threads
    for precision, macs in _peaks().items():
        path = folder / f"peak-{precision}.onnx"
        path.write_bytes(convolution_peak_graph(is_int8=precision == "int8"))
        inputs = np.random.default_rng(0).random(INPUT_SHAPE, np.float32)
        runner = _graph_runner("openvino", path, INPUT_SHAPE[2:], precision, threads)
        row = ProcessorRow(name=PEAK, backend="openvino", precision=precision, macs=macs)
        yield row, _graph_opener(runner, inputs)
    size = (request.height, request.width)
    frame = timing_frame(*size)
    for bundle in request.bundles:
        manifest = read_manifest(Path(bundle))
        per_pixel = manifest.model.macs_640x480 / (640 * 480)
        for one in manifest.configurations:
            if one.backend not in _CPU_BACKENDS or not one.accepted:
                continue
            if "bf16" in one.precision and not supports("bf16"):
                continue
            row = ProcessorRow(
                name=Path(bundle).resolve().name, backend=one.backend, precision=one.precision,
                macs=round(per_pixel * request.height * request.width),
            )  # fmt: skip
            yield row, _bundle_opener(bundle, one, frame, threads)
    batch = batch_from_frames(frame)
    for competitor in map(Path, request.competitors):
        yield from _competitor_rows(competitor, batch, folder, threads)


def _peaks() -> dict[Precision, int]:
    """Return the multiplications of each peak that this process can measure, by precision."""
    known: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    return {precision: MACS for precision in known if supports(precision)}


def _competitor_rows(
    path: Path, batch: NDArray[np.float32], folder: Path, threads: int | None
) -> Iterator[tuple[ProcessorRow, _Opener]]:
    """Yield the rows of a competitor: both runtimes, and bf16 where the processor has it."""
    resized = folder / path.name
    macs = None
    if path.is_file():
        write_with_frame_size(path, resized, *batch.shape[2:])
        macs = count_macs(path, *batch.shape[2:])
    rows: list[tuple[str, Precision]] = [("openvino", "fp32"), ("onnxruntime", "fp32")]
    if supports("bf16"):
        rows.insert(1, ("openvino", "bf16"))
    for backend, precision in rows:
        row = ProcessorRow(name=path.stem, backend=backend, precision=precision, macs=macs)
        runner = _graph_runner(backend, resized, batch.shape[2:], precision, threads)
        yield row, _graph_opener(runner, batch, missing=None if path.is_file() else path)


def _graph_runner(
    backend: str, path: Path, size: tuple[int, ...], precision: Precision, threads: int | None
) -> GraphRunner:
    image = ImageContract(io="float", multiple=1, size=(size[0], size[1]))
    runner = OpenVinoRunner if backend == "openvino" else OnnxRuntimeRunner
    return runner(path, image, name=path.stem, precision=precision, threads=threads)


def _graph_opener(
    runner: GraphRunner, inputs: NDArray[np.float32], *, missing: Path | None = None
) -> _Opener:
    def open_graph(stack: ExitStack) -> Callable[[], object]:
        if missing is not None:
            raise DataError(f"{missing} is not there; expected an ONNX file")
        stack.enter_context(runner)
        return lambda: runner.infer(inputs)

    return open_graph


def _bundle_opener(
    bundle: str, configuration: Configuration, frame: Frames, threads: int | None
) -> _Opener:
    def open_configuration(stack: ExitStack) -> Callable[[], object]:
        runner = open_bundle(
            bundle, configuration.backend, configuration.precision, threads=threads
        )
        stack.enter_context(runner)
        return lambda: runner.run(frame)

    return open_configuration


def _main() -> None:
    known = json.loads(sys.argv[1])
    request = ProcessorRequest(
        **known | {name: tuple(known[name]) for name in ("bundles", "competitors")}
    )
    rows = time_processor(request)
    sys.stdout.write(json.dumps([row.model_dump() for row in rows]) + "\n")


if __name__ == "__main__":
    _main()
