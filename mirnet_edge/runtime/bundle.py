"""Open a bundle: choose the configuration that runs here, and make its runner."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mirnet_edge.dependencies import advice, available
from mirnet_edge.errors import BundleError, MirnetEdgeError, OptionError
from mirnet_edge.manifest import BackendName, Precision, checked_path, read_manifest

if TYPE_CHECKING:
    from mirnet_edge.manifest import Configuration, Manifest
    from mirnet_edge.runtime.runner import Runner

logger = logging.getLogger(__name__)

AUTO = "auto"
# Of modes that nobody timed on this GPU. INT8 is often slower than fp16 there, and riskier.
_GPU_ORDER = ("fp16", "int8+fp16", "int8", "fp32")


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
        backend: openvino, onnxruntime, torch, tensorrt, or auto, which takes TensorRT where one,
            a GPU, and a plan that fits both are there.
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
    if backend in (AUTO, "tensorrt"):
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
    _check_word("--backend", backend, get_args(BackendName))
    _check_word("--precision", precision, get_args(Precision))
    asked = [
        mode
        for mode in manifest.configurations
        if backend in (AUTO, mode.backend) and precision in (AUTO, mode.precision)
    ]
    obstacles = {mode.name: _obstacle(mode, manifest, precision) for mode in asked}
    fitting = [mode for mode in asked if obstacles[mode.name] is None]
    if not fitting:
        raise BundleError(_nothing_fits(manifest, backend, precision, obstacles))
    on_gpu = [mode for mode in fitting if mode.backend == "tensorrt" and mode.accepted]
    if on_gpu:
        return min(on_gpu, key=lambda mode: (_order(mode), _GPU_ORDER.index(mode.precision)))
    for name, reason in obstacles.items():
        if name.startswith("tensorrt:"):
            logger.info("%s is not taken: %s", name, reason)
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


def _check_word(option: str, found: str, known: tuple[str, ...]) -> None:
    if found not in (AUTO, *known):
        raise OptionError(f"{option} must be {AUTO} or one of {', '.join(known)}, found {found!r}")


def _order(mode: Configuration) -> tuple[bool, float]:
    return not mode.accepted, mode.latency.p50_ms if mode.latency else math.inf


def _obstacle(mode: Configuration, manifest: Manifest, precision: str) -> str | None:
    """Return why a mode cannot be taken here, None where it can."""
    if not mode.accepted and precision == AUTO:
        return f"not accepted ({mode.reason}); ask for it with --precision {mode.precision}"
    if mode.backend != "torch" and not manifest.graph(mode.graph).kept:
        return f"its graph was not kept ({mode.reason})"
    if mode.backend == "tensorrt":
        from mirnet_edge.runtime.tensorrt import runner

        return runner.why_unavailable(mode, manifest)
    if not available(mode.backend):
        return f"{mode.backend} is not installed: {advice(mode.backend)}"
    if not _is_supported(mode):
        return f"this processor has no {mode.precision} in {mode.backend}"
    return None


def _is_supported(mode: Configuration) -> bool:
    # each backend's module imports its package on first use only
    from mirnet_edge.runtime import onnxruntime_runner, openvino_runner, torch_runner

    if mode.backend == "openvino":
        return openvino_runner.supports(mode.precision)
    if mode.backend == "torch":
        return torch_runner.supports(mode.precision)
    return onnxruntime_runner.supports(mode.precision)


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
    if mode.backend == "torch":
        from mirnet_edge.runtime.torch_runner import TorchRunner

        weights = checked_path(folder, manifest.model.weights)
        return TorchRunner(
            weights, manifest.image, name=mode.name, precision=mode.precision, threads=threads
        )
    if mode.backend == "tensorrt":
        from mirnet_edge.runtime.tensorrt.runner import TensorRtRunner

        engine = manifest.engine(mode.graph)
        return TensorRtRunner(
            checked_path(folder, engine.plan),
            manifest.image,
            name=mode.name,
            precision=mode.precision,
            engine=engine,
            graph=manifest.graph(mode.graph),
        )
    graph = checked_path(folder, manifest.graph(mode.graph).onnx)
    if mode.backend == "openvino":
        from mirnet_edge.runtime.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(
            graph, manifest.image, name=mode.name, precision=mode.precision, threads=threads
        )
    from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(
        graph, manifest.image, name=mode.name, precision=mode.precision, threads=threads
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
