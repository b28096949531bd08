"""The live page's web server: the sink that feeds it, routes, TLS.

Certificates are created by the user, with `openssl_command`, and never here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.pages import SHARED, read_asset
from mirnet_edge.video.web.broadcast import INDEX_LIMIT, encode_png
from mirnet_edge.video.web.browser_compute import BROWSER_HEADERS
from mirnet_edge.video.web.sessions import (
    SECURITY_HEADERS,
    TooManyViewers,
    ViewerSession,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from aiohttp.typedefs import Handler

    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.web.broadcast import EncodedFrame, FrameBuffer, ViewerQueue
    from mirnet_edge.video.web.camera import BrowserSource
    from mirnet_edge.video.web.sessions import AccessPolicy, SharedStreams, StreamLimits

logger = logging.getLogger(__name__)

_START_S, _STOP_S = 10.0, 2.0
DEFAULT_PORT = 8321


class WebSink:
    """A sink that serves the live page while it is open; `show` puts the frame and returns."""

    def __init__(
        self,
        controls: Controls,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        camera: BrowserSource | None = None,
        token: str | None = None,
        limits: StreamLimits | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        snapshots: Path | None = None,
        on_open: Callable[[tuple[str, ...]], None] | None = None,
        browser_files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Store the options; `with` starts the server.

        Args:
            controls: The pipeline's, changed by the page's controls.
            host: An address of this machine; one that other machines reach requires a token.
            port: 0 takes any that is free.
            camera: The pipeline's source, where that is a viewer's camera.
            token: The first part of every path; None creates one where the host requires it.
            limits: The number of viewers, and timeouts.
            certificate: PEM; serves https. None serves http.
            key: The certificate's, PEM; None where it is in the same file.
            snapshots: Folder for snapshots of viewers on this machine; None, or a host that other
                machines reach, leaves saving to the browser.
            on_open: Called with `addresses` when the page is served, before the first frame.
            browser_files: What the viewers' browsers restore with, by name
                (`browser_compute.read_browser_files`); None where the pipeline restores.

        Raises:
            MissingDependencyError: aiohttp or aiortc is not installed.
            OptionError: The certificate cannot be used.
        """
        for package in ("aiohttp", "aiortc"):
            require(package, "the page")
        from mirnet_edge.video.web.sessions import AccessPolicy, StreamLimits, is_local, new_token

        if key is not None and certificate is None:
            raise OptionError(f"--key {key} requires --certificate; give both")
        self._tls = None if certificate is None else tls_context(certificate, key)
        self._is_local = is_local(host)
        self._policy = AccessPolicy(token=token or (None if self._is_local else new_token()))
        self._controls, self._camera = controls, camera
        self._host, self._port = host, port
        self._limits = limits or StreamLimits()
        self._snapshots = snapshots if self._is_local else None
        self._on_open = on_open
        self._browser_files = browser_files
        self._frame_buffer: FrameBuffer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the page's URLs, token included; the port is set once the sink is open."""
        scheme = "http" if self._tls is None else "https"
        hosts = _reachable_hosts(self._host)
        return tuple(f"{scheme}://{host}:{self._port}{self._policy.prefix}/" for host in hosts)

    @property
    def https_advice(self) -> str:
        """Return how to serve https, where a viewer's camera requires it; else an empty text."""
        if self._camera is None or self._is_local or self._tls is not None:
            return ""
        return https_advice(_reachable_hosts(self._host)[0])

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

    def __exit__(self, *_: object) -> None:
        loop, stop, thread = self._loop, self._stop, self._thread
        if thread is None or not thread.is_alive() or loop is None or stop is None:
            return
        loop.call_soon_threadsafe(stop.set)
        thread.join(_STOP_S)

    def show(self, shown: DisplayedFrame) -> None:
        """Put a frame for the viewers.

        Raises:
            BaseException: The server's failure.
        """
        self._raise_error()
        if self._frame_buffer is not None:
            self._frame_buffer.put(shown)

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again on the pipeline's thread
            self._error = error
        finally:
            self._frame_buffer = None
            self._ready.set()

    async def _serve(self) -> None:
        from mirnet_edge.video.web.broadcast import FrameBuffer
        from mirnet_edge.video.web.sessions import SharedStreams

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        frame_buffer = FrameBuffer(self._loop)
        streams = SharedStreams(
            frame_buffer, self._controls, camera=self._camera, limits=self._limits,
            https_advice=self.https_advice, snapshots=self._snapshots,
            browser_restores=self._browser_files is not None,
        )  # fmt: skip
        server = Server(streams, self._policy, self._browser_files)
        try:
            async with server.listen(self._host, self._port, self._tls) as port:
                self._port, self._frame_buffer = port, frame_buffer
                self._ready.set()
                await self._stop.wait()
        except OSError as error:
            raise OptionError(
                f"the page cannot be served on {self._host}:{self._port}: {error.strerror}; choose "
                "another with --port, or an address of this machine with --host"
            ) from error


_BOUNDARY = "frame"
_ASSETS = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "streams.js": ("streams.js", "text/javascript"),
    "chart.js": ("chart.js", "text/javascript"),
    "local.js": ("local.js", "text/javascript"),
}
_CONTENT_TYPES = {
    "css": "text/css", "js": "text/javascript", "mjs": "text/javascript", "svg": "image/svg+xml",
    "json": "application/json",
}  # fmt: skip
_MAX_MESSAGE_BYTES = 64 << 10  # an offer has 3 to 8 KiB
_SEND_BUFFER_BYTES = 128 << 10  # of the system, for a slow viewer: one or two frames
_SHUTDOWN_S = 0.3
_CONNECTED_S = 0.5  # between two looks at a connection for which there is no frame
_ABORT_S = 0.01  # for the event loop to close aborted sockets


class Server:
    """The routes of the page, behind its access policy. Belongs to one event loop."""

    def __init__(
        self,
        streams: SharedStreams,
        policy: AccessPolicy,
        browser_files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load the page's files; `listen` serves them.

        Args:
            streams: What the viewers are sent.
            policy: Which requests are served.
            browser_files: As `WebSink` takes them.
        """
        self._streams = streams
        self._headers = SECURITY_HEADERS | ({} if browser_files is None else BROWSER_HEADERS)
        self._policy = policy
        self._silent: set[object] = set()  # connections without a whole request so far
        self._sockets: set[web.WebSocketResponse] = set()
        folder = files(__package__) / "page"
        self._assets = {
            name: ((folder / file).read_bytes(), kind) for name, (file, kind) in _ASSETS.items()
        }
        for asset in SHARED:
            name = asset.rpartition("/")[2]
            kind = _CONTENT_TYPES[name.rpartition(".")[2]]
            self._assets[name] = (read_asset(asset), kind)
        for name, content in (browser_files or {}).items():
            kind = _CONTENT_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
            self._assets[name] = (content, kind)

    def application(self) -> web.Application:
        """Return the aiohttp application: its routes, each checked by the access policy."""
        application = web.Application(middlewares=[self._guard], client_max_size=_MAX_MESSAGE_BYTES)
        application.on_response_prepare.append(self._add_headers)
        application.on_shutdown.append(self._close_sockets)
        prefix = self._policy.prefix
        for name in self._assets:
            application.router.add_get(f"{prefix}/{name}", self._asset)
        application.router.add_get(f"{prefix}/session", self._session)
        application.router.add_get(f"{prefix}/stream.mjpg", self._mjpeg)
        application.router.add_get(f"{prefix}/snapshot.png", self._snapshot)
        return application

    @asynccontextmanager
    async def listen(
        self, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[int]:
        """Serve while the block lasts, and yield the port.

        Args:
            host: An address of this machine.
            port: 0 takes any that is free.
            tls: Serves https; None serves http.

        Raises:
            OSError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        limits = self._streams.limits
        runner = web.AppRunner(
            self.application(), shutdown_timeout=_SHUTDOWN_S,
            access_log=None,  # it would hold the token
            logger=_request_logger(),
            keepalive_timeout=limits.keep_alive_s, lingering_time=limits.request_s,
        )  # fmt: skip
        await runner.setup()
        encoding = [
            asyncio.ensure_future(stream.run())
            for stream in (self._streams.vp8, self._streams.jpeg)
        ]
        try:
            make_protocol = runner.server
            if make_protocol is None:
                raise RuntimeError("aiohttp's runner has no server after setup")

            def connect() -> asyncio.Protocol:
                protocol = make_protocol()
                self._silent.add(protocol)
                loop.call_later(limits.request_s, self._drop_if_silent, protocol)
                return protocol

            listener = await loop.create_server(
                connect, host, port, ssl=tls,
                # a connection that sends nothing is dropped during the handshake, too
                ssl_handshake_timeout=limits.request_s if tls else None,
            )  # fmt: skip
            try:
                yield listener.sockets[0].getsockname()[1]
            finally:
                listener.close()
        finally:
            for task in encoding:
                task.cancel()
            still_open = _transports(runner)
            await runner.cleanup()
            for transport in still_open:
                transport.abort()  # https would wait for each viewer to close
            await asyncio.gather(*encoding, return_exceptions=True)
            await asyncio.sleep(_ABORT_S)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._silent.discard(request.protocol)
        transport = request.transport
        if transport is None:
            return web.Response()  # the viewer left
        transport.set_write_buffer_limits(0)  # sending ends when the system has all bytes
        try:
            self._policy.check(request)
            response = await handler(request)
        except web.HTTPException as error:
            await self._send(request, error, transport)
            raise
        except ConnectionError:
            return web.Response()  # the viewer left during the response
        if isinstance(response, web.Response):
            await self._send(request, response, transport)
        return response

    async def _send(
        self, request: web.Request, response: web.Response, transport: asyncio.Transport
    ) -> None:
        """Send a whole response; drop a viewer who does not take it in time."""
        limits = self._streams.limits
        size = response.content_length or 0
        try:
            await response.prepare(request)
            await asyncio.wait_for(
                response.write_eof(), limits.send_s + size / limits.send_bytes_per_s
            )
        except asyncio.TimeoutError:
            logger.info("a viewer is dropped: it did not take a response in time")
            transport.abort()
        except ConnectionError:
            pass  # they left

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        del request
        response.headers.update(self._headers)

    async def _asset(self, request: web.Request) -> web.Response:
        content, kind = self._assets[request.path.removeprefix(f"{self._policy.prefix}/")]
        charset = None if kind == "application/octet-stream" else "utf-8"
        return web.Response(body=content, content_type=kind, charset=charset)

    async def _session(self, request: web.Request) -> web.StreamResponse:
        with self._admit_viewer():
            live = web.WebSocketResponse(
                heartbeat=self._streams.limits.heartbeat_s,
                max_msg_size=_MAX_MESSAGE_BYTES,
                compress=False,
                timeout=_SHUTDOWN_S,
            )
            await live.prepare(request)
            self._sockets.add(live)
            try:
                await ViewerSession(live, self._streams).run()
            finally:
                self._sockets.discard(live)
        return live

    async def _mjpeg(self, request: web.Request) -> web.StreamResponse:
        self._check_is_visible(request)
        with self._admit_viewer():
            response = web.StreamResponse(
                headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"}
            )
            await response.prepare(request)
            _limit_send_buffer(request)
            queue = self._streams.jpeg.subscribe()
            try:
                while self._streams.is_visible_to(request.query.get("key")):
                    frame = await _take_while_connected(queue, request)
                    head = (
                        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                        f"Content-Length: {len(frame.content)}\r\n"
                        f"X-Frame: {frame.index % INDEX_LIMIT}\r\n\r\n"
                    )
                    part = head.encode() + frame.content + b"\r\n"
                    await asyncio.wait_for(response.write(part), self._streams.limits.send_s)
                await asyncio.wait_for(response.write_eof(), self._streams.limits.send_s)
            except asyncio.TimeoutError:
                logger.info("a viewer is dropped: it did not take what was sent in time")
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                pass  # they left
            finally:
                self._streams.jpeg.unsubscribe(queue)
        return response

    async def _snapshot(self, request: web.Request) -> web.Response:
        self._check_is_visible(request)
        _limit_send_buffer(request)
        index = request.query.get("index")
        if index is None:
            shown = self._streams.frame_buffer.newest
        elif index.isascii() and index.isdigit() and len(index) <= len(str(INDEX_LIMIT)):
            shown = self._streams.frame_buffer.find(int(index))
        else:
            raise web.HTTPBadRequest(
                text=f"index must be a frame's index, a whole number below {INDEX_LIMIT}"
            )
        if shown is None:
            raise web.HTTPNotFound(
                text="this frame is no longer kept; pause or freeze the video first"
            )
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(None, encode_png, shown.after)
        name = f"mirnet-{shown.before.index}.png"
        return web.Response(
            body=content,
            content_type="image/png",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @contextmanager
    def _admit_viewer(self) -> Iterator[None]:
        try:
            with self._streams.admit_viewer():
                yield
        except TooManyViewers:
            raise web.HTTPServiceUnavailable(
                text=f"the limit of {self._streams.limits.viewers} viewers is reached; "
                "close another page"
            ) from None

    def _check_is_visible(self, request: web.Request) -> None:
        if not self._streams.is_visible_to(request.query.get("key")):
            raise web.HTTPForbidden(text="a viewer's own camera is shown to that viewer only")

    def _drop_if_silent(self, protocol: web.RequestHandler) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    async def _close_sockets(self, application: web.Application) -> None:
        del application
        for live in list(self._sockets):
            with suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(live.close(code=1001), _SHUTDOWN_S)


def _request_logger() -> logging.Logger:
    """Return the logger of aiohttp's server, to which a malformed request is no error."""
    requests = logging.getLogger(f"{__name__}.requests")
    requests.addFilter(_is_no_malformed_request)
    return requests


def _is_no_malformed_request(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, HttpProcessingError):  # answered with 400
        logger.debug("a malformed request: %s", " ".join(str(error).split()))
        return False
    return True


def _transports(runner: web.AppRunner) -> list[asyncio.Transport]:
    """Return the transports of open connections, which aiohttp forgets when it closes them."""
    connections = [] if runner.server is None else runner.server.connections
    return [protocol.transport for protocol in connections if protocol.transport is not None]


async def _take_while_connected(queue: ViewerQueue, request: web.Request) -> EncodedFrame:
    """Return a viewer's next frame.

    Raises:
        ConnectionResetError: The viewer left while there was none.
    """
    while True:
        try:
            return await asyncio.wait_for(queue.take(), _CONNECTED_S)
        except asyncio.TimeoutError:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the viewer left") from None


def _limit_send_buffer(request: web.Request) -> None:
    """Limit what the system buffers for a slow viewer: it would be old frames."""
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)


_FILE, _KEY = "certificate.pem", "key.pem"


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the TLS context of an https server.

    Args:
        certificate: PEM: the chain, the server's own first.
        key: PEM without a passphrase; None where it is in the certificate's file.

    Raises:
        OptionError: They cannot be read, or do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    options = f"--certificate {certificate}{'' if key is None else f' --key {key}'}"
    try:
        # without a passphrase OpenSSL would prompt for one on the terminal
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise OptionError(
            f"{options}: expected a certificate and its key without passphrase, both PEM, found: "
            f"{reason}. Create both with: {openssl_command('127.0.0.1')}"
        ) from error
    return context


def openssl_command(host: str) -> str:
    """Return the command that creates a certificate and its key for a host, valid for a year."""
    kind = "IP" if host.replace(".", "").isdecimal() or ":" in host else "DNS"
    return (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout {_KEY} -out {_FILE} "
        f"-subj /CN={host.strip('[]')} -addext subjectAltName={kind}:{host.strip('[]')}"
    )


def https_advice(host: str) -> str:
    """Return in one line how to serve the page at HOST by https, as camera access requires."""
    return f"{openssl_command(host)}, then mirnet live --certificate {_FILE} --key {_KEY}"


def _reachable_hosts(host: str) -> list[str]:
    """Return the host names in the URLs of a server that listens on HOST."""
    if host not in ("0.0.0.0", "::", ""):
        return [f"[{host}]" if ":" in host else host]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it selects this machine's address
        except OSError:
            return ["127.0.0.1"]
        return [probe.getsockname()[0]]
