"""Predict the memory that a network's activations take, without computing any."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence


def peak_activation_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Return the largest sum of the activations that exist at once in one pass, in bytes.

    A copy of the network runs on the meta device, where tensors have sizes and lifetimes but no
    values. The sum follows torch: a tensor is freed when its last view is. Weights and inputs do
    not count, and neither does what the allocator and a convolution's library keep beside.

    Args:
        network: In eval mode.
        inputs: What it takes; their values do not matter.
    """
    weightless = _copy_without_values(network)
    given = [one.to("meta") for one in inputs]
    recorder = _PeakRecorder()
    with torch.no_grad(), recorder:
        weightless(*given)
    return recorder.peak


def convolution_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes of the tensors that convolutions take, and that those with a bias give.

    They are what a quantizer holds at once while it calibrates on a batch. A tensor that several
    convolutions take counts once. Nothing is computed, as for `peak_activation_bytes`.

    Args:
        network: In eval mode.
        inputs: What it takes; their values do not matter.
    """
    weightless = _copy_without_values(network)
    seen: dict[int, Tensor] = {}  # by identity: held, so that none is given twice

    def record(module: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        seen[id(taken[0])] = taken[0]
        if module.bias is not None:
            seen[id(given)] = given

    for module in weightless.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(record)
    with torch.no_grad():
        weightless(*(one.to("meta") for one in inputs))
    return sum(one.numel() * one.element_size() for one in seen.values())


def _copy_without_values(network: nn.Module) -> nn.Module:
    """Return a copy on the meta device."""
    # the values are not copied: the weights of a full network are hundreds of megabytes
    stored = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(one): one.detach().to("meta") for one in stored})


class _PeakRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Sums the storages that are alive after each operation, of those made within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._alive: dict[int, tuple[Any, int]] = {}
        self.peak: int = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  # torch's
        types: Any,  # noqa: ANN401  # torch's
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401  # torch's
    ) -> Any:  # noqa: ANN401  # torch's
        made = func(*args, **(kwargs or {}))
        known = {_storage(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and _storage(one) not in known:  # not a view of an input
                storage = one.untyped_storage()
                weak: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # torch's
                self._alive[_storage(one)] = (weak, storage.nbytes())
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return made


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
