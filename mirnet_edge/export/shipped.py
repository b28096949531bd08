"""Bundles of the shipped weights, exported on first use and kept in the user's cache."""

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
_PREFIX = "shipped:"


def find_bundle(
    bundle: str | Path | None, on_stage: Callable[[str], None] = lambda what: None
) -> Path:
    """Return the folder of a bundle.

    Args:
        bundle: Its folder, or `shipped:NAME` for weights of the package, which are exported on
            first use; None for `DEFAULT_WEIGHTS`.
        on_stage: Called with a few words on what is being done.

    Raises:
        MirnetEdgeError: As `shipped_bundle`.
    """
    name = str(DEFAULT_WEIGHTS if bundle is None else bundle)
    return shipped_bundle(name, on_stage=on_stage) if name.startswith(_PREFIX) else Path(name)


def shipped_bundle(
    weights: str = DEFAULT_WEIGHTS,
    *,
    cache: Path | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Path:
    """Return the folder of a bundle of shipped weights, exported on first use.

    Its configurations are timed on this machine; a new version of the package exports anew. Its
    graphs have global context vectors as inputs and outputs, for temporal smoothing. INT8 graphs
    are made where NNCF is installed; the quality gate decides whether they are used.

    Args:
        weights: The name of shipped weights, `shipped:NAME`.
        cache: The folder to keep it in; None for the user's cache.
        on_stage: Called with a few words on what is being done.

    Raises:
        CheckpointError: The package ships no weights of that name.
        MissingDependencyError: There is none yet, and what exports one is not installed.
        MirnetEdgeError: The cache cannot be written.
    """
    int8 = available("nncf")
    variant = "anchored-int8" if int8 else "anchored"
    name = f"{weights.removeprefix(_PREFIX)}-{variant}-{version('mirnet-edge')}"
    folder = (cache or user_cache()) / "bundles" / name
    if (folder / FILE_NAME).is_file():
        try:
            read_manifest(folder)
        except BundleError:
            pass  # of another schema, or cut off by a full disk: exported anew below
        else:
            return folder
    if not (available("torch") and available("onnx")):
        raise MissingDependencyError(
            f"exporting a bundle of {weights} needs packages that are not installed: give "
            f"--bundle DIR (exported elsewhere by mirnet export), or {advice('torch')}"
        )
    from mirnet_edge.export.job import export_bundle
    from mirnet_edge.export.workspace import ExportOptions

    on_stage(f"exporting a bundle of {weights} to {folder}, once")
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
