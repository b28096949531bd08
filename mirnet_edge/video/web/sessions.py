"""The live page's access policy, viewer sessions, shared streams and WebSocket messages.

A viewer is dropped, with its peer connection and its camera, when it does not answer pings or does
not take what is sent in time.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from aiohttp import WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mirnet_edge.errors import MirnetEdgeError, OptionError, VideoError
from mirnet_edge.video.live.sinks import save_snapshot
from mirnet_edge.video.web.broadcast import (
    INDEX_LIMIT,
    Broadcast,
    JpegEncoder,
    Vp8Encoder,
    side_by_side,
    source_alone,
)
from mirnet_edge.video.web.peer import BackgroundTasks, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.web.broadcast import FrameBuffer
    from mirnet_edge.video.web.camera import BrowserSource

logger = logging.getLogger(__name__)

# access policy

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

SECURITY_HEADERS = {
    # the page loads nothing from other hosts, runs no other script, and is not framed
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """Which requests are served; the others get 403, whatever their path.

    With a token, those whose path begins with it. Without one, those to this machine under its own
    name: a site that the viewer's browser visits reaches the page neither under another name (DNS
    rebinding) nor from its own pages (`Origin`).
    """

    token: str | None
    """The first part of every path; None where only this machine can connect."""

    @property
    def prefix(self) -> str:
        """Return the beginning of every path, without a slash at its end."""
        return "" if self.token is None else f"/{self.token}"

    def check(self, request: web.Request) -> None:
        """Raise unless the request is allowed.

        Raises:
            web.HTTPForbidden: The token is missing or wrong, or the request is another site's.
        """
        if self.token is not None:
            # a request's target may be an address, or `*`, and hold any bytes
            first = request.path.removeprefix("/").partition("/")[0]
            if not hmac.compare_digest(first.encode(errors="surrogateescape"), self.token.encode()):
                raise web.HTTPForbidden(text="this address lacks the token; use the whole address")
        elif _split(f"//{request.host}").hostname not in _LOCAL_NAMES:
            raise web.HTTPForbidden(text="open this page under 127.0.0.1")
        origin = request.headers.get("Origin")
        if origin is not None and _split(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another site's page may not use this one")


def is_local(host: str) -> bool:
    """Return whether a server that listens on HOST can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may stand for any address


def new_token() -> str:
    """Return a random token of 128 bits, made of characters that an address may hold."""
    return secrets.token_urlsafe(16)


def _split(address: str) -> SplitResult:
    """Return the parts of an address that a stranger sent; empty ones where it is malformed."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


# messages between page and server


class _PageMessage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConnectPeer(_PageMessage):
    """Connect by WebRTC."""

    type: Literal["offer"]
    sdp: str


class RequestKeyFrame(_PageMessage):
    """Send a key frame: the viewer's decoder is stuck."""

    type: Literal["refresh"]


class DisconnectPeer(_PageMessage):
    """End WebRTC: the page falls back to MJPEG."""

    type: Literal["disconnect"]


class SetRestoring(_PageMessage):
    """Switch restoration on or off."""

    type: Literal["restoring"]
    on: bool


class SetFrozen(_PageMessage):
    """Freeze the displayed frame, or resume."""

    type: Literal["frozen"]
    on: bool


class ChooseConfiguration(_PageMessage):
    """Change to another configuration (backend and precision)."""

    type: Literal["configuration"]
    configuration: str


class SetStrength(_PageMessage):
    """Mix less or more of the restored frame with the source's."""

    type: Literal["strength"]
    strength: Annotated[float, Field(ge=0.0, le=1.0)]


class SetPaused(_PageMessage):
    """Pause a file, or resume."""

    type: Literal["paused"]
    on: bool


class SetLoop(_PageMessage):
    """Begin a file again at its end, or stop there."""

    type: Literal["loop"]
    on: bool


class SeekPosition(_PageMessage):
    """Go on at a position of a file."""

    type: Literal["seek"]
    position_s: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class SaveSnapshot(_PageMessage):
    """Save a frame in this machine's snapshot folder."""

    type: Literal["snapshot"]
    index: Annotated[int, Field(ge=0, lt=INDEX_LIMIT)] | None = None
    """The frame in view; None for the newest."""


PageMessage = (
    ConnectPeer | RequestKeyFrame | DisconnectPeer | SetRestoring | SetFrozen | ChooseConfiguration
    | SetStrength | SetPaused | SetLoop | SeekPosition | SaveSnapshot
)  # fmt: skip
page_messages: TypeAdapter[PageMessage] = TypeAdapter(
    Annotated[PageMessage, Field(discriminator="type")]
)


def status_message(shown: DisplayedFrame, *, viewers: int, viewer_drops: int) -> dict[str, Any]:
    """Return the message with the statistics that the page displays beside a frame."""
    height, width = shown.after.shape[:2]
    return {
        "type": "status",
        **asdict(shown.status),
        "index": shown.before.index % INDEX_LIMIT,
        "restored": shown.restored,
        "width": width,
        "height": height,
        "viewers": viewers,
        "viewer_drops": viewer_drops,
    }


# streams and sessions

FRAME_NOT_KEPT = "this frame is no longer kept; pause or freeze the video first"

# VP8 frames build on each other: a short delay of one viewer must not cost all a key frame
_VP8_DEPTH, _JPEG_DEPTH = 6, 1
_STATUS_INTERVAL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class StreamLimits:
    """The number of viewers, and timeouts for each."""

    viewers: int = 8
    """Pages and MJPEG streams together."""
    request_s: float = 5.0
    """For a whole request to arrive on a new connection."""
    keep_alive_s: float = 15.0
    """For the next whole request to arrive on a connection that had one."""
    send_s: float = 5.0
    """For a viewer to take what is sent."""
    send_bytes_per_s: float = 32 << 10
    """A viewer who takes a file more slowly than this is dropped."""
    heartbeat_s: float = 6.0
    """Between two pings; the answer may take half of it."""
    connect_s: float = 10.0
    """For WebRTC to connect."""


class TooManyViewers(Exception):  # noqa: N818  # answered with 503, no fault
    """The limit on viewers is reached."""


class SharedStreams:
    """The streams and the limits that all viewers share. Belongs to one event loop."""

    def __init__(
        self,
        frame_buffer: FrameBuffer,
        controls: Controls,
        *,
        camera: BrowserSource | None,
        limits: StreamLimits,
        https_advice: str = "",
        snapshots: Path | None = None,
        browser_restores: bool = False,
    ) -> None:
        """Create the streams; nothing is encoded yet.

        Args:
            frame_buffer: The displayed frames.
            controls: Changed by the page's controls.
            camera: Takes the frames of a viewer's camera; None for another source.
            limits: For all viewers.
            https_advice: How to start this server with https, which browsers require for camera
                access; empty where that is not needed.
            snapshots: Folder for snapshots of viewers on this machine; None where each browser
                saves its own.
            browser_restores: Send the source's frames alone: the viewers' browsers restore them.
        """
        compose = source_alone if browser_restores else side_by_side
        self.browser_restores = browser_restores
        self.frame_buffer = frame_buffer
        self.controls = controls
        self.camera = camera
        self.limits = limits
        self.https_advice = https_advice
        self.snapshots = snapshots
        self.vp8 = Broadcast(frame_buffer, lambda: Vp8Encoder(compose), depth=_VP8_DEPTH)
        self.jpeg = Broadcast(frame_buffer, lambda: JpegEncoder(compose), depth=_JPEG_DEPTH)
        self.viewers = 0
        self.tasks = BackgroundTasks()

    @property
    def viewer_drops(self) -> int:
        """Return how many frames viewers were too slow for, in both streams."""
        return self.vp8.dropped + self.jpeg.dropped

    def is_visible_to(self, key: str | None) -> bool:
        """Return whether the viewer with that key may see frames: a viewer's camera is private."""
        return self.camera is None or (key is not None and self.camera.owner == key)

    @contextmanager
    def admit_viewer(self) -> Iterator[None]:
        """Count one more viewer while the block lasts.

        Raises:
            TooManyViewers: The limit is reached.
        """
        if self.viewers >= self.limits.viewers:
            raise TooManyViewers
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1


class ViewerSession:
    """One viewer's WebSocket, from its opening to its end. Belongs to one event loop."""

    def __init__(self, socket: web.WebSocketResponse, streams: SharedStreams) -> None:
        """Take over an open socket."""
        self._socket = socket
        self._streams = streams
        self._key = secrets.token_urlsafe(16)
        self._peer: Peer | None = None
        self._has_ended = False

    async def run(self) -> None:
        """Serve the viewer until they leave or are dropped."""
        sending_status = asyncio.ensure_future(self._send_status())
        try:
            await self._send(
                {
                    "type": "session",
                    "camera": self._streams.camera is not None,
                    "key": self._key,
                    "https": self._streams.https_advice,
                    "saves": self._streams.snapshots is not None,
                    "restores": self._streams.browser_restores,
                }
            )
            async for message in self._socket:
                if message.type is not WSMsgType.TEXT:
                    break
                await self._handle_text(message.data)
        except (TimeoutError, asyncio.TimeoutError, ConnectionError):
            logger.info("a viewer is dropped: it did not take what was sent in time")
        finally:
            self._has_ended = True
            sending_status.cancel()
            with suppress(asyncio.CancelledError):
                await sending_status
            await self._disconnect_peer()

    async def _handle_text(self, text: str) -> None:
        try:
            await self._handle(page_messages.validate_json(text))
        except ValidationError:
            await self._send_error("the server does not support this message; reload the page")
        except MirnetEdgeError as error:
            await self._send_error(str(error))

    async def _handle(self, message: PageMessage) -> None:
        match message:
            case ConnectPeer():
                await self._connect_peer(message.sdp)
            case RequestKeyFrame():
                self._streams.vp8.request_key_frame()
            case DisconnectPeer():
                await self._disconnect_peer()
            case _ if not self._streams.is_visible_to(self._key):
                raise OptionError("another viewer's camera is on; only that viewer has controls")
            case SaveSnapshot():
                await self._save_snapshot(message.index)
            case _:
                _change_controls(self._streams.controls, message)

    async def _save_snapshot(self, index: int | None) -> None:
        """Save a frame before and after, and send the place of the restored one."""
        folder, frames = self._streams.snapshots, self._streams.frame_buffer
        if folder is None:
            raise OptionError("this server saves no snapshots; the browser does")
        shown = frames.newest if index is None else frames.find(index)
        if shown is None:
            raise VideoError(FRAME_NOT_KEPT)
        loop = asyncio.get_running_loop()
        _, after = await loop.run_in_executor(None, save_snapshot, folder, shown)
        await self._send({"type": "saved", "path": str(after.absolute())})

    async def _connect_peer(self, offer: str) -> None:
        camera = self._streams.camera
        await self._disconnect_peer()
        if camera is not None and not camera.claim(self._key):
            raise VideoError("another viewer's camera is on; wait until they leave")
        self._peer = Peer(
            self._streams.vp8,
            on_camera=None if camera is None else self._put_camera_frame,
            on_end=self._handle_peer_end,
            connect_s=self._streams.limits.connect_s,
        )
        try:
            answer = await self._peer.answer(offer)
        except VideoError:
            await self._disconnect_peer()
            raise
        await self._send({"type": "answer", "sdp": answer})

    async def _disconnect_peer(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            await peer.close()
        if self._streams.camera is not None:
            self._streams.camera.release(self._key)

    def _put_camera_frame(self, pixels: Frame) -> None:
        if self._streams.camera is not None:
            self._streams.camera.put(self._key, pixels)

    def _handle_peer_end(self, reason: str) -> None:
        self._streams.tasks.start(self._report_peer_end(reason))

    async def _report_peer_end(self, reason: str) -> None:
        """Disconnect, and send the reason: the page falls back to MJPEG."""
        await self._disconnect_peer()
        with suppress(ConnectionError, asyncio.TimeoutError):
            await self._send({"type": "disconnected", "reason": reason})

    async def _send_status(self) -> None:
        version = 0
        with suppress(ConnectionError, asyncio.TimeoutError):  # the reading side ends the session
            # `asyncio.wait_for` may lose a cancellation that comes as it ends
            while not self._has_ended:
                version, shown = await self._streams.frame_buffer.wait_newer(version)
                if self._streams.is_visible_to(self._key):
                    viewers, drops = self._streams.viewers, self._streams.viewer_drops
                    await self._send(status_message(shown, viewers=viewers, viewer_drops=drops))
                await asyncio.sleep(_STATUS_INTERVAL_S)

    async def _send_error(self, text: str) -> None:
        await self._send({"type": "error", "message": " ".join(text.split())})

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.wait_for(self._socket.send_json(message), self._streams.limits.send_s)


def _change_controls(controls: Controls, message: PageMessage) -> None:
    match message:
        case SetRestoring():
            controls.set_restoring(message.on)
        case SetFrozen():
            controls.set_frozen(message.on)
        case ChooseConfiguration():
            controls.choose_configuration(message.configuration)
        case SetStrength():
            controls.set_strength(message.strength)
        case SetPaused():
            controls.set_paused(message.on)
        case SetLoop():
            controls.set_loop(message.on)
        case SeekPosition():
            controls.request_seek(message.position_s)
