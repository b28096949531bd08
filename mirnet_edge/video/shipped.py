"""The bundle that live video runs where none is named: made once from the shipped weights."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import advice, available
from mirnet_edge.errors import BundleError, MissingDependencyError
from mirnet_edge.manifest import FILE_NAME, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_WEIGHTS = "shipped:low-light"


def shipped_bundle(
    weights: str = DEFAULT_WEIGHTS,
    *,
    cache: Path | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Path:
    """Return the folder of a bundle of shipped weights, exported on first use.

    It is of this machine (its modes are timed here) and of this version of the package. Its
    graphs take and give the vectors that are smoothed over time. INT8 is among them where NNCF is
    installed; whether it runs is the gate's word.

    Args:
        weights: The name of shipped weights.
        cache: The folder to keep it in; None for the user's cache.
        on_stage: Told in a few words what is being done, where anything is.

    Raises:
        MissingDependencyError: There is none yet, and what makes one is not installed.
        MirnetEdgeError: The cache cannot be written.
    """
    int8 = available("nncf")
    modes = "anchored-int8" if int8 else "anchored"
    name = f"{weights.removeprefix('shipped:')}-{modes}-{version('mirnet-edge')}"
    folder = (cache or user_cache()) / "bundles" / name
    if (folder / FILE_NAME).is_file():
        try:
            read_manifest(folder)
        except BundleError:
            pass  # of another schema, or cut off by a full disk: made anew below
        else:
            return folder
    if not (available("torch") and available("onnx")):
        raise MissingDependencyError(
            f"no bundle was named, and making one of {weights} needs packages that are not "
            f"installed: give --bundle DIR (made elsewhere by mirnet-export), or {advice('torch')}"
        )
    from mirnet_edge.export.job import ExportOptions, export_bundle

    on_stage(f"making a bundle of {weights} in {folder}, once")
    options = ExportOptions(weights=weights, out=folder, target="cpu", anchored=True, int8=int8)
    export_bundle(options, on_stage)
    return folder


def user_cache() -> Path:
    """Return this package's folder in the user's cache, where the system keeps that."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "mirnet-edge"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mirnet-edge"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mirnet-edge"
