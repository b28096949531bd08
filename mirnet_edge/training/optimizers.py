"""Optimizers of a training run: AdamW for all weights, or Muon for convolution kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from mirnet_edge.training.recipe import OptimizerName

_MOMENTUM = 0.95
# Newton-Schulz iteration of the fifth degree, tuned to lift small singular values: after five steps
# most lie in about [0.7, 1.2] (Jordan et al., "Muon: An optimizer for hidden layers in neural
# networks", 2024)
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_EPSILON = 1e-7
# root mean square of AdamW's updates over its learning rate, so that one rate suits both (Liu et
# al., "Muon is Scalable for LLM Training", 2025)
_ADAMW_RMS = 0.2
_COLORS = 3


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return an optimizer of the parameters that require gradients.

    Biases and scalars have no weight decay.
    """
    by_muon: list[Tensor] = []
    by_adamw: list[Tensor] = []
    for parameter in parameters:
        if parameter.requires_grad:
            chosen = by_muon if name == "muon" and is_matrix(parameter) else by_adamw
            chosen.append(parameter)
    groups: list[dict[str, object]] = [
        {"params": [one for one in by_adamw if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in by_adamw if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    groups.append({"params": by_muon, "weight_decay": weight_decay, "is_orthogonalized": True})
    return Muon(groups, lr=learning_rate)


def is_matrix(parameter: Tensor) -> bool:
    """Return whether Muon trains a weight: it reads and writes more channels than an image has.

    Depthwise kernels are no matrix across channels, and those of colors hardly one. A stem that
    reads 2x2 pixels as 12 channels, and a head that writes them, are trained by Muon.
    """
    return parameter.ndim > 1 and min(parameter.shape[:2]) > _COLORS


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix with the same singular vectors and singular values near 1.

    Args:
        matrix: (M, N), floating point.

    Returns:
        The same shape and type.
    """
    first, third, fifth = _NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = matrix.T if is_tall else matrix
    wide = wide / (wide.norm() + _EPSILON)  # the largest singular value is at most 1
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        wide = first * wide + (third * gram + fifth * gram @ gram) @ wide
    return wide.T if is_tall else wide


class Muon(torch.optim.AdamW):
    """AdamW with orthogonalized momentum for the groups that have `is_orthogonalized`.

    A kernel (C_out, C_in, K, K) is taken as a matrix of C_out rows. `torch.optim.Muon` takes
    matrices alone, and iterates in bfloat16, which processors without it emulate.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step; return the loss of the closure, if there is one."""
        groups = self.param_groups
        self.param_groups = [one for one in groups if not one.get("is_orthogonalized")]
        try:
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("is_orthogonalized"):
                for parameter in group["params"]:
                    self._step_kernel(parameter, group["lr"], group["weight_decay"])
        return loss

    def _step_kernel(self, kernel: Tensor, learning_rate: float, weight_decay: float) -> None:
        if kernel.grad is None:
            return
        state = self.state[kernel]
        if not state:
            state["step"] = torch.tensor(0.0)  # AdamW reads it of all weights when a run resumes
            state["momentum"] = torch.zeros_like(kernel)
        state["step"] += 1
        momentum: Tensor = state["momentum"]
        momentum.mul_(_MOMENTUM).add_(kernel.grad)
        ahead = kernel.grad.add(momentum, alpha=_MOMENTUM)  # Nesterov
        update = orthogonalize(ahead.flatten(1))
        scale = _ADAMW_RMS * math.sqrt(max(update.shape))
        kernel.mul_(1.0 - learning_rate * weight_decay)
        kernel.add_(update.view_as(kernel), alpha=-learning_rate * scale)
