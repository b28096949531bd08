"""Convert a network to its inference form: cheaper operations, with frames as input and output.

Each rewrite is equal to within rounding (1e-5 in fp32), as the tests check.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mirnet_edge.models.dead_channels import drop_silent_channels
from mirnet_edge.models.edge import MaskedStem, PixelHead, UnshuffledConv, gated
from mirnet_edge.models.keras_mirnet import NearestUpsampling
from mirnet_edge.models.reparameterization import fold_convolutions

if TYPE_CHECKING:
    from torch import Tensor

    from mirnet_edge.models.global_context import ContextAnchoredNetwork

Io = Literal["uint8", "float"]


class FrameInterface(nn.Module):
    """A network with 8-bit or float frames as input and output.

    Cast, scale, transpose, clamp and round are part of the graph, so that every backend computes
    them alike and 8-bit frames are transferred at a quarter of the size of float ones.
    """

    def __init__(self, network: nn.Module, io: Io) -> None:
        """Wrap NETWORK; `io` says what the deployed graph takes and gives."""
        super().__init__()
        self.network = network
        self.io = io

    def forward(self, frames: Tensor) -> Tensor:
        """Restore frames.

        Args:
            frames: For `uint8`: (N, H, W, 3) RGB uint8. For `float`: (N, 3, H, W) RGB float32
                in [0, 1].

        Returns:
            The same shape, type and range.
        """
        restored: Tensor = self.network(_batch_of(frames, self.io))
        return _frames_of(restored, self.io)


class ContextFrameInterface(nn.Module):
    """The same for a context-anchored network; its context vectors stay float."""

    def __init__(self, network: ContextAnchoredNetwork, io: Io) -> None:
        """Wrap NETWORK; `io` says what the deployed graph takes and gives."""
        super().__init__()
        self.network = network
        self.io = io

    def forward(self, frames: Tensor, given: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Restore frames with the given context vectors, their own, or a mix of both.

        Args:
            frames: As `FrameInterface` takes them.
            given: (N, G) float32; see `ContextAnchoredNetwork`.
            memory: (1,) float32 in [0, 1].

        Returns:
            As `FrameInterface` returns them, and the used context vectors, (N, G) float32.
        """
        restored, vectors = self.network(_batch_of(frames, self.io), given, memory)
        return _frames_of(restored, self.io), vectors


def _batch_of(frames: Tensor, io: Io) -> Tensor:
    if io == "float":
        return frames
    # cast first: TensorRT moves no 8-bit tensors
    return frames.float().permute(0, 3, 1, 2) * (1.0 / 255.0)


def _frames_of(batch: Tensor, io: Io) -> Tensor:
    clamped = batch.clamp(0.0, 1.0)
    if io == "float":
        return clamped
    return (clamped * 255.0).round().permute(0, 2, 3, 1).to(torch.uint8)


def to_inference_form(network: nn.Module) -> nn.Module:
    """Return a rewritten copy of NETWORK in eval mode; NETWORK is left unchanged."""
    rewritten = drop_silent_channels(fold_convolutions(copy.deepcopy(network)))
    rewritten = rewritten.eval().requires_grad_(requires_grad=False)
    for parent in list(rewritten.modules()):
        # not named_children, which lists a module with two names once
        for name, child in list(parent._modules.items()):
            cheaper = None if child is None else _replace_by_cheaper(child)
            if cheaper is not None:
                setattr(parent, name, cheaper.eval())
    return rewritten


def _replace_by_cheaper(module: nn.Module) -> nn.Module | None:
    """Return a cheaper module with the same output, None where there is none."""
    if isinstance(module, UnshuffledConv):
        return strided_from_unshuffled(module)
    if isinstance(module, MaskedStem):
        return SplitStem(module)
    if isinstance(module, PixelHead):
        return SplitHead(module)
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return leaky_from_prelu(module)
    if isinstance(module, NearestUpsampling):
        return UpsamplingAfterMixing(module)
    if _resizes_then_mixes(module):
        return nn.Sequential(module[1], module[0])  # type: ignore[index]
    return None


def leaky_from_prelu(activation: nn.PReLU) -> nn.LeakyReLU:
    """Return the same function with one constant slope for all channels.

    Runtimes fuse a LeakyReLU into the convolution before it, but not a PReLU: MIRNet took 0.86x the
    time in ONNX Runtime, the same in OpenVINO (docs/decisions/015-rewrites.md).
    """
    slope = activation.weight.detach()
    # a network on torch's meta device, for counting alone, has no values
    return nn.LeakyReLU(0.0 if slope.is_meta else float(slope))


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


class SplitStem(nn.Module):
    """A `MaskedStem` as two convolutions, one of the frame, one of the mask.

    With a concatenation before the stem, OpenVINO 2026.4 quantizes what is concatenated for all who
    read it, the head too: the INT8 graph was 12 levels off, and is 0.1 without.
    """

    def __init__(self, stem: MaskedStem) -> None:
        """Take the weights of STEM."""
        super().__init__()
        size, channels = stem.weight.shape[-1], stem.out_channels
        self.colors = nn.Conv2d(3, channels, size, stride=size)
        self.mask = nn.Conv2d(1, channels, size, stride=size, bias=False)
        with torch.no_grad():
            self.colors.weight.copy_(stem.weight[:, :3])
            self.colors.bias.copy_(stem.bias)  # type: ignore[union-attr,arg-type]  # both have one
            self.mask.weight.copy_(stem.weight[:, 3:])
        self.requires_grad_(requires_grad=False)

    def forward(self, batch: Tensor, mask: Tensor) -> Tensor:
        """Return the same as `MaskedStem`."""
        features: Tensor = self.colors(batch) + self.mask(mask)
        return features


class SplitHead(nn.Module):
    """A `PixelHead` as two convolutions, one for the residual, one for the gate.

    This avoids splitting the full-size output, which OpenVINO copies with a reference kernel. In
    INT8 a 1280x720 frame took 0.77x the time, in ONNX Runtime 0.88x.
    """

    def __init__(self, head: PixelHead) -> None:
        """Take the weights of HEAD."""
        super().__init__()
        self.factor, self.light = head.factor, head.light
        inner = 3 * head.factor**2
        self.added = _part(head, slice(0, inner))
        self.kept = _part(head, slice(inner, None))

    def restore(self, frame: Tensor, features: Tensor) -> Tensor:
        """Return the same as `PixelHead.restore`."""
        added = functional.pixel_shuffle(self.added(features), self.factor)
        gate = functional.pixel_shuffle(self.kept(features), self.factor)
        return gated(frame, gate, added, light=self.light)


class UpsamplingAfterMixing(nn.Module):
    """A `NearestUpsampling` that repeats pixels last: once, of half as many channels.

    Repeating pixels commutes with a 1x1 convolution and with a sum, exactly; both then work on a
    quarter of the pixels.
    """

    def __init__(self, resizer: NearestUpsampling) -> None:
        """Take the layers of RESIZER."""
        super().__init__()
        *before, repeat, mix = resizer.top
        self.top = nn.Sequential(*before, mix)
        self.bot = resizer.bot[1]
        self.repeat = repeat

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C/2, 2H, 2W) for (N, C, H, W)."""
        raised: Tensor = self.repeat(self.bot(features) + self.top(features))
        return raised


def _part(conv: nn.Conv2d, outputs: slice) -> nn.Conv2d:
    """Return a convolution with some of the output channels of another."""
    weight = conv.weight.detach()[outputs]
    side = weight.shape[-1]
    part = nn.Conv2d(
        conv.in_channels, len(weight), side, padding=side // 2, bias=conv.bias is not None
    )
    with torch.no_grad():
        part.weight.copy_(weight)
        if conv.bias is not None and part.bias is not None:
            part.bias.copy_(conv.bias[outputs])
    return part.requires_grad_(requires_grad=False)


def _resizes_then_mixes(module: nn.Module) -> bool:
    """Return whether it is a bilinear resize followed by a 1x1 convolution without bias.

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
