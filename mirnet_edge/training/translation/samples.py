"""Samples of the three domains: real old photos, synthetic old photos with their mask, clean ones.

A batch depends on (random seed, step, row) alone, so that a resumed run sees what it would have
seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge.degradations import OldPhoto, age_photo
from mirnet_edge.errors import DataError, ImageError, OptionError
from mirnet_edge.images.contract import batch_from_frames
from mirnet_edge.images.files import read_image
from mirnet_edge.training.aging import (
    AgedPhoto,
    age_with_damage,
    choose_window,
    cut_square,
    flip_at_random,
)
from mirnet_edge.training.listing import list_images, list_pairs, split_pairs
from mirnet_edge.training.tasks import read_overlay, sample_aging_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.degradations import Overlay
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.training.translation.recipe import TranslationRecipe

_REGION = 2.0  # how many times wider than the crop the region is that ages
_CROPS_PER_REGION = 2  # degrading a region takes as long as a training step of its crops


@dataclass(frozen=True)
class OldPhotoData:
    """Photos of one split, in memory."""

    clean: tuple[tuple[Frame, ...], ...]
    """By folder, each sampled equally often."""
    real: tuple[Frame, ...]
    overlays: tuple[Overlay, ...]


@dataclass(frozen=True)
class AgedBatch:
    """Crops of synthetic old photos, float32."""

    clean: Tensor
    """(N, 3, C, C) RGB in [0, 1]."""
    aged: Tensor
    damage: Tensor
    """(N, 1, C, C), 0 or 1."""


def load_data(recipe: TranslationRecipe, data: Path) -> tuple[OldPhotoData, OldPhotoData]:
    """Return the photos to train on, and the held-out ones.

    Raises:
        DataError: A folder is missing or empty, or a photo cannot be read.
        OptionError: A scan to hold out is not there, or none is left to train on.
    """
    listings = [list_pairs(data / folder) for folder in recipe.clean]
    scans = {one.scene: one.target for one in list_images(data / recipe.real)}
    missing = sorted(set(recipe.real_held_out) - set(scans))
    if missing or set(scans) == set(recipe.real_held_out):
        raise OptionError(
            f"real_held_out names {', '.join(missing or scans)}; expected some of the scans in "
            f"{data / recipe.real}, and one or more others. Change it in the recipe"
        )
    overlays: dict[str, list[Path]] = {"train": [], "val": []}
    if recipe.overlays is not None and (data / recipe.overlays).is_dir():
        split = split_pairs(list(list_images(data / recipe.overlays)))
        overlays = {name: [one.target for one in getattr(split, name)] for name in overlays}

    def load(name: str) -> OldPhotoData:
        is_held_out = name == "val"
        return OldPhotoData(
            tuple(
                _read_all({one.target for one in getattr(listing, name)}) for listing in listings
            ),
            _read_all(
                path
                for stem, path in scans.items()
                if (stem in recipe.real_held_out) == is_held_out
            ),
            tuple(read_overlay(path) for path in overlays[name]),
        )

    return load("train"), load("val")


def _read_all(paths: object) -> tuple[Frame, ...]:
    try:
        return tuple(read_image(path).frame for path in sorted(paths))  # type: ignore[call-overload]
    except ImageError as error:
        raise DataError(str(error)) from error


class BatchMaker:
    """Makes the batches of a training by their steps."""

    def __init__(self, data: OldPhotoData, recipe: TranslationRecipe) -> None:
        """Take the photos of one split."""
        self._data, self._recipe = data, recipe

    def aged(self, step: int, size: int, crop: int) -> AgedBatch:
        """Return SIZE synthetic old crops of CROP pixels with their truth."""
        regions = (self._generator(step, row, 0) for row in range(-(-size // _CROPS_PER_REGION)))
        rows = [one for generator in regions for one in self._age_crops(generator, crop)][:size]
        clean, aged = (
            torch.from_numpy(batch_from_frames(np.stack([getattr(row, name) for row in rows])))
            for name in ("clean", "aged")
        )
        damage = torch.from_numpy(np.stack([row.damage for row in rows])[:, None])
        return AgedBatch(clean, aged, damage.float())

    def clean(self, step: int, size: int, crop: int) -> Tensor:
        """Return SIZE clean crops, (N, 3, C, C) in [0, 1]."""
        return self._stack(
            [self._clean_region(self._generator(step, row, 1), crop) for row in range(size)]
        )

    def real(self, step: int, size: int, crop: int) -> Tensor:
        """Return SIZE crops of real old photos, (N, 3, C, C) in [0, 1]."""
        frames = []
        for row in range(size):
            generator = self._generator(step, row, 2)
            scan = self._data.real[int(generator.integers(len(self._data.real)))]
            frames.append(flip_at_random(cut_square(scan, crop, generator), generator))
        return self._stack(frames)

    def _generator(self, step: int, row: int, domain: int) -> np.random.Generator:
        return np.random.default_rng((self._recipe.seed, step, row, domain))

    @staticmethod
    def _stack(frames: list[Frame]) -> Tensor:
        return torch.from_numpy(batch_from_frames(np.stack(frames)))

    def _clean_region(self, generator: np.random.Generator, side: int) -> Frame:
        folder = self._data.clean[int(generator.integers(len(self._data.clean)))]
        photo = folder[int(generator.integers(len(folder)))]
        region = flip_at_random(cut_square(photo, side, generator), generator)
        if generator.random() < self._recipe.monochrome_fraction:
            region = age_photo(region, OldPhoto(color_loss=1.0), generator)
        return region

    def _age_crops(self, generator: np.random.Generator, crop: int) -> list[AgedPhoto]:
        region = self._clean_region(generator, round(_REGION * crop))
        aging = sample_aging_of(region, generator)
        if generator.random() < self._recipe.damage_only_fraction:
            aging = aging.damage_alone()
        photo = age_with_damage(
            region,
            generator,
            self._data.overlays,
            aging=aging,
            capture_noise_fraction=self._recipe.capture_noise_fraction,
        )
        windows = [choose_window(photo.damage, crop, generator) for _ in range(_CROPS_PER_REGION)]
        return [AgedPhoto(photo.clean[one], photo.aged[one], photo.damage[one]) for one in windows]
