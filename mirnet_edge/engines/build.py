"""Build TensorRT plans: one path through TensorRT 10.3, 10.13, 11 and TensorRT-RTX.

The network is strongly typed: its precision stands in the ONNX file, never in a builder flag.
Only names that all four versions share are used; a test holds that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mirnet_edge.engines import rtx
from mirnet_edge.engines.cuda import Cuda
from mirnet_edge.engines.identity import timing_origin
from mirnet_edge.engines.inspection import convolutions, require_precision
from mirnet_edge.engines.library import find_tensorrt, first_error, is_rtx, kept_logger
from mirnet_edge.errors import EngineError, MirnetEdgeError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.manifest import EngineFacts, bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import ModuleType

    from mirnet_edge.engines.cuda import Gpu
    from mirnet_edge.engines.profiles import Profile
    from mirnet_edge.manifest import Precision

# What a parser says, as a mere warning, of a graph whose numbers it will misread.
_MISREADINGS = (
    "UINT8 zero_point",
    "will use INT8 instead",
    "Defaulting to INT8",
    "INT32 zero_point",
)
# What TensorRT 10.3 to 11 say where memory did not suffice.
_SHORT_OF_MEMORY = (
    "outofmemory", "out of memory", "insufficient memory", "bad_alloc", "cudaerrormemoryallocation",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to build; what is None is left to TensorRT."""

    workspace_mib: int | None = None
    """Most memory a layer may use."""
    level: int | None = None
    """Of optimization, 0 to 5: higher takes longer to build."""
    capabilities: tuple[str, ...] = ()
    """For TensorRT-RTX: kinds of card to build for, as 8.6. Empty for Ampere and later."""

    def to_document(self) -> dict[str, int | str]:
        """Return what the manifest says of them."""
        stated = {"workspace_mib": self.workspace_mib, "level": self.level}
        return {name: value for name, value in stated.items() if value is not None}


class OutOfMemoryError(EngineError):
    """A build needed more memory than there was; one with less ambition may succeed."""


def build_engine(
    onnx_path: Path,
    plan_path: Path,
    profiles: Sequence[Profile],
    *,
    graph: str | None = None,
    precision: Precision | None = None,
    settings: Settings | None = None,
    flavour: str | None = None,
    timing_cache: Path | None = None,
    cache_origin: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> EngineFacts:
    """Build a plan of an ONNX file, in this process and in one attempt, and say what it is.

    The file stays a plain TensorRT plan, without a prefix: any TensorRT of the same version on the
    same kind of GPU opens it.

    Args:
        onnx_path: One file, of one input.
        plan_path: The file to write, whole or not at all.
        profiles: The input shapes it is built for, at least one.
        graph: The graph's name in the bundle; the file's stem by default.
        precision: Of the graph; where the plan can be inspected here, it must have been kept.
        settings: How to build.
        flavour: Which TensorRT; see `find_tensorrt`.
        timing_cache: A file that keeps what was timed, for the next build. Not used by
            TensorRT-RTX, which times nothing.
        cache_origin: What the manifest says of that file; where it is not this TensorRT on this
            GPU the file is not read, which is told, and replaced.
        on_progress: Told what TensorRT is doing, from its threads, where it says so.

    Raises:
        MissingDependencyError: There is no TensorRT.
        OutOfMemoryError: Memory did not suffice.
        EngineError: It refuses the graph, or would misread it; names the node. Or the plan
            computes in another precision than the graph asks for.
    """
    trt = find_tensorrt(flavour)
    cuda = _cuda_here()
    gpu = None if cuda is None else cuda.gpu()
    settings = settings or Settings()
    if cuda is not None and gpu is not None and settings.workspace_mib is None:
        free = workspace_of(cuda.free_bytes() >> 20, shared=gpu.integrated)
        settings = replace(settings, workspace_mib=free)
    if is_rtx(trt) and gpu is not None and not settings.capabilities:
        rtx.require_support(gpu.capability)
    logger = kept_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, logger, onnx_path)
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        _set_shapes(shapes, network, profile)
        if config.add_optimization_profile(shapes) < 0:
            raise EngineError(
                f"{onnx_path.name}: TensorRT refuses the profile {profile}; expected shapes that "
                f"fit the graph's input {tuple(network.get_input(0).shape)}"
            )
    monitor = _watch(trt, config, on_progress)
    cache = None if is_rtx(trt) else timing_cache
    if cache is not None:
        kept = _kept_timings(cache, cache_origin, _origin_here(trt, gpu), on_progress)
        config.set_timing_cache(config.create_timing_cache(kept), False)  # TensorRT's
    plan = builder.build_serialized_network(network, config)
    del monitor  # it had to outlive the build
    if plan is None:
        raise _failure(f"{onnx_path.name}: TensorRT {trt.__version__} cannot build it", logger)
    serialized = bytes(memoryview(plan))
    delivered = None if gpu is None else _delivered(trt, serialized, logger, onnx_path.stem)
    if precision is not None:
        require_precision(delivered, precision, onnx_path.name)
    write_atomically(plan_path, serialized)
    if cache is not None:
        write_atomically(cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return EngineFacts(
        plan=bind(plan_path),
        graph=graph or onnx_path.stem,
        flavour=trt.__name__,
        version=trt.__version__,
        profiles=[profile.to_document() for profile in profiles],
        onnx_sha256=sha256_of(onnx_path),
        cuda=gpu.cuda if gpu else None,
        device=gpu.name if gpu else None,
        capabilities=_capabilities(trt, settings, gpu),
        flags=settings.to_document(),
        delivered=delivered,
    )


def workspace_of(free_mib: int, *, shared: bool) -> int:
    """Return the workspace for that much free memory: most of it, half where the CPU shares it."""
    return max(64, free_mib // 2 if shared else free_mib * 4 // 5)


def _origin_here(trt: ModuleType, gpu: Gpu | None) -> str:
    device, capability = (gpu.name, gpu.capability) if gpu else (None, None)
    return timing_origin(trt.__version__, device, capability)


def _kept_timings(
    cache: Path, origin: str | None, here: str, on_progress: Callable[[str], None] | None
) -> bytes:
    """Return what an earlier build timed: nothing where that was elsewhere."""
    if not cache.is_file():
        return b""
    if origin == here:
        return cache.read_bytes()
    if on_progress is not None:
        found = origin or "unknown origin, or was changed since"
        on_progress(f"timing anew: {cache.name} is of {found}, and here is {here}")
    return b""


def _cuda_here() -> Cuda | None:
    try:
        return Cuda()
    except MirnetEdgeError:  # TensorRT-RTX builds without; TensorRT will say what it lacks
        return None


def _capabilities(trt: ModuleType, settings: Settings, gpu: Gpu | None) -> list[str]:
    if is_rtx(trt):
        return list(settings.capabilities)
    return [gpu.capability] if gpu else []


def _strongly_typed(trt: ModuleType) -> int:
    # required by TensorRT 10, the only mode of 11 and RTX
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if "STRONGLY_TYPED" in flags.__members__ else 0


def _configure(trt: ModuleType, config: Any, settings: Settings) -> None:  # noqa: ANN401  # untyped library
    # so that the inspector tells what each layer computes in
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.capabilities and is_rtx(trt):
        rtx.target(trt, config, settings.capabilities)


def _set_shapes(shapes: Any, network: Any, profile: Profile) -> None:  # noqa: ANN401  # untyped library
    """Give the frames the profile's shapes; an input of another rank has only its batch open."""
    for place in range(network.num_inputs):
        entry = network.get_input(place)
        if place == 0:
            shapes.set_shape(entry.name, profile.minimum, profile.usual, profile.maximum)
        elif any(side < 0 for side in entry.shape):
            wanted = [
                tuple(one[0] if side < 0 else side for side in entry.shape)
                for one in (profile.minimum, profile.usual, profile.maximum)
            ]
            shapes.set_shape(entry.name, *wanted)


def _parse(trt: ModuleType, network: Any, logger: Any, path: Path) -> None:  # noqa: ANN401  # untyped library
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        # the first error is the cause; later ones follow from it, or from there being no GPU
        first = parser.get_error(0)
        raise EngineError(
            f"{path.name}: TensorRT {trt.__version__} refuses the node {first.node_name()!r} "
            f"({first.node_operator()}): {first.desc()}. Export again for TensorRT: "
            "--target tensorrt"
        )
    for severity, message in logger.records:
        if any(phrase in message for phrase in _MISREADINGS):
            raise EngineError(
                f"{path.name}: TensorRT {trt.__version__} would misread the graph ({severity}: "
                f"{message}). Export again for TensorRT: --target tensorrt"
            )


def _watch(trt: ModuleType, config: Any, on_progress: Callable[[str], None] | None) -> Any:  # noqa: ANN401  # untyped library
    """Have a build report its phases, where this TensorRT does; return what must outlive it."""
    if on_progress is None or not hasattr(trt, "IProgressMonitor"):
        return None
    told = on_progress

    class Phases(trt.IProgressMonitor):  # type: ignore[misc,name-defined]  # untyped library
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            del parent
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            told(f"{phase}: {step + 1} of {self.steps.get(phase, step + 1)}")
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    config.progress_monitor = monitor = Phases()
    return monitor


def _failure(what: str, logger: Any) -> EngineError:  # noqa: ANN401  # untyped library
    said = " ".join(message for _, message in logger.records).lower()
    short = any(phrase in said for phrase in _SHORT_OF_MEMORY)
    return (OutOfMemoryError if short else EngineError)(f"{what}: {first_error(logger)}")


def _delivered(trt: ModuleType, plan: bytes, logger: Any, name: str) -> dict[str, int] | None:  # noqa: ANN401  # untyped library
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None  # built for other GPUs than the one here
    inspector = engine.create_engine_inspector()
    return convolutions(inspector.get_engine_information(trt.LayerInformationFormat.JSON), name)
