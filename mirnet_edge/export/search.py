"""Mixed precision by measurement: which blocks to quantize, from what each costs and wins.

Blocks are put in the order of their price, dB per millisecond, cheapest first; the graphs with
the first one, two, three ... of them in INT8 are measured as wholes. What no other graph beats in
both loss and time is the Pareto front, and a point of it is chosen.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.compression.quantize import ENGINES, Engine, Quantizing
from mirnet_edge.errors import OptionError
from mirnet_edge.export.sensitivity import (
    Quantized,
    Sensitivity,
    measure_sensitivity,
    quantized_whole,
    started,
)
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import Precision, Quantization
from mirnet_edge.runtime import openvino_runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from mirnet_edge.export.trial import Judge

_WHOLE_LADDER = 12
"""Rungs that are measured at most; a network of more blocks gets them evenly."""


@dataclass(frozen=True)
class Point:
    """One graph that was measured."""

    blocks: tuple[str, ...]
    """In INT8; none for the network in its base precision."""
    engine: Engine | None
    precision: Precision
    loss_db: float
    ms: float | None
    """Median for one frame; None where the backend is not here."""
    ratio: float | None
    """To the time of fp32."""


def search_graph(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    judge: Judge,
    *,
    max_drop_db: float,
    target_fps: float | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Quantization:
    """Write the graph of the best point and return how it was quantized.

    Both quantizers are tried at that point, through the legalizer where it is for TensorRT; the
    one that loses less is kept.

    Raises:
        OptionError: No graph is as fast as was asked for; names the fastest.
    """
    graphs = {
        engine: quantized_whole(fp32, samples, judge.backend, Quantizing(engine=engine))
        for engine in ENGINES
    }
    usual: Engine = "onnxruntime" if judge.backend == "tensorrt" else "nncf"
    on_stage("search: one block at a time")
    costs = measure_sensitivity(graphs[usual], judge, started("", "", ""), on_stage=on_stage)
    points = measure_ladder(graphs[usual], usual, costs, judge, on_stage)
    chosen = chosen_point(points, max_drop_db, target_fps)
    other: Engine = next(engine for engine in ENGINES if engine != usual)
    on_stage(f"the same blocks by {other}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        rival = _measured(graphs[other], other, chosen.blocks, chosen.precision, judge, path)
        if chosen.ms is not None and chosen.ratio and rival.ratio:  # times of one moment
            rival = replace(rival, ms=chosen.ms / chosen.ratio * rival.ratio)
        best = better(chosen, rival, max_drop_db, target_fps)
        engine = best.engine or usual
        write_atomically(target, graphs[engine].write(best.blocks, path).read_bytes())
    return _described(best, engine, graphs[engine], rival if best is chosen else chosen)


def measure_ladder(
    graphs: Quantized,
    engine: Engine,
    costs: Sensitivity,
    judge: Judge,
    on_stage: Callable[[str], None] = lambda what: None,
) -> list[Point]:
    """Return the points of the ladder: fp32 (and bf16) first, then one block more at a time."""
    order = cheapest_first(costs)
    counts = sorted({round(share * len(order) / _WHOLE_LADDER) for share in range(1, 13)} - {0})
    if len(order) <= _WHOLE_LADDER:
        counts = list(range(1, len(order) + 1))
    points = [Point((), None, "fp32", 0.0, None, 1.0)]
    halves = judge.backend == "openvino" and openvino_runner.supports("bf16")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        if halves:
            points.append(_measured(graphs, None, (), "bf16", judge, path))
        for count in counts:
            on_stage(f"search: {count} of {len(order)} blocks in INT8")
            blocks = tuple(order[:count])
            for precision in ("int8", *(("int8+bf16",) if halves else ())):
                points.append(_measured(graphs, engine, blocks, precision, judge, path))
    return _with_times(points)


def cheapest_first(costs: Sensitivity) -> list[str]:
    """Return the blocks that may be quantized, in the order in which they should be."""
    return [one.block for one in reversed(costs.worst_first()) if not one.decides_frame]


def _measured(
    graphs: Quantized,
    engine: Engine | None,
    blocks: tuple[str, ...],
    precision: Precision,
    judge: Judge,
    path: Path,
) -> Point:
    trial = judge.tried(graphs.write(blocks, path), precision)
    ms = None if trial.fp32_ms is None or trial.ratio is None else trial.fp32_ms * trial.ratio
    return Point(blocks, engine, precision, trial.loss_db, ms, trial.ratio)


def _with_times(points: list[Point]) -> list[Point]:
    """Give fp32 its time, and all points times of one moment: ratios times one fp32."""
    fp32 = [one.ms / one.ratio for one in points if one.ms is not None and one.ratio]
    if not fp32:
        return [replace(one, ratio=None) for one in points]
    usual = sorted(fp32)[len(fp32) // 2]
    return [replace(one, ms=usual * one.ratio) for one in points if one.ratio is not None]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both loss and time, least lossy first.

    Where time was not measured, quantizing more blocks counts as faster.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (one.loss_db, _time(one))):
        if not front or _time(point) < _time(front[-1]):
            front.append(point)
    return front


def _time(point: Point) -> float:
    return -float(len(point.blocks)) if point.ms is None else point.ms


def chosen_point(
    points: Sequence[Point], max_drop_db: float, target_fps: float | None = None
) -> Point:
    """Return the fastest point that loses no more, or the least lossy that is fast enough.

    Where that would be a network without INT8, the least lossy one with it: the gate then says in
    numbers why it is not adopted.

    Raises:
        OptionError: No point is as fast as was asked for.
    """
    front = pareto_front(points)
    if target_fps is not None:
        fast = [one for one in front if one.ms is not None and one.ms <= 1e3 / target_fps]
        if front[-1].ms is not None and not fast:
            raise OptionError(
                f"no choice of blocks reaches {target_fps:g} frames per second here; the fastest "
                f"has {1e3 / front[-1].ms:.1f} at {front[-1].loss_db:.3f} dB lost. Ask "
                "for less, or for a smaller --size"
            )
        if fast and fast[0].blocks:
            return fast[0]
    passing = [one for one in front if one.loss_db <= max_drop_db]
    if passing and passing[-1].blocks:
        return passing[-1]
    return min((one for one in points if one.blocks), key=lambda one: one.loss_db)


def better(one: Point, two: Point, max_drop_db: float, target_fps: float | None) -> Point:
    """Return the better of two graphs of the same blocks: what passes, then what loses less."""
    limit = math.inf if target_fps is None else 1e3 / target_fps

    def order(point: Point) -> tuple[bool, bool, float]:
        slow = point.ms is not None and point.ms > limit
        return slow, not point.loss_db <= max_drop_db, point.loss_db

    return min((one, two), key=order)


def _described(best: Point, engine: Engine, graphs: Quantized, rival: Point) -> Quantization:
    left = [block for block in graphs.blocks if block.name not in best.blocks]
    time = "" if best.ratio is None else f", {best.ratio:.2f}x the time of fp32"
    names = ", ".join(block.name for block in left) or "none"
    return Quantization(
        engine=engine,
        float_blocks=[block.name for block in left],
        float_nodes=[node for block in left for node in block.convolutions],
        reason=f"{len(best.blocks)} blocks in INT8 by {engine} ({best.loss_db:.3f} dB lost{time}; "
        f"{rival.engine}: {rival.loss_db:.3f} dB); left in float: {names}",
    )
