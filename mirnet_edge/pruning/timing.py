"""The latency table: measured speedup of each narrower width on this machine.

Each row is a graph as deployed: exported, timed interleaved with the others and with the unpruned
network, and recorded as a fraction of the latter's latency. Widths inside blocks are timed on the
block alone, times how often it runs, because the difference of two whole networks would be lost in
noise. Blocks save more alone than inside a network, so the network with the narrowest blocks is
timed too, and the savings are scaled to add up to its own.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, ValidationError

from mirnet_edge.checkpoints.families import family_of, plain_config
from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import ImageContract, MachineFacts, StrictDocument
from mirnet_edge.memory import available_memory
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.keras_mirnet import (
    KerasDualAttention,
    MaxPoolDownsampling,
    NearestUpsampling,
)
from mirnet_edge.models.mirnet import DualAttentionUnit, ResidualDownsampling, ResidualUpsampling
from mirnet_edge.models.mirnet_v2 import ResidualContextualBlock
from mirnet_edge.pruning.widths import (
    BaseTiming,
    FreeWidth,
    list_base_configs,
    list_free_widths,
    replace_widths,
)
from mirnet_edge.runtime.backends import all_backends, find_backend
from mirnet_edge.runtime.machine import describe
from mirnet_edge.runtime.measure import measure_interleaved, p50
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from mirnet_edge.runtime.runner import Runner

_GIB = 2.0**30
# Peak memory of a training step over the size of all module outputs; intermediate sums and products
# are kept for the gradients too. Measured on a MIRNet of 16 channels: 1.45 (4 crops of 96), 1.42
# (192).
_TRAINING_FACTOR = 1.5
# Memory of a runtime for a whole network over the largest module output; ONNX Runtime's arena grows
# in powers of two. Measured on a MIRNet of 16 channels: 5.0 in OpenVINO (640x480 and 256x192), 30
# in ONNX Runtime (256x192).
_RUNTIME_FACTORS = {"openvino": 6.0, "onnxruntime": 32.0}
_UNKNOWN_RUNTIME_FACTOR = 32.0
_BLOCK_FACTOR = 8.0  # the same for a block alone; not measured
_GRAPH_BYTES = 90 * 2.0**20  # of each open graph, for any frame; measured 81 MiB


def require_memory(
    network: nn.Module, *, backend: str, size: tuple[int, int], batch: int, crop: int
) -> None:
    """Refuse frames and crops that do not fit into memory, where the system reports its size.

    Nothing is computed: a copy of the network runs on the meta device.

    Args:
        network: The network to time and train.
        backend: The backend that times it.
        size: (height, width) of the timed frame.
        batch: Crops in a training step.
        crop: Their side.

    Raises:
        OptionError: It would not fit.
    """
    free = available_memory()
    if free is None:
        return
    step = batch * _TRAINING_FACTOR * sum(_outputs(network, (crop, crop)))
    if step > free:
        raise OptionError(
            f"a step on {batch} crops of {crop} takes about {step / _GIB:.1f} GiB, "
            f"{free / _GIB:.1f} GiB are free; choose a smaller --crop or --batch"
        )
    # whole networks of one trunk are the first two rows; of MIRNetEdge, all rows are
    config: Any = network.config
    whole = OPEN_GRAPHS if isinstance(config.channels, tuple) else 2
    times = (
        whole * _RUNTIME_FACTORS.get(backend, _UNKNOWN_RUNTIME_FACTOR)
        + (OPEN_GRAPHS - whole) * _BLOCK_FACTOR
    )
    table = times * max(_outputs(network, size)) + OPEN_GRAPHS * _GRAPH_BYTES
    if table > free:
        raise OptionError(
            f"timing frames of {size_text(*size)} takes about {table / _GIB:.1f} GiB, "
            f"{free / _GIB:.1f} GiB are free; choose a smaller --size: the speedup is about "
            "the same"
        )


def _outputs(network: nn.Module, size: tuple[int, int]) -> list[int]:
    """Return the bytes of each module's output for one frame, every time it runs."""
    found: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401  # as modules have it
        del module, inputs
        if isinstance(output, torch.Tensor):
            found.append(output.numel() * output.element_size())

    blank = copy.deepcopy(network).to("meta")
    for module in blank.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    channels = getattr(network.config, "in_channels", 3)
    with torch.no_grad():
        blank(torch.empty(1, channels, *size, device="meta"))
    return found


class TimingConditions(StrictDocument):
    """The conditions under which a latency table is valid."""

    machine: MachineFacts
    backend: str
    backend_version: str
    size: tuple[int, int]
    """(height, width) of the frame."""
    round_to: int
    architecture: str
    config: dict[str, Any]


class LatencyTable(StrictDocument):
    """The latency of each row, relative to the unpruned network.

    Tables are measured minutes apart, and a machine's load changes in between: fractions of a
    network that was interleaved with every row are comparable, milliseconds are not.

    Schema history: 1 (2026-11) rows in milliseconds; 2 (2026-11) rows as fractions.
    """

    schema_version: Literal[2] = 2
    conditions: TimingConditions
    rounds: int = Field(ge=1)
    unpruned_ms: PositiveFloat
    """Median latency of the unpruned network."""
    rows: dict[str, PositiveFloat]
    """Median latency over that of the unpruned network in the same round."""


def timing_conditions(
    network: nn.Module, backend: str, size: tuple[int, int], round_to: int
) -> TimingConditions:
    """Return the conditions of a latency table of this network on this machine.

    Raises:
        OptionError: There is no such backend, the network does not take that size, or `round_to`
            is below 1.
        MissingDependencyError: The backend is not installed.
    """
    known = [
        one.name
        for one in all_backends()
        if one.target == "cpu" and not one.runs_weights and one.added_here == "never"
    ]
    if backend not in known:
        raise OptionError(f"--backend must be {' or '.join(known)}, found {backend!r}")
    if round_to < 1:
        raise OptionError(f"--round-to must be at least 1, found {round_to}")
    multiple: int = network.multiple  # type: ignore[assignment]
    if min(size) < 1 or any(side % multiple for side in size):
        raise OptionError(
            f"--size must be multiples of {multiple} for this network, found {size[1]}x{size[0]}"
        )
    return TimingConditions(
        machine=describe(),
        backend=backend,
        backend_version=str(require(backend, f"the backend {backend}").__version__),
        size=size,
        round_to=round_to,
        architecture=family_of(network).name,
        config=plain_config(network.config),
    )


def read_table(path: Path, expected: TimingConditions) -> LatencyTable:
    """Return the latency table in a file.

    Raises:
        OptionError: It is no table, or was measured under other conditions.
    """
    try:
        table = LatencyTable.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise OptionError(
            f"{path} is not a latency table; expected one that mirnet-prune wrote. Remove it to "
            "measure again"
        ) from error
    found, wanted = (one.model_dump(mode="json") for one in (table.conditions, expected))
    stale = [name for name in wanted if found[name] != wanted[name]]
    if stale:
        raise OptionError(
            f"{path} was measured with another {', '.join(stale)}; remove it to measure again, or "
            "give another --out"
        )
    return table


OPEN_GRAPHS = 16
"""Graphs that are timed interleaved, beside the unpruned network."""
_WHOLE, _NARROWEST = "whole", "narrowest"
_UNPRUNED = "unpruned"

Graph = tuple["nn.Module", tuple[int, int, int]]
"""A module to time, and (channels, height, width) of its input."""


def measure_table(
    network: nn.Module,
    unpruned: nn.Module,
    conditions: TimingConditions,
    path: Path,
    *,
    rounds: int = 15,
    on_stage: Callable[[str], None] = lambda what: None,
) -> LatencyTable:
    """Measure every row and write the latency table, atomically.

    Args:
        network: The network to prune.
        unpruned: The baseline of speedups; interleaved with every row.
        conditions: Of the network to prune.
        path: The file to write.
        rounds: Timed runs of every row.
        on_stage: Called with each stage, as text.

    Raises:
        MirnetEdgeError: A graph cannot be exported, run or written.
    """
    graphs: dict[str, Graph] = {}
    for base in list_base_configs(network.config, conditions.round_to):
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
        rows |= {name: _median_ratio(samples[name], samples[_UNPRUNED]) for name in chosen}
    table = LatencyTable(
        conditions=conditions, rounds=rounds, unpruned_ms=p50(unpruned_ms), rows=rows
    )
    write_atomically(path, json.dumps(table.model_dump(mode="json"), indent=1).encode())
    return table


def bases_from_table(
    table: LatencyTable, network: nn.Module, unpruned_ms: float
) -> list[BaseTiming]:
    """Return the latencies for `widths.choose_widths`, one entry per trunk width.

    Args:
        table: Of this network.
        network: The network to prune.
        unpruned_ms: Latency of the unpruned network, the same for all tables to compare.

    Raises:
        KeyError: The table is of another network.
    """
    conditions = table.conditions
    rows = {name: fraction * unpruned_ms for name, fraction in table.rows.items()}
    found = []
    for config in list_base_configs(network.config, conditions.round_to):
        whole = rows[_row(config, _WHOLE, 0)]
        saved: dict[tuple[FreeWidth, int], float] = {}
        free = [
            width for width in list_free_widths(config, conditions.round_to) if width.values[1:]
        ]
        for width in free:
            if width.field == "channels":
                calls, full = 1, whole
            else:
                calls = _part(network, config, width, conditions.size)[2]
                full = rows[_row(config, width.name, width.values[0])]
            for value in width.values[1:]:
                saved[width, value] = calls * (full - rows[_row(config, width.name, value)])
        alone = sum(saved.get((width, width.values[-1]), 0.0) for width in free)
        together = max(0.0, whole - rows[_row(config, _NARROWEST, 0)]) if free else 0.0
        scale = together / alone if alone > 0.0 else 1.0
        found.append(BaseTiming(config, whole, {key: scale * ms for key, ms in saved.items()}))
    return found


def time_networks(
    networks: Mapping[str, nn.Module], conditions: TimingConditions, *, rounds: int = 15
) -> dict[str, list[float]]:
    """Return milliseconds per run of whole networks as deployed, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, Runner] = {}
        for number, (name, network) in enumerate(networks.items()):
            file = Path(folder) / f"{number}.onnx"
            image = _export(network, file, conditions.size, "uint8", 3)
            runners[name] = find_backend(conditions.backend).runner(
                file, image, name=name, precision="fp32"
            )
        frame = np.random.default_rng(0).integers(0, 60, (1, *conditions.size, 3), dtype=np.uint8)
        return measure_interleaved(runners, frame, rounds=rounds)


def _median_ratio(row: list[float], unpruned: list[float]) -> float:
    return p50([ms / whole for ms, whole in zip(row, unpruned, strict=True)])


def _row(config: Any, name: str, value: int) -> str:  # noqa: ANN401  # the families' configs have no type in common
    """Return the name of a row: the trunk, and the free width with its value, if any."""
    widths = config.channels if isinstance(config.channels, tuple) else (config.channels,)
    trunk = ",".join(map(str, widths))
    return f"{trunk} {name}" if name in (_WHOLE, _NARROWEST) else f"{trunk} {name}={value}"


def _rows(
    network: nn.Module,
    base: Any,  # noqa: ANN401  # as above
    conditions: TimingConditions,
) -> dict[str, Graph]:
    """Return the graphs of one trunk."""
    build = family_of(network).network
    shape = (getattr(base, "in_channels", 3), *conditions.size)
    found = {_row(base, _WHOLE, 0): (build(base).eval(), shape)}
    free = list_free_widths(base, conditions.round_to)
    narrowest = {width: width.values[-1] for width in free if width.values[1:]}
    if narrowest:
        found[_row(base, _NARROWEST, 0)] = (build(replace_widths(base, narrowest)).eval(), shape)
    for width in free:
        for value in width.values:
            config = replace_widths(base, {width: value})
            name = _row(base, width.name, value)
            if width.field != "channels":
                found[name] = _part(network, config, width, conditions.size)[:2]
            elif value != width.values[0]:
                found[name] = (build(config).eval(), shape)
    return found


def _part(
    network: nn.Module,
    config: Any,  # noqa: ANN401  # as above
    width: FreeWidth,
    size: tuple[int, int],
) -> tuple[nn.Module, tuple[int, int, int], int]:
    """Return a block with this width inside, its input shape, and how often such blocks run."""
    narrow = family_of(network).network(config).eval()
    path = next(path for path, module in narrow.named_modules() if _has(module, width, config))
    seen: list[tuple[int, int, int]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        del module, output
        seen.append(tuple(inputs[0].shape[1:]))

    blank = copy.deepcopy(narrow).to("meta")
    for module in blank.modules():
        if _has(module, width, config):
            module.register_forward_hook(note)
    with torch.no_grad():
        blank(torch.empty(1, config.in_channels, *size, device="meta"))
    return narrow.get_submodule(path), seen[0], len(seen)


def _has(module: nn.Module, width: FreeWidth, config: Any) -> bool:  # noqa: ANN401  # as above
    """Return whether this is a block with that free width inside."""
    widths: tuple[int, ...] = config.widths
    if width.field == "unit_widths":
        if isinstance(module, DualAttentionUnit | KerasDualAttention):
            return bool(module.conv1x1.out_channels == widths[width.index])
        if isinstance(module, ResidualContextualBlock):
            return bool(module.body[2].out_channels == widths[width.index])
        return False
    if width.field == "down_widths":
        is_resizer = isinstance(module, ResidualDownsampling | MaxPoolDownsampling)
        stream = width.index
    else:
        is_resizer = isinstance(module, ResidualUpsampling | NearestUpsampling)
        stream = width.index + 1
    return is_resizer and bool(module.top[0].in_channels == widths[stream])  # type: ignore[index, union-attr]


def _timed(
    graphs: Mapping[str, Graph], conditions: TimingConditions, rounds: int
) -> dict[str, list[float]]:
    """Return milliseconds per run of each graph, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, Runner] = {}
        for number, (name, (module, shape)) in enumerate(graphs.items()):
            file = Path(folder) / f"{number}.onnx"
            image = _export(module, file, shape[1:], "float", shape[0])
            runner = find_backend(conditions.backend).runner(
                file, image, name=name, precision="fp32"
            )
            if not isinstance(runner, GraphRunner):
                raise OptionError(
                    f"--backend {conditions.backend} cannot time a part of a network, only whole "
                    "frames; choose another"
                )
            runners[name] = _NoiseFedRunner(runner, shape)
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


class _NoiseFedRunner:
    """Runs a part of a network on noise of its input shape, whatever frames it gets."""

    multiple = scale = 1

    def __init__(self, runner: GraphRunner, shape: tuple[int, int, int]) -> None:
        self.name = runner.name
        self._runner = runner
        self._noise = np.random.default_rng(0).random((1, *shape), dtype=np.float32)

    def __enter__(self) -> _NoiseFedRunner:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401  # as in every context manager
        self._runner.__exit__(*error)

    def run(self, frames: np.ndarray) -> np.ndarray:
        self._runner.infer(self._noise)
        return frames
