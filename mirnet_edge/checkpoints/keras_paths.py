"""Say which paths are weights of Keras or TensorFlow, and which of their files holds the values.

Imports nothing heavy: used before anything else is known of a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIXES = (".h5", ".hdf5", ".keras")
INDEX_SUFFIX = ".index"


def is_keras(path: Path) -> bool:
    """Return whether PATH is of Keras by its suffix, or of TensorFlow by its files."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    return find_index(path) is not None


def find_index(path: Path) -> Path | None:
    """Return the index of the tensor bundle that a user names; None where it is none.

    Args:
        path: A SavedModel's folder, its `variables` folder, its `saved_model.pb`, or an index.
    """
    if path.suffix == INDEX_SUFFIX and path.is_file():
        return path
    folder = path.parent if path.name == "saved_model.pb" else path
    for index in (folder / "variables" / "variables.index", folder / "variables.index"):
        if index.is_file():
            return index
    return None


def data_files(index: Path) -> list[Path]:
    """Return the data files beside an index, in order."""
    return sorted(index.parent.glob(f"{index.name.removesuffix(INDEX_SUFFIX)}.data-?????-of-?????"))


def values_file(path: Path) -> Path:
    """Return the file that holds the values of PATH's weights: PATH, but for a SavedModel."""
    index = find_index(path)
    shards = [] if index is None else data_files(index)
    return shards[0] if shards else path
