"""A sink that publishes what is shown to an RTSP server, and goes on where that comes and goes.

Live ─ Publisher.show ─► Detached: mailbox ─► its thread: LowDelayEncoder ─► RtspSession
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import VideoError
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.low_delay import CLOCK_RATE, LowDelayEncoder
from mirnet_edge.video.rtsp import RtspSession
from mirnet_edge.video.sinks import Detached

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mirnet_edge.video.frames import Shown

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
_LEAVE_S = 1.0  # a server that takes nothing more may hold up the end for so long


class Publisher:
    """Publishes the newest frame, on a thread of its own; `show` only leaves it there.

    A server that is slow loses frames; one that is not there, or went away, is tried again and
    again, after pauses that grow to four seconds. Each loss and each return is told once.
    """

    def __init__(self, url: str, *, tell: Callable[[str], None] = logger.warning) -> None:
        """Remember the address; the first frame is what connects.

        Args:
            url: rtsp://[USER:PASSWORD@]HOST[:PORT]/NAME.
            tell: Gets one line when the server is lost, found, or found again. Called from the
                publisher's own thread.

        Raises:
            OptionError: Another kind of address.
            MissingDependencyError: PyAV is not installed.
        """
        require("av", "publishing")
        self._sending = _Sending(url, tell)
        self._detached = Detached(self._sending, patience_s=_LEAVE_S)

    @property
    def published(self) -> int:
        """Return how many frames were sent."""
        return self._sending.published

    @property
    def dropped(self) -> int:
        """Return how many frames the server was too slow for, or missed while it was away."""
        return self._sending.missed + self._detached.dropped

    @property
    def losses(self) -> int:
        """Return how often the server was lost."""
        return self._sending.losses

    def summary(self) -> str:
        """Return in one line what it came to."""
        times = "once" if self.losses == 1 else f"{self.losses} times"
        lost = f"; the server was lost {times}" if self.losses else ""
        return f"{self._sending.name}: {self.published} frames sent, {self.dropped} not sent{lost}"

    def __enter__(self) -> Publisher:
        self._detached.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._detached.__exit__(kind, error, traceback)

    def show(self, shown: Shown) -> None:
        """Leave a frame for the server; one that still waits is replaced."""
        self._detached.show(shown)


class _Sending:
    """The work on the publisher's thread."""

    def __init__(self, url: str, tell: Callable[[str], None]) -> None:
        self._session = RtspSession(url)
        self.name = self._session.name
        self._tell = tell
        self._encoder: LowDelayEncoder | None = None
        self._size = (0, 0)
        self._origin_s = 0.0
        self._last: Shown | None = None
        self._last_ticks = -1
        self._pause_s, self._next_try_s = _FIRST_PAUSE_S, 0.0
        self._trouble = self._was_there = False
        self.published = self.missed = self.losses = 0

    def __enter__(self) -> _Sending:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def show(self, shown: Shown) -> None:
        """Send a frame, connecting where that is due; a fault of the server's is told, not raised.

        A picture that stands still is sent again as often as it is shown: servers drop who is
        silent.
        """
        if self._encoder is None and REAL_CLOCK.now() < self._next_try_s:
            self.missed += 1
            return
        try:
            self._send(shown)
        except VideoError as error:
            self.missed += 1
            self._lose(error)
        else:
            self.published += 1
            self._find()

    def _send(self, shown: Shown) -> None:
        height, width = shown.after.shape[:2]
        if self._encoder is not None and self._size != (height, width):
            self._hang_up()  # a stream has one size; players follow a new one
        fresh = self._encoder is None
        encoder = self._encoder or LowDelayEncoder(height, width, shown.before.colour)
        if fresh:
            self._size, self._origin_s = (height, width), shown.before.captured_s
            self._last_ticks = -1
        ticks = self._ticks(shown)
        units = encoder.encode(shown.after, ticks)
        if fresh:
            self._session.connect(units)
            self._encoder = encoder
        self._session.send(units, ticks)

    def _ticks(self, shown: Shown) -> int:
        """Return a frame's time: its capture's; of a picture that stands still, now."""
        stands = self._last is not None and shown.after is self._last.after
        at_s = REAL_CLOCK.now() if stands else shown.before.captured_s
        self._last = shown
        self._last_ticks = max(round((at_s - self._origin_s) * CLOCK_RATE), self._last_ticks + 1)
        return self._last_ticks

    def _lose(self, error: VideoError) -> None:
        connected = self._encoder is not None
        self._hang_up()
        self._next_try_s = REAL_CLOCK.now() + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_PAUSE_S)
        self.losses += connected
        if not self._trouble:
            self._tell(f"{error}; trying again")
        self._trouble = True

    def _find(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        if self._trouble or not self._was_there:
            again = " again" if self._was_there else ""
            self._tell(f"publishing to {self.name}{again}")
        self._trouble, self._was_there = False, True

    def _hang_up(self) -> None:
        self._encoder = None
        self._session.close()
