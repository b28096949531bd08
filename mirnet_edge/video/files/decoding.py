"""Decode videos with PyAV: the reader of video files, conversion to RGB by color metadata."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import VideoError
from mirnet_edge.video.frames import ColorTags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction
    from pathlib import Path

    from av import Packet
    from av import VideoFrame as Decoded
    from av.container import InputContainer
    from av.video.plane import VideoPlane
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import Matrix, Range

logger = logging.getLogger(__name__)


@dataclass
class DecodingDamage:
    """The damaged parts of a video, which could not be decoded."""

    packets: int = 0
    """Packets that the decoder rejected."""
    reason: str = ""
    """Why reading ended early; empty where it reached the end."""


class VideoReader:
    """Reads a video file while its context is open.

    Damaged packets do not raise: they are skipped, and counted in `damage`.
    """

    def __init__(self, path: Path) -> None:
        """Store the path."""
        self.path = path
        self.damage = DecodingDamage()
        self._container: InputContainer | None = None

    def __enter__(self) -> VideoReader:
        av = require("av", "reading video")
        self.damage = DecodingDamage()
        with convert_open_errors(self.path):
            # undecodable metadata does not make a video unreadable
            self._container = av.open(str(self.path), metadata_errors="replace")
        if not self.container.streams.video:
            self.container.close()
            raise VideoError(f"{self.path} has no video stream; choose a video file")
        self.stream.thread_type = "AUTO"
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def container(self) -> InputContainer:
        """Return PyAV's container.

        Raises:
            VideoError: Used outside `with`.
        """
        if self._container is None:
            raise VideoError(f"{self.path} is not open: expected `with reader:` around its use")
        return self._container

    @property
    def stream(self) -> VideoStream:
        """Return the first video stream."""
        return self.container.streams.video[0]

    @property
    def frame_count(self) -> int:
        """Return the number of frames in the header, 0 where it has none."""
        return int(self.stream.frames)

    @property
    def rate(self) -> Fraction | None:
        """Return the average frame rate, None where that is unknown."""
        return self.stream.average_rate or self.stream.guessed_rate or None

    @property
    def duration_s(self) -> float | None:
        """Return the duration in the header in seconds, None where it has none."""
        stream, container = self.stream, self.container
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6

    def packets(self, *others: Any) -> Iterator[Packet[Any]]:  # noqa: ANN401  # streams of any kind
        """Yield the packets of the video stream and of other streams, in the file's order."""
        av = require("av", "reading video")
        try:
            yield from self.container.demux(self.stream, *others)
        except av.FFmpegError as error:
            self.damage.reason = ffmpeg_reason(error)

    def decode(self, packet: Packet[Any]) -> list[Decoded]:
        """Return the frames that a video packet completes; none where it is damaged."""
        av = require("av", "reading video")
        try:
            return list(packet.decode())  # the last, empty one flushes
        except av.error.EOFError:
            return []
        except av.FFmpegError as error:
            self.damage.packets += 1
            logger.debug("%s: a packet was not decoded: %s", self.path, error)
            return []

    def shortfall(self, frames: int) -> str:
        """Return in one line what is missing after FRAMES frames; empty where nothing is."""
        reason = f" ({self.damage.reason})" if self.damage.reason else ""
        if frames < self.frame_count:
            return (
                f"{self.path}: expected {self.frame_count} frames by its header, found {frames} "
                f"that can be decoded{reason}; the file is damaged or truncated, and the result "
                "ends there"
            )
        if self.damage.packets or reason:
            return (
                f"{self.path}: {frames} frames could be decoded, {self.damage.packets} packets "
                f"could not{reason}; the file is damaged, and the result lacks those"
            )
        return ""


@contextmanager
def convert_open_errors(place: object) -> Iterator[None]:
    """Convert PyAV's errors on opening PLACE to a `VideoError`.

    Raises:
        VideoError: It cannot be opened.
    """
    av = require("av", "reading video")
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{place} cannot be opened as video: {ffmpeg_reason(error)}. Check its name, its "
            "permissions and that it is a video"
        ) from error


def ffmpeg_reason(error: BaseException) -> str:
    """Return FFmpeg's message without error number and file name."""
    return str(getattr(error, "strerror", None) or error)


# code points of ITU-T H.273, which FFmpeg uses too
_MATRIX_OF: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
SWSCALE_MATRIX: dict[Matrix, int] = {"bt709": 1, "bt601": 5, "bt2020": 9}
SWSCALE_RANGE: dict[Range, int] = {"limited": 1, "full": 2}
_FULL = SWSCALE_RANGE["full"]
_HD_LINES = 720


def exact_conversion_flags() -> int:
    """Return swscale's flags for conversions that are exact to 2 levels.

    The default ones darken by 1 level on average and by up to 3, which a network that brightens
    dark frames amplifies. The exact ones take 4 ms for a 720p frame instead of 1 (one thread,
    2026-11).
    """
    from av.video.reformatter import Interpolation as Flag

    return int(Flag.BILINEAR | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INP | Flag.FULL_CHR_H_INT)


def read_color_tags(frame: Decoded) -> ColorTags:
    """Return a decoded frame's color metadata.

    Where the stream has none, the matrix follows from its size, as in players: BT.709 from 720
    lines, BT.601 below; and the range is limited.
    """
    # the shorter side: portrait videos follow the same rule as landscape ones
    lines = min(frame.width, frame.height)
    guess: Matrix = "bt709" if lines >= _HD_LINES else "bt601"
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    if frame.format.is_rgb:
        full = False  # no luma here; the output is limited, as players expect
    return ColorTags(
        matrix=_MATRIX_OF.get(int(frame.colorspace), guess),
        range="full" if full else "limited",
        transfer=int(frame.color_trc),
        primaries=int(frame.color_primaries),
    )


class RgbDecoder:
    """Converts decoded frames to RGB. Thread-safe."""

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        """Create a decoder.

        Args:
            size: (height, width) to scale to; None for their own.
        """
        require("av", "reading video")
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._lock = threading.Lock()  # the reformatter caches its tables
        self._size = size
        self._flags = exact_conversion_flags()

    def pixels(self, frame: Decoded) -> Frame:
        """Return a frame as (H, W, 3) uint8 RGB, contiguous, not rotated."""
        import cv2

        color = read_color_tags(frame)
        height, width = self._size or (frame.height, frame.width)
        with self._lock:
            planar = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="gbrp",  # equal to rgb24, to 1 level at odd sides, in 0.6 times the time
                src_colorspace=SWSCALE_MATRIX[color.matrix],
                src_color_range=_FULL if frame.format.is_rgb else SWSCALE_RANGE[color.range],
                dst_color_range=_FULL,
                interpolation=self._flags,
            )
        green, blue, red = (_plane_array(plane)[:, :width] for plane in planar.planes)
        return np.asarray(cv2.merge([red, green, blue]), np.uint8)


def _plane_array(plane: VideoPlane) -> NDArray[np.uint8]:
    """Return a plane as (rows, bytes per row with padding), without a copy."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def rotate_upright(pixels: Frame, rotation: int) -> Frame:
    """Return pixels rotated counterclockwise by ROTATION degrees, as players show them."""
    rotated: Frame = np.ascontiguousarray(np.rot90(pixels, round(rotation / 90) % 4))
    return rotated
