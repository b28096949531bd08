"""Find the installed TensorRT library, and check that an engine fits this machine.

TensorRT itself returns `None`, without a reason, for an engine of another version or GPU.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import EngineError, MissingDependencyError
from mirnet_edge.runtime.tensorrt import rtx

if TYPE_CHECKING:
    from types import ModuleType

    from mirnet_edge.manifest import EngineFacts, GraphFacts
    from mirnet_edge.runtime.tensorrt.cuda import Gpu

FLAVORS = ("tensorrt", "tensorrt_rtx")
HOW_TO_INSTALL = (
    "on a Jetson it comes with JetPack (a virtual environment needs --system-site-packages), "
    "elsewhere from NVIDIA's package index; for RTX cards "
    'pip install "mirnet-edge[tensorrt-rtx]", whose builder works without a GPU'
)

_DLA_COMPILER = "libnvdla_compiler.so"
"""A library of boards with a DLA that TensorRT up to 10.11 is linked with."""


def find_tensorrt(flavor: str | None = None) -> ModuleType:
    """Return the TensorRT that is installed.

    Args:
        flavor: `tensorrt` or `tensorrt_rtx`; None for the first that can be loaded.

    Raises:
        MissingDependencyError: None can be loaded; says why, and how to install one.
    """
    reasons = []
    for name in (flavor,) if flavor else FLAVORS:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a driver library is missing
            reasons.append(f"{name}: {error}{_explain(error)}")
    raise MissingDependencyError(
        "a TensorRT engine needs TensorRT, and none could be loaded "
        f"({'; '.join(reasons)}): {HOW_TO_INSTALL}"
    )


def _explain(error: Exception) -> str:
    """Return what else is known about a library's error; an empty text for most."""
    if _DLA_COMPILER not in str(error):
        return ""
    return (
        f" (JetPack 7.2 no longer has {_DLA_COMPILER}, which the TensorRT of containers for older "
        "releases wants: use a base image for JetPack 7.2, or the board's own TensorRT 10.16 "
        "without a container)"
    )


def is_rtx(trt: ModuleType) -> bool:
    """Return whether this is TensorRT-RTX, which compiles for the GPU when it opens an engine."""
    return trt.__name__ == "tensorrt_rtx"


def recording_logger(trt: ModuleType) -> Any:  # noqa: ANN401  # untyped library
    """Return a TensorRT logger that collects messages in `records` instead of printing them."""

    class RecordingLogger(trt.ILogger):  # type: ignore[misc,name-defined]  # untyped library
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.records: list[tuple[str, str]] = []

        def log(self, severity: object, message: str) -> None:
            self.records.append((str(severity).rpartition(".")[2], message))

    return RecordingLogger()


def first_error(logger: Any) -> str:  # noqa: ANN401  # untyped library
    """Return the first error of a recording logger: later ones follow from it, or from no GPU."""
    for severity, message in logger.records:
        if "ERROR" in severity:
            return str(message)
    return "no reason given"


FIRST_WITH_FP8 = "8.9"
"""The compute capability that FP8 begins with (Ada)."""


def find_fp8_obstacle(capability: str) -> str | None:
    """Return in one line why a GPU of a compute capability computes no FP8, None where it does."""
    if _numbers(capability) >= _numbers(FIRST_WITH_FP8):
        return None
    return (
        f"compute capability {capability} has no FP8, which begins with {FIRST_WITH_FP8} (RTX 40 "
        "and 50, L4, H100, Jetson Thor; not Jetson Orin, RTX 30 or A100): use INT8 or fp16"
    )


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


_BOARD_FILE = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class EngineHost:
    """This machine's TensorRT and GPU, which an engine must fit."""

    flavor: str
    version: str
    gpu: Gpu


def describe_host(trt: ModuleType, gpu: Gpu) -> EngineHost:
    """Return the TensorRT and GPU that engines must fit."""
    return EngineHost(trt.__name__, trt.__version__, gpu)


def find_differences(engine: EngineFacts, graph: GraphFacts, host: EngineHost) -> list[str]:
    """Return what keeps an engine from running here, each as `what: of the engine, found here`.

    Args:
        engine: The manifest's entry of the engine.
        graph: The graph it was built from, as it is now.
        host: This machine.

    Returns:
        An empty list where the engine fits.
    """
    pairs = [
        ("TensorRT", f"{engine.flavor} {engine.version}", f"{host.flavor} {host.version}"),
        ("the graph's sha256", _short(engine.onnx_sha256), _short(graph.onnx.sha256)),
    ]
    if engine.flavor == "tensorrt":
        built_for = engine.capabilities[0] if engine.capabilities else "unknown"
        pairs.append(("compute capability", built_for, host.gpu.capability))
        # the same chip with fewer units has other fastest kernels: it runs, slower
        pairs.append(("GPU", engine.device or "unknown", host.gpu.name))
    elif engine.capabilities and host.gpu.capability not in engine.capabilities:
        pairs.append(("compute capability", ", ".join(engine.capabilities), host.gpu.capability))
    return [f"{what}: {built}, here {here}" for what, built, here in pairs if built != here]


def require_fit(engine: EngineFacts, graph: GraphFacts, host: EngineHost) -> None:
    """Refuse an engine that does not fit this machine, naming what differs.

    Raises:
        EngineError: It does not fit, or TensorRT-RTX does not support this GPU.
    """
    if host.flavor == "tensorrt_rtx":
        rtx.require_support(host.gpu.capability)
    differing = find_differences(engine, graph, host)
    if differing:
        raise EngineError(
            f"{engine.plan.file} does not fit this machine ({'; '.join(differing)}): build it "
            "here with mirnet-engine BUNDLE, or use another --backend"
        )


def timing_origin(version: str, device: str | None, capability: str | None) -> str:
    """Return the TensorRT and GPU that a timing cache is valid for, as the manifest states it."""
    return f"TensorRT {version} on {device or 'no GPU'} ({capability or 'unknown capability'})"


def is_jetson() -> bool:
    """Return whether this machine is a Jetson."""
    try:
        return "jetson" in _BOARD_FILE.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return False


def _short(sha256: str | None) -> str:
    return "unknown" if sha256 is None else sha256[:12]
