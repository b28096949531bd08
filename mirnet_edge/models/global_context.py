"""Context-anchored networks: global context vectors as inputs and outputs of the network.

Global pooling gives a tile other vectors than the frame it was cropped from, which makes seams, and
other vectors in each frame of a noisy video, which makes flicker. The context-anchored form of a
network has two more inputs and one more output, and each global context vector v becomes

    v = (1 - memory) · measured + memory · given

With memory 0 it equals the network, and returns the frame's own vectors; with memory 1 and these
vectors, tiles equal the frame; between, with the vectors of the last frame, it is temporal
smoothing in the same pass. Written as two products, not as `measured + memory · (given -
measured)`, which for memory 1 equals `given` only to within rounding. `given` must be finite:
0 · inf is NaN.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mirnet_edge.manifest import ContextVector, ThumbnailFacts
from mirnet_edge.models.blocks import GlobalPool
from mirnet_edge.models.edge import THUMBNAIL_FACTOR, THUMBNAIL_SIZE, ExposureBranch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Large enough for every network: two of its multiples each way.
_PROBE_MULTIPLES = 2
_THUMBNAIL = ThumbnailFacts(factor=THUMBNAIL_FACTOR, size=THUMBNAIL_SIZE)


@dataclass
class _ContextLedger:
    """Context vectors that the modules of a context-anchored network exchange in one pass."""

    fresh: Tensor | None = None
    """(1,): 1 - memory, the weight of measured vectors; None while the layout is determined."""
    kept: Iterator[Tensor] = field(default_factory=lambda: iter(()))
    """memory · given, one (N, C, 1, 1) for each vector in execution order."""
    used: list[Tensor] = field(default_factory=list)
    """The vectors used in this pass, in that order."""
    layout: list[ContextVector] = field(default_factory=list)

    def anchored(self, measured: Tensor, source: _ContextSlot) -> Tensor:
        """Return the vector that replaces the measured one."""
        if self.fresh is None:
            self.layout.append(source.described(measured.shape[1], self.layout))
            return measured
        vector = measured * self.fresh + next(self.kept)
        self.used.append(vector)
        return vector


class _ContextSlot(nn.Module):
    """Replace a module that computes a global context vector, and mix in the given one."""

    def __init__(
        self,
        measure: nn.Module,
        ledger: _ContextLedger,
        name: str,
        thumbnail: ThumbnailFacts | None = None,
    ) -> None:
        """Wrap MEASURE, which returns (N, C, 1, 1): a mean, or a function of a THUMBNAIL."""
        super().__init__()
        self.measure = measure
        self.ledger = ledger
        self.name = name
        self.thumbnail = thumbnail

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, 1, 1)."""
        return self.ledger.anchored(self.measure(features), self)

    def described(self, size: int, before: list[ContextVector]) -> ContextVector:
        """Return the layout entry of the module's next vector; modules may run twice."""
        turn = 1 + sum(one.name.partition("#")[0] == self.name for one in before)
        name = self.name if turn == 1 else f"{self.name}#{turn}"
        return ContextVector(name=name, size=size, thumbnail=self.thumbnail)


class ContextAnchoredNetwork(nn.Module):
    """A network with its global context vectors as input and output; see the module's docstring.

    The context vector of MIRNetEdge's exposure branch is its tone curve, because it pools a
    thumbnail instead of the frame, also by a maximum.
    """

    def __init__(self, network: nn.Module) -> None:
        """Anchor a copy of NETWORK, of a known family, in training or inference form."""
        super().__init__()
        self.network = copy.deepcopy(network)
        self._ledger = _ContextLedger()
        for name, module in list(self.network.named_modules()):
            if isinstance(module, ExposureBranch):
                curve = _ContextSlot(module.decide, self._ledger, name, _THUMBNAIL)
                module.decide = curve  # type: ignore[assignment]  # it is called alike
                continue
            for place, pool in list(module.named_children()):
                if isinstance(pool, GlobalPool):
                    setattr(module, place, _ContextSlot(pool, self._ledger, name))
        self.train(network.training)
        self.layout = self._found_layout()
        """The vectors in the order in which they are met, which is that of `globals_in`."""

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return int(self.network.multiple)  # type: ignore[arg-type]  # every network states it

    @property
    def context_length(self) -> int:
        """Return the summed length of all context vectors."""
        return sum(vector.size for vector in self.layout)

    def forward(self, batch: Tensor, given: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored batch and the context vectors that were used.

        Args:
            batch: The network's input.
            given: (N, `context_length`), finite.
            memory: (1,), in [0, 1]: the weight of `given` against the measured vectors.

        Returns:
            What the network gives, and (N, `context_length`).
        """
        kept = (given * memory)[:, :, None, None]
        self._ledger.fresh = 1.0 - memory
        self._ledger.kept = iter(torch.split(kept, [vector.size for vector in self.layout], 1))
        self._ledger.used = []
        try:
            restored: Tensor = self.network(batch)
            vectors = torch.cat(self._ledger.used, 1).flatten(1)
        finally:
            self._ledger.fresh = None
            self._ledger.used = []
        return restored, vectors

    def _found_layout(self) -> tuple[ContextVector, ...]:
        """Return the context vectors in execution order, by running a small frame."""
        weight = next(self.network.parameters())
        side = _PROBE_MULTIPLES * self.multiple
        inputs = getattr(self.network.config, "in_channels", 3)
        frame = torch.zeros(1, inputs, side, side, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            self.network(frame)
        return tuple(self._ledger.layout)
