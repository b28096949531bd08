"""MIRNetEdge: a network of MIRNet's ideas for live video, designed in this project.

Two choices make it fast enough for a camera, a third one accurate:

- All convolutions run at a fraction of the output's resolution (pixel-unshuffle stem,
  pixel-shuffle head), in three parallel streams as in MIRNet-v2 (Zamir et al., TPAMI 2022).
- Attention needs two small vectors and one map: channel attention by the global mean, spatial
  attention by a 1x1 convolution; the two are added before the multiplication.
- Exposure is corrected for the whole frame. A small branch computes a tone curve and a color
  matrix from a thumbnail; the streams then process the brightened image, where detail, noise and
  INT8 steps have their usual size. Networks for denoising or super-resolution have no such branch.

The light form (`MIRNetEdgeConfig.light`) moves less memory and multiplies less: half of the time in
INT8 at 1280x720 on AVX2 and with VNNI (docs/decisions/026-light-form.md). Enlarging networks in
their light form work at the input's full resolution (docs/decisions/030-super-resolution.md). Those
that denoise have full convolutions and no gate either (docs/decisions/041-denoising-shape.md).
Networks for old photos also find and fill damage, before the stem (`models/damage.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models.blocks import GlobalPool, SelectiveKernelFusion
from mirnet_edge.models.damage import FILL_LEVELS, DamageBranch, fill_damage

THUMBNAIL_FACTOR = 8
# Height and width of the thumbnail, for every frame size and shape.
THUMBNAIL_SIZE = (24, 36)
# The light form's corrected exposure is clamped to this range, in which 8 bits can store it; the
# margins keep the sensor's noise around black, and lamps.
EXPOSED_RANGE = (-16.0 / 224.0, 239.0 / 224.0)
# Log gain (3), shoulder (3), color matrix less identity (9), black point (3).
_CURVE_PARAMETERS = 18


@dataclass(frozen=True, kw_only=True)
class MIRNetEdgeConfig:
    """The shape of a MIRNetEdge.

    Raises:
        OptionError: There is no network of these values.
    """

    channels: tuple[int, int, int] = (32, 48, 64)
    """Channels of the streams at 1/stem, 1/(2 stem) and 1/(4 stem) of the resolution. The last two
    are 0 in a network of the finest stream alone, which light networks of full convolutions can
    be."""
    depth: int = 2
    """Convolutions of the finest stream's attention block: 2, or more in light networks of full
    convolutions."""
    blocks: int = 1
    """How many blocks follow each other: multi-scale residual ones, or of a single stream."""
    stem: int = 4
    """The pixel-unshuffle factor."""
    exposure_channels: int = 16
    """Channels of the exposure branch at the first of its three scales; 0 for no branch."""
    exposure_members: int = 1
    """Branches of so many channels each, of whose tone curves the mean is taken: an ensemble. 1
    where there is no branch."""
    scale: int = 1
    """How many times higher and wider the output is: super-resolution."""
    light: bool = False
    """Whether to build the light form: coarse streams guide the finer ones instead of being fused
    with them, attention is by channel alone, and the corrected exposure fits 8 bits. At scale 1 the
    stem sees one cell of stem x stem pixels."""
    full_convolutions: bool = False
    """Of light networks: whether the finest stream's convolutions are full ones and the head is a
    3x3 convolution without a gate, as detail and noise of single pixels need. False: they are
    separable, and the head, with a gate, sees one cell. Always True in those that enlarge."""
    damage_channels: int = 0
    """Channels of the damage branch at half the resolution, which finds scratches and fills them
    before the stem; 0 for no branch. Light networks of separable convolutions alone have one."""

    def __post_init__(self) -> None:
        """Refuse values without a network."""
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.exposure_channels and self.exposure_members > 0:
            object.__setattr__(self, "exposure_members", 1)
        if self.light and self.scale > 1:
            object.__setattr__(self, "full_convolutions", True)
        self._refuse_numbers()
        self._refuse_combinations()

    def _refuse_numbers(self) -> None:
        """Refuse single values out of range."""
        streams = self.channels[:1] if self.has_one_stream else self.channels
        if len(self.channels) != 3 or min(streams) < 1:
            raise OptionError(
                "channels must be three positive numbers, or one and two zeros for one stream, "
                f"found {self.channels}"
            )
        if self.blocks < 1 or self.exposure_channels < 0:
            raise OptionError(
                "blocks must be at least 1 and exposure_channels at least 0, "
                f"found {self.blocks} and {self.exposure_channels}"
            )
        if self.exposure_members < 1:
            raise OptionError(f"exposure_members must be at least 1, found {self.exposure_members}")
        if self.stem not in (1, 2, 4):
            raise OptionError(f"stem must be 1, 2 or 4, found {self.stem}")
        if self.scale not in (1, 2, 3, 4):
            raise OptionError(f"scale must be 1, 2, 3 or 4, found {self.scale}")

    def _refuse_combinations(self) -> None:
        """Refuse values that one of the forms does not have."""
        if self.full_convolutions and not self.light:
            raise OptionError("full_convolutions is of light networks, found light = False")
        if self.has_one_stream and not self.full_convolutions:
            raise OptionError(
                "a light network of full convolutions can have one stream alone, no other: found "
                f"channels {self.channels}, light = {self.light}, scale = {self.scale}"
            )
        if self.depth < 2 or (self.depth > 2 and not self.full_convolutions):
            raise OptionError(
                "depth must be 2, or more in a light network of full convolutions, "
                f"found {self.depth}, light = {self.light}, scale = {self.scale}"
            )
        can_fill = self.light and not self.full_convolutions
        if self.damage_channels < 0 or (self.damage_channels and not can_fill):
            raise OptionError(
                "damage_channels must be 0, or positive in a light network of scale 1 and "
                f"separable convolutions, found {self.damage_channels}, light = {self.light}, "
                f"scale = {self.scale}, full_convolutions = {self.full_convolutions}"
            )

    @property
    def has_one_stream(self) -> bool:
        """Return whether there are no coarser streams."""
        return self.channels[1:] == (0, 0)

    @property
    def has_cell_stem(self) -> bool:
        """Return whether the stem sees one cell of stem x stem pixels: light, scale 1."""
        return self.light and self.scale == 1


class ExposureBranch(nn.Module):
    """Correct the exposure and colors of the whole frame by a tone curve from its thumbnail.

    The curve is y = M · (a x / (1 + b x)) + k per pixel, with a gain `a` and a shoulder `b` for
    each channel, a color matrix M and a black point `k`: one division in the graph. The black
    point adds 1.5 dB: sensors and stray light lift black, and a gain of ten lifts it tenfold.

    Several members are an ensemble: grouped convolutions, in which none reads another's channels,
    and one last layer, which can hold the mean of their curves
    (docs/decisions/039-exposure-ensemble.md).
    """

    def __init__(self, channels: int, members: int = 1) -> None:
        """Build a branch of MEMBERS with CHANNELS each that starts as the identity."""
        super().__init__()
        self.channels, self.members = channels, members
        first, wide = members * channels, members * 4 * channels
        self.features = nn.Sequential(
            nn.Conv2d(6, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, 2 * first, 3, stride=2, padding=1, groups=members),
            nn.ReLU(),
            nn.Conv2d(2 * first, wide, 3, stride=2, padding=1, groups=members),
            nn.ReLU(),
        )
        self.pool = GlobalPool()
        self.decide = nn.Sequential(
            nn.Conv2d(2 * wide, wide, 1, groups=members),
            nn.ReLU(),
            nn.Conv2d(wide, _CURVE_PARAMETERS, 1),
        )
        for parameter in self.decide[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, batch: Tensor, thumbnail: Tensor) -> Tensor:
        """Return the batch with corrected exposure, (N, 3, H, W), not clamped.

        Args:
            batch: (N, 3, H, W) in [0, 1].
            thumbnail: `thumbnail_of` the frames that the batch was cut from.
        """
        curve = self.curve_of(thumbnail)
        gain = torch.exp(curve[:, 0:3])
        shoulder = functional.softplus(curve[:, 3:6] - 4.0)
        toned = batch * gain / (1.0 + batch * shoulder)
        mixed: Tensor = toned
        for color in range(3):
            weights = curve[:, 6 + 3 * color : 9 + 3 * color]
            mixed = mixed + weights * toned[:, color : color + 1]
        exposed: Tensor = mixed + curve[:, 15:18]
        return exposed

    def curve_of(self, thumbnail: Tensor) -> Tensor:
        """Return the parameters of the tone curve, (N, 18, 1, 1), of (N, 3, 24, 36)."""
        # dark frames use the lowest percents of the range; x / (x + 1/16) spreads them out
        spread = thumbnail / (thumbnail + 0.0625)
        seen = self.features(torch.cat((thumbnail, spread), 1))
        # the mean measures how dark the frame is, the maximum shows lamps
        pooled = [self.pool(seen), seen.amax((2, 3), keepdim=True)]
        if self.members > 1:  # each member's means and maxima beside each other
            width = pooled[0].shape[1] // self.members
            pooled = [
                one[:, member * width : (member + 1) * width]
                for member in range(self.members)
                for one in pooled
            ]
        curve: Tensor = self.decide(torch.cat(pooled, 1))
        return curve


class DualAttentionBlock(nn.Module):
    """Convolutions whose result is weighted per channel and per position, plus the input.

    The dual attention unit of MIRNet (ECCV 2020, section 3.2) with the two attended maps added
    instead of concatenated and mixed: r * (channel + spatial) is one multiplication per value.
    """

    def __init__(
        self, channels: int, *, light: bool = False, separable: bool = False, depth: int = 2
    ) -> None:
        """Keep the number of channels.

        LIGHT leaves the weight per position out; SEPARABLE makes each of the DEPTH convolutions one
        of 3x3 by channel and one of 1x1 across channels.
        """
        super().__init__()
        squeezed = max(channels // 4, 8)
        conv = _separable_conv if separable else _full_conv
        self.body = nn.Sequential(conv(channels))
        for _ in range(depth - 1):
            self.body.extend((nn.ReLU(), conv(channels)))
        self.pool = GlobalPool()
        self.channel = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1)
        )
        self.spatial = None if light else nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined = self.body(features)
        attention = self.channel(self.pool(refined)).sigmoid()
        if self.spatial is not None:
            attention = attention + self.spatial(refined).sigmoid()
        attended: Tensor = features + refined * attention
        return attended


def _full_conv(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1)


def _separable_conv(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, channels, 1),
    )


class MultiScaleBlock(nn.Module):
    """Three streams, coarse to fine, each fused into the next finer one, plus the input.

    The multi-scale residual block of MIRNet-v2 (TPAMI 2022, section 3.1), one pass instead of
    two. Down: average pool, then 1x1. Up: 1x1, then bilinear (the two commute; this order costs
    a quarter).
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        """Give each stream its channels."""
        super().__init__()
        top, middle, bottom = channels
        self.down_middle = nn.Conv2d(top, middle, 1)
        self.down_bottom = nn.Conv2d(middle, bottom, 1)
        self.top = DualAttentionBlock(top)
        self.middle = DualAttentionBlock(middle)
        self.bottom = DualAttentionBlock(bottom)
        self.up_bottom = nn.Conv2d(bottom, middle, 1)
        self.up_middle = nn.Conv2d(middle, top, 1)
        self.fuse_middle = SelectiveKernelFusion(middle, 2, nn.ReLU)
        self.fuse_top = SelectiveKernelFusion(top, 2, nn.ReLU)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape; H and W are multiples of 4."""
        middle = self.down_middle(functional.avg_pool2d(features, 2))
        bottom = self.down_bottom(functional.avg_pool2d(middle, 2))
        bottom = self.bottom(bottom)
        middle = self.fuse_middle([self.middle(middle), _doubled(self.up_bottom(bottom))])
        top: Tensor = self.fuse_top([self.top(features), _doubled(self.up_middle(middle))])
        return features + top


class GuidedBlock(nn.Module):
    """Three streams, coarse to fine, each added to the next finer one before its convolutions.

    One addition in place of a selective fusion: no map is read twice, and what the coarse streams
    found passes the convolutions of the finer ones. On top, where a convolution costs 16 times what
    it costs at the bottom, separable ones leave time for more channels.
    """

    def __init__(
        self, channels: tuple[int, int, int], *, separable: bool = True, depth: int = 2
    ) -> None:
        """Give each stream its channels; the finest one DEPTH convolutions."""
        super().__init__()
        top, middle, bottom = channels
        self.down_middle = nn.Conv2d(top, middle, 1)
        self.down_bottom = nn.Conv2d(middle, bottom, 1)
        self.top = DualAttentionBlock(top, light=True, separable=separable, depth=depth)
        self.middle = DualAttentionBlock(middle, light=True)
        self.bottom = DualAttentionBlock(bottom, light=True)
        self.up_bottom = nn.Conv2d(bottom, middle, 1)
        self.up_middle = nn.Conv2d(middle, top, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape; H and W are multiples of 4."""
        middle = self.down_middle(functional.avg_pool2d(features, 2))
        bottom = self.bottom(self.down_bottom(functional.avg_pool2d(middle, 2)))
        middle = self.middle(middle + _doubled(self.up_bottom(bottom)))
        top: Tensor = self.top(features + _doubled(self.up_middle(middle)))
        return top


class SingleStreamBlock(nn.Module):
    """One attention block at the stem's resolution, without coarser streams.

    Where a network only enlarges, what helps is convolutions at full resolution, one after the
    other (Bhardwaj et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution", MLSys
    2022): docs/decisions/036-plain-super-resolution.md.
    """

    def __init__(self, channels: int, depth: int) -> None:
        """Build one block of DEPTH convolutions."""
        super().__init__()
        self.top = DualAttentionBlock(channels, light=True, depth=depth)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same shape."""
        refined: Tensor = self.top(features)
        return refined


class UnshuffledConv(nn.Conv2d):
    """A 3x3 convolution of the pixel-unshuffled frame."""

    def __init__(self, factor: int, channels: int) -> None:
        """Take 3 colors at full resolution, give CHANNELS at 1/FACTOR of it."""
        super().__init__(3 * factor**2, channels, 3, padding=1)
        self.factor = factor

    def forward(self, batch: Tensor) -> Tensor:
        """Return (N, C, H / factor, W / factor) for (N, 3, H, W)."""
        return super().forward(functional.pixel_unshuffle(batch, self.factor))


class MaskedStem(nn.Conv2d):
    """The stem of a network with a damage branch: a cell of the filled frame and of its mask."""

    def __init__(self, factor: int, channels: int) -> None:
        """Take 3 colors and a mask at full resolution, give CHANNELS at 1/FACTOR of it."""
        super().__init__(4, channels, factor, stride=factor)

    def forward(self, batch: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # two inputs
        """Return (N, C, H / factor, W / factor) for (N, 3, H, W) and (N, 1, H, W)."""
        return super().forward(torch.cat((batch, mask), 1))


class PixelHead(nn.Conv2d):
    """The output convolution: for each pixel a color residual and a gate of the input.

    Without the gate, a residual of fewer channels than a cell has values could not remove noise.
    """

    def __init__(self, factor: int, channels: int, *, light: bool = False) -> None:
        """Take CHANNELS at 1/FACTOR of the output's resolution; starts with an open gate.

        LIGHT: see one position instead of 3x3, and clamp the gate instead of a sigmoid.
        """
        side = 1 if light else 3
        super().__init__(channels, 4 * factor**2, side, padding=side // 2)
        self.factor, self.light = factor, light
        nn.init.normal_(self.weight, std=1e-3)
        bias = torch.zeros(4 * factor**2)
        bias[3 * factor**2 :] = 0.8 if light else 2.0
        self.bias = nn.Parameter(bias)

    def restore(self, frame: Tensor, features: Tensor) -> Tensor:
        """Return the frame, (N, 3, H, W), times the gate plus the residual of FEATURES."""
        return self.restore_with_residual(frame, features)[0]

    def restore_with_residual(self, frame: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `restore` does, and the residual in it, both (N, 3, H, W)."""
        pixels = functional.pixel_shuffle(self(features), self.factor)
        gate, residual = pixels[:, 3:4], pixels[:, 0:3]
        return gated(frame, gate, residual, light=self.light), residual


class ResidualHead(nn.Conv2d):
    """The output convolution of a light network of full convolutions: a residual for each pixel.

    A residual of all values of a cell needs no gate. It is added to the pixel that the cell is
    enlarged from, or at scale 1 to the cell's pixels, before the pixel shuffle.
    """

    def __init__(self, channels: int, *, stem: int, scale: int) -> None:
        """Take CHANNELS at 1/STEM of the input's resolution; starts as nearest-neighbor.

        That is the identity at SCALE 1.
        """
        super().__init__(channels, 3 * (stem * scale) ** 2, 3, padding=1)
        self.stem, self.scale = stem, scale
        nn.init.normal_(self.weight, std=1e-3)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]  # a convolution with a bias

    def restore(self, frame: Tensor, features: Tensor) -> Tensor:
        """Return (N, 3, scale H, scale W) of the frame, (N, 3, H, W), and its features."""
        repeated = torch.repeat_interleave(frame, self.scale**2, 1)
        if self.stem > 1:
            repeated = functional.pixel_unshuffle(
                functional.pixel_shuffle(repeated, self.scale), self.stem * self.scale
            )
        return functional.pixel_shuffle(self(features) + repeated, self.stem * self.scale)


def gated(frame: Tensor, gate: Tensor, residual: Tensor, *, light: bool) -> Tensor:
    """Return the frame times the gate, (N, 1, H, W) before its activation, plus the residual."""
    opening = gate.clamp(0.0, 1.0) if light else gate.sigmoid()
    restored: Tensor = frame * opening + residual
    return restored


def _stem(config: MIRNetEdgeConfig) -> nn.Conv2d:
    if config.damage_channels:
        return MaskedStem(config.stem, config.channels[0])
    if config.has_cell_stem:
        return nn.Conv2d(3, config.channels[0], config.stem, stride=config.stem)
    return UnshuffledConv(config.stem, config.channels[0])


def _block(config: MIRNetEdgeConfig) -> nn.Module:
    if config.has_one_stream:
        return SingleStreamBlock(config.channels[0], config.depth)
    if config.light:
        return GuidedBlock(
            config.channels, separable=not config.full_convolutions, depth=config.depth
        )
    return MultiScaleBlock(config.channels)


def _head(config: MIRNetEdgeConfig) -> PixelHead | ResidualHead:
    if config.full_convolutions:
        return ResidualHead(config.channels[0], stem=config.stem, scale=config.scale)
    return PixelHead(config.stem * config.scale, config.channels[0], light=config.light)


class MIRNetEdge(nn.Module):
    """MIRNetEdge: see the module's docstring."""

    def __init__(self, config: MIRNetEdgeConfig | None = None) -> None:
        """Build the network with random weights that start near the identity."""
        super().__init__()
        self.config = config or MIRNetEdgeConfig()
        self.exposure: ExposureBranch | None = None
        if self.config.exposure_channels:
            self.exposure = ExposureBranch(
                self.config.exposure_channels, self.config.exposure_members
            )
        self.damage: DamageBranch | None = None
        if self.config.damage_channels:
            self.damage = DamageBranch(self.config.damage_channels)
        self.stem = _stem(self.config)
        self.head = _head(self.config)
        self.blocks = nn.Sequential(*(_block(self.config) for _ in range(self.config.blocks)))

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        thumbnail = THUMBNAIL_FACTOR if self.exposure is not None else 1
        fill = 2**FILL_LEVELS if self.damage is not None else 1
        coarsest = self.config.stem * (1 if self.config.has_one_stream else 4)
        return max(coarsest, thumbnail, fill)

    def forward(
        self, batch: Tensor, thumbnail: Tensor | None = None, *, with_residual: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the enhanced batch.

        Args:
            batch: (N, 3, H, W) RGB in [0, 1]; H and W multiples of `multiple`.
            thumbnail: `thumbnail_of` the frames that the batch was cropped from, for the exposure
                branch. None where the batch holds whole frames.
            with_residual: Return the head's residual too, where the head has a gate (`PixelHead`).

        Returns:
            (N, 3, scale H, scale W); slightly outside [0, 1] where the network overshoots. With the
            residual, a second tensor of that shape; 1 is the range of an image.

        Raises:
            ImageError: H or W is not a multiple.
        """
        height, width = batch.shape[-2:]
        if not torch.compiler.is_compiling() and (height % self.multiple or width % self.multiple):
            raise ImageError(
                f"frame is {width}x{height}; MIRNetEdge takes multiples of {self.multiple}. "
                "Pad it with images.pad_to_multiple"
            )
        exposed = self.expose(batch, thumbnail)
        if self.damage is None:
            features = self.stem(exposed)
        else:
            mask = self.damage(exposed)
            exposed = fill_damage(exposed, mask)
            features = self.stem(exposed, mask)
        features = self.blocks(features)
        if self.config.scale > 1 and not self.config.light:
            exposed = enlarge(exposed, self.config.scale)
        if with_residual and isinstance(self.head, PixelHead):
            return self.head.restore_with_residual(exposed, features)
        restored: Tensor = self.head.restore(exposed, features)
        return restored

    def expose(self, batch: Tensor, thumbnail: Tensor | None = None) -> Tensor:
        """Return the batch with corrected exposure; itself in a network without that branch.

        Args and shape: as in `forward`.
        """
        if self.exposure is None:
            return batch
        exposed: Tensor = self.exposure(
            batch, thumbnail_of(batch) if thumbnail is None else thumbnail
        )
        return exposed.clamp(*EXPOSED_RANGE) if self.config.light else exposed


def thumbnail_of(frames: Tensor) -> Tensor:
    """Return the exposure branch's thumbnails of whole frames, (N, 3, 24, 36).

    One size for all frames, because what the branch learned of a lamp of three thumbnail pixels
    does not apply to one of thirty. H and W are multiples of 8.
    """
    # abs, of what is not negative: without it OpenVINO rounds the means of an INT8 graph's frames
    # to whole levels, and dark frames have few (docs/decisions/002-int8-recipes.md)
    means = functional.avg_pool2d(frames, THUMBNAIL_FACTOR).abs()
    return functional.interpolate(
        means,
        size=THUMBNAIL_SIZE,
        mode="bilinear",
        align_corners=False,
        antialias=False,
    )


def _doubled(features: Tensor) -> Tensor:
    return enlarge(features, 2)


def enlarge(features: Tensor, factor: int) -> Tensor:
    """Return (N, C, factor H, factor W), interpolated bilinearly."""
    return functional.interpolate(
        features, scale_factor=float(factor), mode="bilinear", align_corners=False, antialias=False
    )
