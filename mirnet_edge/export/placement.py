"""Refine what an INT8 graph quantizes by measured latency: Q/DQ placement by convolutions.

A quantized convolution costs a quantizer in front of it, and may keep its neighbors from being
fused; where it multiplies little it is slower in INT8. Each convolution is changed in turn, from
INT8 to float or back, and the graph is timed as it would be delivered, in rounds interleaved with
the best one so far. A change is kept where it is faster beyond the noise and within the tolerance;
at the end the best graph is timed beside the first, and given up where it is not faster.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.manifest import PlacementTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from mirnet_edge.export.sensitivity import GraphEvaluator, OpenTrial, QuantizedGraph
    from mirnet_edge.manifest import Precision

_ROUNDS, _LAST_ROUNDS = 9, 25
_LEAST_GAIN = 0.01
"""Of the time. Two runs of one graph differ by as much on a quiet machine."""
_SURE_SHARE = 0.75
"""Of the rounds in which a graph must be faster: on a busy machine half of them are, by chance."""
_MOST_UNITS = 48
"""A network of more convolutions is changed block by block."""


@dataclass(frozen=True)
class Placement:
    """The convolutions in INT8 that were found fastest, and all that was tried."""

    nodes: frozenset[str]
    drop_db: float
    ratio: float
    """Latency over that of the graph at the start; 1 where nothing faster was found."""
    trials: list[PlacementTrial]


def refine_placement(
    graphs: QuantizedGraph,
    nodes: frozenset[str],
    evaluator: GraphEvaluator,
    precision: Precision,
    *,
    max_drop_db: float,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Placement:
    """Search the convolutions to quantize by measured latency, from a choice of them.

    Args:
        graphs: The network in fp32 and INT8.
        nodes: The convolutions in INT8 at the start.
        evaluator: Measures the graphs.
        precision: That the graphs are run in: int8 or int8+bf16.
        max_drop_db: The largest accuracy drop of a change; a start that has more may keep its own.
        on_stage: Called with a few words as each trial begins.
    """
    with tempfile.TemporaryDirectory() as folder:
        search = _Search(graphs, evaluator, precision, Path(folder))
        return search.run(nodes, max_drop_db, on_stage)


@dataclass
class _Search:
    graphs: QuantizedGraph
    evaluator: GraphEvaluator
    precision: Precision
    folder: Path

    def run(
        self, first: frozenset[str], max_drop_db: float, on_stage: Callable[[str], None]
    ) -> Placement:
        units = self._list_units()
        best, trials = first, []
        with self._open(first, "first") as start:
            first_db = drop_db = start.measure_drop()
            allowed_db = max(max_drop_db, drop_db)
            for place, unit in enumerate(units):
                is_left = best.issuperset(unit)
                changed = best - set(unit) if is_left else best | set(unit)
                if not changed:  # then it would be fp32
                    continue
                name = unit[0] if len(unit) == 1 else f"{unit[0]} and {len(unit) - 1} more"
                way = "float" if is_left else "INT8"
                on_stage(f"placement: {name} in {way} ({place + 1} of {len(units)})")
                found_db, ratios = self._compare(changed, best, allowed_db)
                is_kept = bool(ratios) and is_faster(ratios)
                trials.append(
                    PlacementTrial(
                        nodes=list(unit), in_int8=not is_left, drop_db=found_db,
                        ratio=_median(ratios) if ratios else None, kept=is_kept,
                    )
                )  # fmt: skip
                if is_kept:
                    best, drop_db = changed, found_db
            if best == first:
                return Placement(first, first_db, 1.0, trials)
            on_stage("placement: the best beside the first")
            with self._open(best, "best") as last:
                ratios = last.measure_ratios(start, _LAST_ROUNDS)
        if not is_faster(ratios):
            return Placement(first, first_db, 1.0, trials)
        return Placement(best, drop_db, _median(ratios), trials)

    def _list_units(self) -> list[tuple[str, ...]]:
        """Return what is changed at once: each convolution, of many each block's."""
        blocks = list(self.graphs.units.values())
        if sum(map(len, blocks)) > _MOST_UNITS:
            return blocks
        return [(node,) for block in blocks for node in block]

    def _compare(
        self, changed: frozenset[str], best: frozenset[str], allowed_db: float
    ) -> tuple[float, list[float]]:
        """Return the accuracy drop of a change, and its latency ratios where that is allowed."""
        with self._open(changed, "changed") as one:
            drop_db = one.measure_drop()
            if not drop_db <= allowed_db:
                return drop_db, []
            with self._open(best, "former") as two:
                return drop_db, one.measure_ratios(two, _ROUNDS)

    def _open(self, nodes: frozenset[str], name: str) -> AbstractContextManager[OpenTrial]:
        path = self.graphs.write_nodes(nodes, self.folder / f"{name}.onnx")
        return self.evaluator.open(path, self.precision)


def is_faster(ratios: Sequence[float]) -> bool:
    """Return whether a graph is faster beyond the noise of its interleaved rounds.

    Args:
        ratios: Its latency over the other's, of each round.
    """
    faster = sum(ratio < 1.0 for ratio in ratios)
    return _median(ratios) <= 1.0 - _LEAST_GAIN and faster >= _SURE_SHARE * len(ratios)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
