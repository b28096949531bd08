"""What all viewers share: the board, one stream of each kind, the pipeline's controls, limits."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.video.web.broadcast import Broadcast
from mirnet_edge.video.web.encoders import JpegEncoder, Vp8Encoder

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from mirnet_edge.video.controls import Controls
    from mirnet_edge.video.web.board import Board
    from mirnet_edge.video.web.camera import BrowserSource

_VP8_DEPTH, _JPEG_DEPTH = 6, 1  # VP8 frames build on each other: a hiccup must not cost a key frame


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many viewers, and how long to wait for one."""

    viewers: int = 8
    """Pages and MJPEG streams together."""
    request_s: float = 5.0
    """For a whole request to arrive on a new connection."""
    send_s: float = 5.0
    """For a viewer to take what is sent."""
    heartbeat_s: float = 6.0
    """Between two pings; half of it is what an answer may take."""
    connect_s: float = 10.0
    """For WebRTC to connect."""


class TooManyViewers(Exception):  # noqa: N818  # answered with 503, no fault
    """The limit is reached."""


class Studio:
    """Belongs to one event loop."""

    def __init__(
        self,
        board: Board,
        controls: Controls,
        *,
        camera: BrowserSource | None,
        limits: Limits,
        https_advice: str = "",
    ) -> None:
        """Send nothing yet.

        Args:
            board: What the pipeline shows.
            controls: What viewers' buttons do.
            camera: Where viewers' cameras go; None where the source is another.
            limits: For all viewers.
            https_advice: How this server is to be started so that browsers give it their camera;
                empty where they do.
        """
        self.board = board
        self.controls = controls
        self.camera = camera
        self.limits = limits
        self.https_advice = https_advice
        self.vp8 = Broadcast(board, Vp8Encoder, depth=_VP8_DEPTH)
        self.jpeg = Broadcast(board, JpegEncoder, depth=_JPEG_DEPTH)
        self.viewers = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def may_see(self, key: str | None) -> bool:
        """Say whether the viewer of that key may see the picture: a viewer's camera is theirs."""
        return self.camera is None or (key is not None and self.camera.owner == key)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a viewer while the block lasts.

        Raises:
            TooManyViewers: There are as many as may be.
        """
        if self.viewers >= self.limits.viewers:
            raise TooManyViewers
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run something beside everything else, and keep it until it is done."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
