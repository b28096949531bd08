"""Build TensorRT engines: optimization profiles, build settings, precision inspection.

TensorRT 11 dropped the flags that earlier scripts set, and `fp16=True` built FP32 engines without a
warning (rf-detr issue 1453, 2026). Here the engine inspector's layers are read after each build.

The network is strongly typed: the ONNX file states its precision, never a builder flag. Only names
that all four supported versions have are used; a test checks that.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import EngineError, MirnetEdgeError, OptionError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.manifest import EngineFacts, bind
from mirnet_edge.onnx_wire import convolution_model
from mirnet_edge.runtime.tensorrt import rtx
from mirnet_edge.runtime.tensorrt.cuda import Cuda
from mirnet_edge.runtime.tensorrt.library import (
    find_fp8_obstacle,
    find_tensorrt,
    first_error,
    is_rtx,
    recording_logger,
    timing_origin,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.tensorrt.cuda import Gpu

# A portable default where the user gave no size: one profile from thumbnails to full HD.
_MINIMUM, _USUAL, _MAXIMUM = (64, 64), (480, 640), (1088, 1920)
LADDER = ((360, 640), (480, 640), (720, 1280))
"""(height, width) of the usual camera sizes, one static profile each."""


@dataclass(frozen=True)
class OptimizationProfile:
    """The input shapes an engine is built for.

    Raises:
        OptionError: The shapes are not in order.
    """

    minimum: tuple[int, ...]
    usual: tuple[int, ...]
    """The shape to optimize for."""
    maximum: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse shapes that are not in order."""
        if not len(self.minimum) == len(self.usual) == len(self.maximum) or any(
            not low <= middle <= high
            for low, middle, high in zip(self.minimum, self.usual, self.maximum, strict=True)
        ):
            raise OptionError(
                f"profile shapes must rise from {self.minimum} over {self.usual} to {self.maximum} "
                "on every axis; give them in that order"
            )

    @property
    def is_static(self) -> bool:
        """Return whether it holds one shape only, which can be captured as a CUDA graph."""
        return self.minimum == self.maximum

    def holds(self, shape: Sequence[int]) -> bool:
        """Return whether an input of this shape is within it."""
        return len(shape) == len(self.minimum) and all(
            low <= side <= high
            for low, side, high in zip(self.minimum, shape, self.maximum, strict=True)
        )

    def to_document(self) -> dict[str, list[int]]:
        """Return the manifest's entry of it."""
        return {"min": list(self.minimum), "opt": list(self.usual), "max": list(self.maximum)}

    @classmethod
    def from_document(cls, document: dict[str, list[int]]) -> OptimizationProfile:
        """Return the profile that a manifest describes."""
        return cls(*(tuple(document[name]) for name in ("min", "opt", "max")))


def profiles_for(
    image: ImageContract, sizes: Sequence[tuple[int, int]] | None = None
) -> tuple[OptimizationProfile, ...]:
    """Return the profiles of a bundle's plan: static ones for sizes, else a dynamic one.

    Args:
        image: The graph's inputs and outputs.
        sizes: (height, width) of the frames; padded to the multiple here.

    Raises:
        OptionError: The graph has one fixed size, and others are given.
    """
    if image.size is not None:
        wanted = {_pad_profile(size, image.multiple) for size in sizes or (image.size,)}
        if wanted != {tuple(image.size)}:
            height, width = image.size
            raise OptionError(
                f"the graph takes {width}x{height} only, found other sizes for "
                "its engine: leave --profiles out, or export again with --dynamic"
            )
        return (_profile(image, image.size, image.size, image.size),)
    if sizes:
        unique = dict.fromkeys(_pad_profile(size, image.multiple) for size in sizes)
        return tuple(_profile(image, size, size, size) for size in unique)
    return (_profile(image, _MINIMUM, _USUAL, _MAXIMUM),)


def sizes_from_text(text: str) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) of sizes like `640x360,1280x720`; `ladder` for the usual ones.

    Raises:
        OptionError: Another format.
    """
    if text == "ladder":
        return LADDER
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d*)[x×]([1-9]\d*)\s*", part)
        if not found:
            raise OptionError(
                f"profiles are sizes WIDTHxHEIGHT like 640x360,1280x720, or ladder; found {part!r}"
            )
        sizes.append((int(found[2]), int(found[1])))
    return tuple(sizes)


def _pad_profile(size: Sequence[int], multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def _profile(image: ImageContract, *sizes: Sequence[int]) -> OptimizationProfile:
    padded = [_pad_profile(size, image.multiple) for size in sizes]
    return OptimizationProfile(
        *((1, *size, 3) if image.io == "uint8" else (1, 3, *size) for size in padded)
    )


# The names of types in the inspector's texts, like "Row major linear FP16 format"
_TYPES = (("fp8", "fp8"), ("int8", "int8"), ("fp16", "fp16"), ("half", "fp16"), ("bf16", "bf16"),
          ("fp32", "fp32"), ("float", "fp32"))  # fmt: skip
# The precision that most of the convolutions of such a graph must have
_EXPECTED: dict[str, str] = {
    "fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8+fp16": "int8", "fp8": "fp8",
    "fp8+fp16": "fp8",
}  # fmt: skip


def count_convolutions(information: str, name: str) -> dict[str, int] | None:
    """Return how many convolutions of an engine compute in which precision.

    Args:
        information: The engine inspector's JSON. Its keys changed with TensorRT 11; both are read.
        name: Of the engine, for messages.

    Returns:
        None where the inspector states no types, as TensorRT-RTX's may not.

    Raises:
        EngineError: Not JSON.
    """
    try:
        document = json.loads(information)
    except ValueError as error:
        raise EngineError(
            f"{name}: the engine inspector's text is not JSON ({error}); please report it with "
            "TensorRT's version"
        ) from error
    found = Counter(_precision(layer) for layer in _layers(document) if _is_convolution(layer))
    found.pop(None, None)
    return {str(kind): count for kind, count in found.items()} or None


def require_precision(
    delivered: dict[str, int] | None, requested: Precision, name: str
) -> dict[str, int] | None:
    """Return the precisions built, after checking that most are the one that was requested.

    Most, not all: INT8 graphs keep in float what computes the global context.

    Raises:
        EngineError: They do not.
    """
    if not delivered or requested not in _EXPECTED:
        return delivered
    if delivered.get(_EXPECTED[requested], 0) * 2 < sum(delivered.values()):
        counts = ", ".join(f"{count} in {kind}" for kind, count in sorted(delivered.items()))
        raise EngineError(
            f"{name}: expected {requested}, TensorRT built its convolutions as {counts}. The "
            "engine is not used; export again, and report it if that does not help"
        )
    return delivered


def _layers(document: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  # JSON
    layers = document.get("Layers", []) if isinstance(document, dict) else []
    return (layer for layer in layers if isinstance(layer, dict))


def _is_convolution(layer: dict[str, Any]) -> bool:
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
    return "conv" in kind


def _precision(layer: dict[str, Any]) -> str | None:
    """Return the type of a layer's inputs, which is the precision it computes in."""
    inputs = layer.get("Inputs") or []
    for entry in inputs if isinstance(inputs, list) else []:
        if isinstance(entry, dict):
            said = str(entry.get("Format/Datatype", entry.get("Datatype", ""))).lower()
            for text, kind in _TYPES:
                if text in said:
                    return kind
    return None


# Warnings of parsers about graphs whose numbers they misread.
_MISREADINGS = (
    "UINT8 zero_point",
    "will use INT8 instead",
    "Defaulting to INT8",
    "INT32 zero_point",
)
# Messages of TensorRT 10.3 to 11 about insufficient memory.
_SHORT_OF_MEMORY = (
    "outofmemory", "out of memory", "insufficient memory", "bad_alloc", "cudaerrormemoryallocation",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Build settings; TensorRT's default where None."""

    workspace_mib: int | None = None
    """Memory limit of a layer."""
    level: int | None = None
    """Optimization level, 0 to 5: higher ones take longer to build."""
    capabilities: tuple[str, ...] = ()
    """For TensorRT-RTX: compute capabilities to build for, as 8.6. Empty for Ampere and later."""

    def to_document(self) -> dict[str, int | str]:
        """Return the manifest's entry of them."""
        stated = {"workspace_mib": self.workspace_mib, "level": self.level}
        return {name: value for name, value in stated.items() if value is not None}


class OutOfMemoryError(EngineError):
    """A build ran out of memory; one with a smaller workspace or profile may succeed."""


def build_engine(
    onnx_path: Path,
    plan_path: Path,
    profiles: Sequence[OptimizationProfile],
    *,
    graph: str | None = None,
    precision: Precision | None = None,
    settings: BuildSettings | None = None,
    flavor: str | None = None,
    timing_cache: Path | None = None,
    cache_origin: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> EngineFacts:
    """Build an engine of an ONNX file, in this process and in one attempt, and return its facts.

    The file is a plain TensorRT engine, without a prefix: any TensorRT of the same version on the
    same kind of GPU opens it.

    Args:
        onnx_path: One file, of one input.
        plan_path: The file to write, whole or not at all.
        profiles: The input shapes it is built for, at least one.
        graph: The graph's name in the bundle; the file's stem by default.
        precision: Of the graph; checked where the engine can be inspected here.
        settings: Build settings.
        flavor: The TensorRT; see `find_tensorrt`.
        timing_cache: The file of the timing cache, read and written. Not used by TensorRT-RTX,
            which times nothing.
        cache_origin: The manifest's entry of that file; where it is not this TensorRT on this GPU
            the file is not read, which is reported, and replaced.
        on_progress: Called with TensorRT's phases, from its threads, where it reports them.

    Raises:
        MissingDependencyError: There is no TensorRT.
        OutOfMemoryError: There is not enough memory.
        EngineError: TensorRT refuses or would misread the graph; names the node. Or the engine
            computes in another precision than the graph.
    """
    trt = find_tensorrt(flavor)
    cuda = _cuda_here()
    gpu = None if cuda is None else cuda.gpu()
    settings = settings or BuildSettings()
    if cuda is not None and gpu is not None and settings.workspace_mib is None:
        free = workspace_of(cuda.free_bytes() >> 20, shared=gpu.integrated)
        settings = replace(settings, workspace_mib=free)
    if is_rtx(trt) and gpu is not None and not settings.capabilities:
        rtx.require_support(gpu.capability)
    if precision is not None and precision.startswith("fp8"):
        settings = _set_fp8_capabilities(trt, settings, gpu, onnx_path.name)
    logger = recording_logger(trt)
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
    monitor = _set_monitor(trt, config, on_progress)
    cache = None if is_rtx(trt) else timing_cache
    if cache is not None:
        kept = _read_timing_cache(cache, cache_origin, _origin_here(trt, gpu), on_progress)
        config.set_timing_cache(config.create_timing_cache(kept), False)  # TensorRT's
    plan = builder.build_serialized_network(network, config)
    del monitor  # it had to outlive the build
    if plan is None:
        raise _failure(f"{onnx_path.name}: TensorRT {trt.__version__} cannot build it", logger)
    serialized = bytes(memoryview(plan))
    delivered = None if gpu is None else _inspect(trt, serialized, logger, onnx_path.stem)
    if precision is not None:
        require_precision(delivered, precision, onnx_path.name)
    write_atomically(plan_path, serialized)
    if cache is not None:
        write_atomically(cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return EngineFacts(
        plan=bind(plan_path),
        graph=graph or onnx_path.stem,
        flavor=trt.__name__,
        version=trt.__version__,
        profiles=[profile.to_document() for profile in profiles],
        onnx_sha256=sha256_of(onnx_path),
        cuda=gpu.cuda if gpu else None,
        device=gpu.name if gpu else None,
        capabilities=_capabilities(trt, settings, gpu),
        flags=settings.to_document(),
        delivered=delivered,
    )


def build_one_layer(flavor: str | None = None) -> None:
    """Build an engine of one convolution, to know whether this TensorRT builds anything here.

    Raises:
        MissingDependencyError: There is no TensorRT.
        EngineError: It builds none.
    """
    sides = (1, 3, 8, 8)
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "one-convolution.onnx"
        graph.write_bytes(convolution_model())
        profile = OptimizationProfile(sides, sides, sides)
        build_engine(graph, graph.with_suffix(".plan"), [profile], flavor=flavor)


def _set_fp8_capabilities(
    trt: ModuleType, settings: BuildSettings, gpu: Gpu | None, name: str
) -> BuildSettings:
    """Return settings for GPUs that have FP8.

    TensorRT-RTX builds for several GPUs, by default for those with FP8; TensorRT for the one here.

    Raises:
        EngineError: One of them has none.
    """
    targets = list(settings.capabilities)
    if not targets and gpu is not None:
        targets = [gpu.capability]
    for capability in targets:
        obstacle = find_fp8_obstacle(capability)
        if obstacle is not None:
            raise EngineError(f"{name}: {obstacle}")
    if targets or not is_rtx(trt):
        return settings
    fitting = tuple(one for one in rtx.CAPABILITIES if find_fp8_obstacle(one) is None)
    return replace(settings, capabilities=fitting)


def workspace_of(free_mib: int, *, shared: bool) -> int:
    """Return the workspace, in MiB: 4/5 of the free memory, half where the CPU shares it."""
    return max(64, free_mib // 2 if shared else free_mib * 4 // 5)


def _origin_here(trt: ModuleType, gpu: Gpu | None) -> str:
    device, capability = (gpu.name, gpu.capability) if gpu else (None, None)
    return timing_origin(trt.__version__, device, capability)


def _read_timing_cache(
    cache: Path, origin: str | None, here: str, on_progress: Callable[[str], None] | None
) -> bytes:
    """Return an earlier build's timing cache; empty where it is of another TensorRT or GPU."""
    if not cache.is_file():
        return b""
    if origin == here:
        return cache.read_bytes()
    if on_progress is not None:
        found = origin or "unknown origin, or was changed since"
        on_progress(f"timing again: {cache.name} is of {found}, here is {here}")
    return b""


def _cuda_here() -> Cuda | None:
    try:
        return Cuda()
    except MirnetEdgeError:  # TensorRT-RTX builds without a GPU; TensorRT raises its own error
        return None


def _capabilities(trt: ModuleType, settings: BuildSettings, gpu: Gpu | None) -> list[str]:
    if is_rtx(trt):
        return list(settings.capabilities)
    return [gpu.capability] if gpu else []


def _strongly_typed(trt: ModuleType) -> int:
    # required by TensorRT 10, the only mode of 11 and RTX
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if "STRONGLY_TYPED" in flags.__members__ else 0


def _configure(trt: ModuleType, config: Any, settings: BuildSettings) -> None:  # noqa: ANN401  # untyped library
    # the inspector then states what each layer computes in
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.capabilities and is_rtx(trt):
        rtx.set_capabilities(trt, config, settings.capabilities)


def _set_shapes(shapes: Any, network: Any, profile: OptimizationProfile) -> None:  # noqa: ANN401  # untyped library
    """Set the shapes of the frames; of further inputs only the batch is dynamic."""
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


def _set_monitor(trt: ModuleType, config: Any, on_progress: Callable[[str], None] | None) -> Any:  # noqa: ANN401  # untyped library
    """Set a progress monitor where this TensorRT has one; it must outlive the build."""
    if on_progress is None or not hasattr(trt, "IProgressMonitor"):
        return None
    report = on_progress

    class Phases(trt.IProgressMonitor):  # type: ignore[misc,name-defined]  # untyped library
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            del parent
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            report(f"{phase}: {step + 1} of {self.steps.get(phase, step + 1)}")
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    config.progress_monitor = monitor = Phases()
    return monitor


def _failure(what: str, logger: Any) -> EngineError:  # noqa: ANN401  # untyped library
    text = " ".join(message for _, message in logger.records).lower()
    short = any(phrase in text for phrase in _SHORT_OF_MEMORY)
    return (OutOfMemoryError if short else EngineError)(f"{what}: {first_error(logger)}")


def _inspect(trt: ModuleType, plan: bytes, logger: Any, name: str) -> dict[str, int] | None:  # noqa: ANN401  # untyped library
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None  # built for other GPUs than the one here
    inspector = engine.create_engine_inspector()
    return count_convolutions(
        inspector.get_engine_information(trt.LayerInformationFormat.JSON), name
    )
