"""The MIRNet of the Keras examples, in both variants that exist.

The example's networks differ from the paper's (`models.mirnet`) in more than names: every
convolution has a bias, the stream fusion takes its softmax over the channels of each branch
instead of over the branches, resolution changes by maximum pooling and by repeating pixels, and
nothing is shared. The two variants:

- "2021", the example until July 2023 and soumik12345/MIRNet: the last fusion takes the bottom
  stream twice and the middle one never, so that the second half of the middle stream is not part
  of the network. Spatial attention sees [maximum, mean].
- "2023", the example since: the last fusion takes all three. Spatial attention sees
  [mean, maximum].

    image ─ 3x3 ─ KerasResidualGroup x groups ─ 3x3 ─ + image
                  └ 3x3 ─ KerasResidualBlock x blocks ─ 3x3 ─ + input

Modules are registered in the order in which the example creates its layers; Keras numbers them in
that order, and `checkpoints.keras_layers` relies on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mirnet_edge.errors import OptionError
from mirnet_edge.models.blocks import GlobalPool, inner_widths, require_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

Variant = Literal["2021", "2023"]
VARIANTS: tuple[Variant, ...] = ("2021", "2023")

_SQUEEZE = 8  # attention and fusion decide on an eighth of the channels
_MULTIPLE = 4  # the lowest of the three streams has a quarter of the resolution


@dataclass(frozen=True, kw_only=True)
class KerasMIRNetConfig:
    """The shape of a Keras MIRNet; the defaults are those of today's example.

    Raises:
        OptionError: A value makes no network.
    """

    variant: Variant = "2023"
    channels: int = 64
    """Channels at full resolution; the lower streams have two and four times as many."""
    groups: int = 3
    """Recursive residual groups (example: num_rrg)."""
    blocks: int = 2
    """Multi-scale residual blocks in each group (example: num_mrb)."""
    unit_widths: tuple[int, ...] | None = None
    """Channels inside each stream's dual attention units, between their two 3x3 convolutions; None:
    as many as the stream has. This and the next two differ from the example where a network was
    pruned."""
    down_widths: tuple[int, ...] | None = None
    """Channels inside the modules that halve the resolution of the upper two streams."""
    up_widths: tuple[int, ...] | None = None
    """Channels inside the modules that double the resolution of the lower two streams."""

    def __post_init__(self) -> None:
        """Refuse shapes that make no network."""
        if self.variant not in VARIANTS:
            raise OptionError(f"variant must be 2021 or 2023, found {self.variant!r}")
        for name in ("groups", "blocks"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.channels < _SQUEEZE:
            raise OptionError(
                f"channels must be at least {_SQUEEZE} (attention squeezes them {_SQUEEZE} "
                f"times), found {self.channels}"
            )
        full = self.widths
        for name, usual in (
            ("unit_widths", full), ("down_widths", full[:-1]), ("up_widths", full[1:])
        ):  # fmt: skip
            object.__setattr__(self, name, inner_widths(name, getattr(self, name), usual))

    @property
    def in_channels(self) -> int:
        """Color channels of input and output."""
        return 3

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of each stream, full resolution first."""
        return (self.channels, 2 * self.channels, 4 * self.channels)


class ChannelSoftmaxFusion(nn.Module):
    """Fuse three streams by weights that sum to 1 over the channels of each stream.

    The example applies the softmax to each branch's descriptor by itself, so that a fused tensor
    is as many times smaller than the streams as they have channels. The convolutions that follow
    have learned to make up for it.
    """

    def __init__(self, channels: int) -> None:
        """Squeeze CHANNELS to an eighth and decide once per stream."""
        super().__init__()
        squeezed = channels // _SQUEEZE
        self.pool = GlobalPool()
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1), nn.ReLU())
        self.fcs = nn.ModuleList(nn.Conv2d(squeezed, channels, 1) for _ in range(3))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """Return (N, C, H, W) for three streams of that shape."""
        first, second, third = streams
        squeezed = self.conv_du(self.pool(first + second + third))
        weights = [fc(squeezed).softmax(1) for fc in self.fcs]
        fused: Tensor = first * weights[0] + second * weights[1] + third * weights[2]
        return fused


class KerasDualAttention(nn.Module):
    """Two convolutions and both kinds of attention on their result."""

    def __init__(self, channels: int, inner: int, variant: Variant) -> None:
        """Keep the number of channels, with INNER in between (in the example as many)."""
        super().__init__()
        self.maximum_first = variant == "2021"
        squeezed = channels // _SQUEEZE
        self.body = nn.Sequential(_conv3x3(channels, inner), nn.ReLU(), _conv3x3(inner, channels))
        self.pool = GlobalPool()
        self.channel = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1)
        )
        self.spatial = nn.Conv2d(2, 1, 1)
        self.conv1x1 = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined = self.body(features)
        largest, average = refined.amax(1, keepdim=True), refined.mean(1, keepdim=True)
        seen = (largest, average) if self.maximum_first else (average, largest)
        spatial = self.spatial(torch.cat(seen, 1)).sigmoid()
        channel = self.channel(self.pool(refined)).sigmoid()
        mixed: Tensor = self.conv1x1(torch.cat((refined * channel, refined * spatial), 1))
        return features + mixed


class MaxPoolDownsampling(nn.Module):
    """Halve the resolution by maximum pooling and double the channels."""

    def __init__(self, channels: int, inner: int) -> None:
        """Take CHANNELS, with INNER in between (in the example as many)."""
        super().__init__()
        self.top = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            _conv3x3(inner, inner),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(inner, 2 * channels, 1),
        )
        self.bot = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(channels, 2 * channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, 2C, H/2, W/2) for (N, C, H, W) with even H and W."""
        lowered: Tensor = self.bot(features) + self.top(features)
        return lowered


class NearestUpsampling(nn.Module):
    """Double the resolution by repeating pixels and halve the channels."""

    def __init__(self, channels: int, inner: int) -> None:
        """Take CHANNELS, with INNER in between (in the example as many)."""
        super().__init__()
        self.top = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            _conv3x3(inner, inner),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(inner, channels // 2, 1),
        )
        self.bot = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, channels // 2, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C/2, 2H, 2W) for (N, C, H, W)."""
        raised: Tensor = self.bot(features) + self.top(features)
        return raised


class KerasResidualBlock(nn.Module):
    """Three streams that exchange what they found twice, plus the input.

    Attributes are named by stream: `top` has the full resolution, `middle` half, `bottom` a
    quarter.
    """

    def __init__(self, config: KerasMIRNetConfig) -> None:
        """Keep the number of channels."""
        super().__init__()
        widths = config.widths
        top, middle, bottom = widths
        units = config.unit_widths or widths
        downs, ups = config.down_widths or widths[:-1], config.up_widths or widths[1:]
        self.has_middle = config.variant == "2023"

        def unit(stream: int) -> KerasDualAttention:
            return KerasDualAttention(widths[stream], units[stream], config.variant)

        def down(stream: int) -> MaxPoolDownsampling:
            return MaxPoolDownsampling(widths[stream], downs[stream])

        def up(stream: int) -> NearestUpsampling:
            return NearestUpsampling(widths[stream], ups[stream - 1])

        self.down_top, self.down_middle = down(0), down(1)
        self.first_top, self.first_middle, self.first_bottom = unit(0), unit(1), unit(2)
        self.middle_to_top = up(1)
        self.bottom_to_top = nn.Sequential(up(2), up(1))
        self.fuse_top = ChannelSoftmaxFusion(top)
        if self.has_middle:
            self.top_to_middle, self.bottom_to_middle = down(0), up(2)
            self.fuse_middle = ChannelSoftmaxFusion(middle)
        self.top_to_bottom = nn.Sequential(down(0), down(1))
        self.middle_to_bottom = down(1)
        self.fuse_bottom = ChannelSoftmaxFusion(bottom)
        self.second_top = unit(0)
        if self.has_middle:
            self.second_middle, self.last_middle = unit(1), up(1)
        self.second_bottom = unit(2)
        self.last_bottom = nn.Sequential(up(2), up(1))
        self.fuse_last = ChannelSoftmaxFusion(top)
        self.conv_out = _conv3x3(top, top)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape; H and W are multiples of 4."""
        lowered = self.down_top(features)
        top = self.first_top(features)
        middle = self.first_middle(lowered)
        bottom = self.first_bottom(self.down_middle(lowered))
        fused_top = self.fuse_top([top, self.middle_to_top(middle), self.bottom_to_top(bottom)])
        fused_bottom = self.fuse_bottom(
            [self.top_to_bottom(top), self.middle_to_bottom(middle), bottom]
        )
        last_top = self.second_top(fused_top)
        last_bottom = self.last_bottom(self.second_bottom(fused_bottom))
        last_middle = last_bottom
        if self.has_middle:
            fused_middle = self.fuse_middle(
                [self.top_to_middle(top), middle, self.bottom_to_middle(bottom)]
            )
            last_middle = self.last_middle(self.second_middle(fused_middle))
        merged: Tensor = self.conv_out(self.fuse_last([last_top, last_middle, last_bottom]))
        return features + merged


class KerasResidualGroup(nn.Module):
    """Multi-scale residual blocks between two convolutions, plus the input."""

    def __init__(self, config: KerasMIRNetConfig) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.conv_first = _conv3x3(config.channels, config.channels)
        self.body = nn.Sequential(
            *(KerasResidualBlock(config) for _ in range(config.blocks)),
            _conv3x3(config.channels, config.channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined: Tensor = self.body(self.conv_first(features))
        return refined + features


class KerasMIRNet(nn.Module):
    """The MIRNet of the Keras examples: see the module's docstring."""

    def __init__(self, config: KerasMIRNetConfig | None = None) -> None:
        """Build the network with PyTorch's default random weights."""
        super().__init__()
        self.config = config or KerasMIRNetConfig()
        self.conv_in = _conv3x3(self.config.in_channels, self.config.channels)
        self.body = nn.Sequential(
            *(KerasResidualGroup(self.config) for _ in range(self.config.groups))
        )
        self.conv_out = _conv3x3(self.config.channels, self.config.in_channels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return _MULTIPLE

    def forward(self, batch: Tensor) -> Tensor:
        """Return the restored batch; shapes, ranges and errors are those of `MIRNet.forward`."""
        require_batch(batch, "Keras MIRNet", self.config.in_channels, self.multiple)
        residual: Tensor = self.conv_out(self.body(self.conv_in(batch)))
        return batch + residual


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
