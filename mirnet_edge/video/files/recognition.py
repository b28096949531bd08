"""Recognize video files by what they begin with; their suffix decides where that says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.images.kinds import is_video_content, why_left_out

if TYPE_CHECKING:
    from pathlib import Path

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".qt", ".3gp", ".3g2", ".f4v", ".webm", ".avi", ".divx", ".mpg",
    ".mpeg", ".m1v", ".m2v", ".mpv", ".vob", ".mod", ".tod", ".ts", ".trp", ".m2ts", ".mts", ".m2t",
    ".wmv", ".asf", ".flv", ".ogv", ".rm", ".rmvb", ".dv", ".mxf", ".wtv", ".nut", ".ivf", ".y4m",
    ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg", ".obu",
)  # fmt: skip
"""Of files that are treated as videos where their content says nothing else."""

_HEAD_BYTES = 4096
_STARTS = (
    b"\0\0\1\xb3",  # MPEG-1 and MPEG-2 video
    b"\0\0\1\xb0",  # MPEG-4 video
    b"0&\xb2u\x8ef\xcf\x11",  # Windows Media
    b"YUV4MPEG2",
    b"nut/multimedia container",
    b"DKIF",  # IVF
    b".RMF",  # RealMedia
    b"\x12\0\x0a",  # AV1 without a container
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
    b"\x1f\x07\0",  # DV
    b"\xb7\xd8\0 7I\xdaC",  # WTV
)
_OGG_VIDEO = (b"\x80theora", b"BBCD", b"\x01video", b"OVP80")
_TS_PACKET, _M2TS_PACKET = 188, 192
_ANNEX_B = b"\0\0\0\1"
_H264_STARTS = (7, 9, 6)  # sequence parameters, delimiter, SEI
_HEVC_STARTS = (32, 35, 39)
_TEXT_TOO = (".ts", ".mod", ".rm", ".dv", ".nut")
"""Of videos and of programs' sources, too: TypeScript, Go's modules."""
_CONCATENATED_JPEG = (".mjpeg", ".mjpg")


def is_video(path: Path) -> bool:
    """Return whether a file is a video: by its first bytes, and by its suffix where they are none.

    An image that is named as a video is none; a GIF is one where it is animated.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        head = b""
    if head.startswith(b"GIF8"):
        return _is_animated(path)
    suffix = path.suffix.lower()
    if suffix in _TEXT_TOO and _is_text(head):
        return False
    if is_video_content(path) or _begins_as_video(head) or suffix in _CONCATENATED_JPEG:
        return True
    return suffix in VIDEO_SUFFIXES and why_left_out(path) is not None


def _begins_as_video(head: bytes) -> bool:
    return (
        head.startswith(_STARTS)
        or (head.startswith(b"OggS") and any(codec in head for codec in _OGG_VIDEO))
        or _is_transport_stream(head)
        or _is_annex_b(head)
    )


def _is_text(head: bytes) -> bool:
    """Return whether there are no bytes that text does not have."""
    return bool(head) and not any(byte < 9 or 13 < byte < 27 for byte in head)


def _is_transport_stream(head: bytes) -> bool:
    """Return whether packets of MPEG transport begin at equal distances."""
    for first, distance in ((0, _TS_PACKET), (4, _M2TS_PACKET)):
        marks = head[first::distance]
        if len(marks) > 4 and set(marks) == set(b"G"):
            return True
    return False


def _is_annex_b(head: bytes) -> bool:
    """Return whether it is an H.264 or HEVC stream without a container."""
    if not head.startswith(_ANNEX_B) or len(head) < len(_ANNEX_B) + 2:
        return False
    first = head[len(_ANNEX_B)]
    is_hevc = (first >> 1) & 0x3F in _HEVC_STARTS and head[len(_ANNEX_B) + 1] == 1
    return first & 0x1F in _H264_STARTS or is_hevc


def _is_animated(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return False
