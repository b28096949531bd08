"""Sensitivity analysis and mixed-precision search: accuracy drop and speedup by block.

Blocks are put in the order of their price, dB per millisecond, cheapest first; the graphs with
the first one, two, three ... of them in INT8 are measured as wholes. What no other graph beats in
both loss and time is the Pareto front, and a point of it is chosen.
"""

from __future__ import annotations

import io
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError

from mirnet_edge.dependencies import available
from mirnet_edge.errors import OptionError
from mirnet_edge.export.gate import compare_outputs
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import LUMA
from mirnet_edge.manifest import MachineFacts, Precision, QuantizationFacts, StrictDocument
from mirnet_edge.onnx_files import write_model
from mirnet_edge.quantization.ptq import (
    ENGINES,
    Engine,
    GraphBlock,
    QuantizationScheme,
    blocks_of,
    quantize_for_cpu,
    quantize_for_tensorrt,
    quantize_partly,
    quantized_convolutions,
)
from mirnet_edge.runtime import machine, openvino_runner
from mirnet_edge.runtime.measure import measure_interleaved, p50
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from mirnet_edge.calibration.sets import CalibrationSample
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.runner import Runner

TrialBackend = Literal["openvino", "onnxruntime", "tensorrt"]

# Levels of the fp32 output's luma that part the image: INT8's error sits in the dark, where the
# eye sees it best.
DARKNESS = {"dark": (0, 32), "middle": (32, 96), "bright": (96, 256)}
_ROUNDS, _WARMUP = 9, 2
# identical images have no PSNR that JSON can say
_MOST_DB = 100.0


@dataclass(frozen=True)
class GraphTrial:
    """What was measured."""

    drop_db: float
    """How much worse than fp32; see `gate.Figures`."""
    against_fp32_db: float
    darkness_db: dict[str, float | None]
    """PSNR against fp32 over the pixels of each bin of `DARKNESS`; None for an empty bin."""
    fp32_ms: float | None
    """Median; None where the backend is not here and only its numbers are."""
    ratio: float | None
    """Median, round by round, of the time over that of fp32."""

    @property
    def saved_ms(self) -> float | None:
        """Return how much less time than fp32 it takes; negative where it takes more."""
        if self.fp32_ms is None or self.ratio is None:
            return None
        return self.fp32_ms * (1.0 - self.ratio)


class GraphEvaluator:
    """Tries graphs of one network on one backend. fp32 restores the images once."""

    def __init__(
        self,
        fp32: Path,
        image: ImageContract,
        samples: Sequence[CalibrationSample],
        frame: Frames,
        backend: TrialBackend,
        *,
        rounds: int = _ROUNDS,
    ) -> None:
        """Restore the samples in fp32.

        Args:
            fp32: The graph that all others are compared with.
            image: What the graphs take and give.
            samples: What to judge on.
            frame: (1, H, W, 3) uint8, what is timed.
            backend: `tensorrt` is simulated by ONNX Runtime and not timed.
            rounds: How often each of the two is timed, interleaved.
        """
        self.backend = backend
        self._image, self._samples, self._frame, self._rounds = image, samples, frame, rounds
        self._fp32 = self.runner(fp32, "fp32")
        self._expected = self._restored(self._fp32)

    def runner(self, graph: Path, precision: Precision) -> Runner:
        """Return what runs a graph on this backend, or stands in for it."""
        name = f"{self.backend}:{precision}"
        if self.backend == "openvino":
            from mirnet_edge.runtime.openvino_runner import OpenVinoRunner

            return OpenVinoRunner(graph, self._image, name=name, precision=precision)
        return OnnxRuntimeRunner(
            graph, self._image, name=name, precision=precision,
            optimize=self.backend != "tensorrt",
        )  # fmt: skip

    def tried(self, graph: Path, precision: Precision = "int8") -> GraphTrial:
        """Return what a graph loses and wins.

        Raises:
            EngineError: The backend cannot run it.
        """
        runner = self.runner(graph, precision)
        outputs = self._restored(runner)
        figures = compare_outputs(outputs, self._expected, self._samples, None)
        fp32_ms = ratio = None
        if self.backend != "tensorrt":
            taken = measure_interleaved(
                {"fp32": self._fp32, precision: runner},
                self._frame,
                warmup=_WARMUP,
                rounds=self._rounds,
            )
            fp32_ms = p50(taken["fp32"])
            pairs = zip(taken[precision], taken["fp32"], strict=True)
            ratio = p50([one / two for one, two in pairs])
        mean_db = figures.against_fp32.mean_db
        return GraphTrial(
            figures.drop_db,
            _MOST_DB if mean_db is None else mean_db,
            darkness_db(outputs, self._expected),
            fp32_ms,
            ratio,
        )

    def _restored(self, runner: Runner) -> list[np.ndarray]:
        with runner:
            return [runner.run(sample.frame[None]) for sample in self._samples]


def darkness_db(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """Return the PSNR over all pixels of each bin of `DARKNESS`, by the luma of what is expected.

    Args:
        outputs: (N, H, W, 3) uint8 arrays.
        expected: The same shapes, by fp32.
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


def trial_backend(name: str) -> TrialBackend:
    """Return the backend of that name; `auto` is the fastest CPU backend that is installed.

    Raises:
        OptionError: No such backend, or it is not installed.
    """
    if name == "auto":
        return "openvino" if available("openvino") else "onnxruntime"
    if name not in get_args(TrialBackend):
        raise OptionError(
            f"--backend must be auto or one of {', '.join(get_args(TrialBackend))}, found {name!r}"
        )
    if name == "openvino" and not available(name):
        raise OptionError('--backend openvino is not installed: pip install "mirnet-edge[cpu]"')
    return name  # type: ignore[return-value]  # one of them


FILE_NAME, IMAGE_NAME = "sensitivity.json", "sensitivity.png"
# Less than this share of fp32's time is within the noise of two runs of one graph: what a block
# wins counts as at least so much, or a block that wins nothing would cost infinitely much.
NOISE = 0.01


class BlockSensitivity(StrictDocument):
    """One block in INT8, the others in float."""

    former_keys: ClassVar[dict[str, str]] = {"loss_db": "drop_db", "won_ms": "saved_ms"}

    block: str
    decides_frame: bool
    """True: bundles keep it in float, whatever stands here."""
    drop_db: float
    against_fp32_db: float
    darkness_db: dict[str, float | None]
    saved_ms: float | None
    """None for a backend that is not here."""
    db_per_ms: float
    """`drop_db` over what is won; over 1 ms where time was not measured."""


class Sensitivity(StrictDocument):
    """What was measured of a network, and on what.

    Schema history: 1 (2026-11) the first.
    """

    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
    weights_sha256: str
    calibration_sha256: str
    recipe: str
    """Backend, quantizer, frame: what else the figures depend on."""
    machine: MachineFacts
    blocks: list[BlockSensitivity] = Field(default_factory=list)
    """Those that are done, in the order of the graph."""
    complete: bool = False
    """Whether these are all there are."""

    def worst_first(self) -> list[BlockSensitivity]:
        """Return the blocks by what a millisecond costs in dB, dearest first."""
        return sorted(self.blocks, key=lambda one: one.db_per_ms, reverse=True)


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph in float and with all its convolutions in INT8."""

    fp32: onnx.ModelProto
    int8: onnx.ModelProto

    @property
    def blocks(self) -> tuple[GraphBlock, ...]:
        """Return the blocks that are quantized in `int8`."""
        quantized = set(quantized_convolutions(self.int8))
        return tuple(one for one in blocks_of(self.fp32) if quantized.issuperset(one.convolutions))

    def write(self, names: Sequence[str], path: Path) -> Path:
        """Write the graph in which the blocks of these names are in INT8, and return its path."""
        chosen = [one for one in self.blocks if one.name in names]
        nodes = frozenset(node for one in chosen for node in one.convolutions)
        write_model(quantize_partly(self.int8, self.fp32, nodes), path)
        return path


def quantize_all_blocks(
    fp32: Path, samples: Sequence[np.ndarray], backend: TrialBackend, how: QuantizationScheme
) -> QuantizedGraph:
    """Return a graph with all that the backend's recipe can quantize in INT8."""
    import onnx

    quantize = quantize_for_tensorrt if backend == "tensorrt" else quantize_for_cpu
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize(fp32, target, samples, how)
        return QuantizedGraph(onnx.load(fp32), onnx.load(target))


def measure_sensitivity(
    graphs: QuantizedGraph,
    judge: GraphEvaluator,
    known: Sensitivity,
    file: Path | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Sensitivity:
    """Quantize one block at a time and return what each costs.

    Args:
        graphs: The network.
        judge: Tries the graphs.
        known: What an earlier run found; its blocks are not measured again.
        file: Written after every block, so that a stopped run goes on.
        on_stage: Told which block is being measured.
    """
    done = {one.block: one for one in known.blocks}
    with tempfile.TemporaryDirectory() as folder:
        for place, block in enumerate(graphs.blocks):
            if block.name in done:
                continue
            on_stage(f"{block.name} in INT8 ({place + 1} of {len(graphs.blocks)})")
            graph = graphs.write([block.name], Path(folder) / f"{place}.onnx")
            done[block.name] = _cost(block, judge.tried(graph))
            known = known.model_copy(update={"blocks": list(done.values())})
            _keep(known, file)
    known = known.model_copy(update={"complete": True})
    _keep(known, file)
    return known


def _keep(known: Sensitivity, file: Path | None) -> None:
    if file is not None:
        write_atomically(file, known.model_dump_json(indent=1).encode() + b"\n")


def _cost(block: GraphBlock, trial: GraphTrial) -> BlockSensitivity:
    won = trial.saved_ms
    counted = 1.0
    if won is not None and trial.fp32_ms is not None:
        counted = max(won, NOISE * trial.fp32_ms)
    return BlockSensitivity(
        block=block.name,
        decides_frame=block.decides_frame,
        drop_db=trial.drop_db,
        against_fp32_db=trial.against_fp32_db,
        darkness_db=trial.darkness_db,
        saved_ms=won,
        db_per_ms=trial.drop_db / counted,
    )


def new_analysis(weights_sha256: str, calibration_sha256: str, recipe: str) -> Sensitivity:
    """Return a measurement of nothing yet, bound to what it will be of."""
    return Sensitivity(
        weights_sha256=weights_sha256,
        calibration_sha256=calibration_sha256,
        recipe=recipe,
        machine=machine.describe(),
    )


def resume_analysis(file: Path, fresh: Sensitivity) -> Sensitivity:
    """Return what an earlier run left in FILE, or FRESH where there is none.

    Raises:
        OptionError: The file is damaged, or of other weights, images, recipe or machine.
    """
    if not file.is_file():
        return fresh
    try:
        found = Sensitivity.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise OptionError(
            f"{file} is not a sensitivity file of schema 1; delete it or choose another --out"
        ) from error
    for what, name in (
        ("weights", "weights_sha256"),
        ("calibration images", "calibration_sha256"),
        ("recipe", "recipe"),
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


def draw_sensitivity(found: Sensitivity, path: Path) -> None:
    """Write a PNG: dB lost and milliseconds won by block, and the error by darkness."""
    from matplotlib.figure import Figure

    rows = found.worst_first()[::-1]  # the first bar is the lowest
    names = [f"{one.block} (stays float)" if one.decides_frame else one.block for one in rows]
    figure = Figure(figsize=(12, 1.5 + 0.36 * len(rows)), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    left.barh(names, [one.drop_db for one in rows], color="tab:red")
    left.set_xlabel("dB lost (log above 0.01)")
    left.set_xscale("symlog", linthresh=0.01)
    middle.barh(names, [one.saved_ms or 0.0 for one in rows], color="tab:green")
    middle.set_xlabel("ms won")
    for bin_name, color in zip(DARKNESS, ("black", "tab:gray", "goldenrod"), strict=True):
        values = [one.darkness_db.get(bin_name) for one in rows]
        right.plot(
            [float("nan") if value is None else value for value in values], names,
            marker="o", linestyle="", color=color, label=f"{bin_name} pixels",
        )  # fmt: skip
    right.set_xlabel("PSNR to fp32, dB")
    right.legend(fontsize="small")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(f"One block in INT8 at a time, dearest first ({found.recipe})", fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(path, stream.getvalue())


_WHOLE_LADDER = 12
"""Rungs that are measured at most; a network of more blocks gets them evenly."""


@dataclass(frozen=True)
class MixedPrecisionChoice:
    """One graph that was measured."""

    blocks: tuple[str, ...]
    """In INT8; none for the network in its base precision."""
    engine: Engine | None
    precision: Precision
    drop_db: float
    ms: float | None
    """Median for one frame; None where the backend is not here."""
    ratio: float | None
    """To the time of fp32."""


def search_graph(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    judge: GraphEvaluator,
    *,
    max_drop_db: float,
    target_fps: float | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> QuantizationFacts:
    """Write the graph of the best point and return how it was quantized.

    Both quantizers are tried at that point, through the legalizer where it is for TensorRT; the
    one that loses less is kept.

    Raises:
        OptionError: No graph is as fast as was asked for; names the fastest.
    """
    graphs = {
        engine: quantize_all_blocks(fp32, samples, judge.backend, QuantizationScheme(engine=engine))
        for engine in ENGINES
    }
    usual: Engine = "onnxruntime" if judge.backend == "tensorrt" else "nncf"
    on_stage("search: one block at a time")
    costs = measure_sensitivity(graphs[usual], judge, new_analysis("", "", ""), on_stage=on_stage)
    points = measure_ladder(graphs[usual], usual, costs, judge, on_stage)
    chosen = choose_fastest_accepted(points, max_drop_db, target_fps)
    other: Engine = next(engine for engine in ENGINES if engine != usual)
    on_stage(f"the same blocks by {other}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        competitor = _measure_choice(
            graphs[other], other, chosen.blocks, chosen.precision, judge, path
        )
        if chosen.ms is not None and chosen.ratio and competitor.ratio:  # times of one moment
            competitor = replace(competitor, ms=chosen.ms / chosen.ratio * competitor.ratio)
        best = better_choice(chosen, competitor, max_drop_db, target_fps)
        engine = best.engine or usual
        write_atomically(target, graphs[engine].write(best.blocks, path).read_bytes())
    return _describe_choice(best, engine, graphs[engine], competitor if best is chosen else chosen)


def measure_ladder(
    graphs: QuantizedGraph,
    engine: Engine,
    costs: Sensitivity,
    judge: GraphEvaluator,
    on_stage: Callable[[str], None] = lambda what: None,
) -> list[MixedPrecisionChoice]:
    """Return the points of the ladder: fp32 (and bf16) first, then one block more at a time."""
    order = order_by_sensitivity(costs)
    counts = sorted({round(share * len(order) / _WHOLE_LADDER) for share in range(1, 13)} - {0})
    if len(order) <= _WHOLE_LADDER:
        counts = list(range(1, len(order) + 1))
    points = [MixedPrecisionChoice((), None, "fp32", 0.0, None, 1.0)]
    halves = judge.backend == "openvino" and openvino_runner.supports("bf16")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        if halves:
            points.append(_measure_choice(graphs, None, (), "bf16", judge, path))
        for count in counts:
            on_stage(f"search: {count} of {len(order)} blocks in INT8")
            blocks = tuple(order[:count])
            for precision in ("int8", *(("int8+bf16",) if halves else ())):
                points.append(_measure_choice(graphs, engine, blocks, precision, judge, path))
    return _with_times(points)


def order_by_sensitivity(costs: Sensitivity) -> list[str]:
    """Return the blocks that may be quantized, in the order in which they should be."""
    return [one.block for one in reversed(costs.worst_first()) if not one.decides_frame]


def _measure_choice(
    graphs: QuantizedGraph,
    engine: Engine | None,
    blocks: tuple[str, ...],
    precision: Precision,
    judge: GraphEvaluator,
    path: Path,
) -> MixedPrecisionChoice:
    trial = judge.tried(graphs.write(blocks, path), precision)
    ms = None if trial.fp32_ms is None or trial.ratio is None else trial.fp32_ms * trial.ratio
    return MixedPrecisionChoice(blocks, engine, precision, trial.drop_db, ms, trial.ratio)


def _with_times(points: list[MixedPrecisionChoice]) -> list[MixedPrecisionChoice]:
    """Give fp32 its time, and all points times of one moment: ratios times one fp32."""
    fp32 = [one.ms / one.ratio for one in points if one.ms is not None and one.ratio]
    if not fp32:
        return [replace(one, ratio=None) for one in points]
    usual = sorted(fp32)[len(fp32) // 2]
    return [replace(one, ms=usual * one.ratio) for one in points if one.ratio is not None]


def pareto_front(points: Sequence[MixedPrecisionChoice]) -> list[MixedPrecisionChoice]:
    """Return the points that no other beats in both loss and time, least lossy first.

    Where time was not measured, quantizing more blocks counts as faster.
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
    """Return the fastest point that loses no more, or the least lossy that is fast enough.

    Where that would be a network without INT8, the least lossy one with it: the gate then says in
    numbers why it is not accepted.

    Raises:
        OptionError: No point is as fast as was asked for.
    """
    front = pareto_front(points)
    if target_fps is not None:
        fast = [one for one in front if one.ms is not None and one.ms <= 1e3 / target_fps]
        if front[-1].ms is not None and not fast:
            raise OptionError(
                f"no choice of blocks reaches {target_fps:g} frames per second here; the fastest "
                f"has {1e3 / front[-1].ms:.1f} at {front[-1].drop_db:.3f} dB lost. Ask "
                "for less, or for a smaller --size"
            )
        if fast and fast[0].blocks:
            return fast[0]
    passing = [one for one in front if one.drop_db <= max_drop_db]
    if passing and passing[-1].blocks:
        return passing[-1]
    return min((one for one in points if one.blocks), key=lambda one: one.drop_db)


def better_choice(
    one: MixedPrecisionChoice,
    two: MixedPrecisionChoice,
    max_drop_db: float,
    target_fps: float | None,
) -> MixedPrecisionChoice:
    """Return the better of two graphs of the same blocks: what passes, then what loses less."""
    limit = math.inf if target_fps is None else 1e3 / target_fps

    def order(point: MixedPrecisionChoice) -> tuple[bool, bool, float]:
        slow = point.ms is not None and point.ms > limit
        return slow, not point.drop_db <= max_drop_db, point.drop_db

    return min((one, two), key=order)


def _describe_choice(
    best: MixedPrecisionChoice,
    engine: Engine,
    graphs: QuantizedGraph,
    competitor: MixedPrecisionChoice,
) -> QuantizationFacts:
    left = [block for block in graphs.blocks if block.name not in best.blocks]
    time = "" if best.ratio is None else f", {best.ratio:.2f}x the time of fp32"
    names = ", ".join(block.name for block in left) or "none"
    return QuantizationFacts(
        engine=engine,
        float_blocks=[block.name for block in left],
        float_nodes=[node for block in left for node in block.convolutions],
        reason=f"{len(best.blocks)} blocks in INT8 by {engine} ({best.drop_db:.3f} dB lost{time}; "
        f"{competitor.engine}: {competitor.drop_db:.3f} dB); left in float: {names}",
    )
