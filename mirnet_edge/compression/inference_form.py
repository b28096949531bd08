"""Bring a network to the form that is deployed: the same function, cheaper to run.

Each rewrite is exact but for rounding (1e-5 in fp32); the tests hold it to that.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from mirnet_edge.models.edge import UnshuffledConv


def to_inference_form(network: nn.Module) -> nn.Module:
    """Return a rewritten copy of NETWORK in eval mode; NETWORK itself is left as it is."""
    rewritten = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    for parent in list(rewritten.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, UnshuffledConv):
                setattr(parent, name, strided_from_unshuffled(child))
            elif _resizes_then_mixes(child):
                mixed_first = nn.Sequential(child[1], child[0])  # type: ignore[index]
                setattr(parent, name, mixed_first.eval())
    return rewritten


def strided_from_unshuffled(conv: UnshuffledConv) -> nn.Conv2d:
    """Return one strided convolution that equals unshuffling and convolving.

    A 3x3 kernel over cells of factor x factor pixels is a (3 factor)x(3 factor) kernel over
    pixels. It spares ONNX Runtime a six-dimensional transpose of the whole frame: stem and
    unshuffle together took 0.59x the time there, and the same as before in OpenVINO.
    """
    factor, channels = conv.factor, conv.out_channels
    strided = nn.Conv2d(
        3, channels, 3 * factor, stride=factor, padding=factor, bias=conv.bias is not None
    )
    cells = conv.weight.detach().view(channels, 3, factor, factor, 3, 3)
    kernel = cells.permute(0, 1, 4, 2, 5, 3).reshape(channels, 3, 3 * factor, 3 * factor)
    with torch.no_grad():
        strided.weight.copy_(kernel)
        if conv.bias is not None and strided.bias is not None:
            strided.bias.copy_(conv.bias)
    return strided.eval().requires_grad_(requires_grad=False)


def _resizes_then_mixes(module: nn.Module) -> bool:
    """Tell a bilinear resize that is followed by a 1x1 convolution without bias.

    Interpolation weighs positions and the convolution weighs channels, so the two commute, and
    on the small side the convolution costs a quarter.
    """
    return (
        type(module) is nn.Sequential
        and len(module) == 2
        and isinstance(module[0], nn.Upsample)
        and module[0].mode == "bilinear"
        and isinstance(module[1], nn.Conv2d)
        and module[1].kernel_size == (1, 1)
    )
