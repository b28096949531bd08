"""The page as a sink of the pipeline: a server on a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mirnet_edge.video.controls import Controls
    from mirnet_edge.video.frames import Shown
    from mirnet_edge.video.web.board import Board
    from mirnet_edge.video.web.camera import BrowserSource
    from mirnet_edge.video.web.studio import Limits

_START_S, _STOP_S = 10.0, 2.0
DEFAULT_PORT = 8321


class WebSink:
    """Serves the page between `with` and its end; `show` only leaves the frame and returns."""

    def __init__(
        self,
        controls: Controls,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        camera: BrowserSource | None = None,
        token: str | None = None,
        limits: Limits | None = None,
        on_open: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        """Say where to listen; nothing is opened yet.

        Args:
            controls: The pipeline's; the page's buttons act on it.
            host: An address of this machine. One that others reach makes the token necessary.
            port: 0 takes any that is free.
            camera: The pipeline's source, where that is the viewer's camera.
            token: The first part of every path; None makes one where the host needs it.
            limits: On viewers and their patience.
            on_open: Gets `addresses` when the page is there, before the first frame.

        Raises:
            MissingDependencyError: aiohttp or aiortc is not installed.
        """
        for package in ("aiohttp", "aiortc"):
            require(package, "the page")
        from mirnet_edge.video.web.door import Door, is_local, new_token
        from mirnet_edge.video.web.studio import Limits

        needs_token = not is_local(host)
        self._door = Door(token=token or (new_token() if needs_token else None))
        self._controls, self._camera = controls, camera
        self._host, self._port = host, port
        self._limits = limits or Limits()
        self._on_open = on_open
        self._board: Board | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where the page is, the token included; the port is known once it is open."""
        hosts = _reachable(self._host)
        return tuple(f"http://{host}:{self._port}{self._door.prefix}/" for host in hosts)

    def __enter__(self) -> WebSink:
        self._ready.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_S):
            raise VideoError(f"the page's server did not start within {_START_S:g} s")
        self._raise_error()
        if self._on_open is not None:
            self._on_open(self.addresses)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, stop, thread = self._loop, self._stop, self._thread
        if thread is None or not thread.is_alive() or loop is None or stop is None:
            return
        loop.call_soon_threadsafe(stop.set)
        thread.join(_STOP_S)

    def show(self, shown: Shown) -> None:
        """Leave a frame for the viewers.

        Raises:
            BaseException: What the server failed with.
        """
        self._raise_error()
        if self._board is not None:
            self._board.put(shown)

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # carried to the pipeline's thread
            self._error = error
        finally:
            self._board = None
            self._ready.set()

    async def _serve(self) -> None:
        from mirnet_edge.video.web.board import Board
        from mirnet_edge.video.web.server import Server
        from mirnet_edge.video.web.studio import Studio

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        board = Board(self._loop)
        studio = Studio(board, self._controls, camera=self._camera, limits=self._limits)
        try:
            async with Server(studio, self._door).listening(self._host, self._port) as port:
                self._port, self._board = port, board
                self._ready.set()
                await self._stop.wait()
        except OSError as error:
            raise OptionError(
                f"the page cannot be served on {self._host}:{self._port}: {error.strerror}; choose "
                "another with --port, or an address of this machine with --host"
            ) from error


def _reachable(host: str) -> list[str]:
    """Return the names under which a browser finds what listens on HOST."""
    if host not in ("0.0.0.0", "::", ""):
        return [f"[{host}]" if ":" in host else host]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it asks which address would be ours
        except OSError:
            return ["127.0.0.1"]
        return [probe.getsockname()[0]]
