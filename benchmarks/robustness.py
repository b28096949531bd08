"""What a low-light bundle makes of pictures darker, noisier, smaller and brighter than its data.

    python benchmarks/robustness.py build/lowlight [--photos FOLDER] [--json]

Clean photos (scikit-image's, or a folder of yours) are made bad one condition at a time; the table
gives PSNR of what goes in and of what comes out, against the photo. A well-lit photo is to come
back as it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import mirnet_edge
from mirnet_edge.calibration.sets import Sample, fitted
from mirnet_edge.degradations import LowLight, Noise, low_light, noisy
from mirnet_edge.metrics import psnr, psnr_gtmean, ssim
from mirnet_edge.pictures import FORMAT_OF_SUFFIX, read_picture

USUAL = LowLight(exposure=0.06, shot_noise=3e-4, read_noise=8e-4)
NO_NOISE = Noise()


@dataclass(frozen=True)
class Condition:
    """One way in which a picture is bad."""

    kind: str
    name: str
    light: LowLight = USUAL
    noise: Noise = NO_NOISE
    height: int = 480


CONDITIONS = (
    Condition("light", "well lit", LowLight()),
    *(
        Condition("light", f"{exposure:g} of the light", replace(USUAL, exposure=exposure))
        for exposure in (0.5, 0.2, 0.06, 0.02)
    ),
    *(
        Condition(
            "noise",
            f"{factor:g}x the sensor's noise",
            replace(USUAL, shot_noise=3e-4 * factor**2, read_noise=8e-4 * factor),
        )
        for factor in (0, 0.5, 2, 4)
    ),
    *(Condition("size", f"{height} lines", height=height) for height in (240, 360, 720, 1080)),
    *(
        Condition("JPEG", f"quality {quality}", noise=Noise(jpeg_quality=quality))
        for quality in (90, 60, 30)
    ),
    *(
        Condition("colour", f"{name} light", replace(USUAL, white_balance=gains))
        for name, gains in (("warm", (1.3, 1.0, 0.7)), ("cold", (0.7, 1.0, 1.3)))
    ),
)


def photos_of(folder: Path | None) -> list[np.ndarray]:
    """Return the clean photos, (H, W, 3) uint8."""
    if folder is None:
        import skimage

        data = Path(skimage.__file__).parent / "data"
        paths = [data / name for name in ("astronaut.png", "coffee.png", "chelsea.png")]
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMAT_OF_SUFFIX)
    if not paths:
        sys.exit(f"{folder} holds no picture; expected PNG, JPEG, WebP or TIFF")
    return [read_picture(path).frame for path in paths]


def measured(runner: object, condition: Condition, photos: list[np.ndarray]) -> dict[str, float]:
    """Return mean figures of one condition: before and after, in dB, and SSIM after."""
    import cv2

    rows = []
    for number, photo in enumerate(photos):
        width = round(photo.shape[1] * condition.height / photo.shape[0])
        clean = cv2.resize(photo, (width, condition.height), interpolation=cv2.INTER_AREA)
        clean = fitted(Sample("", clean, None), None, (1080, 1920)).frame
        generator = np.random.default_rng(number)
        bad = noisy(low_light(clean, condition.light, generator), condition.noise, generator)
        good = runner.run(bad[None])  # type: ignore[attr-defined]
        truth = clean[None]
        rows.append(
            [
                min(100.0, float(psnr(bad[None], truth)[0])),
                float(psnr(good, truth)[0]),
                float(psnr_gtmean(good, truth)[0]),
                float(ssim(good, truth)[0]),
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
    with mirnet_edge.open_bundle(arguments.bundle) as runner:
        table = {(one.kind, one.name): measured(runner, one, photos) for one in CONDITIONS}
        name = runner.name
    if arguments.json:
        print(json.dumps([{"kind": k, "condition": c, **v} for (k, c), v in table.items()]))
        return
    print(f"{len(photos)} photos, {name}; PSNR in dB before and after, and at equal brightness\n")
    print("| | condition | before | after | equal brightness | SSIM |")
    print("|---|---|---|---|---|---|")
    for (kind, condition), row in table.items():
        print(
            f"| {kind} | {condition} | {row['before_db']:.2f} | {row['after_db']:.2f} "
            f"| {row['equal_brightness_db']:.2f} | {row['ssim']:.3f} |"
        )


if __name__ == "__main__":
    main()
