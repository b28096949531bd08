"""MIRNet-v2 (TPAMI 2022), with the attribute names of the published checkpoints.

Written from the paper: Zamir et al., "Learning Enriched Features for Fast Image Restoration and
Enhancement". Attribute names and their order are those of the authors' published
checkpoints, so that these load key by key; class names are the paper's, in full.

    image ─ 3x3 ─ RecursiveResidualGroup x groups ─ 3x3 ─ + image
                  └ MultiScaleResidualBlock x blocks ─ 3x3 ─ + input

No layer has a bias; every activation is a LeakyReLU of slope 0.2.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from mirnet_edge.errors import OptionError
from mirnet_edge.models.blocks import (
    GlobalPool,
    SelectiveKernelFusion,
    conv1x1,
    conv3x3,
    inner_widths,
    require_batch,
)

DEFOCUS_TASK = "defocus_deblurring"
"""The one task whose network differs: two views in (6 channels), no image added to the output."""

_MULTIPLE = 4  # the lowest of the three streams has a quarter of the resolution


@dataclass(frozen=True, kw_only=True)
class MIRNetV2Config:
    """The shape of a MIRNet-v2; the defaults are the paper's.

    Raises:
        OptionError: A value makes no network.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 80
    """Channels at full resolution (authors: n_feat)."""
    channel_factor: float = 1.5
    """What the channels grow by from stream to stream, rounded down (authors: chan_factor)."""
    groups: int = 4
    """Recursive residual groups (authors: n_RRG)."""
    blocks: int = 2
    """Multi-scale residual blocks in each group (authors: n_MRB)."""
    conv_groups: tuple[int, ...] = (1, 2, 4, 4)
    """For each recursive residual group, the groups of its blocks' 3x3 convolutions."""
    task: str | None = None
    """`defocus_deblurring` changes the network; any other value is a remark."""
    unit_widths: tuple[int, ...] | None = None
    """Channels inside each stream's residual contextual blocks, between their two 3x3 convolutions;
    None: as many as the stream has. Others than the paper's where a network was pruned."""

    def __post_init__(self) -> None:
        """Refuse shapes that make no network."""
        object.__setattr__(self, "conv_groups", tuple(self.conv_groups))
        for name in ("in_channels", "out_channels", "channels", "groups", "blocks"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not (math.isfinite(self.channel_factor) and self.channel_factor >= 1):
            raise OptionError(f"channel_factor must be at least 1, found {self.channel_factor}")
        if self.task != DEFOCUS_TASK and self.in_channels != self.out_channels:
            raise OptionError(
                "in_channels and out_channels must be equal (the image is added to the output) "
                f"unless task is {DEFOCUS_TASK!r}, "
                f"found {self.in_channels} and {self.out_channels} for task {self.task!r}"
            )
        if len(self.conv_groups) != self.groups:
            raise OptionError(
                f"conv_groups must have one number for each of the {self.groups} groups, "
                f"found {self.conv_groups}"
            )
        inner = inner_widths("unit_widths", self.unit_widths, self.widths)
        object.__setattr__(self, "unit_widths", inner)
        widths = (*self.widths, *(inner or ()))
        for number in self.conv_groups:
            if number < 1 or any(width % number for width in widths):
                raise OptionError(
                    f"each of conv_groups must divide the streams' channels {widths}, "
                    f"found {number}"
                )

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the streams at 1, 1/2 and 1/4 of the resolution.

        Each is rounded down from the exact product: for 13 channels (13, 19, 29), not
        (13, 19, 28).
        """
        return (
            self.channels,
            int(self.channels * self.channel_factor),
            int(self.channels * self.channel_factor**2),
        )


class ContextModule(nn.Module):
    """Add to every position what the whole frame holds (paper, 3.2; after Cao et al., GCNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_mask = conv1x1(channels, 1)
        self.channel_add_conv = nn.Sequential(
            conv1x1(channels, channels), _activation(), conv1x1(channels, channels)
        )
        self.pool = GlobalPool()

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        weights = self.conv_mask(features).flatten(2).softmax(2)
        context = (features.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)
        # The sum is one position already, and the pool leaves it alone. It passes through all
        # the same: the pool is where anchoring reads and replaces the frame's vectors.
        transformed: Tensor = self.channel_add_conv(self.pool(context))
        return features + transformed


class ResidualContextualBlock(nn.Module):
    """Two convolutions and the frame's context, plus the input ("RCB in the paper", 3.2)."""

    def __init__(self, channels: int, inner: int, conv_groups: int) -> None:
        """Keep the number of channels, with INNER in between (in the paper as many)."""
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, inner, conv_groups),
            _activation(),
            conv3x3(inner, channels, conv_groups),
        )
        self.act = _activation()
        self.gcnet = ContextModule(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined: Tensor = self.act(self.gcnet(self.body(features)))
        return refined + features


class MultiScaleResidualBlockV2(nn.Module):
    """Three streams that are fused from the bottom up, twice ("MRB in the paper", 3.1).

    The second pass has ups of its own and the first pass's blocks and fusions.
    """

    def __init__(self, config: MIRNetV2Config, conv_groups: int) -> None:
        """CONV_GROUPS is that of the 3x3 convolutions."""
        super().__init__()
        top, middle, bottom = config.widths
        inner = config.unit_widths or config.widths
        self.dau_top = ResidualContextualBlock(top, inner[0], conv_groups)
        self.dau_mid = ResidualContextualBlock(middle, inner[1], conv_groups)
        self.dau_bot = ResidualContextualBlock(bottom, inner[2], conv_groups)
        self.down2 = _halving(top, middle)
        self.down4 = nn.Sequential(_halving(top, middle), _halving(middle, bottom))
        self.up21_1 = _doubling(middle, top)
        self.up21_2 = _doubling(middle, top)
        self.up32_1 = _doubling(bottom, middle)
        self.up32_2 = _doubling(bottom, middle)
        self.conv_out = conv1x1(top, top)
        self.skff_top = SelectiveKernelFusion(top, 2, _activation)
        self.skff_mid = SelectiveKernelFusion(middle, 2, _activation)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape; H and W are multiples of 4."""
        top, middle, bottom = features, self.down2(features), self.down4(features)
        passes = ((self.up32_1, self.up21_1), (self.up32_2, self.up21_2))
        for up_bottom, up_middle in passes:
            top, middle, bottom = self.dau_top(top), self.dau_mid(middle), self.dau_bot(bottom)
            middle = self.skff_mid([middle, up_bottom(bottom)])
            top = self.skff_top([top, up_middle(middle)])
        merged: Tensor = self.conv_out(top)
        return merged + features


class RecursiveResidualGroupV2(nn.Module):
    """Multi-scale residual blocks and a convolution, plus the input ("RRG in the paper")."""

    def __init__(self, config: MIRNetV2Config, conv_groups: int) -> None:
        """CONV_GROUPS is that of the blocks; the group's own convolution has none."""
        super().__init__()
        self.body = nn.Sequential(
            *(MultiScaleResidualBlockV2(config, conv_groups) for _ in range(config.blocks)),
            conv3x3(config.channels, config.channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined: Tensor = self.body(features)
        return refined + features


class MIRNetV2(nn.Module):
    """MIRNet-v2: see the module's docstring."""

    def __init__(self, config: MIRNetV2Config | None = None) -> None:
        """Build the network with PyTorch's default random weights."""
        super().__init__()
        self.config = config or MIRNetV2Config()
        self.conv_in = conv3x3(self.config.in_channels, self.config.channels)
        self.body = nn.Sequential(
            *(RecursiveResidualGroupV2(self.config, number) for number in self.config.conv_groups)
        )
        self.conv_out = conv3x3(self.config.channels, self.config.out_channels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return _MULTIPLE

    def forward(self, batch: Tensor) -> Tensor:
        """Return the restored batch.

        Args:
            batch: (N, 3, H, W) float RGB in [0, 1], for defocus deblurring (N, 6, H, W): the
                left and the right view; H and W multiples of `multiple`.

        Returns:
            (N, 3, H, W); slightly outside [0, 1] where the network overshoots.

        Raises:
            ImageError: The shape does not fit.
        """
        require_batch(batch, "MIRNet-v2", self.config.in_channels, self.multiple)
        shallow = self.conv_in(batch)
        deep: Tensor = self.body(shallow)
        restored: Tensor
        if self.config.task == DEFOCUS_TASK:
            restored = self.conv_out(deep + shallow)
            return restored
        restored = self.conv_out(deep)
        return restored + batch


def _activation() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2)


def _halving(inputs: int, outputs: int) -> nn.Module:
    """Return half the resolution: average of 2x2, then 1x1."""
    return _resizing(nn.AvgPool2d(2), conv1x1(inputs, outputs))


def _doubling(inputs: int, outputs: int) -> nn.Module:
    """Return twice the resolution: 1x1, then bilinear."""
    return _resizing(
        conv1x1(inputs, outputs),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )


def _resizing(*layers: nn.Module) -> nn.Module:
    """Return the layers one after the other, under the names the published checkpoints have."""
    step = nn.Sequential(OrderedDict(bot=nn.Sequential(*layers)))
    return nn.Sequential(OrderedDict(body=nn.Sequential(step)))
