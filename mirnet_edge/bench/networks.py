"""A network to measure, by the name that a command line gives it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.weights import open_weights

if TYPE_CHECKING:
    from mirnet_edge.manifest import Precision
    from mirnet_edge.runtime.runner import Runner


def list_precisions(name: str) -> tuple[Precision, ...]:
    """Return the precisions that NAME is measured in: fp32 and INT8 of bundles, fp32 of weights."""
    return ("fp32",) if Path(name).is_file() else ("fp32", "int8")


def open_network(name: str, precision: Precision) -> Runner:
    """Return a new runner, not opened yet, of a file of weights, a bundle or `shipped:NAME`.

    Raises:
        BundleError: There is no such bundle, or it lacks the precision.
        CheckpointError: The weights cannot be loaded.
    """
    return open_weights(name) if Path(name).is_file() else open_bundle(name, precision=precision)
