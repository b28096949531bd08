"""Find the files of a training set: a table of image pairs, two folders, or clean images.

A table may hold clean images too, whose `low` is empty: the task degrades them.

The names on disk are those of the data set LOL (Wei et al., BMVC 2018): `low` for the degraded
images, `high` for their ground truth.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import DataError
from mirnet_edge.images.kinds import FORMAT_OF_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = "pairs.csv"
_COLUMNS = {"low", "high", "scene", "split"}
_WEIGHT = "weight"
_SPLITS = ("train", "val", "test")
_LOW, _HIGH = "low", "high"
_VALIDATION_INTERVAL = 10  # without a table, every tenth pair validates
_MOST_NAMED = 5


@dataclass(frozen=True)
class PairFiles:
    """An image pair, as files."""

    degraded: Path | None
    """The input; None for a clean image, which a task degrades."""
    target: Path
    scene: str
    weight: float = 1.0
    """How often it is sampled, relative to the other pairs; above 0."""


@dataclass(frozen=True)
class PairListing:
    """The pairs to train on and those, of other scenes, to validate on."""

    train: tuple[PairFiles, ...]
    val: tuple[PairFiles, ...]

    def __post_init__(self) -> None:
        """Refuse an empty split, and scenes in both."""
        for name, pairs in (("train", self.train), ("val", self.val)):
            if not pairs:
                raise DataError(
                    f"there is no pair with the split {name!r}; expected at least one. Add rows"
                )
        both = {pair.scene for pair in self.train} & {pair.scene for pair in self.val}
        if both:
            raise DataError(
                f"scenes in both train and val: {_by_name(both)}; figures on scenes that were "
                "trained on mean nothing. Move each to one split"
            )


def list_pairs(folder: Path) -> PairListing:
    """Return the image pairs of FOLDER.

    It holds a pairs.csv (columns low, high, scene, split; paths relative to it; low is empty for a
    clean image; optionally weight, how often a pair is sampled relative to the others, above 0), or
    the folders low/ (degraded) and high/ (ground truth) whose files match by name, or clean images
    only.
    Without a table every tenth pair validates.

    Raises:
        DataError: It holds none of these, other columns, images without a partner, or scenes in
            both splits.
    """
    if (folder / _TABLE).is_file():
        splits = read_pair_table(folder)
        return PairListing(splits["train"], splits["val"])
    if (folder / _LOW).is_dir() and (folder / _HIGH).is_dir():
        return split_pairs(match_pairs(folder / _LOW, folder / _HIGH))
    clean = _image_files(folder) if folder.is_dir() else {}
    if clean:
        return split_pairs([PairFiles(None, clean[stem], stem) for stem in sorted(clean)])
    raise DataError(
        f"{folder} holds neither a {_TABLE} (columns low, high, scene, split) nor the folders "
        f"{_LOW}/ and {_HIGH}/ nor images; expected one of them"
    )


def list_images(folder: Path) -> tuple[PairFiles, ...]:
    """Return the images of FOLDER, without degraded ones.

    Raises:
        DataError: There are none, or two share a name.
    """
    found = _image_files(folder) if folder.is_dir() else {}
    if not found:
        raise DataError(
            f"{folder} holds no images; expected a folder of PNG, JPEG, WebP or TIFF files"
        )
    return tuple(PairFiles(None, found[stem], stem) for stem in sorted(found))


def split_pairs(pairs: list[PairFiles]) -> PairListing:
    """Return the pairs split in two: every tenth validates, the others train.

    Raises:
        DataError: There are fewer than two pairs.
    """
    train = [pair for place, pair in enumerate(pairs) if place % _VALIDATION_INTERVAL]
    return PairListing(tuple(train), tuple(pairs[::_VALIDATION_INTERVAL]))


def read_pair_table(folder: Path, name: str = _TABLE) -> dict[str, tuple[PairFiles, ...]]:
    """Return the image pairs of a folder's table by split: train, val, test.

    Raises:
        DataError: A column is missing, a split has another name, or a weight is no positive number.
    """
    table = folder / name
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
            PairFiles(
                folder / row["low"] if row["low"] else None,
                folder / row["high"],
                row["scene"],
                _weight(row, table),
            )
            for row in rows
            if row["split"] == split
        )
        for split in _SPLITS
    }


def _weight(row: dict[str, str], table: Path) -> float:
    text = row.get(_WEIGHT) or "1"
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0.0 < weight < math.inf:
        raise DataError(
            f"{table} has the weight {text!r} for {row['low'] or row['high']}; expected a number "
            "above 0. Remove the row to leave the pair out"
        )
    return weight


def match_pairs(low_folder: Path, high_folder: Path) -> list[PairFiles]:
    """Return the image pairs of two folders, matched by file name.

    Raises:
        DataError: A folder is missing, or images have no partner.
    """
    for folder in (low_folder, high_folder):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; expected one of images")
    degraded, target = _image_files(low_folder), _image_files(high_folder)
    alone = sorted(set(degraded) ^ set(target))
    if alone or not degraded:
        raise DataError(
            f"{low_folder} and {high_folder}: {len(alone)} images without a partner of the same "
            f"name in the other folder: {_by_name(alone) or 'both are empty'}. Add the partners or "
            "take them out"
        )
    return [PairFiles(degraded[stem], target[stem], stem) for stem in sorted(degraded)]


def _image_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in FORMAT_OF_SUFFIX or path.name.startswith("."):
            continue
        other = found.setdefault(path.stem, path)
        if other != path:
            raise DataError(
                f"{other} and {path.name} share the name {path.stem}; expected one image per name. "
                "Rename one of them"
            )
    return found


def _by_name(names: set[str] | list[str]) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return ", ".join(ordered[:_MOST_NAMED]) + rest
