"""Image pairs in memory (degraded input, ground truth), and their thumbnails."""

from __future__ import annotations

import hashlib
import operator
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


@dataclass(frozen=True)
class Pairs:
    """Image pairs and clean images in memory, (H, W, 3) uint8 RGB."""

    names: tuple[str, ...]
    degraded: tuple[Frame | None, ...]
    """The inputs; None for a clean image, which `degrade` degrades."""
    targets: tuple[Frame, ...]
    """The ground truth: of the same size, or `scale` times as high and wide."""
    sha256: str
    """Over the bytes of all files, in order."""
    degrade: Degrade | None = None
    """Makes a new degraded image of a clean one at every sampling; None without clean images."""
    scale: int = 1
    weights: tuple[float, ...] = ()
    """How often each pair is sampled, relative to the others; empty for equally often."""
    _thumbnails: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.names)

    def __post_init__(self) -> None:
        """Refuse columns of other lengths, and clean images without a degradation."""
        if not len(self.names) == len(self.degraded) == len(self.targets):
            raise ValueError("expected as many names, degraded images and targets")
        if self.degrade is None and any(one is None for one in self.degraded):
            raise ValueError("expected a degradation for clean images")

    @property
    def inputs(self) -> tuple[Frame, ...]:
        """Return the degraded images of pairs without clean images (`degrade_images`)."""
        found = tuple(one for one in self.degraded if one is not None)
        if len(found) < len(self.degraded):
            raise ValueError("expected image pairs alone, found clean images")
        return found

    def sample_indices(
        self, generator: np.random.Generator, count: int, among: Sequence[int] | None = None
    ) -> list[int]:
        """Return COUNT random indices, by weight, with replacement; AMONG: of these alone."""
        candidates = range(len(self)) if among is None else among
        if not self.weights:
            places = generator.integers(len(candidates), size=count).tolist()
        else:
            bounds = np.cumsum([self.weights[index] for index in candidates])
            chosen = np.searchsorted(bounds, generator.random(count) * bounds[-1], side="right")
            # rounding can place the largest number past the end
            places = np.minimum(chosen, len(candidates) - 1).tolist()
        return [candidates[place] for place in places]

    def thumbnails(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a pair's thumbnails (degraded, target), (3, h, w) in [0, 1]; cached."""
        if index not in self._thumbnails:
            degraded, target = self.degraded[index], self.targets[index]
            if degraded is None:
                raise ValueError(f"expected an image pair, found the clean image {index}")
            self._thumbnails[index] = thumbnail_from_frame(degraded), thumbnail_from_frame(target)
        return self._thumbnails[index]


def load_pairs(
    pairs: Sequence[PairFiles],
    *,
    degrade: Degrade | None = None,
    scale: int = 1,
    on_loaded: Callable[[int], None] = lambda done: None,
) -> Pairs:
    """Decode image pairs into memory.

    Args:
        pairs: Files; those without a degraded image need `degrade`.
        degrade: Makes a degraded image of a clean one.
        scale: How many times higher and wider the targets are.
        on_loaded: Called with the number of pairs done.

    Raises:
        DataError: A file does not decode, or the two images of a pair do not fit.
    """
    inputs: list[Frame | None] = []
    targets = []
    digest = hashlib.sha256()
    weights = tuple(pair.weight for pair in pairs)
    is_weighted = len(set(weights)) > 1
    if is_weighted:
        digest.update(repr(weights).encode())
    clean: dict[Path, Frame] = {}  # one target can serve many inputs
    for done, pair in enumerate(pairs, start=1):
        target = clean[pair.target] = _read(pair.target, digest, clean.get(pair.target))
        if pair.degraded is None:
            height, width = (side // scale * scale for side in target.shape[:2])
            target = target[:height, :width]  # both images are to show the same view
            inputs.append(None)
        else:
            degraded = _read(pair.degraded, digest)
            _require_fit(pair, degraded, target, scale)
            inputs.append(degraded)
        targets.append(target)
        on_loaded(done)
    return Pairs(
        tuple((pair.target if pair.degraded is None else pair.degraded).stem for pair in pairs),
        tuple(inputs),
        tuple(targets),
        digest.hexdigest(),
        degrade if any(one is None for one in inputs) else None,
        scale,
        weights if is_weighted else (),
    )


def _read(path: Path, digest: hashlib._Hash, known: Frame | None = None) -> Frame:
    try:
        frame = read_image(path).frame if known is None else known
    except ImageError as error:
        raise DataError(str(error)) from error
    digest.update(path.read_bytes())
    return frame


def _require_fit(pair: PairFiles, degraded: Frame, target: Frame, scale: int) -> None:
    expected = (degraded.shape[0] * scale, degraded.shape[1] * scale)
    if target.shape[:2] != expected:
        times = f"{scale} times its size" if scale > 1 else "its size"
        raise DataError(
            f"{pair.degraded} is {size_text(*degraded.shape[:2])} and {pair.target} "
            f"{size_text(*target.shape[:2])}; expected {times}. Leave the pair out"
        )


def require_measurable(pairs: Pairs) -> None:
    """Refuse validation images that are too small for SSIM.

    Raises:
        DataError: One is smaller than SSIM's window.
    """
    for name, target in zip(pairs.names, pairs.targets, strict=True):
        if min(target.shape[:2]) < SSIM_WINDOW:
            raise DataError(
                f"{name} is {size_text(*target.shape[:2])}; expected validation images of at "
                f"least {SSIM_WINDOW}x{SSIM_WINDOW}. Leave it out"
            )


def degrade_images(pairs: Pairs) -> Pairs:
    """Return the pairs with a degraded image for each clean one, the same at every call."""
    if pairs.degrade is None:
        return pairs
    degraded = tuple(
        pairs.degrade(frame, np.random.default_rng(index)) if degraded is None else degraded
        for index, (degraded, frame) in enumerate(zip(pairs.degraded, pairs.targets, strict=True))
    )
    return replace(pairs, degraded=degraded, degrade=None)


def add_monochrome(pairs: Pairs, fraction: float) -> Pairs:
    """Return clean images and gray copies of some of them, which make up FRACTION of all.

    Most old photographs never had colors: their brown is to be removed, not enhanced.
    """
    clean = [place for place, degraded in enumerate(pairs.degraded) if degraded is None]
    count = round(len(clean) * fraction / (1.0 - fraction))
    chosen = [clean[place * len(clean) // count] for place in range(count)]
    gray, generator = OldPhoto(color_loss=1.0), np.random.default_rng(0)  # gray needs no chance
    copies = {place: age_photo(pairs.targets[place], gray, generator) for place in set(chosen)}
    return replace(
        pairs,
        names=pairs.names + tuple(pairs.names[place] for place in chosen),
        degraded=pairs.degraded + (None,) * count,
        targets=pairs.targets + tuple(copies[place] for place in chosen),
        weights=pairs.weights and pairs.weights + tuple(pairs.weights[place] for place in chosen),
    )


def mix_pairs(one: Pairs, two: Pairs) -> Pairs:
    """Return the pairs of both; each set makes up half of what is sampled.

    Where neither has weights, those of the smaller set are repeated.
    """
    if one.weights or two.weights:
        joined = concatenate_pairs(one, two)
        sums = [sum(source.weights or (1.0,) * len(source)) for source in (one, two)]
        totals = (sums[0],) * len(one) + (sums[1],) * len(two)
        halves = tuple(map(operator.truediv, joined.weights, totals))
        return replace(joined, weights=halves)
    longest = max(len(one), len(two))
    columns = [
        tuple(
            getattr(source, column)[place % len(source)]
            for source in (one, two)
            for place in range(longest)
        )
        for column in ("names", "degraded", "targets")
    ]
    return replace(
        one,
        names=columns[0],
        degraded=columns[1],
        targets=columns[2],
        sha256=_combine_digests(one, two),
        degrade=one.degrade or two.degrade,
    )


def concatenate_pairs(one: Pairs, two: Pairs) -> Pairs:
    """Return the pairs of both, each once."""
    return replace(
        one,
        names=one.names + two.names,
        degraded=one.degraded + two.degraded,
        targets=one.targets + two.targets,
        sha256=_combine_digests(one, two),
        degrade=one.degrade or two.degrade,
        weights=_join_weights(one, two),
    )


def _join_weights(one: Pairs, two: Pairs) -> tuple[float, ...]:
    if not (one.weights or two.weights):
        return ()
    return tuple(weight for part in (one, two) for weight in part.weights or (1.0,) * len(part))


def _combine_digests(one: Pairs, two: Pairs) -> str:
    return hashlib.sha256((one.sha256 + two.sha256).encode()).hexdigest()


def sample_inputs(pairs: Pairs, multiple: int, count: int = 16) -> list[Tensor]:
    """Return up to COUNT degraded images, evenly spaced, each (1, 3, H, W) in [0, 1]."""
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    few = replace(
        pairs,
        names=tuple(pairs.names[place] for place in places),
        degraded=tuple(pairs.degraded[place] for place in places),
        targets=tuple(pairs.targets[place] for place in places),
        weights=(),
    )
    return [
        torch.from_numpy(batch_from_frames(pad_to_multiple(frame[None], multiple)))
        for frame in degrade_images(few).inputs
    ]


def thumbnail_from_frame(frame: Frame) -> Tensor:
    """Return the exposure branch's thumbnail of a frame, (3, h, w) float32 in [0, 1]."""
    height, width = (side // 8 * 8 for side in frame.shape[:2])
    return thumbnail_of(torch.from_numpy(batch_from_frames(frame[None, :height, :width])))[0]


class Thumbnails:
    """The thumbnails (degraded, target) that the exposure branch trains on; cached."""

    def __init__(self, pairs: Pairs, samples_per_image: int) -> None:
        """Take the thumbnails of PAIRS; of clean images, SAMPLES_PER_IMAGE degraded ones each.

        Every second sample shows a part of the image, as another photo would. Samples are the
        same at every run. Of the degraded images only the thumbnails are kept.
        """
        self._pairs = pairs
        self._samples = samples_per_image if pairs.degrade is not None else 1
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of thumbnail pairs."""
        return len(self._pairs) * self._samples

    def sample_places(self, generator: np.random.Generator, count: int) -> list[int]:
        """Return COUNT random places of thumbnail pairs, by the weight of their image pair."""
        if not self._pairs.weights:
            return [int(place) for place in generator.integers(len(self), size=count)]
        indices = self._pairs.sample_indices(generator, count)
        samples = generator.integers(self._samples, size=count).tolist()
        return [
            index * self._samples + sample for index, sample in zip(indices, samples, strict=True)
        ]

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        """Return a degraded and a target thumbnail, (3, h, w) float32 in [0, 1]."""
        index, sample = divmod(place, self._samples)
        degrade = self._pairs.degrade
        if degrade is None or self._pairs.degraded[index] is not None:
            return self._pairs.thumbnails(index)
        if place not in self._cache:
            generator = np.random.default_rng((index, sample))
            target = self._pairs.targets[index]
            if sample % 2:
                target = _crop_part(target, self._pairs.scale, generator)
            degraded = degrade(target, generator)
            self._cache[place] = thumbnail_from_frame(degraded), thumbnail_from_frame(target)
        return self._cache[place]


def _crop_part(frame: Frame, scale: int, generator: np.random.Generator) -> Frame:
    """Return a random part of an image: a half to all of each side."""
    fraction = generator.uniform(0.5, 1.0)
    sides = [max(1, int(side * fraction) // scale) * scale for side in frame.shape[:2]]
    y, x = (
        int(generator.integers((side - cut) // scale + 1)) * scale
        for side, cut in zip(frame.shape[:2], sides, strict=True)
    )
    return np.ascontiguousarray(frame[y : y + sides[0], x : x + sides[1]])
