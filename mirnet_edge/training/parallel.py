"""Several processes on one training run, as torchrun starts them.

    torchrun --nproc-per-node 2 --no-python mirnet-train --task denoise --data photos

Each process takes its places of every batch; gradients are averaged, so that the run is the one
that a single process would have made.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

# torchrun sets these
_LAUNCHED, _LOCAL = "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True)
class Process:
    """One of the processes of a run."""

    rank: int = 0
    count: int = 1

    @property
    def places(self) -> slice:
        """Which places of a batch are this process's."""
        return slice(self.rank, None, self.count)

    @property
    def leads(self) -> bool:
        """Whether it is the one that validates, writes and prints."""
        return self.rank == 0

    def shared(self, model: nn.Module) -> nn.Module:
        """Return the model as it is to be called in training: its gradients become means."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def mean(self, value: float) -> float:
        """Return the mean of all processes' values; each must ask."""
        if self.count == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        held = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.all_reduce(held)
        return float(held) / self.count

    def any(self, here: bool) -> bool:
        """Return whether it is so in any process; each must ask."""
        return self.mean(math.inf if here else 0.0) > 0.0

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Process]:
    """Yield this process's place among those that torchrun started; alone where it did not.

    Raises:
        OptionError: The group cannot be formed.
    """
    if _LAUNCHED not in os.environ:
        yield Process()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get(_LOCAL, "0")))
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise OptionError(
            f"the processes do not find each other ({str(error)[:120]}); start them with torchrun"
        ) from error
    try:
        yield Process(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
