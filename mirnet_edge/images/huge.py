"""Images above Pillow's limit of 179 megapixels: decoded where the memory suffices for them.

Pillow refuses them because a small file can claim a huge image. What decoding, restoring and
writing one takes is known from its header, and compared with the memory that is left.
"""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirnet_edge.errors import ImageError
from mirnet_edge.images import sixteen_bits
from mirnet_edge.images.metadata import essential_png
from mirnet_edge.images.tiff_samples import HEIGHT, WIDTH, read_main_pages
from mirnet_edge.memory import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirnet_edge.images.kinds import Kind

# Peak of the process for each pixel, of a file that is read, restored to the same size and written,
# without what the network takes. Measured with images of 24 megapixels, NullRunner, 2026-11-29.
_BYTES, _BYTES_OF_16_BITS = 26, 64
_GB, _MEGA = 1e9, 1e6
_lock = threading.RLock()


@contextmanager
def without_size_limit() -> Iterator[None]:
    """Let Pillow decode images of any size within the block; one thread at a time.

    Other threads are without the limit meanwhile.
    """
    from PIL import Image

    with _lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_memory(payload: bytes, kind: Kind, path: Path) -> None:
    """Refuse an image for which the memory that is left does not suffice, by its header.

    Raises:
        ImageError: It does not, or is unknown.
        OSError: The header cannot be read.
    """
    width, height, is_deep = _size_of(payload, kind)
    needed = width * height * (_BYTES_OF_16_BITS if is_deep else _BYTES) + len(payload)
    left = available_memory()
    if left is not None and needed <= left:
        return
    found = "how much is left is unknown here" if left is None else f"{left / _GB:.1f} GB are left"
    raise ImageError(
        f"{path} has {width}x{height} pixels ({width * height / _MEGA:.0f} megapixels): reading "
        f"and writing it takes about {needed / _GB:.1f} GB of memory, {found}. Cut it into smaller "
        "images, or restore it on a machine with more memory"
    )


def _size_of(payload: bytes, kind: Kind) -> tuple[int, int, bool]:
    """Return the width and height of an image, and whether it has more than 8 bits."""
    from PIL import Image

    if kind == "TIFF":
        page = read_main_pages(payload)[0]
        return page.value(WIDTH), page.value(HEIGHT), page.bits > 8
    readable = essential_png(payload) if kind == "PNG" else payload
    with Image.open(io.BytesIO(readable), formats=(kind,)) as image:
        width, height = image.size
    return width, height, kind == "PNG" and sixteen_bits.png_bits(payload) == 16
