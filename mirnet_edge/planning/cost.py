"""What one frame costs: multiply-accumulates and bytes moved, step by step, from the graph.

Nothing is computed: the network's deployed form runs on torch's meta device, where tensors have
shapes and no values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

# They change how memory is read, not what is in it.
_VIEWS = ("view", "t", "permute", "expand", "unsqueeze", "squeeze", "slice", "select", "split",
          "split_with_sizes", "detach", "alias", "transpose", "_unsafe_view", "unbind", "empty",
          "_to_copy")  # fmt: skip
# They wait for a whole tensor, or change its layout, so that no runtime fuses them away.
_BARRIERS = ("mean", "amax", "max", "sum", "_softmax", "upsample_bilinear2d", "avg_pool2d",
             "_adaptive_avg_pool2d", "cat", "stack", "pixel_shuffle", "bmm", "mm", "addmm",
             "reflection_pad2d", "constant_pad_nd", "clone")  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One operation of the graph on one frame."""

    kind: str
    macs: int
    values: int
    """How many numbers it reads and writes; times the bytes of one it is the traffic."""
    is_fused: bool
    """Whether runtimes do it while its input is at hand: activations, sums, products."""


@dataclass(frozen=True)
class Cost:
    """One frame through a network."""

    steps: tuple[Step, ...]
    weights: int
    """How many numbers it learned."""
    height: int
    width: int

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one frame."""
        return sum(step.macs for step in self.steps)

    def values(self, *, fused: bool) -> int:
        """Return how many numbers are moved, with all that can be fused fused or not."""
        return sum(step.values for step in self.steps if not (fused and step.is_fused))

    @property
    def peak_values(self) -> int:
        """Return about how many numbers are in memory at once: three of the largest steps."""
        return 3 * max((step.values for step in self.steps), default=0)


def cost_of(network: nn.Module, height: int, width: int) -> Cost:
    """Return what one frame costs in a network's deployed form.

    Args:
        network: Takes and gives (N, 3, H, W).
        height: Of the frame; brought up to the network's multiple here.
        width: The same.
    """
    from mirnet_edge.compression.inference_form import to_inference_form
    from mirnet_edge.models.deployment import FrameInterface

    multiple = int(cast("Any", network.multiple))
    tall, wide = (-(-side // multiple) * multiple for side in (height, width))
    deployed = FrameInterface(to_inference_form(network), "float").to("meta").eval()
    with _Recorder() as recorder, torch.no_grad():
        deployed(torch.empty(1, 3, tall, wide, device="meta"))
    weights = sum(parameter.numel() for parameter in network.parameters())
    return Cost(tuple(recorder.steps), weights, height, width)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Notes every operation with the sizes of what it reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.steps: list[Step] = []

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
            self.steps.append(Step(kind, _macs(kind, args, given), values, not is_barrier))
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


def tflops_for(cost: Cost, fps: float) -> float:
    """Return the rate that so many frames a second take, in TFLOP/s (a multiply-add is two)."""
    return 2e-12 * cost.macs * fps if math.isfinite(fps) else math.inf
