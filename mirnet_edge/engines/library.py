"""The TensorRT that is installed, and what it says."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

FLAVOURS = ("tensorrt", "tensorrt_rtx")
HOW_TO_GET_ONE = (
    "on a Jetson it comes with JetPack (a virtual environment needs --system-site-packages), "
    "elsewhere from NVIDIA's package index; for RTX cards "
    'pip install "mirnet-edge[tensorrt-rtx]", whose builder works without a GPU'
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
        f"a TensorRT plan needs TensorRT, and none could be loaded "
        f"({'; '.join(reasons)}): {HOW_TO_GET_ONE}"
    )


def is_rtx(trt: ModuleType) -> bool:
    """Say whether this is TensorRT-RTX, which compiles for the card when a plan is opened."""
    return trt.__name__ == "tensorrt_rtx"


def kept_logger(trt: ModuleType) -> Any:  # noqa: ANN401  # untyped library
    """Return a logger that keeps in `records` what TensorRT says, instead of printing it."""

    class Kept(trt.ILogger):  # type: ignore[misc,name-defined]  # untyped library
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.records: list[tuple[str, str]] = []

        def log(self, severity: object, message: str) -> None:
            self.records.append((str(severity).rpartition(".")[2], message))

    return Kept()


def first_error(logger: Any) -> str:  # noqa: ANN401  # untyped library
    """Return the first error of a kept logger: later ones follow from it, or from no GPU."""
    for severity, message in logger.records:
        if "ERROR" in severity:
            return str(message)
    return "it gives no reason"
