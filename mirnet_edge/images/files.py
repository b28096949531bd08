"""Read and write image files: pixels, EXIF, ICC profile, alpha, 16 bits per channel.

EXIF, ICC profile and alpha channel are written as they were read. Pixels are never rotated: the
orientation tag is kept.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.errors import ImageError, MirnetEdgeError
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from mirnet_edge.images.contract import Frame

ORIENTATION = 0x0112
"""The EXIF tag of the rotation and flip for display."""

_EXIF_PREFIX = b"Exif\0\0"
# A TIFF's EXIF is its own directory. These tags describe the image, the others its storage:
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
    """Return the EXIF block of a file; a TIFF's is collected from its directory."""
    block: bytes | None = image.info.get("exif")
    if block is None:
        tags = image.getexif()
        if image.format == "TIFF":
            tags = _describe_tags(tags)
        # tags without a block: ImageMagick hides it in a text chunk, which Pillow understands
        block = tags.tobytes() if len(tags) else None
    return block.removeprefix(_EXIF_PREFIX) if block else None


def exif_options(exif: bytes, kind: str) -> dict[str, Any]:
    """Return the arguments of Pillow's `save` that write an EXIF block in that format."""
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


def _describe_tags(tags: Image.Exif) -> Image.Exif:
    from PIL import Image

    kept = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for directory in _SUB_DIRECTORIES:
        if entries := tags.get_ifd(directory):
            kept[directory] = dict(entries)
    return kept


_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES = 0x0102, 0x0106, 0x0152
_WHITE_IS_ZERO, _ASSOCIATED_ALPHA = 0, 1  # values of the last two; TIFF 6.0, pages 37 and 31


def bits_of(image: Image.Image, payload: bytes, path: Path) -> Literal[8, 16]:
    """Return the bits per channel, which Pillow hides: it decodes 16-bit RGB files to 8 bits."""
    bits = 8
    if image.format == "PNG":
        bits = payload[24]  # the header is always the first chunk; PNG specification, 11.2.2
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    if bits == 16:
        return 16
    if bits > 8 or image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ImageError(
            f"{path} has {bits} bits per channel, mode {image.mode}; expected whole numbers of "
            "8 or 16 bits. Convert it"
        )
    return 8


def pixels_of_16_bits(
    image: Image.Image, payload: bytes, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Decode 16 bits per channel to (H, W, 3) RGB and (H, W) alpha or None, both of 8 bits."""
    import cv2

    if image.mode == "CMYK":
        raise ImageError(f"{path} is CMYK with 16 bits; expected gray or RGB there. Convert it")
    decoded = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        found = "nothing" if decoded is None else str(decoded.dtype)
        raise ImageError(
            f"{path}: its 16-bit pixels decode to {found}, expected uint16. Convert it to PNG"
        )
    levels = decoded.reshape(*decoded.shape[:2], -1).astype(np.uint32)
    channels = levels.shape[2]
    alpha = levels[..., -1:] if channels in (2, 4) else None
    colors = levels[..., 2::-1] if channels > 2 else levels[..., :1].repeat(3, axis=2)  # BGR
    # what OpenCV leaves as the file has it
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        colors = 65535 - colors
    if alpha is not None and tags.get(_EXTRA_SAMPLES, (0,))[0] == _ASSOCIATED_ALPHA:
        # at most 65535 * 65535 + 32767, which 32 bits hold
        colors = np.minimum((colors * 65535 + alpha // 2) // np.maximum(alpha, 1), 65535)
    if channels == 1 and "transparency" in image.info:  # a PNG's one transparent level
        alpha = np.where(levels == image.info["transparency"], np.uint32(0), np.uint32(65535))
    return _eight_bits(colors), None if alpha is None else _eight_bits(alpha[..., 0])


def _eight_bits(levels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    # x / 257 takes 65535 to 255 and rounds to nearest; a tie cannot happen, 257 being odd
    return np.ascontiguousarray(((levels + 128) // 257).astype(np.uint8))


Format = Literal["PNG", "JPEG", "WEBP", "TIFF"]
FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_EXPECTED = "expected a PNG, JPEG, WebP or TIFF image"
_SAVE_OPTIONS: dict[Format, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4
    "WEBP": {"quality": 95, "exact": True},  # exact: colors under full transparency stay
    "TIFF": {"compression": "tiff_lzw"},
}


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A decoded image file."""

    frame: Frame
    """(H, W, 3) uint8 RGB, as stored: not turned by the orientation tag."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W), 0 transparent to 255 opaque; None where the file has no transparency."""
    icc: bytes | None = None
    """RGB color profile."""
    exif: bytes | None = None
    """A TIFF block, without the "Exif" marker some formats put before it."""
    format: Format = "PNG"
    """Of the file it came from."""
    source_bits: Literal[8, 16] = 8
    """Bits per channel of that file; `frame` has 8 in any case."""


def read_image(path: Path) -> ImageFile:
    """Return an image file's content: 8 or 16 bits; gray, palette, RGB or CMYK; alpha or none.

    16 bits are rounded to 8. Colors of a CMYK or gray profile are converted to sRGB.

    Raises:
        ImageError: Missing, empty, no image, truncated, too large, animated or of several
            pages, or of a kind that is not supported.
    """
    payload = _payload(path)
    # Pillow warns about odd metadata; what matters of it is checked here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(payload, path)


def write_image(path: Path, image: ImageFile) -> None:
    """Write an image in the format of the path's suffix, atomically, with 8 bits per channel.

    JPEG and WebP are written at quality 95, JPEG without chroma subsampling.

    Raises:
        ImageError: The suffix names no format we write, or the format cannot hold the image.
        MirnetEdgeError: The folder cannot be written.
    """
    from PIL import Image

    kind = format_of(path)
    if image.alpha is not None and kind == "JPEG":
        raise ImageError(
            f"{path}: the image has transparency, JPEG cannot hold it; write .png, .webp or .tif"
        )
    pixels: NDArray[np.uint8] = image.frame
    if image.alpha is not None:
        pixels = np.dstack([image.frame, image.alpha])
    options = dict(_SAVE_OPTIONS[kind])
    if image.icc:
        options["icc_profile"] = image.icc
    if image.exif:
        options |= exif_options(image.exif, kind)
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, kind, **options)
    # sides beyond the format's limit, for example; encoders raise RuntimeError
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"{path}: {kind} cannot hold this image ({error}); write another format"
        ) from error
    write_atomically(path, buffer.getvalue())


def format_of(path: Path) -> Format:
    """Return the image format of a path's suffix.

    Raises:
        ImageError: The suffix is of no format that can be written.
    """
    found = FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if found is None:
        raise ImageError(
            f"{path} has the suffix {path.suffix!r}; images are written as "
            f"{', '.join(FORMAT_OF_SUFFIX)}. Rename it"
        )
    return found


def apply_orientation(image: ImageFile) -> Frame:
    """Return the frame as a viewer shows it, with the EXIF orientation applied."""
    if image.exif is None:
        return image.frame
    # a damaged block of metadata turns nothing
    return np.ascontiguousarray(to_display_orientation(image.frame, orientation_of(image.exif)))


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


def _decode(payload: bytes, path: Path) -> ImageFile:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(payload), formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            return _image_file(image, payload, path)
    except MirnetEdgeError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is damaged or another kind of file; {_EXPECTED}. Convert it to one of these"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} is too large to be decoded safely ({error}); cut it into smaller images"
        ) from error
    except Exception as error:  # decoders raise many kinds here, all of them mean "damaged"
        raise ImageError(
            f"{path} is damaged ({error}); {_EXPECTED}. Copy it again from its source"
        ) from error


def _image_file(image: Image.Image, payload: bytes, path: Path) -> ImageFile:
    frames = getattr(image, "n_frames", 1)
    # a phone's MPO is a JPEG whose first image is the photo, with a depth map or preview behind
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"{path} holds {frames} images (animated or several pages); expected one. Split it"
        )
    kind: Format = "JPEG" if image.format == "MPO" else image.format  # type: ignore[assignment]
    exif = exif_of(image)
    # Pillow turns a TIFF while loading and forgets its tag; OpenCV turns it too
    turn = image.getexif().get(ORIENTATION) if kind == "TIFF" else None
    icc: bytes | None = image.info.get("icc_profile") or None
    bits = bits_of(image, payload, path)
    image.load()  # before OpenCV sees it: Pillow says what is wrong with a truncated file
    if bits == 16:
        colors, alpha = pixels_of_16_bits(image, payload, path)
        if icc is not None and _color_space(icc) != b"RGB ":
            icc = None  # a gray profile: its curve is close to sRGB's, and our pixels are RGB
    else:
        colors, alpha, icc = _pixels(image, icc, path)
    return ImageFile(
        frame=to_stored_orientation(colors, turn),
        alpha=None if alpha is None else to_stored_orientation(alpha, turn),
        icc=icc,
        exif=exif,
        format=kind,
        source_bits=bits,
    )


def _pixels(
    image: Image.Image, icc: bytes | None, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, bytes | None]:
    """Return (H, W, 3) RGB, (H, W) alpha or None, and their ICC profile."""
    alpha = None
    # not has_transparency_data, which Pillow has only since 10.1
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    if icc is not None and _color_space(icc) != b"RGB ":
        image, icc = _in_srgb(image, icc), None
    if image.mode in ("LAB", "HSV"):
        raise ImageError(
            f"{path} is in {image.mode} colors; expected gray, RGB or CMYK. Convert it"
        )
    return np.asarray(image.convert("RGB")), alpha, icc


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Return an image with a CMYK or gray profile in sRGB; unchanged where that fails."""
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


def _color_space(icc: bytes) -> bytes:
    return icc[16:20]  # ICC.1:2022, table 17
