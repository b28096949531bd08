"""Encode the displayed frames once for all viewers: frame buffer, VP8 and JPEG, slow viewers.

Before and after travel side by side in one image, so that they always belong to the same frame. A
strip below them holds the frame's index in black and white cells that survive any codec: the page
cuts the strip off, and reads it to request a snapshot of exactly this frame.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from mirnet_edge.errors import ImageError
from mirnet_edge.video.live.publishing import CLOCK_RATE, encoder_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame

_KEPT_BYTES = 64 << 20  # one to two seconds of VGA: longer than a frame takes to reach a viewer


class FrameBuffer:
    """The newest displayed frame, and a few before it for snapshots.

    `put` may be called from any thread and returns at once; the rest belongs to one event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, kept_bytes: int = _KEPT_BYTES) -> None:
        """Start empty.

        Args:
            loop: The event loop of `wait_newer`.
            kept_bytes: The size of the frames that are kept; the newest always is.
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
        """Return the newest frame, None where there is none."""
        with self._lock:
            return self._recent[-1] if self._recent else None

    def put(self, shown: DisplayedFrame) -> None:
        """Add a frame, and wake those who wait for one."""
        with self._lock:
            if self._recent and self._recent[-1].before.index == shown.before.index:
                self._bytes -= _nbytes(self._recent.pop())  # a frozen frame with a newer status
            self._recent.append(shown)
            self._bytes += _nbytes(shown)
            while self._bytes > self._kept_bytes and len(self._recent) > 1:
                self._bytes -= _nbytes(self._recent.popleft())
            self._version += 1
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def find(self, index: int) -> DisplayedFrame | None:
        """Return the newest frame with that index, None where it is not kept.

        Args:
            index: As the strip holds it, modulo `INDEX_LIMIT`.
        """
        with self._lock:
            return next(
                (one for one in reversed(self._recent) if one.before.index % INDEX_LIMIT == index),
                None,
            )

    async def wait_newer(self, version: int) -> tuple[int, DisplayedFrame]:
        """Return the newest version and frame, once the version is above VERSION.

        Args:
            version: The one the last call returned; 0 takes any frame.
        """
        while True:
            # read before the version: a frame put in between is not missed
            changed = self._changed
            with self._lock:
                if self._version > version and self._recent:
                    return self._version, self._recent[-1]
            await changed.wait()
            if changed is self._changed:  # the first to wake renews the event
                self._changed = asyncio.Event()


def _nbytes(shown: DisplayedFrame) -> int:
    return shown.before.pixels.nbytes + shown.after.nbytes


_KEY_INTERVAL_S = 4.0  # the longest a viewer waits for a key frame, whatever was lost
_REQUESTED_KEY_INTERVAL_S = 0.5  # so that one bad connection does not cost all viewers bit rate


class QueueClosed(Exception):  # noqa: N818  # the end of a stream, not a fault
    """The viewer left."""


class ViewerQueue:
    """The few encoded frames that wait for one viewer; one that is too slow loses frames."""

    def __init__(self, depth: int) -> None:
        """Start empty; a key frame must come first.

        Args:
            depth: How many frames may wait; one more drops them all.
        """
        self._depth = depth
        self._waiting: deque[EncodedFrame] = deque()
        self._needs_key = True
        self._arrived = asyncio.Event()
        self._closed = False
        self.dropped = 0
        """Frames that this viewer was too slow for."""

    def offer(self, frame: EncodedFrame) -> None:
        """Add a frame without waiting; drop those that are too old or cannot be decoded."""
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

    async def take(self) -> EncodedFrame:
        """Return the oldest frame, waiting for one.

        Raises:
            QueueClosed: `close` was called.
        """
        while not self._waiting and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        if self._closed:
            raise QueueClosed
        return self._waiting.popleft()

    def close(self) -> None:
        """Make `take` raise, now and later."""
        self._closed = True
        self._arrived.set()


class Broadcast:
    """A stream that is encoded once for all its viewers, while it has any. For one event loop."""

    def __init__(
        self, frame_buffer: FrameBuffer, encoder: Callable[[], LiveEncoder], *, depth: int
    ) -> None:
        """Prepare a stream; `run` encodes it.

        Args:
            frame_buffer: The frames to encode.
            encoder: Returns the encoder, which is used on a thread of its own.
            depth: How many frames may wait for one viewer.
        """
        self._frame_buffer = frame_buffer
        self._encoder = encoder()
        self._depth = depth
        self._queues: set[ViewerQueue] = set()
        self._has_viewers = asyncio.Event()
        self._key_requested = True
        self._last_key_s = 0.0
        self._started_s = time.monotonic()
        self._dropped_before = 0
        self.encoded = 0
        """Frames encoded so far; each once for all viewers."""

    @property
    def dropped(self) -> int:
        """Return how many frames viewers were too slow for, those who left included."""
        return self._dropped_before + sum(queue.dropped for queue in self._queues)

    def subscribe(self) -> ViewerQueue:
        """Return the queue of a new viewer; it begins with the newest frame, as a key frame."""
        queue = ViewerQueue(self._depth)
        self._queues.add(queue)
        self._key_requested = True
        self._has_viewers.set()
        return queue

    def unsubscribe(self, queue: ViewerQueue) -> None:
        """Close and remove a viewer's queue."""
        queue.close()
        if queue in self._queues:
            self._queues.remove(queue)
            self._dropped_before += queue.dropped
        if not self._queues:
            self._has_viewers.clear()

    def request_key_frame(self) -> None:
        """Encode a key frame soon: a viewer's decoder is stuck."""
        self._key_requested = True

    async def run(self) -> None:
        """Encode until cancelled."""
        version = 0
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "encode") as thread:
            while True:
                await self._has_viewers.wait()
                requested, key = self._key_requested, self._is_key_due(time.monotonic())
                # a new viewer gets the newest frame even where no other comes for a long time
                version, shown = await self._frame_buffer.wait_newer(
                    0 if requested and key else version
                )
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
                for queue in self._queues:
                    queue.offer(encoded)

    def _is_key_due(self, now_s: float) -> bool:
        since_s = now_s - self._last_key_s
        due = since_s > (_REQUESTED_KEY_INTERVAL_S if self._key_requested else _KEY_INTERVAL_S)
        if due:
            self._key_requested, self._last_key_s = False, now_s
        return due


_JPEG_QUALITY = 85
# enough to show the noise of a dark frame, which the viewer compares
_BITS_PER_PIXEL, _FRAMES_PER_S = 0.12, 30


@dataclass(frozen=True, kw_only=True)
class EncodedFrame:
    """One frame as it is sent."""

    content: bytes
    key: bool
    """Whether it is a key frame: decoded without those before it."""
    index: int
    """Of the source's frame."""
    ticks: int
    """When it was encoded, in units of 1 / CLOCK_RATE."""


Compose: TypeAlias = "Callable[[DisplayedFrame], Frame]"
"""Makes the image to encode: even sides, the index strip at its bottom."""


class LiveEncoder(Protocol):
    """Encodes one frame after the other, on one thread."""

    def encode(self, shown: DisplayedFrame, *, ticks: int, key: bool) -> EncodedFrame:
        """Return the frame encoded, as a key frame where KEY is set."""


class JpegEncoder:
    """Encodes frames as JPEG files."""

    def __init__(self, compose: Compose | None = None) -> None:
        """Encode what COMPOSE makes of a frame; None for `side_by_side`."""
        self._compose = compose or side_by_side

    def encode(self, shown: DisplayedFrame, *, ticks: int, key: bool) -> EncodedFrame:
        """Return the frame as one JPEG file."""
        del key  # every JPEG is one
        import cv2

        bgr = cv2.cvtColor(self._compose(shown), cv2.COLOR_RGB2BGR)
        done, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not done:
            raise ImageError(f"a frame of {bgr.shape[1]}x{bgr.shape[0]} cannot be written as JPEG")
        return EncodedFrame(
            content=content.tobytes(), key=True, index=shown.before.index, ticks=ticks
        )


class Vp8Encoder:
    """Encodes frames as VP8, which every browser's WebRTC decodes; the size may change."""

    def __init__(self, compose: Compose | None = None) -> None:
        """Open nothing: the first frame sets the size.

        Args:
            compose: What is encoded of a frame; None for `side_by_side`.
        """
        self._compose = compose or side_by_side
        self._codec: VideoCodecContext | None = None

    def encode(self, shown: DisplayedFrame, *, ticks: int, key: bool) -> EncodedFrame:
        """Return the frame as VP8, in BT.601 limited range as browsers expect of WebRTC."""
        import av
        import cv2
        from av.video.frame import PictureType

        image = self._compose(shown)
        planes: Frame = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_RATE)
        if key:
            frame.pict_type = PictureType.I
        codec = self._codec_for(image)
        packets = list(codec.encode(frame))
        return EncodedFrame(
            content=b"".join(map(bytes, packets)),
            key=any(packet.is_keyframe for packet in packets),
            index=shown.before.index,
            ticks=ticks,
        )

    def _codec_for(self, image: Frame) -> VideoCodecContext:
        height, width = image.shape[:2]
        if self._codec is None or (self._codec.height, self._codec.width) != (height, width):
            self._codec = _open_vp8(height, width)
        return self._codec


def encode_png(frame: Frame) -> bytes:
    """Return a frame as a PNG file.

    Raises:
        ImageError: It cannot be written.
    """
    import cv2

    done, content = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not done:
        raise ImageError(f"a frame of {frame.shape[1]}x{frame.shape[0]} cannot be written as PNG")
    return content.tobytes()


def _open_vp8(height: int, width: int) -> VideoCodecContext:
    """Return a low-delay VP8 encoder: no look-ahead."""
    from av.video.codeccontext import VideoCodecContext

    codec = VideoCodecContext.create("libvpx", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base = Fraction(1, CLOCK_RATE)
    codec.bit_rate = int(_BITS_PER_PIXEL * _FRAMES_PER_S * width * height)
    codec.gop_size = 1 << 20  # key frames are requested
    codec.thread_count = encoder_threads()
    codec.options = {
        "deadline": "realtime",
        "cpu-used": "8",
        "lag-in-frames": "0",
        "error-resilient": "1",
        "static-thresh": "1",
    }
    return codec


STRIP_HEIGHT = 16
CELLS = 32
"""From left to right: a mark (1010), the index (24 bits, highest first), a checksum (4 bits)."""
INDEX_LIMIT = 1 << 24
"""Indices are sent modulo this: they repeat after six days at 30 frames per second."""
_MARK = 0b1010
_MIN_WIDTH, _MAX_WIDTH = 160, 1280  # of a half: cells of 10 px, and what small CPUs encode live


def side_by_side(shown: DisplayedFrame) -> Frame:
    """Return before (left) and after (right) with the index strip below, as one image.

    Returns:
        (height + STRIP_HEIGHT, 2 width, 3) uint8 RGB, both sides even. `width` is that of the
        restored frame, made even and resized to between 160 and 1280.
    """
    height, width = _half_size(*shown.after.shape[:2])
    image: Frame = np.empty((height + STRIP_HEIGHT, 2 * width, 3), np.uint8)
    image[:height, :width] = _fit(shown.before.pixels, height, width)
    image[:height, width:] = _fit(shown.after, height, width)
    image[height:] = _strip(shown.before.index, 2 * width)[None, :, None]
    return image


def source_alone(shown: DisplayedFrame) -> Frame:
    """Return the source's frame with the index strip below: the browser restores it.

    Returns:
        (height + STRIP_HEIGHT, width, 3) uint8 RGB of even sides, sized as by `side_by_side`.
    """
    height, width = _half_size(*shown.before.pixels.shape[:2])
    image: Frame = np.empty((height + STRIP_HEIGHT, width, 3), np.uint8)
    image[:height] = _fit(shown.before.pixels, height, width)
    image[height:] = _strip(shown.before.index, width)[None, :, None]
    return image


def read_index_strip(image: Frame) -> int | None:
    """Return the index in the strip below an image, modulo INDEX_LIMIT; None if unreadable."""
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
    clamped = min(max(width, _MIN_WIDTH), _MAX_WIDTH)
    tall = round(height * clamped / width)
    return max(2, tall - tall % 2), clamped - clamped % 2


def _fit(frame: Frame, height: int, width: int) -> Frame:
    if frame.shape[:2] == (height, width):
        return frame
    if frame.shape[0] - height in (0, 1) and frame.shape[1] - width in (0, 1):
        return frame[:height, :width]  # an odd side: crop one line rather than resample
    import cv2

    shrinks = frame.shape[1] > width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=interpolation), np.uint8)
