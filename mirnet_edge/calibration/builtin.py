"""The built-in sets, one for each task: scikit-image's photos, made bad in the task's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.calibration.sets import CalibrationSet, Sample, collected
from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    downscaled,
    low_light,
    noisy,
    old_photo,
)
from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError
from mirnet_edge.pictures import read_picture

if TYPE_CHECKING:
    from mirnet_edge.images import Frame

Condition = Callable[["Frame", np.random.Generator], "Frame"]
"""Makes a clean photo bad."""

# What scikit-image carries in its own wheel. No photo is in both groups, and the two halves of
# its stereo pair stay out of the second one.
_CALIBRATING_PHOTOS = (
    "coffee.png", "chelsea.png", "motorcycle_left.png", "camera.png", "grass.png", "page.png",
)  # fmt: skip
_JUDGING_PHOTOS = ("astronaut.png", "rocket.jpg", "coins.png", "brick.png")


def _applied(
    degrade: Callable[..., Frame], settings: object, frame: Frame, generator: np.random.Generator
) -> Frame:
    return degrade(frame, settings, generator)


def _halved(frame: Frame, generator: np.random.Generator) -> Frame:
    del generator  # nothing is left to chance
    return downscaled(frame, 2)


# By task, then by what the sample's name says of the condition.
_CONDITIONS: dict[str, dict[str, Condition]] = {
    # share of light, shot noise, read noise: from dusk to the darkest that still shows something
    "low-light": {
        f"{settings.exposure:g}": partial(_applied, low_light, settings)
        for settings in (
            LowLight(exposure=0.12, shot_noise=2e-4, read_noise=4e-4),
            LowLight(
                exposure=0.05, shot_noise=3e-4, read_noise=8e-4, white_balance=(1.1, 1.0, 0.9)
            ),
            LowLight(
                exposure=0.02, shot_noise=4e-4, read_noise=1.2e-3, white_balance=(0.95, 1.0, 1.05)
            ),
        )
    },
    "denoise": {
        name: partial(_applied, noisy, settings)
        for name, settings in (
            ("sigma15", Noise(sigma=15.0)),
            ("sigma40", Noise(sigma=40.0)),
            ("camera", Noise(sigma=6.0, photons=500.0, spread=0.8, alike=0.6, jpeg_quality=95)),
        )
    },
    "super-resolution": {"half": _halved},
    "old-photo": {
        name: partial(_applied, old_photo, settings)
        for name, settings in (
            ("faded", OldPhoto(fading=0.6, colour_loss=0.4, grain=8.0, dust=1.0)),
            ("brown", OldPhoto(sepia=0.6, blur=0.7, grain=12.0, scratches=2)),
            ("worn", OldPhoto(fading=0.3, grain=16.0, dust=3.0, scratches=3, creases=1)),
        )
    },
}


def builtin_set(task: str) -> CalibrationSet:
    """Return scikit-image's photos, made bad in the task's way, with their originals.

    Raises:
        CalibrationError: There is none for this task.
        MissingDependencyError: scikit-image is not installed.
    """
    if task not in _CONDITIONS:
        raise CalibrationError(
            f"there is no built-in set for the task {task!r}; expected one of "
            f"{', '.join(_CONDITIONS)}. Give pictures of your own: --calibration DIR"
        )
    module = require("skimage", "the built-in calibration set")
    folder = Path(str(module.__file__)).parent / "data"
    conditions = _CONDITIONS[task]
    return collected(
        _made_bad(folder, _CALIBRATING_PHOTOS, conditions),
        _made_bad(folder, _JUDGING_PHOTOS, conditions),
        f"built-in: scikit-image photos, {task}",
        f"synthetic ({', '.join(conditions)}); a set from your own camera is better: "
        "--calibration DIR",
    )


def _made_bad(folder: Path, names: Sequence[str], conditions: dict[str, Condition]) -> list[Sample]:
    samples = []
    for index, name in enumerate(names):
        clean = read_picture(folder / name).frame
        height, width = (side // 2 * 2 for side in clean.shape[:2])
        clean = clean[:height, :width]  # super-resolution halves it
        for number, (condition, degrade) in enumerate(conditions.items()):
            bad = degrade(clean, np.random.default_rng([index, number]))
            samples.append(Sample(f"{name.partition('.')[0]}-{condition}", bad, clean))
    return samples
