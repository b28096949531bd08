"""The bundles that the package ships, by name: `shipped:low-light` and the others.

`mirnet_edge.export.shipping` makes them from the shipped weights.
"""

from __future__ import annotations

from pathlib import Path

from mirnet_edge.errors import BundleError

PREFIX = "shipped:"
DEFAULT_BUNDLE = "shipped:low-light"
FOLDER = Path(__file__).parents[1] / "bundles"
_MANIFEST = "manifest.json"


def list_shipped_bundles() -> list[str]:
    """Return the names, without prefix, of the bundles that the package ships."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{_MANIFEST}"))


def find_bundle(bundle: str | Path | None) -> Path:
    """Return the folder of a bundle; it need not exist.

    Args:
        bundle: Its folder, or `shipped:NAME`; None for `DEFAULT_BUNDLE`.

    Raises:
        BundleError: The package ships no bundle of that name.
    """
    name = str(DEFAULT_BUNDLE if bundle is None else bundle)
    if not name.startswith(PREFIX):
        return Path(name)
    names = list_shipped_bundles()
    if name.removeprefix(PREFIX) not in names:
        listed = ", ".join(PREFIX + known for known in names) or "none"
        raise BundleError(
            f"the package ships no bundle {name!r}; it ships: {listed}. Choose one of these, or "
            "give the folder that mirnet export wrote"
        )
    return FOLDER / name.removeprefix(PREFIX)


def is_shipped(folder: Path) -> bool:
    """Return whether a bundle's folder is one of the package's."""
    return folder.absolute().parent == FOLDER
