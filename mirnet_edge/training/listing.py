"""Which files make up a training set: a table of pairs, two folders, or clean images."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import DataError
from mirnet_edge.images.files import FORMAT_OF_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = "pairs.csv"
_COLUMNS = {"low", "high", "scene", "split"}
_SPLITS = ("train", "val", "test")
_LOW, _HIGH = "low", "high"
_VALIDATION_SHARE = 10  # without a table, every tenth pair validates
_MOST_NAMED = 5


@dataclass(frozen=True)
class PairFiles:
    """One bad image and its reference, as files."""

    low: Path | None
    """None where the bad image is made from the good one."""
    high: Path
    scene: str


@dataclass(frozen=True)
class PairListing:
    """The pairs to train on and, of other scenes, those to validate on."""

    train: tuple[PairFiles, ...]
    val: tuple[PairFiles, ...]

    def __post_init__(self) -> None:
        """Refuse an empty half, and scenes in both."""
        for name, pairs in (("train", self.train), ("val", self.val)):
            if not pairs:
                raise DataError(
                    f"no pair to {name} on; expected some whose split is {name!r}. Add rows"
                )
        both = {pair.scene for pair in self.train} & {pair.scene for pair in self.val}
        if both:
            raise DataError(
                f"scenes in both train and val: {_by_name(both)}; figures on scenes that were "
                "trained on mean nothing. Move each to one split"
            )


def list_pairs(folder: Path) -> PairListing:
    """Return the pairs of FOLDER.

    It holds a pairs.csv (columns low, high, scene, split, paths relative to it), or the folders
    low/ and high/ whose files match by name, or clean images and nothing else. Without a table
    every tenth validates.

    Raises:
        DataError: None of these, other columns, names without a partner, or scenes in both
            splits.
    """
    if (folder / _TABLE).is_file():
        splits = read_table(folder)
        return PairListing(splits["train"], splits["val"])
    if (folder / _LOW).is_dir() and (folder / _HIGH).is_dir():
        return split(pairs_between(folder / _LOW, folder / _HIGH))
    clean = _image_files(folder) if folder.is_dir() else {}
    if clean:
        return split([PairFiles(None, clean[stem], stem) for stem in sorted(clean)])
    raise DataError(
        f"{folder} holds neither a {_TABLE} (columns low, high, scene, split) nor the folders "
        f"{_LOW}/ and {_HIGH}/ nor images; expected one of them"
    )


def list_images(folder: Path) -> tuple[PairFiles, ...]:
    """Return the images of FOLDER, which have no partners.

    Raises:
        DataError: There are none, or two have one name.
    """
    found = _image_files(folder) if folder.is_dir() else {}
    if not found:
        raise DataError(f"{folder} holds no images; expected a folder of some")
    return tuple(PairFiles(None, found[stem], stem) for stem in sorted(found))


def split(pairs: list[PairFiles]) -> PairListing:
    """Return the pairs, of which every tenth validates.

    Raises:
        DataError: There are fewer than two.
    """
    train = [pair for place, pair in enumerate(pairs) if place % _VALIDATION_SHARE]
    return PairListing(tuple(train), tuple(pairs[::_VALIDATION_SHARE]))


def read_table(folder: Path) -> dict[str, tuple[PairFiles, ...]]:
    """Return the pairs of a folder's pairs.csv by split: train, val, test.

    Raises:
        DataError: Columns are missing, or there are other splits.
    """
    table = folder / _TABLE
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = _COLUMNS - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{table} lacks the columns {', '.join(sorted(missing))}; add them")
        rows = list(reader)
    unknown = {row["split"] for row in rows} - set(_SPLITS)
    if unknown:
        raise DataError(
            f"{table} has the splits {_by_name(unknown)}; expected train, val or test. Rename them"
        )
    return {
        split: tuple(
            PairFiles(folder / row["low"], folder / row["high"], row["scene"])
            for row in rows
            if row["split"] == split
        )
        for split in _SPLITS
    }


def pairs_between(low_folder: Path, high_folder: Path) -> list[PairFiles]:
    """Return the pairs of two folders whose images match by name.

    Raises:
        DataError: A folder is missing, or images have no partner.
    """
    for folder in (low_folder, high_folder):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; expected one of images")
    low, high = _image_files(low_folder), _image_files(high_folder)
    alone = sorted(set(low) ^ set(high))
    if alone or not low:
        raise DataError(
            f"{low_folder} and {high_folder}: {len(alone)} images without a partner of the same "
            f"name in the other folder: {_by_name(alone) or 'both are empty'}. Add the partners or "
            "take them out"
        )
    return [PairFiles(low[stem], high[stem], stem) for stem in sorted(low)]


def _image_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in FORMAT_OF_SUFFIX or path.name.startswith("."):
            continue
        other = found.setdefault(path.stem, path)
        if other != path:
            raise DataError(
                f"{other} and {path.name} have one name; expected a name for each image. "
                "Rename one of them"
            )
    return found


def _by_name(names: set[str] | list[str]) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return ", ".join(ordered[:_MOST_NAMED]) + rest
