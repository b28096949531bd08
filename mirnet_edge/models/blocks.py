"""Modules shared by the networks: global pooling, stream fusion, convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mirnet_edge.errors import ImageError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class GlobalPool(nn.Module):
    """Return each channel's mean over the frame (global average pooling).

    All attention in the networks uses this module, so that `models.global_context` can give a
    tile or a video frame the global context vectors of another frame by replacing it. MIRNetEdge's
    exposure branch also takes a maximum; its context vector is the tone curve.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, 1, 1) for features of shape (N, C, H, W)."""
        return features.mean((2, 3), keepdim=True)


class SelectiveKernelFusion(nn.Module):
    """Fuse streams of equal shape by learned, per-channel convex weights ("SKFF in the paper").

    Zamir et al., "Learning Enriched Features for Real Image Restoration and Enhancement",
    ECCV 2020, section 3.1: sum, global mean, squeeze, one excitation per branch, softmax over
    the branches, weighted sum.
    """

    def __init__(self, channels: int, branches: int, activation: Callable[[], nn.Module]) -> None:
        """Squeeze CHANNELS to `max(channels // 8, 4)` and excite once per branch."""
        super().__init__()
        squeezed = max(channels // 8, 4)
        self.pool = GlobalPool()
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1, bias=False), activation())
        self.fcs = nn.ModuleList(
            nn.Conv2d(squeezed, channels, 1, bias=False) for _ in range(branches)
        )

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """Return (N, C, H, W) for `branches` streams of that shape."""
        total = streams[0]
        for stream in streams[1:]:
            total = total + stream
        squeezed = self.conv_du(self.pool(total))
        # stack (not cat + view): torch-pruning follows the former and breaks on the latter
        weights = torch.stack([fc(squeezed) for fc in self.fcs], dim=1).softmax(dim=1)
        fused = streams[0] * weights[:, 0]
        for index, stream in enumerate(streams[1:], start=1):
            fused = fused + stream * weights[:, index]
        return fused


def require_batch(batch: Tensor, network: str, channels: int, multiple: int) -> None:
    """Refuse a batch of a shape that the network does not take.

    Does nothing while a graph is traced, where sizes are symbols; the bundle's manifest states the
    multiple.

    Args:
        batch: Anything; expected is (N, `channels`, H, W) with H and W multiples of `multiple`.
        network: The network's name for the message.
        channels: How many input channels the network has.
        multiple: H and W must be multiples of it.

    Raises:
        ImageError: The shape does not fit.
    """
    if torch.compiler.is_compiling():
        return
    if batch.ndim != 4 or batch.shape[1] != channels:
        raise ImageError(
            f"batch has shape {tuple(batch.shape)}; {network} takes (N, {channels}, H, W)"
        )
    height, width = batch.shape[-2:]
    if not height or not width or height % multiple or width % multiple:
        raise ImageError(
            f"frame is {width}x{height}; {network} takes multiples of {multiple}. "
            "Pad it with images.pad_to_multiple"
        )


def inner_widths(
    name: str, given: Sequence[int] | None, usual: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Return the channels inside blocks for a config: None where they are the usual ones.

    Raises:
        OptionError: They are not as many positive numbers as the usual ones.
    """
    if given is None or tuple(given) == usual:
        return None
    if len(given) != len(usual) or min(given) < 1:
        raise OptionError(
            f"{name} must be {len(usual)} positive numbers, found {', '.join(map(str, given))}"
        )
    return tuple(given)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 1x1 convolution as both papers have it: without bias."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def conv3x3(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, as both papers have it: without bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False)
