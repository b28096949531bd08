"""One viewer's page: its WebSocket carries figures out, and offers and buttons in.

The viewer lives as long as it: who does not answer its pings, or takes nothing, is dropped with
everything that hangs on it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType
from pydantic import ValidationError

from mirnet_edge.errors import MirnetEdgeError, OptionError, VideoError
from mirnet_edge.video.web import messages
from mirnet_edge.video.web.peer import Peer

if TYPE_CHECKING:
    from aiohttp import web

    from mirnet_edge.images import Frame
    from mirnet_edge.video.web.studio import Studio

logger = logging.getLogger(__name__)

_FIGURES_EVERY_S = 0.1


class Session:
    """One WebSocket from its opening to its end. Belongs to one event loop."""

    def __init__(self, socket: web.WebSocketResponse, studio: Studio) -> None:
        """Take over an open socket."""
        self._socket = socket
        self._studio = studio
        self._key = secrets.token_urlsafe(16)
        self._peer: Peer | None = None

    async def run(self) -> None:
        """Serve the viewer until they leave or are dropped."""
        telling = asyncio.ensure_future(self._tell_figures())
        try:
            await self._send(
                {
                    "say": "hello",
                    "camera": self._studio.camera is not None,
                    "key": self._key,
                    "https": self._studio.https_advice,
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
            request = messages.parse_request.validate_json(text)
            await self._follow(request)
        except ValidationError:
            await self._complain("the page asked for what this server does not know; reload it")
        except MirnetEdgeError as error:
            await self._complain(str(error))

    async def _follow(self, request: messages.Request) -> None:
        controls = self._studio.controls
        match request:
            case messages.Offer():
                await self._connect(request.sdp)
            case messages.Refresh():
                self._studio.vp8.want_key()
            case messages.Hangup():
                await self._hang_up()
            case _ if not self._studio.may_see(self._key):
                raise OptionError("another viewer's camera is on; its buttons are theirs")
            case messages.Restoring():
                controls.set_restoring(request.on)
            case messages.Frozen():
                controls.set_frozen(request.on)
            case messages.ChooseMode():
                controls.choose_mode(request.mode)

    async def _connect(self, offer: str) -> None:
        camera = self._studio.camera
        await self._hang_up()
        if camera is not None and not camera.claim(self._key):
            raise VideoError("another viewer's camera is on; wait until they leave")
        self._peer = Peer(
            self._studio.vp8,
            on_camera=None if camera is None else self._give,
            on_end=self._lose,
            connect_s=self._studio.limits.connect_s,
        )
        try:
            answer = await self._peer.answer(offer)
        except VideoError:
            await self._hang_up()
            raise
        await self._send({"say": "answer", "sdp": answer})

    def _give(self, pixels: Frame) -> None:
        if self._studio.camera is not None:
            self._studio.camera.give(self._key, pixels)

    def _lose(self, reason: str) -> None:
        """Take the end of the connection: the page hears of it and goes over to the fallback."""
        self._studio.start(self._end_peer(reason))

    async def _end_peer(self, reason: str) -> None:
        await self._hang_up()
        with suppress(ConnectionError, asyncio.TimeoutError):
            await self._send({"say": "lost", "why": reason})

    async def _hang_up(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            await peer.close()
        if self._studio.camera is not None:
            self._studio.camera.release(self._key)

    async def _tell_figures(self) -> None:
        version = 0
        with suppress(ConnectionError, asyncio.TimeoutError):  # the reading side ends the session
            while True:
                version, shown = await self._studio.board.after(version)
                if self._studio.may_see(self._key):
                    await self._send(
                        messages.figures_message(
                            shown,
                            viewers=self._studio.viewers,
                            viewer_drops=self._studio.vp8.dropped + self._studio.jpeg.dropped,
                        )
                    )
                await asyncio.sleep(_FIGURES_EVERY_S)

    async def _complain(self, text: str) -> None:
        await self._send({"say": "problem", "text": " ".join(text.split())})

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.wait_for(self._socket.send_json(message), self._studio.limits.send_s)
