"""What a training step sees: pairs drawn by chance, cut, turned, lit.

A batch depends on (seed, step) alone and each of its pairs on (seed, step, its place), so a run
that was stopped goes on with the batches it would have seen, and several processes share a batch
without speaking.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge.errors import DataError
from mirnet_edge.images.contract import size_text
from mirnet_edge.training.pairs import thumbnail_of_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from mirnet_edge.training.pairs import Pairs

    Pixels = NDArray[np.float32]
    """(H, W, 3) RGB in [0, 1]."""


@dataclass(frozen=True)
class Batch:
    """Float32 RGB in [0, 1]."""

    low: Tensor
    """(N, 3, H, W), channels last in memory."""
    high: Tensor
    """The same, or `scale` times as high and wide."""
    thumbnail: Tensor | None
    """(N, 3, h, w): the frames that `low` was cut from, made small; None where nobody asked."""


@dataclass(frozen=True, kw_only=True)
class BatchSampling:
    """How batches are drawn."""

    size: int
    """Pairs in a batch."""
    crop: int | None
    """Side of the square that is cut out of the good images, in pixels; None for whole frames."""
    multiple: int
    """Height and width of the bad images are multiples of this."""
    well_lit_fraction: float = 0.0
    """Share of the pairs whose bad image moves towards the good one, half of them all the way:
    what is well lit already is to come back as it was, for a camera sees day as well as night."""
    exposure_jitter: float = 0.0
    """Up to so many stops, half of the other bad images get lighter or darker."""
    noise_jitter: float = 0.0
    """Half of the images that were not lit get Gaussian noise of up to so many 8-bit levels."""
    mixup: float = 0.0
    """Share of the batches whose pairs are mixed with each other (Zhang et al., "mixup", ICLR
    2018; in MIRNet-v2's training: Zamir et al., TPAMI 2022)."""
    thumbnails: bool = False


def batches(
    pairs: Pairs,
    drawing_at: Callable[[int], BatchSampling],
    steps: range,
    *,
    seed: int,
    places: slice,
    workers: int,
) -> Iterator[Batch]:
    """Yield the batches of STEPS, drawn ahead by WORKERS threads; 0 draws when asked.

    Args:
        pairs: Where to draw from.
        drawing_at: How to draw the batch of a step.
        steps: Which.
        seed: The same seed gives the same batches.
        places: Which of each batch's pairs: a process's share.
        workers: Threads.

    Raises:
        DataError: An image is smaller than the crop.
    """

    def drawn(step: int) -> Batch:
        return sample_batch(pairs, drawing_at(step), seed=seed, step=step, places=places)

    if not workers:
        yield from map(drawn, steps)
        return
    with ThreadPoolExecutor(workers, "batch") as pool:
        ahead = [pool.submit(drawn, step) for step in steps[: workers + 1]]
        for step in steps:
            batch = ahead.pop(0).result()
            if step + workers + 1 in steps:
                ahead.append(pool.submit(drawn, step + workers + 1))
            yield batch


def sample_batch(
    pairs: Pairs, drawing: BatchSampling, *, seed: int, step: int, places: slice = slice(None)
) -> Batch:
    """Draw the batch of a step, or some places of it: random pairs, place, flips, light, noise.

    Raises:
        DataError: An image is smaller than the crop.
    """
    shared = np.random.default_rng((seed, step))
    chosen = range(len(pairs))
    if drawing.crop is None:
        # one batch is one tensor: all its frames have the size of the first one drawn
        shape = pairs.high[int(shared.integers(len(pairs)))].shape
        chosen = [index for index in chosen if pairs.high[index].shape == shape]  # type: ignore[assignment]
    mixed = shared.random() < drawing.mixup
    own = range(drawing.size)[places]
    # a mixed pair is mixed with its neighbor in the whole batch, which may be another's
    needed = sorted({(place + more) % drawing.size for place in own for more in (0, int(mixed))})
    rows = {}
    for place in needed:
        generator = np.random.default_rng((seed, step, place))
        index = chosen[int(generator.integers(len(chosen)))]
        rows[place] = _sample_pair(pairs, index, drawing, generator)
    share = float(shared.beta(1.2, 1.2)) if mixed else 1.0  # as in MIRNet-v2's training
    if mixed:
        rows = {
            place: tuple(
                share * one + (1.0 - share) * two
                for one, two in zip(rows[place], rows[(place + 1) % drawing.size], strict=True)
            )
            for place in own
        }
    columns = list(zip(*(rows[place] for place in own), strict=True))
    low, high, *thumbnail = (torch.from_numpy(np.stack(column)) for column in columns)
    return Batch(
        low.permute(0, 3, 1, 2), high.permute(0, 3, 1, 2), thumbnail[0] if thumbnail else None
    )


def _sample_pair(
    pairs: Pairs, index: int, drawing: BatchSampling, generator: np.random.Generator
) -> tuple[NDArray[np.float32], ...]:
    """Return a pair's pixels, (H, W, 3), and its thumbnail, (3, h, w), where asked for."""
    high, scale, degrade = pairs.high[index], pairs.scale, pairs.degrade
    thumbnails = None
    if degrade is None:
        low = pairs.low[index]
        thumbnails = pairs.thumbnails(index) if drawing.thumbnails else None
    elif drawing.thumbnails:  # what a thumbnail shows is to befall the whole frame
        low, degrade = degrade(high, generator), None
        thumbnails = thumbnail_of_frame(low), thumbnail_of_frame(high)
    else:
        low = high
    low_scale = scale if degrade is None else 1  # of HIGH to LOW, as they are here
    step = drawing.multiple * scale
    crop = drawing.crop
    height, width = ((crop or side) // step * step for side in high.shape[:2])
    if min(height, width) < step or min(high.shape[:2]) < (crop or 1):
        raise DataError(
            f"{pairs.names[index]} is {size_text(*high.shape[:2])}, smaller than the crop of "
            f"{crop or step}; choose a smaller --crop"
        )
    # places are multiples of the scale: both images are to show the same view
    y, x = (
        int(generator.integers((side - cut) // scale + 1)) * scale if crop else 0
        for side, cut in zip(high.shape[:2], (height, width), strict=True)
    )
    high = high[y : y + height, x : x + width]
    low = low[y // low_scale : (y + height) // low_scale, x // low_scale : (x + width) // low_scale]
    flips = tuple(axis for axis in (0, 1) if generator.integers(2))
    turned = crop is not None and bool(generator.integers(2))
    low, high = (np.flip(side, flips) for side in (low, high))
    if turned:
        low, high = low.transpose(1, 0, 2), high.transpose(1, 0, 2)
    light = sample_exposure_jitter(drawing.well_lit_fraction, drawing.exposure_jitter, generator)
    if degrade is not None:
        low = degrade(np.ascontiguousarray(high), generator)
    good, bad = _unit(high), _unit(low)
    bad = light.on(bad, good)
    if not light.towards_reference:  # noise in a good image would teach to smooth good images
        bad = _add_noise_jitter(bad, drawing.noise_jitter, generator)
    if thumbnails is None:
        return bad, good
    small_low, small_high = (
        np.flip(side.numpy(), tuple(axis + 1 for axis in flips)) for side in thumbnails
    )
    return bad, good, light.on(small_low, small_high)


@dataclass(frozen=True)
class ExposureJitter:
    """How much light a bad image gets in training."""

    exposure: float = 1.0
    towards_reference: float = 0.0

    def on(self, low: Pixels, high: Pixels) -> Pixels:
        """Return the bad image in this light, in [0, 1]; both of any one shape, in [0, 1]."""
        if self.towards_reference:
            moved: Pixels = low + np.float32(self.towards_reference) * (high - low)
            return moved
        if self.exposure == 1.0:
            return low
        exposed: Pixels = np.clip(low * np.float32(self.exposure), 0.0, 1.0)
        return exposed


def sample_exposure_jitter(
    well_lit_fraction: float, exposure_jitter: float, generator: np.random.Generator
) -> ExposureJitter:
    """Draw the light of one image; see `BatchSampling` for the two numbers."""
    if well_lit_fraction and generator.random() < well_lit_fraction:
        chance = generator.random()
        # less than half way is dark still: such an image is to become bright, not to stay
        return ExposureJitter(towards_reference=1.0 if chance < 0.5 else chance)
    if exposure_jitter and generator.random() < 0.5:
        return ExposureJitter(exposure=2.0 ** generator.uniform(-exposure_jitter, exposure_jitter))
    return ExposureJitter()


def _add_noise_jitter(low: Pixels, largest: float, generator: np.random.Generator) -> Pixels:
    """Add Gaussian noise to half of the images: other cameras are noisier than the set's."""
    if not largest or generator.integers(2):
        return low
    sigma = np.float32(largest / 255.0 * generator.random())
    noise = generator.standard_normal(low.shape, dtype=np.float32)
    worse: Pixels = np.clip(low + sigma * noise, 0.0, 1.0)
    return worse


def _unit(frame: NDArray[np.uint8]) -> Pixels:
    pixels: Pixels = frame.astype(np.float32) * np.float32(1.0 / 255.0)
    return pixels
