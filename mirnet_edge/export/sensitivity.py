"""What each block costs in INT8: one at a time, in dB lost per millisecond won."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from mirnet_edge.compression.blocks import Block, blocks_of
from mirnet_edge.compression.partial import partly_quantized, quantized_convolutions
from mirnet_edge.compression.quantize import Quantizing, quantize_for_cpu, quantize_for_tensorrt
from mirnet_edge.errors import OptionError
from mirnet_edge.export.trial import DARKNESS, Judge, TrialBackend
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import Document, MachineFacts
from mirnet_edge.onnx_files import write_model
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import onnx

    from mirnet_edge.export.trial import Trial

FILE_NAME, PICTURE_NAME = "sensitivity.json", "sensitivity.png"
# Less than this share of fp32's time is within the noise of two runs of one graph: what a block
# wins counts as at least so much, or a block that wins nothing would cost infinitely much.
NOISE = 0.01


class BlockCost(Document):
    """One block in INT8, the others in float."""

    block: str
    decides_frame: bool
    """True: bundles keep it in float, whatever stands here."""
    loss_db: float
    against_fp32_db: float
    darkness_db: dict[str, float | None]
    won_ms: float | None
    """None for a backend that is not here."""
    db_per_ms: float
    """`loss_db` over what is won; over 1 ms where time was not measured."""


class Sensitivity(Document):
    """What was measured of a network, and on what.

    Schema history: 1 (2026-11) the first.
    """

    schema_version: Literal[1] = 1
    weights_sha256: str
    calibration_sha256: str
    recipe: str
    """Backend, quantizer, frame: what else the figures depend on."""
    machine: MachineFacts
    blocks: list[BlockCost] = Field(default_factory=list)
    """Those that are done, in the order of the graph."""
    complete: bool = False
    """Whether these are all there are."""

    def worst_first(self) -> list[BlockCost]:
        """Return the blocks by what a millisecond costs in dB, dearest first."""
        return sorted(self.blocks, key=lambda one: one.db_per_ms, reverse=True)


@dataclass(frozen=True)
class Quantized:
    """A graph in float and with all its convolutions in INT8."""

    fp32: onnx.ModelProto
    int8: onnx.ModelProto

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks that are quantized in `int8`."""
        quantized = set(quantized_convolutions(self.int8))
        return tuple(one for one in blocks_of(self.fp32) if quantized.issuperset(one.convolutions))

    def write(self, names: Sequence[str], path: Path) -> Path:
        """Write the graph in which the blocks of these names are in INT8, and return its path."""
        chosen = [one for one in self.blocks if one.name in names]
        nodes = frozenset(node for one in chosen for node in one.convolutions)
        write_model(partly_quantized(self.int8, self.fp32, nodes), path)
        return path


def quantized_whole(
    fp32: Path, samples: Sequence[np.ndarray], backend: TrialBackend, how: Quantizing
) -> Quantized:
    """Return a graph with all that the backend's recipe can quantize in INT8."""
    import onnx

    quantize = quantize_for_tensorrt if backend == "tensorrt" else quantize_for_cpu
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize(fp32, target, samples, how)
        return Quantized(onnx.load(fp32), onnx.load(target))


def measure_sensitivity(
    graphs: Quantized,
    judge: Judge,
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


def _cost(block: Block, trial: Trial) -> BlockCost:
    won = trial.won_ms
    counted = 1.0
    if won is not None and trial.fp32_ms is not None:
        counted = max(won, NOISE * trial.fp32_ms)
    return BlockCost(
        block=block.name,
        decides_frame=block.decides_frame,
        loss_db=trial.loss_db,
        against_fp32_db=trial.against_fp32_db,
        darkness_db=trial.darkness_db,
        won_ms=won,
        db_per_ms=trial.loss_db / counted,
    )


def started(weights_sha256: str, calibration_sha256: str, recipe: str) -> Sensitivity:
    """Return a measurement of nothing yet, bound to what it will be of."""
    return Sensitivity(
        weights_sha256=weights_sha256,
        calibration_sha256=calibration_sha256,
        recipe=recipe,
        machine=machine.describe(),
    )


def resumed(file: Path, fresh: Sensitivity) -> Sensitivity:
    """Return what an earlier run left in FILE, or FRESH where there is none.

    Raises:
        OptionError: The file is damaged, or of other weights, pictures, recipe or machine.
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
        ("calibration pictures", "calibration_sha256"),
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


def draw(found: Sensitivity, path: Path) -> None:
    """Write a PNG: dB lost and milliseconds won by block, and the error by darkness."""
    from matplotlib.figure import Figure

    rows = found.worst_first()[::-1]  # the first bar is the lowest
    names = [f"{one.block} (stays float)" if one.decides_frame else one.block for one in rows]
    figure = Figure(figsize=(12, 1.5 + 0.36 * len(rows)), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    left.barh(names, [one.loss_db for one in rows], color="tab:red")
    left.set_xlabel("dB lost (log above 0.01)")
    left.set_xscale("symlog", linthresh=0.01)
    middle.barh(names, [one.won_ms or 0.0 for one in rows], color="tab:green")
    middle.set_xlabel("ms won")
    for bin_name, colour in zip(DARKNESS, ("black", "tab:gray", "goldenrod"), strict=True):
        values = [one.darkness_db.get(bin_name) for one in rows]
        right.plot(
            [float("nan") if value is None else value for value in values], names,
            marker="o", linestyle="", color=colour, label=f"{bin_name} pixels",
        )  # fmt: skip
    right.set_xlabel("PSNR to fp32, dB")
    right.legend(fontsize="small")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(f"One block in INT8 at a time, dearest first ({found.recipe})", fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(path, stream.getvalue())
