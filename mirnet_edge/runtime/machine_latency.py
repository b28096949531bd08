"""Latencies of a bundle's configurations on this machine: measured once, kept in the user's cache.

A bundle of the package was timed where the package was made. `time_here` times its configurations
on this machine, for about half a second, and returns the manifest with these latencies, from which
`choose_configuration` and `fitting_configurations` choose as from any other. Those of devices that
the export did not measure are compared with ONNX Runtime first. What was measured is kept for each
bundle, processor, number of threads and version of the backends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.files import sha256_of, user_cache, write_atomically
from mirnet_edge.manifest import FILE_NAME, LatencyFacts, RejectionReason
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import backend_names, find_backend
from mirnet_edge.runtime.machine_configurations import (
    DeviceComparison,
    apply_comparison,
    compare_here,
    is_untried,
)
from mirnet_edge.runtime.measure import measure_within, p50, p95
from mirnet_edge.runtime.openvino_runner import INSTRUCTION_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mirnet_edge.manifest import Configuration, Manifest
    from mirnet_edge.runtime.runner import Runner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """What was measured of a bundle's configurations on this machine."""

    samples: dict[str, list[float]]
    """Milliseconds of the timed runs, by configuration."""
    comparisons: dict[str, DeviceComparison]
    """Of the configurations that the export did not measure."""


BUDGET_S = 0.5
"""Seconds of timed runs, of all configurations together."""
_SIZE = (240, 320)
"""(height, width) of the frame that is timed: a small computer takes long enough for it."""
_LARGEST_SPREAD = 1.5
"""Of the median over the shortest run, up to which a measurement is kept."""
_SCHEMA_VERSION = 2
_measured: dict[Path, Measurement] = {}
"""What this process measured or read, by the file it is kept in: also where that is not written."""
_REASON = "the quality gate accepted its accuracy; timed on this machine"


def time_here(
    manifest: Manifest,
    folder: Path,
    configurations: Iterable[Configuration],
    make_runner: Callable[[Configuration], Runner],
    *,
    threads: int | None = None,
    cache: Path | None = None,
) -> Manifest:
    """Return a manifest with the latencies that configurations have on this machine.

    A single configuration is not timed: there is nothing to choose. Those that were too inaccurate
    for the quality gate are not either, and stay rejected; those that were too slow elsewhere may
    be the fastest here.

    Args:
        manifest: The bundle's.
        folder: The bundle's.
        configurations: Of the manifest, those that run here.
        make_runner: Returns a configuration's runner, not opened.
        threads: Of the runners; None for the backends' choice.
        cache: Where latencies are kept; None for the user's cache. Where it cannot be written they
            are measured each time.
    """
    candidates = [one for one in configurations if is_accurate(one)]
    untried = [one for one in candidates if is_untried(one)]
    if len(candidates) < 2 and not untried:
        return manifest
    file = _cache_file(cache or user_cache(), folder, candidates, threads)
    measured = _measured.get(file) or _read(file)
    if measured is None:
        size = manifest.image.size or _SIZE
        comparisons = compare_here(untried, manifest, make_runner, size)
        manifest = _compared(manifest, comparisons)
        usable = [one for one in candidates if is_accurate(manifest.configuration(one.name))]
        measured = Measurement(_measure(usable, make_runner, size), comparisons)
        if not measured.samples and not untried:
            return manifest
        if _is_stable(measured):
            _write(file, measured)
    _measured[file] = measured
    manifest = _compared(manifest, measured.comparisons)
    size = manifest.image.size or _SIZE
    latencies = {name: _latency(name, measured.samples, size) for name in measured.samples}
    if not latencies:
        return manifest
    fastest = min(latencies, key=lambda name: latencies[name].p50_ms)
    logger.info("%s is the fastest of %s here", fastest, ", ".join(latencies))
    return manifest.model_copy(
        update={
            "configurations": [
                _timed(one, latencies.get(one.name)) if is_accurate(one) else one
                for one in manifest.configurations
            ],
            "default_configuration": fastest,
        }
    )


def _compared(manifest: Manifest, comparisons: dict[str, DeviceComparison]) -> Manifest:
    """Return the manifest with what the comparisons say about the configurations added here."""
    tolerance = manifest.gate.max_drop_db
    return manifest.model_copy(
        update={
            "configurations": [
                apply_comparison(one, comparisons[one.name], tolerance)
                if one.name in comparisons
                else one
                for one in manifest.configurations
            ]
        }
    )


def is_accurate(configuration: Configuration) -> bool:
    """Return whether the quality gate found nothing worse than a latency on its own machine."""
    rejection = configuration.rejection
    return configuration.accepted or (
        rejection is not None and rejection.reason is RejectionReason.SPEED
    )


def _timed(configuration: Configuration, latency: LatencyFacts | None) -> Configuration:
    """Return an accurate configuration with its latency here, None where it was not timed."""
    return configuration.model_copy(
        update={
            "latency": latency, "accepted": True, "rejection": None,
            "reason": configuration.reason if is_untried(configuration) else _REASON,
        }
    )  # fmt: skip


def _measure(
    candidates: list[Configuration],
    make_runner: Callable[[Configuration], Runner],
    size: tuple[int, int],
) -> dict[str, list[float]]:
    """Return the milliseconds of the runs, by name; empty where one failed.

    The fastest of each backend elsewhere is timed in any case, the others while time remains.
    """
    if len(candidates) < 2:
        return {}
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    ordered = sorted(candidates, key=lambda one: one.latency.p50_ms if one.latency else math.inf)
    first = {one.backend: one.name for one in reversed(ordered)}.values()
    ordered.sort(key=lambda one: one.name not in first)
    runners = {one.name: make_runner(one) for one in ordered}
    try:
        return measure_within(runners, frame, BUDGET_S, must_open=first)
    except MirnetEdgeError as error:  # what is wrong is said again where it is opened
        logger.info("the configurations were not timed on this machine: %s", error)
        return {}


def _is_stable(measured: Measurement) -> bool:
    """Return whether it is worth keeping: else it is measured again next time.

    Something else kept the machine busy, or a device did not open, which may do so another time.
    """
    ran = all(one.drop_db is not None for one in measured.comparisons.values())
    samples = measured.samples.values()
    return ran and all(p50(times) <= _LARGEST_SPREAD * min(times) for times in samples)


def _latency(name: str, samples: dict[str, list[float]], size: tuple[int, int]) -> LatencyFacts:
    reference = samples.get(f"{name.partition(':')[0]}:fp32", samples[name])
    own = p50(samples[name])
    return LatencyFacts(
        p50_ms=own, p95_ms=p95(samples[name]), ratio_to_fp32=own / p50(reference),
        height=size[0], width=size[1], runs=len(samples[name]), samples_ms=samples[name],
    )  # fmt: skip


def _cache_file(
    cache: Path, folder: Path, candidates: list[Configuration], threads: int | None
) -> Path:
    """Return the file of what latencies depend on."""
    backends = sorted({one.backend for one in candidates})
    facts = machine.describe()
    key: dict[str, Any] = {
        "schema": _SCHEMA_VERSION,
        "bundle": sha256_of(folder / FILE_NAME),
        "configurations": sorted(one.name for one in candidates),
        "backends": {name: _version(name) for name in backends if name in backend_names()},
        "processor": [facts.processor, *facts.instructions],
        "threads": threads or facts.cores,
    }
    limit = os.environ.get(INSTRUCTION_LIMIT)
    if limit:
        key["limit"] = limit
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache / "latencies" / f"{digest[:32]}.json"


def _version(backend: str) -> str:
    for package in find_backend(backend).packages:
        try:
            return version(package)
        except PackageNotFoundError:  # another name than the import's, for example a GPU's build
            continue
    return "unknown"


def _read(file: Path) -> Measurement | None:
    """Return what a file holds; None where it is missing or damaged."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        samples = {
            str(name): [float(ms) for ms in times] for name, times in document["samples"].items()
        }
        comparisons = {
            str(name): DeviceComparison(None if drop is None else float(drop), message)
            for name, (drop, message) in document["comparisons"].items()
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if not all(samples.values()) or not (samples or comparisons):
        return None
    return Measurement(samples, comparisons)


def _write(file: Path, measured: Measurement) -> None:
    document = {
        "samples": measured.samples,
        "comparisons": {
            name: [one.drop_db, one.message] for name, one in measured.comparisons.items()
        },
    }
    try:
        write_atomically(file, json.dumps(document).encode())
    except MirnetEdgeError as error:
        logger.info("latencies are measured again next time: %s", error)
