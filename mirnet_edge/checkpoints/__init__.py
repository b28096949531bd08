"""Open untrusted checkpoints, and save our own with a card that says what they are.

    path ─ resolve ─► file ─ read ─► tensors ─ identify ─► family ─ check, build ─► Loaded

The architecture and its configuration follow from the tensors alone; nothing in a file is ever
executed.
"""

from __future__ import annotations

from mirnet_edge.checkpoints.reading import Architecture, ModelCard
from mirnet_edge.checkpoints.store import (
    LoadedCheckpoint,
    list_shipped_weights,
    load,
    resolve,
    save,
)

__all__ = [
    "Architecture",
    "LoadedCheckpoint",
    "ModelCard",
    "list_shipped_weights",
    "load",
    "resolve",
    "save",
]
