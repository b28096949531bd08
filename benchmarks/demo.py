"""Make a dark photo, enhance it with a bundle, and print its PSNR before and after.

    python benchmarks/demo.py build/lowlight build

The photo is scikit-image's astronaut with a twentieth of its light and a sensor's noise. It is
none of the images that the built-in calibration set takes its ranges from.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage

import mirnet_edge
from mirnet_edge.degradations import LowLight, reduce_light
from mirnet_edge.images.files import read_image, write_image
from mirnet_edge.metrics import psnr, psnr_gtmean
from mirnet_edge.runtime.restore import restore_image


def main(bundle: Path, out: Path) -> None:
    """Write dark.png, bright.png and reference.png into OUT."""
    clean = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png")
    settings = LowLight(exposure=0.05, shot_noise=3e-4, read_noise=8e-4)
    dark = replace(clean, frame=reduce_light(clean.frame, settings, np.random.default_rng(0)))
    with mirnet_edge.open_bundle(bundle) as runner:
        bright = restore_image(runner, dark)
        name = runner.name
    for stem, image in (("dark", dark), ("bright", bright), ("reference", clean)):
        write_image(out / f"{stem}.png", image)
    for stem, image in (("dark", dark), ("bright", bright)):
        frames, truth = image.frame[None], clean.frame[None]
        print(
            f"{stem:6}  mean level {frames.mean():5.1f} (the photo: {truth.mean():.1f})  "
            f"PSNR {psnr(frames, truth)[0]:.2f} dB, "
            f"{psnr_gtmean(frames, truth)[0]:.2f} dB at equal brightness"
        )
    print(f"restored by {name}: {out / 'bright.png'}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
