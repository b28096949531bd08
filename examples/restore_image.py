"""Restore one image file with a bundle; its EXIF, color profile and transparency are kept.

python examples/restore_image.py photo.jpg build/lowlight restored.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import mirnet_edge
from mirnet_edge.images.files import read_image, write_image
from mirnet_edge.runtime.restore import restore_image


def main(source: str, bundle: str, output: str) -> None:
    """Read SOURCE, restore it, and write OUTPUT."""
    with mirnet_edge.open_bundle(bundle) as runner:
        restored = restore_image(runner, read_image(Path(source)))
    write_image(Path(output), restored)


if __name__ == "__main__":
    main(*sys.argv[1:])
