"""The routes: page, session, MJPEG stream, snapshot; and a listener that drops who says nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

from mirnet_edge.video.web.door import HEADERS
from mirnet_edge.video.web.encoders import png_of
from mirnet_edge.video.web.picture import INDEX_LIMIT
from mirnet_edge.video.web.session import Session
from mirnet_edge.video.web.studio import TooManyViewers

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from aiohttp.typedefs import Handler

    from mirnet_edge.video.web.door import Door
    from mirnet_edge.video.web.studio import Studio

logger = logging.getLogger(__name__)

_BOUNDARY = "frame"
_ASSETS = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "picture.js": ("picture.js", "text/javascript"),
    "streams.js": ("streams.js", "text/javascript"),
    "chart.js": ("chart.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_LARGEST_MESSAGE = 64 << 10  # an offer has 3 to 8 KiB
_SEND_BUFFER = 128 << 10  # what the system may hold back for a slow viewer: a frame or two
_SHUTDOWN_S = 0.3
_LAST_ROUNDS_S = 0.01  # in which the loop closes the sockets of what was aborted


class Server:
    """What every request meets. Belongs to one event loop."""

    def __init__(self, studio: Studio, door: Door) -> None:
        """Listen nowhere yet."""
        self._studio = studio
        self._door = door
        self._unheard: set[object] = set()  # connections without a whole request so far
        self._sockets: set[web.WebSocketResponse] = set()
        folder = files(__package__) / "page"
        self._assets = {
            name: ((folder / file).read_bytes(), kind) for name, (file, kind) in _ASSETS.items()
        }

    def application(self) -> web.Application:
        """Return the routes, behind the door."""
        application = web.Application(middlewares=[self._guard], client_max_size=_LARGEST_MESSAGE)
        application.on_response_prepare.append(_add_headers)
        application.on_shutdown.append(self._close_sockets)
        prefix = self._door.prefix
        for name in self._assets:
            application.router.add_get(f"{prefix}/{name}", self._asset)
        application.router.add_get(f"{prefix}/session", self._session)
        application.router.add_get(f"{prefix}/stream.mjpg", self._mjpeg)
        application.router.add_get(f"{prefix}/snapshot.png", self._snapshot)
        return application

    @asynccontextmanager
    async def listening(
        self, host: str, port: int, secured: ssl.SSLContext | None = None
    ) -> AsyncIterator[int]:
        """Serve while the block lasts; gives the port, which 0 lets the system choose.

        Args:
            host: An address of this machine.
            port: On it.
            secured: Serves https; None serves http.

        Raises:
            OSError: Nobody can listen there.
        """
        loop = asyncio.get_running_loop()
        runner = web.AppRunner(
            self.application(), access_log=None, shutdown_timeout=_SHUTDOWN_S
        )  # an access log would hold the token
        await runner.setup()
        serving = [
            asyncio.ensure_future(stream.run()) for stream in (self._studio.vp8, self._studio.jpeg)
        ]
        try:
            make = runner.server
            if make is None:
                raise RuntimeError("aiohttp's runner has no server after setup")

            def connect() -> asyncio.Protocol:
                protocol = make()
                self._unheard.add(protocol)
                loop.call_later(self._studio.limits.request_s, self._drop_if_silent, protocol)
                return protocol

            listener = await loop.create_server(
                connect, host, port, ssl=secured,
                # who says nothing is dropped before there is a request, too
                ssl_handshake_timeout=self._studio.limits.request_s if secured else None,
            )  # fmt: skip
            try:
                yield listener.sockets[0].getsockname()[1]
            finally:
                listener.close()
        finally:
            for stream in serving:
                stream.cancel()
            still_open = _transports(runner)
            await runner.cleanup()
            for transport in still_open:
                transport.abort()  # https would wait for each viewer's goodbye
            await asyncio.gather(*serving, return_exceptions=True)
            await asyncio.sleep(_LAST_ROUNDS_S)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._unheard.discard(request.protocol)
        self._door.check(request)
        return await handler(request)

    async def _asset(self, request: web.Request) -> web.Response:
        content, kind = self._assets[request.path.removeprefix(f"{self._door.prefix}/")]
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def _session(self, request: web.Request) -> web.StreamResponse:
        with self._admitted():
            live = web.WebSocketResponse(
                heartbeat=self._studio.limits.heartbeat_s,
                max_msg_size=_LARGEST_MESSAGE,
                timeout=_SHUTDOWN_S,
            )
            await live.prepare(request)
            self._sockets.add(live)
            try:
                await Session(live, self._studio).run()
            finally:
                self._sockets.discard(live)
        return live

    async def _mjpeg(self, request: web.Request) -> web.StreamResponse:
        self._check_may_see(request)
        with self._admitted():
            response = web.StreamResponse(
                headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"}
            )
            await response.prepare(request)
            _hold_back_little(request)
            viewer = self._studio.jpeg.join()
            try:
                while self._studio.may_see(request.query.get("key")):
                    frame = await viewer.take()
                    head = (
                        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                        f"Content-Length: {len(frame.content)}\r\n"
                        f"X-Frame: {frame.index % INDEX_LIMIT}\r\n\r\n"
                    )
                    part = head.encode() + frame.content + b"\r\n"
                    await asyncio.wait_for(response.write(part), self._studio.limits.send_s)
            except asyncio.TimeoutError:
                logger.info("a viewer who took nothing is dropped")
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                pass  # they left
            finally:
                self._studio.jpeg.leave(viewer)
        return response

    async def _snapshot(self, request: web.Request) -> web.Response:
        self._check_may_see(request)
        wanted = request.query.get("index")
        if wanted is None:
            shown = self._studio.board.newest
        elif wanted.isascii() and wanted.isdigit():
            shown = self._studio.board.find(int(wanted))
        else:
            raise web.HTTPBadRequest(text="index must be a frame's number")
        if shown is None:
            raise web.HTTPNotFound(text="this frame is no longer there; freeze the picture first")
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(None, png_of, shown.after)
        name = f"mirnet-{shown.before.index}.png"
        return web.Response(
            body=content,
            content_type="image/png",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        try:
            with self._studio.admitted():
                yield
        except TooManyViewers:
            raise web.HTTPServiceUnavailable(
                text=f"{self._studio.limits.viewers} viewers are here already, which is the limit"
            ) from None

    def _check_may_see(self, request: web.Request) -> None:
        if not self._studio.may_see(request.query.get("key")):
            raise web.HTTPForbidden(text="a viewer's own camera is shown to that viewer only")

    def _drop_if_silent(self, protocol: web.RequestHandler) -> None:
        if protocol in self._unheard:
            self._unheard.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    async def _close_sockets(self, application: web.Application) -> None:
        del application
        for live in list(self._sockets):
            with suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(live.close(code=1001), _SHUTDOWN_S)


def _transports(runner: web.AppRunner) -> list[asyncio.Transport]:
    """Return what the open connections go through; aiohttp forgets it when it closes them."""
    connections = [] if runner.server is None else runner.server.connections
    return [protocol.transport for protocol in connections if protocol.transport is not None]


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(HEADERS)


def _hold_back_little(request: web.Request) -> None:
    """Let the system keep little of what a slow viewer does not take: it would be old frames."""
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
