"""What is put around a network when it leaves training: the image contract, inside the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mirnet_edge.models.anchoring import Anchored

Io = Literal["uint8", "float"]


class FrameInterface(nn.Module):
    """A network that takes and gives frames as cameras and screens have them.

    Cast, scale, transpose, clamp and round are part of the graph, so that every backend does
    them alike and 8-bit frames cross the bus at a quarter of the size of float ones.
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


class AnchoredFrameInterface(nn.Module):
    """The same around an anchored network: its vectors go in and come out as they are."""

    def __init__(self, network: Anchored, io: Io) -> None:
        """Wrap NETWORK; `io` says what the deployed graph takes and gives."""
        super().__init__()
        self.network = network
        self.io = io

    def forward(self, frames: Tensor, given: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Restore frames with the vectors that are given, their own, or between the two.

        Args:
            frames: As `FrameInterface` takes them.
            given: (N, G) float32; see `Anchored`.
            memory: (1,) float32 in [0, 1].

        Returns:
            As `FrameInterface` gives them, and the vectors that were used, (N, G) float32.
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
