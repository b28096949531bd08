"""ONNX Runtime's execution providers: one row each, and a session that runs where it was asked to.

ONNX Runtime replaces a provider that does not open by the processor, and gives it single operators
that the provider lacks; both without an error. `open_session` refuses the first, and
`describe_placement` counts the second, from what the session says of itself.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge.dependencies import advice, available, require
from mirnet_edge.errors import EngineError
from mirnet_edge.onnx_sessions import PROVIDER as PROCESSOR
from mirnet_edge.onnx_wire import convolution_model
from mirnet_edge.runtime.device_caches import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.manifest import Precision
    from mirnet_edge.runtime.backends import DeviceKind

Options = dict[str, str]

PLAIN_WHEEL = "onnxruntime"
"""The distribution that mirnet-edge depends on. Those of other providers replace it."""
_ASSIGNMENT = "session.record_ep_graph_assignment_info"
_FATAL_ONLY = 4


@dataclass(frozen=True, kw_only=True)
class ExecutionProvider:
    """An execution provider: the wheel that has it, its options, and the device it computes on."""

    backend: str
    """The name of its backend."""
    name: str
    """As ONNX Runtime calls it."""
    title: str
    device: DeviceKind
    precisions: tuple[Precision, ...]
    """Preferred first."""
    wheel: str | None
    """The distribution that brings it; None where it has to be built from source."""
    extra: str | None = None
    """The extra of mirnet-edge that names the wheel."""
    plugin: str | None = None
    """The module of a wheel that adds it to the plain onnxruntime, which then needs no other."""
    systems: tuple[str, ...] = ("Linux", "Windows", "Darwin")
    """Where the wheel exists, as `platform.system()` calls them."""
    target: Literal["cpu", "tensorrt"] = "tensorrt"
    buffers: str | None = None
    """ONNX Runtime's name of the device whose memory frames are bound to; None where it copies."""
    make_options: Callable[[Path, Precision], Options] = field(default=lambda path, precision: {})
    """Returns its options for a graph."""

    @property
    def install(self) -> str:
        """Return how it is installed, in the words of a command where there is one."""
        if self.wheel is None:
            return "no wheel has it: build ONNX Runtime from source with --use_xnnpack"
        if self.plugin is not None:
            return advice(self.plugin, self.extra)
        if self.wheel == PLAIN_WHEEL:
            return f"pip install --upgrade {self.wheel}"
        # two wheels of one package overwrite each other's files
        return f"pip uninstall -y {PLAIN_WHEEL}, then pip install {self.wheel}"

    def obstacle(self) -> str | None:
        """Return in one line why it cannot compute here, None where it can."""
        system = platform.system()
        if system not in self.systems:
            return f"{self.name} exists for {', '.join(self.systems)}, found {system}"
        return _find_obstacle(self)


def open_session(
    model: str | bytes,
    options: Any,  # noqa: ANN401  # ONNX Runtime has no types
    provider: ExecutionProvider,
    path: Path,
    precision: Precision,
) -> Any:  # noqa: ANN401
    """Return a session on a provider.

    Args:
        model: The file's name, or its content.
        options: ONNX Runtime's SessionOptions.
        provider: Where it has to run.
        path: The graph's file, by which caches are kept.
        precision: Of the graph.

    Raises:
        EngineError: ONNX Runtime would compute on the processor instead.
        Exception: ONNX Runtime's own.
    """
    import onnxruntime

    if provider.buffers == "cuda":
        _load_cuda_libraries()
    options.add_session_config_entry(_ASSIGNMENT, "1")
    chosen: list[Any] = []
    devices = _plugin_devices(provider)
    given = provider.make_options(path, precision)
    if not devices:
        chosen = [(provider.name, given), PROCESSOR]
    elif not options.has_providers():  # which they have where a session is opened again
        options.add_provider_for_devices(devices, given)
    # without its fallback, which prints to stdout and computes on the processor
    session = onnxruntime.InferenceSession(model, options, providers=chosen, enable_fallback=0)
    session.disable_fallback()
    placed = count_nodes(session)
    if provider.name not in session.get_providers() or (placed and not placed[provider.name]):
        raise EngineError(
            f"{path.name}: expected {provider.name} to compute it, found all of it on "
            f"{' and '.join(session.get_providers())}: what it needs beside its wheel is missing, "
            "and ONNX Runtime's own lines say what. Install that, or name what may take its place: "
            f"--backend {provider.backend},onnxruntime"
        )
    return session


def count_nodes(session: Any) -> Counter[str]:  # noqa: ANN401
    """Return how many nodes of a session's graph each provider computes, by its name.

    Empty where ONNX Runtime does not tell, which it does since 1.24. The graph is the optimized
    one: fused nodes count as one, or as many, as the provider sees them.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    if tell is None:
        return Counter()
    counted: Counter[str] = Counter()
    for part in tell():
        counted[part.ep_name] += len(part.get_nodes())
    return counted


def describe_placement(session: Any) -> str:  # noqa: ANN401
    """Return which providers compute how many nodes, the first one first."""
    placed = count_nodes(session)
    if not placed:
        return f"{session.get_providers()[0]} (nodes not counted: ONNX Runtime is older than 1.24)"
    total = sum(placed.values())
    return ", ".join(
        f"{placed[name]} of {total} nodes on {name}"
        for name in session.get_providers()
        if placed[name]
    )


def listed_providers() -> tuple[str, ...]:
    """Return the providers that the installed ONNX Runtime is built with."""
    return tuple(require("onnxruntime", "the backend onnxruntime").get_available_providers())


def _find_obstacle(provider: ExecutionProvider) -> str | None:
    """Return why a provider cannot compute here, None where it computed a convolution."""
    listed = provider.name in listed_providers()
    if not listed and (provider.plugin is None or not available(provider.plugin)):
        return f"the installed ONNX Runtime has no {provider.name}: {provider.install}"
    return _trial(provider)


@functools.cache
def _trial(provider: ExecutionProvider) -> str | None:
    """Return why a provider does not compute a convolution, None where it does."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if not hasattr(options, "add_provider_for_devices") and provider.plugin is not None:
        return f"{provider.wheel} needs onnxruntime 1.24 or later: pip install -U onnxruntime"
    try:
        model = convolution_model()
        session = open_session(model, options, provider, Path("convolution.onnx"), "fp32")
        session.run(None, {"input": np.ones((1, 3, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001  # ONNX Runtime and drivers have kinds of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{provider.name} is installed and computes nothing here: {reason[:300]}"
    return None


def _plugin_devices(provider: ExecutionProvider) -> list[Any]:
    """Return the first device of a provider that a wheel adds; empty for one that is built in.

    Raises:
        EngineError: The wheel finds no device that it supports.
    """
    import onnxruntime

    if provider.plugin is None or provider.name in listed_providers():
        return []
    _register(provider.plugin, provider.name)
    found = [one for one in onnxruntime.get_ep_devices() if one.ep_name == provider.name]
    if not found:
        raise EngineError(
            f"{provider.wheel} finds no device for {provider.name} on this machine; expected one "
            "with its driver. Choose another --backend"
        )
    return found[:1]


@functools.cache
def _register(plugin: str, name: str) -> None:
    """Add a plugin's library to this process, once.

    Raises:
        EngineError: It cannot be loaded.
    """
    import onnxruntime

    module = require(plugin, f"{name} of ONNX Runtime")
    try:
        onnxruntime.register_execution_provider_library(name, module.get_library_path())
    except Exception as error:
        reason = " ".join(str(error).split())
        raise EngineError(
            f"{name} cannot be loaded: {reason[:200]}; expected its driver to be installed"
        ) from error


@functools.cache
def _load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from their wheels, where they are installed as such, once."""
    import onnxruntime

    load = getattr(onnxruntime, "preload_dlls", None)
    if load is not None:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            load()


def _tensorrt_options(path: Path, precision: Precision) -> Options:
    """Return options that keep engines and the timing cache, and allow the graph's precision."""
    options = {
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        # its networks are weakly typed: without these, fp16 and INT8 graphs are built in fp32
        "trt_fp16_enable": str(int("fp16" in precision)),
        "trt_int8_enable": str(int("int8" in precision)),
    }
    if path.is_file():
        folder = str(cache_folder(path, "tensorrt"))
        options |= {"trt_engine_cache_path": folder, "trt_timing_cache_path": folder}
    return options


def _tensorrt_rtx_options(path: Path, precision: Precision) -> Options:
    """Return options that keep the kernels compiled at the first run; types are the graph's."""
    if not path.is_file():
        return {}
    return {"nv_runtime_cache_path": str(cache_folder(path, "tensorrt-rtx"))}


def _cuda_options(path: Path, precision: Precision) -> Options:
    """Return options for the precision that is stated: TF32 would round fp32 to 10 bits."""
    return {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0"}


def _openvino_options(path: Path, precision: Precision) -> Options:
    return {"device_type": "CPU", "precision": "FP32"} if _is_old_openvino() else {}


def _is_old_openvino() -> bool:
    """Return whether the provider is built in: the plugin takes its device from the session."""
    return "OpenVINOExecutionProvider" in listed_providers()


def _coreml_options(path: Path, precision: Precision) -> Options:
    return {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}


def _migraphx_options(path: Path, precision: Precision) -> Options:
    return {"migraphx_fp16_enable": str(int(precision == "fp16"))}


_HALF: tuple[Precision, ...] = ("fp16", "fp32")

CUDA = ExecutionProvider(
    backend="onnxruntime-cuda", name="CUDAExecutionProvider", title="ONNX Runtime on CUDA",
    device="gpu", precisions=_HALF, wheel="onnxruntime-gpu", extra="cuda", buffers="cuda",
    systems=("Linux", "Windows"), make_options=_cuda_options,
)  # fmt: skip
TENSORRT = ExecutionProvider(
    backend="onnxruntime-tensorrt", name="TensorrtExecutionProvider",
    title="ONNX Runtime on TensorRT", device="gpu",
    precisions=("fp16", "int8+fp16", "int8", "fp32"), wheel="onnxruntime-gpu", extra="cuda",
    buffers="cuda", systems=("Linux", "Windows"), make_options=_tensorrt_options,
)  # fmt: skip
TENSORRT_RTX = ExecutionProvider(
    backend="onnxruntime-tensorrt-rtx", name="NvTensorRTRTXExecutionProvider",
    title="ONNX Runtime on TensorRT-RTX", device="gpu", precisions=_HALF,
    wheel="onnxruntime-ep-nv-tensorrt-rtx-cu13", extra="onnxruntime-rtx",
    plugin="onnxruntime_ep_nv_tensorrt_rtx", systems=("Linux", "Windows"),
    make_options=_tensorrt_rtx_options,
)  # fmt: skip
OPENVINO = ExecutionProvider(
    backend="onnxruntime-openvino", name="OpenVINOExecutionProvider",
    title="ONNX Runtime on OpenVINO", device="cpu", precisions=("fp32", "int8"), target="cpu",
    wheel="onnxruntime-ep-openvino", extra="onnxruntime-openvino",
    plugin="onnxruntime_ep_openvino", systems=("Linux", "Windows"),
    make_options=_openvino_options,
)  # fmt: skip
DIRECTML = ExecutionProvider(
    backend="onnxruntime-directml", name="DmlExecutionProvider",
    title="ONNX Runtime on DirectML", device="gpu", precisions=_HALF,
    wheel="onnxruntime-directml", extra="directml", buffers="dml", systems=("Windows",),
)  # fmt: skip
WEBGPU = ExecutionProvider(
    backend="onnxruntime-webgpu", name="WebGpuExecutionProvider",
    title="ONNX Runtime on WebGPU", device="gpu", precisions=_HALF,
    wheel="onnxruntime-ep-webgpu", extra="webgpu", plugin="onnxruntime_ep_webgpu",
)  # fmt: skip
COREML = ExecutionProvider(
    backend="onnxruntime-coreml", name="CoreMLExecutionProvider",
    title="ONNX Runtime on Core ML", device="gpu", precisions=_HALF, wheel=PLAIN_WHEEL,
    systems=("Darwin",), make_options=_coreml_options,
)  # fmt: skip
MIGRAPHX = ExecutionProvider(
    backend="onnxruntime-migraphx", name="MIGraphXExecutionProvider",
    title="ONNX Runtime on MIGraphX", device="gpu", precisions=_HALF,
    wheel="onnxruntime-migraphx", extra="migraphx", systems=("Linux",),
    make_options=_migraphx_options,
)  # fmt: skip
ROCM = ExecutionProvider(
    backend="onnxruntime-rocm", name="ROCMExecutionProvider", title="ONNX Runtime on ROCm",
    device="gpu", precisions=_HALF, wheel="onnxruntime-rocm", systems=("Linux",),
)  # fmt: skip
XNNPACK = ExecutionProvider(
    backend="onnxruntime-xnnpack", name="XnnpackExecutionProvider",
    title="ONNX Runtime on XNNPACK", device="cpu", precisions=("fp32", "int8"), target="cpu",
    wheel=None,
)  # fmt: skip

EXECUTION_PROVIDERS = (
    CUDA, TENSORRT, TENSORRT_RTX, OPENVINO, DIRECTML, WEBGPU, COREML, MIGRAPHX, ROCM, XNNPACK,
)  # fmt: skip
