"""Which kind of file it is, by its first bytes; only files whose bytes tell nothing by suffix."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from mirnet_edge.dependencies import advice, available
from mirnet_edge.files import describe_download

if TYPE_CHECKING:
    from pathlib import Path

Format = Literal["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"]
"""A format that is written."""
Kind = Literal[
    "PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF", "RAW", "BMP", "GIF", "PPM", "JPEG2000", "ICO"
]
"""A format that is read; RAW is a camera's raw file, the others are Pillow's names."""
READ_ONLY: tuple[Kind, ...] = ("BMP", "GIF", "PPM", "JPEG2000", "ICO")
"""Formats whose results are PNG."""

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
_VIDEO_STARTS = (b"\x1aE\xdf\xa3", b"FLV", b"\0\0\1\xba")  # Matroska, Flash, MPEG-PS
HEAD_BYTES = 64
"""How many of a file's first bytes `recognize` needs."""
RAW_RESULT_SUFFIX = ".tif"
"""The suffix of the result of a camera's raw file, which is TIFF of 16 bits."""

_RAW_SUFFIXES = (
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf",
    ".pef", ".srw", ".x3f", ".rwl", ".iiq", ".3fr", ".fff", ".erf", ".mrw", ".kdc", ".dcr", ".mef",
)  # fmt: skip
_RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# which package reads a kind, where Pillow alone does not
_PACKAGES: dict[Kind, tuple[str, str]] = {
    "HEIF": ("pillow_heif", "HEIC images"), "RAW": ("rawpy", "camera raw files"),
}  # fmt: skip
_READ_ONLY_STARTS: dict[bytes, Kind] = {
    b"GIF8": "GIF", b"\0\0\1\0": "ICO", b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}  # fmt: skip
_PPM = re.compile(rb"P[1-6]\s+[#\d]")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_OTHERS = {
    b"8BPS": "a Photoshop document", b"%PDF": "a PDF",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL": "a JPEG XL image", b"PK\x03\x04": "a ZIP archive",
    b"OggS": "sound", b"qoif": "a QOI image", b"SIMPLE": "a FITS file",
    b"\x76\x2f\x31\x01": "an OpenEXR image", b"#?RADIANCE": "a Radiance HDR image",
}  # fmt: skip


def recognize(head: bytes, path: Path) -> Kind | None:
    """Return the kind of an image file.

    Args:
        head: The file's first `HEAD_BYTES` bytes.
        path: Its name: many cameras' raw files are TIFF files, distinguished by suffix.

    Returns:
        None for what is no image that can be read.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(_RAW_STARTS) or head[6:14] == b"HEAPCCDR":
        return "RAW"
    if head.startswith(_TIFF_STARTS):
        is_raw = head[8:10] == b"CR" or path.suffix.lower() in _RAW_SUFFIXES
        return "RAW" if is_raw else "TIFF"
    return _read_only_kind(head) or _brand_of(head)


def _read_only_kind(head: bytes) -> Kind | None:
    """Return the kind of a file whose result is PNG; None of others."""
    for start, kind in _READ_ONLY_STARTS.items():
        if head.startswith(start):
            # an MPEG stream may begin like an icon: those have few images, and a reserved 0
            return kind if kind != "ICO" or (0 < head[4] < 64 and head[5] == head[9] == 0) else None
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return "PPM" if _PPM.match(head) else None


def _brand_of(head: bytes) -> Kind | None:
    """Return the kind of a file of ISO media boxes: AVIF, HEIF, Canon's CR3; None for videos."""
    if head[4:8] != b"ftyp":
        return None
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))}
    if b"crx " in brands:
        return "RAW"
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    heif = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
    return "HEIF" if brands & heif else None


def missing_package(kind: Kind) -> str | None:
    """Return what to install to read a kind; None where it can be read."""
    if kind not in _PACKAGES or available(_PACKAGES[kind][0]):
        return None
    package, title = _PACKAGES[kind]
    return f"{title} need the package {package}, which is not installed: {advice(package)}"


def why_left_out(path: Path) -> str | None:
    """Return why a file is not among the images of its folder; None for an image."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    kind = recognize(head, path)
    if kind is not None:
        return missing_package(kind)
    if path.suffix.lower() in FORMAT_OF_SUFFIX:
        return None  # damaged or empty: reading it says more
    return _describe(head)


def is_video_content(path: Path) -> bool:
    """Return whether a file begins as those of a common video container do."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    if recognize(head, path) is not None:
        return False
    is_mp4 = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
    is_avi = head.startswith(b"RIFF") and head[8:12] == b"AVI "
    return is_mp4 or is_avi or head.startswith(_VIDEO_STARTS)


def _describe(head: bytes) -> str:
    """Return what a file is that is no image."""
    if not head:
        return "empty"
    what = describe_other(head)
    if what is None:
        return "no image"
    return f"{what}; convert it to PNG" if "image" in what else what


def describe_other(head: bytes) -> str | None:
    """Return what a file is that is no image which is read; None where that is unknown.

    Args:
        head: The file's first `HEAD_BYTES` bytes.
    """
    for start, what in _OTHERS.items():
        if head.startswith(start):
            return what
    return describe_download(head)
