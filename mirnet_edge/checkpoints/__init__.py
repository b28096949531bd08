"""Open untrusted checkpoints, and save our own with a card that says what they are.

    path ─ resolve ─► file ─ read_layout ─► claims ─ choose_set ─► tensors ─ identify ─► family
                                                                       └─ check, build ─► loaded

The architecture and its configuration follow from the tensors alone; nothing in a file is ever
executed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirnet_edge.checkpoints.cards import Architecture, ModelCard
    from mirnet_edge.checkpoints.store import (
        LoadedCheckpoint,
        list_shipped_weights,
        load,
        resolve,
        save,
    )

__all__ = [
    "FULL_NETWORKS",
    "Architecture",
    "LoadedCheckpoint",
    "ModelCard",
    "list_shipped_weights",
    "load",
    "resolve",
    "save",
]

FULL_NETWORKS = ("mirnet", "mirnet-v2", "keras-mirnet-2021", "keras-mirnet-2023")
"""The networks of the papers and of the Keras examples at their full widths, by the names that
stand for them where no weights are needed."""


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a module's attributes have every type
    # on first use: a file's claims are checked before torch is imported
    if name in ("Architecture", "ModelCard"):
        from mirnet_edge.checkpoints import cards

        return getattr(cards, name)
    if name in __all__:
        from mirnet_edge.checkpoints import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
