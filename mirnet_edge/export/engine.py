"""Build TensorRT plans: one path through TensorRT 10.3, 10.13, 11 and TensorRT-RTX.

The network is strongly typed: its precision stands in the ONNX file, never in a builder flag.
Only names that all four versions share are used; a test holds that.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import EngineError, MissingDependencyError, OptionError
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import EngineFacts, bind

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

FLAVOURS = ("tensorrt", "tensorrt_rtx")
HOW_TO_GET_ONE = (
    "on a Jetson it comes with JetPack (a virtual environment needs --system-site-packages), "
    "elsewhere from NVIDIA's package index; for RTX cards "
    'pip install "mirnet-edge[tensorrt-rtx]", whose builder works without a GPU'
)
# What a parser says, as a mere warning, of a graph whose numbers it will misread.
_MISREADINGS = (
    "UINT8 zero_point",
    "will use INT8 instead",
    "Defaulting to INT8",
    "INT32 zero_point",
)


@dataclass(frozen=True)
class Profile:
    """The input shapes an engine is built for.

    Raises:
        OptionError: The shapes are not in order.
    """

    minimum: tuple[int, ...]
    usual: tuple[int, ...]
    """The one it is made fastest for."""
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


def find_tensorrt(flavour: str | None = None) -> ModuleType:
    """Return the TensorRT that is installed.

    Args:
        flavour: `tensorrt` or `tensorrt_rtx`; None for the first that can be loaded.

    Raises:
        MissingDependencyError: None can be; says of each why, and how to get one.
    """
    reasons = []
    for name in (flavour,) if flavour else FLAVOURS:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a driver library is missing
            reasons.append(f"{name}: {error}")
    raise MissingDependencyError(
        f"building a TensorRT plan needs TensorRT, and none could be loaded "
        f"({'; '.join(reasons)}): {HOW_TO_GET_ONE}"
    )


def build_engine(
    onnx_path: Path,
    plan_path: Path,
    profile: Profile,
    *,
    graph: str | None = None,
    workspace_mib: int | None = None,
    flavour: str | None = None,
) -> EngineFacts:
    """Build a plan of an ONNX file and say what it is.

    The file stays a plain TensorRT plan, without a prefix: any TensorRT of the same version on the
    same kind of GPU opens it.

    Args:
        onnx_path: One file; further inputs than the frames have a row per frame.
        plan_path: The file to write, whole or not at all.
        profile: The shapes of frames it is built for.
        graph: The graph's name in the bundle; the file's stem by default.
        workspace_mib: Most memory a layer may use; None for TensorRT's own limit.
        flavour: Which TensorRT; see `find_tensorrt`.

    Raises:
        MissingDependencyError: There is no TensorRT.
        EngineError: It refuses the graph, or would misread it; names the node.
    """
    trt = find_tensorrt(flavour)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, logger, onnx_path)
    config = builder.create_builder_config()
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(network.get_input(0).name, profile.minimum, profile.usual, profile.maximum)
    for place in range(1, network.num_inputs):  # those of an anchored graph: one row per frame
        tensor = network.get_input(place)
        sides = [
            tuple(frames[0] if side < 0 else side for side in tensor.shape)
            for frames in (profile.minimum, profile.usual, profile.maximum)
        ]
        shapes.set_shape(tensor.name, *sides)
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(
            f"{onnx_path.name}: TensorRT refuses the profile {profile}; expected shapes that fit "
            f"the graph's input {tuple(network.get_input(0).shape)}"
        )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{onnx_path.name}: TensorRT {trt.__version__} cannot build it: {_first(logger)}"
        )
    write_atomically(plan_path, bytes(memoryview(plan)))
    return EngineFacts(
        plan=bind(plan_path),
        graph=graph or onnx_path.stem,
        flavour=trt.__name__,
        version=trt.__version__,
        profile={
            "min": list(profile.minimum),
            "opt": list(profile.usual),
            "max": list(profile.maximum),
        },
    )


def _strongly_typed(trt: ModuleType) -> int:
    # required by TensorRT 10, the only mode of 11 and RTX
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if "STRONGLY_TYPED" in flags.__members__ else 0


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


def _first(logger: Any) -> str:  # noqa: ANN401  # untyped library
    for severity, message in logger.records:
        if "ERROR" in severity:
            return str(message)
    return "it gives no reason"


def _logger(trt: ModuleType) -> Any:  # noqa: ANN401  # untyped library
    """Return a logger that keeps what TensorRT says instead of printing it."""

    class Kept(trt.ILogger):  # type: ignore[misc,name-defined]  # untyped library
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.records: list[tuple[str, str]] = []

        def log(self, severity: object, message: str) -> None:
            self.records.append((str(severity).rpartition(".")[2], message))

    return Kept()
