"""Frames in, frames out without a full-size transpose: the form of a MIRNetEdge for LiteRT.

LiteRT and XNNPACK compute channels last. A `FrameInterface` asks them for planes of pixels, which
costs four transposes of the whole frame in the pixel shuffle alone, and for products with one
number per color, which XNNPACK computes in runs of three. Written as here, low light in fp32 took
0.87x the time in LiteRT; the output is the same to within rounding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mirnet_edge.models.edge import (
    EXPOSED_RANGE,
    MIRNetEdge,
    enlarge,
    gated,
    thumbnail_of,
)
from mirnet_edge.models.inference_form import FrameInterface, SplitHead

if TYPE_CHECKING:
    from mirnet_edge.models.edge import ExposureBranch


def to_channels_last_form(network: nn.Module) -> nn.Module:
    """Return a module of one uint8 frame in and out: the fastest form for channels-last runtimes.

    Args:
        network: As `to_inference_form` returns it. A MIRNetEdge without a damage branch gets the
            form of this module; any other network the plain `FrameInterface`.
    """
    if (
        isinstance(network, MIRNetEdge)
        and isinstance(network.head, SplitHead)
        and network.damage is None
    ):
        return ChannelsLastEdge(network).eval()
    return FrameInterface(network, "uint8").eval()


class ChannelsLastEdge(nn.Module):
    """A MIRNetEdge in inference form with (1, H, W, 3) uint8 RGB frames as input and output."""

    identity: Tensor

    def __init__(self, network: MIRNetEdge) -> None:
        """Take the modules of NETWORK, and its head with the order of the outputs changed."""
        super().__init__()
        self.exposure = network.exposure
        self.stem = network.stem
        self.blocks = network.blocks
        self.scale = network.config.scale
        head: SplitHead = network.head  # type: ignore[assignment]  # as `to_inference_form` leaves it
        self.factor, self.light = head.factor, head.light
        self.added = _pixels_before_colors(head.added, self.factor)
        self.kept = head.kept
        # torch.eye would become an operator that LiteRT does not have
        self.register_buffer(
            "identity", torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return the restored frame, (1, scale H, scale W, 3) uint8, of one frame."""
        pixels = frames.float() * (1.0 / 255.0)
        if self.exposure is not None:
            pixels = self._expose(pixels, self.exposure)
            if self.light:
                pixels = pixels.clamp(*EXPOSED_RANGE)
        features = self.blocks(self.stem(_planes(pixels)))
        residual = self._shuffle(self.added(features))
        gate = self._shuffle(self.kept(features))
        if self.scale > 1:
            pixels = enlarge(_planes(pixels), self.scale).permute(0, 2, 3, 1)
        restored = gated(pixels, gate, residual, light=self.light).clamp(0.0, 1.0)
        return (restored * 255.0).round().to(torch.uint8)

    def _expose(self, pixels: Tensor, branch: ExposureBranch) -> Tensor:
        """Return what the exposure branch makes of (1, H, W, 3)."""
        height, width = pixels.shape[1:3]
        curve = branch.curve_of(thumbnail_of(_planes(pixels))).reshape(1, -1)
        gain, shoulder = torch.exp(curve[:, 0:3]), functional.softplus(curve[:, 3:6] - 4.0)
        rows = pixels.reshape(1, 1, height, 3 * width)
        toned = rows * _along_row(gain, width) / (1.0 + rows * _along_row(shoulder, width))
        matrix = curve[:, 6:15].reshape(1, 3, 3) + self.identity
        mixed = torch.matmul(toned.reshape(1, height * width, 3), matrix)
        exposed: Tensor = mixed + curve[:, 15:18].reshape(1, 1, 3)
        return exposed.reshape(1, height, width, 3)

    def _shuffle(self, features: Tensor) -> Tensor:
        """Return (1, factor H, factor W, C) of (1, factor^2 C, H, W): a transpose of long runs."""
        _, channels, height, width = features.shape
        factor = self.factor
        cells = features.permute(0, 2, 3, 1).reshape(height, width, factor, channels // factor)
        lines = cells.permute(0, 2, 1, 3)
        return lines.reshape(1, height * factor, width * factor, channels // factor**2)


def _planes(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)


def _along_row(values: Tensor, width: int) -> Tensor:
    """Return (1, 1, 1, 3 width): three values again and again."""
    return values.reshape(1, 1, 1, 3).expand(1, 1, width, 3).reshape(1, 1, 1, 3 * width)


def _pixels_before_colors(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    """Return a convolution whose outputs are ordered by pixel, then color."""
    ordered = copy.deepcopy(conv)
    places = torch.arange(conv.out_channels).view(-1, factor, factor).permute(1, 2, 0).flatten()
    with torch.no_grad():
        ordered.weight.copy_(conv.weight[places])
        if conv.bias is not None and ordered.bias is not None:
            ordered.bias.copy_(conv.bias[places])
    return ordered.requires_grad_(requires_grad=False)
