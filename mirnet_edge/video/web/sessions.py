"""Access policy, viewer sessions, shared streams and WebSocket messages of the live page.

Without a token the page is for this machine, and other sites that its browser visits must not
reach it: neither under a name of theirs (DNS rebinding) nor from a page of theirs.

The viewer lives as long as it: who does not answer its pings, or takes nothing, is dropped with
everything that hangs on it.
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
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mirnet_edge.errors import MirnetEdgeError, OptionError, VideoError
from mirnet_edge.video.web.broadcast import INDEX_LIMIT, Broadcast, JpegEncoder, Vp8Encoder
from mirnet_edge.video.web.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    from collections.abc import Coroutine, Iterator

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.web.broadcast import FrameBuffer
    from mirnet_edge.video.web.camera import BrowserSource

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# the page loads nothing from elsewhere, runs no script of anybody else, and sits in no frame
HEADERS = {
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


def is_local(host: str) -> bool:
    """Say whether nobody but this machine reaches what listens on HOST."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may stand for any address


def new_token() -> str:
    """Return a token nobody guesses: 128 bits, as they may stand in an address."""
    return secrets.token_urlsafe(16)


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """Refuses with 403 whoever may not come in. The same for every route, known or not."""

    token: str | None
    """The first part of every path; None where only this machine listens."""

    @property
    def prefix(self) -> str:
        """Return what every path begins with, without the slash at the end."""
        return "" if self.token is None else f"/{self.token}"

    def check(self, request: web.Request) -> None:
        """Let the request pass.

        Raises:
            web.HTTPForbidden: The token is missing or wrong, or another site's page asks.
        """
        if self.token is not None:
            first = request.path.split("/", 2)[1]
            if not hmac.compare_digest(first.encode(), self.token.encode()):
                raise web.HTTPForbidden(text="this address lacks the token; use the whole address")
        elif _hostname(f"//{request.host}") not in _LOCAL_NAMES:
            raise web.HTTPForbidden(text="open this page under 127.0.0.1")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another site's page may not use this one")


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class _PageRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Offer(_PageRequest):
    """Connect by WebRTC."""

    do: Literal["offer"]
    sdp: str


class Refresh(_PageRequest):
    """Send a whole image: the decoder is stuck."""

    do: Literal["refresh"]


class Disconnect(_PageRequest):
    """End WebRTC; the page goes over to the fallback."""

    do: Literal["hangup"]


class SetRestoring(_PageRequest):
    """Switch restoration on or off."""

    do: Literal["restoring"]
    on: bool


class SetFrozen(_PageRequest):
    """Let the image stand still or go on."""

    do: Literal["frozen"]
    on: bool


class ChooseConfiguration(_PageRequest):
    """Go over to another backend or precision."""

    do: Literal["mode"]
    mode: str


Request = Offer | Refresh | Disconnect | SetRestoring | SetFrozen | ChooseConfiguration
parse_request: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])


def figures_message(shown: DisplayedFrame, *, viewers: int, viewer_drops: int) -> dict[str, Any]:
    """Return what the page writes beside the image."""
    height, width = shown.after.shape[:2]
    return {
        "say": "figures",
        **asdict(shown.figures),
        "index": shown.before.index % INDEX_LIMIT,
        "restored": shown.restored,
        "width": width,
        "height": height,
        "viewers": viewers,
        "viewer_drops": viewer_drops,
    }


_VP8_DEPTH, _JPEG_DEPTH = 6, 1  # VP8 frames build on each other: a hiccup must not cost a key frame


@dataclass(frozen=True, kw_only=True)
class StreamLimits:
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


class SharedStreams:
    """Belongs to one event loop."""

    def __init__(
        self,
        frame_buffer: FrameBuffer,
        controls: Controls,
        *,
        camera: BrowserSource | None,
        limits: StreamLimits,
        https_advice: str = "",
    ) -> None:
        """Send nothing yet.

        Args:
            frame_buffer: What the pipeline shows.
            controls: What viewers' buttons do.
            camera: Where viewers' cameras go; None where the source is another.
            limits: For all viewers.
            https_advice: How this server is to be started so that browsers give it their camera;
                empty where they do.
        """
        self.frame_buffer = frame_buffer
        self.controls = controls
        self.camera = camera
        self.limits = limits
        self.https_advice = https_advice
        self.vp8 = Broadcast(frame_buffer, Vp8Encoder, depth=_VP8_DEPTH)
        self.jpeg = Broadcast(frame_buffer, JpegEncoder, depth=_JPEG_DEPTH)
        self.viewers = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def may_see(self, key: str | None) -> bool:
        """Say whether the viewer of that key may see the image: a viewer's camera is theirs."""
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


logger = logging.getLogger(__name__)

_FIGURES_EVERY_S = 0.1


class ViewerSession:
    """One WebSocket from its opening to its end. Belongs to one event loop."""

    def __init__(self, socket: web.WebSocketResponse, streams: SharedStreams) -> None:
        """Take over an open socket."""
        self._socket = socket
        self._streams = streams
        self._key = secrets.token_urlsafe(16)
        self._peer: Peer | None = None

    async def run(self) -> None:
        """Serve the viewer until they leave or are dropped."""
        telling = asyncio.ensure_future(self._tell_figures())
        try:
            await self._send(
                {
                    "say": "hello",
                    "camera": self._streams.camera is not None,
                    "key": self._key,
                    "https": self._streams.https_advice,
                }
            )
            async for message in self._socket:
                if message.type is not WSMsgType.TEXT:
                    break
                await self._answer(message.data)
        except (TimeoutError, asyncio.TimeoutError, ConnectionError):
            logger.info("a viewer who did not take what was sent is dropped")
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
            await self._hang_up()

    async def _answer(self, text: str) -> None:
        try:
            request = parse_request.validate_json(text)
            await self._follow(request)
        except ValidationError:
            await self._complain("the page asked for what this server does not know; reload it")
        except MirnetEdgeError as error:
            await self._complain(str(error))

    async def _follow(self, request: Request) -> None:
        controls = self._streams.controls
        match request:
            case Offer():
                await self._connect(request.sdp)
            case Refresh():
                self._streams.vp8.want_key()
            case Disconnect():
                await self._hang_up()
            case _ if not self._streams.may_see(self._key):
                raise OptionError("another viewer's camera is on; its buttons are theirs")
            case SetRestoring():
                controls.set_restoring(request.on)
            case SetFrozen():
                controls.set_frozen(request.on)
            case ChooseConfiguration():
                controls.choose_mode(request.mode)

    async def _connect(self, offer: str) -> None:
        camera = self._streams.camera
        await self._hang_up()
        if camera is not None and not camera.claim(self._key):
            raise VideoError("another viewer's camera is on; wait until they leave")
        self._peer = Peer(
            self._streams.vp8,
            on_camera=None if camera is None else self._give,
            on_end=self._lose,
            connect_s=self._streams.limits.connect_s,
        )
        try:
            answer = await self._peer.answer(offer)
        except VideoError:
            await self._hang_up()
            raise
        await self._send({"say": "answer", "sdp": answer})

    def _give(self, pixels: Frame) -> None:
        if self._streams.camera is not None:
            self._streams.camera.give(self._key, pixels)

    def _lose(self, reason: str) -> None:
        """Take the end of the connection: the page hears of it and goes over to the fallback."""
        self._streams.start(self._end_peer(reason))

    async def _end_peer(self, reason: str) -> None:
        await self._hang_up()
        with suppress(ConnectionError, asyncio.TimeoutError):
            await self._send({"say": "lost", "why": reason})

    async def _hang_up(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            await peer.close()
        if self._streams.camera is not None:
            self._streams.camera.release(self._key)

    async def _tell_figures(self) -> None:
        version = 0
        with suppress(ConnectionError, asyncio.TimeoutError):  # the reading side ends the session
            while True:
                version, shown = await self._streams.frame_buffer.after(version)
                if self._streams.may_see(self._key):
                    await self._send(
                        figures_message(
                            shown,
                            viewers=self._streams.viewers,
                            viewer_drops=self._streams.vp8.dropped + self._streams.jpeg.dropped,
                        )
                    )
                await asyncio.sleep(_FIGURES_EVERY_S)

    async def _complain(self, text: str) -> None:
        await self._send({"say": "problem", "text": " ".join(text.split())})

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.wait_for(self._socket.send_json(message), self._streams.limits.send_s)
