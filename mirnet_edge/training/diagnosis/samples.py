"""Samples of a diagnosis training: views of real and degraded frames with their targets, cached.

A sample costs ten times what a training step needs of it, so each is made once, by its number
and the recipe's seed, and kept in memory-mapped files that a resumed run finds again.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.degradations import Noise, add_noise
from mirnet_edge.diagnosis.labels import FINE, LABELS, TopLabel
from mirnet_edge.diagnosis.views import (
    CROP_SIDE,
    CROPS,
    OVERVIEW_CHANNELS,
    OVERVIEW_SIDE,
    stack_views,
    take_views,
)
from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import LUMA
from mirnet_edge.images.files import apply_orientation, read_image
from mirnet_edge.training.diagnosis.degrading import (
    DARK_LUMA,
    LabeledFrame,
    degrade_for_label,
    targets_of,
)
from mirnet_edge.training.tasks import read_overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.degradations import Overlay
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.training.diagnosis.recipe import SourceImage, Split

CLASSES: tuple[TopLabel, ...] = (*LABELS, FINE)
"""Samples are balanced over these."""

_REAL_FRACTION = 0.4  # of the samples of a label for which there are real images
_ENOUGH_REAL = 20  # with fewer real images of a label their fraction is smaller
_LARGEST_SIDE = 3000  # of images in memory; larger ones are averaged down
_LEAST_SIDE, _MOST_SIDE = 288, 640  # of the long side of a region that is degraded
_JPEG_BLOCK = 8  # parts of images keep their place on this grid, as whole files have it
_VERSION = 6  # of how samples are made: caches of another one are not read


@dataclass(frozen=True)
class Samples:
    """Views and targets of many samples."""

    overviews: NDArray[np.uint8]
    """(N, 96, 96, 5)"""
    crops: NDArray[np.uint8]
    """(N, 6, 64, 64, 3)"""
    targets: NDArray[np.float32]
    """(N, 2 labels + 2): targets, their weights, sigma, its weight."""
    classes: NDArray[np.uint8]
    """(N,): the class that the sample was made for, an index of `CLASSES`."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.classes)


def make_samples(
    images: Sequence[SourceImage],
    overlays: Sequence[Path],
    split: Split,
    count: int,
    seed: int,
    folder: Path,
    on_sample: Callable[[], None] = lambda: None,
) -> Samples:
    """Return the samples of a split, from the folder's cache where that is complete.

    Args:
        images: Of all splits.
        overlays: Files of damage with transparency, of this split.
        split: Which images to take.
        count: Number of samples, balanced over `CLASSES`.
        seed: With a sample's number the only source of randomness.
        folder: Of the cache.
        on_sample: Called after each sample that is made.

    Raises:
        DataError: An image or overlay cannot be read.
    """
    own = [one for one in images if one.split == split]
    names = [str(one.path) for one in own] + [str(path) for path in overlays]
    identity = json.dumps([_VERSION, split, count, seed, names])
    key = hashlib.sha256(identity.encode()).hexdigest()
    parts = _open_parts(folder / f"samples-{split}", count, key)
    marker = folder / f"samples-{split}" / "complete"
    if not (marker.is_file() and marker.read_text() == key):
        maker = _SampleMaker(own, [read_overlay(path) for path in overlays], seed)

        def fill(index: int) -> None:
            parts.overviews[index], parts.crops[index], parts.targets[index] = maker.make(index)
            parts.classes[index] = index % len(CLASSES)

        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(fill, range(count)):
                on_sample()
        write_atomically(marker, key.encode())
    return parts


def view_fine_files(images: Sequence[SourceImage], split: Split) -> Samples:
    """Return the fine images of a split as samples: whole and at their own size, as in use.

    Whether they are dark is unknown of those with the light of dark samples.

    Raises:
        DataError: An image cannot be read.
    """
    own = [one for one in images if one.split == split and not one.source.labels]
    views = [take_views(read_whole(one.path)) for one in own]
    targets = []
    for one, view in zip(own, views, strict=True):
        made = LabeledFrame(np.empty(0, np.uint8), unknown=set(one.source.unknown))
        if float(view.overview[..., :3].mean((0, 1)) @ LUMA) < DARK_LUMA:
            made.unknown.add("dark")
        target, weight = targets_of(made)
        targets.append([*target, *weight, 0.0, 0.0])
    stacked = stack_views(views)
    return Samples(
        stacked.overview,
        stacked.crops,
        np.array(targets, np.float32),
        np.full(len(own), CLASSES.index(FINE), np.uint8),
    )


def read_whole(path: Path) -> Frame:
    """Return an image file's frame, upright, at its own size.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return apply_orientation(read_image(path))
    except ImageError as error:
        raise DataError(str(error)) from error


def _open_parts(folder: Path, count: int, key: str) -> Samples:
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "key"
    fresh = not owner.is_file() or owner.read_text() != key
    if fresh:
        (folder / "complete").unlink(missing_ok=True)
        write_atomically(owner, key.encode())
    shapes: tuple[tuple[str, tuple[int, ...], type], ...] = (
        ("overviews", (OVERVIEW_SIDE, OVERVIEW_SIDE, OVERVIEW_CHANNELS), np.uint8),
        ("crops", (CROPS, CROP_SIDE, CROP_SIDE, 3), np.uint8),
        ("targets", (2 * len(LABELS) + 2,), np.float32),
        ("classes", (), np.uint8),
    )
    parts: list[Any] = []
    for name, shape, kind in shapes:
        file = folder / f"{name}.bin"
        mode: Literal["w+", "r+"] = "w+" if fresh or not file.is_file() else "r+"
        parts.append(np.memmap(file, np.dtype(kind), mode, shape=(count, *shape)))
    return Samples(*parts)


class _SampleMaker:
    """Makes samples by their numbers."""

    def __init__(
        self, images: Sequence[SourceImage], overlays: Sequence[Overlay], seed: int
    ) -> None:
        self._overlays, self._seed = overlays, seed
        self._clean = [one for one in images if one.source.clean]
        self._fine = [one for one in images if not one.source.labels]
        self._real = {
            label: [one for one in images if label in one.source.labels] for label in LABELS
        }

    def make(self, index: int) -> tuple[Frame, NDArray[np.uint8], NDArray[np.float32]]:
        """Return a sample's overview, crops and targets."""
        turn, place = divmod(index, len(CLASSES))
        label = CLASSES[place]
        generator = np.random.default_rng((self._seed, index))
        real = self._fine if label == FINE else self._real[label]  # type: ignore[index]
        fraction = _REAL_FRACTION * min(1.0, len(real) / _ENOUGH_REAL)
        if real and (label == FINE or generator.random() < fraction):
            made = self._take_real(_pick(real, turn, generator), generator)
        else:
            able = [one for one in self._clean if label not in one.source.unknown]
            chosen = _pick(able, turn, generator)
            region = cut_region(load_frame(chosen.path), generator)
            made = degrade_for_label(region, label, generator, self._overlays)
            made.unknown |= set(chosen.source.unknown) - made.present
        made.frame = np.ascontiguousarray(_turn(made.frame, generator))
        target, weight = targets_of(made)
        known = made.sigma is not None
        views = take_views(made.frame)
        values = [*target, *weight, made.sigma or 0.0, float(known)]
        return views.overview, views.crops, np.array(values, np.float32)

    def _take_real(self, image: SourceImage, generator: np.random.Generator) -> LabeledFrame:
        """Return a part of a real image with its source's labels."""
        source = image.source
        frame = load_frame(image.path)
        if source.clean and generator.random() < 0.6:
            made = degrade_for_label(cut_region(frame, generator), FINE, generator)
            made.unknown |= set(source.unknown)
            return made
        window = _sample_window(frame.shape[:2], generator)
        part = frame[window]
        made = LabeledFrame(part, set(source.labels), set(source.unknown))
        if source.reference is not None:
            stem = image.path.stem.replace(*source.reference)
            clean = load_frame(image.path.with_name(stem + image.path.suffix))[window]
            made.sigma = float(np.std(part.astype(np.float32) - clean))
        elif source.labels:
            made.frame = _vary_real(part, generator)
        elif generator.random() < 0.25:
            quality = Noise(jpeg_quality=int(generator.integers(88, 100)))
            made.frame = add_noise(np.ascontiguousarray(part), quality, generator)
        return made


def _vary_real(frame: Frame, generator: np.random.Generator) -> Frame:
    """Return a degraded image with a little other light, and half of the time smaller.

    Only for sources whose noise and sharpness are unknown: both change.
    """
    import cv2

    levels = 255.0 * (np.arange(256) / 255.0) ** (2.0 ** generator.uniform(-0.2, 0.2))
    varied = np.rint(levels).astype(np.uint8)[frame]
    if generator.random() < 0.5:
        scale = generator.uniform(0.5, 1.0)
        size = (max(CROP_SIDE, round(side * scale)) for side in frame.shape[1::-1])
        varied = cv2.resize(varied, tuple(size), interpolation=cv2.INTER_AREA)
    if generator.random() < 0.5:
        quality = Noise(jpeg_quality=int(generator.integers(75, 100)))
        varied = add_noise(varied, quality, generator)
    return np.asarray(varied, np.uint8)


def cut_region(frame: Frame, generator: np.random.Generator) -> Frame:
    """Return a frame, or a part of it, with a long side of 288 to 640 pixels."""
    import cv2

    window = _sample_window(frame.shape[:2], generator)
    part = frame[window]
    longest = max(part.shape[:2])
    wanted = min(longest, int(generator.integers(_LEAST_SIDE, _MOST_SIDE)))
    if generator.random() < 0.3 and longest > wanted:  # at its own resolution
        height, width = (min(side, wanted) for side in part.shape[:2])
        y, x = (
            int(generator.integers(whole - own + 1)) // _JPEG_BLOCK * _JPEG_BLOCK
            for whole, own in zip(part.shape[:2], (height, width), strict=True)
        )
        return np.ascontiguousarray(part[y : y + height, x : x + width])
    if longest > wanted:
        scale = wanted / longest
        height, width = (max(CROP_SIDE, round(side * scale)) for side in part.shape[:2])
        part = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(part)


def _sample_window(shape: tuple[int, ...], generator: np.random.Generator) -> tuple[slice, slice]:
    """Return a random window of 0.7 to 1 of each side, in whole blocks of a JPEG file."""
    slices = []
    for side in shape:
        length = max(1, round(side * generator.uniform(0.7, 1.0)))
        length = length // _JPEG_BLOCK * _JPEG_BLOCK or length
        first = int(generator.integers(side - length + 1)) // _JPEG_BLOCK * _JPEG_BLOCK
        slices.append(slice(first, first + length))
    return slices[0], slices[1]


def _turn(frame: Frame, generator: np.random.Generator) -> Frame:
    if generator.random() < 0.5:
        frame = frame[:, ::-1]
    return frame


def _pick(images: Sequence[SourceImage], turn: int, generator: np.random.Generator) -> SourceImage:
    """Return an image: sources in turn, so that a large one does not crowd out the others."""
    turns = {one.source.name: one.source.turns for one in images}
    names = [name for name in sorted(turns) for _ in range(turns[name])]
    own = [one for one in images if one.source.name == names[turn % len(names)]]
    return own[int(generator.integers(len(own)))]


@lru_cache(maxsize=1200)
def load_frame(path: Path) -> Frame:
    """Return an image file's frame, averaged down where it is larger than needed; cached.

    Raises:
        DataError: It cannot be read.
    """
    import cv2

    try:
        frame = read_image(path).frame
    except ImageError as error:
        raise DataError(str(error)) from error
    longest = max(frame.shape[:2])
    if longest > _LARGEST_SIDE:
        size = tuple(round(side * _LARGEST_SIDE / longest) for side in frame.shape[1::-1])
        frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    return frame
