"""MIRNet (ECCV 2020), with the attribute names of the published checkpoints.

Written from the paper: Zamir et al., "Learning Enriched Features for Real Image Restoration and
Enhancement". Attribute names and their order are those of the authors' published
checkpoints, so that these load key by key; class names are the paper's, in full.

    image ─ 3x3 ─ RecursiveResidualGroup x groups ─ 3x3 ─ + image
                  └ MultiScaleResidualBlock x blocks ─ 3x3 ─ + input

No layer has a bias. Both ways between resolutions, up and down, are residual: a path with
convolutions, and a plain one beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mirnet_edge.errors import OptionError
from mirnet_edge.models.blocks import (
    GlobalPool,
    SelectiveKernelFusion,
    conv1x1,
    conv3x3,
    inner_widths,
    require_batch,
)


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


_ATTENTION_SQUEEZE = 8  # channel attention works on an eighth of the channels


@dataclass(frozen=True, kw_only=True)
class MIRNetConfig:
    """The shape of a MIRNet; the defaults are the paper's.

    Raises:
        OptionError: A value makes no network.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 64
    """Channels at full resolution (authors: n_feat)."""
    groups: int = 3
    """Recursive residual groups (authors: n_RRG)."""
    blocks: int = 2
    """Multi-scale residual blocks in each group (authors: n_MSRB)."""
    streams: int = 3
    """Parallel resolutions (authors: height)."""
    columns: int = 2
    """Dual attention units that each stream passes (authors: width)."""
    factor: int = 2
    """From stream to stream, what resolution is divided and channels multiplied by (authors:
    stride). The paper's resizing modules exist for 2 alone."""
    unit_widths: tuple[int, ...] | None = None
    """Channels inside each stream's dual attention units, between their two 3x3 convolutions; None:
    as many as the stream has. This and the next two differ from the paper where a network was
    pruned."""
    down_widths: tuple[int, ...] | None = None
    """Channels inside the modules that halve the resolution of all streams but the last; None: as
    many as that stream has."""
    up_widths: tuple[int, ...] | None = None
    """Channels inside the modules that double the resolution of all streams but the first; None:
    as many as that stream has."""

    def __post_init__(self) -> None:
        """Refuse shapes that make no network."""
        for name in ("in_channels", "out_channels", "groups", "blocks", "streams", "columns"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.channels < _ATTENTION_SQUEEZE:
            raise OptionError(
                f"channels must be at least {_ATTENTION_SQUEEZE} (channel attention squeezes them "
                f"{_ATTENTION_SQUEEZE} times), found {self.channels}"
            )
        if self.in_channels != self.out_channels:
            raise OptionError(
                "in_channels and out_channels must be equal (the image is added to the output), "
                f"found {self.in_channels} and {self.out_channels}"
            )
        if self.factor != 2:
            raise OptionError(f"factor must be 2, found {self.factor}")
        full = self.widths
        for name, usual in (
            ("unit_widths", full), ("down_widths", full[:-1]), ("up_widths", full[1:])
        ):  # fmt: skip
            object.__setattr__(self, name, inner_widths(name, getattr(self, name), usual))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stream, full resolution first."""
        return tuple(self.channels * self.factor**stream for stream in range(self.streams))


class SpatialAttention(nn.Module):
    """Weigh every position by what its channels have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(2, 1, kernel_size=5, padding=2, bias=False))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        largest = features.amax(1, keepdim=True)
        average = features.mean(1, keepdim=True)
        attention: Tensor = self.spatial(torch.cat((largest, average), 1))
        return features * attention.sigmoid()


class ChannelAttention(nn.Module):
    """Weigh every channel by what the whole frame holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // _ATTENTION_SQUEEZE
        self.pool = GlobalPool()
        self.conv_du = nn.Sequential(
            conv1x1(channels, squeezed), nn.ReLU(), conv1x1(squeezed, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        attention: Tensor = self.conv_du(self.pool(features))
        return features * attention.sigmoid()


class DualAttentionUnit(nn.Module):
    """Two convolutions and both kinds of attention on their result ("DAU in the paper", 3.2)."""

    def __init__(self, channels: int, inner: int, activation: nn.PReLU) -> None:
        """Keep the number of channels, with INNER in between; ACTIVATION is shared with others."""
        super().__init__()
        self.body = nn.Sequential(conv3x3(channels, inner), activation, conv3x3(inner, channels))
        self.SA = SpatialAttention()
        self.CA = ChannelAttention(channels)
        self.conv1x1 = conv1x1(2 * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined = self.body(features)
        attended = torch.cat((self.SA(refined), self.CA(refined)), 1)
        mixed: Tensor = self.conv1x1(attended)
        return mixed + features


class MultiScaleResidualBlock(nn.Module):
    """Streams at several resolutions that keep exchanging what they found ("MSRB in the paper").

    Each stream has one dual attention unit, which serves all its columns. The resizing modules
    between columns exist once per source and factor, named by both.
    """

    def __init__(self, config: MIRNetConfig, activation: nn.PReLU) -> None:
        """Keep the number of channels; ACTIVATION serves all the dual attention units."""
        super().__init__()
        widths, lowest = config.widths, config.streams - 1
        inner = config.unit_widths or widths
        units = [DualAttentionUnit(*both, activation) for both in zip(widths, inner, strict=True)]
        self.blocks = nn.ModuleList(nn.ModuleList([unit] * config.columns) for unit in units)
        self.last_up = nn.ModuleDict(
            {str(stream): _resizing(config, stream, -stream) for stream in range(1, lowest + 1)}
        )
        self.down = nn.ModuleDict(
            {
                f"{widths[stream]}_{2**steps}": _resizing(config, stream, steps)
                for stream in range(lowest)
                for steps in range(lowest - stream, 0, -1)
            }
        )
        self.up = nn.ModuleDict(
            {
                f"{widths[stream]}_{2**steps}": _resizing(config, stream, -steps)
                for stream in range(lowest, 0, -1)
                for steps in range(stream, 0, -1)
            }
        )
        self.conv_out = conv3x3(config.channels, config.channels)
        self.selective_kernel = nn.ModuleList(
            SelectiveKernelFusion(width, config.streams, nn.PReLU) for width in widths
        )
        self.widths = widths
        self.columns = config.columns

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape; H and W are multiples of 2^(streams - 1)."""
        streams = self._staircase(features)
        for column in range(1, self.columns):
            # every stream reads the previous column, none a result of this one
            fused = [
                fuse([self._resized(streams[row], row, target) for row in range(len(streams))])
                for target, fuse in enumerate(self.selective_kernel)
            ]
            streams = [self._unit(row, column)(stream) for row, stream in enumerate(fused)]
        full = [streams[0]]
        full += [self.last_up[str(row)](streams[row]) for row in range(1, len(streams))]
        merged: Tensor = self.conv_out(self.selective_kernel[0](full))
        return merged + features

    def _staircase(self, features: Tensor) -> list[Tensor]:
        """Return the first column: each stream is made from the refined one above it."""
        streams = [self._unit(0, 0)(features)]
        for row in range(1, len(self.widths)):
            lowered = self._resized(streams[-1], row - 1, row)
            streams.append(self._unit(row, 0)(lowered))
        return streams

    def _unit(self, row: int, column: int) -> nn.Module:
        return cast("nn.ModuleList", self.blocks[row])[column]

    def _resized(self, stream: Tensor, source: int, target: int) -> Tensor:
        if source == target:
            return stream
        modules = self.down if source < target else self.up
        resized: Tensor = modules[f"{self.widths[source]}_{2 ** abs(target - source)}"](stream)
        return resized


class RecursiveResidualGroup(nn.Module):
    """Multi-scale residual blocks and a convolution, plus the input ("RRG in the paper")."""

    def __init__(self, config: MIRNetConfig, activation: nn.PReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(MultiScaleResidualBlock(config, activation) for _ in range(config.blocks)),
            conv3x3(config.channels, config.channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined: Tensor = self.body(features)
        return refined + features


class MIRNet(nn.Module):
    """MIRNet: see the module's docstring."""

    def __init__(self, config: MIRNetConfig | None = None) -> None:
        """Build the network with PyTorch's default random weights."""
        super().__init__()
        self.config = config or MIRNetConfig()
        # the published checkpoints hold one slope for the dual attention units of all groups
        activation = nn.PReLU()
        self.conv_in = conv3x3(self.config.in_channels, self.config.channels)
        self.body = nn.Sequential(
            *(RecursiveResidualGroup(self.config, activation) for _ in range(self.config.groups))
        )
        self.conv_out = conv3x3(self.config.channels, self.config.out_channels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return int(self.config.factor ** (self.config.streams - 1))

    def forward(self, batch: Tensor) -> Tensor:
        """Return the restored batch.

        Args:
            batch: (N, 3, H, W) float RGB in [0, 1]; H and W multiples of `multiple`.

        Returns:
            The same shape; slightly outside [0, 1] where the network overshoots.

        Raises:
            ImageError: The shape does not fit.
        """
        require_batch(batch, "MIRNet", self.config.in_channels, self.multiple)
        residual: Tensor = self.conv_out(self.body(self.conv_in(batch)))
        return residual + batch


def _resizing(config: MIRNetConfig, stream: int, steps: int) -> nn.Module:
    """Return the way from a stream to the one STEPS lower, or higher for negative STEPS."""
    widths = config.widths
    down, up = config.down_widths or widths[:-1], config.up_widths or widths[1:]
    modules = [
        ResidualDownsampling(widths[stream + step], down[stream + step])
        if steps > 0
        else ResidualUpsampling(widths[stream - step], up[stream - step - 1])
        for step in range(abs(steps))
    ]
    return nn.Sequential(OrderedDict(body=nn.Sequential(*modules)))
