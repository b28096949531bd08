"""Import optional packages, with the command that installs a missing one."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from mirnet_edge.errors import MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "nncf": "export",
    "h5py": "keras",
    "skimage": "export",
    "openvino": "cpu",
    "ai_edge_litert": "litert",
    "litert_torch": "litert-export",
    "av": "video",
    "aiohttp": "web",
    "aiortc": "web",
    "pyvirtualcam": "virtual-camera",
    "ray": "fleet",
    "tensorboard": "tensorboard",
    "tensorrt_rtx": "tensorrt-rtx",
    "cuda": "tensorrt",
    "pillow_heif": "heic",
    "rawpy": "raw",
    "onnxruntime_ep_webgpu": "webgpu",
    "onnxruntime_ep_openvino": "onnxruntime-openvino",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-rtx",
}
"""The extra of mirnet-edge that brings a package."""

UNLOCKS = {
    "cpu": "OpenVINO, on most x86 processors the fastest backend",
    "litert": "LiteRT, the runtime of phones and ARM boards: bundles made with --format litert",
    "litert-export": "LiteRT models of weights: mirnet export",
    "video": "video files, and streams from the network: mirnet restore, mirnet live --source",
    "web": "live video on a page: mirnet live --display web",
    "virtual-camera": "restored live video as a camera: mirnet live --virtual-camera",
    "fleet": "many videos at once: mirnet restore --executor ray",
    "export": "mirnet export, train, prune, sensitivity and plan; the backend torch",
    "heic": "photos of phones: .heic and .heif files",
    "raw": "camera raw files: .dng, .cr2, .nef, .arw and others",
    "keras": "MIRNet weights of Keras: .h5, .weights.h5 and .keras files",
    "tensorboard": "training scores as TensorBoard events: mirnet train --tensorboard",
    "tensorrt-rtx": "TensorRT-RTX engines, for RTX GPUs: mirnet engine",
    "webgpu": "GPUs of any maker through WebGPU: --backend onnxruntime-webgpu",
    "onnxruntime-openvino": "Intel GPUs and NPUs in ONNX Runtime: --backend onnxruntime-openvino",
    "onnxruntime-rtx": "RTX GPUs in ONNX Runtime: --backend onnxruntime-tensorrt-rtx",
    "cuda": "NVIDIA GPUs in ONNX Runtime: --backend onnxruntime-cuda, onnxruntime-tensorrt",
    "directml": "GPUs of any maker on Windows: --backend onnxruntime-directml",
    "migraphx": "AMD GPUs on Linux: --backend onnxruntime-migraphx",
    "tensorrt": "TensorRT engines, where TensorRT itself is installed: mirnet engine",
}
"""What an extra of mirnet-edge adds, by its name."""


def available(name: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return importlib.util.find_spec(name) is not None


def require(name: str, purpose: str, extra: str | None = None) -> ModuleType:
    """Import a package and return it.

    Callers that want its types import the package themselves after this call.

    Args:
        name: The package, as it is imported.
        purpose: What needs it, for the message.
        extra: As for `advice`.

    Raises:
        MissingDependencyError: It is not installed, or it is and cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingDependencyError(missing_text(purpose, name, extra)) from error
    except (ImportError, OSError) as error:  # a driver library that is missing, say
        raise MissingDependencyError(
            f"{purpose} needs the package {name}, which is installed but cannot be loaded: {error}"
        ) from error


def missing_text(purpose: str, name: str, extra: str | None = None) -> str:
    """Return in one line what needs a package that is not installed, and how to install it."""
    return f"{purpose} needs the package {name}, which is not installed: {advice(name, extra)}"


def advice(name: str, extra: str | None = None) -> str:
    """Return the command that installs a package.

    Args:
        name: The package, as it is imported.
        extra: The extra of mirnet-edge that brings it; None for the one that is known here.
    """
    extra = extra or EXTRAS.get(name)
    wanted = f'"mirnet-edge[{extra}]"' if extra else name
    return f"pip install {wanted}"
