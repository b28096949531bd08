"""The training tasks, and the degradation that each applies to clean images.

The random ranges are wide enough for real cameras, scanners and encoders: a network trained on one
strength of a degradation restores that strength alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirnet_edge.degradations import (
    Camera,
    LowLight,
    Noise,
    OldPhoto,
    Overlay,
    add_noise,
    age_photo,
    downscale,
    overlay_damage,
    photograph,
    reduce_light,
)
from mirnet_edge.errors import DataError, ImageError, OptionError
from mirnet_edge.images.files import read_image
from mirnet_edge.training.listing import list_images, split_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from mirnet_edge.images.contract import Frame

    Degrade = Callable[[Frame, np.random.Generator], Frame]
    """Return a degraded image of a clean one, (H, W, 3) uint8, random by the generator alone."""

_OVERLAY_TASK = "old-photo"


@dataclass(frozen=True)
class Task:
    """A restoration task: the degradation that a network is trained to undo."""

    name: str
    degrade: Degrade
    scale: int = 1
    """How many times higher and wider the clean image is than the degraded one."""


def find_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        OptionError: There is none.
    """
    for task in TASKS:
        if task.name == name:
            return task
    known = ", ".join(task.name for task in TASKS)
    raise OptionError(f"expected the task {known}, found {name!r}; choose one of these")


def add_overlays(task: Task, overlays: Sequence[Overlay]) -> Task:
    """Return a task that also lays one or two of the overlays over half of the images."""

    def degrade(frame: Frame, generator: np.random.Generator) -> Frame:
        degraded = task.degrade(frame, generator)
        if generator.random() < 0.5:
            for _ in range(generator.integers(1, 3)):
                overlay = overlays[int(generator.integers(len(overlays)))]
                strength = generator.uniform(0.5, 1.0)
                degraded = overlay_damage(degraded, overlay, generator, strength=strength)
        return degraded

    return replace(task, degrade=degrade)


def add_capture_noise(degrade: Degrade, fraction: float) -> Degrade:
    """Return DEGRADE with a camera's or scanner's noise and JPEG on a FRACTION of the images.

    Two fifths of these have white noise: networks that only saw correlated noise keep it.
    """

    def degrade_and_capture(frame: Frame, generator: np.random.Generator) -> Frame:
        degraded = degrade(frame, generator)
        if generator.random() >= fraction:
            return degraded
        if generator.random() < 0.4:
            return add_noise(degraded, _sample_white_noise(generator, jpeg_fraction=0.5), generator)
        settings = Noise(
            sigma=generator.uniform(0.0, 25.0) if generator.random() < 0.5 else 0.0,
            blur_sigma=generator.uniform(0.0, 1.0),
            channel_correlation=generator.uniform(0.0, 0.9),
            jpeg_quality=int(generator.integers(30, 96)) if generator.random() < 0.7 else None,
        )
        return add_noise(degraded, settings, generator)

    return degrade_and_capture


def _darken(frame: Frame, generator: np.random.Generator) -> Frame:
    """Keep a half to a sixty-fourth of the light, at a lamp's color, with sensor noise."""
    noise = 2.0 ** generator.uniform(-2.0, 2.0)
    settings = LowLight(
        exposure=2.0 ** generator.uniform(-6.0, -1.0),
        shot_noise=3e-4 * noise**2,
        read_noise=8e-4 * noise,
        white_balance=_sample_white_balance(generator),
    )
    return reduce_light(frame, settings, generator)


def photograph_at_random(
    frame: Frame,
    generator: np.random.Generator,
    exposures: tuple[float, float] = (0.01, 0.5),
    noise: float = 1.0,
) -> Frame:
    """Return a clean image as a random camera takes it with less light.

    Args:
        frame: (H, W, 3) uint8 RGB.
        generator: The only source of randomness.
        exposures: The least and the most light, as fractions of the clean image's.
        noise: Factor of the noise's standard deviation.

    Returns:
        The same shape and type.
    """

    def chance(fraction: float) -> bool:
        return bool(generator.random() < fraction)

    def log_uniform(low: float, high: float) -> float:
        return float(math.exp(generator.uniform(math.log(low), math.log(high))))

    read_noise = noise * log_uniform(1e-4, 2e-3)
    red, blue = 2.0 ** generator.uniform(0.0, 1.2, 2)
    red_error, blue_error = 2.0 ** generator.normal(0.0, 0.15, 2)
    settings = Camera(
        exposure=log_uniform(*exposures),
        vignetting=generator.uniform(0.0, 0.6) if chance(0.5) else 0.0,
        lamps=int(generator.integers(1, 4)) if chance(0.3) else 0,
        white_balance=(float(red), 1.0, float(blue)),
        white_balance_error=(float(red_error), 1.0, float(blue_error)),
        crosstalk=generator.uniform(0.0, 0.3),
        color_error=generator.uniform(-0.3, 1.0),
        shot_noise=noise**2 * log_uniform(2e-5, 2e-3),
        read_noise=read_noise,
        row_noise=read_noise * generator.uniform(0.0, 0.3) if chance(0.5) else 0.0,
        is_mosaic=chance(0.8),
        denoise=generator.uniform(0.0, 1.0) if chance(0.5) else 0.0,
        contrast=generator.uniform(-0.3, 0.7),
        black=generator.uniform(-0.01, 0.02) if chance(0.5) else 0.0,
        jpeg_quality=int(generator.integers(60, 99)) if chance(0.4) else None,
    )
    return photograph(frame, settings, generator)


def _sample_white_balance(generator: np.random.Generator) -> tuple[float, float, float]:
    red, blue = 2.0 ** generator.uniform(-0.4, 0.4, 2)
    return float(red), 1.0, float(blue)


def _add_noise(frame: Frame, generator: np.random.Generator) -> Frame:
    """Add Gaussian noise of up to 50 levels, as in papers, or the noise of a camera's pipeline.

    A camera's noise grows with the light, is correlated between neighbors and channels by
    demosaicing and color conversion, and is often JPEG-compressed. A quarter of the images with
    Gaussian noise are compressed too: networks that never saw that keep blocks of noise.
    """
    if generator.random() < 0.6:
        return add_noise(frame, _sample_white_noise(generator, jpeg_fraction=0.25), generator)
    settings = Noise(
        sigma=generator.uniform(0.0, 12.0),
        photons=math.exp(generator.uniform(math.log(100.0), math.log(20000.0))),
        blur_sigma=generator.uniform(0.0, 1.3),
        channel_correlation=generator.uniform(0.0, 0.9),
        jpeg_quality=int(generator.integers(70, 100)) if generator.random() < 0.5 else None,
    )
    return add_noise(frame, settings, generator)


def _sample_white_noise(generator: np.random.Generator, jpeg_fraction: float) -> Noise:
    return Noise(
        sigma=generator.uniform(0.0, 50.0),
        jpeg_quality=(
            int(generator.integers(40, 99)) if generator.random() < jpeg_fraction else None
        ),
    )


def _halve(frame: Frame, generator: np.random.Generator) -> Frame:
    """Halve both sides; every fourth image is also JPEG-compressed at a camera's quality."""
    small = downscale(frame, 2)
    if generator.random() < 0.75:
        return small
    return add_noise(small, Noise(jpeg_quality=int(generator.integers(85, 100))), generator)


def _age(frame: Frame, generator: np.random.Generator) -> Frame:
    return age_photo(frame, sample_aging_of(frame, generator), generator)


def sample_aging_of(frame: Frame, generator: np.random.Generator) -> OldPhoto:
    """Return random strengths of aging for a clean photo: of a black-and-white or a color print."""
    seen = frame[::8, ::8]  # enough to tell a gray photo
    return sample_aging(generator, monochrome=bool((seen == seen[..., :1]).all()))


def sample_aging(generator: np.random.Generator, *, monochrome: bool = False) -> OldPhoto:
    """Return random strengths of aging; a quarter of the photos have no damage.

    Args:
        generator: The only source of randomness.
        monochrome: Whether the photo is black and white, and so toned. Color photos keep so much
            of their colors that the two differ: otherwise gray prints come out with colors that
            were never there.
    """

    def chance(fraction: float) -> bool:
        return bool(generator.random() < fraction)

    def sample_strength(largest: float, fraction: float = 0.7) -> float:
        return generator.uniform(0.0, largest) if chance(fraction) else 0.0

    def sample_count(largest: int, fraction: float) -> int:
        return int(generator.integers(1, largest + 1)) if chance(fraction) else 0

    if chance(0.05):
        return OldPhoto()
    aging = OldPhoto(
        blur=sample_strength(1.0),
        fading=sample_strength(1.0),
        grain=sample_strength(20.0),
        paper=_sample_paper(generator) if chance(0.3) else (1.0, 1.0, 1.0),
        gamma=generator.uniform(0.8, 1.5) if chance(0.25) else 1.0,
    )
    if monochrome and chance(0.45):
        aging = replace(aging, toning=_sample_toning(generator))
    elif monochrome and chance(0.5):
        red, green, blue = generator.uniform((0.7, 0.95, 1.0), (1.0, 1.1, 2.2))
        aging = replace(aging, toning_gamma=(red, green, blue))
    elif monochrome:
        aging = replace(aging, sepia=sample_strength(1.0))
    else:
        red, green, blue = (sample_strength(0.5) if chance(0.4) else 0.0 for _ in range(3))
        aging = replace(
            aging,
            color_loss=sample_strength(0.6),
            sepia=sample_strength(0.6, 0.6),
            dye_fading=(red, green, blue),
        )
    if chance(0.25):
        return aging
    return replace(
        aging,
        dust=sample_strength(4.0),
        scratches=sample_count(3, 0.5),
        creases=sample_count(2, 0.3),
        cracks=sample_count(12 if chance(0.2) else 3, 0.6),
        hairs=sample_count(40 if chance(0.15) else 6, 0.4),
        patches=sample_count(5, 0.4),
    )


def _sample_toning(generator: np.random.Generator) -> tuple[float, float, float]:
    """Return how far middle tones move: mostly to brown, by sulfide, some to blue or purple."""
    strength = generator.uniform(0.0, 80.0)
    if generator.random() < 0.85:
        red, green, blue = generator.uniform((0.1, -0.1, -1.0), (0.6, 0.15, -0.3))
    else:
        strength *= 0.4
        red, green, blue = generator.uniform((-0.8, -0.3, 0.0), (0.3, 0.1, 1.0))
    return strength * red, strength * green, strength * blue


def _sample_paper(generator: np.random.Generator) -> tuple[float, float, float]:
    """Return factors of the colors: yellowed paper, mostly."""
    red, green, blue = generator.uniform((0.95, 0.85, 0.6), (1.0, 1.0, 1.0))
    white = generator.uniform(0.85, 1.0)
    return white * red, white * green, white * blue


TASKS = (
    Task("low-light", _darken),
    Task("denoise", _add_noise),
    Task("super-resolution", _halve, scale=2),
    Task("old-photo", _age),
)


def make_overlay_tasks(task: Task, folder: Path) -> tuple[Task, Task]:
    """Return the task with the folder's overlays, for training and, with others, for validation.

    Raises:
        OptionError: The task is not old-photo.
        DataError: There are fewer than two overlays, or one cannot be read or is transparent.
    """
    if task.name != _OVERLAY_TASK:
        raise OptionError(
            f"--overlays needs --task {_OVERLAY_TASK}, found {task.name}; leave out one of them"
        )
    listing = split_pairs(list(list_images(folder)))
    train, validation = (
        add_overlays(task, [read_overlay(file.target) for file in files])
        for files in (listing.train, listing.val)
    )
    return train, validation


def read_overlay(path: Path) -> Overlay:
    """Return the damage of an image file with transparency.

    Raises:
        DataError: It cannot be read, or is transparent everywhere.
    """
    try:
        image = read_image(path)
    except ImageError as error:
        raise DataError(str(error)) from error
    if image.alpha is None or not image.alpha.any():
        raise DataError(
            f"{path} covers nothing; expected damage with transparency around it. Leave it out"
        )
    return Overlay(image.frame, image.alpha)
