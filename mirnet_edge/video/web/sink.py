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
    from pathlib import Path
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
        certificate: Path | None = None,
        key: Path | None = None,
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
            certificate: PEM; with it the page is https, without it http.
            key: The certificate's, PEM; None where it is in the same file.
            on_open: Gets `addresses` when the page is there, before the first frame.

        Raises:
            MissingDependencyError: aiohttp or aiortc is not installed.
            OptionError: The certificate cannot be used.
        """
        for package in ("aiohttp", "aiortc"):
            require(package, "the page")
        from mirnet_edge.video.web.certificate import secured_by
        from mirnet_edge.video.web.door import Door, is_local, new_token
        from mirnet_edge.video.web.studio import Limits

        if key is not None and certificate is None:
            raise OptionError(f"--key {key} is of no use without --certificate; name both")
        self._secured = None if certificate is None else secured_by(certificate, key)
        self._is_local = is_local(host)
        self._door = Door(token=token or (None if self._is_local else new_token()))
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
        scheme = "http" if self._secured is None else "https"
        hosts = _reachable(self._host)
        return tuple(f"{scheme}://{host}:{self._port}{self._door.prefix}/" for host in hosts)

    @property
    def https_advice(self) -> str:
        """Return how to get https, where a viewer's camera is wanted and needs it; else nothing."""
        from mirnet_edge.video.web.certificate import advice

        if self._camera is None or self._is_local or self._secured is not None:
            return ""
        return advice(_reachable(self._host)[0])

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
        studio = Studio(
            board, self._controls, camera=self._camera, limits=self._limits,
            https_advice=self.https_advice,
        )  # fmt: skip
        server = Server(studio, self._door)
        try:
            async with server.listening(self._host, self._port, self._secured) as port:
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
