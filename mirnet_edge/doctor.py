"""Check a machine for what mirnet-edge needs; each finding names the command that fixes it."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mirnet_edge.dependencies import EXTRAS, UNLOCKS, advice, available
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import all_backends
from mirnet_edge.runtime.execution_providers import PLAIN_WHEEL
from mirnet_edge.runtime.tensorrt.cuda import Cuda
from mirnet_edge.runtime.tensorrt.library import find_fp8_obstacle, is_jetson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

State = Literal["ok", "note", "missing"]
_DEVICES = Path("/dev")
_MEMORY = Path("/proc/meminfo")
_ENOUGH_MIB = 10 * 1024
_TIMEOUT_S = 5
_RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    state: State
    """`missing` keeps something from working; `note` makes it slower or less."""
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Return the findings of all checks; no check raises."""
    found: list[Finding] = []
    for check in (
        _processor, _cuda, _wheels, _backends, _opencv, _camera, _memory, _power_mode, _extras,
    ):  # fmt: skip
        found += check()
    return found


def _processor() -> Iterator[Finding]:
    facts = machine.describe()
    known = set(facts.instructions)
    sets = ", ".join(facts.instructions) or "none that matter"
    what = f"{facts.processor}, {facts.cores} cores: {sets}"
    if known & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}:
        yield Finding("processor", "ok", what)
    else:
        yield Finding(
            "processor", "note", what,
            "no INT8 dot product: INT8 may be slower than fp32 here; the gate of mirnet-export "
            "decides by measurement",
        )  # fmt: skip


def _cuda() -> Iterator[Finding]:
    try:
        gpu = Cuda().gpu()
    except MirnetEdgeError as error:
        yield Finding(
            "CUDA", "missing" if is_jetson() else "note", str(error),
            "" if "pip install" in str(error) else "without a GPU: use the CPU backends",
        )  # fmt: skip
        return
    fp8 = "without FP8" if find_fp8_obstacle(gpu.capability) else "with FP8"
    yield Finding(
        "CUDA", "ok", f"{gpu.name}, compute capability {gpu.capability} ({fp8}), {gpu.cuda}"
    )


def _wheels() -> Iterator[Finding]:
    names = sorted(set(importlib.metadata.packages_distributions().get(_RUNTIME, ())))
    yield from wheel_findings({name: importlib.metadata.version(name) for name in names})


def wheel_findings(versions: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether several wheels of ONNX Runtime overwrite each other.

    Args:
        versions: Of the distributions that bring the package onnxruntime, by name.
    """
    if len(versions) < 2:
        return
    named = " and ".join(f"{name} {version}" for name, version in versions.items())
    others = [name for name in versions if name != PLAIN_WHEEL]
    yield Finding(
        "ONNX Runtime's wheels", "missing",
        f"{named} are different builds of one package: files of one replaced those of the other, "
        "and which providers work depends on the order they were installed in",
        f"keep one: pip uninstall -y {' '.join(versions)}, then pip install {others[0]}"
        + (f" (or {', or '.join(others[1:])})" if others[1:] else "")
        + f"; it replaces {PLAIN_WHEEL}, whose processor's provider it has too",
    )  # fmt: skip


def _backends() -> Iterator[Finding]:
    for backend in all_backends():
        if not backend.exists_here:
            continue
        check = backend.check()
        yield Finding(backend.title, check.state, check.found, check.fix)


def _opencv() -> Iterator[Finding]:
    try:
        cv2 = importlib.import_module("cv2")
    except (ImportError, OSError) as error:
        yield Finding(
            "OpenCV", "missing", f"cannot be loaded: {error}",
            "pip install opencv-python; on a board without screen opencv-python-headless",
        )  # fmt: skip
        return
    yield from gstreamer_finding(cv2.__version__, cv2.getBuildInformation())


def gstreamer_finding(version: str, build: str) -> Iterator[Finding]:
    """Yield whether OpenCV is built with GStreamer, which CSI cameras need."""
    has = re.search(r"GStreamer:\s+YES", build) is not None
    if has or not is_jetson():
        yield Finding("OpenCV", "ok", f"{version}, GStreamer {'yes' if has else 'no'}")
        return
    yield Finding(
        "OpenCV", "note", f"{version} without GStreamer: CSI cameras cannot be opened",
        "pip uninstall opencv-python; then use JetPack's OpenCV: python3 -m venv "
        "--system-site-packages .venv. USB cameras work through V4L2 as it is",
    )  # fmt: skip


def _camera() -> Iterator[Finding]:
    cameras = sorted(_DEVICES.glob("video*"))
    if not cameras:
        yield Finding(
            "camera", "note", "no /dev/video*",
            "plug one in; a CSI camera is enabled in: sudo /opt/nvidia/jetson-io/jetson-io.py"
            if is_jetson()
            else "plug one in, or give mirnet live --source a stream or a file",
        )  # fmt: skip
        return
    closed = [one for one in cameras if not _is_readable(one)]
    names = ", ".join(map(str, cameras))
    if closed:
        yield Finding(
            "camera", "missing", f"{names}, not readable by this user",
            "sudo usermod -aG video $USER, and log in again",
        )  # fmt: skip
    else:
        yield Finding("camera", "ok", names)


def _is_readable(path: Path) -> bool:
    import os

    return os.access(path, os.R_OK | os.W_OK)


def _memory() -> Iterator[Finding]:
    table = _text(_MEMORY)
    sizes = {name: int(kib) >> 10 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", table)}
    if "MemTotal" not in sizes:
        yield Finding("memory", "note", "not reported by this system")
        return
    total, swap = sizes["MemTotal"], sizes.get("SwapTotal", 0)
    what = f"{total} MiB, {sizes.get('MemAvailable', 0)} available, swap {swap} MiB"
    if total < _ENOUGH_MIB and swap < total // 2:
        yield Finding(
            "memory", "note", what,
            "builds may run out: sudo fallocate -l 8G /swap && sudo chmod 600 /swap && sudo mkswap "
            "/swap && sudo swapon /swap; and mirnet-engine --low-memory",
        )  # fmt: skip
    else:
        yield Finding("memory", "ok", what)


def _power_mode() -> Iterator[Finding]:
    if not is_jetson():
        return
    text = _output(["nvpmodel", "-q"])
    mode = re.search(r"NV Power Mode:\s*(\S+)", text)
    if mode is None:
        yield Finding("power mode", "note", "not reported by nvpmodel", "sudo nvpmodel -q")
        return
    fastest = mode[1].startswith("MAXN")
    yield Finding(
        "power mode", "ok" if fastest else "note", mode[1],
        "" if fastest else "for the full rate choose MAXN in /etc/nvpmodel.conf with sudo nvpmodel "
        "-m ID, then sudo jetson_clocks",
    )  # fmt: skip


def _extras() -> Iterator[Finding]:
    for extra, purpose in UNLOCKS.items():
        brought = [name for name, one in EXTRAS.items() if one == extra]
        if not brought:  # another build of ONNX Runtime: its backend's finding tells it
            continue
        absent = [name for name in brought if not available(name)]
        if absent:
            yield Finding(
                f"extra {extra}", "note", f"not installed ({', '.join(absent)}); adds {purpose}",
                advice(absent[0], extra),
            )  # fmt: skip
        else:
            yield Finding(f"extra {extra}", "ok", f"installed: {purpose}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(command: list[str], run: Callable[..., str] = subprocess.check_output) -> str:
    try:
        return run(command, text=True, stderr=subprocess.STDOUT, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):  # no such program, or it wants root
        return ""
