"""Count a network's multiply-accumulates (MACs) for one frame, and its parameters."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from mirnet_edge.models.mirnet_v2 import ContextModule

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, ContextModule)


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Return the multiply-accumulates of a network for one frame.

    Convolutions, transposed convolutions and linear layers count, each time they run, and so does
    the weighted sum over the frame in MIRNet-v2. What is done between them (activations,
    attention's products, interpolation, the fixed blur) does not. A transposed convolution is
    counted by its input: counting it by its output, as some tools do, gives four times too many
    and MIRNet's published 785 G instead of 479 G at 256x256.

    Nothing is computed: a copy of the network runs on the meta device.

    Args:
        model: A network that takes (N, C, H, W). C is its `config.in_channels`, else 3.
        height: Of the frame, in pixels; a multiple of the network's `multiple`.
        width: The same.

    Raises:
        ImageError: The network does not take that size.
    """
    counter = _MacCounter()
    weightless = copy.deepcopy(model).to("meta").eval()
    for module in weightless.modules():  # a shared module is listed once
        if isinstance(module, _COUNTED):
            module.register_forward_hook(counter)
    channels = getattr(getattr(model, "config", None), "in_channels", 3)
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    with torch.no_grad():
        weightless(torch.empty(1, channels, height, width, device="meta", dtype=dtype))
    return counter.macs


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters; shared tensors count once."""
    return sum(parameter.numel() for parameter in model.parameters())


class _MacCounter:
    """A forward hook that sums the MACs of modules."""

    def __init__(self) -> None:
        self.macs = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, ContextModule):
            self.macs += inputs[0].numel()  # one weight for every position of every channel
            return
        # weight: (out, in / groups, *kernel), transposed (in, out / groups, *kernel)
        weight = cast("Tensor", module.weight)
        counted = inputs[0] if isinstance(module, _TRANSPOSED) else output
        self.macs += counted.numel() * weight[0].numel()
