"""TensorRT-RTX: engines for several compute capabilities, and the cache of compiled kernels.

All names of its API are used in this module alone, but for those that TensorRT has as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX 1.7 builds for. Not Jetson's, nor the H100's."""


def require_support(capability: str) -> None:
    """Refuse a GPU that TensorRT-RTX does not support, before anything is opened.

    Raises:
        EngineError: It is not supported; names the TensorRT to install.
    """
    if capability not in CAPABILITIES:
        raise EngineError(
            f"TensorRT-RTX does not run on compute capability {capability}: it supports "
            f"{', '.join(CAPABILITIES)} (not the H100 and H200, nor Jetson). "
            "Install NVIDIA's tensorrt there, or use another --backend"
        )


def set_capabilities(trt: ModuleType, config: Any, capabilities: Sequence[str]) -> None:  # noqa: ANN401  # untyped library
    """Set the compute capabilities that an engine is built for; the default is Ampere and later.

    Raises:
        OptionError: TensorRT-RTX cannot build for one of them.
    """
    for capability in capabilities:
        if capability not in CAPABILITIES:
            raise OptionError(
                f"TensorRT-RTX builds for compute capability {', '.join(CAPABILITIES)}, "
                f"found {capability!r}"
            )
    config.num_compute_capabilities = len(capabilities)
    for place, capability in enumerate(capabilities):
        member = trt.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"]
        config.set_compute_capability(member, place)


class CompiledKernels:
    """Cache of the kernels that TensorRT-RTX compiled on this machine, a file beside the engine."""

    def __init__(self, engine: Any, path: Path) -> None:  # noqa: ANN401  # untyped library
        """Load the cache of an earlier run; a file of another version is not used."""
        self._path = path
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        self.is_loaded = path.is_file() and bool(self._cache.deserialize(path.read_bytes()))
        self._config.set_runtime_cache(self._cache)

    def context(self, engine: Any) -> Any:  # noqa: ANN401  # untyped library
        """Return an execution context that uses and fills the cache."""
        return engine.create_execution_context(self._config)

    def save(self) -> None:
        """Write the cache for the next run.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        serialized = self._cache.serialize()
        if serialized is not None:
            write_atomically(self._path, bytes(memoryview(serialized)))
