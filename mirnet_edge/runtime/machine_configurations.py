"""Configurations of the devices of this machine, for bundles that were exported elsewhere.

A bundle names the backends of the machine that exported it. `add_configurations` adds those that
are here; `compare_here` runs each beside ONNX Runtime's processor, on the same graph, before
anything is restored with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.manifest import Configuration, Rejection, RejectionReason
from mirnet_edge.metrics import estimate_drop_db, psnr
from mirnet_edge.runtime.backends import AUTO, all_backends, backend_names, find_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import GraphFacts, Manifest
    from mirnet_edge.runtime.backends import Backend
    from mirnet_edge.runtime.runner import Runner

REFERENCE = "onnxruntime"
"""The backend that the others are compared with."""
_UNTRIED = "of a device of this machine, which the export did not measure"


def add_configurations(manifest: Manifest, backend: str = AUTO) -> Manifest:
    """Return the manifest with configurations of the devices here that it does not name.

    Args:
        manifest: Of a bundle.
        backend: One whose configurations are added wherever it exists, so that what keeps them
            from running is told; auto for those that run here.
    """
    known = {one.backend for one in manifest.configurations}
    added = [
        configuration
        for row in all_backends()
        if row.name not in known and _is_added(row, backend)
        for configuration in _configurations_of(row, manifest)
    ]
    if not added:
        return manifest
    return manifest.model_copy(
        update={"configurations": [*manifest.configurations, *added]},
    )


def _is_added(row: Backend, backend: str) -> bool:
    if row.name == backend:
        return row.added_here != "never"
    return backend == AUTO and row.added_here == "always" and row.machine_obstacle() is None


def _configurations_of(row: Backend, manifest: Manifest) -> Iterator[Configuration]:
    named: set[str] = set()
    for graph in manifest.graphs:
        if not graph.kept or row.target not in graph.targets:
            continue
        for precision in (graph.precision, *row.derived_precisions.get(graph.precision, ())):
            name = f"{row.name}:{precision}"
            if precision not in row.precisions or name in named:
                continue
            named.add(name)
            yield Configuration(
                name=name, backend=row.name, precision=precision, graph=graph.name,
                against_fp32=None, against_truth=None, truth_drop_db=None, latency=None,
                accepted=True, reason=_UNTRIED,
            )  # fmt: skip


def is_untried(configuration: Configuration) -> bool:
    """Return whether a configuration was added here, and nothing about it is measured."""
    return (
        configuration.accepted
        and configuration.against_fp32 is None
        and configuration.backend in backend_names()
        and find_backend(configuration.backend).added_here != "never"
    )


@dataclass(frozen=True)
class DeviceComparison:
    """A configuration beside ONNX Runtime's processor, on this machine."""

    drop_db: float | None
    """Estimated accuracy drop against the same graph, with what the graph itself drops; infinite
    where the output is broken, None where it did not run."""
    message: str | None = None
    """Why it did not run."""


def compare_here(
    configurations: Sequence[Configuration],
    manifest: Manifest,
    make_runner: Callable[[Configuration], Runner],
    size: tuple[int, int],
) -> dict[str, DeviceComparison]:
    """Run configurations and ONNX Runtime's processor on one frame; return each comparison by name.

    Args:
        configurations: Of the manifest.
        manifest: The bundle's.
        make_runner: Returns a configuration's runner, not opened.
        size: (height, width) of the frame.
    """
    frame = make_scene(size)
    expected: dict[str, Frames] = {}
    found = {}
    for one in configurations:
        graph = manifest.graph(one.graph)
        if graph.name not in expected:
            reference = one.model_copy(
                update={
                    "backend": REFERENCE, "precision": graph.precision,
                    "name": f"{REFERENCE}:{graph.precision}",
                }
            )  # fmt: skip
            with make_runner(reference) as runner:
                expected[graph.name] = runner.run(frame)
        try:
            with make_runner(one) as runner:
                output = runner.run(frame)
        except MirnetEdgeError as error:
            found[one.name] = DeviceComparison(None, str(error))
            continue
        found[one.name] = DeviceComparison(_drop_of(graph, output, expected[graph.name]))
    return found


def _drop_of(graph: GraphFacts, output: Frames, expected: Frames) -> float:
    if output.min() == output.max():  # what NaN looks like once it is 8 bits
        return math.inf
    own = graph.truth_drop_db
    if own is None:
        mean_db = None if graph.against_fp32 is None else graph.against_fp32.mean_db
        own = 0.0 if mean_db is None else estimate_drop_db(mean_db)
    return max(0.0, own) + estimate_drop_db(float(psnr(output, expected)[0]))


def apply_comparison(
    configuration: Configuration, comparison: DeviceComparison, tolerance_db: float
) -> Configuration:
    """Return a configuration accepted or rejected by its comparison on this machine."""
    drop = comparison.drop_db
    if drop is not None and drop <= tolerance_db:
        reason = (
            f"compared with {REFERENCE} on this machine: estimated accuracy drop {drop:.3f} dB "
            f"(tolerance {tolerance_db:g} dB)"
        )
        update = {"reason": reason, "estimated_drop_db": drop}
        return configuration.model_copy(update=update)
    if drop is None:
        rejection = Rejection(reason=RejectionReason.UNSUPPORTED, message=comparison.message)
        reason = f"rejected: not supported here: {comparison.message}"
    else:
        rejection = Rejection(
            reason=RejectionReason.QUALITY, drop_db=drop if math.isfinite(drop) else None,
            drop_is_estimated=True, tolerance_db=tolerance_db,
        )  # fmt: skip
        reason = (
            f"rejected: differs from {REFERENCE} on this machine: estimated accuracy drop "
            f"{drop:.3f} dB (tolerance {tolerance_db:g} dB)"
        )
    return configuration.model_copy(
        update={"accepted": False, "rejection": rejection, "reason": reason}
    )


def make_scene(size: tuple[int, int]) -> Frames:
    """Return (1, H, W, 3) uint8: a dark scene of soft shapes, with a little noise."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [
        np.sin(columns / (17.0 + 5 * channel)) * np.cos(rows / (23.0 - 4 * channel))
        for channel in range(3)
    ]
    noise = np.random.default_rng(0).normal(0.0, 2.0, (height, width, 3))
    levels = 48.0 + 32.0 * np.stack(waves, axis=-1) + noise
    scene: Frames = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]
    return scene
