"""Where the pipeline leaves what it shows, and the page's streams find it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirnet_edge.video.frames import Shown

_KEPT_BYTES = 64 << 20  # a second or two of VGA: longer than a picture takes to reach a viewer


class Board:
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
        self._recent: deque[Shown] = deque()
        self._bytes = 0
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def newest(self) -> Shown | None:
        """Return what was shown last, None where nothing was."""
        with self._lock:
            return self._recent[-1] if self._recent else None

    def put(self, shown: Shown) -> None:
        """Leave what is shown now. Ignored once the loop is closed."""
        with self._lock:
            if self._recent and self._recent[-1].before.index == shown.before.index:
                self._bytes -= _size(self._recent.pop())  # a frozen picture with newer figures
            self._recent.append(shown)
            self._bytes += _size(shown)
            while self._bytes > self._kept_bytes and len(self._recent) > 1:
                self._bytes -= _size(self._recent.popleft())
            self._version += 1
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def find(self, index: int) -> Shown | None:
        """Return what was shown under an index, None where it was forgotten or never was."""
        with self._lock:
            return next((one for one in self._recent if one.before.index == index), None)

    async def after(self, version: int) -> tuple[int, Shown]:
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


def _size(shown: Shown) -> int:
    return shown.before.pixels.nbytes + shown.after.nbytes
