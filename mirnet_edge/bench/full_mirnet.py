"""Full MIRNet with random weights: what the networks here save in time; no pictures to look at."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mirnet_edge.dependencies import available, require
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime.torch_runner import TorchRunner

NOTE = "random weights: for latency only; the published network's size, run by torch"


class FullMirnetRunner(TorchRunner):
    """MIRNet as published (64 channels, 3 groups of 2 blocks), weights drawn at random."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Remember what to make; nothing is made yet.

        Args:
            threads: How many one run may use; None leaves it to torch.
        """
        image = ImageContract(io="float", multiple=4, size=None)
        super().__init__(
            Path("mirnet-random"), image, name="full MIRNet", precision="fp32", threads=threads
        )

    def _load(self) -> None:
        require("torch", "the row of full MIRNet")
        import torch

        from mirnet_edge.checkpoints import Card, save
        from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            self.path = Path(folder) / "mirnet-random.safetensors"
            save(MIRNet(MIRNetConfig()), self.path, Card())
            super()._load()


def full_macs() -> int | None:
    """Return the network's multiply-accumulates for 640x480; None where torch is not installed."""
    if not available("torch"):
        return None
    from mirnet_edge.models.macs import count_macs
    from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

    return count_macs(MIRNet(MIRNetConfig()), 480, 640)
