"""From what is shown to what is sent: VP8 for WebRTC, JPEG for the fallback, PNG for snapshots."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.errors import ImageError
from mirnet_edge.video.low_delay import CLOCK_RATE
from mirnet_edge.video.web.picture import side_by_side

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

    from mirnet_edge.images import Frame
    from mirnet_edge.video.frames import Shown

_JPEG_QUALITY = 85
# enough for the noise of a dark frame to be seen as noise: it is what the picture is about
_BITS_PER_PIXEL, _FRAMES_PER_S = 0.12, 30


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One frame as it is sent."""

    content: bytes
    key: bool
    """Whether it can be decoded without those before it."""
    index: int
    """Of the frame, as the source counts."""
    ticks: int
    """When it was encoded, in units of 1 / CLOCK_RATE."""


class Encoder(Protocol):
    """Encodes one frame after the other, on one thread."""

    def encode(self, shown: Shown, *, ticks: int, key: bool) -> Encoded:
        """Return the frame encoded; with KEY so that decoding can begin with it."""


class JpegEncoder:
    """Every frame for itself."""

    def encode(self, shown: Shown, *, ticks: int, key: bool) -> Encoded:
        """Return one JPEG file."""
        del key  # each one is
        import cv2

        bgr = cv2.cvtColor(side_by_side(shown), cv2.COLOR_RGB2BGR)
        done, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not done:
            raise ImageError(f"a frame of {bgr.shape[1]}x{bgr.shape[0]} cannot be written as JPEG")
        return Encoded(content=content.tobytes(), key=True, index=shown.before.index, ticks=ticks)


class Vp8Encoder:
    """What every browser's WebRTC decodes; begins anew where the size changes."""

    def __init__(self) -> None:
        """Open nothing yet: the first frame says the size."""
        self._codec: VideoCodecContext | None = None

    def encode(self, shown: Shown, *, ticks: int, key: bool) -> Encoded:
        """Return one VP8 frame, in BT.601 limited as browsers expect of WebRTC."""
        import av
        import cv2
        from av.video.frame import PictureType

        picture = side_by_side(shown)
        planes: Frame = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_RATE)
        if key:
            frame.pict_type = PictureType.I
        codec = self._fitting(picture)
        packets = list(codec.encode(frame))
        return Encoded(
            content=b"".join(map(bytes, packets)),
            key=any(packet.is_keyframe for packet in packets),
            index=shown.before.index,
            ticks=ticks,
        )

    def _fitting(self, picture: Frame) -> VideoCodecContext:
        height, width = picture.shape[:2]
        if self._codec is None or (self._codec.height, self._codec.width) != (height, width):
            self._codec = _vp8(height, width)
        return self._codec


def png_of(frame: Frame) -> bytes:
    """Return a frame as a PNG file.

    Raises:
        ImageError: It cannot be written.
    """
    import cv2

    done, content = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not done:
        raise ImageError(f"a frame of {frame.shape[1]}x{frame.shape[0]} cannot be written as PNG")
    return content.tobytes()


def _vp8(height: int, width: int) -> VideoCodecContext:
    """Return an encoder without look-ahead: what goes in comes out at once."""
    from av.video.codeccontext import VideoCodecContext

    codec = VideoCodecContext.create("libvpx", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base = Fraction(1, CLOCK_RATE)
    codec.bit_rate = int(_BITS_PER_PIXEL * _FRAMES_PER_S * width * height)
    codec.gop_size = 1 << 20  # key frames come when they are asked for
    # the network is at work on the other cores
    codec.thread_count = max(1, min(4, (os.cpu_count() or 1) // 2))
    codec.options = {
        "deadline": "realtime",
        "cpu-used": "8",
        "lag-in-frames": "0",
        "error-resilient": "1",
        "static-thresh": "1",
    }
    return codec
