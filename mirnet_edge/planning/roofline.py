"""From cost and device to a range of milliseconds and a verdict.

A step takes what its arithmetic takes at a share of the device's best rate, or what its traffic
takes at a share of the bandwidth, whichever is longer; a frame takes the sum, and a little per
step. The shares are not known: they are a range from a good kernel to a poor one. On processors
they were measured (benchmarks/reports/plan.md); on GPUs nothing was measured here, so that their
range is wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.planning.cost import tflops_for

if TYPE_CHECKING:
    from mirnet_edge.manifest import Precision
    from mirnet_edge.planning.cost import Cost
    from mirnet_edge.planning.devices import Device

_BYTES_OF: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int8+fp16": 1}
# What TensorRT or a CPU runtime needs beside weights and activations.
_RUNTIME_MIB = {True: 500, False: 150}


@dataclass(frozen=True)
class Shares:
    """Which parts of a device's best rates are reached."""

    arithmetic: float
    bandwidth: float
    step_us: float
    """What each step costs beside: starting a kernel, waking threads."""
    fuses: bool


GPU_BEST = Shares(0.55, 0.85, 2.0, fuses=True)
GPU_WORST = Shares(0.12, 0.45, 6.0, fuses=False)
CPU_BEST = Shares(0.95, 1.0, 5.0, fuses=True)
CPU_WORST = Shares(0.45, 0.5, 20.0, fuses=False)
# Where the rates themselves were measured. Set so that the middle of the range is what OpenVINO
# took for three networks that benchmarks/plan.py calls calibrated; six others are within 1.2.
MEASURED_WORST = Shares(0.85, 0.95, 10.5, fuses=False)


@dataclass(frozen=True)
class Prediction:
    """What a network likely does on a device. Predicted, not measured."""

    device: Device
    precision: Precision
    best_ms: float
    worst_ms: float
    memory_mib: float
    needed_tflops: float
    fps: float
    """What was asked for."""

    @property
    def best_fps(self) -> float:
        """Return the frame rate if all goes well."""
        return 1e3 / self.best_ms

    @property
    def worst_fps(self) -> float:
        """Return the frame rate with poor kernels."""
        return 1e3 / self.worst_ms

    @property
    def middle_ms(self) -> float:
        """Return the range's geometric mean: one number where one is wanted."""
        return math.sqrt(self.best_ms * self.worst_ms)

    @property
    def can(self) -> bool:
        """Say whether the rate is within reach at all."""
        return self.best_fps >= self.fps and self.fits

    @property
    def fits(self) -> bool:
        """Say whether three quarters of the device's memory suffice."""
        return self.memory_mib < 768 * self.device.memory_gib


def predict(cost: Cost, device: Device, precision: Precision, fps: float) -> Prediction:
    """Return the range for one frame on a device."""
    best, worst = (GPU_BEST, GPU_WORST) if device.is_gpu else (CPU_BEST, CPU_WORST)
    if device.is_measured:
        worst = MEASURED_WORST
    size = _BYTES_OF[precision]
    activations = max(size, 2 if device.is_gpu else 4) * cost.peak_values
    return Prediction(
        device=device,
        precision=precision,
        best_ms=time_ms(cost, device, precision, best),
        worst_ms=time_ms(cost, device, precision, worst),
        memory_mib=(size * cost.weights + activations) / 2**20 + _RUNTIME_MIB[device.is_gpu],
        needed_tflops=tflops_for(cost, fps),
        fps=fps,
    )


def time_ms(cost: Cost, device: Device, precision: Precision, shares: Shares) -> float:
    """Return what one frame takes with certain shares of the device's rates."""
    flops = 1e12 * device.tflops(precision) * shares.arithmetic
    traffic = 1e9 * device.bandwidth_gbs * shares.bandwidth
    size = _BYTES_OF[precision]
    steps = [step for step in cost.steps if not (shares.fuses and step.is_fused)]
    seconds = sum(max(2 * step.macs / flops, size * step.values / traffic) for step in steps)
    return 1e3 * seconds + 1e-3 * shares.step_us * len(steps)


def verdict(name: str, cost: Cost, prediction: Prediction) -> str:
    """Return in one sentence whether a network can do what is asked on a device."""
    device, fps = prediction.device, prediction.fps
    what = f"{name} at {cost.width}x{cost.height}"
    if device.note.startswith("JetPack 5"):
        return f"{what} on {device.title}: {device.note}"
    if not prediction.fits:
        return (
            f"{what} does not fit {device.title}: about {prediction.memory_mib:.0f} MiB, and "
            f"three quarters of its {device.memory_gib:g} GiB are to be had"
        )
    if not prediction.can:
        has = device.tflops(prediction.precision)
        return (
            f"{what} cannot reach {fps:g} fps on {device.title}: needs "
            f"{prediction.needed_tflops:.3g} TFLOP/s, and at best {has:.3g} are there in "
            f"{prediction.precision}; likely {_range(prediction)} fps"
        )
    word = "reaches" if prediction.worst_fps >= fps else "may reach"
    return f"{what} {word} {fps:g} fps on {device.title}: likely {_range(prediction)} fps"


def _range(prediction: Prediction) -> str:
    return f"{rate_text(prediction.worst_fps)} to {rate_text(prediction.best_fps)}"


def rate_text(fps: float) -> str:
    """Return a rate as people read it: two figures where there are few, none behind the point."""
    return f"{fps:.0f}" if fps >= 10 else f"{fps:.2g}"
