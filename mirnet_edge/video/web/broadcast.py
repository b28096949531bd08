"""Encode the live view once for all viewers: frame buffer, VP8, JPEG, slow viewers.

Both halves travel in one image, so that they always belong to the same frame. The strip below
tells which frame it is, in black and white cells that survive any codec: the page cuts the strip
off, and reads it when a snapshot of exactly this frame is asked for.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.errors import ImageError
from mirnet_edge.video.live.publishing import CLOCK_RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame

STRIP_HEIGHT = 16
CELLS = 32
"""A mark (1010), 24 bits of the number from the highest, 4 bits of check, from left to right."""
INDEX_LIMIT = 1 << 24
"""Numbers are sent modulo this: they repeat after six days of 30 frames a second."""
_MARK = 0b1010
_NARROWEST, _WIDEST = 160, 1280  # of a half: cells of 10 px, and what a small machine can encode


def side_by_side(shown: DisplayedFrame) -> Frame:
    """Return before (left), after (right) and the strip below as one image.

    Returns:
        (height + STRIP_HEIGHT, 2 width, 3) uint8 RGB, both sides even. `width` is that of what was
        restored, made even, and shrunk or enlarged to between 160 and 1280.
    """
    height, width = _half_size(*shown.after.shape[:2])
    image: Frame = np.empty((height + STRIP_HEIGHT, 2 * width, 3), np.uint8)
    image[:height, :width] = _fitted(shown.before.pixels, height, width)
    image[:height, width:] = _fitted(shown.after, height, width)
    image[height:] = _strip(shown.before.index, 2 * width)[None, :, None]
    return image


def index_from_strip(image: Frame) -> int | None:
    """Return the number under an image, modulo INDEX_LIMIT; None where it cannot be read."""
    row = image[-STRIP_HEIGHT // 2].mean(axis=-1)
    centers = ((np.arange(CELLS) + 0.5) * len(row) / CELLS).astype(int)
    word = 0
    for bit in row[centers] > 127.5:
        word = 2 * word + int(bit)
    index = word >> 4 & (INDEX_LIMIT - 1)
    return index if word == _word(index) else None


def _word(index: int) -> int:
    index %= INDEX_LIMIT
    check = sum(index >> shift & 0xF for shift in range(0, 24, 4)) & 0xF
    return _MARK << 28 | index << 4 | check


def _strip(index: int, width: int) -> NDArray[np.uint8]:
    word = _word(index)
    bits = np.array([word >> (CELLS - 1 - place) & 1 for place in range(CELLS)], np.uint8)
    strip: NDArray[np.uint8] = 255 * bits[np.arange(width) * CELLS // width]
    return strip


def _half_size(height: int, width: int) -> tuple[int, int]:
    fitted = min(max(width, _NARROWEST), _WIDEST)
    tall = round(height * fitted / width)
    return max(2, tall - tall % 2), fitted - fitted % 2


def _fitted(frame: Frame, height: int, width: int) -> Frame:
    if frame.shape[:2] == (height, width):
        return frame
    if frame.shape[0] - height in (0, 1) and frame.shape[1] - width in (0, 1):
        return frame[:height, :width]  # an odd side: a line is cut off rather than all resampled
    import cv2

    shrinks = frame.shape[1] > width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=how), np.uint8)


_KEPT_BYTES = 64 << 20  # a second or two of VGA: longer than an image takes to reach a viewer


class FrameBuffer:
    """The frame shown last, and a few before it for those who ask for a snapshot.

    `put` may be called from any thread and returns at once; the rest belongs to one event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, kept_bytes: int = _KEPT_BYTES) -> None:
        """Start empty.

        Args:
            loop: Who waits, waits there.
            kept_bytes: How much of what was shown is remembered; the newest always is.
        """
        self._loop = loop
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._recent: deque[DisplayedFrame] = deque()
        self._bytes = 0
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def newest(self) -> DisplayedFrame | None:
        """Return what was shown last, None where nothing was."""
        with self._lock:
            return self._recent[-1] if self._recent else None

    def put(self, shown: DisplayedFrame) -> None:
        """Leave what is shown now. Ignored once the loop is closed."""
        with self._lock:
            if self._recent and self._recent[-1].before.index == shown.before.index:
                self._bytes -= _size(self._recent.pop())  # a frozen image with newer figures
            self._recent.append(shown)
            self._bytes += _size(shown)
            while self._bytes > self._kept_bytes and len(self._recent) > 1:
                self._bytes -= _size(self._recent.popleft())
            self._version += 1
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def find(self, index: int) -> DisplayedFrame | None:
        """Return what was shown under an index, None where it was forgotten or never was."""
        with self._lock:
            return next((one for one in self._recent if one.before.index == index), None)

    async def after(self, version: int) -> tuple[int, DisplayedFrame]:
        """Return what was shown last and its version, once that is above VERSION.

        Args:
            version: What the last call returned; 0 takes whatever there is.
        """
        while True:
            # cleared before looking: what comes between the two is not missed
            changed = self._changed
            with self._lock:
                if self._version > version and self._recent:
                    return self._version, self._recent[-1]
            await changed.wait()
            if changed is self._changed:  # the first to wake makes the event of the next round
                self._changed = asyncio.Event()


def _size(shown: DisplayedFrame) -> int:
    return shown.before.pixels.nbytes + shown.after.nbytes


_JPEG_QUALITY = 85
# enough for the noise of a dark frame to be seen as noise: it is what the image is about
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

    def encode(self, shown: DisplayedFrame, *, ticks: int, key: bool) -> Encoded:
        """Return the frame encoded; with KEY so that decoding can begin with it."""


class JpegEncoder:
    """Every frame for itself."""

    def encode(self, shown: DisplayedFrame, *, ticks: int, key: bool) -> Encoded:
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

    def encode(self, shown: DisplayedFrame, *, ticks: int, key: bool) -> Encoded:
        """Return one VP8 frame, in BT.601 limited as browsers expect of WebRTC."""
        import av
        import cv2
        from av.video.frame import PictureType

        image = side_by_side(shown)
        planes: Frame = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_RATE)
        if key:
            frame.pict_type = PictureType.I
        codec = self._fitting(image)
        packets = list(codec.encode(frame))
        return Encoded(
            content=b"".join(map(bytes, packets)),
            key=any(packet.is_keyframe for packet in packets),
            index=shown.before.index,
            ticks=ticks,
        )

    def _fitting(self, image: Frame) -> VideoCodecContext:
        height, width = image.shape[:2]
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


_KEY_EVERY_S = 4.0  # what a viewer waits at most for a whole image, whatever was lost
_KEY_PAUSE_S = 0.5  # between two that were asked for: a bad line must not spoil it for the others


class ViewerGone(Exception):  # noqa: N818  # the end of a stream, not a fault
    """Nothing more will be taken."""


class Viewer:
    """What waits for one viewer: a few frames at most."""

    def __init__(self, depth: int) -> None:
        """Start empty, at the next key frame.

        Args:
            depth: How many frames may wait. One more, and all are dropped.
        """
        self._depth = depth
        self._waiting: deque[Encoded] = deque()
        self._needs_key = True
        self._arrived = asyncio.Event()
        self._closed = False
        self.dropped = 0
        """Frames that this viewer did not get in time."""

    @property
    def needs_key(self) -> bool:
        """Return whether only a key frame is of use."""
        return self._needs_key

    def offer(self, frame: Encoded) -> None:
        """Leave a frame; never waits. What cannot be decoded or is too old is dropped."""
        if len(self._waiting) >= self._depth:
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._needs_key = True
        if self._needs_key and not frame.key:
            self.dropped += 1
            return
        self._needs_key = False
        self._waiting.append(frame)
        self._arrived.set()

    async def take(self) -> Encoded:
        """Return the oldest frame that waits, waiting for one.

        Raises:
            ViewerGone: `close` was called.
        """
        while not self._waiting and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        if self._closed:
            raise ViewerGone
        return self._waiting.popleft()

    def close(self) -> None:
        """End `take`, now and from now on."""
        self._closed = True
        self._arrived.set()


class Broadcast:
    """Encodes what is new on the board while anybody watches. Belongs to one event loop."""

    def __init__(
        self, frame_buffer: FrameBuffer, encoder: Callable[[], Encoder], *, depth: int
    ) -> None:
        """Encode nothing yet.

        Args:
            frame_buffer: Where the frames are.
            encoder: What makes the encoder; used on a thread of its own.
            depth: How many frames may wait for one viewer.
        """
        self._frame_buffer = frame_buffer
        self._encoder = encoder()
        self._depth = depth
        self._viewers: set[Viewer] = set()
        self._watched = asyncio.Event()
        self._wanted = True
        self._last_key_s = 0.0
        self._started_s = time.monotonic()
        self._left_dropped = 0
        self.encoded = 0
        """Frames encoded so far, for however many viewers."""

    @property
    def dropped(self) -> int:
        """Return how many frames viewers lost, those who left included."""
        return self._left_dropped + sum(viewer.dropped for viewer in self._viewers)

    def join(self) -> Viewer:
        """Return a new viewer, who begins with the image at hand."""
        viewer = Viewer(self._depth)
        self._viewers.add(viewer)
        self._wanted = True
        self._watched.set()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        viewer.close()
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            self._left_dropped += viewer.dropped
        if not self._viewers:
            self._watched.clear()

    def want_key(self) -> None:
        """Ask for a whole image soon: somebody's decoder is stuck."""
        self._wanted = True

    async def run(self) -> None:
        """Encode until cancelled."""
        version = 0
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "encode") as thread:
            while True:
                await self._watched.wait()
                wanted, key = self._wanted, self._key_is_due(time.monotonic())
                # a new viewer gets the image at hand, were it the last for a long time
                version, shown = await self._frame_buffer.after(0 if wanted and key else version)
                now_s = time.monotonic()
                encoded = await loop.run_in_executor(
                    thread,
                    lambda: self._encoder.encode(
                        shown,  # noqa: B023  # awaited before the next round
                        ticks=int((now_s - self._started_s) * CLOCK_RATE),  # noqa: B023
                        key=key,  # noqa: B023
                    ),
                )
                self.encoded += 1
                for viewer in self._viewers:
                    viewer.offer(encoded)

    def _key_is_due(self, now_s: float) -> bool:
        since_s = now_s - self._last_key_s
        due = since_s > (_KEY_PAUSE_S if self._wanted else _KEY_EVERY_S)
        if due:
            self._wanted, self._last_key_s = False, now_s
        return due
