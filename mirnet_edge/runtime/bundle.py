"""Open a bundle: choose the configuration for this machine, and make its runner."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mirnet_edge.errors import BundleError, MirnetEdgeError, OptionError
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import Precision, read_manifest, verify_graph, verify_path
from mirnet_edge.memory import available_memory
from mirnet_edge.runtime.backends import (
    AUTO,
    Backend,
    backend_names,
    find_backend,
    unknown_backend_text,
)
from mirnet_edge.runtime.machine_configurations import add_configurations, is_untried
from mirnet_edge.runtime.machine_latency import time_here
from mirnet_edge.runtime.shipped import PREFIX, find_bundle, is_shipped

if TYPE_CHECKING:
    from mirnet_edge.manifest import Configuration, ImageContract, Manifest
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
    """Return a runner for the best configuration of a bundle on this machine.

    Nothing is loaded yet: `with runner:` does that.

    Args:
        path: The bundle's folder, or `shipped:NAME`.
        backend: One of `backends.backend_names()`, or auto, which takes the highest
            `Backend.auto_rank` that runs here, and of these the fastest; never a graph of one size
            in a bundle for any size. Of several, with commas
            between them, the first that opens: what may take another's place is named, and is
            never chosen silently.
        precision: fp32, bf16, fp16, int8, or auto. A named one is chosen even where the quality
            gate rejected it; a warning gives the reason.
        threads: At most; None leaves it to the backend.
        rebuild: Whether to build TensorRT engines again that do not fit this machine, from the
            graphs in the bundle, which takes minutes. None for: on a Jetson.

    Raises:
        BundleError: No bundle, a changed file, or no configuration that fits; with each's reason.
        OptionError: No such backend or precision, or less than one thread.
    """
    if "," in backend:
        return _open_first(path, backend.split(","), precision, threads, rebuild)
    folder = find_bundle(path)
    manifest = read_manifest_here(folder, backend, precision, threads=threads)
    if backend == AUTO or find_backend(backend).engine_runner is not None:
        manifest = _rebuild_engines_that_do_not_fit(manifest, folder, backend, rebuild=rebuild)
    configuration = choose_configuration(manifest, backend, precision)
    if not configuration.accepted:
        logger.warning(
            "%s was not accepted by the quality gate: %s", configuration.name, configuration.reason
        )
    logger.info("%s runs %s", folder, configuration.name)
    return _runner_of(configuration, manifest, folder, threads)


def _open_first(
    path: str | Path,
    backends: list[str],
    precision: str,
    threads: int | None,
    rebuild: bool | None,
) -> Runner:
    """Return the runner of the first backend that opens the bundle here; it is closed again."""
    for name in backends:
        find_backend(name)
    for name in backends[:-1]:
        try:
            runner = open_bundle(path, name, precision, threads=threads, rebuild=rebuild)
            with runner:
                return runner
        except MirnetEdgeError as error:
            logger.warning("%s is not used: %s", name, error)
    return open_bundle(path, backends[-1], precision, threads=threads, rebuild=rebuild)


def read_manifest_here(
    folder: Path, backend: str = AUTO, precision: str = AUTO, *, threads: int | None = None
) -> Manifest:
    """Return a bundle's manifest, with what is measured of it on this machine.

    That are the configurations of devices that the export did not measure; where there are such,
    or the package ships the bundle, the latencies of all.

    Args:
        folder: The bundle's folder.
        backend: Limits what is timed here; auto for all.
        precision: The same.
        threads: Of the runners that are timed.

    Raises:
        BundleError: No bundle there, or not a manifest that can be read.
        OptionError: Less than one thread.
    """
    manifest = add_configurations(read_manifest(folder), backend)
    if not is_shipped(folder) and not any(map(is_untried, manifest.configurations)):
        return manifest
    candidates = [
        one
        for one in manifest.configurations
        if backend in (AUTO, one.backend)
        and precision in (AUTO, one.precision)
        and _obstacle(one, manifest, one.precision) is None
        and _size_obstacle(one, manifest) is None
    ]
    return time_here(
        manifest,
        folder,
        candidates,
        lambda one: _runner_of(one, manifest, folder, threads),
        threads=threads,
    )


def choose_configuration(
    manifest: Manifest, backend: str = AUTO, precision: str = AUTO
) -> Configuration:
    """Return the configuration to run on this machine.

    Of those that fit: an accepted one of the backend with the highest `auto_rank` above 0; else the
    manifest's default where backend and precision are auto; else the fastest, accepted ones first,
    those without measured latency last. Why a higher rank is not chosen is logged.

    Raises:
        BundleError: None fits; with each's reason.
        OptionError: No such backend or precision.
    """
    if backend != AUTO:
        find_backend(backend)
    if precision not in (AUTO, *get_args(Precision)):
        raise OptionError(
            f"--precision must be {AUTO} or one of {', '.join(get_args(Precision))}, "
            f"found {precision!r}"
        )
    candidates = [
        configuration
        for configuration in manifest.configurations
        if backend in (AUTO, configuration.backend) and precision in (AUTO, configuration.precision)
    ]
    obstacles = {
        configuration.name: (_size_obstacle(configuration, manifest) if backend == AUTO else None)
        or _obstacle(configuration, manifest, precision)
        for configuration in candidates
    }
    fitting = [
        configuration for configuration in candidates if obstacles[configuration.name] is None
    ]
    if not fitting:
        raise BundleError(_nothing_fits(manifest, backend, precision, obstacles))
    rank = max(
        (_row(configuration).auto_rank for configuration in fitting if configuration.accepted),
        default=0,
    )
    _log_higher_ranks(obstacles, rank)
    if rank > 0:
        best = [
            configuration
            for configuration in fitting
            if configuration.accepted and _row(configuration).auto_rank == rank
        ]
        return min(best, key=_order)
    if backend == precision == AUTO:
        for configuration in fitting:
            if configuration.name == manifest.default_configuration:
                return configuration
    return min(fitting, key=_order)


def _rebuild_engines_that_do_not_fit(
    manifest: Manifest, folder: Path, backend: str, *, rebuild: bool | None
) -> Manifest:
    """Return the manifest, after building engines again that do not fit, where REBUILD says so."""
    from mirnet_edge.runtime.tensorrt import bundle_engines, library

    if not manifest.engines or not (library.is_jetson() if rebuild is None else rebuild):
        return manifest
    try:
        bundle_engines.rebuild_misfits(folder, on_stage=logger.warning)
    except MirnetEdgeError as error:
        if backend != AUTO:
            raise
        logger.warning("the engines could not be built here: %s", error)
    return read_manifest(folder)


def fitting_configurations(manifest: Manifest) -> list[Configuration]:
    """Return the accepted configurations that run here, fastest first, unmeasured ones last.

    All take frames of the sizes that the bundle takes.
    """
    fitting = [
        configuration
        for configuration in manifest.configurations
        if _obstacle(configuration, manifest, AUTO) is None
        and _size_obstacle(configuration, manifest) is None
    ]
    return sorted(fitting, key=_order)


def _row(configuration: Configuration) -> Backend:
    return find_backend(configuration.backend)


def _order(configuration: Configuration) -> tuple[bool, float, int]:
    """Return the sort key: accepted first, then latency, then the backend's preferred precision."""
    known = _row(configuration).precisions
    place = known.index(configuration.precision) if configuration.precision in known else len(known)
    return (
        not configuration.accepted,
        configuration.latency.p50_ms if configuration.latency else math.inf,
        place,
    )


def _obstacle(configuration: Configuration, manifest: Manifest, precision: str) -> str | None:
    """Return why a configuration does not run here, None where it does."""
    if configuration.backend not in backend_names():
        return unknown_backend_text(configuration.backend, manifest.tools.get("mirnet-edge"))
    if not configuration.accepted and precision == AUTO:
        return (
            f"not accepted ({configuration.reason}); ask for it with --precision "
            f"{configuration.precision}"
        )
    backend = _row(configuration)
    if not backend.runs_weights and not manifest.graph(configuration.graph).kept:
        return f"its graph was not kept ({configuration.reason})"
    return backend.obstacle(configuration, manifest)


def _size_obstacle(configuration: Configuration, manifest: Manifest) -> str | None:
    """Return why a configuration cannot run all frames that the bundle takes, None where it can."""
    size = manifest.graph(configuration.graph).size
    if size is None:
        return None
    return (
        f"its model takes frames of {size_text(*size)} alone; ask for it with --backend "
        f"{configuration.backend}"
    )


def _log_higher_ranks(obstacles: dict[str, str | None], rank: int) -> None:
    """Log why the configurations of higher ranks are not chosen."""
    for name, reason in obstacles.items():
        backend = name.partition(":")[0]
        if reason and backend in backend_names() and find_backend(backend).auto_rank > rank:
            logger.info("%s is not chosen: %s", name, reason)


def _nothing_fits(
    manifest: Manifest, backend: str, precision: str, obstacles: dict[str, str | None]
) -> str:
    wanted = f"backend {backend}, precision {precision}"
    if not obstacles:
        names = ", ".join(configuration.name for configuration in manifest.configurations)
        return (
            f"the bundle has no configuration for {wanted}; it has {names}. Choose one, or export "
            "again"
        )
    named: dict[str | None, list[str]] = {}
    for name, why in obstacles.items():
        named.setdefault(why, []).append(name)
    reasons = "; ".join(f"{', '.join(names)}: {why}" for why, names in named.items())
    return (
        f"no configuration of the bundle runs here for {wanted}: {reasons}. Choose another, or "
        "export again"
    )


def _runner_of(
    configuration: Configuration, manifest: Manifest, folder: Path, threads: int | None
) -> Runner:
    backend = _row(configuration)
    if backend.engine_runner is not None:
        engine = manifest.engine(configuration.graph)
        return backend.engine_runner(
            verify_path(folder, engine.plan),
            manifest.image,
            name=configuration.name,
            precision=configuration.precision,
            engine=engine,
            graph=manifest.graph(configuration.graph),
        )
    file = (
        verify_path(folder, manifest.model.weights)
        if backend.runs_weights
        else verify_graph(folder, manifest.graph(configuration.graph).onnx)
    )
    return backend.runner(
        file,
        manifest.image_of(configuration.graph),
        name=configuration.name,
        precision=configuration.precision,
        threads=threads,
    )


_LARGE_TILE = (1536, 1536)
# Peak of a run: 114 (low light) to 330 (super-resolution) bytes a pixel in ONNX Runtime, up to 327
# in OpenVINO, at 1024x1024 (2026-11)
_BYTES_PER_PIXEL = 400
_UNKNOWN_MEMORY = 4 << 30


def affordable_pixels() -> int:
    """Return how many pixels a shipped network restores at once in half of the memory left."""
    memory = available_memory()
    return (_UNKNOWN_MEMORY if memory is None else memory) // 2 // _BYTES_PER_PIXEL


@dataclass(frozen=True, kw_only=True)
class RunnerChoice:
    """The arguments of `open_bundle`, `tile_runner` and of a chain of several; can be pickled."""

    bundle: Path | None = None
    """None where weights restore."""
    weights: str | None = None
    """In place of bundles: a weights file, run by torch (`runtime.weights`)."""
    weights_key: str | None = None
    """Which set of weights of several in the file."""
    then: tuple[Path, ...] = ()
    """The bundles that restore what the one before gave, in their order."""
    backend: str = "auto"
    precision: str = "auto"
    configurations: tuple[str, ...] = ()
    """`backend:precision` of each bundle, where they are chosen already."""
    threads: int | None = None
    """None leaves it to the backend."""
    tile: tuple[int, int] | Literal["auto"] | None = None
    """(height, width) of a tile; "auto" for the graph's size or what the memory allows; None for
    whole frames, unless `max_memory_mib` is given."""
    max_memory_mib: int | None = None
    """Memory limit of one run beside the frames."""
    compiled: bool = False
    """Whether torch compiles the network of weights; see `TorchRunner`."""
    strength: float = 1.0
    """From 0, the source, to 1, the restored frame."""
    whole_pixels: int | None = None
    """Without a tile and a memory limit, frames of more pixels are restored in tiles, where the
    bundle's tiles equal the frame but for a few levels; None for whole frames of any size."""

    @property
    def bundles(self) -> tuple[Path, ...]:
        """Return all bundles in their order."""
        return () if self.bundle is None else (self.bundle, *self.then)

    def runner(self) -> Runner:
        """Return a new runner, not opened yet.

        Raises:
            BundleError: No bundle, a changed file, or no configuration that fits.
            CheckpointError: The weights cannot be loaded.
            OptionError: A value that makes no sense.
        """
        from mirnet_edge.runtime.chaining import BlendingRunner, chain_runners

        if self.weights is None:
            if self.compiled:
                raise OptionError(
                    "--compile is for --weights, which torch runs, found a bundle: its graphs are "
                    "optimized by their backend; leave it out"
                )
            runner = chain_runners([self._tiled(one) for one in self._open_bundles()])
        else:
            runner = self._open_weights(self.weights)
        return runner if self.strength == 1.0 else BlendingRunner(runner, self.strength)

    def choose_configurations(self) -> RunnerChoice:
        """Return the choice with the configurations that this machine prefers, for all machines.

        Raises:
            BundleError: As `runner`.
            OptionError: As `runner`.
        """
        if self.weights is not None:
            is_file = not self.weights.startswith(PREFIX)
            return replace(self, weights=str(Path(self.weights).absolute())) if is_file else self
        return replace(
            self,
            bundle=None if self.bundle is None else self.bundle.absolute(),
            then=tuple(one.absolute() for one in self.then),
            configurations=tuple(one.name for one in self._open_bundles()),
        )

    def fingerprint(self) -> str:
        """Return what the pixels depend on beside the configuration; equal ones restore alike."""
        from mirnet_edge.files import sha256_of
        from mirnet_edge.manifest import FILE_NAME

        if self.weights is not None:
            from mirnet_edge.checkpoints import resolve
            from mirnet_edge.checkpoints.keras_paths import values_file

            # tiles of any size equal the frame, whatever memory there is at the time
            weights = sha256_of(values_file(resolve(self.weights)))
            return f"{weights} {self.weights_key} {self.precision} {self.strength:g}"
        manifests = " ".join(sha256_of(one / FILE_NAME) for one in self.bundles)
        return f"{manifests} {self.tile} {self.max_memory_mib} {self.strength:g}"

    def _open_weights(self, weights: str) -> Runner:
        from mirnet_edge.runtime.weights import open_weights

        return open_weights(
            weights, self.weights_key, backend=self.backend, precision=self.precision,
            threads=self.threads, tile=self.tile, max_memory_mib=self.max_memory_mib,
            compiled=self.compiled,
        )  # fmt: skip

    def _open_bundles(self) -> list[Runner]:
        if self.configurations:
            chosen = [one.partition(":")[::2] for one in self.configurations]
        else:
            chosen = [(self.backend, self.precision)] * len(self.bundles)
        return [
            open_bundle(bundle, backend, precision, threads=self.threads)
            for bundle, (backend, precision) in zip(self.bundles, chosen, strict=True)
        ]

    def _tiled(self, runner: Runner) -> Runner:
        from mirnet_edge.runtime.tiling import tile_runner

        if self.tile is None and self.max_memory_mib is None:
            image: ImageContract | None = getattr(runner, "image", None)
            has_equal_tiles = image is not None and image.vectors and image.size is None
            if self.whole_pixels is None or not has_equal_tiles:
                return runner
            return tile_runner(runner, tile=_LARGE_TILE, whole_pixels=self.whole_pixels)
        size = None if self.tile == "auto" else self.tile
        return tile_runner(runner, tile=size, max_memory_mib=self.max_memory_mib)
