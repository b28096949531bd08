"""What the exposure of a frame is decided on: the whole of it, made small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge.images import batch_from_frames
from mirnet_edge.models.edge import thumbnail_of

if TYPE_CHECKING:
    from torch import Tensor

    from mirnet_edge.images import Frame
    from mirnet_edge.training.pairs import Pairs


def thumbnail_of_frame(frame: Frame) -> Tensor:
    """Return what the exposure of a frame is decided on, (3, h, w) float32 in [0, 1]."""
    height, width = (side // 8 * 8 for side in frame.shape[:2])
    return thumbnail_of(torch.from_numpy(batch_from_frames(frame[None, :height, :width])))[0]


class Thumbnails:
    """What the exposure of bad and good pictures is decided on, of all pairs; kept once made."""

    def __init__(self, pairs: Pairs, copies: int) -> None:
        """Show PAIRS; clean pictures are made bad in so many COPIES of each, always the same.

        Every second copy is of a part of the picture: other photos, as it were. Nothing of the bad
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
    """Return a half to all of each side of a picture, anywhere in it."""
    share = generator.uniform(0.5, 1.0)
    sides = [max(1, int(side * share) // scale) * scale for side in frame.shape[:2]]
    y, x = (
        int(generator.integers((side - cut) // scale + 1)) * scale
        for side, cut in zip(frame.shape[:2], sides, strict=True)
    )
    return np.ascontiguousarray(frame[y : y + sides[0], x : x + sides[1]])
