"""The pruning record `OUT/prune.json`: options, chosen widths, measured latency and quality.

Written after every stage, so that an interrupted run resumes after the last finished one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, JsonValue, PositiveFloat, ValidationError

from mirnet_edge.errors import OptionError
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import StrictDocument
from mirnet_edge.pruning.timing import TimingConditions  # noqa: TC001  # pydantic reads the annotations

if TYPE_CHECKING:
    from pathlib import Path

RECORD_FILE, TABLE_FILE, WEIGHTS_FILE = "prune.json", "latency.json", "pruned.safetensors"
_TABLE_PREFIX = "latency"  # of the names of latency tables


class LatencyGoal(StrictDocument):
    """The latency to reach; one of the first two is given."""

    former_keys: ClassVar[dict[str, str]] = {"share": "fraction"}

    speedup: float | None = None
    latency_ms: float | None = None
    fraction: float = 1.0
    """Geometric fraction of the speedup: rounds before the last prune less."""

    def ms(self, unpruned_ms: float) -> float:
        """Return the target latency of a frame, given the unpruned network's."""
        if self.latency_ms is not None:
            end = self.latency_ms
        elif self.speedup is not None:
            end = unpruned_ms / self.speedup
        else:
            end = unpruned_ms
        return unpruned_ms * math.pow(end / unpruned_ms, self.fraction)

    def __str__(self) -> str:
        """Return it as text, for example "1.5x" or "8 ms"."""
        if self.latency_ms is not None:
            return f"{self.latency_ms:g} ms"
        return "as another run" if self.speedup is None else f"{self.speedup:g}x"


class PruningOptions(StrictDocument):
    """The options that determine the outcome; a run with other values does not resume."""

    weights_sha256: str
    data: str
    """Folder of the images; training refuses to resume with other images in it."""
    task: str
    speedup: float | None
    latency_ms: float | None
    like: dict[str, JsonValue] | None
    """The blocks (`kept`) and `config` of another run to prune to; None to choose them."""
    backend: str
    size: tuple[int, int]
    """(height, width) of the timed frame."""
    importance: str
    round_to: int
    blocks: bool
    rounds: int
    recipe: str
    training: dict[str, JsonValue]
    """Fields of the recipe that were overridden."""
    seed: int

    def goal(self, number: int) -> LatencyGoal:
        """Return the goal of a round, counted from 1."""
        return LatencyGoal(
            speedup=self.speedup, latency_ms=self.latency_ms, fraction=number / self.rounds
        )


class PruningQuality(StrictDocument):
    """Validation metrics, means over whole frames."""

    psnr_db: FiniteFloat
    psnr_gtmean_db: FiniteFloat
    ssim: FiniteFloat
    steps: int = Field(default=0, ge=0)
    """Training steps since pruning."""


class PruningAttempt(StrictDocument):
    """A config that was pruned to and timed; times are medians of one interleaved run."""

    config: dict[str, JsonValue]
    predicted_ms: PositiveFloat | None
    """Latency predicted by the table; None where the config was given."""
    unpruned_ms: PositiveFloat
    pruned_ms: PositiveFloat

    @property
    def speedup(self) -> float:
        """Return the measured speedup."""
        return self.unpruned_ms / self.pruned_ms


class PruningCandidate(StrictDocument):
    """A depth that was tried with --blocks."""

    kept: list[list[int]]
    """Which blocks of each recursive residual group stay."""
    loss: FiniteFloat
    """Of the network with these blocks, before its widths are pruned."""
    cut_loss: FiniteFloat | None
    """The same with widths pruned to the target; None where no widths reach it, or where `loss`
    is above the best already."""


class PruningRound(StrictDocument):
    """One pruning step and the distillation after it."""

    goal: LatencyGoal
    candidates: list[PruningCandidate]
    """Empty without --blocks."""
    kept: list[list[int]]
    attempts: list[PruningAttempt]
    best: int = Field(ge=0)
    """Index of the attempt that was kept."""
    table_unpruned_ms: PositiveFloat | None
    """Latency of the unpruned network in the latency table; None without a table."""
    reached: bool
    cut: PruningQuality
    """After pruning, before distillation."""
    distilled: PruningQuality | None = None
    """After distillation."""

    @property
    def chosen(self) -> PruningAttempt:
        """Return the attempt that was kept."""
        return self.attempts[self.best]


class NetworkSize(StrictDocument):
    """Multiplications and parameters of a network."""

    gmacs: float
    """For one frame of the timed size."""
    parameters: int


class PruneRecord(StrictDocument):
    """The whole record.

    Schema history: 1 (2026-11) the first; 2 (2026-11) `options` instead of `asked`, a goal's
    `fraction` instead of `share`. Version 1 is still read.
    """

    former_keys: ClassVar[dict[str, str]] = {"asked": "options"}
    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
    options: PruningOptions
    conditions: TimingConditions
    """Of the latency table: machine, backend, frame."""
    unpruned: PruningQuality | None = None
    unpruned_size: NetworkSize
    pruned_size: NetworkSize | None = None
    rounds: list[PruningRound] = Field(default_factory=list)
    finished: bool = False
    """Whether all rounds were trained to their last step."""

    @property
    def reached(self) -> bool:
        """Return whether the last round reached its goal, as measured."""
        return bool(self.rounds) and self.rounds[-1].reached

    def write(self, out: Path) -> None:
        """Write it to the run's folder, atomically."""
        payload = self.model_dump_json(indent=1) + "\n"
        write_atomically(out / RECORD_FILE, payload.encode())


def read_record(path: Path) -> PruneRecord:
    """Return the record in a file.

    Raises:
        OptionError: There is no file, or it is no record.
    """
    try:
        return PruneRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise OptionError(
            f"{path} is not a record that mirnet-prune wrote (schema 1 or 2); choose another "
            "folder, or remove it to prune from the start"
        ) from error


def resume_record(out: Path, fresh: PruneRecord) -> PruneRecord:
    """Return the record of an earlier run in OUT, or FRESH where there is none.

    Raises:
        OptionError: The folder holds a run with other options, or something else.
    """
    path = out / RECORD_FILE
    if not path.exists():
        others = [] if not out.is_dir() else sorted(one.name for one in out.iterdir())
        foreign = [name for name in others if not name.startswith((".", _TABLE_PREFIX))]
        if foreign:
            raise OptionError(
                f"{out} holds {foreign[0]} and no {RECORD_FILE}; expected an empty folder or one "
                "of an earlier run. Choose another --out"
            )
        return fresh
    found = read_record(path)
    different = _describe_differences(found.options, fresh.options)
    if different:
        raise OptionError(
            f"{out} was started with another {', '.join(different)}; give the same options, or "
            "another --out"
        )
    return found


def _describe_differences(one: PruningOptions, two: PruningOptions) -> list[str]:
    values: tuple[dict[str, Any], dict[str, Any]] = (one.model_dump(), two.model_dump())
    return [name for name in values[0] if values[0][name] != values[1][name]]
