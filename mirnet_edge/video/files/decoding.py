"""Decoding videos with PyAV: RGB by the stream's own color matrix and range."""

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

# numbers of ITU-T H.273, which FFmpeg uses too
_MATRIX_OF: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
SWSCALE_MATRIX: dict[Matrix, int] = {"bt709": 1, "bt601": 5, "bt2020": 9}
SWSCALE_RANGE: dict[Range, int] = {"limited": 1, "full": 2}
_FULL = SWSCALE_RANGE["full"]
_HD_LINES = 720


def exact_conversion_flags() -> int:
    """Return swscale's flags for conversions that are right to 2 levels.

    Its fast ones darken by 1 level on average and by 3 at most, which a network that brightens
    night multiplies. They cost 4 ms for a 720p frame rather than 1 (one thread, 2026-11).
    """
    from av.video.reformatter import Interpolation as Flag

    return int(Flag.BILINEAR | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INP | Flag.FULL_CHR_H_INT)


def color_of(frame: Decoded) -> ColorTags:
    """Return how a decoded frame is coded.

    Where the stream does not say, the matrix is that of its size, as players assume: 709 from 720
    lines up, 601 below; and the range is limited.
    """
    # Matroska and PyAV put the shorter side upright; the larger of a portrait's sides counts too
    lines = min(frame.width, frame.height)
    guess: Matrix = "bt709" if lines >= _HD_LINES else "bt601"
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    if frame.format.is_rgb:
        full = False  # it has no luma; what is written from it is limited, as players expect
    return ColorTags(
        matrix=_MATRIX_OF.get(int(frame.colorspace), guess),
        range="full" if full else "limited",
        transfer=int(frame.color_trc),
        primaries=int(frame.color_primaries),
    )


class RgbDecoder:
    """Turns decoded frames into RGB pixels. For any thread; they take turns."""

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        """Say of what size frames shall be.

        Args:
            size: (height, width) to scale to; None for their own.
        """
        require("av", "reading video")
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._turn = threading.Lock()  # the reformatter keeps its tables from frame to frame
        self._size = size
        self._flags = exact_conversion_flags()

    def pixels(self, frame: Decoded) -> Frame:
        """Return a frame as (H, W, 3) uint8 RGB, contiguous, as it is stored: not rotated."""
        import cv2

        color = color_of(frame)
        height, width = self._size or (frame.height, frame.width)
        with self._turn:
            planar = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="gbrp",  # what rgb24 gives, to 1 level at odd sides, in 0.6 times the time
                src_colorspace=SWSCALE_MATRIX[color.matrix],
                src_color_range=_FULL if frame.format.is_rgb else SWSCALE_RANGE[color.range],
                dst_color_range=_FULL,
                interpolation=self._flags,
            )
        green, blue, red = (_plane(one)[:, :width] for one in planar.planes)
        return np.asarray(cv2.merge([red, green, blue]), np.uint8)


def _plane(plane: VideoPlane) -> NDArray[np.uint8]:
    """Return (rows, bytes of a row, padding included) without a copy."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def rotate_upright(pixels: Frame, rotation: int) -> Frame:
    """Return pixels turned counterclockwise by ROTATION degrees, as a viewer shows them."""
    turned: Frame = np.ascontiguousarray(np.rot90(pixels, round(rotation / 90) % 4))
    return turned


@dataclass
class Damage:
    """What could not be decoded of a video."""

    packets: int = 0
    """That the decoder refused."""
    reason: str = ""
    """Why reading ended early; empty where it did not."""


class VideoReader:
    """A video file that is being decoded: open between `with` and its end.

    Damage does not raise: what decodes is given, what does not is told in `damage`.
    """

    def __init__(self, path: Path) -> None:
        """Remember the file."""
        self.path = path
        self.damage = Damage()
        self._container: InputContainer | None = None

    def __enter__(self) -> VideoReader:
        av = require("av", "reading video")
        self.damage = Damage()
        with open_errors(self.path):
            # undecodable metadata is no reason to refuse a video
            self._container = av.open(str(self.path), metadata_errors="replace")
        if not self.container.streams.video:
            self.container.close()
            raise VideoError(f"{self.path} holds no video, only sound or text; name a video file")
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
        """Return the first stream of images."""
        return self.container.streams.video[0]

    @property
    def promised(self) -> int:
        """Return how many frames the header promises, 0 where it does not say."""
        return int(self.stream.frames)

    @property
    def rate(self) -> Fraction | None:
        """Return the frames per second on average, None where that is unknown."""
        return self.stream.average_rate or self.stream.guessed_rate or None

    @property
    def duration_s(self) -> float | None:
        """Return how long it says it is, None where it does not say."""
        stream, container = self.stream, self.container
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6

    def packets(self, *others: Any) -> Iterator[Packet[Any]]:  # noqa: ANN401  # streams of any kind
        """Yield the packets of the images and of other streams, in the file's order."""
        av = require("av", "reading video")
        try:
            yield from self.container.demux(self.stream, *others)
        except av.FFmpegError as error:
            self.damage.reason = reason_of(error)

    def decoded(self, packet: Packet[Any]) -> list[Decoded]:
        """Return the frames that a packet of images completes; none where it is damaged."""
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
        """Return in one line what is missing after FRAMES came out; empty where nothing is."""
        reason = f" ({self.damage.reason})" if self.damage.reason else ""
        if frames < self.promised:
            return (
                f"{self.path}: the header promises {self.promised} frames, {frames} could be "
                f"decoded{reason}; the file is damaged or cut off, and the result ends there"
            )
        if self.damage.packets or reason:
            return (
                f"{self.path}: {frames} frames could be decoded, {self.damage.packets} packets "
                f"could not{reason}; the file is damaged, and the result lacks those"
            )
        return ""


@contextmanager
def open_errors(place: object) -> Iterator[None]:
    """Turn what PyAV raises while it opens PLACE into one line.

    Raises:
        VideoError: It cannot be opened.
    """
    av = require("av", "reading video")
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{place} cannot be opened as video: {reason_of(error)}. Check the name, its rights "
            "and that it is a video"
        ) from error


def reason_of(error: BaseException) -> str:
    """Return FFmpeg's reason without its number and place."""
    return str(getattr(error, "strerror", None) or error)
