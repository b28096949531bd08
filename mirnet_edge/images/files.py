"""Read and write image files: pixels of 8 or 16 bits, gray or RGB, alpha, profile, metadata.

What the file holds beside its pixels is written as it was read. Pixels are never rotated: the
orientation tag is kept.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import ImageError, MirnetEdgeError, MissingDependencyError
from mirnet_edge.files import write_atomically
from mirnet_edge.images import sixteen_bits
from mirnet_edge.images.animation import ANIMATED, read_animation, save_options
from mirnet_edge.images.colors import color_space, has_gray_palette, rgb_pixels
from mirnet_edge.images.companions import companions
from mirnet_edge.images.contract import LUMA
from mirnet_edge.images.gray_profiles import gray_curve
from mirnet_edge.images.huge import check_memory, without_size_limit
from mirnet_edge.images.jpeg_damage import is_damaged
from mirnet_edge.images.jpeg_tail import with_end_marker
from mirnet_edge.images.kinds import (
    FORMAT_OF_SUFFIX,
    HEAD_BYTES,
    READ_ONLY,
    Format,
    Kind,
    describe_other,
    recognize,
)
from mirnet_edge.images.metadata import (
    Metadata,
    essential_png,
    has_png_end,
    heif_bits,
    is_lossless_webp,
    metadata_of,
    png_profile,
    renew_exif,
    tiff_metadata,
    with_jpeg_segments,
    with_png_chunks,
)
from mirnet_edge.images.orientation import (
    EXIF_PREFIX,
    ORIENTATION,
    describe_tags,
    exif_of,
    orientation_of,
    to_display_orientation,
    to_stored_orientation,
)
from mirnet_edge.images.tiff import encode_tiff
from mirnet_edge.images.tiff_samples import UNSIGNED, read_main_pages

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from mirnet_edge.images.animation import Animation
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.images.tiff_samples import TiffPage

logger = logging.getLogger(__name__)

_EXPECTED = "expected a PNG, JPEG, WebP, TIFF, AVIF, HEIC, BMP, JPEG 2000 or camera raw image"
_SAVE_OPTIONS: dict[Format, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4
    "WEBP": {"quality": 95, "exact": True},  # exact: colors under full transparency stay
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 90, "chroma": 444},
}
_DEEP_FORMATS = ("PNG", "TIFF")  # which hold 16 bits per channel
_GRAY_FORMATS = ("PNG", "JPEG", "TIFF")  # which hold gray, with alpha too
_OPAQUE_GRAY_FORMATS = ("AVIF", "HEIF")
_OPAQUE = 255
_LACKS_END = "%s lacks its end marker; all its pixels are there, and it is read"
_DAMAGED_INSIDE = (
    "%s is damaged: some of its pixels are wrong or missing, the others are restored. Copy it "
    "again from its source where you can"
)
_GRAY_MODES = ("1", "L", "LA", "La")


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A decoded image file."""

    frame: Frame
    """(H, W, 3) uint8 RGB, as stored: not turned by the orientation tag."""
    deep: NDArray[np.uint16] | None = None
    """The same pixels with 16 bits per channel, (H, W, 3); None where the file has 8 and no gray
    profile."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W), 0 transparent to 255 opaque; None where the file has no transparency."""
    deep_alpha: NDArray[np.uint16] | None = None
    """The same with 16 bits; None where the file has 8 or no transparency."""
    gray: bool = False
    """Whether the file has one channel of color, and the result too; `frame` has three."""
    icc: bytes | None = None
    """RGB color profile."""
    gray_icc: bytes | None = None
    """Color profile of a gray file. `frame` and `deep` are sRGB; a gray result is written in it."""
    exif: bytes | None = None
    """A TIFF block, without the "Exif" marker some formats put before it."""
    metadata: Metadata = field(default_factory=Metadata)
    format: Format = "PNG"
    """Of the file it came from; TIFF for a camera's raw file."""
    source_bits: Literal[8, 16] = 8
    """Bits per channel of that file."""
    is_lossless: bool = False
    """Whether it is a WebP that keeps every level; as a WebP, the result does, too."""
    animation: Animation | None = None
    """The further frames of an animated file."""


def read_image(path: Path) -> ImageFile:
    """Return an image file's content, of the kind that its bytes say, whatever its name.

    Colors of a CMYK or gray profile are converted to sRGB. A JPEG or PNG that lacks only its end
    marker is read, which is logged.

    Raises:
        ImageError: Missing, empty, no image, truncated, too large, of several pages, or of a kind
            that is not supported or needs a package that is not installed.
    """
    payload = _payload(path)
    # Pillow warns about odd metadata; what matters of it is checked here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(payload, path)


def write_image(path: Path, image: ImageFile) -> None:
    """Write an image in the format of the path's suffix, atomically.

    PNG and TIFF hold `deep`, gray and all metadata; others what they can. JPEG is written at
    quality 95 without chroma subsampling, WebP at 95, AVIF and HEIC at 90. An EXIF thumbnail is
    made anew. Of an animation the other formats than WebP, AVIF and PNG get the first frame, which
    is logged.

    Raises:
        ImageError: The suffix names no format we write, or the format cannot hold the image.
        MirnetEdgeError: The folder cannot be written.
    """
    kind = format_of(path)
    if image.alpha is not None and kind == "JPEG":
        if image.alpha.min() < _OPAQUE:
            raise ImageError(
                f"{path}: the image has transparency, JPEG cannot hold it; write .png, .webp or "
                ".tif"
            )
        image = replace(image, alpha=None, deep_alpha=None)
    if image.exif:
        image = replace(image, exif=renew_exif(image.exif, image.frame))
    if image.animation is not None and kind not in ANIMATED:
        logger.warning(
            "%s has %d frames, %s holds one: the first is written", path,
            1 + len(image.animation.frames), kind,
        )  # fmt: skip
    try:
        payload = _encode(kind, image)
    except MissingDependencyError as error:
        raise ImageError(f"{path} cannot be written: {error}") from error
    except ImageError:
        raise
    # sides beyond the format's limit, for example; encoders raise RuntimeError
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"{path}: {kind} cannot hold this image ({error}); write another format"
        ) from error
    write_atomically(path, payload)


def _encode(kind: Format, image: ImageFile) -> bytes:
    """Return an image as a file of that format."""
    image = _in_gray_profile(kind, image)
    pixels = _channels(kind, image)
    if kind == "TIFF":
        return encode_tiff(pixels, exif=image.exif, icc=image.icc, metadata=image.metadata)
    if pixels.dtype == np.uint16:
        deep = sixteen_bits.encode_png(pixels, icc=image.icc, exif=image.exif)
        return with_png_chunks(deep, image.metadata)
    payload = _encode_by_pillow(kind, image, pixels)
    if kind == "PNG":
        return with_png_chunks(payload, image.metadata)
    if kind == "JPEG":
        return with_jpeg_segments(payload, image.metadata)
    return payload


def _encode_by_pillow(kind: Format, image: ImageFile, pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    if kind == "HEIF":
        require("pillow_heif", "writing HEIC").register_heif_opener()
    options = dict(_SAVE_OPTIONS[kind])
    if kind == "WEBP" and image.is_lossless:
        options["lossless"] = True
    if kind == "AVIF" and pixels.shape[2] == 1:
        options["subsampling"] = "4:0:0"
    if image.icc:
        options["icc_profile"] = image.icc
    if image.exif:
        options["exif"] = EXIF_PREFIX + image.exif if kind == "JPEG" else image.exif
    if image.metadata.xmp and kind in ("WEBP", "AVIF", "HEIF"):
        options["xmp"] = image.metadata.xmp
    if image.animation is not None and kind in ANIMATED:
        options |= save_options(image.animation, kind, channels=pixels.shape[2])
    if image.metadata.dpi and kind == "JPEG":
        options["dpi"] = tuple(round(one) for one in image.metadata.dpi)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def _is_written_gray(kind: Format, image: ImageFile) -> bool:
    """Return whether an image is written with one channel of color."""
    if image.alpha is None:
        return image.gray and kind in (*_GRAY_FORMATS, *_OPAQUE_GRAY_FORMATS)
    # few programs, and Pillow not, read a TIFF of gray with alpha in 16 bits
    is_unread = kind == "TIFF" and image.deep is not None
    return image.gray and kind in _GRAY_FORMATS and not is_unread


def _in_gray_profile(kind: Format, image: ImageFile) -> ImageFile:
    """Return an image in the levels of its gray profile where it is written gray; others as is."""
    curve = gray_curve(image.gray_icc)
    if curve is None:
        return image
    has_16_bits = image.source_bits == 16
    levels = curve.from_srgb(_wide(image))
    image = replace(image, deep=image.deep if has_16_bits else None)
    if not _is_written_gray(kind, image):
        return image
    return replace(
        image, frame=sixteen_bits.to_8_bits(levels), deep=levels if has_16_bits else None,
        icc=image.gray_icc,
    )  # fmt: skip


def _wide(image: ImageFile) -> NDArray[np.uint16]:
    return sixteen_bits.widen(image.frame) if image.deep is None else image.deep


def _channels(kind: Format, image: ImageFile) -> NDArray[Any]:
    """Return (H, W, C), what the format holds of an image: gray or RGB, alpha, 8 or 16 bits."""
    # an animated PNG is written with 8 bits
    deep = image.deep if kind in _DEEP_FORMATS and image.animation is None else None
    colors: NDArray[Any] = image.frame if deep is None else deep
    if _is_written_gray(kind, image):
        colors = to_gray(colors)[..., :1]
    if image.alpha is None and not _has_later_alpha(image, kind):
        return colors
    if image.alpha is None:
        return np.dstack([colors, np.full(colors.shape[:2], _OPAQUE, colors.dtype)])
    if deep is None:
        return np.dstack([colors, image.alpha])
    wide = sixteen_bits.widen(image.alpha) if image.deep_alpha is None else image.deep_alpha
    return np.dstack([colors, wide])


def _has_later_alpha(image: ImageFile, kind: Format) -> bool:
    """Return whether a later frame of an animation has alpha; then all are written with it."""
    frames = () if image.animation is None or kind not in ANIMATED else image.animation.frames
    return any(one.alpha is not None for one in frames)


def to_gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W, 3) pixels of any integer type with the brightness in all three channels."""
    gray = np.empty(pixels.shape[:2], pixels.dtype)
    # floats of all pixels at once would take more memory than all else
    for top in range(0, len(pixels), _GRAY_ROWS):
        rows = slice(top, top + _GRAY_ROWS)
        gray[rows] = np.rint(pixels[rows] @ LUMA)
    return gray[..., None].repeat(3, axis=2)


_GRAY_ROWS = 256


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


def result_name(path: Path) -> str:
    """Return the name of the result of an image file: its own where that names a format.

    A raw file's result is a TIFF, that of a BMP, GIF, PPM, JPEG 2000 or icon a PNG; that of a file
    whose suffix names no format has the suffix of its content added.
    """
    if path.suffix.lower() in FORMAT_OF_SUFFIX:
        return path.name
    try:
        with path.open("rb") as file:
            kind = recognize(file.read(HEAD_BYTES), path)
    except OSError:
        return path.name
    if kind is None:
        return path.name
    suffix = next(one for one, name in FORMAT_OF_SUFFIX.items() if name == _written_as(kind))
    replaces = kind in ("RAW", *READ_ONLY) and path.suffix
    return path.with_suffix(suffix).name if replaces else path.name + suffix


def _written_as(kind: Kind) -> Format:
    if kind == "RAW":
        return "TIFF"
    return "PNG" if kind in READ_ONLY else cast("Format", kind)


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

    kind = recognize(payload[:HEAD_BYTES], path)
    if kind is None:
        what = describe_other(payload[:HEAD_BYTES]) or "damaged or another kind of file"
        raise ImageError(f"{path} is {what}; {_EXPECTED}. Convert it to one of these")
    try:
        if kind == "RAW":
            return _decode_raw(payload)
        try:
            return _decode_kind(payload, kind, path)
        except Image.DecompressionBombError:
            with without_size_limit():
                check_memory(payload, kind, path)
                return _decode_kind(payload, kind, path)
    except MissingDependencyError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    except MirnetEdgeError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is damaged: its {kind} header cannot be read; {_EXPECTED}. Copy it again "
            "from its source"
        ) from error
    except Exception as error:  # decoders raise many kinds here, all of them mean "damaged"
        reason = " ".join(str(error).split())
        raise ImageError(
            f"{path} is damaged ({reason}); {_EXPECTED}. Copy it again from its source"
        ) from error


def _decode_kind(payload: bytes, kind: Kind, path: Path) -> ImageFile:
    """Decode what Pillow reads; a JPEG again, completed, where its end is missing."""
    from PIL import features

    if kind == "HEIF":
        require("pillow_heif", "reading HEIC images").register_heif_opener()
    if kind == "AVIF" and not features.check("avif"):
        raise ImageError(
            f"{path} is an AVIF image; reading it needs Pillow 11.3 or newer: "
            "pip install --upgrade pillow"
        )
    try:
        decoded = _decode_payload(payload, kind, path)
    except OSError:
        completed = with_end_marker(payload) if kind == "JPEG" else None
        if completed is None:
            raise
        decoded = _decode_payload(completed, kind, path)
        logger.warning(_LACKS_END, path)
    else:
        if kind == "JPEG" and is_damaged(payload):
            logger.warning(_DAMAGED_INSIDE, path)
    if kind == "PNG" and not has_png_end(payload):
        logger.warning(_LACKS_END, path)
    return decoded


def _decode_payload(payload: bytes, kind: Kind, path: Path) -> ImageFile:
    from PIL import Image, UnidentifiedImageError

    page = _main_page(payload, path) if kind == "TIFF" else None
    if page is not None and (page.bits > 8 or page.sample_format != UNSIGNED):
        return _decode_tiff_samples(payload, page, path)
    readable = essential_png(payload) if kind == "PNG" else payload
    try:
        opened = Image.open(io.BytesIO(readable), formats=(kind,))
    except UnidentifiedImageError:
        if page is None:
            raise
        return _decode_tiff_samples(payload, page, path)
    with opened as image:
        if page is not None:
            image.seek(page.number)
        else:
            _check_single(image, path)
        loss = _lost_in_decoding(image, payload, kind)
        for line in (*filter(None, [loss]), *companions(payload, kind)):
            logger.warning("%s %s", path, line)
        profile = png_profile(payload) if kind == "PNG" else image.info.get("icc_profile")
        read = _image_file(image, payload, kind, read_animation(image), profile or None)
    return _with_gray_profile(read, profile, path)


def _lost_in_decoding(image: Image.Image, payload: bytes, kind: Kind) -> str:
    """Return what 8-bit RGB lacks of a file, in words; empty where it is nothing."""
    if image.mode in ("CMYK", "LAB"):
        return f"has {image.mode} colors; they are converted to RGB"
    bits = heif_bits(payload) if kind in ("AVIF", "HEIF") else 8
    if kind == "PNG" and getattr(image, "is_animated", False):
        bits = sixteen_bits.png_bits(payload)
    return f"has {bits} bits per channel; 8 of them are read" if bits > 8 else ""


def _main_page(payload: bytes, path: Path) -> TiffPage:
    """Return the one page of a TIFF that is no reduced copy or mask of another.

    Raises:
        ImageError: There are several.
        OSError: It is damaged.
    """
    pages = read_main_pages(payload)
    if len(pages) != 1:
        raise _several(path, len(pages))
    return pages[0]


def _several(path: Path, count: int) -> ImageError:
    return ImageError(f"{path} holds {count} images (pages); expected one. Split it")


def _decode_tiff_samples(payload: bytes, page: TiffPage, path: Path) -> ImageFile:
    """Decode a TIFF that Pillow does not read, or with fewer bits than it has."""
    from PIL import Image

    exif, metadata, icc = _beside_tiff_samples(payload, page)
    try:
        decoded = sixteen_bits.decode_tiff(payload, page)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    if decoded.loss:
        logger.warning("%s %s", path, decoded.loss)
    colors, alpha = decoded.colors, decoded.alpha
    is_gray = colors.shape[2] == 1
    deep: NDArray[np.uint16] | None = None
    if colors.shape[2] == 4:
        logger.warning(
            "%s has CMYK colors of %d bits; they are converted to RGB of 8", path, page.bits
        )
        image = Image.fromarray(sixteen_bits.to_8_bits(colors), "CMYK")
        frame, _, icc = rgb_pixels(image, icc)
    else:
        wide = colors.repeat(3, axis=2) if is_gray else colors
        frame = sixteen_bits.to_8_bits(wide)
        deep = wide if page.bits > 8 else None
    read = ImageFile(
        frame=frame,
        deep=deep,
        alpha=None if alpha is None else sixteen_bits.to_8_bits(alpha),
        deep_alpha=None if deep is None else alpha,
        gray=is_gray,
        icc=_rgb_profile(icc),
        exif=exif,
        metadata=metadata,
        format="TIFF",
        source_bits=8 if deep is None else 16,
    )
    return _with_gray_profile(read, icc, path)


def _beside_tiff_samples(
    payload: bytes, page: TiffPage
) -> tuple[bytes | None, Metadata, bytes | None]:
    """Return the EXIF block, metadata and profile of a page, which Pillow may not open."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(payload), formats=("TIFF",)) as image:
            image.seek(page.number)
            return exif_of(image), metadata_of(image, payload), image.info.get("icc_profile")
    except (UnidentifiedImageError, OSError):
        tags = Image.Exif()
        tags.load(payload)
    described = describe_tags(tags)
    profile = tags.get(_ICC_TAG)
    exif = described.tobytes().removeprefix(EXIF_PREFIX) if len(described) else None
    return exif, tiff_metadata(tags), profile if isinstance(profile, bytes) else None


_ICC_TAG = 34675


def _rgb_profile(icc: bytes | None) -> bytes | None:
    return icc if icc is not None and color_space(icc) == b"RGB " else None


def _with_gray_profile(read: ImageFile, profile: bytes | None, path: Path) -> ImageFile:
    """Return an image whose pixels are in the levels of a gray profile in sRGB; others as is."""
    curve = gray_curve(profile) if read.gray else None
    if curve is None:
        if profile is not None and read.gray and read.icc is None:
            logger.warning("%s has a color profile without a gray curve; it is not kept", path)
        return read
    animation = read.animation
    if animation is not None:  # its frames have 8 bits, and are written in sRGB
        frames = [
            replace(one, frame=sixteen_bits.to_8_bits(curve.to_srgb(sixteen_bits.widen(one.frame))))
            for one in animation.frames
        ]
        animation = replace(animation, frames=tuple(frames))
    deep = curve.to_srgb(_wide(read))
    return replace(
        read, frame=sixteen_bits.to_8_bits(deep), deep=deep if animation is None else None,
        animation=animation, gray_icc=profile if animation is None else None,
    )  # fmt: skip


def _image_file(
    image: Image.Image,
    payload: bytes,
    kind: Kind,
    animation: Animation | None,
    icc: bytes | None,
) -> ImageFile:
    from PIL import Image

    exif = exif_of(image)
    # Pillow turns a TIFF while loading and forgets its tag; OpenCV turns it too
    turn = image.getexif().get(ORIENTATION) if kind == "TIFF" else None
    is_deep_png = kind == "PNG" and animation is None
    bits = sixteen_bits.png_bits(payload) if is_deep_png else 8
    metadata = metadata_of(image, payload)
    image.load()  # before OpenCV sees it: Pillow says what is wrong with a truncated file
    deep = deep_alpha = None
    if bits == 16:
        deep, deep_alpha, gray = sixteen_bits.decode_png(image, payload)
        colors = sixteen_bits.to_8_bits(deep)
        alpha = None if deep_alpha is None else sixteen_bits.to_8_bits(deep_alpha)
    else:
        if image.mode.startswith("I"):  # 16 bits, of PPM and JPEG 2000
            levels = np.asarray(image).clip(0, 65535).astype(np.uint16)
            deep, bits = levels[..., None].repeat(3, axis=2), 16
            image = Image.fromarray(sixteen_bits.to_8_bits(levels))
        gray = image.mode in _GRAY_MODES or has_gray_palette(image)
        # the levels of a gray profile are converted later, and back when they are written
        converted = None if gray and gray_curve(icc) is not None else icc
        colors, alpha, icc = rgb_pixels(image, converted)
    stored = [
        None if one is None else to_stored_orientation(one, turn)
        for one in (deep, alpha, deep_alpha)
    ]
    return ImageFile(
        frame=to_stored_orientation(colors, turn),
        deep=stored[0],
        alpha=stored[1],
        deep_alpha=stored[2],
        gray=gray,
        icc=_rgb_profile(icc),
        exif=exif,
        metadata=metadata,
        format=_written_as(kind),
        source_bits=bits,
        is_lossless=kind == "WEBP" and is_lossless_webp(payload),
        animation=animation,
    )


def _check_single(image: Image.Image, path: Path) -> None:
    """Refuse a file of several images.

    Raises:
        ImageError: It is one.
    """
    frames = getattr(image, "n_frames", 1)
    # a phone's MPO is a JPEG whose first image is the photo, with a depth map or preview behind;
    # HEIF names its main image, the others are of a burst
    if frames > 1 and image.format not in ("MPO", "HEIF", *ANIMATED):
        raise _several(path, frames)


def _decode_raw(payload: bytes) -> ImageFile:
    """Develop a raw file: 16 bits, sRGB, white balance as shot, turned for display."""
    from PIL import Image

    library = require("rawpy", "reading camera raw files")
    with library.imread(io.BytesIO(payload)) as raw:
        deep = np.asarray(raw.postprocess(output_bps=16, use_camera_wb=True), np.uint16)
    tags = Image.Exif()
    exif = None
    if payload[:4] in (b"II*\0", b"MM\0*"):  # most raw files are TIFF files
        try:
            tags.load(payload)
            described = describe_tags(tags)
            described[ORIENTATION] = 1
            exif = described.tobytes().removeprefix(EXIF_PREFIX)
        except Exception:  # noqa: BLE001  # parsers raise many kinds here
            exif = None
    return ImageFile(
        frame=sixteen_bits.to_8_bits(deep),
        deep=np.ascontiguousarray(deep),
        exif=exif,
        format="TIFF",
        source_bits=16,
    )
