"""Read and check calibration sets, and make the built-in set of each task."""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import BaseModel

from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    add_noise,
    age_photo,
    downscale,
    reduce_light,
)
from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError, ImageError, OptionError
from mirnet_edge.files import read_toml, sha256_of
from mirnet_edge.images.contract import size_text
from mirnet_edge.images.files import read_image

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame

MINIMUM_IMAGES = 8
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
_PAIR_TABLE = "pairs.csv"
SET_FILE = "set.toml"
"""Lists the images of a sampled set, and their hashes."""


class _ListedFiles(BaseModel):
    """The part of `SET_FILE` that a reader checks."""

    files: dict[str, str]
    """By path below the folder: the SHA-256."""


@dataclass(frozen=True)
class CalibrationSample:
    """One image of a set."""

    name: str
    frame: Frame
    """(H, W, 3) uint8 RGB: the degraded input."""
    reference: Frame | None
    """The ground truth, where known; of a super-resolution set, larger."""


@dataclass(frozen=True)
class CalibrationSet:
    """Images that set the INT8 ranges, and others that the result is evaluated on."""

    calibration: tuple[CalibrationSample, ...]
    evaluation: tuple[CalibrationSample, ...]
    source: str
    sha256: str
    """Over the sorted hashes of the pixels of the calibration images."""
    note: str
    folder: Path | None = None
    """Where the images lie; None for a set that was made in memory."""


def read_set(
    source: Path, *, scale: int = 1, calibration: int = 32, evaluation: int = 24
) -> CalibrationSet:
    """Return the set of a folder.

    A folder with a pairs.csv (columns low, high, split) calibrates on the low images of its
    `train` split and is evaluated on its `val` split, with references. Of any other folder every
    fourth image is for evaluation.

    Args:
        source: A folder of images as the network will see them.
        scale: How many times higher and wider the references are.
        calibration: The largest number of calibration images, taken evenly.
        evaluation: The largest number of evaluation images, taken evenly.

    Raises:
        CalibrationError: The folder is missing, holds too few images, or one does not decode.
    """
    if source.name == SET_FILE:
        source = source.parent
    if not source.is_dir():
        raise CalibrationError(
            f"{source} is not a folder; give one with at least {MINIMUM_IMAGES} images as your "
            "camera takes them"
        )
    if (source / _PAIR_TABLE).is_file():
        first, second, note = _list_pairs(source)
    else:
        first, second, note = _list_images(source)
    found = make_set(
        [_read(path, None, scale) for path, _ in take_evenly(first, calibration)],
        [_read(path, reference, scale) for path, reference in take_evenly(second, evaluation)],
        source.resolve().name,  # not its path: a bundle that travels tells nothing of the disk
        note,
    )
    return replace(found, folder=source)


_Entry = tuple[Path, Path | None]
"""An image and its reference."""
_Item = TypeVar("_Item")


def _list_pairs(folder: Path) -> tuple[list[_Entry], list[_Entry], str]:
    with (folder / _PAIR_TABLE).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or {"low", "high", "split"} - set(rows[0]):
        raise CalibrationError(
            f"{folder / _PAIR_TABLE} must have rows and the columns low, high, split; mend it"
        )
    train: list[_Entry] = [(folder / row["low"], None) for row in rows if row["split"] == "train"]
    val: list[_Entry] = [
        (folder / row["low"], folder / row["high"]) for row in rows if row["split"] == "val"
    ]
    _check_count(folder, len(train), len(val))
    return train, val, "calibrated on the train split, evaluated on the val split"


def _list_images(folder: Path) -> tuple[list[_Entry], list[_Entry], str]:
    paths = list_image_files(folder)
    if (folder / SET_FILE).is_file():
        _check_listed(folder, paths)
    evaluation = paths[3::4]
    calibration = [path for path in paths if path not in set(evaluation)]
    _check_count(folder, len(calibration), len(evaluation))
    return (
        [(path, None) for path in calibration],
        [(path, None) for path in evaluation],
        "every fourth image is for evaluation; without references quality is measured against "
        "fp32 alone",
    )


def list_image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder and its folders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _check_listed(folder: Path, paths: list[Path]) -> None:
    """Refuse a sampled set whose images are not those that its file lists."""
    try:
        listed = read_toml(folder / SET_FILE, _ListedFiles).files
    except OptionError as error:
        raise CalibrationError(f"{error}. Sample the set again with mirnet-calibrate") from error
    found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    changed = sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))
    if changed:
        raise CalibrationError(
            f"{folder}: {changed[0]} is not as {SET_FILE} lists it (changed, added or gone); "
            "sample the set again with mirnet-calibrate"
        )


def _check_count(folder: Path, calibration: int, evaluation: int) -> None:
    found = calibration + evaluation
    if found < MINIMUM_IMAGES or not calibration or not evaluation:
        raise CalibrationError(
            f"{folder} holds {found} image{'' if found == 1 else 's'}; expected at least "
            f"{MINIMUM_IMAGES} (PNG, JPEG, WebP, TIFF), in calibration and evaluation. Add more"
        )


def take_evenly(entries: list[_Item], count: int | None) -> list[_Item]:
    """Return at most COUNT of the entries, spread over all of them."""
    if count is None or len(entries) <= count:
        return entries
    places = np.linspace(0, len(entries) - 1, count).round().astype(int)
    return [entries[place] for place in places]


def _read(path: Path, reference: Path | None, scale: int) -> CalibrationSample:
    try:
        frame = read_image(path).frame
        truth = read_image(reference).frame if reference else None
    except ImageError as error:
        raise CalibrationError(f"{error} (while reading the calibration set)") from error
    expected = tuple(scale * side for side in frame.shape[:2])
    if truth is not None and truth.shape[:2] != expected:
        raise CalibrationError(
            f"{path} is {size_text(*frame.shape[:2])} and its reference "
            f"{size_text(*truth.shape[:2])}; expected {size_text(*expected)}. Leave the pair out"
        )
    return CalibrationSample(path.stem, frame, truth)


def make_set(
    calibration: list[CalibrationSample],
    evaluation: list[CalibrationSample],
    source: str,
    note: str,
) -> CalibrationSet:
    """Return the set of these samples.

    Raises:
        CalibrationError: An image is in both.
    """
    hashes = [hashlib.sha256(sample.frame.tobytes()).hexdigest() for sample in calibration]
    both = set(hashes) & {
        hashlib.sha256(sample.frame.tobytes()).hexdigest() for sample in evaluation
    }
    if both:
        names = ", ".join(
            sample.name
            for sample, digest in zip(calibration, hashes, strict=True)
            if digest in both
        )
        raise CalibrationError(
            f"{source}: {names} would be in both groups, calibration and evaluation (same content "
            "twice); remove copies"
        )
    digest = hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
    return CalibrationSet(tuple(calibration), tuple(evaluation), source, digest, note)


def fit_sample(
    sample: CalibrationSample, size: tuple[int, int] | None, largest: tuple[int, int] | None
) -> CalibrationSample:
    """Return a sample of exactly SIZE, or at most LARGEST, cut from the middle.

    Cutting keeps the noise as the camera made it, where scaling would not. What is smaller than
    SIZE is enlarged by reflection.

    Args:
        sample: Any size.
        size: (height, width) to have, or None for its own.
        largest: (height, width) not to exceed, or None for no limit.
    """
    height, width = sample.frame.shape[:2]
    wanted = size or (height, width)
    if largest is not None and size is None:
        wanted = (min(height, largest[0]), min(width, largest[1]))

    reference = None
    if sample.reference is not None:
        scale = sample.reference.shape[0] // height
        reference = cut_frame(sample.reference, (scale * wanted[0], scale * wanted[1]), scale)
    return CalibrationSample(sample.name, cut_frame(sample.frame, wanted, 1), reference)


def cut_many(
    sample: CalibrationSample, largest: tuple[int, int], count: int
) -> list[CalibrationSample]:
    """Return at most COUNT frames that do not overlap, spread over a sample's, without reference.

    Args:
        sample: Any size.
        largest: (height, width) not to exceed.
        count: How many may be cut; there are fewer where they would overlap, and at least one.
    """
    height, width = sample.frame.shape[:2]
    wanted = (min(height, largest[0]), min(width, largest[1]))
    cells = max(1, min(math.isqrt(count), height // largest[0], width // largest[1]))
    rows, columns = (np.linspace(0, side, cells + 1).astype(int) for side in (height, width))
    return [
        CalibrationSample(
            sample.name, cut_frame(sample.frame[top:bottom, left:right], wanted, 1), None
        )
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]


def cut_frame(frame: Frame, wanted: tuple[int, int], scale: int) -> Frame:
    """Return the middle of a frame, filled by reflection, from a multiple of the scale."""
    top, left = (
        max(0, side - want) // (2 * scale) * scale
        for side, want in zip(frame.shape[:2], wanted, strict=True)
    )
    inner = frame[top : top + wanted[0], left : left + wanted[1]]
    missing = (wanted[0] - inner.shape[0], wanted[1] - inner.shape[1])
    # symmetric: "reflect" leaves out one pixel, where a larger reference would have to leave more
    return np.pad(inner, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")


Condition = Callable[["Frame", np.random.Generator], "Frame"]
"""Degrades a clean image."""

# What scikit-image carries in its own wheel. No photo is in both groups, and the two halves of
# its stereo pair stay out of the second one.
_CALIBRATION_PHOTOS = (
    "coffee.png", "chelsea.png", "motorcycle_left.png", "camera.png", "grass.png", "page.png",
)  # fmt: skip
_EVALUATION_PHOTOS = ("astronaut.png", "rocket.jpg", "coins.png", "brick.png")


def _apply(
    degrade: Callable[..., Frame], settings: object, frame: Frame, generator: np.random.Generator
) -> Frame:
    return degrade(frame, settings, generator)


def _halve(frame: Frame, generator: np.random.Generator) -> Frame:
    del generator  # nothing is left to chance
    return downscale(frame, 2)


def _leave_lamps(frame: Frame, generator: np.random.Generator) -> Frame:
    """Return a dark frame with a lit window and a lamp, which restoring overexposes."""
    height, width = frame.shape[:2]
    dark = reduce_light(frame, LowLight(exposure=0.05, shot_noise=3e-4, read_noise=8e-4), generator)
    window = np.s_[height // 8 : height * 11 // 24, width // 8 : width * 11 // 24]
    dark[window] = frame[window]
    dark[height // 2 : height * 2 // 3, width // 2 : width * 3 // 4] = 255
    return dark


# By task, then by the condition's name, which ends the sample's.
_CONDITIONS: dict[str, dict[str, Condition]] = {
    # share of light, shot noise, read noise: from dusk to the darkest that still shows something
    "low-light": {
        f"{settings.exposure:g}": partial(_apply, reduce_light, settings)
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
        name: partial(_apply, add_noise, settings)
        for name, settings in (
            ("sigma15", Noise(sigma=15.0)),
            ("sigma40", Noise(sigma=40.0)),
            (
                "camera",
                Noise(
                    sigma=6.0,
                    photons=500.0,
                    blur_sigma=0.8,
                    channel_correlation=0.6,
                    jpeg_quality=95,
                ),
            ),
        )
    },
    "super-resolution": {"half": _halve},
    "old-photo": {
        name: partial(_apply, age_photo, settings)
        for name, settings in (
            ("faded", OldPhoto(fading=0.6, color_loss=0.4, grain=8.0, dust=1.0)),
            ("brown", OldPhoto(sepia=0.6, blur=0.7, grain=12.0, scratches=2)),
            ("worn", OldPhoto(fading=0.3, grain=16.0, dust=3.0, scratches=3, creases=1)),
        )
    },
}


# Only to calibrate: what comes out of a lamp is no ground truth's value. Without such images, lamps
# clip in INT8: a white one came out at 238 of 255 with a grid of 4x4 pixels, with them at 253
# (docs/decisions/002-int8-recipes.md).
_CALIBRATION_CONDITIONS: dict[str, dict[str, Condition]] = {"low-light": {"lamps": _leave_lamps}}


def builtin_set(
    task: str,
    *,
    conditions: Sequence[str] = (),
    calibration: int | None = None,
    evaluation: int | None = None,
) -> CalibrationSet:
    """Return scikit-image's photos, degraded as the task's inputs are, with their originals.

    Args:
        task: A task with a built-in set.
        conditions: Names of the degradations; all of the task by default. Those that only
            calibrate are in no evaluation image.
        calibration: The largest number of calibration images, taken evenly; all by default.
        evaluation: The same of evaluation images.

    Raises:
        CalibrationError: There is no set for this task, or no such condition.
        MissingDependencyError: scikit-image is not installed.
    """
    if task not in _CONDITIONS:
        raise CalibrationError(
            f"there is no built-in set for the task {task!r}; expected one of "
            f"{', '.join(_CONDITIONS)}. Give images of your own: --calibration DIR"
        )
    evaluated = _CONDITIONS[task]
    calibrated = evaluated | _CALIBRATION_CONDITIONS.get(task, {})
    unknown = [name for name in conditions if name not in calibrated]
    if unknown:
        raise CalibrationError(
            f"the built-in set for the task {task!r} has no condition {unknown[0]!r}; expected "
            f"some of {', '.join(calibrated)}"
        )
    module = require("skimage", "the built-in calibration set")
    folder = Path(str(module.__file__)).parent / "data"
    chosen = [name for name in calibrated if not conditions or name in conditions]
    groups = [
        _degrade_photos(folder, photos, ways, chosen)
        for photos, ways in ((_CALIBRATION_PHOTOS, calibrated), (_EVALUATION_PHOTOS, evaluated))
    ]
    return make_set(
        take_evenly(groups[0], calibration),
        take_evenly(groups[1], evaluation),
        f"built-in: scikit-image photos, {task}",
        f"synthetic ({', '.join(chosen)}); a set from your own camera is better: --calibration DIR",
    )


def _degrade_photos(
    folder: Path, names: Sequence[str], ways: Mapping[str, Condition], chosen: Sequence[str]
) -> list[CalibrationSample]:
    samples = []
    for index, name in enumerate(names):
        clean = read_image(folder / name).frame
        height, width = (side // 2 * 2 for side in clean.shape[:2])
        clean = clean[:height, :width]  # super-resolution halves it
        # numbered before choosing: an image is the same whatever else is chosen
        for number, (condition, degrade) in enumerate(ways.items()):
            if condition in chosen:
                degraded = degrade(clean, np.random.default_rng([index, number]))
                stem = name.partition(".")[0]
                samples.append(CalibrationSample(f"{stem}-{condition}", degraded, clean))
    return samples
