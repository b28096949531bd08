"""One encoder, many viewers: each frame is encoded once, and whoever is too slow loses frames."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mirnet_edge.video.low_delay import CLOCK_RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.video.web.board import Board
    from mirnet_edge.video.web.encoders import Encoded, Encoder

_KEY_EVERY_S = 4.0  # what a viewer waits at most for a whole picture, whatever was lost
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

    def __init__(self, board: Board, encoder: Callable[[], Encoder], *, depth: int) -> None:
        """Encode nothing yet.

        Args:
            board: Where the frames are.
            encoder: What makes the encoder; used on a thread of its own.
            depth: How many frames may wait for one viewer.
        """
        self._board = board
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
        """Return a new viewer, who begins with the picture at hand."""
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
        """Ask for a whole picture soon: somebody's decoder is stuck."""
        self._wanted = True

    async def run(self) -> None:
        """Encode until cancelled."""
        version = 0
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "encode") as thread:
            while True:
                await self._watched.wait()
                wanted, key = self._wanted, self._key_is_due(time.monotonic())
                # a new viewer gets the picture at hand, were it the last for a long time
                version, shown = await self._board.after(0 if wanted and key else version)
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
