"""`--source browser`: the camera of whoever has the page open, sent in, restored, sent back.

One viewer at a time sends, and only that viewer sees the image.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import BufferClosed, ColorTags, LatestFrameBuffer, VideoFrame

if TYPE_CHECKING:
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.live.controls import Controls

_GLANCE_S = 0.1
LONGEST_SIDE = 1920
"""What is larger is refused: a phone may offer 4K, and no CPU restores that live."""


class BrowserSource:
    """Gives the frames that a page sends. `read` belongs to one thread, `give` to the server's.

    It waits for a page without end, and ends with the pipeline.
    """

    def __init__(self, controls: Controls, *, clock: Clock = REAL_CLOCK) -> None:
        """Nobody sends yet.

        Args:
            controls: The pipeline's: `read` ends when it is stopped.
            clock: Stamps the frames when they come.
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
        """Return False: frames come when they come."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return None: a browser changes its rate as it likes."""
        return None

    @property
    def owner(self) -> str | None:
        """Return the key of the viewer who sends, None where nobody does."""
        with self._lock:
            return self._owner

    def __enter__(self) -> BrowserSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._buffer.close()

    def read(self) -> VideoFrame | None:
        """Return the newest frame, waiting for one; None once the pipeline is stopped."""
        while not self._controls.stopped:
            try:
                frame = self._buffer.take(_GLANCE_S)
            except BufferClosed:
                return None
            if frame is not None:
                return frame
        return None

    def claim(self, key: str) -> bool:
        """Let the viewer of that key send; False where another one does."""
        with self._lock:
            if self._owner is None:
                self._owner = key
            return self._owner == key

    def release(self, key: str) -> None:
        """Let others send, where this viewer did."""
        with self._lock:
            if self._owner == key:
                self._owner = None

    def give(self, key: str, pixels: Frame) -> None:
        """Leave a frame; an older one that waits is dropped. Ignored from who may not send.

        Args:
            key: Of the viewer who sends.
            pixels: (H, W, 3) uint8 RGB, not written to any more.
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
