"""The EXIF block of image files, and the orientation it states."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.images.tiff import KEPT_TAGS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag of the rotation and flip for display."""

EXIF_PREFIX = b"Exif\0\0"
# Orientation: whether rows and columns change places, then the steps through both; EXIF 2.3, 4.6.4
_TURNS = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_SUB_DIRECTORIES = (0x8769, 0x8825)  # EXIF, GPS


def exif_of(image: Image.Image) -> bytes | None:
    """Return the EXIF block of a file; a TIFF's is collected from its directory."""
    block: bytes | None = image.info.get("exif")
    if block is None:
        tags = image.getexif()
        if image.format == "TIFF":
            tags = describe_tags(tags)
        # tags without a block: ImageMagick hides it in a text chunk, which Pillow understands
        block = tags.tobytes() if len(tags) else None
    return block.removeprefix(EXIF_PREFIX) if block else None


def orientation_of(exif: bytes) -> object:
    """Return the orientation tag of an EXIF block; None where it has none or is damaged."""
    return _tags_of(exif).get(ORIENTATION)


def to_display_orientation(pixels: NDArray[Any], orientation: object) -> NDArray[Any]:
    """Return pixels rotated and flipped from the stored orientation to that of display."""
    unturned = (False, 1, 1)
    known = _TURNS.get(orientation, unturned) if isinstance(orientation, int) else unturned
    swapped, rows, columns = known
    return (pixels.swapaxes(0, 1) if swapped else pixels)[::rows, ::columns]


def to_stored_orientation(pixels: NDArray[Any], orientation: object) -> NDArray[Any]:
    """Return pixels rotated and flipped from the orientation of display to the stored one."""
    inverse = {6: 8, 8: 6}  # all others undo themselves
    if isinstance(orientation, int):
        orientation = inverse.get(orientation, orientation)
    return np.ascontiguousarray(to_display_orientation(pixels, orientation))


def _tags_of(exif: bytes) -> dict[int, Any]:
    """Return the tags of an EXIF block; an empty dictionary where it is damaged."""
    from PIL import Image

    tags: Any = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tags.load(exif)
            return dict(tags)
        except Exception:  # noqa: BLE001  # parsers raise many kinds here
            return {}


def describe_tags(tags: Image.Exif) -> Image.Exif:
    """Return those tags of a TIFF that describe the image, not its storage."""
    from PIL import Image

    kept = Image.Exif()
    for tag in KEPT_TAGS:
        if tag in tags and tag not in _SUB_DIRECTORIES:
            kept[tag] = tags[tag]
    for directory in _SUB_DIRECTORIES:
        if entries := tags.get_ifd(directory):
            kept[directory] = dict(entries)
    return kept
