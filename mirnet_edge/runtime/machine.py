"""Describe the machine of a measurement: processor, cores, instruction sets, tool versions.

Nothing identifies the machine's owner: no host name, no path.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import available
from mirnet_edge.manifest import MachineFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

# Those that decide the speed of convolutions by precision.
_INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_TOOLS = (
    "torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy", "cv2", "tensorrt", "tensorrt_rtx",
)  # fmt: skip
_PROCESSOR_FILE = Path("/proc/cpuinfo")
_BOARD_FILE = Path("/proc/device-tree/model")
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN")


def select_input_rails(rails: Iterable[str]) -> list[str]:
    """Return the power rails whose sum is the power of a whole Jetson.

    The input rail that supplies all others, where the board names one; else every rail, as
    jetson-stats 7.2 does.
    """
    known = sorted(rails)
    return next(([name] for name in _INPUT_RAILS if name in known), known)


def describe() -> MachineFacts:
    """Return the facts of this machine."""
    table = _read(_PROCESSOR_FILE)
    return MachineFacts(
        processor=_processor(table),
        cores=usable_cores(),
        instructions=_instructions(table),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def usable_cores() -> int:
    """Return how many cores this process may use, which containers and taskset limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tool_versions() -> dict[str, str]:
    """Return the versions of mirnet-edge and of the installed libraries it computes with."""
    versions = {"mirnet-edge": importlib.metadata.version("mirnet-edge")}
    for name in _TOOLS:
        if available(name):
            for distribution in importlib.metadata.packages_distributions().get(name, ()):
                versions[name] = importlib.metadata.version(distribution)
    return versions


def _processor(table: str) -> str:
    """Return the processor's model name; on ARM, where there is none, the board's."""
    model = _first(table, "model name")
    # a device tree's texts end with a zero byte
    board = _read(_BOARD_FILE).rstrip("\0\n")
    return model or board or platform.processor() or platform.machine() or "unknown"


def _instructions(table: str) -> list[str]:
    known = set((_first(table, "flags") or _first(table, "Features")).split())
    return [name for name in _INSTRUCTIONS if name in known]


def _first(table: str, key: str) -> str:
    """Return the value of the first `key : value` line, else an empty text."""
    for line in table.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux, or a board without device tree
        return ""
