"""Picture files: pixels as the network wants them, and what travels beside the pixels.

EXIF, ICC profile and transparency come back out as they went in. Pixels are never rotated: the
orientation tag stays with them.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.errors import ImageError, MirnetEdgeError
from mirnet_edge.files import write_atomically
from mirnet_edge.pictures_16bit import bits_of, pixels_of_16_bits
from mirnet_edge.pictures_exif import (
    ORIENTATION,
    as_seen,
    as_stored,
    exif_of,
    exif_options,
    orientation_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from mirnet_edge.images import Frame

Format = Literal["PNG", "JPEG", "WEBP", "TIFF"]
FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_EXPECTED = "expected a PNG, JPEG, WebP or TIFF picture"
_SAVE_OPTIONS: dict[Format, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4
    "WEBP": {"quality": 95, "exact": True},  # exact: colours under full transparency stay
    "TIFF": {"compression": "tiff_lzw"},
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded picture file."""

    frame: Frame
    """(H, W, 3) uint8 RGB, as stored: not turned by the orientation tag."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W), 0 transparent to 255 opaque; None where the file has no transparency."""
    icc: bytes | None = None
    """RGB colour profile."""
    exif: bytes | None = None
    """A TIFF block, without the "Exif" marker some formats put before it."""
    format: Format = "PNG"
    """Of the file it came from."""
    source_bits: Literal[8, 16] = 8
    """Bits per channel of that file; `frame` has 8 in any case."""


def read_picture(path: Path) -> Picture:
    """Read a picture file: 8 or 16 bits; gray, palette, RGB, CMYK; with or without transparency.

    16 bits are rounded to 8. Colours of a CMYK or gray profile are brought to sRGB.

    Raises:
        ImageError: Missing, empty, no picture, truncated, too large, animated or of several
            pages, or of a kind that is not supported.
    """
    payload = _payload(path)
    # Pillow warns about odd metadata; what matters of it is checked here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decoded(payload, path)


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all, 8 bits a channel.

    JPEG and WebP are written at quality 95, JPEG without chroma subsampling.

    Raises:
        ImageError: The suffix names no format we write, or the format cannot hold the picture.
        MirnetEdgeError: The folder cannot be written.
    """
    from PIL import Image

    kind = format_of(path)
    if picture.alpha is not None and kind == "JPEG":
        raise ImageError(
            f"{path}: the picture has transparency, JPEG cannot hold it; write .png, .webp or .tif"
        )
    pixels: NDArray[np.uint8] = picture.frame
    if picture.alpha is not None:
        pixels = np.dstack([picture.frame, picture.alpha])
    options = dict(_SAVE_OPTIONS[kind])
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif:
        options |= exif_options(picture.exif, kind)
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, kind, **options)
    # sides beyond what the format can count, for example; encoders raise RuntimeError
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"{path}: {kind} cannot hold this picture ({error}); write another format"
        ) from error
    write_atomically(path, buffer.getvalue())


def format_of(path: Path) -> Format:
    """Return the format a path's suffix stands for.

    Raises:
        ImageError: None that we write.
    """
    found = FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if found is None:
        raise ImageError(
            f"{path} has the suffix {path.suffix!r}; pictures are written as "
            f"{', '.join(FORMAT_OF_SUFFIX)}. Rename it"
        )
    return found


def oriented(picture: Picture) -> Frame:
    """Return the frame as a viewer shows it: turned as the EXIF orientation says."""
    if picture.exif is None:
        return picture.frame
    # a damaged block of metadata turns nothing
    return np.ascontiguousarray(as_seen(picture.frame, orientation_of(picture.exif)))


def _payload(path: Path) -> bytes:
    try:
        payload = path.read_bytes()
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder; {_EXPECTED}. Name a file in it") from error
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read ({error.strerror}); {_EXPECTED}. Check the name and its rights"
        ) from error
    if not payload:
        raise ImageError(f"{path} is empty; {_EXPECTED}. Copy it again from its source")
    return payload


def _decoded(payload: bytes, path: Path) -> Picture:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(payload), formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            return _picture(image, payload, path)
    except MirnetEdgeError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is damaged or another kind of file; {_EXPECTED}. Convert it to one of these"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} is too large to be decoded safely ({error}); cut it into smaller pictures"
        ) from error
    except Exception as error:  # decoders raise many kinds here, all of them mean "damaged"
        raise ImageError(
            f"{path} is damaged ({error}); {_EXPECTED}. Copy it again from its source"
        ) from error


def _picture(image: Image.Image, payload: bytes, path: Path) -> Picture:
    frames = getattr(image, "n_frames", 1)
    # a phone's MPO is a JPEG whose first picture is the photo, with a depth map or preview behind
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"{path} holds {frames} pictures (animated or several pages); expected one. Split it"
        )
    kind: Format = "JPEG" if image.format == "MPO" else image.format  # type: ignore[assignment]
    exif = exif_of(image)
    # Pillow turns a TIFF while loading and forgets its tag; OpenCV turns it too
    turn = image.getexif().get(ORIENTATION) if kind == "TIFF" else None
    icc: bytes | None = image.info.get("icc_profile") or None
    bits = bits_of(image, payload, path)
    image.load()  # before OpenCV sees it: Pillow says what is wrong with a truncated file
    if bits == 16:
        colours, alpha = pixels_of_16_bits(image, payload, path)
        if icc is not None and _colour_space(icc) != b"RGB ":
            icc = None  # a gray profile: its curve is close to sRGB's, and our pixels are RGB
    else:
        colours, alpha, icc = _pixels(image, icc, path)
    return Picture(
        frame=as_stored(colours, turn),
        alpha=None if alpha is None else as_stored(alpha, turn),
        icc=icc,
        exif=exif,
        format=kind,
        source_bits=bits,
    )


def _pixels(
    image: Image.Image, icc: bytes | None, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, bytes | None]:
    """Return (H, W, 3) RGB, (H, W) alpha or None, and the profile that belongs to them."""
    alpha = None
    # not has_transparency_data, which Pillow has only since 10.1
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    if icc is not None and _colour_space(icc) != b"RGB ":
        image, icc = _in_srgb(image, icc), None
    if image.mode in ("LAB", "HSV"):
        raise ImageError(
            f"{path} is in {image.mode} colours; expected gray, RGB or CMYK. Convert it"
        )
    return np.asarray(image.convert("RGB")), alpha, icc


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Bring a picture with a CMYK or gray profile to sRGB; where that fails, leave it to Pillow."""
    from PIL import ImageCms

    if image.mode not in ("CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def _colour_space(icc: bytes) -> bytes:
    return icc[16:20]  # ICC.1:2022, table 17
