"""A bundle's folder: its manifest and the files bound by it, read without trusting either."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mirnet_edge.errors import BundleError
from mirnet_edge.files import recover, sha256_of
from mirnet_edge.manifest.schema import SCHEMA_VERSION, BoundFile, Manifest

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "manifest.json"


def bind(path: Path) -> BoundFile:
    """Return the entry of a file that lies in a bundle's folder."""
    return BoundFile(file=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def to_json(manifest: Manifest) -> bytes:
    """Return the text of `manifest.json`."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest, after mending what a killed export left.

    Raises:
        BundleError: No bundle there, not a manifest, or of another schema.
    """
    recover(bundle)
    path = bundle / FILE_NAME
    if not path.is_file():
        raise BundleError(
            f"{bundle} is not a bundle: expected a folder with {FILE_NAME}. "
            "Make one with mirnet-export --out DIR"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(
            f"{path} is not readable JSON ({error}); export the bundle again"
        ) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}; this program reads {SCHEMA_VERSION}. "
            "Export the bundle again, or use the mirnet-edge that made it"
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}; export the bundle again") from error


def checked_path(bundle: Path, entry: BoundFile) -> Path:
    """Return the path of a bundle's file after comparing its content with the manifest.

    Raises:
        BundleError: The file is missing, or its bytes are not those the manifest binds.
    """
    path = bundle / entry.file
    # no file has a zero byte in its name, and asking for one is a ValueError
    if "\0" in entry.file or path.resolve().parent != bundle.resolve():
        raise BundleError(f"{entry.file!r} lies outside {bundle}; export the bundle again")
    if not path.is_file():
        raise BundleError(
            f"{path} is missing though the manifest names it; export the bundle again"
        )
    found = sha256_of(path)
    if found != entry.sha256:
        raise BundleError(
            f"{path} has changed since the export: sha256 {found[:12]} instead of "
            f"{entry.sha256[:12]}. Export the bundle again"
        )
    return path
