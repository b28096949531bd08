"""What devices can do at best: dense rates, not sparse ones.

Written down from memory. The comments name where each row is to be checked; none was yet.

Rates of Jetson's tensor cores: 256 fused multiply-adds in fp16 per core and clock (AGX Orin: 64
cores at 1.3 GHz, 170 sparse INT8 TOPS in its data sheet); INT8 is twice that, sparse twice again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.manifest import Precision


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device's best rates."""

    name: str
    title: str
    fp32_tflops: float
    fp16_tflops: float
    """Or bf16; the rate of fp32 where it has neither."""
    int8_tops: float
    bandwidth_gbs: float
    """Of its memory, GB/s."""
    memory_gib: float
    is_gpu: bool = True
    is_measured: bool = False
    """Whether the rates were measured, not taken from the table."""
    note: str = ""
    """What else decides whether it can run this package's engines."""

    def tflops(self, precision: Precision) -> float:
        """Return the best rate in a precision, a multiply-add counted as two."""
        rates = {"fp32": self.fp32_tflops, "fp16": self.fp16_tflops, "bf16": self.fp16_tflops}
        return rates.get(precision, self.int8_tops)


_XAVIER = (
    "JetPack 5 ends at TensorRT 8.5, and these plans need 10.3: there the bundle runs on the CPU"
)


def _row(  # the columns of the table below, in its order
    name: str, title: str, fp32: float, fp16: float, int8: float, bandwidth: float, memory: float,
    note: str = "", *, is_gpu: bool = True,
) -> Device:  # fmt: skip
    return Device(
        name=name, title=title, fp32_tflops=fp32, fp16_tflops=fp16, int8_tops=int8,
        bandwidth_gbs=bandwidth, memory_gib=memory, note=note, is_gpu=is_gpu,
    )  # fmt: skip


_ALL = (
    # to check: NVIDIA, Jetson Orin Nano/NX/AGX series data sheets; Super: JetPack 6.2 clocks
    _row("orin-nano", "Orin Nano 8GB (15 W)", 1.28, 10.2, 20.5, 68, 8),
    _row("orin-nano-super", "Orin Nano 8GB Super (25 W)", 2.09, 16.7, 33.4, 102, 8),
    _row("orin-nx", "Orin NX 16GB (25 W)", 1.88, 15.0, 30.1, 102, 16),
    _row("orin-nx-super", "Orin NX 16GB Super (40 W)", 2.40, 19.2, 38.4, 102, 16),
    _row("agx-orin", "AGX Orin 64GB (MAXN)", 5.3, 42.6, 85.2, 205, 64),
    # to check: NVIDIA, Jetson Thor data sheet: 2070 sparse FP4 TFLOPS, halved per step of precision
    _row("thor", "Jetson AGX Thor (MAXN)", 8.1, 258, 517, 273, 128),
    # to check: NVIDIA, Jetson Xavier NX data sheet: 384 Volta cores at 1.1 GHz
    _row("xavier-nx", "Xavier NX 8GB", 0.84, 6.0, 12.3, 59.7, 8, _XAVIER),
    # to check: NVIDIA, product briefs of the T4, L4, A100 (40 GB), H100 and H200 (SXM)
    _row("t4", "T4", 8.1, 65, 130, 320, 16),
    _row("l4", "L4", 30.3, 121, 242, 300, 24),
    _row("a100", "A100 40GB", 19.5, 312, 624, 1555, 40),
    _row("h100", "H100 SXM", 67, 989, 1979, 3350, 80, "TensorRT-RTX does not run on it"),
    _row("h200", "H200 SXM", 67, 989, 1979, 4800, 141, "TensorRT-RTX does not run on it"),
    # to check: NVIDIA, Ampere GA102, Ada and Blackwell architecture papers: tensor cores, fp16 sums
    _row("rtx-3060", "RTX 3060 12GB", 12.7, 51, 102, 360, 12),
    _row("rtx-4090", "RTX 4090", 82.6, 330, 661, 1008, 24),
    _row("rtx-5090", "RTX 5090", 104.8, 419, 838, 1792, 32),
    # cores x clock x lanes x 2 units x 2 operations; int8 by vpdpbusd: 4 times fp32. Without VNNI
    # three instructions stand for one. Bandwidth: two channels of DDR4-3200, DDR5-4800; eight
    _row("x86-avx2", "x86, 8 cores with AVX2 at 3 GHz", 0.77, 0.77, 1.0, 51, 16, is_gpu=False),
    _row("x86-vnni", "x86, 8 cores with AVX-512 VNNI at 3 GHz", 1.54, 1.54, 6.1, 77, 32,
         is_gpu=False),
    _row("x86-amx", "x86, 8 cores with AMX at 2.6 GHz", 1.33, 42.6, 85, 150, 64, is_gpu=False),
    # to check: Arm, Cortex-A76 optimization guide: two 128-bit units; LPDDR4X-4267 on 32 bits
    _row("raspberry-pi-5", "Raspberry Pi 5, 4 cores at 2.4 GHz", 0.154, 0.307, 0.614, 17, 8,
         is_gpu=False),
)  # fmt: skip
DEVICES = {device.name: device for device in _ALL}


def device_of(name: str) -> Device:
    """Return the device of that name.

    Raises:
        OptionError: It is not in the table.
    """
    if name not in DEVICES:
        raise OptionError(
            f"--device must be one of {', '.join(DEVICES)}, all, or here; found {name!r}"
        )
    return DEVICES[name]
