"""Sensitivity analysis and mixed-precision search: accuracy drop and speedup by block.

Blocks are ordered by sensitivity, dB per millisecond, least sensitive first; the graphs with the
first one, two, three ... of them in INT8 are measured as wholes. What no other graph beats in both
accuracy drop and latency is the Pareto front, and a choice on it is taken. `placement` then changes
single convolutions by their measured latency.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationError

from mirnet_edge.charts import BarPanel, Chart, bar_chart
from mirnet_edge.errors import OptionError
from mirnet_edge.export.gate import compare_outputs
from mirnet_edge.export.placement import Placement, refine_placement
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import LUMA
from mirnet_edge.manifest import MachineFacts, Precision, QuantizationFacts, StrictDocument
from mirnet_edge.onnx_files import write_model
from mirnet_edge.quantization.mixed_precision import (
    GraphBlock,
    list_blocks,
    list_quantized_convolutions,
    quantize_partly,
)
from mirnet_edge.quantization.ptq import (
    QUANTIZERS,
    QuantizationScheme,
    Quantizer,
    quantize_for_cpu,
    quantize_for_tensorrt,
)
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import all_backends, find_backend
from mirnet_edge.runtime.measure import measure_interleaved, p50

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx

    from mirnet_edge.calibration.sets import CalibrationSample
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.runner import Runner


# Bins of the fp32 output's luma: INT8's error is largest in the dark, where the eye sees it best.
DARKNESS = {"dark": (0, 32), "middle": (32, 96), "bright": (96, 256)}
_WARMUP = 2
# identical images have no PSNR that JSON can say
_MOST_DB = 100.0


@dataclass(frozen=True)
class GraphTrial:
    """Accuracy and latency of one graph against fp32."""

    drop_db: float
    """Accuracy drop against fp32, as `gate.GateResult` has it."""
    against_fp32_db: float
    darkness_db: dict[str, float | None]
    """PSNR against fp32 over the pixels of each bin of `DARKNESS`; None for an empty bin."""
    fp32_ms: float | None
    """Median latency of fp32; None where the backend is not here and is simulated."""
    ratio: float | None
    """Median, round by round, of the latency over that of fp32."""

    @property
    def saved_ms(self) -> float | None:
        """Return how much lower the latency is than that of fp32; negative where it is higher."""
        if self.fp32_ms is None or self.ratio is None:
            return None
        return self.fp32_ms * (1.0 - self.ratio)


class GraphEvaluator:
    """Evaluates graphs of one network on one backend; fp32 restores the images once."""

    def __init__(
        self,
        fp32: Path,
        image: ImageContract,
        samples: Sequence[CalibrationSample],
        frame: Frames,
        backend: str,
        *,
        rounds: int = 9,
    ) -> None:
        """Restore the samples in fp32.

        Args:
            fp32: The graph that all others are compared with.
            image: What the graphs take and give.
            samples: The evaluation images.
            frame: (1, H, W, 3) uint8, the frame that is timed.
            backend: Of `runtime.backends`; one that runs engines is simulated and not timed.
            rounds: How often each of the two is timed, interleaved.
        """
        self.backend = backend
        self._image, self._samples, self._frame, self._rounds = image, samples, frame, rounds
        self._fp32 = self.runner(fp32, "fp32")
        self._expected = self._restore_all(self._fp32)

    def runner(self, graph: Path, precision: Precision) -> Runner:
        """Return the runner of a graph on this backend, or of its simulation."""
        name = f"{self.backend}:{precision}"
        return find_backend(self.backend).runner(graph, self._image, name=name, precision=precision)

    def evaluate(self, graph: Path, precision: Precision = "int8") -> GraphTrial:
        """Return accuracy drop and speedup of a graph.

        Raises:
            EngineError: The backend cannot run it.
        """
        runner = self.runner(graph, precision)
        outputs = self._restore_all(runner)
        result = compare_outputs(outputs, self._expected, self._samples, None)
        fp32_ms = ratio = None
        if self.is_timed:
            taken = measure_interleaved(
                {"fp32": self._fp32, precision: runner},
                self._frame,
                warmup=_WARMUP,
                rounds=self._rounds,
            )
            fp32_ms = p50(taken["fp32"])
            pairs = zip(taken[precision], taken["fp32"], strict=True)
            ratio = p50([one / two for one, two in pairs])
        mean_db = result.against_fp32.mean_db
        return GraphTrial(
            result.drop_db,
            _MOST_DB if mean_db is None else mean_db,
            compare_by_darkness(outputs, self._expected),
            fp32_ms,
            ratio,
        )

    @contextmanager
    def open(self, graph: Path, precision: Precision) -> Iterator[OpenTrial]:
        """Open a graph, to compare it with fp32 and with another graph.

        Raises:
            EngineError: The backend cannot run it.
        """
        with self.runner(graph, precision) as runner:
            yield OpenTrial(self, runner)

    def drop_of(self, runner: Runner) -> float:
        """Return a runner's accuracy drop against fp32 in dB."""
        outputs = self._restore_all(runner)
        return compare_outputs(outputs, self._expected, self._samples, None).drop_db

    def time_beside(self, one: Runner, two: Runner, rounds: int) -> list[float]:
        """Return the latency of one runner over that of another, of each interleaved round."""
        taken = measure_interleaved(
            {"one": one, "two": two}, self._frame, warmup=_WARMUP, rounds=rounds
        )
        return [first / second for first, second in zip(taken["one"], taken["two"], strict=True)]

    @property
    def is_timed(self) -> bool:
        """Return whether the backend itself runs the graphs, so that latencies are valid."""
        return find_backend(self.backend).engine_runner is None

    def _restore_all(self, runner: Runner) -> list[np.ndarray]:
        with runner:
            return [runner.run(sample.frame[None]) for sample in self._samples]


@dataclass(frozen=True)
class OpenTrial:
    """A graph that `GraphEvaluator.open` opened."""

    evaluator: GraphEvaluator
    runner: Runner

    def measure_drop(self) -> float:
        """Return the accuracy drop against fp32 in dB."""
        return self.evaluator.drop_of(self.runner)

    def measure_ratios(self, other: OpenTrial, rounds: int) -> list[float]:
        """Return this graph's latency over that of another, of each interleaved round."""
        return self.evaluator.time_beside(self.runner, other.runner, rounds)


def compare_by_darkness(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """Return the PSNR over all pixels of each bin of `DARKNESS`, by the luma of fp32's output.

    Args:
        outputs: (N, H, W, 3) uint8 arrays.
        expected: Those of fp32, of the same shapes.
    """
    errors, counts = dict.fromkeys(DARKNESS, 0.0), dict.fromkeys(DARKNESS, 0)
    for one, two in zip(outputs, expected, strict=True):
        luma = two @ LUMA
        squares = np.square(one.astype(np.float64) - two).mean(-1)
        for name, (low, high) in DARKNESS.items():
            inside = (luma >= low) & (luma < high)
            errors[name] += float(squares[inside].sum())
            counts[name] += int(inside.sum())
    return {name: _decibels(errors[name], counts[name]) for name in DARKNESS}


def _decibels(error: float, count: int) -> float | None:
    if not count:
        return None
    if not error:
        return _MOST_DB
    return min(_MOST_DB, -10.0 * math.log10(error / count / 255.0**2))


def choose_trial_backend(name: str) -> str:
    """Return the backend of that name; for `auto`, the installed CPU backend of most precisions.

    Raises:
        OptionError: No such backend, or it is not installed.
    """
    fitting = {one.name: one for one in all_backends() if "int8" in one.precisions}
    if name == "auto":
        # a search may choose among its precisions, bf16 for instance
        here = [one for one in fitting.values() if one.target == "cpu" and one.is_installed]
        return max(here, key=lambda one: len(one.precisions)).name
    if name not in fitting:
        raise OptionError(f"--backend must be auto or one of {', '.join(fitting)}, found {name!r}")
    backend = fitting[name]
    obstacle = None if backend.engine_runner is not None else backend.machine_obstacle()
    if obstacle is not None:
        raise OptionError(f"--backend {name} does not run here: {obstacle}")
    return name


FILE_NAME, IMAGE_NAME = "sensitivity.json", "sensitivity.svg"
# Less than this share of fp32's latency is within the noise of two runs of one graph: what a block
# saves counts as at least so much, or one that saves nothing would be infinitely sensitive.
NOISE = 0.01


class BlockSensitivity(StrictDocument):
    """Accuracy drop and speedup with one block in INT8 and the others in float."""

    former_keys: ClassVar[dict[str, str]] = {"loss_db": "drop_db", "won_ms": "saved_ms"}

    block: str
    decides_frame: bool
    """Whether it computes global context, which bundles keep in float whatever stands here."""
    drop_db: float
    against_fp32_db: float
    darkness_db: dict[str, float | None]
    saved_ms: float | None
    """Latency saved against fp32; None for a backend that is not here."""
    db_per_ms: float
    """Sensitivity: `drop_db` over `saved_ms`; over 1 ms where latency was not measured."""


class Sensitivity(StrictDocument):
    """The sensitivity of every block of a network, and the setup it was measured with.

    Schema history: 1 (2026-11) the first; 2 (2026-11) `drop_db`, `saved_ms`, `setup` instead of
    `loss_db`, `won_ms`, `recipe`.
    """

    former_keys: ClassVar[dict[str, str]] = {"recipe": "setup"}
    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
    weights_sha256: str
    calibration_sha256: str
    setup: str
    """Backend, quantizer and frame that the measurements depend on."""
    machine: MachineFacts
    blocks: list[BlockSensitivity] = Field(default_factory=list)
    """Those measured so far, in the order of the graph."""
    complete: bool = False
    """Whether every block was measured."""

    def most_sensitive_first(self) -> list[BlockSensitivity]:
        """Return the blocks by sensitivity in dB per millisecond, most sensitive first."""
        return sorted(self.blocks, key=lambda one: one.db_per_ms, reverse=True)


Deliver: TypeAlias = "Callable[[onnx.ModelProto], onnx.ModelProto]"


def keep_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model as it is."""
    return model


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph in float, and the same with every quantizable convolution in INT8."""

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    deliver: Deliver = keep_form
    """Makes the form in which a part of `int8` is delivered, and so measured."""

    @property
    def units(self) -> dict[str, tuple[str, ...]]:
        """Return the convolutions over pixels that can be quantized, of each block."""
        return {one.name: one.convolutions for one in self.blocks if not one.decides_frame}

    @property
    def blocks(self) -> tuple[GraphBlock, ...]:
        """Return the blocks that are quantized in `int8`."""
        quantized = set(list_quantized_convolutions(self.int8))
        return tuple(
            one for one in list_blocks(self.fp32) if quantized.issuperset(one.convolutions)
        )

    def write(self, names: Sequence[str], path: Path) -> Path:
        """Write the graph in which the blocks of these names are in INT8, and return its path."""
        return self.write_nodes(self.nodes_of(names), path)

    def nodes_of(self, names: Sequence[str]) -> frozenset[str]:
        """Return the convolutions of the blocks of these names."""
        return frozenset(
            node for one in self.blocks if one.name in names for node in one.convolutions
        )

    def write_nodes(self, nodes: frozenset[str], path: Path) -> Path:
        """Write the graph in which these convolutions are in INT8, and return its path."""
        partial = quantize_partly(self.int8, self.fp32, nodes)
        # without any it is the graph in float, which is delivered as it is
        write_model(self.deliver(partial) if nodes else partial, path)
        return path


def quantize_all_blocks(
    fp32: Path,
    samples: Sequence[np.ndarray],
    backend: str,
    how: QuantizationScheme,
    deliver: Deliver = keep_form,
) -> QuantizedGraph:
    """Return a graph with all that the backend's quantization scheme covers in INT8."""
    import onnx

    for_tensorrt = find_backend(backend).target == "tensorrt"
    quantize = quantize_for_tensorrt if for_tensorrt else quantize_for_cpu
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize(fp32, target, samples, how)
        return QuantizedGraph(onnx.load(fp32), onnx.load(target), deliver)


def measure_sensitivity(
    graphs: QuantizedGraph,
    evaluator: GraphEvaluator,
    known: Sensitivity,
    file: Path | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Sensitivity:
    """Quantize one block at a time and return each one's accuracy drop and speedup.

    Args:
        graphs: The network in fp32 and INT8.
        evaluator: Measures the graphs.
        known: The analysis to resume; its blocks are not measured again.
        file: Written after every block, so that a stopped run goes on.
        on_stage: Called with the name of each block as its measurement begins.
    """
    done = {one.block: one for one in known.blocks}
    with tempfile.TemporaryDirectory() as folder:
        for place, block in enumerate(graphs.blocks):
            if block.name in done:
                continue
            on_stage(f"{block.name} in INT8 ({place + 1} of {len(graphs.blocks)})")
            graph = graphs.write([block.name], Path(folder) / f"{place}.onnx")
            done[block.name] = _describe_sensitivity(block, evaluator.evaluate(graph))
            known = known.model_copy(update={"blocks": list(done.values())})
            _keep(known, file)
    known = known.model_copy(update={"complete": True})
    _keep(known, file)
    return known


def _keep(known: Sensitivity, file: Path | None) -> None:
    if file is not None:
        write_atomically(file, known.model_dump_json(indent=1).encode() + b"\n")


def _describe_sensitivity(block: GraphBlock, trial: GraphTrial) -> BlockSensitivity:
    saved_ms = trial.saved_ms
    counted = 1.0
    if saved_ms is not None and trial.fp32_ms is not None:
        counted = max(saved_ms, NOISE * trial.fp32_ms)
    return BlockSensitivity(
        block=block.name,
        decides_frame=block.decides_frame,
        drop_db=trial.drop_db,
        against_fp32_db=trial.against_fp32_db,
        darkness_db=trial.darkness_db,
        saved_ms=saved_ms,
        db_per_ms=trial.drop_db / counted,
    )


def begin_analysis(weights_sha256: str, calibration_sha256: str, setup: str) -> Sensitivity:
    """Return an analysis without blocks, bound to weights, images, setup and machine."""
    return Sensitivity(
        weights_sha256=weights_sha256,
        calibration_sha256=calibration_sha256,
        setup=setup,
        machine=machine.describe(),
    )


def resume_analysis(file: Path, fresh: Sensitivity) -> Sensitivity:
    """Return the analysis that an earlier run left in FILE, or FRESH where there is none.

    Raises:
        OptionError: The file is damaged, or of other weights, images, setup or machine.
    """
    if not file.is_file():
        return fresh
    try:
        found = Sensitivity.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise OptionError(
            f"{file} is not a readable sensitivity file; delete it or choose another --out"
        ) from error
    for what, name in (
        ("weights", "weights_sha256"),
        ("calibration images", "calibration_sha256"),
        ("setup", "setup"),
        ("machine", "machine"),
    ):
        one, two = getattr(found, name), getattr(fresh, name)
        if one != two:
            raise OptionError(
                f"{file} was measured with other {what}: expected {_short(two)}, found "
                f"{_short(one)}. Choose another --out, or delete it to start anew"
            )
    return found


def _short(value: str | MachineFacts) -> str:
    return value[:60] if isinstance(value, str) else f"{value.processor}, {value.cores} cores"


def draw_sensitivity(found: Sensitivity) -> Chart:
    """Return a chart of each block's accuracy drop, saved latency and error by darkness."""
    rows = found.most_sensitive_first()
    names = [f"{one.block} (stays float)" if one.decides_frame else one.block for one in rows]
    panels = [
        BarPanel("accuracy drop (dB)", [one.drop_db for one in rows], digits=4),
        BarPanel("latency saved (ms)", [one.saved_ms for one in rows], "secondary", digits=1),
    ]
    panels += [
        BarPanel(
            f"{name} pixels: PSNR to fp32 (dB)",
            [one.darkness_db.get(name) for one in rows],
            "muted",
            digits=1,
        )
        for name in DARKNESS
    ]
    return bar_chart("Sensitivity of each block to INT8", names, panels, width=1280)


_WHOLE_LADDER = 12
"""Rungs that are measured at most; a network of more blocks gets them evenly."""


@dataclass(frozen=True)
class MixedPrecisionChoice:
    """The measured graph with a choice of blocks in INT8."""

    blocks: tuple[str, ...]
    """Those in INT8; none for the network in its base precision."""
    quantizer: Quantizer | None
    precision: Precision
    drop_db: float
    ms: float | None
    """Median latency of one frame; None where the backend is not here."""
    ratio: float | None
    """Latency over that of fp32."""


_DEFAULT_SCHEME = QuantizationScheme()


def search_graph(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    evaluator: GraphEvaluator,
    *,
    max_drop_db: float,
    target_fps: float | None = None,
    scheme: QuantizationScheme = _DEFAULT_SCHEME,
    deliver: Deliver = keep_form,
    on_stage: Callable[[str], None] = lambda what: None,
) -> QuantizationFacts:
    """Search the blocks to quantize, write that mixed-precision graph and return its description.

    Both quantizers are measured with the chosen blocks, through the legalizer where the graph is
    for TensorRT; the one with the smaller accuracy drop is kept. Where the backend is timed, single
    convolutions are then changed by their measured latency (`placement`); with a target throughput
    only where the accuracy drop gets no larger. Graphs are measured as `deliver` makes them; of
    `scheme` the ranges count.

    Raises:
        OptionError: No graph reaches the target throughput; names the fastest.
    """
    graphs = {
        quantizer: quantize_all_blocks(
            fp32,
            samples,
            evaluator.backend,
            replace(scheme, quantizer=quantizer),
            deliver,
        )
        for quantizer in QUANTIZERS
    }
    usual: Quantizer = "onnxruntime" if evaluator.backend == "tensorrt" else "nncf"
    on_stage("search: one block at a time")
    analysis = measure_sensitivity(
        graphs[usual], evaluator, begin_analysis("", "", ""), on_stage=on_stage
    )
    points = measure_ladder(graphs[usual], usual, analysis, evaluator, on_stage)
    chosen = choose_fastest_accepted(points, max_drop_db, target_fps)
    other: Quantizer = next(quantizer for quantizer in QUANTIZERS if quantizer != usual)
    on_stage(f"the same blocks by {other}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        other_choice = _measure_choice(
            graphs[other], other, chosen.blocks, chosen.precision, evaluator, path
        )
        if chosen.ms is not None and chosen.ratio and other_choice.ratio:  # times of one moment
            other_choice = replace(other_choice, ms=chosen.ms / chosen.ratio * other_choice.ratio)
        best = choose_better(chosen, other_choice, max_drop_db, target_fps)
        quantizer = best.quantizer or usual
        placement = Placement(graphs[quantizer].nodes_of(best.blocks), best.drop_db, 1.0, [])
        if evaluator.is_timed and best.blocks:
            placement = refine_placement(
                graphs[quantizer], placement.nodes, evaluator, best.precision,
                max_drop_db=max_drop_db if target_fps is None else best.drop_db,
                on_stage=on_stage,
            )  # fmt: skip
        written = graphs[quantizer].write_nodes(placement.nodes, path)
        write_atomically(target, written.read_bytes())
    return _describe_choice(
        best, quantizer, graphs[quantizer], other_choice if best is chosen else chosen, placement
    )


def measure_ladder(
    graphs: QuantizedGraph,
    quantizer: Quantizer,
    analysis: Sensitivity,
    evaluator: GraphEvaluator,
    on_stage: Callable[[str], None] = lambda what: None,
) -> list[MixedPrecisionChoice]:
    """Measure ever more blocks in INT8, least sensitive first; fp32 (and bf16) are in front."""
    order = order_by_sensitivity(analysis)
    counts = sorted({round(share * len(order) / _WHOLE_LADDER) for share in range(1, 13)} - {0})
    if len(order) <= _WHOLE_LADDER:
        counts = list(range(1, len(order) + 1))
    points = [MixedPrecisionChoice((), None, "fp32", 0.0, None, 1.0)]
    backend = find_backend(evaluator.backend)
    derived = backend.derived_precisions.get("int8", ())
    halves = "int8+bf16" in derived and backend.supports("int8+bf16")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        if halves:
            points.append(_measure_choice(graphs, None, (), "bf16", evaluator, path))
        for count in counts:
            on_stage(f"search: {count} of {len(order)} blocks in INT8")
            blocks = tuple(order[:count])
            for precision in ("int8", *(("int8+bf16",) if halves else ())):
                points.append(
                    _measure_choice(graphs, quantizer, blocks, precision, evaluator, path)
                )
    return _with_times(points)


def order_by_sensitivity(analysis: Sensitivity) -> list[str]:
    """Return the quantizable blocks, least sensitive first."""
    return [one.block for one in reversed(analysis.most_sensitive_first()) if not one.decides_frame]


def _measure_choice(
    graphs: QuantizedGraph,
    quantizer: Quantizer | None,
    blocks: tuple[str, ...],
    precision: Precision,
    evaluator: GraphEvaluator,
    path: Path,
) -> MixedPrecisionChoice:
    trial = evaluator.evaluate(graphs.write(blocks, path), precision)
    ms = None if trial.fp32_ms is None or trial.ratio is None else trial.fp32_ms * trial.ratio
    return MixedPrecisionChoice(blocks, quantizer, precision, trial.drop_db, ms, trial.ratio)


def _with_times(points: list[MixedPrecisionChoice]) -> list[MixedPrecisionChoice]:
    """Return the choices with latencies of one moment: their ratios times one latency of fp32."""
    fp32 = [one.ms / one.ratio for one in points if one.ms is not None and one.ratio]
    if not fp32:
        return [replace(one, ratio=None) for one in points]
    usual = sorted(fp32)[len(fp32) // 2]
    return [replace(one, ms=usual * one.ratio) for one in points if one.ratio is not None]


def find_pareto_front(points: Sequence[MixedPrecisionChoice]) -> list[MixedPrecisionChoice]:
    """Return the choices that no other beats in accuracy drop and latency, most accurate first.

    Where latency was not measured, quantizing more blocks counts as faster.
    """
    front: list[MixedPrecisionChoice] = []
    for point in sorted(points, key=lambda one: (one.drop_db, _time(one))):
        if not front or _time(point) < _time(front[-1]):
            front.append(point)
    return front


def _time(point: MixedPrecisionChoice) -> float:
    return -float(len(point.blocks)) if point.ms is None else point.ms


def choose_fastest_accepted(
    points: Sequence[MixedPrecisionChoice], max_drop_db: float, target_fps: float | None = None
) -> MixedPrecisionChoice:
    """Return the fastest choice within the tolerance, or the most accurate one that is fast enough.

    Where that would be a network without INT8, the most accurate one with it is returned: the
    quality gate then rejects it in numbers.

    Raises:
        OptionError: No choice reaches the target throughput.
    """
    front = find_pareto_front(points)
    if target_fps is not None:
        fast = [one for one in front if one.ms is not None and one.ms <= 1e3 / target_fps]
        if front[-1].ms is not None and not fast:
            raise OptionError(
                f"no choice of blocks reaches {target_fps:g} frames per second here; the fastest "
                f"has {1e3 / front[-1].ms:.1f} at an accuracy drop of "
                f"{front[-1].drop_db:.3f} dB. Give a smaller --target-fps or --size"
            )
        if fast and fast[0].blocks:
            return fast[0]
    passing = [one for one in front if one.drop_db <= max_drop_db]
    if passing and passing[-1].blocks:
        return passing[-1]
    return min((one for one in points if one.blocks), key=lambda one: one.drop_db)


def choose_better(
    one: MixedPrecisionChoice,
    two: MixedPrecisionChoice,
    max_drop_db: float,
    target_fps: float | None,
) -> MixedPrecisionChoice:
    """Return the better of two graphs of the same blocks: an accepted one, else the nearer."""
    limit = math.inf if target_fps is None else 1e3 / target_fps

    def order(point: MixedPrecisionChoice) -> tuple[bool, bool, float]:
        slow = point.ms is not None and point.ms > limit
        return slow, not point.drop_db <= max_drop_db, point.drop_db

    return min((one, two), key=order)


def _describe_choice(
    best: MixedPrecisionChoice,
    quantizer: Quantizer,
    graphs: QuantizedGraph,
    other_choice: MixedPrecisionChoice,
    placement: Placement,
) -> QuantizationFacts:
    left = [block for block in graphs.blocks if placement.nodes.isdisjoint(block.convolutions)]
    speedup = "" if not best.ratio else f", {1.0 / best.ratio:.2f}x speedup"
    names = ", ".join(block.name for block in left) or "none"
    drops = (
        f"{best.drop_db:.3f} dB{speedup}; {other_choice.quantizer}: {other_choice.drop_db:.3f} dB"
    )
    reason = (
        f"{len(best.blocks)} blocks in INT8 by {quantizer} (accuracy drop {drops}); "
        f"left in float: {names}"
    )
    if placement.trials:
        moved = [one for one in placement.trials if one.kept] if placement.ratio < 1.0 else []
        counts = [
            sum(len(one.nodes) for one in moved if one.in_int8 is way) for way in (False, True)
        ]
        found = (
            f"{counts[0]} convolutions more in float and {counts[1]} more in INT8 take "
            f"{placement.ratio:.2f} of the time, accuracy drop {placement.drop_db:.3f} dB"
            if moved
            else "none was faster"
        )
        reason += f"; of {len(placement.trials)} changes by measured latency: {found}"
    elif best.ms is None:
        reason += "; convolutions were not chosen by latency, which only the device can tell"
    return QuantizationFacts(
        quantizer=quantizer,
        float_blocks=[block.name for block in left],
        float_nodes=[
            node
            for block in graphs.blocks
            for node in block.convolutions
            if node not in placement.nodes
        ],
        reason=reason,
        placement=placement.trials,
    )
