"""The latency table as a file: what was timed, and what the times hold for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, ValidationError

from mirnet_edge.checkpoints.families import family_of, plain_config
from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError
from mirnet_edge.manifest import Document, MachineFacts
from mirnet_edge.runtime.machine import describe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

BACKENDS = ("openvino", "onnxruntime")


class Conditions(Document):
    """What a table holds for, and nothing else."""

    machine: MachineFacts
    backend: str
    backend_version: str
    size: tuple[int, int]
    """(height, width) of the frame."""
    round_to: int
    architecture: str
    config: dict[str, Any]


class LatencyTable(Document):
    """What each row takes, by its name, beside the unpruned network.

    Tables are measured minutes apart, and a machine's load changes in between: shares of a network
    that took turns with every row can be compared, milliseconds cannot.

    Schema history: 1 (2026-11) rows in milliseconds; 2 (2026-11) rows as shares.
    """

    schema_version: Literal[2] = 2
    conditions: Conditions
    rounds: int = Field(ge=1)
    unpruned_ms: PositiveFloat
    """The median of the unpruned network."""
    rows: dict[str, PositiveFloat]
    """The median share of the time that the unpruned network took in the same round."""


def conditions_of(
    network: nn.Module, backend: str, size: tuple[int, int], round_to: int
) -> Conditions:
    """Return what a table of this network would hold for, here and now.

    Raises:
        OptionError: No such backend, a size that is no frame of the network, or no rounding.
        MissingDependencyError: The backend is not installed.
    """
    if backend not in BACKENDS:
        raise OptionError(f"--backend must be {' or '.join(BACKENDS)}, found {backend!r}")
    if round_to < 1:
        raise OptionError(f"--round-to must be at least 1, found {round_to}")
    multiple: int = network.multiple  # type: ignore[assignment]
    if min(size) < 1 or any(side % multiple for side in size):
        raise OptionError(
            f"--size must be multiples of {multiple} for this network, found {size[1]}x{size[0]}"
        )
    return Conditions(
        machine=describe(),
        backend=backend,
        backend_version=str(require(backend, f"the backend {backend}").__version__),
        size=size,
        round_to=round_to,
        architecture=family_of(network).name,
        config=plain_config(network.config),
    )


def read_table(path: Path, expected: Conditions) -> LatencyTable:
    """Return the table of a file.

    Raises:
        OptionError: No table, or one that was measured under other conditions; names them.
    """
    try:
        table = LatencyTable.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise OptionError(
            f"{path} is not a latency table; expected one that mirnet-prune wrote. Remove it to "
            "measure anew"
        ) from error
    found, wanted = (one.model_dump(mode="json") for one in (table.conditions, expected))
    stale = [name for name in wanted if found[name] != wanted[name]]
    if stale:
        raise OptionError(
            f"{path} was measured with another {', '.join(stale)}; remove it to measure anew, or "
            "give another --out"
        )
    return table
