"""The latency table: what each narrower width saves on this machine, in one backend.

Each row is a graph as it is deployed, exported and timed in turn with the others and with the
unpruned network, whose share it is written as. What lies inside
the blocks is timed as the block alone, times how often it runs: a difference of two whole networks
would drown in noise. Alone, blocks save more than inside a network, so the network with all of them
at their narrowest is timed too, and what they save is scaled to add up to that.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.checkpoints.families import family_of
from mirnet_edge.compression.inference_form import to_inference_form
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import ImageContract
from mirnet_edge.models.mirnet import DualAttentionUnit
from mirnet_edge.models.mirnet_resizing import ResidualDownsampling, ResidualUpsampling
from mirnet_edge.models.mirnet_v2 import ResidualContextualBlock
from mirnet_edge.pruning.choice import Base
from mirnet_edge.pruning.table import LatencyTable
from mirnet_edge.pruning.widths import Knob, bases_of, knobs_of, with_widths
from mirnet_edge.runtime.measure import measure_interleaved, p50
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.openvino_runner import OpenVinoRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from mirnet_edge.pruning.table import Conditions
    from mirnet_edge.runtime.graph_runner import GraphRunner
    from mirnet_edge.runtime.runner import Runner

_RUNNERS: dict[str, type[OpenVinoRunner | OnnxRuntimeRunner]] = {
    "openvino": OpenVinoRunner,
    "onnxruntime": OnnxRuntimeRunner,
}
OPEN_GRAPHS = 16
"""How many are timed in turn, beside the unpruned network."""
_WHOLE, _NARROWEST = "whole", "narrowest"
_UNPRUNED = "unpruned"

Graph = tuple["nn.Module", tuple[int, int, int]]
"""What is timed, and (channels, height, width) of what it takes."""


def measure_table(
    network: nn.Module,
    unpruned: nn.Module,
    conditions: Conditions,
    path: Path,
    *,
    rounds: int = 15,
    on_stage: Callable[[str], None] = lambda what: None,
) -> LatencyTable:
    """Measure every row and write the table, whole or not at all.

    Args:
        network: What is to be cut.
        unpruned: What speed-ups are counted from; takes its turn with every row.
        conditions: Of the network that is to be cut.
        path: Where the table goes.
        rounds: Turns of every row.
        on_stage: Told how far it is.

    Raises:
        MirnetEdgeError: A graph cannot be exported, run or written.
    """
    graphs: dict[str, Graph] = {}
    for base in bases_of(network.config, conditions.round_to):
        for name, graph in _rows(network, base, conditions).items():
            graphs.setdefault(name, graph)
    reference: Graph = (unpruned, (getattr(unpruned.config, "in_channels", 3), *conditions.size))
    rows: dict[str, float] = {}
    unpruned_ms: list[float] = []
    names = list(graphs)
    for first in range(0, len(names), OPEN_GRAPHS):
        chosen = names[first : first + OPEN_GRAPHS]
        on_stage(f"time {first + len(chosen)} of {len(names)} graphs")
        turns = {_UNPRUNED: reference} | {name: graphs[name] for name in chosen}
        samples = _timed(turns, conditions, rounds)
        unpruned_ms += samples[_UNPRUNED]
        rows |= {name: _share(samples[name], samples[_UNPRUNED]) for name in chosen}
    table = LatencyTable(
        conditions=conditions, rounds=rounds, unpruned_ms=p50(unpruned_ms), rows=rows
    )
    write_atomically(path, json.dumps(table.model_dump(mode="json"), indent=1).encode())
    return table


def bases_from(table: LatencyTable, network: nn.Module, unpruned_ms: float) -> list[Base]:
    """Return what `choice.choose` takes.

    Args:
        table: Of this network.
        network: What is to be cut.
        unpruned_ms: What the unpruned network takes: the same for all tables that are compared.

    Raises:
        KeyError: The table is of another network.
    """
    conditions = table.conditions
    rows = {name: share * unpruned_ms for name, share in table.rows.items()}
    found = []
    for config in bases_of(network.config, conditions.round_to):
        whole = rows[_row(config, _WHOLE, 0)]
        saved: dict[tuple[Knob, int], float] = {}
        knobs = [knob for knob in knobs_of(config, conditions.round_to) if knob.values[1:]]
        for knob in knobs:
            if knob.field == "channels":
                calls, full = 1, whole
            else:
                calls = _part(network, config, knob, conditions.size)[2]
                full = rows[_row(config, knob.name, knob.values[0])]
            for value in knob.values[1:]:
                saved[knob, value] = calls * (full - rows[_row(config, knob.name, value)])
        alone = sum(saved.get((knob, knob.values[-1]), 0.0) for knob in knobs)
        together = max(0.0, whole - rows[_row(config, _NARROWEST, 0)]) if knobs else 0.0
        scale = together / alone if alone > 0.0 else 1.0
        found.append(Base(config, whole, {key: scale * ms for key, ms in saved.items()}))
    return found


def time_networks(
    networks: Mapping[str, nn.Module], conditions: Conditions, *, rounds: int = 15
) -> dict[str, list[float]]:
    """Return milliseconds per run of whole networks as they are deployed, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, Runner] = {}
        for number, (name, network) in enumerate(networks.items()):
            file = Path(folder) / f"{number}.onnx"
            image = _export(network, file, conditions.size, "uint8", 3)
            runners[name] = _RUNNERS[conditions.backend](file, image, name=name, precision="fp32")
        frame = np.random.default_rng(0).integers(0, 60, (1, *conditions.size, 3), dtype=np.uint8)
        return measure_interleaved(runners, frame, rounds=rounds)


def _share(row: list[float], unpruned: list[float]) -> float:
    return p50([ms / whole for ms, whole in zip(row, unpruned, strict=True)])


def _row(config: Any, knob: str, value: int) -> str:  # noqa: ANN401  # the families' configs have no type in common
    widths = config.channels if isinstance(config.channels, tuple) else (config.channels,)
    trunk = ",".join(map(str, widths))
    return f"{trunk} {knob}" if knob in (_WHOLE, _NARROWEST) else f"{trunk} {knob}={value}"


def _rows(
    network: nn.Module,
    base: Any,  # noqa: ANN401  # as above
    conditions: Conditions,
) -> dict[str, Graph]:
    """Return the graphs of one trunk."""
    build = family_of(network).network
    shape = (getattr(base, "in_channels", 3), *conditions.size)
    found = {_row(base, _WHOLE, 0): (build(base).eval(), shape)}
    knobs = knobs_of(base, conditions.round_to)
    narrowest = {knob: knob.values[-1] for knob in knobs if knob.values[1:]}
    if narrowest:
        found[_row(base, _NARROWEST, 0)] = (build(with_widths(base, narrowest)).eval(), shape)
    for knob in knobs:
        for value in knob.values:
            config = with_widths(base, {knob: value})
            name = _row(base, knob.name, value)
            if knob.field != "channels":
                found[name] = _part(network, config, knob, conditions.size)[:2]
            elif value != knob.values[0]:
                found[name] = (build(config).eval(), shape)
    return found


def _part(
    network: nn.Module,
    config: Any,  # noqa: ANN401  # as above
    knob: Knob,
    size: tuple[int, int],
) -> tuple[nn.Module, tuple[int, int, int], int]:
    """Return a block that has this width inside, what it takes, and how often such blocks run."""
    import torch

    narrow = family_of(network).network(config).eval()
    path = next(path for path, module in narrow.named_modules() if _has(module, knob, config))
    seen: list[tuple[int, int, int]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        del module, output
        seen.append(tuple(inputs[0].shape[1:]))

    blank = copy.deepcopy(narrow).to("meta")
    for module in blank.modules():
        if _has(module, knob, config):
            module.register_forward_hook(note)
    with torch.no_grad():
        blank(torch.empty(1, config.in_channels, *size, device="meta"))
    return narrow.get_submodule(path), seen[0], len(seen)


def _has(module: nn.Module, knob: Knob, config: Any) -> bool:  # noqa: ANN401  # as above
    """Say whether this is a block whose inner width the knob is."""
    widths: tuple[int, ...] = config.widths
    if knob.field == "unit_widths":
        if isinstance(module, DualAttentionUnit):
            return bool(module.conv1x1.out_channels == widths[knob.index])
        if isinstance(module, ResidualContextualBlock):
            return bool(module.body[2].out_channels == widths[knob.index])
        return False
    kind, stream = (
        (ResidualDownsampling, knob.index)
        if knob.field == "down_widths"
        else (ResidualUpsampling, knob.index + 1)
    )
    if not isinstance(module, kind):
        return False
    return bool(module.top[0].in_channels == widths[stream])


def _timed(
    graphs: Mapping[str, Graph], conditions: Conditions, rounds: int
) -> dict[str, list[float]]:
    """Return milliseconds per run of each graph, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, Runner] = {}
        for number, (name, (module, shape)) in enumerate(graphs.items()):
            file = Path(folder) / f"{number}.onnx"
            image = _export(module, file, shape[1:], "float", shape[0])
            runner = _RUNNERS[conditions.backend](file, image, name=name, precision="fp32")
            runners[name] = _Fed(runner, shape)
        nothing = np.zeros((1, 1, 1, 3), np.uint8)
        return measure_interleaved(runners, nothing, rounds=rounds)


def _export(
    network: nn.Module,
    file: Path,
    size: tuple[int, int],
    io: Literal["uint8", "float"],
    channels: int,
) -> ImageContract:
    export_onnx(to_inference_form(network), file, io=io, size=size, multiple=1, channels=channels)
    return ImageContract(io=io, multiple=1, size=size)


class _Fed:
    """Runs a part of a network on noise of its own shape, whatever frames it is given."""

    multiple = scale = 1

    def __init__(self, runner: GraphRunner, shape: tuple[int, int, int]) -> None:
        self.name = runner.name
        self._runner = runner
        self._noise = np.random.default_rng(0).random((1, *shape), dtype=np.float32)

    def __enter__(self) -> _Fed:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401  # as in every context manager
        self._runner.__exit__(*error)

    def run(self, frames: np.ndarray) -> np.ndarray:
        self._runner.infer(self._noise)
        return frames
