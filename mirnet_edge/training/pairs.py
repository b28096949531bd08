"""Pairs of a bad picture and its good one, held in memory and cut into batches."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.models.edge import thumbnail_of
from mirnet_edge.pictures import read_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_COLUMNS = {"low", "high", "scene", "split"}


@dataclass(frozen=True)
class Pair:
    """One bad picture and its reference, as files."""

    low: Path
    high: Path
    scene: str


@dataclass(frozen=True)
class Pairs:
    """Pictures in memory.

    `low` and `high` hold (3, H, W) uint8 RGB tensors, pair by pair of equal size.
    """

    names: tuple[str, ...]
    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    sha256: str
    """Over the bytes of all files, in order."""
    _thumbnails: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.names)

    def thumbnails(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a pair's thumbnails, (3, H // 8, W // 8) float32 in [0, 1]; kept once made."""
        if index not in self._thumbnails:
            low, high = (
                thumbnail_of(picture[None].float() * (1.0 / 255.0))[0]
                for picture in (self.low[index], self.high[index])
            )
            self._thumbnails[index] = (low, high)
        return self._thumbnails[index]


def list_pairs(folder: Path, split: str) -> list[Pair]:
    """Read the pairs of one split from FOLDER/pairs.csv (columns low, high, scene, split).

    Raises:
        DataError: No table, other columns, or no pair of that split.
    """
    table = folder / "pairs.csv"
    if not table.is_file():
        raise DataError(
            f"{folder} holds no pairs.csv; expected a table with the columns low, high, scene, "
            "split and paths relative to it"
        )
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = _COLUMNS - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{table} lacks the columns {', '.join(sorted(missing))}; add them")
        pairs = [
            Pair(folder / row["low"], folder / row["high"], row["scene"])
            for row in reader
            if row["split"] == split
        ]
    if not pairs:
        raise DataError(f"{table} has no row whose split is {split!r}; add some or name another")
    return pairs


def load_pairs(
    pairs: Sequence[Pair], on_loaded: Callable[[int], None] = lambda done: None
) -> Pairs:
    """Decode pairs into memory.

    Raises:
        DataError: A file does not decode, or the two pictures of a pair differ in size.
    """
    names, low, high = [], [], []
    digest = hashlib.sha256()
    for done, pair in enumerate(pairs, start=1):
        try:
            bad, good = read_picture(pair.low).frame, read_picture(pair.high).frame
        except ImageError as error:
            raise DataError(str(error)) from error
        if bad.shape != good.shape:
            raise DataError(
                f"{pair.low} is {bad.shape[1]}x{bad.shape[0]} and {pair.high} "
                f"{good.shape[1]}x{good.shape[0]}; a pair must have one size. Leave it out"
            )
        for path in (pair.low, pair.high):
            digest.update(path.read_bytes())
        names.append(pair.low.stem)
        low.append(torch.from_numpy(bad.transpose(2, 0, 1).copy()))
        high.append(torch.from_numpy(good.transpose(2, 0, 1).copy()))
        on_loaded(done)
    return Pairs(tuple(names), tuple(low), tuple(high), digest.hexdigest())


@dataclass(frozen=True)
class Batch:
    """What one training step sees: float32 RGB in [0, 1], (N, 3, H, W)."""

    low: Tensor
    high: Tensor
    thumbnail_low: Tensor
    """(N, 3, h, w): the frames that `low` was cut from, made small."""
    thumbnail_high: Tensor


def draw_batch(
    pairs: Pairs, size: int, crop: int | None, multiple: int, generator: torch.Generator
) -> Batch:
    """Draw a batch: random pairs of one frame size, random place, flips, exposure.

    Args:
        pairs: Where to draw from.
        size: How many.
        crop: Side of the square that is cut out, in pixels; None for whole frames.
        multiple: Height and width of what comes back are multiples of this.
        generator: The only source of chance: the same state gives the same batch.

    Raises:
        DataError: A picture is smaller than the crop.
    """
    first = _integer(len(pairs), generator)
    shape = pairs.low[first].shape
    # one batch is one tensor: all its frames have the size of the first one drawn
    alike = [index for index, low in enumerate(pairs.low) if low.shape == shape]
    chosen = [first] + [alike[_integer(len(alike), generator)] for _ in range(size - 1)]
    height, width = (side // multiple * multiple for side in shape[1:])
    if min(height, width) < (crop or 1):
        raise DataError(
            f"{pairs.names[first]} is {shape[2]}x{shape[1]}, smaller than the crop of {crop}; "
            "choose a smaller --crop"
        )
    rows = []
    for index in chosen:
        low, high = pairs.low[index][:, :height, :width], pairs.high[index][:, :height, :width]
        small_low, small_high = pairs.thumbnails(index)
        for axis in (1, 2):
            if _integer(2, generator):
                low, high = low.flip(axis), high.flip(axis)
                small_low, small_high = small_low.flip(axis), small_high.flip(axis)
        exposure = _exposure(generator)
        if crop is not None:
            y = _integer(height - crop + 1, generator)
            x = _integer(width - crop + 1, generator)
            window = (slice(None), slice(y, y + crop), slice(x, x + crop))
            low, high = low[window], high[window]
            if _integer(2, generator):
                low, high = low.transpose(1, 2), high.transpose(1, 2)
        rows.append(
            (
                (low.float() * (exposure / 255.0)).clamp(0.0, 1.0),
                high.float() * (1.0 / 255.0),
                (small_low * exposure).clamp(0.0, 1.0),
                small_high,
            )
        )
    return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _exposure(generator: torch.Generator) -> float:
    """Return a factor for the low picture: 1 for half of them, else within a third of a stop."""
    if _integer(2, generator):
        return 1.0
    return float(2.0 ** ((torch.rand((), generator=generator).item() - 0.5) * 0.66))


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator).item())
