"""EXIF, in and out of picture files, and which way up it says they are seen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

ORIENTATION = 0x0112
"""The tag that says how a picture is turned before it is shown."""

_EXIF_PREFIX = b"Exif\0\0"
# A TIFF's EXIF is its own directory. These tags describe the picture, the others its storage:
# description, maker, model, orientation, resolution (3), software, date, artist, copyright.
_TIFF_TAGS = (
    0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298,
)  # fmt: skip
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
    """Return the EXIF block as the file holds it; a TIFF's is gathered from its directory."""
    block: bytes | None = image.info.get("exif")
    if block is None:
        tags = image.getexif()
        if image.format == "TIFF":
            tags = _described(tags)
        # tags without a block: ImageMagick hides it in a text chunk, which Pillow understands
        block = tags.tobytes() if len(tags) else None
    return block.removeprefix(_EXIF_PREFIX) if block else None


def exif_options(exif: bytes, kind: str) -> dict[str, Any]:
    """Return what Pillow's `save` needs to write an EXIF block into a file of that format."""
    if kind == "JPEG":
        return {"exif": _EXIF_PREFIX + exif}
    if kind == "TIFF":  # whose own directory the tags become
        tags = _tags_of(exif)
        if any(directory in tags for directory in _SUB_DIRECTORIES):
            # Pillow compresses through libtiff, which refuses the directories it is given
            return {"exif": exif, "compression": "raw"}
        return {"exif": exif} if tags else {}
    return {"exif": exif}


def orientation_of(exif: bytes) -> object:
    """Return what an EXIF block says of the orientation; None where it is silent or damaged."""
    return _tags_of(exif).get(ORIENTATION)


def as_seen(pixels: NDArray[Any], orientation: object) -> NDArray[Any]:
    """Turn pixels from the way they are stored to the way they are seen."""
    unturned = (False, 1, 1)
    known = _TURNS.get(orientation, unturned) if isinstance(orientation, int) else unturned
    swapped, rows, columns = known
    return (pixels.swapaxes(0, 1) if swapped else pixels)[::rows, ::columns]


def as_stored(pixels: NDArray[Any], orientation: object) -> NDArray[Any]:
    """Turn pixels from the way they are seen to the way they are stored: `as_seen` undone."""
    inverse = {6: 8, 8: 6}  # all others undo themselves
    if isinstance(orientation, int):
        orientation = inverse.get(orientation, orientation)
    return np.ascontiguousarray(as_seen(pixels, orientation))


def _tags_of(exif: bytes) -> dict[int, Any]:
    """Return the tags of an EXIF block, none where it is damaged."""
    from PIL import Image

    tags: Any = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tags.load(exif)
            return dict(tags)
        except Exception:  # noqa: BLE001  # parsers raise many kinds here
            return {}


def _described(tags: Image.Exif) -> Image.Exif:
    from PIL import Image

    kept = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for directory in _SUB_DIRECTORIES:
        if entries := tags.get_ifd(directory):
            kept[directory] = dict(entries)
    return kept
