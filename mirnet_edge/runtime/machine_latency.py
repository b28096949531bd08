"""Latencies of a bundle's configurations on this machine: measured once, kept in the user's cache.

A bundle of the package was timed where the package was made. `time_here` times its configurations
on this machine, for about half a second, and returns the manifest with these latencies, from which
`choose_configuration` and `fitting_configurations` choose as from any other. What was measured is
kept for each bundle, processor, number of threads and version of the backends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.manifest import FILE_NAME, LatencyFacts, RejectionReason
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import backend_names, find_backend
from mirnet_edge.runtime.measure import measure_within, p50, p95

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirnet_edge.manifest import Configuration, Manifest
    from mirnet_edge.runtime.runner import Runner

logger = logging.getLogger(__name__)

BUDGET_S = 0.5
"""Seconds of timed runs, of all configurations together."""
_SIZE = (240, 320)
"""(height, width) of the frame that is timed: a small computer takes long enough for it."""
_LARGEST_SPREAD = 1.5
"""Of the median over the shortest run, up to which a measurement is kept."""
_SCHEMA_VERSION = 1
_measured: dict[Path, dict[str, list[float]]] = {}
"""What this process measured or read, by the file it is kept in: also where that is not written."""
_REASON = "the quality gate accepted its accuracy; timed on this machine"


def user_cache() -> Path:
    """Return this package's folder in the user's cache, where the system keeps that."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "mirnet-edge"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mirnet-edge"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mirnet-edge"


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
    if len(candidates) < 2:
        return manifest
    file = _cache_file(cache or user_cache(), folder, candidates, threads)
    samples = _measured.get(file) or _read(file)
    if samples is None:
        samples = _measure(candidates, make_runner)
        if not samples:
            return manifest
        if _is_stable(samples):
            _write(file, samples)
    _measured[file] = samples
    latencies = {name: _latency(name, samples) for name in samples}
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


def is_accurate(configuration: Configuration) -> bool:
    """Return whether the quality gate found nothing worse than a latency on its own machine."""
    rejection = configuration.rejection
    return configuration.accepted or (
        rejection is not None and rejection.reason is RejectionReason.SPEED
    )


def _timed(configuration: Configuration, latency: LatencyFacts | None) -> Configuration:
    """Return an accurate configuration with its latency here, None where it was not timed."""
    return configuration.model_copy(
        update={"latency": latency, "accepted": True, "rejection": None, "reason": _REASON}
    )


def _measure(
    candidates: list[Configuration], make_runner: Callable[[Configuration], Runner]
) -> dict[str, list[float]]:
    """Return the milliseconds of the runs, by name; empty where one failed.

    The fastest of each backend elsewhere is timed in any case, the others while time remains.
    """
    frame = np.random.default_rng(0).integers(0, 256, (1, *_SIZE, 3), np.uint8)
    ordered = sorted(candidates, key=lambda one: one.latency.p50_ms if one.latency else math.inf)
    first = {one.backend: one.name for one in reversed(ordered)}.values()
    ordered.sort(key=lambda one: one.name not in first)
    runners = {one.name: make_runner(one) for one in ordered}
    try:
        return measure_within(runners, frame, BUDGET_S, must_open=first)
    except MirnetEdgeError as error:  # what is wrong is said again where it is opened
        logger.info("the configurations were not timed on this machine: %s", error)
        return {}


def _is_stable(samples: dict[str, list[float]]) -> bool:
    """Return whether nothing else kept the machine busy: else it is measured again next time."""
    return all(p50(times) <= _LARGEST_SPREAD * min(times) for times in samples.values())


def _latency(name: str, samples: dict[str, list[float]]) -> LatencyFacts:
    reference = samples.get(f"{name.partition(':')[0]}:fp32", samples[name])
    own = p50(samples[name])
    return LatencyFacts(
        p50_ms=own, p95_ms=p95(samples[name]), ratio_to_fp32=own / p50(reference),
        height=_SIZE[0], width=_SIZE[1], runs=len(samples[name]), samples_ms=samples[name],
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
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache / "latencies" / f"{digest[:32]}.json"


def _version(backend: str) -> str:
    for package in find_backend(backend).packages:
        try:
            return version(package)
        except PackageNotFoundError:  # another name than the import's, for example a GPU's build
            continue
    return "unknown"


def _read(file: Path) -> dict[str, list[float]] | None:
    """Return the samples of a file; None where it is missing or damaged."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        samples = {str(name): [float(ms) for ms in times] for name, times in document.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return samples if samples and all(samples.values()) else None


def _write(file: Path, samples: dict[str, list[float]]) -> None:
    try:
        write_atomically(file, json.dumps(samples).encode())
    except MirnetEdgeError as error:
        logger.info("latencies are measured again next time: %s", error)
