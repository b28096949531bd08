"""Open a bundle: choose the configuration that runs here, and make its runner."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mirnet_edge.errors import BundleError, MirnetEdgeError, OptionError
from mirnet_edge.manifest import Precision, checked_path, read_manifest
from mirnet_edge.runtime.backends import (
    AUTO,
    Backend,
    backend_names,
    find_backend,
    unknown_backend_text,
)

if TYPE_CHECKING:
    from mirnet_edge.manifest import Configuration, Manifest
    from mirnet_edge.runtime.runner import Runner

logger = logging.getLogger(__name__)


def open_bundle(
    path: str | Path,
    backend: str = AUTO,
    precision: str = AUTO,
    *,
    threads: int | None = None,
    rebuild: bool | None = None,
) -> Runner:
    """Return a runner for the mode of a bundle that suits this machine.

    Nothing is loaded yet: `with runner:` does that.

    Args:
        path: The bundle's folder.
        backend: One of `backends.backend_names()`, or auto, which takes the highest
            `Backend.auto_rank` that runs here, and of these the fastest.
        precision: fp32, bf16, fp16, int8, or auto. A named one is taken even where the gate
            rejected it; a warning then says why it did.
        threads: How many the backend may use; None leaves it to the backend.
        rebuild: Build TensorRT plans anew that do not fit this machine, from the graphs in the
            bundle; that takes minutes. None for: on a Jetson.

    Raises:
        BundleError: No bundle, a changed file, or no mode that fits; says why each does not.
        OptionError: No such backend or precision, or less than one thread.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if backend == AUTO or find_backend(backend).engine_runner is not None:
        manifest = _rebuild_engines_that_do_not_fit(manifest, folder, backend, rebuild=rebuild)
    mode = choose_configuration(manifest, backend, precision)
    if not mode.accepted:
        logger.warning("%s was not accepted by the gate: %s", mode.name, mode.reason)
    logger.info("%s runs %s", folder, mode.name)
    return _runner_of(mode, manifest, folder, threads)


def choose_configuration(
    manifest: Manifest, backend: str = AUTO, precision: str = AUTO
) -> Configuration:
    """Return the mode to run here.

    Of those that fit: TensorRT where a GPU is, and why not is logged; then the manifest's default
    where nothing was asked for, else the fastest; accepted ones first, those never timed last.

    Raises:
        BundleError: None fits; says why each does not.
        OptionError: No such backend or precision.
    """
    if backend != AUTO:
        find_backend(backend)
    if precision not in (AUTO, *get_args(Precision)):
        raise OptionError(
            f"--precision must be {AUTO} or one of {', '.join(get_args(Precision))}, "
            f"found {precision!r}"
        )
    asked = [
        mode
        for mode in manifest.configurations
        if backend in (AUTO, mode.backend) and precision in (AUTO, mode.precision)
    ]
    obstacles = {mode.name: _obstacle(mode, manifest, precision) for mode in asked}
    fitting = [mode for mode in asked if obstacles[mode.name] is None]
    if not fitting:
        raise BundleError(_nothing_fits(manifest, backend, precision, obstacles))
    rank = max((_row(mode).auto_rank for mode in fitting if mode.accepted), default=0)
    _log_higher_ranks(obstacles, rank)
    if rank > 0:
        best = [mode for mode in fitting if mode.accepted and _row(mode).auto_rank == rank]
        return min(best, key=_order)
    if backend == precision == AUTO:
        for mode in fitting:
            if mode.name == manifest.default_configuration:
                return mode
    return min(fitting, key=_order)


def _rebuild_engines_that_do_not_fit(
    manifest: Manifest, folder: Path, backend: str, *, rebuild: bool | None
) -> Manifest:
    """Return the manifest after building anew the plans that do not fit, where that is wanted."""
    from mirnet_edge.runtime.tensorrt import bundle_engines, library

    if not manifest.engines or not (library.is_device() if rebuild is None else rebuild):
        return manifest
    try:
        bundle_engines.rebuild_misfits(folder, on_stage=logger.warning)
    except MirnetEdgeError as error:
        if backend != AUTO:
            raise
        logger.warning("the plans could not be built here: %s", error)
    return read_manifest(folder)


def fitting_configurations(manifest: Manifest) -> list[Configuration]:
    """Return the accepted modes that run here, the fastest first; those never timed last."""
    fitting = [mode for mode in manifest.configurations if _obstacle(mode, manifest, AUTO) is None]
    return sorted(fitting, key=_order)


def _row(mode: Configuration) -> Backend:
    return find_backend(mode.backend)


def _order(mode: Configuration) -> tuple[bool, float, int]:
    """Sort accepted ones first, then the fastest, then the precision that the backend prefers."""
    known = _row(mode).precisions
    place = known.index(mode.precision) if mode.precision in known else len(known)
    return not mode.accepted, mode.latency.p50_ms if mode.latency else math.inf, place


def _obstacle(mode: Configuration, manifest: Manifest, precision: str) -> str | None:
    """Return why a mode cannot be taken here, None where it can."""
    if mode.backend not in backend_names():
        return unknown_backend_text(mode.backend, manifest.tools.get("mirnet-edge"))
    if not mode.accepted and precision == AUTO:
        return f"not accepted ({mode.reason}); ask for it with --precision {mode.precision}"
    backend = _row(mode)
    if not backend.runs_weights and not manifest.graph(mode.graph).kept:
        return f"its graph was not kept ({mode.reason})"
    return backend.obstacle(mode, manifest)


def _log_higher_ranks(obstacles: dict[str, str | None], rank: int) -> None:
    """Log why the configurations that `auto` prefers to those of a rank are not taken."""
    for name, reason in obstacles.items():
        backend = name.partition(":")[0]
        if reason and backend in backend_names() and find_backend(backend).auto_rank > rank:
            logger.info("%s is not taken: %s", name, reason)


def _nothing_fits(
    manifest: Manifest, backend: str, precision: str, obstacles: dict[str, str | None]
) -> str:
    wanted = f"backend {backend}, precision {precision}"
    if not obstacles:
        names = ", ".join(mode.name for mode in manifest.configurations)
        return f"the bundle has no mode for {wanted}; it has {names}. Choose one, or export again"
    reasons = "; ".join(f"{name}: {why}" for name, why in obstacles.items())
    return (
        f"no mode of the bundle runs here for {wanted}: {reasons}. Choose another, or export again"
    )


def _runner_of(
    mode: Configuration, manifest: Manifest, folder: Path, threads: int | None
) -> Runner:
    backend = _row(mode)
    if backend.engine_runner is not None:
        engine = manifest.engine(mode.graph)
        return backend.engine_runner(
            checked_path(folder, engine.plan),
            manifest.image,
            name=mode.name,
            precision=mode.precision,
            engine=engine,
            graph=manifest.graph(mode.graph),
        )
    file = manifest.model.weights if backend.runs_weights else manifest.graph(mode.graph).onnx
    return backend.runner(
        checked_path(folder, file),
        manifest.image,
        name=mode.name,
        precision=mode.precision,
        threads=threads,
    )


@dataclass(frozen=True, kw_only=True)
class RunnerChoice:
    """A bundle and how it is to be run. Can be pickled."""

    bundle: Path
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """None leaves it to the backend."""
    tile: tuple[int, int] | Literal["auto"] | None = None
    """(height, width) of a tile; "auto" for the graph's size or what the memory allows; None for
    whole frames, unless `max_memory_mib` is given."""
    max_memory_mib: int | None = None
    """What one run may take beside the frames."""

    def runner(self) -> Runner:
        """Return the runner, not opened yet.

        Raises:
            BundleError: No bundle, a changed file, or no mode that fits.
            OptionError: A value that makes no sense.
        """
        from mirnet_edge.runtime.tiling import tile_runner

        runner = open_bundle(self.bundle, self.backend, self.precision, threads=self.threads)
        if self.tile is None and self.max_memory_mib is None:
            return runner
        size = None if self.tile == "auto" else self.tile
        return tile_runner(runner, tile=size, max_memory_mib=self.max_memory_mib)

    def fingerprint(self) -> str:
        """Return what, beside the runner's mode, decides the pixels: the bundle's digest, tiles."""
        from mirnet_edge.files import sha256_of
        from mirnet_edge.manifest import FILE_NAME

        return f"{sha256_of(self.bundle / FILE_NAME)} {self.tile} {self.max_memory_mib}"
