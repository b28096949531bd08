"""Predict the latency of a network on a device from its MACs and bytes moved (roofline model).

No pixel is computed: the network's inference form runs on torch's meta device, where tensors have
shapes and no values.

The latency of a step is the longer of its arithmetic at a share of the device's peak rate and its
traffic at a share of the bandwidth; that of a frame is the sum, with an overhead per step. The
shares are a range from efficient to inefficient kernels: measured on processors
(benchmarks/reports/plan.md), not measured on GPUs, whose range is wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirnet_edge.checkpoints import FULL_NETWORKS
from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.backends import preferred_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from mirnet_edge.devices import DeviceSpec
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
    if device.runs_no_engine:
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


Outcome = Literal["yes", "maybe", "no"]
"""Whether a rate is reached: at both ends of the predicted range, at the fast end alone, or not."""

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class DevicePlan:
    """The predictions for one device in every precision, and a sentence about the best."""

    device: DeviceSpec
    predictions: tuple[LatencyPrediction, ...]
    best: LatencyPrediction
    sentence: str
    instead: str
    """What to take where it does not do; empty where it does."""

    @property
    def outcome(self) -> Outcome:
        """Return whether the requested rate is reached."""
        if not self.best.can or self.device.runs_no_engine:
            return "no"
        return "yes" if self.best.worst_fps >= self.best.fps else "maybe"


@dataclass(frozen=True)
class NetworkPlan:
    """The predictions for a network at one frame size."""

    weights: str
    cost: NetworkCost
    fps: float
    """The requested rate."""
    devices: tuple[DevicePlan, ...]


def plan_network(
    weights: str, devices: Sequence[DeviceSpec], sizes: Sequence[tuple[int, int]], fps: float
) -> list[NetworkPlan]:
    """Return the plans of a network, one per frame size; nothing is measured.

    Args:
        weights: A weights file, shipped:NAME, a bundle, or one of `FULL_NETWORKS`.
        devices: What to predict for.
        sizes: (height, width) of the frames.
        fps: The requested rate.

    Raises:
        OptionError: A size or rate that is not positive.
        CheckpointError: The weights cannot be opened.
    """
    for height, width in sizes:
        if min(height, width) < 1 or not fps > 0:
            raise OptionError(
                f"size and rate must be positive, found {width}x{height} at {fps:g} fps"
            )
    network, other = _network(weights), _network("shipped:low-light")
    plans = []
    for height, width in sizes:
        cost, instead = cost_of(network, height, width), cost_of(other, height, width)
        answers = [_plan_device(weights, cost, device, fps, instead) for device in devices]
        plans.append(NetworkPlan(weights, cost, fps, tuple(answers)))
    return plans


def _network(weights: str) -> Any:  # noqa: ANN401  # networks have no type in common
    import torch

    from mirnet_edge import checkpoints
    from mirnet_edge.manifest import FILE_NAME, read_manifest, verify_path
    from mirnet_edge.models import KerasMIRNet, KerasMIRNetConfig, MIRNet, MIRNetV2

    if weights in FULL_NETWORKS:
        with torch.device("meta"):  # without values, which saves 127 MB
            if weights == "mirnet":
                return MIRNet()
            if weights == "mirnet-v2":
                return MIRNetV2()
            return KerasMIRNet(
                KerasMIRNetConfig(variant="2021" if weights.endswith("2021") else "2023")
            )
    path = Path(weights)
    if (path / FILE_NAME).is_file():
        weights = str(verify_path(path, read_manifest(path).model.weights))
    return checkpoints.load(weights).model


def _plan_device(
    name: str, cost: NetworkCost, device: DeviceSpec, fps: float, instead: NetworkCost
) -> DevicePlan:
    predictions = tuple(predict(cost, device, precision, fps) for precision in _PRECISIONS)
    # INT8 is for those that need it
    preferred = preferred_backend(device.kind).precisions[0]
    usual = next(one for one in predictions if one.precision == preferred)
    suffices = usual.can and usual.worst_fps >= fps
    best = usual if suffices else max(predictions, key=lambda one: one.best_fps)
    what = f"full {name} (published width)" if name in FULL_NETWORKS else name
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
