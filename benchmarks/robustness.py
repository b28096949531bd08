"""What a bundle makes of images darker, noisier, smaller, compressed and tinted.

    python benchmarks/robustness.py build/lowlight [--photos FOLDER] [--json]

Clean photos (scikit-image's, or a folder of yours) are made bad in the way of the bundle's task,
one condition at a time off the usual one. The table gives PSNR of what goes in and of what comes
out: for low light against the photo; for the other tasks against the photo in the condition's
light, which they are to leave as it is. A clean, well-lit photo is to come back as it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mirnet_edge
from mirnet_edge.calibration.sets import CalibrationSample, fit_sample
from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    add_noise,
    age_photo,
    downscale,
    reduce_light,
)
from mirnet_edge.images.files import FORMAT_OF_SUFFIX, read_image
from mirnet_edge.manifest import read_manifest
from mirnet_edge.metrics import psnr, psnr_gtmean, ssim

if TYPE_CHECKING:
    from collections.abc import Callable

DARK = LowLight(exposure=0.06, shot_noise=3e-4, read_noise=8e-4)
OLD = OldPhoto(fading=0.5, color_loss=0.3, sepia=0.4, grain=10.0, dust=1.0, scratches=1)
AS_IT_IS = LowLight()
CLEAN = Noise()
WARM, COLD = (1.3, 1.0, 0.7), (0.7, 1.0, 1.3)


@dataclass(frozen=True)
class Condition:
    """One way in which an image is bad."""

    kind: str
    name: str
    light: LowLight = AS_IT_IS
    noise: Noise = CLEAN
    height: int = 480
    bad: bool = True
    """Whether the image is also made bad in the way of the task."""
    monochrome: bool = False
    """Whether the photo that is to come out has no colors."""


def conditions_of(task: str) -> list[Condition]:
    """Return the conditions of a task's table."""
    usual = DARK if task == "low-light" else AS_IT_IS
    noise = Noise(sigma=25.0) if task == "denoise" else CLEAN

    def noisier(factor: float) -> LowLight:
        return replace(usual, shot_noise=3e-4 * factor**2, read_noise=8e-4 * factor)

    def lit(name: str, light: LowLight) -> Condition:
        return Condition("light", name, light, noise)

    dark = [
        lit(f"{exposure:g} of the light", replace(usual, exposure=exposure))
        for exposure in (0.5, 0.2, 0.06, 0.02)
    ]
    if task == "low-light":
        noises = [
            Condition("noise", f"{factor:g}x the sensor's noise", noisier(factor))
            for factor in (0, 0.5, 1, 2, 4)
        ]
    else:
        noises = [
            Condition("noise", f"sigma {sigma:g}", noise=Noise(sigma=sigma))
            for sigma in (0, 5, 15, 25, 50)
        ]
    return [
        Condition("light", "well lit, clean", bad=False),
        *dark,
        *noises,
        *(
            Condition("size", f"{height} lines", usual, noise, height)
            for height in (240, 360, 720, 1080)
        ),
        *(
            Condition("JPEG", f"quality {quality}", usual, replace(noise, jpeg_quality=quality))
            for quality in (90, 60, 30)
        ),
        *(
            Condition("color", f"{name} light", replace(usual, white_balance=gains), noise)
            for name, gains in (("warm", WARM), ("cold", COLD))
        ),
        # a print without colors turns brown too, and is not to be given any
        *(
            Condition(
                "color",
                f"black and white{', clean' if clean else ''}",
                bad=not clean,
                monochrome=True,
            )
            for clean in (False, True)
            if task == "old-photo"
        ),
    ]


def made_bad(
    task: str, clean: np.ndarray, condition: Condition, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image that goes in and the one that is to come out."""
    if condition.monochrome:
        clean = age_photo(clean, OldPhoto(color_loss=1.0), generator)
    lit = reduce_light(clean, condition.light, generator)
    truth = clean if task == "low-light" else lit
    if task == "super-resolution":
        lit = downscale(lit, 2)  # bad or not: it is what the network enlarges
    elif task == "old-photo" and condition.bad:
        lit = age_photo(lit, OLD, generator)
    return add_noise(lit, condition.noise, generator), truth


def enlarged(frame: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return a frame at the size of another, by bicubic interpolation."""
    from PIL import Image

    if frame.shape == like.shape:
        return frame
    size = (like.shape[1], like.shape[0])
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def photos_of(folder: Path | None) -> list[np.ndarray]:
    """Return the clean photos, (H, W, 3) uint8."""
    if folder is None:
        import skimage

        data = Path(skimage.__file__).parent / "data"
        paths = [data / name for name in ("astronaut.png", "coffee.png", "chelsea.png")]
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMAT_OF_SUFFIX)
    if not paths:
        sys.exit(f"{folder} holds no image; expected PNG, JPEG, WebP or TIFF")
    return [read_image(path).frame for path in paths]


def measured(
    restore: Callable[[np.ndarray], np.ndarray],
    task: str,
    condition: Condition,
    photos: list[np.ndarray],
) -> dict[str, float]:
    """Return mean figures of one condition: before and after, in dB, and SSIM after."""
    import cv2

    rows = []
    for number, photo in enumerate(photos):
        width = round(photo.shape[1] * condition.height / photo.shape[0])
        clean = cv2.resize(photo, (width, condition.height), interpolation=cv2.INTER_AREA)
        clean = fit_sample(CalibrationSample("", clean, None), None, (1080, 1920)).frame
        clean = clean[: clean.shape[0] // 2 * 2, : clean.shape[1] // 2 * 2]
        bad, truth = made_bad(task, clean, condition, np.random.default_rng(number))
        good = restore(bad[None])
        rows.append(
            [
                min(100.0, float(psnr(enlarged(bad, truth)[None], truth[None])[0])),
                *(float(figure(good, truth[None])[0]) for figure in (psnr, psnr_gtmean, ssim)),
            ]
        )
    names = ("before_db", "after_db", "equal_brightness_db", "ssim")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def main() -> None:
    """Print one line per condition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    photos = photos_of(arguments.photos)
    task = read_manifest(arguments.bundle).model.task
    with mirnet_edge.open_bundle(arguments.bundle) as runner:
        table = {
            (one.kind, one.name): measured(runner.run, task, one, photos)
            for one in conditions_of(task)
        }
        name = runner.name
    if arguments.json:
        print(json.dumps([{"kind": k, "condition": c, **v} for (k, c), v in table.items()]))
        return
    print(
        f"{task}, {len(photos)} photos, {name}; PSNR in dB before and after, "
        "and at equal brightness\n"
    )
    print("| | condition | before | after | equal brightness | SSIM |")
    print("|---|---|---|---|---|---|")
    for (kind, condition), row in table.items():
        print(
            f"| {kind} | {condition} | {row['before_db']:.2f} | {row['after_db']:.2f} "
            f"| {row['equal_brightness_db']:.2f} | {row['ssim']:.3f} |"
        )


if __name__ == "__main__":
    main()
