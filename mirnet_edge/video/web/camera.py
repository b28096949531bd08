"""The live source of `--source browser`: frames of a viewer's own camera, sent by the page.

One viewer at a time sends, and only that viewer sees the restored frames.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import BufferClosed, ColorTags, LatestFrameBuffer, VideoFrame

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.live.controls import Controls

_POLL_S = 0.1
MAX_SIDE = 1920
"""The largest accepted side of a frame: phones offer 4K, which no CPU restores live."""


class BrowserSource:
    """A source of the frames that one page sends. `read` belongs to one thread, `put` to another.

    It waits for a page without a timeout, and ends with the pipeline.
    """

    def __init__(self, controls: Controls, *, clock: Clock = REAL_CLOCK) -> None:
        """Wait for a viewer to claim it.

        Args:
            controls: The pipeline's: `read` ends when it is stopped.
            clock: Time stamps of the frames, set when they arrive.
        """
        self._controls = controls
        self._clock = clock
        self._buffer: LatestFrameBuffer[VideoFrame] = LatestFrameBuffer()
        self._lock = threading.Lock()
        self._owner: str | None = None
        self._index = 0

    @property
    def name(self) -> str:
        """Return "browser"."""
        return "browser"

    @property
    def paced(self) -> bool:
        """Return False: frames are shown as they arrive."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return None: a browser may change its rate at any time."""
        return None

    @property
    def owner(self) -> str | None:
        """Return the key of the viewer who sends, None where none does."""
        with self._lock:
            return self._owner

    def __enter__(self) -> BrowserSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer.close()

    def read(self) -> VideoFrame | None:
        """Return the newest frame, waiting for one; None once the pipeline is stopped."""
        while not self._controls.stopped:
            try:
                frame = self._buffer.take(_POLL_S)
            except BufferClosed:
                return None
            if frame is not None:
                return frame
        return None

    def claim(self, key: str) -> bool:
        """Make the viewer with that key the owner; return False where another is."""
        with self._lock:
            if self._owner is None:
                self._owner = key
            return self._owner == key

    def release(self, key: str) -> None:
        """Give up ownership, where this viewer has it."""
        with self._lock:
            if self._owner == key:
                self._owner = None

    def put(self, key: str, pixels: Frame) -> None:
        """Put a frame in the latest-frame buffer; ignored unless the viewer is the owner.

        Args:
            key: The viewer's.
            pixels: (H, W, 3) uint8 RGB; the caller must not change it afterwards.
        """
        with self._lock:
            if self._owner != key:
                return
            index, self._index = self._index, self._index + 1
        self._buffer.put(
            VideoFrame(
                pixels=np.ascontiguousarray(pixels),
                index=index,
                captured_s=self._clock.now(),
                color=ColorTags(matrix="bt601"),
            )
        )
