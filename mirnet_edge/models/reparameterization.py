"""Structural re-parameterization: train a convolution as several branches, run it as one.

Branches beside the square kernel: a row and a column (Ding et al., "ACNet", ICCV 2019), a wide
1x1 - kxk - 1x1 (Bhardwaj et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution",
MLSys 2022; Ding et al., "Diverse Branch Block", CVPR 2021), and the identity with a scale per
channel. All are linear, so their sum is one kernel. Instead of
convolving with each branch and adding, the kernels are added and the image is convolved once (Hu et
al., "Online Convolutional Re-parameterization", CVPR 2022): the same gradients, at the cost of one
convolution plus a few small products, and folding is exact.

    widen_convolutions(network)  # train it
    fold_convolutions(network)   # the network as it was built, with the trained kernels
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHT = "weight"
_PREFIX = f"parametrizations.{_WEIGHT}."
_ORIGINAL, _BRANCHES = f"{_PREFIX}original", f"{_PREFIX}0."


class KernelBranches(nn.Module):
    """The branches beside the square kernel of a convolution; their kernels are added to it."""

    row: nn.Parameter
    """(out, in, 1, k): a 1xk convolution."""
    column: nn.Parameter
    """(out, in, k, 1)."""
    expand: nn.Parameter
    """(wide, in): the bottleneck's first 1x1 convolution, without bias."""
    middle: nn.Parameter
    """(wide, wide, k, k)."""
    project: nn.Parameter
    """(out, wide)."""
    scale: nn.Parameter
    """(out,): of the row, the column and the bottleneck; each starts as one."""

    def __init__(self, weight: Tensor, expansion: float = 2.0) -> None:
        """Make random branches.

        Args:
            weight: The convolution's kernel, (out, in, k, k) with odd k and no groups.
            expansion: Width of the bottleneck over the larger of `in` and `out`.
        """
        super().__init__()
        outputs, inputs, size, _ = weight.shape
        wide = max(1, round(expansion * max(outputs, inputs)))
        shapes = {
            "row": (outputs, inputs, 1, size),
            "column": (outputs, inputs, size, 1),
            "expand": (wide, inputs),
            "middle": (wide, wide, size, size),
            "project": (outputs, wide),
        }
        for name, shape in shapes.items():
            fan_in = math.prod(shape[1:])
            values = torch.randn(shape, device=weight.device) / math.sqrt(fan_in)
            setattr(self, name, nn.Parameter(values))
        with torch.no_grad():  # all branches together start a tenth as large as the usual kernel
            for parameter in (self.row, self.column, self.project):
                parameter.mul_(0.1)
        self.scale = nn.Parameter(torch.ones(3, outputs, device=weight.device))
        self.identity: nn.Parameter | None = None
        if outputs == inputs:
            self.identity = nn.Parameter(torch.zeros(outputs, device=weight.device))

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the kernel of the whole sum, (out, in, k, k), for the square branch's."""
        return kernel + self.added()

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """Return the square branch's kernel for which the sum is KERNEL."""
        return kernel - self.added()

    def added(self) -> Tensor:
        """Return the sum of the branches beside the square one, (out, in, k, k)."""
        return combine_branches(dict(self.named_parameters()))


def combine_branches(branches: Mapping[str, Tensor]) -> Tensor:
    """Return the kernel, (out, in, k, k), that equals all branches beside the square one.

    Args:
        branches: The tensors of `KernelBranches` by their names; `identity` may be absent.
    """
    row_scale, column_scale, bottleneck_scale = (
        scale.view(-1, 1, 1, 1) for scale in branches["scale"].unbind(0)
    )
    size = branches["row"].shape[-1]
    half = size // 2
    kernel = bottleneck_scale * torch.einsum(
        "ow,wvyx,vi->oiyx", branches["project"], branches["middle"], branches["expand"]
    )
    kernel = kernel + nn.functional.pad(row_scale * branches["row"], (0, 0, half, half))
    kernel = kernel + nn.functional.pad(column_scale * branches["column"], (half, half))
    if "identity" in branches:
        center = torch.diag(branches["identity"])[:, :, None, None]
        kernel = kernel + nn.functional.pad(center, (half, half, half, half))
    return kernel


def widen_convolutions(network: nn.Module, expansion: float = 2.0) -> int:
    """Give each convolution with an odd square kernel branches, in place; return how many.

    The network computes what it did before, to rounding. 1x1, grouped and transposed convolutions
    stay as they are.

    Args:
        network: Any; convolutions that have branches already keep them.
        expansion: See `KernelBranches`.
    """
    widened = 0
    for module in network.modules():
        if not isinstance(module, nn.Conv2d) or parametrize.is_parametrized(module):
            continue
        height, width = module.kernel_size
        if height != width or height % 2 == 0 or height == 1 or module.groups != 1:
            continue
        branches = KernelBranches(module.weight, expansion).requires_grad_(
            module.weight.requires_grad
        )
        parametrize.register_parametrization(module, _WEIGHT, branches)
        widened += 1
    return widened


def is_widened(network: nn.Module) -> bool:
    """Return whether a convolution of the network has branches."""
    return any(isinstance(module, KernelBranches) for module in network.modules())


def fold_convolutions(network: nn.Module) -> nn.Module:
    """Fold the branches of all convolutions into one kernel each, in place; return the network."""
    for module in list(network.modules()):
        if any(isinstance(child, KernelBranches) for child in _parametrizations(module)):
            parametrize.remove_parametrizations(module, _WEIGHT, leave_parametrized=True)
    return network


def _parametrizations(module: nn.Module) -> list[nn.Module]:
    """Return what computes a module's weight, in order."""
    if not parametrize.is_parametrized(module, _WEIGHT):
        return []
    return list(module.get_submodule(f"parametrizations.{_WEIGHT}").children())


def fold_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the branches of each convolution folded; others as they are.

    Args:
        tensors: Of a network of either form, by key.

    Raises:
        ValueError: The branches of a convolution do not fit its kernel.
    """
    # by owner first: an untrusted file may have thousands, and searching for each takes minutes
    by_owner: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, found, name = key.rpartition(_BRANCHES)
        if found:
            by_owner.setdefault(owner, {})[name] = tensor
    folded: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        owner, found, _ = key.rpartition(_ORIGINAL)
        if found:
            branches = by_owner.get(owner, {})
            _require_shapes(branches, tensor.shape, owner)
            folded[owner + _WEIGHT] = tensor + combine_branches(branches)
        elif _BRANCHES not in key:
            folded[key] = tensor
    return folded


def _require_shapes(branches: Mapping[str, Tensor], kernel: torch.Size, owner: str) -> None:
    outputs, inputs, size = kernel[:3]
    wide = branches["expand"].shape[0] if "expand" in branches else 0
    expected = {
        "row": (outputs, inputs, 1, size),
        "column": (outputs, inputs, size, 1),
        "expand": (wide, inputs),
        "middle": (wide, wide, size, size),
        "project": (outputs, wide),
        "scale": (3, outputs),
    }
    if outputs == inputs:
        expected["identity"] = (outputs,)
    found = {name: tuple(tensor.shape) for name, tensor in branches.items()}
    if found != expected:
        raise ValueError(f"{owner}: expected branches of shapes {expected}, found {found}")
