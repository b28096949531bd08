"""Encode videos: H.264 of 8 bits, HEVC of 10 or 12; with alpha ProRes or FFV1.

RGB becomes luma and chroma by the color metadata.
"""

from __future__ import annotations

import errno
import io
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import ContainerError, OptionError, VideoError
from mirnet_edge.files import DISK_FULL, replace_file
from mirnet_edge.video.files.decoding import (
    SWSCALE_MATRIX,
    SWSCALE_RANGE,
    exact_conversion_flags,
    ffmpeg_reason,
)
from mirnet_edge.video.files.segments import SEGMENT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from av import Packet
    from av import VideoFrame as Coded
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import ColorTags, Matrix

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
"""Of output files: containers that hold H.264 with any time stamps."""
_H273_MATRIX: dict[Matrix, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
# visually lossless: encoding must not undo the restoration
_QUALITY = {"crf": "16", "preset": "veryfast"}
REPRODUCIBLE = {"x264-params": "cpu-independent=1", "threads": "4", "thread_type": "frame"}
"""Options of libx264 that make a file's bytes depend on the frames and other options only.

Without the first, its AVX-512 code for the macroblock tree gives other sizes from run to run (x264
165, frames 64 wide). Without the others, it splits a frame into as many slices as there are cores.
"""

AlphaCodec: TypeAlias = Literal["prores_ks", "ffv1"]
Chroma: TypeAlias = Literal["420", "422", "444"]
"""Chroma subsampling: in both directions, horizontal only, none."""
ALPHA_CODECS: dict[str, AlphaCodec] = {".mov": "prores_ks", ".mkv": "ffv1"}
"""Encoders of video with an alpha channel, by the suffix of containers that hold it.

ProRes 4444 is what editors exchange in QuickTime; FFV1 is lossless.
"""
_ALPHA_OPTIONS: dict[AlphaCodec, dict[str, str]] = {
    "prores_ks": {"profile": "4444", "alpha_bits": "16", "threads": "1"},
    "ffv1": {"level": "3", "slices": "4", "slicecrc": "1", "threads": "1"},
}
_DEEP_QUALITY = {"crf": "16", "preset": "veryfast"}
DEEP = "log-level=error:pools=4:frame-threads=2"
"""Parameters of libx265 for more than 8 bits; with the threads given, so are the bytes."""


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How frames are encoded."""

    height: int
    """Of the frames."""
    width: int
    """Of the frames; where a side is odd, chroma is not subsampled along it."""
    time_base: Fraction
    """Seconds per unit of PTS."""
    rate: Fraction | None
    """The average frame rate, for the encoder's rate control."""
    color: ColorTags
    """The color metadata, by which frames are coded."""
    aspect: Fraction | None = None
    """The pixel aspect ratio, width over height; None for square pixels."""
    quality: Mapping[str, str] = field(default_factory=lambda: _QUALITY)
    """Options of libx264; they override those in `REPRODUCIBLE`."""
    is_gray: bool = False
    """Whether frames are stored without color: all channels of each pixel are then equal."""
    bits: Literal[8, 10, 12] = 8
    """Per channel: 8 are stored as H.264, more as HEVC, of frames with 16."""
    chroma: Chroma = "420"
    """The least chroma that is kept; with alpha all is."""
    alpha_codec: AlphaCodec | None = None
    """The encoder where frames have an alpha channel; None where they have not."""
    hdr_parameters: tuple[str, ...] = ()
    """x265's parameters for the mastering display and light levels."""

    @property
    def is_deep(self) -> bool:
        """Return whether frames have more than 8 bits."""
        return self.bits > 8

    @property
    def stored_bits(self) -> int:
        """Return the bits per channel that are stored: FFmpeg's ProRes encoder has 10 always."""
        return 10 if self.alpha_codec == "prores_ks" else self.bits

    @property
    def pixel_format(self) -> str:
        """Return FFmpeg's name of the format that is stored."""
        depth = f"{self.stored_bits}le" if self.stored_bits > 8 else ""
        if self.alpha_codec is not None:
            return f"yuva444p{depth}"
        chroma = self.chroma
        if self.width % 2 or (self.height % 2 and chroma == "420"):
            chroma = "444"
        return f"yuv{chroma}p{depth}"

    @property
    def segment_suffix(self) -> str:
        """Return the suffix of segments: a container that keeps the time base and the codec."""
        return ".mov" if self.alpha_codec == "prores_ks" else SEGMENT_SUFFIX

    @property
    def encoder(self) -> str:
        """Return FFmpeg's name of the encoder."""
        return self.alpha_codec or ("libx265" if self.is_deep else "libx264")

    @property
    def codec_options(self) -> dict[str, str]:
        """Return the encoder's options."""
        if self.alpha_codec is not None:
            return _ALPHA_OPTIONS[self.alpha_codec]
        if self.is_deep:
            return {**_DEEP_QUALITY, "x265-params": ":".join((DEEP, *self.hdr_parameters))}
        return {**REPRODUCIBLE, **self.quality}


class FrameEncoder:
    """Encodes RGB frames into a stream of a container that is open for writing."""

    def __init__(self, container: OutputContainer, options: EncodingOptions) -> None:
        """Add the stream."""
        from av.video.reformatter import VideoReformatter

        self._options = options
        self._reformatter = VideoReformatter()
        self._frames = 0
        stream = container.add_stream(
            options.encoder, rate=options.rate or Fraction(30), options=options.codec_options
        )
        self.stream = cast("VideoStream", stream)
        context = self.stream.codec_context
        height, width = options.height, options.width
        context.height, context.width = height, width
        context.pix_fmt = options.pixel_format
        context.time_base = self.stream.time_base = options.time_base
        write_color_tags(context, options.color)
        if options.aspect:
            context.sample_aspect_ratio = options.aspect

    def encode(self, pixels: Frame | NDArray[np.uint16], pts: int) -> list[Packet[Any]]:
        """Return the packets that a frame completes.

        Args:
            pixels: (H, W, 3) RGB of the options' size, uint8, or uint16 where they are deep; with
                alpha (H, W, 4) uint16.
            pts: In units of the time base, increasing from frame to frame.
        """
        options = self._options
        # libx264 calls full range by another name
        pixel_format = self.stream.codec_context.pix_fmt or options.pixel_format
        frame = convert_to_yuv(self._reformatter, pixels, pixel_format, options.color)
        if options.is_gray:
            middle = 1 << (options.stored_bits - 1)
            neutral = middle.to_bytes(1 if options.stored_bits == 8 else 2, "little")
            for plane in frame.planes[1:3]:
                plane.update(neutral * (plane.buffer_size // len(neutral)))
        frame.pts, frame.time_base = pts, options.time_base
        self._frames += 1
        return self.stream.encode(frame)

    def flush(self) -> list[Packet[Any]]:
        """Return the last packets."""
        packets = self.stream.encode(None)
        if self._frames == 1:
            for packet in packets:  # libx265 leaves the DTS of a single frame uninitialized
                packet.dts = packet.pts
        return packets


def encode_sample(options: EncodingOptions) -> bytes:
    """Return a segment of one black frame, encoded as a video will be.

    Raises:
        VideoError: Such a video cannot be encoded.
    """
    av = require("av", "writing video")
    has_alpha = options.alpha_codec is not None
    kind = np.uint16 if options.is_deep or has_alpha else np.uint8
    black = np.zeros((options.height, options.width, 4 if has_alpha else 3), kind)
    sample = io.BytesIO()
    try:
        with av.open(sample, "w", format=options.segment_suffix[1:]) as container:
            encoder = FrameEncoder(container, options)
            container.mux(encoder.encode(black, 0))
            container.mux(encoder.flush())
    except av.FFmpegError as error:
        raise VideoError(
            f"frames of {options.width}x{options.height} cannot be encoded: "
            f"{ffmpeg_reason(error)}. Restore a video of another size"
        ) from error
    return sample.getvalue()


class VideoWriter:
    """Writes a video file while its context is open; the file appears whole or not at all."""

    def __init__(self, path: Path, options: EncodingOptions) -> None:
        """Store the options; `with` opens the file.

        Args:
            path: Its suffix is one of `SUFFIXES`, or `SEGMENT_SUFFIX`.
            options: How frames are encoded.

        Raises:
            OptionError: The suffix is not supported.
        """
        if path.suffix.lower() not in (*SUFFIXES, SEGMENT_SUFFIX):
            raise OptionError(
                f"expected a video name ending in {', '.join(SUFFIXES)}, found {path.name}"
            )
        self._path, self._options = path, options
        self._stack = ExitStack()
        self.frames = 0
        """The number of frames written."""

    def __enter__(self) -> VideoWriter:
        av = require("av", "writing video")

        with ExitStack() as stack:
            part = stack.enter_context(replace_file(self._path))
            self._container = stack.enter_context(av.open(f"file:{part}", "w"))
            self._encoder = FrameEncoder(self._container, self._options)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)  # discards the file
            return
        with self._stack, convert_write_errors(self._path):
            if self.frames:
                self._container.mux(self._encoder.flush())

    def write(self, pixels: Frame | NDArray[np.uint16], pts: int) -> None:
        """Add a frame.

        Args:
            pixels: As for `FrameEncoder.encode`.
            pts: In units of the time base, increasing from frame to frame.

        Raises:
            VideoError: The frame has another size, or cannot be written.
        """
        expected = (self._options.height, self._options.width)
        if pixels.shape[:2] != expected:
            raise VideoError(
                f"{self._path}: expected frames of {expected[1]}x{expected[0]}, found "
                f"{pixels.shape[1]}x{pixels.shape[0]}; start another file for another size"
            )
        with convert_write_errors(self._path):
            self._container.mux(self._encoder.encode(pixels, pts))
        self.frames += 1


def write_color_tags(context: VideoCodecContext, color: ColorTags) -> None:
    """Set the color metadata of an encoder's stream."""
    context.colorspace = _H273_MATRIX[color.matrix]
    context.color_range = SWSCALE_RANGE[color.range]
    context.color_trc = color.transfer
    context.color_primaries = color.primaries


def convert_to_yuv(
    reformatter: VideoReformatter,
    pixels: Frame | NDArray[np.uint16],
    pixel_format: str,
    color: ColorTags,
) -> Coded:
    """Return an RGB frame converted to luma and chroma, for an encoder.

    Args:
        reformatter: Caches its tables from frame to frame.
        pixels: (H, W, 3) RGB, uint8 or uint16, or (H, W, 4) RGB with alpha, uint16.
        pixel_format: FFmpeg's name of the format, for example yuv420p.
        color: The color matrix and range.
    """
    from av import VideoFrame

    kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
    if pixels.shape[2] == 4:
        kind = "rgba64le"
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(cast("Frame", pixels)), format=kind)
    return reformatter.reformat(
        rgb,
        format=pixel_format,
        src_color_range=SWSCALE_RANGE["full"],
        dst_colorspace=SWSCALE_MATRIX[color.matrix],
        dst_color_range=SWSCALE_RANGE[color.range],
        interpolation=exact_conversion_flags(),
    )


@contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Convert PyAV's errors on writing PATH to a `VideoError`.

    Raises:
        ContainerError: The container refuses what is written.
        VideoError: It cannot be written for another reason.
    """
    av = require("av", "writing video")
    try:
        yield
    except av.FFmpegError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: BaseException) -> VideoError:
    """Return what to raise for an error on writing; a full disk is named only where it is full."""
    number = getattr(error, "errno", None)
    said = f"{path} cannot be written: {ffmpeg_reason(error)}. "
    if number in DISK_FULL:
        return VideoError(said + "Free disk space or choose another folder")
    if isinstance(error, OSError) or number in _DISK_FAULTS:
        return VideoError(said + "Choose another folder")
    return ContainerError(said + "Choose another container, for example a name that ends in .mkv")


_DISK_FAULTS = frozenset((errno.EIO, errno.EROFS, errno.EFBIG))
