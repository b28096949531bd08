"""Measure a bundle on images that are darker, noisier, smaller, compressed or tinted.

    python benchmarks/robustness.py build/lowlight [--images FOLDER] [--json]

Clean images (scikit-image's, or of a folder) are degraded by the task's degradation, with one
condition at a time changed. The table shows PSNR of input and output to the ground truth: for low
light the clean image; for other tasks the image in the condition's light, which they should not
change. A clean, well-lit image should not change at all.
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
from mirnet_edge.bench.scripts import enlarge_bicubic, read_images
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
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.images.files import read_image
from mirnet_edge.manifest import read_manifest
from mirnet_edge.metrics import psnr, psnr_gtmean, ssim
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

DARK = LowLight(exposure=0.06, shot_noise=3e-4, read_noise=8e-4)
OLD = OldPhoto(fading=0.5, color_loss=0.3, sepia=0.4, grain=10.0, dust=1.0, scratches=1)
AS_IT_IS = LowLight()
CLEAN = Noise()
WARM, COLD = (1.3, 1.0, 0.7), (0.7, 1.0, 1.3)


@dataclass(frozen=True)
class Condition:
    """A degradation of the table."""

    kind: str
    name: str
    light: LowLight = AS_IT_IS
    noise: Noise = CLEAN
    height: int = 480
    degraded: bool = True
    """Whether the task's own degradation is applied too."""
    monochrome: bool = False
    """Whether the ground truth has no colors."""


def list_conditions(task: str) -> list[Condition]:
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
        Condition("light", "well lit, clean", degraded=False),
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
        # a black and white print turns brown too, and must not get colors
        *(
            Condition(
                "color",
                f"black and white{', clean' if clean else ''}",
                degraded=not clean,
                monochrome=True,
            )
            for clean in (False, True)
            if task == "old-photo"
        ),
    ]


def degrade(
    task: str, clean: np.ndarray, condition: Condition, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return degraded input and ground truth."""
    if condition.monochrome:
        clean = age_photo(clean, OldPhoto(color_loss=1.0), generator)
    lit = reduce_light(clean, condition.light, generator)
    truth = clean if task == "low-light" else lit
    if task == "super-resolution":
        lit = downscale(lit, 2)  # degraded or not: the network enlarges it
    elif task == "old-photo" and condition.degraded:
        lit = age_photo(lit, OLD, generator)
    return add_noise(lit, condition.noise, generator), truth


def load_images(folder: Path | None) -> list[np.ndarray]:
    """Return the clean images, (H, W, 3) uint8.

    Raises:
        DataError: The folder holds none.
        ImageError: One cannot be read.
    """
    if folder is not None:
        return list(read_images(folder).values())
    import skimage

    data = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "coffee.png", "chelsea.png")
    return [read_image(data / name).frame for name in names]


def measure_condition(
    restore: Callable[[np.ndarray], np.ndarray],
    task: str,
    condition: Condition,
    images: list[np.ndarray],
) -> dict[str, float]:
    """Return mean quality of one condition: PSNR of input and output, SSIM of the output."""
    import cv2

    rows = []
    for number, image in enumerate(images):
        width = round(image.shape[1] * condition.height / image.shape[0])
        clean = cv2.resize(image, (width, condition.height), interpolation=cv2.INTER_AREA)
        clean = fit_sample(CalibrationSample("", clean, None), None, (1080, 1920)).frame
        clean = clean[: clean.shape[0] // 2 * 2, : clean.shape[1] // 2 * 2]
        low, truth = degrade(task, clean, condition, np.random.default_rng(number))
        as_large = enlarge_bicubic(low, truth.shape[:2])
        restored = restore(low[None])
        rows.append(
            [
                min(100.0, float(psnr(as_large[None], truth[None])[0])),
                *(float(metric(restored, truth[None])[0]) for metric in (psnr, psnr_gtmean, ssim)),
            ]
        )
    names = ("input_db", "output_db", "brightness_matched_db", "ssim")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def main() -> None:
    """Print a table row for each condition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="a folder or shipped:NAME")
    parser.add_argument("--images", "--photos", type=Path)  # --photos: the former name
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        images = load_images(arguments.images)
        task = read_manifest(find_bundle(arguments.bundle)).model.task
        with mirnet_edge.open_bundle(arguments.bundle) as runner:
            table = {
                (one.kind, one.name): measure_condition(runner.run, task, one, images)
                for one in list_conditions(task)
            }
            name = runner.name
    except MirnetEdgeError as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps([{"kind": k, "condition": c, **v} for (k, c), v in table.items()]))
        return
    print(f"{task}, {len(images)} images, {name}\n")
    print("| | condition | input: PSNR (dB) | output: PSNR (dB) | brightness-matched (dB) | SSIM |")
    print("|---|---|---|---|---|---|")
    for (kind, condition), row in table.items():
        print(
            f"| {kind} | {condition} | {row['input_db']:.2f} | {row['output_db']:.2f} "
            f"| {row['brightness_matched_db']:.2f} | {row['ssim']:.3f} |"
        )


if __name__ == "__main__":
    main()
