"""Restore a camera live in a loop of your own: the latest frame, older ones are dropped.

python examples/live_camera.py 0 build/lowlight
python examples/live_camera.py synthetic build/lowlight 30
"""

from __future__ import annotations

import itertools
import sys

import mirnet_edge


def main(source: str, bundle: str, frames: str | None = None) -> None:
    """Print the throughput and age of each frame; stop after FRAMES."""
    shown = mirnet_edge.stream(source, bundle)
    for frame in itertools.islice(shown, int(frames) if frames else None):
        height, width = frame.after.shape[:2]  # uint8 (H, W, 3) RGB
        status = frame.status
        print(f"{width}x{height} {status.fps:.1f} fps, age {status.age_ms:.0f} ms, "
              f"{status.dropped} dropped")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
