"""Predict the latency of a network on a device from its MACs and bytes moved (roofline model).

No pixel is computed: the network's inference form runs on torch's meta device, where tensors have
shapes and no values.

Sources are the vendors' documents, read on 2026-11-25 in mirrors and quotations, not on the
vendors' pages. "Computed" is cores times clock; "to check" has no source.

Rates of Jetson Orin's tensor cores, 32 in 1024 cores: 256 fused multiply-adds in fp16 per core and
clock; INT8 is twice that, sparse twice again. AGX Orin's 64 at 1.3 GHz then give 170 sparse INT8
TOPS, and NVIDIA says 171 (github.com/NVIDIA/Deep-Learning-Accelerator-SW).

The latency of a step is the longer of its arithmetic at a share of the device's peak rate and its
traffic at a share of the bandwidth; that of a frame is the sum, with an overhead per step. The
shares are a range from efficient to inefficient kernels: measured on processors
(benchmarks/reports/plan.md), not measured on GPUs, whose range is wide.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import preferred_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from mirnet_edge.manifest import Precision

# They change the view of a tensor, not its values.
_VIEWS = ("view", "t", "permute", "expand", "unsqueeze", "squeeze", "slice", "select", "split",
          "split_with_sizes", "detach", "alias", "transpose", "_unsafe_view", "unbind", "empty",
          "_to_copy")  # fmt: skip
# They need a whole tensor, or change its layout: runtimes cannot fuse them.
_BARRIERS = ("mean", "amax", "max", "sum", "_softmax", "upsample_bilinear2d", "avg_pool2d",
             "_adaptive_avg_pool2d", "cat", "stack", "pixel_shuffle", "bmm", "mm", "addmm",
             "reflection_pad2d", "constant_pad_nd", "clone")  # fmt: skip


@dataclass(frozen=True)
class GraphStep:
    """The cost of one operation of the graph on one frame."""

    kind: str
    macs: int
    values: int
    """Numbers it reads and writes; times their size in bytes, the traffic."""
    is_fused: bool
    """Whether runtimes fuse it into the step before: activations, sums, products."""


@dataclass(frozen=True)
class NetworkCost:
    """The cost of one frame through a network: MACs, traffic, weights."""

    steps: tuple[GraphStep, ...]
    weights: int
    """Number of parameters."""
    height: int
    width: int

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one frame."""
        return sum(step.macs for step in self.steps)

    def values(self, *, fused: bool) -> int:
        """Return how many numbers are moved, with or without fused steps."""
        return sum(step.values for step in self.steps if not (fused and step.is_fused))

    @property
    def peak_values(self) -> int:
        """Return an estimate of the numbers in memory at once: three times the largest step."""
        return 3 * max((step.values for step in self.steps), default=0)


def cost_of(network: nn.Module, height: int, width: int) -> NetworkCost:
    """Return the cost of one frame in a network's inference form.

    Args:
        network: From (N, 3, H, W) to (N, 3, H, W).
        height: Of the frame; padded to the network's multiple here.
        width: The same.
    """
    from mirnet_edge.models.inference_form import FrameInterface, to_inference_form

    multiple = int(cast("Any", network.multiple))
    tall, wide = (-(-side // multiple) * multiple for side in (height, width))
    deployed = FrameInterface(to_inference_form(network), "float").to("meta").eval()
    with _Recorder() as recorder, torch.no_grad():
        deployed(torch.empty(1, 3, tall, wide, device="meta"))
    weights = sum(parameter.numel() for parameter in network.parameters())
    return NetworkCost(tuple(recorder.steps), weights, height, width)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Records every operation with the sizes of its inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.steps: list[GraphStep] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  # torch's
        types: Any,  # noqa: ANN401  # torch's
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401  # torch's
    ) -> Any:  # noqa: ANN401  # torch's
        given = func(*args, **(kwargs or {}))
        kind = func.overloadpacket.__name__
        if kind not in _VIEWS:
            tensors = [one for one in tree_leaves((args, given)) if isinstance(one, Tensor)]
            values = sum(one.numel() for one in tensors)
            is_barrier = kind == "convolution" or kind in _BARRIERS
            self.steps.append(GraphStep(kind, _macs(kind, args, given), values, not is_barrier))
        return given


def _macs(kind: str, args: Sequence[Any], given: Any) -> int:  # noqa: ANN401  # torch's
    if kind == "convolution":
        source, weight, transposed = args[0], args[1], args[6]
        counted = source if transposed else given
        return int(counted.numel() * weight[0].numel())
    if kind in ("mm", "bmm"):
        return int(given.numel() * args[0].shape[-1])
    if kind == "addmm":
        return int(given.numel() * args[1].shape[-1])
    return 0


def tflops_for(cost: NetworkCost, fps: float) -> float:
    """Return the TFLOP/s that a frame rate needs; a multiply-add counts as two."""
    return 2e-12 * cost.macs * fps if math.isfinite(fps) else math.inf


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
    is_measured: bool = False
    """Whether the rates are measured, not from the table."""
    source: str = ""
    """Source of the rates; which are computed or to check."""
    note: str = ""
    """Other limits on running this package's engines."""

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


def _row(  # the columns of the table below, in its order
    name: str, title: str, fp32: float, fp16: float, int8: float, bandwidth: float, memory: float,
    source: str, note: str = "", *, is_gpu: bool = True,
) -> DeviceSpec:  # fmt: skip
    return DeviceSpec(
        name=name, title=title, fp32_tflops=fp32, fp16_tflops=fp16, int8_tops=int8,
        bandwidth_gbs=bandwidth, memory_gib=memory, source=source, note=note, is_gpu=is_gpu,
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
         f"{_MODULES}: 384 cores; 1.1 GHz and the rates in fp16 and INT8: to check", _XAVIER),
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


_BYTES_OF: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int8+fp16": 1}
# Memory of TensorRT or a CPU runtime beside weights and activations.
_RUNTIME_MIB = {True: 500, False: 150}


@dataclass(frozen=True)
class EfficiencyShares:
    """Shares of a device's peak rates that kernels reach."""

    arithmetic: float
    bandwidth: float
    step_us: float
    """Overhead of each step: launching a kernel, waking threads."""
    fuses: bool


GPU_BEST = EfficiencyShares(0.55, 0.85, 2.0, fuses=True)
GPU_WORST = EfficiencyShares(0.12, 0.45, 6.0, fuses=False)
CPU_BEST = EfficiencyShares(0.95, 1.0, 5.0, fuses=True)
CPU_WORST = EfficiencyShares(0.45, 0.5, 20.0, fuses=False)
# For measured rates: the middle of the range is OpenVINO's latency for the three networks that
# benchmarks/plan.py calls calibrated; six others are within a factor of 1.2.
MEASURED_WORST = EfficiencyShares(0.85, 0.95, 10.5, fuses=False)


@dataclass(frozen=True)
class LatencyPrediction:
    """The predicted latency and memory of a network on a device, as a range."""

    device: DeviceSpec
    precision: Precision
    best_ms: float
    worst_ms: float
    memory_mib: float
    needed_tflops: float
    fps: float
    """The requested frame rate."""

    @property
    def best_fps(self) -> float:
        """Return the frame rate with efficient kernels."""
        return 1e3 / self.best_ms

    @property
    def worst_fps(self) -> float:
        """Return the frame rate with inefficient kernels."""
        return 1e3 / self.worst_ms

    @property
    def middle_ms(self) -> float:
        """Return the geometric mean of the range."""
        return math.sqrt(self.best_ms * self.worst_ms)

    @property
    def can(self) -> bool:
        """Return whether the requested rate is possible."""
        return self.best_fps >= self.fps and self.fits

    @property
    def fits(self) -> bool:
        """Return whether it fits three quarters of the device's memory."""
        return self.memory_mib < 768 * self.device.memory_gib


def predict(
    cost: NetworkCost, device: DeviceSpec, precision: Precision, fps: float
) -> LatencyPrediction:
    """Return the predicted latency of one frame on a device."""
    best, worst = (GPU_BEST, GPU_WORST) if device.is_gpu else (CPU_BEST, CPU_WORST)
    if device.is_measured:
        worst = MEASURED_WORST
    size = _BYTES_OF[precision]
    activations = max(size, 2 if device.is_gpu else 4) * cost.peak_values
    return LatencyPrediction(
        device=device,
        precision=precision,
        best_ms=time_ms(cost, device, precision, best),
        worst_ms=time_ms(cost, device, precision, worst),
        memory_mib=(size * cost.weights + activations) / 2**20 + _RUNTIME_MIB[device.is_gpu],
        needed_tflops=tflops_for(cost, fps),
        fps=fps,
    )


def time_ms(
    cost: NetworkCost, device: DeviceSpec, precision: Precision, shares: EfficiencyShares
) -> float:
    """Return the latency of one frame at given shares of the device's rates."""
    flops = 1e12 * device.tflops(precision) * shares.arithmetic
    traffic = 1e9 * device.bandwidth_gbs * shares.bandwidth
    size = _BYTES_OF[precision]
    steps = [step for step in cost.steps if not (shares.fuses and step.is_fused)]
    seconds = sum(max(2 * step.macs / flops, size * step.values / traffic) for step in steps)
    return 1e3 * seconds + 1e-3 * shares.step_us * len(steps)


def describe_prediction(name: str, cost: NetworkCost, prediction: LatencyPrediction) -> str:
    """Return a sentence about whether a network reaches the requested rate on a device."""
    device, fps = prediction.device, prediction.fps
    what = f"{name} at {cost.width}x{cost.height}"
    if device.note.startswith("JetPack 5"):
        return f"{what} on {device.title}: {device.note}"
    if not prediction.fits:
        return (
            f"{what} does not fit {device.title}: about {prediction.memory_mib:.0f} MiB, more "
            f"than three quarters of its {device.memory_gib:g} GiB"
        )
    if not prediction.can:
        has = device.tflops(prediction.precision)
        return (
            f"{what} cannot reach {fps:g} fps on {device.title}: needs "
            f"{prediction.needed_tflops:.3g} TFLOP/s, the peak in {prediction.precision} is "
            f"{has:.3g}; likely {_range(prediction)} fps"
        )
    word = "reaches" if prediction.worst_fps >= fps else "may reach"
    return f"{what} {word} {fps:g} fps on {device.title}: likely {_range(prediction)} fps"


def _range(prediction: LatencyPrediction) -> str:
    return f"{rate_text(prediction.worst_fps)} to {rate_text(prediction.best_fps)}"


def rate_text(fps: float) -> str:
    """Return a rate as text: two significant digits below 10, whole numbers above."""
    return f"{fps:.0f}" if fps >= 10 else f"{fps:.2g}"


_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
# The networks of the papers, at the widths of the papers.
_FULL = ("mirnet", "mirnet-v2")


@dataclass(frozen=True)
class DevicePlan:
    """The predictions for one device in every precision, and a sentence about the best."""

    device: DeviceSpec
    predictions: tuple[LatencyPrediction, ...]
    best: LatencyPrediction
    sentence: str
    instead: str
    """What to take where it does not do; empty where it does."""


def plan_network(
    weights: str, devices: Sequence[str], height: int, width: int, fps: float
) -> tuple[NetworkCost, list[DevicePlan]]:
    """Return the cost of one frame and a plan per device; nothing is measured but `here`.

    Args:
        weights: A weights file, shipped:NAME, a bundle, or mirnet or mirnet-v2 for the networks
            of the papers.
        devices: Names in the table; `all`; or `here` for this processor, measured in a second.
        height: Of the frames.
        width: The same.
        fps: The requested rate.

    Raises:
        OptionError: No such device, or a size or rate that is not positive.
        CheckpointError: The weights cannot be opened.
        MissingDependencyError: torch is not installed.
    """
    if min(height, width) < 1 or not fps > 0:
        raise OptionError(f"size and rate must be positive, found {width}x{height} at {fps:g} fps")
    require("torch", "predicting from weights")
    chosen = _choose_devices(devices)
    cost = _cost(weights, height, width)
    instead = _cost("shipped:low-light", height, width)
    return cost, [_plan_device(weights, cost, device, fps, instead) for device in chosen]


def _choose_devices(names: Sequence[str]) -> list[DeviceSpec]:
    if list(names) == ["all"]:
        return list(DEVICES.values())
    return [device_here() if name == "here" else device_of(name) for name in names]


def _cost(weights: str, height: int, width: int) -> NetworkCost:
    return cost_of(_network(weights), height, width)


def _network(weights: str) -> Any:  # noqa: ANN401  # networks have no type in common
    import torch

    from mirnet_edge import checkpoints
    from mirnet_edge.manifest import FILE_NAME, read_manifest, verify_path
    from mirnet_edge.models.mirnet import MIRNet
    from mirnet_edge.models.mirnet_v2 import MIRNetV2

    if weights in _FULL:
        with torch.device("meta"):  # without values, which saves 127 MB
            return MIRNet() if weights == "mirnet" else MIRNetV2()
    path = Path(weights)
    if (path / FILE_NAME).is_file():
        weights = str(verify_path(path, read_manifest(path).model.weights))
    return checkpoints.load(weights).model


def _plan_device(
    name: str, cost: NetworkCost, device: DeviceSpec, fps: float, instead: NetworkCost
) -> DevicePlan:
    predictions = tuple(predict(cost, device, precision, fps) for precision in _PRECISIONS)
    # INT8 is for those that need it
    preferred = preferred_backend("gpu" if device.is_gpu else "cpu").precisions[0]
    usual = next(one for one in predictions if one.precision == preferred)
    best = usual if usual.can else max(predictions, key=lambda one: one.best_fps)
    what = f"full {name} (papers' width)" if name in _FULL else name
    advice = ""
    if not best.can or best.worst_fps < fps:
        other = predict(instead, device, best.precision, fps)
        if other.best_fps > 1.2 * best.best_fps and other.can:
            advice = (
                f"use shipped:low-light or edge weights of your task: likely "
                f"{rate_text(other.worst_fps)} to {rate_text(other.best_fps)} fps"
            )
        else:
            quarter = rate_text(best.best_fps * 4)
            advice = f"halve both sides: a quarter of the work, {quarter} fps at best"
    return DevicePlan(device, predictions, best, describe_prediction(what, cost, best), advice)
