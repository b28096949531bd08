"""Run a LiteRT model on a frame that is the same everywhere, and store the output as .npy.

    python export/android/run_litert.py build/phone/litert-int8.tflite here.npy
    qemu-aarch64-static -L ROOT -E PYTHONPATH=SITE ROOT/usr/bin/python3.11 \
        export/android/run_litert.py build/phone/litert-int8.tflite there.npy --compare here.npy

ROOT and SITE are those that export/raspberry-pi/check_aarch64.sh makes, with ai-edge-litert in
SITE.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import numpy as np

from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime.litert_runner import LiteRtRunner


def main() -> int:
    """Return 1 where the output is more than one level from the one to compare with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", default="640x480", help="the model's")
    parser.add_argument("--compare", type=Path, default=None)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(columns / 9 + one) * np.cos(rows / 7 + one) for one in range(3)], -1)
    noise = np.random.default_rng(0).normal(0.0, 3.0, waves.shape)
    frame = np.clip(36 + 24 * waves + noise, 0, 255).astype(np.uint8)[None]
    image = ImageContract(io="uint8", multiple=1, size=(height, width))
    with LiteRtRunner(args.model, image, name="litert", precision="fp32", threads=2) as runner:
        restored = runner.run(frame)
    np.save(args.output, restored)
    print(f"{args.model.name} on {platform.machine()}: mean {restored.mean():.4f}")
    if args.compare is None:
        return 0
    furthest = int(np.abs(restored.astype(int) - np.load(args.compare)).max())
    print(f"at most {furthest} of 255 levels from {args.compare}")
    return int(furthest > 1)


if __name__ == "__main__":
    sys.exit(main())
