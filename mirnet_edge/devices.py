"""Peak rates, bandwidth and memory of devices, from vendors' documents or measured here.

Sources are the vendors' documents, read on 2026-11-25 in mirrors and quotations, not on the
vendors' pages. "Computed" is cores times clock; "to check" has no source.

Rates of Jetson Orin's tensor cores, 32 in 1024 cores: 256 fused multiply-adds in fp16 per core and
clock; INT8 is twice that, sparse twice again. AGX Orin's 64 at 1.3 GHz then give 170 sparse INT8
TOPS, and NVIDIA says 171 (github.com/NVIDIA/Deep-Learning-Accelerator-SW).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirnet_edge.manifest import Precision
    from mirnet_edge.runtime.backends import DeviceKind


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """The peak rates of a device, its bandwidth and its memory."""

    name: str
    title: str
    fp32_tflops: float
    fp16_tflops: float
    """Or bf16; that of fp32 where it has neither."""
    int8_tops: float
    bandwidth_gbs: float
    """Of its memory, GB/s."""
    memory_gib: float
    is_gpu: bool = True
    """Whether it computes as GPUs do: much at once, and with a cost for each kernel. NPUs do."""
    is_npu: bool = False
    """Whether it is a neural processor, which computes fp32 graphs in fp16."""
    capability: str | None = None
    """The compute capability of an NVIDIA GPU."""
    is_measured: bool = False
    """Whether the rates are measured, not from the table."""
    source: str = ""
    """Source of the rates; which are computed or to check."""
    note: str = ""
    """Other limits on running this package's engines."""
    runs_no_engine: bool = False
    """Whether its TensorRT is too old for this package's engines; `note` says so."""

    @property
    def kind(self) -> DeviceKind:
        """Return which kind of backend computes on it."""
        if self.is_npu:
            return "npu"
        return "gpu" if self.is_gpu else "cpu"

    @property
    def basis(self) -> str:
        """Return in a few words how sure the rates are."""
        if self.is_measured:
            return "measured here"
        if "to check" in self.source:
            return "to check"
        return "computed" if "computed" in self.source else "vendor's"

    def tflops(self, precision: Precision) -> float:
        """Return the peak rate in a precision; a multiply-add counts as two."""
        rates = {"fp32": self.fp32_tflops, "fp16": self.fp16_tflops, "bf16": self.fp16_tflops}
        return rates.get(precision, self.int8_tops)


_XAVIER = "JetPack 5 ends at TensorRT 8.5, these engines need 10.3: the bundle runs on its CPU"


_MODULES = "developer.nvidia.com/embedded/jetson-modules: cores, largest clock, memory"
_MODES = "NVIDIA's nvpmodel_p3767_{}.conf of JetPack 6.2: clock per power mode"
_ADA = "NVIDIA, Ada GPU Architecture v2.1, appendix A: sums in fp16; half of it with sums in fp32"
_RTX_BLACKWELL = (
    "NVIDIA, RTX Blackwell GPU Architecture v1.1, p. 46: 209.5 TFLOPS with sums in fp32, computed: "
    "twice that in fp16, four times in INT8, as on Ada"
)
_AMPERE = "NVIDIA, Ampere GA102 whitepaper v2: 512 fp16 multiply-adds per SM and clock; "
_HOPPER = "NVIDIA, {0} data sheet, its sparse rates halved: nvidia.com/data-center/{0}"
_NO_RTX = "TensorRT-RTX does not run on it"
_INTEL = "estimated, never measured: by OpenVINO, --backend openvino-{}"
_XE = "Intel, Arc {}: {} Xe cores, INT8 TOPS; fp16 is half of that: to check"
_CORE_ULTRA = "Intel, Core Ultra {}: INT8 TOPS of its parts; fp16 is half of that: to check"


# of NVIDIA's GPUs: developer.nvidia.com/cuda-gpus
_CAPABILITIES = {
    "orin-nano": "8.7", "orin-nano-super": "8.7", "orin-nx": "8.7", "orin-nx-super": "8.7",
    "agx-orin": "8.7", "thor": "11.0", "xavier-nx": "7.2", "t4": "7.5", "l4": "8.9",
    "a100": "8.0", "h100": "9.0", "h200": "9.0", "rtx-3060": "8.6", "rtx-4090": "8.9",
    "rtx-5090": "12.0",
}  # fmt: skip


def _row(  # the columns of the table below, in its order
    name: str, title: str, fp32: float, fp16: float, int8: float, bandwidth: float, memory: float,
    source: str, note: str = "", *, is_gpu: bool = True, is_npu: bool = False,
    runs_no_engine: bool = False,
) -> DeviceSpec:  # fmt: skip
    return DeviceSpec(
        name=name, title=title, fp32_tflops=fp32, fp16_tflops=fp16, int8_tops=int8,
        bandwidth_gbs=bandwidth, memory_gib=memory, source=source, note=note, is_gpu=is_gpu,
        is_npu=is_npu, capability=_CAPABILITIES.get(name), runs_no_engine=runs_no_engine,
    )  # fmt: skip


_ALL = (
    _row("orin-nano", "Orin Nano 8GB (15 W)", 1.28, 10.2, 20.5, 68, 8,
         f"{_MODULES}: 625 MHz; {_MODES.format('0003_super')}: 612 at 15 W; rates computed"),
    # the mode that the board starts in, 25 W, holds the GPU at 918 MHz: nine tenths of this
    _row("orin-nano-super", "Orin Nano 8GB Super (MAXN SUPER)", 2.09, 16.7, 33.4, 102, 8,
         f"{_MODULES}: 1020 MHz, 67 sparse INT8 TOPS; rates computed"),
    # its 25 W mode gives the power to two DLAs, and holds the GPU at 408 MHz
    _row("orin-nx", "Orin NX 16GB (MAXN)", 1.88, 15.0, 30.1, 102, 16,
         f"{_MODULES}: 918 MHz; rates computed"),
    _row("orin-nx-super", "Orin NX 16GB Super (40 W)", 2.40, 19.2, 38.4, 102, 16,
         f"{_MODES.format('0000_super')}: 1173 MHz; rates computed"),
    _row("agx-orin", "AGX Orin 64GB (MAXN)", 5.3, 42.6, 85.2, 205, 64,
         f"{_MODULES}; github.com/NVIDIA/Deep-Learning-Accelerator-SW: 171 sparse INT8 TOPS"),
    _row("thor", "Jetson AGX Thor (MAXN)", 8.0, 258, 517, 273, 128,
         "NVIDIA, Jetson T5000: 2560 cores at 1.57 GHz, 517 TFLOPS in dense FP8 or sparse FP16; "
         "INT8 at the rate of FP8: to check"),
    _row("xavier-nx", "Xavier NX 8GB", 0.84, 6.0, 12.3, 59.7, 8,
         f"{_MODULES}: 384 cores; 1.1 GHz and the rates in fp16 and INT8: to check", _XAVIER,
         runs_no_engine=True),
    _row("t4", "T4", 8.1, 65, 130, 320, 16, "NVIDIA: nvidia.com/data-center/tesla-t4"),
    _row("l4", "L4", 30.3, 121, 242, 300, 24,
         "NVIDIA: nvidia.com/data-center/l4, its sparse rates halved"),
    _row("a100", "A100 40GB", 19.5, 312, 624, 1555, 40,
         "NVIDIA, A100 Tensor Core GPU Architecture, table of data center GPUs"),
    _row("h100", "H100 SXM", 67, 989, 1979, 3350, 80, _HOPPER.format("h100"), _NO_RTX),
    _row("h200", "H200 SXM", 67, 989, 1979, 4800, 141, _HOPPER.format("h200"), _NO_RTX),
    _row("rtx-3060", "RTX 3060 12GB", 12.7, 51, 102, 360, 12,
         f"{_AMPERE}nvidia.com: 28 SM at 1.78 GHz; rates computed; 360 GB/s: to check"),
    _row("rtx-4090", "RTX 4090", 82.6, 330, 661, 1008, 24, _ADA),
    _row("rtx-5090", "RTX 5090", 104.8, 419, 838, 1792, 32, _RTX_BLACKWELL),
    _row("arc-b580", "Intel Arc B580", 13.7, 117, 233, 456, 12,
         _XE.format("B580", 20), _INTEL.format("gpu")),
    _row("arc-a770", "Intel Arc A770 16GB", 19.7, 131, 262, 560, 16,
         _XE.format("A770", 32), _INTEL.format("gpu")),
    # graphics and neural processor share the memory of the processor
    _row("core-ultra-200v-gpu", "Intel Core Ultra 200V, its Arc 140V", 4.2, 33.5, 67, 136, 32,
         _CORE_ULTRA.format("200V"), _INTEL.format("gpu")),
    _row("core-ultra-200v-npu", "Intel Core Ultra 200V, its NPU", 24, 24, 48, 136, 32,
         _CORE_ULTRA.format("200V"), _INTEL.format("npu"), is_npu=True),
    _row("core-ultra-100-npu", "Intel Core Ultra 100, its NPU", 5.5, 5.5, 11, 120, 32,
         _CORE_ULTRA.format("100"), _INTEL.format("npu"), is_npu=True),
    # cores x clock x lanes x 2 units x 2 operations; int8 by vpdpbusd: 4 times fp32. Without VNNI
    # three instructions stand for one. Bandwidth: two channels of DDR4-3200, DDR5-4800; eight
    _row("x86-avx2", "x86, 8 cores with AVX2 at 3 GHz", 0.77, 0.77, 1.0, 51, 16,
         "computed: no one processor", is_gpu=False),
    _row("x86-vnni", "x86, 8 cores with AVX-512 VNNI at 3 GHz", 1.54, 1.54, 6.1, 77, 32,
         "computed: no one processor", is_gpu=False),
    _row("x86-amx", "x86, 8 cores with AMX at 2.6 GHz", 1.33, 42.6, 85, 150, 64,
         "computed: no one processor", is_gpu=False),
    _row("raspberry-pi-5", "Raspberry Pi 5, 4 cores at 2.4 GHz", 0.154, 0.307, 0.614, 17, 8,
         "Raspberry Pi Ltd., announcement: Cortex-A76, 32 bits of LPDDR4X-4267; rates computed "
         "from two 128-bit units, as LLVM's model of Neoverse N1 has them", is_gpu=False),
)  # fmt: skip
DEVICES = {device.name: device for device in _ALL}


def choose_devices(names: Sequence[str]) -> list[DeviceSpec]:
    """Return the devices of these names: of the table, `all` of them, or `here`, measured.

    Raises:
        OptionError: A name is not in the table; nothing is measured then.
    """
    for name in names:
        if name not in ("all", "here"):
            device_of(name)
    found: dict[str, DeviceSpec] = {}
    for name in names:
        if name == "all":
            found |= DEVICES
        else:
            found[name] = device_here() if name == "here" else device_of(name)
    return list(found.values())


def device_of(name: str) -> DeviceSpec:
    """Return the device of that name.

    Raises:
        OptionError: It is not in the table.
    """
    if name not in DEVICES:
        raise OptionError(
            f"--device must be one of {', '.join(DEVICES)}, all, or here; found {name!r}"
        )
    return DEVICES[name]


_SIDE, _COPIED_MIB, _ROUNDS = 768, 64, 7


def device_here(clock: Callable[[], float] = time.perf_counter) -> DeviceSpec:
    """Return the spec of this machine: fp32 by a matrix product, bandwidth by a copy, medians.

    INT8 and bf16 are multiples of fp32 by the instruction sets.
    """
    probe = SpeedProbe(clock)
    for _ in range(_ROUNDS):
        probe.measure()
    return probe.device()


class SpeedProbe:
    """Measures fp32 rate and bandwidth, one round at a time, to interleave with other work."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Allocate the arrays to multiply and copy."""
        generator = np.random.default_rng(0)
        self._clock = clock
        self._left, self._right = generator.random((2, _SIDE, _SIDE), np.float32)
        self._source = np.ones(_COPIED_MIB << 18, np.float32)
        self._target = np.empty_like(self._source)
        self.tflops: list[float] = []
        self.gigabytes: list[float] = []

    def measure(self) -> None:
        """Measure one round."""
        started = self._clock()
        np.matmul(self._left, self._right)
        middle = self._clock()
        np.copyto(self._target, self._source)
        done = self._clock()
        self.tflops.append(2e-12 * _SIDE**3 / (middle - started))
        self.gigabytes.append(2e-9 * self._source.nbytes / (done - middle))

    def device(self) -> DeviceSpec:
        """Return the spec of this machine by the medians so far."""
        facts = machine.describe()
        fp32 = float(np.median(self.tflops))
        known = set(facts.instructions)
        has_amx, has_vnni = "amx_int8" in known, bool({"avx512_vnni", "avx_vnni"} & known)
        return DeviceSpec(
            name="here",
            title=f"{facts.processor}, {facts.cores} cores",
            fp32_tflops=fp32,
            fp16_tflops=fp32 * (16 if has_amx else 2 if "avx512_bf16" in known else 1),
            int8_tops=fp32 * (32 if has_amx else 4 if has_vnni or "asimddp" in known else 1.3),
            bandwidth_gbs=float(np.median(self.gigabytes)),
            memory_gib=_memory_gib(),
            is_gpu=False,
            is_measured=True,
        )


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, AttributeError, OSError):  # another system than Linux
        return 8.0
