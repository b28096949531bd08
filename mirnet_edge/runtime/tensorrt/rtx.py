"""What only TensorRT-RTX has: plans for several kinds of card, and a cache of compiled kernels.

Every name of it that is used stands here, apart from those that all TensorRTs share.
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
    """Refuse a GPU that TensorRT-RTX does not know, before anything is opened.

    Raises:
        EngineError: It does not; says which TensorRT does.
    """
    if capability not in CAPABILITIES:
        raise EngineError(
            f"TensorRT-RTX does not run on compute capability {capability}: it knows "
            f"{', '.join(CAPABILITIES)} (not the H100 and H200, nor Jetson). "
            "Install NVIDIA's tensorrt there, or use another --backend"
        )


def target(trt: ModuleType, config: Any, capabilities: Sequence[str]) -> None:  # noqa: ANN401  # untyped library
    """Have a plan built for some kinds of card; without this it is for Ampere and later.

    Raises:
        OptionError: A kind it cannot build for.
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
    """The kernels that TensorRT-RTX compiled on this machine, kept in a file beside the plan."""

    def __init__(self, engine: Any, path: Path) -> None:  # noqa: ANN401  # untyped library
        """Read what an earlier run kept; a file of another version is not used."""
        self._path = path
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        self.was_kept = path.is_file() and bool(self._cache.deserialize(path.read_bytes()))
        self._config.set_runtime_cache(self._cache)

    def context(self, engine: Any) -> Any:  # noqa: ANN401  # untyped library
        """Return an execution context that uses and fills the cache."""
        return engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Write the cache for the next run.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        serialized = self._cache.serialize()
        if serialized is not None:
            write_atomically(self._path, bytes(memoryview(serialized)))
