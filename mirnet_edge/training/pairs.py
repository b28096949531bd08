"""Image pairs held in memory, and their thumbnails for the exposure branch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge.degradations import OldPhoto, age_photo
from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.images.contract import batch_from_frames, pad_to_multiple, size_text
from mirnet_edge.images.files import read_image
from mirnet_edge.metrics import SSIM_WINDOW
from mirnet_edge.models.edge import thumbnail_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.training.listing import PairFiles
    from mirnet_edge.training.tasks import Degrade


def thumbnail_of_frame(frame: Frame) -> Tensor:
    """Return what the exposure of a frame is decided on, (3, h, w) float32 in [0, 1]."""
    height, width = (side // 8 * 8 for side in frame.shape[:2])
    return thumbnail_of(torch.from_numpy(batch_from_frames(frame[None, :height, :width])))[0]


class Thumbnails:
    """What the exposure of bad and good images is decided on, of all pairs; kept once made."""

    def __init__(self, pairs: Pairs, copies: int) -> None:
        """Show PAIRS; clean images are made bad in so many COPIES of each, always the same.

        Every second copy is of a part of the image: other photos, as it were. Nothing of the bad
        copies but their thumbnails is kept.
        """
        self._pairs = pairs
        self._copies = copies if pairs.degrade is not None else 1
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._pairs) * self._copies

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        """Return a bad and a good thumbnail, (3, h, w) float32 in [0, 1]."""
        index, copy = divmod(place, self._copies)
        degrade = self._pairs.degrade
        if degrade is None:
            return self._pairs.thumbnails(index)
        if place not in self._kept:
            generator = np.random.default_rng((index, copy))
            good = self._pairs.high[index]
            if copy % 2:
                good = _part(good, self._pairs.scale, generator)
            bad = degrade(good, generator)
            self._kept[place] = thumbnail_of_frame(bad), thumbnail_of_frame(good)
        return self._kept[place]


def _part(frame: Frame, scale: int, generator: np.random.Generator) -> Frame:
    """Return a half to all of each side of an image, anywhere in it."""
    share = generator.uniform(0.5, 1.0)
    sides = [max(1, int(side * share) // scale) * scale for side in frame.shape[:2]]
    y, x = (
        int(generator.integers((side - cut) // scale + 1)) * scale
        for side, cut in zip(frame.shape[:2], sides, strict=True)
    )
    return np.ascontiguousarray(frame[y : y + sides[0], x : x + sides[1]])


@dataclass(frozen=True)
class Pairs:
    """Images in memory, (H, W, 3) uint8 RGB."""

    names: tuple[str, ...]
    low: tuple[Frame, ...]
    """The bad ones; none where `degrade` makes them."""
    high: tuple[Frame, ...]
    """The good ones: of the same size, or `scale` times as high and wide."""
    sha256: str
    """Over the bytes of all files, in order."""
    degrade: Degrade | None = None
    """Makes a bad image out of a good one, anew whenever one is drawn."""
    scale: int = 1
    _thumbnails: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.names)

    def thumbnails(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a pair's thumbnails, (3, h, w) float32 in [0, 1]; kept once made."""
        if index not in self._thumbnails:
            low, high = (thumbnail_of_frame(frames[index]) for frames in (self.low, self.high))
            self._thumbnails[index] = (low, high)
        return self._thumbnails[index]


def load_pairs(
    pairs: Sequence[PairFiles],
    *,
    degrade: Degrade | None = None,
    scale: int = 1,
    on_loaded: Callable[[int], None] = lambda done: None,
) -> Pairs:
    """Decode pairs into memory.

    Args:
        pairs: Files; those without a bad image need `degrade`.
        degrade: Makes a bad image out of a good one.
        scale: How many times higher and wider the good images are.
        on_loaded: Told how many pairs are done.

    Raises:
        DataError: A file does not decode, or the two images of a pair do not fit.
    """
    low, high = [], []
    digest = hashlib.sha256()
    for done, pair in enumerate(pairs, start=1):
        good = _read(pair.high, digest)
        if pair.low is None:
            height, width = (side // scale * scale for side in good.shape[:2])
            good = good[:height, :width]  # both are to show the same view
        else:
            bad = _read(pair.low, digest)
            _require_fit(pair, bad, good, scale)
            low.append(bad)
        high.append(good)
        on_loaded(done)
    return Pairs(
        tuple(pair.high.stem if pair.low is None else pair.low.stem for pair in pairs),
        tuple(low),
        tuple(high),
        digest.hexdigest(),
        None if low else degrade,
        scale,
    )


def require_measurable(pairs: Pairs) -> None:
    """Refuse images that are too small to be validated on.

    Raises:
        DataError: One is smaller than the window of SSIM.
    """
    for name, high in zip(pairs.names, pairs.high, strict=True):
        if min(high.shape[:2]) < SSIM_WINDOW:
            raise DataError(
                f"{name} is {size_text(*high.shape[:2])}; expected validation images of at least "
                f"{SSIM_WINDOW}x{SSIM_WINDOW}. Leave it out"
            )


def degrade_images(pairs: Pairs) -> Pairs:
    """Return clean images with bad ones, the same at every call.

    Pairs that have bad images already come back as they are.
    """
    if pairs.degrade is None:
        return pairs
    low = tuple(
        pairs.degrade(frame, np.random.default_rng(index)) for index, frame in enumerate(pairs.high)
    )
    return replace(pairs, low=low, degrade=None)


def add_monochrome(pairs: Pairs, share: float) -> Pairs:
    """Return clean images and gray copies of some of them, which make up SHARE of all.

    Most old photographs never had colors: what is brown about them is to go, not to be enhanced.
    """
    count = round(len(pairs) * share / (1.0 - share))
    chosen = [place * len(pairs) // count for place in range(count)]
    gray, chance = OldPhoto(color_loss=1.0), np.random.default_rng(0)  # nothing is drawn from it
    copies = {place: age_photo(pairs.high[place], gray, chance) for place in set(chosen)}
    return replace(
        pairs,
        names=pairs.names + tuple(pairs.names[place] for place in chosen),
        high=pairs.high + tuple(copies[place] for place in chosen),
    )


def mix_pairs(one: Pairs, two: Pairs) -> Pairs:
    """Return the pairs of both, those of the smaller set repeated until each makes up half.

    Raises:
        DataError: One holds pairs, the other clean images.
    """
    if (one.degrade is None) != (two.degrade is None):
        raise DataError(
            "one of --data and --replay holds pairs, the other clean images; give two of a kind"
        )
    longest = max(len(one), len(two))
    columns = [
        tuple(
            getattr(source, column)[place % len(source)]
            for source in (one, two)
            for place in range(longest)
        )
        if getattr(one, column)
        else ()
        for column in ("names", "low", "high")
    ]
    digest = hashlib.sha256((one.sha256 + two.sha256).encode()).hexdigest()
    return replace(one, names=columns[0], low=columns[1], high=columns[2], sha256=digest)


def sample_inputs(pairs: Pairs, multiple: int, count: int = 16) -> list[Tensor]:
    """Return some bad images, taken evenly, as a network takes them: (1, 3, H, W) in [0, 1]."""
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    few = replace(
        pairs,
        names=tuple(pairs.names[place] for place in places),
        low=tuple(pairs.low[place] for place in places) if pairs.low else (),
        high=tuple(pairs.high[place] for place in places),
    )
    return [
        torch.from_numpy(batch_from_frames(pad_to_multiple(frame[None], multiple)))
        for frame in degrade_images(few).low
    ]


def _read(path: Path, digest: hashlib._Hash) -> Frame:
    try:
        frame = read_image(path).frame
    except ImageError as error:
        raise DataError(str(error)) from error
    digest.update(path.read_bytes())
    return frame


def _require_fit(pair: PairFiles, bad: Frame, good: Frame, scale: int) -> None:
    expected = (bad.shape[0] * scale, bad.shape[1] * scale)
    if good.shape[:2] != expected:
        times = f"{scale} times its size" if scale > 1 else "its size"
        raise DataError(
            f"{pair.low} is {size_text(*bad.shape[:2])} and {pair.high} "
            f"{size_text(*good.shape[:2])}; expected {times}. Leave the pair out"
        )
