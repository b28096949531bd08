"""Pairs of a bad picture and its good one, held in memory and cut into batches."""

from __future__ import annotations

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

    from mirnet_edge.training.listing import Pair


# 8-bit levels. LOL's own noise is 0.9 to 2.0 (10 % and 90 % of its pictures; Immerkaer, 1996).
_LARGEST_SIGMA = 6.0


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


def draw_batch(
    pairs: Pairs, size: int, crop: int | None, multiple: int, generator: torch.Generator
) -> Batch:
    """Draw a batch: random pairs of one frame size, random place, flips, light, noise.

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
        light = draw_light(generator)
        if crop is not None:
            y = _integer(height - crop + 1, generator)
            x = _integer(width - crop + 1, generator)
            window = (slice(None), slice(y, y + crop), slice(x, x + crop))
            low, high = low[window], high[window]
            if _integer(2, generator):
                low, high = low.transpose(1, 2), high.transpose(1, 2)
        high = high.float() * (1.0 / 255.0)
        low = low.float() * (1.0 / 255.0)
        bad = _noisier(light.on(low, high), generator)
        rows.append((bad, high, light.on(small_low, small_high)))
    return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Light:
    """How much light a bad picture gets in training.

    Three of four keep what their camera gave them, half of these within a third of a stop. The
    others move towards their reference, half of them all the way: what is well lit already is to
    come back as it was, for a camera sees day as well as night.
    """

    exposure: float = 1.0
    towards_reference: float = 0.0

    def on(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the bad picture in this light, in [0, 1]; both of any one shape, in [0, 1]."""
        if self.towards_reference:
            return low.lerp(high, self.towards_reference)
        return (low * self.exposure).clamp(0.0, 1.0)


def draw_light(generator: torch.Generator) -> Light:
    """Draw the light of one picture."""
    chance = torch.rand((), generator=generator).item()
    if _integer(4, generator) == 0:
        return Light(towards_reference=1.0 if chance < 0.5 else 2.0 * (chance - 0.5))
    if _integer(2, generator):
        return Light()
    return Light(exposure=float(2.0 ** ((chance - 0.5) * 0.66)))


def _noisier(low: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to half of the pictures: other cameras are noisier than the set's."""
    if _integer(2, generator):
        return low
    sigma = _LARGEST_SIGMA / 255.0 * torch.rand((), generator=generator)
    return (low + sigma * torch.randn(low.shape, generator=generator)).clamp(0.0, 1.0)


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator).item())
