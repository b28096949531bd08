"""What is put around a network when it leaves training: the image contract, inside the graph."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class FrameInterface(nn.Module):
    """A network that takes and gives frames as cameras and screens have them.

    Cast, scale, transpose, clamp and round are part of the graph, so that every backend does
    them alike and 8-bit frames cross the bus at a quarter of the size of float ones.
    """

    def __init__(self, network: nn.Module, io: Literal["uint8", "float"]) -> None:
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
        if self.io == "float":
            given: Tensor = self.network(frames).clamp(0.0, 1.0)
            return given
        # cast first: TensorRT moves no 8-bit tensors
        batch = frames.float().permute(0, 3, 1, 2) * (1.0 / 255.0)
        restored: Tensor = self.network(batch).clamp(0.0, 1.0)
        return (restored * 255.0).round().permute(0, 2, 3, 1).to(torch.uint8)
