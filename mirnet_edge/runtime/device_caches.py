"""Folders for what devices compile of a graph: engines, kernels, timings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.errors import EngineError
from mirnet_edge.files import sha256_of, user_cache
from mirnet_edge.runtime.shipped import is_shipped

if TYPE_CHECKING:
    from pathlib import Path


def cache_folder(path: Path, provider: str) -> Path:
    """Return the folder of a provider's caches for a graph; created where it is missing.

    It lies in the bundle; for the package's own bundles, whose folders must stay as they were
    installed, and where the bundle cannot be written, it lies in the user's cache. Its name holds
    the graph's SHA-256, so that another graph never meets it.
    """
    digest = sha256_of(path)[:16] if path.is_file() else "none"
    name = f"{provider}-{digest}"
    folders = [path.parent / "provider-cache" / name, user_cache() / "providers" / name]
    for folder in folders[is_shipped(path.parent) :]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        return folder
    raise EngineError(
        f"neither {path.parent} nor {user_cache()} can be written; expected a folder for the "
        f"engines of {provider}. Set XDG_CACHE_HOME"
    )
