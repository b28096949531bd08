"""The training tasks, and the degradation that each applies to clean images.

Every draw is wide enough to hold what real cameras, scanners and encoders do: networks that are
trained on one strength are good at that strength alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    Overlay,
    add_noise,
    age_photo,
    downscale,
    overlay_damage,
    reduce_light,
)
from mirnet_edge.errors import DataError, ImageError, OptionError
from mirnet_edge.images.files import read_image
from mirnet_edge.training.listing import list_images, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from mirnet_edge.images.contract import Frame

    Degrade = Callable[[Frame, np.random.Generator], Frame]
    """Return a bad image of a clean one, (H, W, 3) uint8; chance comes from the generator."""
    from pathlib import Path

    from mirnet_edge.training.listing import PairFiles


@dataclass(frozen=True)
class Task:
    """What a network learns."""

    name: str
    degrade: Degrade
    scale: int = 1
    """How many times higher and wider the clean image is than the bad one."""


def task_of(name: str) -> Task:
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
    """Return a task whose bad images also have one or two of the overlays, every second one."""

    def degraded(frame: Frame, generator: np.random.Generator) -> Frame:
        bad = task.degrade(frame, generator)
        if generator.random() < 0.5:
            for _ in range(generator.integers(1, 3)):
                overlay = overlays[int(generator.integers(len(overlays)))]
                bad = overlay_damage(bad, overlay, generator, strength=generator.uniform(0.5, 1.0))
        return bad

    return replace(task, degrade=degraded)


def add_capture_noise(degrade: Degrade, share: float) -> Degrade:
    """Return DEGRADE, a SHARE of whose images a camera or a scanner then took: noise and JPEG."""

    def captured(frame: Frame, generator: np.random.Generator) -> Frame:
        bad = degrade(frame, generator)
        if generator.random() >= share:
            return bad
        settings = Noise(
            sigma=generator.uniform(0.0, 25.0) if generator.random() < 0.5 else 0.0,
            spread=generator.uniform(0.0, 1.0),
            alike=generator.uniform(0.0, 0.9),
            jpeg_quality=int(generator.integers(30, 96)) if generator.random() < 0.7 else None,
        )
        return add_noise(bad, settings, generator)

    return captured


def _darken(frame: Frame, generator: np.random.Generator) -> Frame:
    """Between a half and a sixty-fourth of the light, at a lamp's color, with sensor noise."""
    noise = 2.0 ** generator.uniform(-2.0, 2.0)
    settings = LowLight(
        exposure=2.0 ** generator.uniform(-6.0, -1.0),
        shot_noise=3e-4 * noise**2,
        read_noise=8e-4 * noise,
        white_balance=_gains(generator),
    )
    return reduce_light(frame, settings, generator)


def _gains(generator: np.random.Generator) -> tuple[float, float, float]:
    red, blue = 2.0 ** generator.uniform(-0.4, 0.4, 2)
    return float(red), 1.0, float(blue)


def _add_noise(frame: Frame, generator: np.random.Generator) -> Frame:
    """White noise of up to 50 levels, as papers have it, or what a camera's own pipeline leaves.

    A camera's noise grows with the light, is spread over neighbors and channels by demosaicing
    and color conversion, and has often gone through JPEG.
    """
    if generator.random() < 0.6:
        return add_noise(frame, Noise(sigma=generator.uniform(0.0, 50.0)), generator)
    settings = Noise(
        sigma=generator.uniform(0.0, 12.0),
        photons=math.exp(generator.uniform(math.log(100.0), math.log(20000.0))),
        spread=generator.uniform(0.0, 1.3),
        alike=generator.uniform(0.0, 0.9),
        jpeg_quality=int(generator.integers(70, 100)) if generator.random() < 0.5 else None,
    )
    return add_noise(frame, settings, generator)


def _halve(frame: Frame, generator: np.random.Generator) -> Frame:
    """Half the pixels each way; every fourth also goes through a good JPEG, as a camera's would."""
    small = downscale(frame, 2)
    if generator.random() < 0.75:
        return small
    return add_noise(small, Noise(jpeg_quality=int(generator.integers(85, 100))), generator)


def _age(frame: Frame, generator: np.random.Generator) -> Frame:
    """A print of any age: each kind of damage in half of the draws or more."""

    def sometimes(largest: float) -> float:
        return generator.uniform(0.0, largest) if generator.random() < 0.7 else 0.0

    settings = OldPhoto(
        blur=sometimes(1.0),
        fading=sometimes(1.0),
        color_loss=sometimes(0.7),
        sepia=sometimes(0.8),
        grain=sometimes(20.0),
        dust=sometimes(4.0),
        scratches=int(generator.integers(0, 4)),
        creases=int(generator.integers(0, 2)),
    )
    return age_photo(frame, settings, generator)


TASKS = (
    Task("low-light", _darken),
    Task("denoise", _add_noise),
    Task("super-resolution", _halve, scale=2),
    Task("old-photo", _age),
)


_TASK = "old-photo"


def overlay_tasks(task: Task, folder: Path) -> tuple[Task, Task]:
    """Return the task with the folder's overlays: for training, and with others for validation.

    Raises:
        OptionError: The task is not that of old photographs.
        DataError: There are fewer than two overlays, or one cannot be read or hides nothing.
    """
    if task.name != _TASK:
        raise OptionError(f"--overlays damage the images of --task {_TASK}; found {task.name}")
    parts = split(list(list_images(folder)))
    train, validation = (
        add_overlays(task, [_overlay(pair) for pair in part]) for part in (parts.train, parts.val)
    )
    return train, validation


def _overlay(pair: PairFiles) -> Overlay:
    try:
        image = read_image(pair.high)
    except ImageError as error:
        raise DataError(str(error)) from error
    if image.alpha is None or not image.alpha.any():
        raise DataError(
            f"{pair.high} hides nothing; expected damage with transparency around it. Leave it out"
        )
    return Overlay(image.frame, image.alpha)
