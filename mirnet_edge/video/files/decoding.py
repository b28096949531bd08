"""Decode videos with PyAV: the reader of video files, conversion to RGB by color metadata."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import VideoError
from mirnet_edge.video.files.cut_files import FileStart, scan_boxes
from mirnet_edge.video.frames import ColorTags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av import Packet
    from av import VideoFrame as Decoded
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.plane import VideoPlane
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import Matrix, Range

logger = logging.getLogger(__name__)

Pixel = TypeVar("Pixel", np.uint8, np.uint16)


@dataclass
class DecodingDamage:
    """The damaged parts of a video, which could not be decoded."""

    packets: int = 0
    """Packets that the decoder rejected, those before the first frame left aside."""
    reason: str = ""
    """Why reading ended early; empty where it reached the end."""
    end_s: Fraction = Fraction(0)
    """Where the last packet of the video ends, in the file's times."""


class VideoReader:
    """Reads a video file while its context is open.

    Damaged packets do not raise: they are skipped, and counted in `damage`.
    """

    def __init__(self, path: Path, *, is_fast: bool = False) -> None:
        """Store the path.

        Args:
            path: The file.
            is_fast: Whether several frames are decoded at once. At a damaged packet the decoder
                then loses others, as many as it has threads.
        """
        self.path, self._is_fast = path, is_fast
        self.damage = DecodingDamage()
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._alpha_decoder: Any = None
        self._has_decoded = False

    def __enter__(self) -> VideoReader:
        self.damage = DecodingDamage()
        self._has_decoded = False
        self._container = open_input(self.path)
        try:
            self._stream = choose_video_stream(self.path, self._container)
        except VideoError:
            self.__exit__()
            raise
        self._alpha_decoder = _open_alpha_decoder(self._stream)
        self._stream.thread_type = "AUTO" if self._is_fast else "SLICE"
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.close()
            self._container = self._stream = self._alpha_decoder = None

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
        """Return the video stream that is read: the film, not its cover.

        Raises:
            VideoError: Used outside `with`.
        """
        if self._stream is None:
            raise VideoError(f"{self.path} is not open: expected `with reader:` around its use")
        return self._stream

    @property
    def lacks_alpha(self) -> bool:
        """Return whether the stream has an alpha channel that is not decoded."""
        return _stores_alpha_apart(self.stream) and self._alpha_decoder is None

    @property
    def frame_count(self) -> int:
        """Return the number of frames in the header, 0 where it has none."""
        return int(self.stream.frames)

    @property
    def rate(self) -> Fraction | None:
        """Return the average frame rate, None where that is unknown."""
        stream = self.stream
        rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
        if self.has_no_times:  # the average is a default; the coded stream may have its own
            rates = [stream.guessed_rate]
        return next((rate for rate in rates if rate and rate <= _HIGHEST_RATE), None)

    @property
    def has_no_times(self) -> bool:
        """Return whether the file is a coded stream without a container, and has no times."""
        return self.stream.time_base == _RAW_TIME_BASE

    @property
    def duration_s(self) -> float | None:
        """Return the duration in the header in seconds, None where it has none."""
        stream, container = self.stream, self.container
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6

    def packets(self, *others: Any) -> Iterator[Packet[Any]]:  # noqa: ANN401  # streams of any kind
        """Yield the packets of the video stream and of other streams, in the file's order.

        The last one of the video is empty: it makes the decoder give what it holds back.
        """
        av = require("av", "reading video")
        video = self.stream
        try:
            for packet in self.container.demux(video, *others):
                ticks = packet.dts if packet.pts is None else packet.pts
                if packet.stream.index == video.index and ticks is not None:
                    end = (ticks + (packet.duration or 0)) * packet.time_base
                    self.damage.end_s = max(self.damage.end_s, end)
                yield packet
        except av.FFmpegError as error:
            self.damage.reason = ffmpeg_reason(error)
            yield _last_packet(video)

    def decode(self, packet: Packet[Any]) -> list[Decoded]:
        """Return the frames that a video packet completes; none where it is damaged."""
        av = require("av", "reading video")
        try:
            # the last, empty one flushes
            if self._alpha_decoder is None:
                frames = list(packet.decode())
            else:
                frames = self._alpha_decoder.decode(packet if packet.size else None)
        except av.error.EOFError:
            return []
        except av.FFmpegError as error:
            # a recording may begin between two key frames: what comes before the first is no damage
            self.damage.packets += self._has_decoded
            logger.debug("%s: a packet was not decoded: %s", self.path, error)
            return []
        self._has_decoded = self._has_decoded or bool(frames)
        return frames

    def shortfall(self, frames: int, end_s: Fraction | None = None) -> str:
        """Return in one line what is missing after FRAMES frames; empty where nothing is.

        A header may promise more frames than are shown without any damage: an edit list hides
        some, a dropped frame repeats the last. So it counts only where the end is missing too.

        Args:
            frames: How many were decoded.
            end_s: Where the last packet of any stream ends, in the file's times, if the file was
                read to its end; it counts where the header states no duration of the video.
        """
        reason = f" ({self.damage.reason})" if self.damage.reason else ""
        promised, read = self._durations(end_s)
        is_short = read + max(3 / (self.rate or Fraction(25)), Fraction(1, 10)) < promised
        if is_short and frames < self.frame_count:
            return (
                f"{self.path}: expected {self.frame_count} frames by its header, found {frames} "
                f"that can be decoded{reason}; the file is damaged or truncated, and the result "
                "ends there"
            )
        if is_short:
            return (
                f"{self.path}: expected {float(promised):.1f} s by its header, found "
                f"{float(read):.1f} s{reason}; the file is damaged or truncated, and the result "
                "ends there"
            )
        if self.damage.packets or reason:
            return (
                f"{self.path}: {frames} frames could be decoded, {self.damage.packets} packets "
                f"could not{reason}; the file is damaged, and the result lacks those"
            )
        boxes = scan_boxes(self.path)
        if boxes is not None and boxes.lacks_media:
            return (
                f"{self.path}: the file is cut off, {boxes.missing} bytes or more are missing; the "
                "result has the video and sound that are there"
            )
        return ""

    def _durations(self, end_s: Fraction | None) -> tuple[Fraction, Fraction]:
        """Return the seconds that the header promises, 0 where it does not, and those read."""
        stream, container = self.stream, self.container
        if self.has_no_times:
            return Fraction(0), Fraction(0)
        if stream.duration is not None and stream.time_base is not None:
            start = (stream.start_time or 0) * stream.time_base
            ticks = stream.duration
            if container.format.name == "avi":  # FFmpeg shortens the duration of a truncated one
                ticks = max(ticks, stream.frames)
            return ticks * stream.time_base, self.damage.end_s - start
        if container.duration is not None and end_s is not None:
            # Matroska's duration counts from 0, wherever its first track begins
            return Fraction(container.duration, 1_000_000), end_s
        return Fraction(0), Fraction(0)


def _last_packet(stream: VideoStream) -> Packet[Any]:
    """Return an empty packet, as at the end of a file that was read without an error."""
    from av import Packet

    packet: Packet[Any] = Packet()
    packet.stream = stream
    return packet


_HIGHEST_RATE = 1000  # more is a wrong guess
_RAW_TIME_BASE = Fraction(1, 1_200_000)  # FFmpeg's for elementary streams
_GENERATE_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets
_STILL_CODECS = frozenset(("mjpeg", "png", "bmp", "gif", "tiff", "webp", "jpegxl"))


_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def _stores_alpha_apart(stream: VideoStream) -> bool:
    """Return whether a stream has an alpha channel that FFmpeg's own decoder leaves out."""
    has_alpha = stream.metadata.get("alpha_mode") == "1"
    return has_alpha and stream.codec_context.name in _ALPHA_DECODERS


def _open_alpha_decoder(stream: VideoStream) -> Any:  # noqa: ANN401  # PyAV's type is of any kind
    """Return the decoder of a VP8 or VP9 stream with alpha.

    None for other streams, and where this build of FFmpeg has no such decoder.
    """
    av = require("av", "reading video")
    if not _stores_alpha_apart(stream):
        return None
    try:
        decoder = av.CodecContext.create(_ALPHA_DECODERS[stream.codec_context.name], "r")
    except (ValueError, av.FFmpegError):  # PyAV's for codecs that are not there
        return None
    if stream.codec_context.extradata:
        decoder.extradata = stream.codec_context.extradata
    return decoder


def open_input(path: Path) -> InputContainer:
    """Return PyAV's container of a file.

    Raises:
        VideoError: It cannot be opened.
    """
    av = require("av", "reading video")
    container: InputContainer
    with convert_open_errors(path):
        try:
            # "file:" because 12:30.mp4 would be taken for the protocol 12; undecodable metadata
            # does not make a video unreadable
            container = av.open(f"file:{path}", metadata_errors="replace")
        except av.FFmpegError:
            boxes = scan_boxes(path)
            if boxes is None or not (boxes.cut_name or boxes.lacks_index):
                raise
            if boxes.lacks_index:
                raise VideoError(
                    f"{path} has no index (moov), which is written at last: the recording was not "
                    "finished, or the file is cut off. Copy it again, or repair it with the "
                    "program that recorded it"
                ) from None
            # FFmpeg refuses a file that ends within the index of a fragment; its start is whole
            container = av.open(FileStart(path, boxes.whole), metadata_errors="replace")
    # FFmpeg's guess of missing PTS is wrong where frames are reordered
    container.flags &= ~_GENERATE_PTS
    return container


def choose_video_stream(path: Path, container: InputContainer) -> VideoStream:
    """Return the film among a file's video streams: not a cover, the default one, the largest.

    Raises:
        VideoError: There is none, or FFmpeg has no decoder for it.
    """
    films = [stream for stream in container.streams.video if not is_cover(stream)]
    if not films:
        what = "but a cover image" if container.streams.video else ""
        raise VideoError(f"{path} has no video stream {what}".rstrip() + "; choose a video file")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise VideoError(
            f"{path}: expected video in a codec that FFmpeg decodes, found another; convert it "
            "with the program that recorded it"
        )
    from av.stream import Disposition

    return max(
        known,
        key=lambda stream: (
            stream.codec_context.name not in _STILL_CODECS or stream.frames > 1,
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
        ),
    )


def is_cover(stream: Stream) -> bool:
    """Return whether a video stream is a cover image or a preview, by its flags."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return bool(stream.disposition & covers)


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

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        *,
        keeps_aspect: bool = False,
    ) -> None:
        """Create a decoder.

        Args:
            size: (height, width) to scale to; None for their own.
            keeps_aspect: Whether frames of another shape are fitted in with black bars; else they
                are stretched.
        """
        require("av", "reading video")
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._lock = threading.Lock()  # the reformatter caches its tables
        self._size, self._keeps_aspect = size, keeps_aspect
        self._flags = exact_conversion_flags()

    def pixels(self, frame: Decoded) -> Frame:
        """Return a frame as (H, W, 3) uint8 RGB, contiguous, not rotated."""
        # equal to rgb24, to 1 level at odd sides, in 0.6 times the time
        return self._channels(frame, "gbrp", np.uint8)

    def deep_pixels(self, frame: Decoded) -> NDArray[np.uint16]:
        """Return a frame as (H, W, 3) uint16 RGB, contiguous, not rotated."""
        return self._channels(frame, "gbrp16le", np.uint16)

    def alpha(self, frame: Decoded) -> NDArray[np.uint16]:
        """Return a frame's alpha channel, (H, W) uint16, 65535 opaque; what bars are is 0."""
        full_size = self._size or (frame.height, frame.width)
        height, width = fitted_size(frame, full_size) if self._keeps_aspect else full_size
        with self._lock:
            planar = self._reformatter.reformat(
                frame, width=width, height=height, format="gbrap16le", interpolation=self._flags
            )
        return add_bars(_plane_array(planar.planes[3], np.uint16)[:, :width], full_size)

    def _channels(self, frame: Decoded, planar_format: str, kind: type[Pixel]) -> NDArray[Pixel]:
        import cv2

        color = read_color_tags(frame)
        full_size = self._size or (frame.height, frame.width)
        height, width = fitted_size(frame, full_size) if self._keeps_aspect else full_size
        with self._lock:
            planar = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format=planar_format,
                src_colorspace=SWSCALE_MATRIX[color.matrix],
                src_color_range=_FULL if frame.format.is_rgb else SWSCALE_RANGE[color.range],
                dst_color_range=_FULL,
                interpolation=self._flags,
            )
        green, blue, red = (_plane_array(plane, kind)[:, :width] for plane in planar.planes)
        return add_bars(np.asarray(cv2.merge([red, green, blue]), kind), full_size)


def fitted_size(frame: Decoded, size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) of a frame's shape within SIZE."""
    height, width = size
    factor = min(height / frame.height, width / frame.width)
    return max(1, round(factor * frame.height)), max(1, round(factor * frame.width))


def add_bars(pixels: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """Return pixels in the middle of a black frame of SIZE, (height, width)."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    framed = np.zeros((*size, *pixels.shape[2:]), pixels.dtype)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    framed[top : top + height, left : left + width] = pixels
    return framed


def _plane_array(plane: VideoPlane, kind: type[Pixel]) -> NDArray[Pixel]:
    """Return a plane as (rows, pixels per row with padding), without a copy."""
    levels = np.frombuffer(memoryview(plane), kind)
    return levels.reshape(-1, plane.line_size // levels.itemsize)


def rotate_upright(pixels: Frame, rotation: int) -> Frame:
    """Return pixels rotated counterclockwise by ROTATION degrees, as players show them."""
    rotated: Frame = np.ascontiguousarray(np.rot90(pixels, round(rotation / 90) % 4))
    return rotated
