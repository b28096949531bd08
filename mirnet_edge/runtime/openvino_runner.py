"""The backends of OpenVINO: processors, the fastest on most of them, and Intel's GPUs and NPUs."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.dependencies import EXTRAS
from mirnet_edge.errors import EngineError
from mirnet_edge.onnx_wire import convolution_model, float_form
from mirnet_edge.runtime.backends import Backend
from mirnet_edge.runtime.device_caches import cache_folder
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import FloatFrames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.backends import DeviceKind
    from mirnet_edge.runtime.runner import ContextVectors

logger = logging.getLogger(__name__)

_DEVICE = "CPU"
GPU, NPU, ANY_DEVICE = "GPU", "NPU", "AUTO"
"""OpenVINO's names of Intel's graphics, of the neural processor, and of its own choice."""
INSTRUCTION_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""The environment variable that limits the instructions which OpenVINO uses on a processor."""
# OpenVINO offers bf16 under a limit too, and fails
_LIMITS_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
_DEVICE_FOLDER = Path("/dev")
_DEVICE_FILES = {GPU: ("dri/renderD*", "dxg"), NPU: ("accel/accel*", "dxg")}
"""Of Linux's drivers, and of Windows' under WSL."""
# How many sizes stay compiled. Each holds its own weights and activations: for MIRNetEdge at
# 640x480 about 200 MB.
KEPT_SIZES = 4
# The type of all that is not quantized. Set for every precision: by default OpenVINO takes bf16 on
# processors that have it, also for fp32.
_HINT_OF: dict[Precision, str] = {
    "fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", "int8+fp16": "f16",
    "int8+bf16": "bf16",
}  # fmt: skip
_CAPABILITY_OF: dict[Precision, str] = {
    "fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8", "int8+fp16": "FP16",
    "int8+bf16": "BF16",
}  # fmt: skip


def supports(precision: Precision, device: str = _DEVICE) -> bool:
    """Return whether OpenVINO computes in this precision on a device of this machine.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    BACKEND.require()
    if "bf16" in precision and os.environ.get(INSTRUCTION_LIMIT, "") in _LIMITS_WITHOUT_BF16:
        return False
    import openvino

    # its own choice among devices computes what all of them do
    queried = _DEVICE if device == ANY_DEVICE else device
    capabilities = openvino.Core().get_property(queried, "OPTIMIZATION_CAPABILITIES")
    return _CAPABILITY_OF[precision] in capabilities


@functools.cache
def find_device_obstacle(device: str) -> str | None:
    """Return why OpenVINO computes nothing on a device here, None where it did a convolution.

    Raises:
        MissingDependencyError: OpenVINO cannot be loaded.
    """
    BACKEND.require()
    if not _has_device_file(device):
        return (
            f"OpenVINO finds no {device} on this machine, found no driver of one: install Intel's, "
            "or use another --backend"
        )
    import openvino

    core = openvino.Core()
    if device != ANY_DEVICE and device not in {one.partition(".")[0] for one in list_devices(core)}:
        return (
            f"OpenVINO finds no {device} on this machine, found {', '.join(list_devices(core))}: "
            f"install Intel's driver for it, or use another --backend"
        )
    try:
        compiled = core.compile_model(core.read_model(convolution_model()), device)
        compiled.create_infer_request().infer([np.ones((1, 3, 8, 8), np.float32)])
    except Exception as error:  # noqa: BLE001  # OpenVINO's and its drivers'
        reason = " ".join(str(error).split())
        return f"OpenVINO finds the {device} and computes nothing on it: {reason[:300]}"
    return None


def _has_device_file(device: str) -> bool:
    """Return whether the system may have a driver of a device, without loading OpenVINO's plugin.

    The plugin of GPUs takes 20 MB of memory, which stays in use, to find that there is none.
    """
    patterns = _DEVICE_FILES.get(device)
    if sys.platform != "linux" or patterns is None:
        return True
    return any(any(_DEVICE_FOLDER.glob(pattern)) for pattern in patterns)


def list_devices(core: Any) -> list[str]:  # noqa: ANN401  # OpenVINO has no types
    """Return the devices that OpenVINO finds, as it calls them: CPU, GPU, GPU.1, NPU."""
    return [str(one) for one in core.available_devices]


class OpenVinoRunner(GraphRunner):
    """An ONNX file in OpenVINO, on the processor or another device.

    A graph for any size is compiled for each size of frames, which takes a fraction of a second
    and makes every later frame of that size faster. The last `KEPT_SIZES` stay in memory.
    """

    def __init__(
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        threads: int | None = None,
        device: str = _DEVICE,
    ) -> None:
        """Remember what to open.

        Args:
            path: The ONNX file.
            image: The graph's inputs and outputs.
            name: Of this runner in messages and reports.
            precision: To compute in; bf16 runs the fp32 graph.
            threads: Of one run, at most; None leaves it to OpenVINO. Of processors alone.
            device: As OpenVINO calls it: CPU, GPU, NPU, AUTO.

        Raises:
            OptionError: Less than one thread.
        """
        super().__init__(path, image, name=name, precision=precision, threads=threads)
        self._device = device
        self._core: Any = None
        self._model: Any = None
        self._float_model: Any = None
        self._requests: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    takes_floats = True

    def _load(self) -> None:
        if not supports(self.precision, self._device):
            what = "processor" if self._device == _DEVICE else self._device
            raise EngineError(
                f"{self.name}: this {what} has no {self.precision} in OpenVINO; "
                "choose another --precision"
            )
        import openvino

        self._core = openvino.Core()
        self._model = self._core.read_model(str(self.path))
        if self.image.size is not None:  # it has one shape: compile it now
            self._request_for(tuple(self._model.input(0).shape))

    def _infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        request = self._request_for(inputs.shape)
        outputs = request.infer([inputs], share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0])

    def _infer_with_context(
        self, inputs: NDArray[Any], context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], ContextVectors]:
        request = self._request_for(inputs.shape)
        outputs = request.infer([inputs, context_in, weight], share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0]), outputs[1]

    def _infer_levels(
        self, levels: FloatFrames, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> FloatFrames:
        if self._float_model is None:
            self._float_model = self._core.read_model(float_form(self.path.read_bytes()))
        request = self._request_for(levels.shape, floats=True)
        inputs = [levels, context_in, weight] if self.context_length else [levels]
        outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0])

    def _close(self) -> None:
        self._requests.clear()
        self._model = self._float_model = self._core = None

    def _request_for(self, shape: tuple[int, ...], *, floats: bool = False) -> Any:  # noqa: ANN401  # OpenVINO has no types
        """Return the compiled graph of a shape, compiling it where it is not in memory.

        Args:
            shape: Of the frames.
            floats: Whether they are floats, for which the graph is another.
        """
        key = (*shape, "float") if floats else shape
        if key in self._requests:
            self._requests.move_to_end(key)
            return self._requests[key]
        model = self._float_model if floats else self._model
        if model.is_dynamic():
            # a graph of static size runs in 0.6 times the time: measured on MIRNetEdge,
            # 640x480, 2 cores, OpenVINO 2026.4: 178 ms dynamic, 110 ms static, 230 ms to compile
            model = model.clone()
            sides = {one: [shape[0], *one.partial_shape[1:]] for one in model.inputs[1:2]}
            model.reshape({model.input(0): list(shape), **sides})
        while len(self._requests) >= KEPT_SIZES:  # before compiling: both at once need more memory
            self._requests.popitem(last=False)
        if self._device == NPU and model.is_dynamic():
            raise EngineError(
                f"{self.path.name}: the NPU needs every shape fixed, found one that depends on "
                "the frame; export again with --size"
            )
        compiled = self._core.compile_model(model, self._device, self._settings())
        if self._device == _DEVICE:
            self.placement = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        else:
            self.placement = self._read_back(compiled)
            logger.info("%s computes on %s", self.name, self.placement)
        self._requests[key] = compiled.create_infer_request()
        return self._requests[key]

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINT_OF[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._device == _DEVICE:
            if self.threads is not None:
                settings["INFERENCE_NUM_THREADS"] = self.threads
            return settings
        # compiling takes a device's compiler seconds to minutes
        settings["CACHE_DIR"] = str(cache_folder(self.path, f"openvino-{self._device.lower()}"))
        if self._device == ANY_DEVICE:
            settings["ENABLE_STARTUP_FALLBACK"] = False  # else the processor runs the first frames
        return settings

    def _read_back(self, compiled: Any) -> str:  # noqa: ANN401
        """Return what a graph is compiled for, as OpenVINO says afterwards.

        Raises:
            EngineError: Another device than the one that was asked for, or another precision.
        """
        devices = [str(one) for one in compiled.get_property("EXECUTION_DEVICES")]
        kinds = {one.partition(".")[0].strip("()") for one in devices}
        if self._device != ANY_DEVICE and kinds != {self._device}:
            raise EngineError(
                f"{self.path.name}: expected OpenVINO to compute it on the {self._device}, found "
                f"{', '.join(devices)}; use another --backend, or openvino-auto"
            )
        names = [
            str(self._core.get_property(one.strip("()"), "FULL_DEVICE_NAME")) for one in devices
        ]
        shown = ", ".join(f"{one} ({name})" for one, name in zip(devices, names, strict=True))
        if self._device == ANY_DEVICE:
            return shown
        wanted = _HINT_OF[self.precision]
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != wanted:
            raise EngineError(
                f"{self.path.name}: expected {self._device} to compute in {wanted}, found {found}; "
                "choose another --precision"
            )
        return f"{shown}, {found}"


BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    packages=("openvino",),
    extra=EXTRAS["openvino"],
    device="cpu",
    provider=_DEVICE,
    precisions=tuple(_CAPABILITY_OF),
    auto_reason="where it is measured fastest: on most x86 and ARM processors",
    runner=OpenVinoRunner,
    # on processors with bf16 what is not quantized is also tried in it
    derived_precisions={"fp32": ("bf16",), "int8": ("int8+bf16",)},
    supports_here=supports,
)


def _device_row(
    device: str,
    title: str,
    kind: DeviceKind,
    precisions: tuple[Precision, ...],
    added_here: Literal["named", "always"],
) -> Backend:
    # halves are computed from the fp32 graph, as bf16 is on processors
    halves: dict[Precision, tuple[Precision, ...]] = {"fp32": ("fp16",), "int8": ("int8+fp16",)}
    return Backend(
        name=f"openvino-{device.lower()}",
        title=title,
        packages=("openvino",),
        extra=EXTRAS["openvino"],
        device=kind,
        provider=device,
        precisions=precisions,
        auto_reason="where it is measured fastest"
        if added_here == "always"
        else "never: it is for those who name it",
        runner=functools.partial(OpenVinoRunner, device=device),
        derived_precisions=halves if kind != "cpu" else {},
        supports_here=functools.partial(supports, device=device),
        find_machine_obstacle=functools.partial(find_device_obstacle, device),
        systems=("Linux", "Windows"),
        added_here=added_here,
    )


DEVICE_BACKENDS = {
    one.name: one
    for one in (
        _device_row(
            GPU, "OpenVINO on a GPU", "gpu", ("fp16", "int8+fp16", "int8", "fp32"), "always"
        ),
        # it has no fp32: what is not quantized is computed in fp16
        _device_row(NPU, "OpenVINO on an NPU", "npu", ("fp16", "int8+fp16", "fp32"), "always"),
        _device_row(ANY_DEVICE, "OpenVINO's own choice", "cpu", ("fp32", "int8"), "named"),
    )
}
"""The rows of OpenVINO's devices other than the processor, by name."""
