"""How MIRNet goes from one resolution to the next (paper, 3.3), low-passed before it drops values.

Both ways are residual: a path with convolutions, and a plain one beside it. The attribute names
are those of the published checkpoints, as in `models.mirnet`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mirnet_edge.models.blocks import conv1x1, conv3x3


class BlurredHalving(nn.Module):
    """Halve the resolution through a binomial low-pass, so that detail does not alias.

    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019: [1, 2, 1] in both
    directions, then every second value. The kernel is fixed; it is in the state dict because
    the published checkpoints hold it.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(row, row) / 16.0
        self.register_buffer("filt", kernel.repeat(channels, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H/2, W/2) for (N, C, H, W) with even H and W."""
        padded = functional.pad(features, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=self.filt.shape[0])


class ResidualDownsampling(nn.Module):
    """Halve the resolution and double the channels (paper, 3.3)."""

    def __init__(self, channels: int, inner: int) -> None:
        """Take CHANNELS, with INNER in between (in the paper as many)."""
        super().__init__()
        self.top = nn.Sequential(
            conv1x1(channels, inner),
            nn.PReLU(),
            conv3x3(inner, inner),
            nn.PReLU(),
            BlurredHalving(inner),
            conv1x1(inner, 2 * channels),
        )
        self.bot = nn.Sequential(BlurredHalving(channels), conv1x1(channels, 2 * channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, 2C, H/2, W/2) for (N, C, H, W) with even H and W."""
        top: Tensor = self.top(features)
        bottom: Tensor = self.bot(features)
        return top + bottom


class ResidualUpsampling(nn.Module):
    """Double the resolution and halve the channels (paper, 3.3)."""

    def __init__(self, channels: int, inner: int) -> None:
        """Take CHANNELS, with INNER in between (in the paper as many)."""
        super().__init__()
        self.top = nn.Sequential(
            conv1x1(channels, inner),
            nn.PReLU(),
            nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.PReLU(),
            conv1x1(inner, channels // 2),
        )
        self.bot = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv1x1(channels, channels // 2),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C/2, 2H, 2W) for (N, C, H, W)."""
        top: Tensor = self.top(features)
        bottom: Tensor = self.bot(features)
        return top + bottom
