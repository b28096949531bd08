"""Batch sampling and data augmentation: random pairs, crops, flips, exposure, noise, mixup.

A batch depends on (random seed, step) alone, and each of its pairs on (seed, step, row), so a
resumed run sees the batches it would have seen, and several processes share a batch without
communicating.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge.errors import DataError
from mirnet_edge.images.contract import size_text
from mirnet_edge.training.pairs import thumbnail_from_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from mirnet_edge.training.pairs import Pairs

    Pixels = NDArray[np.float32]
    """(H, W, 3) RGB in [0, 1]."""


@dataclass(frozen=True)
class Batch:
    """A training batch: float32 RGB in [0, 1]."""

    degraded: Tensor
    """The input, (N, 3, H, W), channels last in memory."""
    target: Tensor
    """The ground truth: the same shape, or `scale` times as high and wide."""
    thumbnail: Tensor | None
    """(N, 3, h, w) thumbnails of the frames that `degraded` was cropped from; None unless
    requested."""


# of `noise_pairs`: the largest sigma, in 8-bit levels, and the range of photons of a white pixel
_MOST_SIGMA, _PHOTONS = 4.0, (200.0, 5000.0)
_NOISE = 1  # in the seed of a row's sensor noise, which is another than the row's


@dataclass(frozen=True, kw_only=True)
class BatchSampling:
    """Size, crop and data augmentation of a batch."""

    size: int
    """Image pairs in a batch."""
    crop: int | None
    """Side of the square crops of the targets, in pixels; None for whole frames."""
    multiple: int
    """What height and width of the degraded images are multiples of."""
    well_lit_fraction: float = 0.0
    """Fraction of the pairs whose degraded image moves towards its target, half of them all the
    way: well-lit images are to come back as they were."""
    exposure_jitter: float = 0.0
    """Largest exposure change, in stops, of half of the other degraded images."""
    noise_jitter: float = 0.0
    """Largest standard deviation, in 8-bit levels, of Gaussian noise added to half of the images
    that are not well lit."""
    mixup: float = 0.0
    """Fraction of the batches whose pairs are blended with each other (Zhang et al., "mixup", ICLR
    2018; in MIRNet-v2's training: Zamir et al., TPAMI 2022)."""
    thumbnails: bool = False
    """Whether batches have thumbnails, for networks with an exposure branch."""
    noise_pairs: bool = False
    """Whether the second half of the batch shows the degraded images of the first half again, with
    other sensor noise, more or less of it, as another frame of a camera that stands still;
    well-lit images as they are."""


def iterate_batches(
    pairs: Pairs,
    sampling_at: Callable[[int], BatchSampling],
    steps: range,
    *,
    seed: int,
    rows: slice,
    workers: int,
) -> Iterator[Batch]:
    """Yield the batches of STEPS, sampled ahead by WORKERS threads; 0 samples on demand.

    Args:
        pairs: The training set.
        sampling_at: Returns the sampling of a step.
        steps: The steps, in order.
        seed: The random seed; the same seed gives the same batches.
        rows: Which rows of each batch: the part of one process.
        workers: Threads.

    Raises:
        DataError: An image is smaller than the crop.
    """

    def sample(step: int) -> Batch:
        return sample_batch(pairs, sampling_at(step), seed=seed, step=step, rows=rows)

    if not workers:
        yield from map(sample, steps)
        return
    with ThreadPoolExecutor(workers, "batch") as pool:
        ahead = [pool.submit(sample, step) for step in steps[: workers + 1]]
        for step in steps:
            batch = ahead.pop(0).result()
            if step + workers + 1 in steps:
                ahead.append(pool.submit(sample, step + workers + 1))
            yield batch


def require_image_sizes(pairs: Pairs, crop: int) -> None:
    """Refuse a training set of which an image is smaller than a crop, before training starts.

    Args:
        pairs: The training set.
        crop: Side of the crops of the targets, in pixels.

    Raises:
        DataError: An image is smaller than the crop; says how many are, and names one.
    """
    small = [place for place, target in enumerate(pairs.targets) if min(target.shape[:2]) < crop]
    if small:
        size = size_text(*pairs.targets[small[0]].shape[:2])
        raise DataError(
            f"expected images of at least {crop}x{crop}, the crop; found {len(small)} smaller of "
            f"{len(pairs)}, such as {pairs.names[small[0]]}, {size}. Choose a smaller --crop or "
            "leave them out"
        )


def sample_batch(
    pairs: Pairs, sampling: BatchSampling, *, seed: int, step: int, rows: slice = slice(None)
) -> Batch:
    """Return the batch of a step, or some of its rows: random pairs, crops and augmentation.

    Raises:
        DataError: An image is smaller than the crop.
    """
    shared = np.random.default_rng((seed, step))
    candidates = range(len(pairs))
    if sampling.crop is None:
        # one batch is one tensor: all its frames have the size of a random one
        shape = pairs.targets[pairs.sample_indices(shared, 1)[0]].shape
        candidates = [index for index in candidates if pairs.targets[index].shape == shape]  # type: ignore[assignment]
    is_mixed = shared.random() < sampling.mixup
    own = range(sampling.size)[rows]
    # a pair is mixed with the next one of the whole batch, which may be another process's
    needed = sorted({(row + more) % sampling.size for row in own for more in (0, int(is_mixed))})
    samples = {}
    for row in needed:
        # the second half of the rows shows the scenes of the first, in one process
        source = row % (sampling.size // 2) if sampling.noise_pairs else row
        generator = np.random.default_rng((seed, step, source))
        index = pairs.sample_indices(generator, 1, candidates)[0]
        sensor = np.random.default_rng((seed, step, row, _NOISE))
        samples[row] = _sample_pair(pairs, index, sampling, generator, sensor)
    weight = float(shared.beta(1.2, 1.2)) if is_mixed else 1.0  # as in MIRNet-v2's training
    if is_mixed:
        samples = {
            row: tuple(
                weight * one + (1.0 - weight) * two
                for one, two in zip(samples[row], samples[(row + 1) % sampling.size], strict=True)
            )
            for row in own
        }
    columns = list(zip(*(samples[row] for row in own), strict=True))
    degraded, target, *thumbnail = (torch.from_numpy(np.stack(column)) for column in columns)
    return Batch(
        degraded.permute(0, 3, 1, 2),
        target.permute(0, 3, 1, 2),
        thumbnail[0] if thumbnail else None,
    )


def _sample_pair(
    pairs: Pairs,
    index: int,
    sampling: BatchSampling,
    generator: np.random.Generator,
    sensor: np.random.Generator,
) -> tuple[NDArray[np.float32], ...]:
    """Return an augmented pair, (H, W, 3), and the input's thumbnail, (3, h, w), if requested.

    SENSOR is the randomness of the sensor noise of `noise_pairs`, GENERATOR of all else.
    """
    target, scale, given = pairs.targets[index], pairs.scale, pairs.degraded[index]
    degrade, thumbnails = pairs.degrade, None
    if given is not None:
        degraded, degrade = given, None
        thumbnails = pairs.thumbnails(index) if sampling.thumbnails else None
    elif degrade is not None and sampling.thumbnails:
        # crop and thumbnail must show the same degradation
        degraded, degrade = degrade(target, generator), None
        thumbnails = thumbnail_from_frame(degraded), thumbnail_from_frame(target)
    else:
        degraded = target
    ratio = scale if degrade is None else 1  # of the sides of TARGET and DEGRADED, as they are now
    step = sampling.multiple * scale
    crop = sampling.crop
    height, width = ((crop or side) // step * step for side in target.shape[:2])
    if min(height, width) < step or min(target.shape[:2]) < (crop or 1):
        raise DataError(
            f"{pairs.names[index]} is {size_text(*target.shape[:2])}, smaller than the crop of "
            f"{crop or step}; choose a smaller --crop"
        )
    # multiples of the scale, so that both images show the same view
    y, x = (
        int(generator.integers((side - cut) // scale + 1)) * scale if crop else 0
        for side, cut in zip(target.shape[:2], (height, width), strict=True)
    )
    target = target[y : y + height, x : x + width]
    degraded = degraded[y // ratio : (y + height) // ratio, x // ratio : (x + width) // ratio]
    flips = tuple(axis for axis in (0, 1) if generator.integers(2))
    is_transposed = crop is not None and bool(generator.integers(2))
    degraded, target = (np.flip(image, flips) for image in (degraded, target))
    if is_transposed:
        degraded, target = degraded.transpose(1, 0, 2), target.transpose(1, 0, 2)
    jitter = sample_exposure_jitter(sampling.well_lit_fraction, sampling.exposure_jitter, generator)
    if degrade is not None:
        degraded = degrade(np.ascontiguousarray(target), generator)
    clean, noisy = _to_float(target), _to_float(degraded)
    noisy = jitter.apply(noisy, clean)
    if not jitter.towards_target:  # noise in a well-lit image would train to smooth clean images
        noisy = add_noise_jitter(noisy, sampling.noise_jitter, generator)
        if sampling.noise_pairs:
            sigma = generator.uniform(0.0, _MOST_SIGMA)
            photons = math.exp(generator.uniform(math.log(_PHOTONS[0]), math.log(_PHOTONS[1])))
            gain = 1.0 - sensor.random()  # never 0
            noisy = add_sensor_noise(
                noisy, sigma=gain * sigma, photons=photons / gain**2, generator=sensor
            )
    if thumbnails is None:
        return noisy, clean
    small, small_target = (
        np.flip(image.numpy(), tuple(axis + 1 for axis in flips)) for image in thumbnails
    )
    return noisy, clean, jitter.apply(small, small_target)


@dataclass(frozen=True)
class ExposureJitter:
    """Exposure augmentation of one degraded image."""

    gain: float = 1.0
    """What its values are multiplied by."""
    towards_target: float = 0.0
    """How far it moves to its target instead, 0 to 1."""

    def apply(self, degraded: Pixels, target: Pixels) -> Pixels:
        """Return the degraded image at the new exposure; both of one shape, in [0, 1]."""
        if self.towards_target:
            moved: Pixels = degraded + np.float32(self.towards_target) * (target - degraded)
            return moved
        if self.gain == 1.0:
            return degraded
        exposed: Pixels = np.clip(degraded * np.float32(self.gain), 0.0, 1.0)
        return exposed


def sample_exposure_jitter(
    well_lit_fraction: float, exposure_jitter: float, generator: np.random.Generator
) -> ExposureJitter:
    """Return the random exposure augmentation of one image; see `BatchSampling`."""
    if well_lit_fraction and generator.random() < well_lit_fraction:
        fraction = generator.random()
        # below one half an image is still dark, and is to become bright instead of staying so
        return ExposureJitter(towards_target=1.0 if fraction < 0.5 else fraction)
    if exposure_jitter and generator.random() < 0.5:
        return ExposureJitter(gain=2.0 ** generator.uniform(-exposure_jitter, exposure_jitter))
    return ExposureJitter()


def add_noise_jitter(degraded: Pixels, largest: float, generator: np.random.Generator) -> Pixels:
    """Return the image, in half of the cases with Gaussian noise.

    Other cameras are noisier than the data set's.

    Args:
        degraded: Any shape, in [0, 1].
        largest: Largest standard deviation, in 8-bit levels; see `BatchSampling`.
        generator: The only source of randomness.
    """
    if not largest or generator.integers(2):
        return degraded
    sigma = np.float32(largest / 255.0 * generator.random())
    noise = generator.standard_normal(degraded.shape, dtype=np.float32)
    noisy: Pixels = np.clip(degraded + sigma * noise, 0.0, 1.0)
    return noisy


def add_sensor_noise(
    degraded: Pixels, *, sigma: float, photons: float, generator: np.random.Generator
) -> Pixels:
    """Return the image with Gaussian and photon noise, at 8-bit levels as from a camera.

    The noise of `degradations.add_noise`, for images that are not at whole levels; photon noise is
    approximated by a normal distribution.

    Args:
        degraded: Any shape, in [0, 1].
        sigma: Standard deviation where it is black, in 8-bit levels.
        photons: Photons of a white pixel: the variance of a value v grows by v / photons.
        generator: The only source of randomness.
    """
    spread = np.sqrt((sigma / 255.0) ** 2 + degraded / photons).astype(np.float32)
    noise = generator.standard_normal(degraded.shape, dtype=np.float32)
    levels = np.round(255.0 * np.clip(degraded + spread * noise, 0.0, 1.0))
    noisy: Pixels = (levels / np.float32(255.0)).astype(np.float32)
    return noisy


def _to_float(frame: NDArray[np.uint8]) -> Pixels:
    pixels: Pixels = frame.astype(np.float32) * np.float32(1.0 / 255.0)
    return pixels
