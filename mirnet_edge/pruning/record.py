"""The record of a pruning: what was asked, what was chosen and measured; `OUT/prune.json`.

Written after every stage, so that a run that was stopped goes on after the last one it finished.
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
_TABLES = "latency"  # how their files' names begin


class LatencyGoal(StrictDocument):
    """How fast the network is to become; one of the first two is given."""

    speedup: float | None = None
    latency_ms: float | None = None
    share: float = 1.0
    """Of the way to there, in factors: rounds before the last stop short."""

    def ms(self, unpruned_ms: float) -> float:
        """Return what a frame may take, where the unpruned network takes so long."""
        if self.latency_ms is not None:
            end = self.latency_ms
        elif self.speedup is not None:
            end = unpruned_ms / self.speedup
        else:
            end = unpruned_ms
        return unpruned_ms * math.pow(end / unpruned_ms, self.share)

    def __str__(self) -> str:
        """Return it as people say it."""
        if self.latency_ms is not None:
            return f"{self.latency_ms:g} ms"
        return "as another run" if self.speedup is None else f"{self.speedup:g}x"


class PruningOptions(StrictDocument):
    """What decides the outcome; a run of other values is another run."""

    weights_sha256: str
    data: str
    """Where the images lie; training itself refuses other images in the same place."""
    task: str
    speedup: float | None
    latency_ms: float | None
    like: dict[str, JsonValue] | None
    """The blocks (`kept`) and `config` of another run, where none are chosen."""
    backend: str
    size: tuple[int, int]
    """(height, width) of the frame that is timed."""
    importance: str
    round_to: int
    blocks: bool
    rounds: int
    recipe: str
    training: dict[str, JsonValue]
    """Fields of the recipe that were given by hand."""
    seed: int

    def goal(self, number: int) -> LatencyGoal:
        """Return what a round, counted from 1, is to reach."""
        return LatencyGoal(
            speedup=self.speedup, latency_ms=self.latency_ms, share=number / self.rounds
        )


class PruningQuality(StrictDocument):
    """Means over whole validation frames."""

    psnr_db: FiniteFloat
    psnr_gtmean_db: FiniteFloat
    ssim: FiniteFloat
    steps: int = Field(default=0, ge=0)
    """Of training since the cut."""


class PruningAttempt(StrictDocument):
    """A config that was chosen, cut and timed; times are medians of one interleaved run."""

    config: dict[str, JsonValue]
    predicted_ms: PositiveFloat | None
    """What the latency table promised; None where nothing was chosen."""
    unpruned_ms: PositiveFloat
    pruned_ms: PositiveFloat

    @property
    def speedup(self) -> float:
        """Return how many times faster it was measured to be."""
        return self.unpruned_ms / self.pruned_ms


class PruningCandidate(StrictDocument):
    """A depth that was tried with --blocks."""

    kept: list[list[int]]
    """Which blocks of each group stay."""
    loss: FiniteFloat
    """Of the network of these blocks, nothing else cut."""
    cut_loss: FiniteFloat | None
    """The same once its widths are at the target; None where they cannot be, or where the loss
    was above the best already."""


class PruningRound(StrictDocument):
    """One cut, and what training made of it."""

    goal: LatencyGoal
    candidates: list[PruningCandidate]
    """Empty without --blocks."""
    kept: list[list[int]]
    attempts: list[PruningAttempt]
    best: int = Field(ge=0)
    """Which of the attempts was cut."""
    table_unpruned_ms: PositiveFloat | None
    """The unpruned network in the latency table's terms; None where there is no table."""
    reached: bool
    cut: PruningQuality
    distilled: PruningQuality | None = None

    @property
    def chosen(self) -> PruningAttempt:
        """Return the attempt that was cut."""
        return self.attempts[self.best]


class NetworkSize(StrictDocument):
    """How large a network is."""

    gmacs: float
    """For one frame of the size that was timed."""
    parameters: int


class PruneRecord(StrictDocument):
    """All of it.

    Schema history: 1 (2026-11) the first.
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
        """Return whether the last round was measured to be as fast as was asked."""
        return bool(self.rounds) and self.rounds[-1].reached

    def write(self, out: Path) -> None:
        """Write it to the run's folder, whole or not at all."""
        payload = self.model_dump_json(indent=1) + "\n"
        write_atomically(out / RECORD_FILE, payload.encode())


def read_record(path: Path) -> PruneRecord:
    """Return the record of a file.

    Raises:
        OptionError: There is none.
    """
    try:
        return PruneRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise OptionError(
            f"{path} is not a record of schema 1 that mirnet-prune wrote; choose another folder, "
            "or remove it to start anew"
        ) from error


def resume_record(out: Path, fresh: PruneRecord) -> PruneRecord:
    """Return what an earlier run left in OUT, or FRESH where there is none.

    Raises:
        OptionError: The folder is of another run, or of something else.
    """
    path = out / RECORD_FILE
    if not path.exists():
        others = [] if not out.is_dir() else sorted(one.name for one in out.iterdir())
        foreign = [name for name in others if not name.startswith((".", _TABLES))]
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
            f"{out} was begun with another {', '.join(different)}; give the same options, or "
            "another --out"
        )
    return found


def _describe_differences(one: PruningOptions, two: PruningOptions) -> list[str]:
    values: tuple[dict[str, Any], dict[str, Any]] = (one.model_dump(), two.model_dump())
    return [name for name in values[0] if values[0][name] != values[1][name]]
