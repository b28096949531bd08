"""One viewer's WebRTC connection: the shared stream goes out, and a camera may come in."""

from __future__ import annotations

import asyncio
import logging
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import Packet, VideoFrame

from mirnet_edge.errors import VideoError
from mirnet_edge.video.live.publishing import CLOCK_RATE
from mirnet_edge.video.web.broadcast import ViewerGone
from mirnet_edge.video.web.camera import LONGEST_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from av.stream import Stream

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.web.broadcast import Broadcast, Viewer

logger = logging.getLogger(__name__)


class SharedTrack(MediaStreamTrack):
    """A track of frames that were encoded for all: aiortc packs what is encoded as it is."""

    kind = "video"

    def __init__(self, viewer: Viewer) -> None:
        """Take frames from where they wait for one viewer."""
        super().__init__()
        self._viewer = viewer

    async def recv(self) -> Packet[Stream]:
        """Return the next frame.

        Raises:
            MediaStreamError: The viewer left.
        """
        try:
            frame = await self._viewer.take()
        except ViewerGone:
            raise MediaStreamError from None
        packet = Packet(frame.content)
        packet.pts, packet.time_base = frame.ticks, Fraction(1, CLOCK_RATE)
        return packet


class Peer:
    """One connection, from the page's offer to its end. Belongs to one event loop."""

    def __init__(
        self,
        broadcast: Broadcast,
        *,
        on_camera: Callable[[Frame], None] | None,
        on_end: Callable[[str], None],
        connect_s: float,
    ) -> None:
        """Connect nothing yet.

        Args:
            broadcast: What is sent.
            on_camera: Gets the frames of the page's camera, on the event loop; None refuses it.
            on_end: Called with the reason when the connection is lost or never made.
            connect_s: After which a connection that is not made is given up.
        """
        # no servers: the default asks one of a third party for this machine's address
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._broadcast = broadcast
        self._viewer = broadcast.join()
        self._on_camera, self._on_end = on_camera, on_end
        self._connect_s = connect_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection.on("track", self._receive)
        self._connection.on("connectionstatechange", self._follow)

    async def answer(self, offer: str) -> str:
        """Return the answer (SDP) to a page's offer.

        Raises:
            VideoError: The offer cannot be read, or holds no VP8 video.
        """
        way = "sendonly" if self._on_camera is None else "sendrecv"
        outgoing = self._connection.addTransceiver(SharedTrack(self._viewer), direction=way)
        known = RTCRtpSender.getCapabilities("video").codecs
        outgoing.setCodecPreferences(
            [codec for codec in known if codec.mimeType.lower() in ("video/vp8", "video/rtx")]
        )
        try:
            await self._connection.setRemoteDescription(
                RTCSessionDescription(sdp=offer, type="offer")
            )
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except Exception as error:  # aiortc's parser raises what it stumbles over
            logger.debug("an offer was refused", exc_info=True)
            raise VideoError(f"the browser's offer of WebRTC cannot be used: {error!r}") from error
        self._start(self._expect_connection())
        return str(self._connection.localDescription.sdp)

    async def close(self) -> None:
        """Close the connection; nothing is called afterwards."""
        self._broadcast.leave(self._viewer)
        self._connection.remove_all_listeners()
        for task in self._tasks:
            task.cancel()
        await self._connection.close()

    async def _expect_connection(self) -> None:
        await asyncio.sleep(self._connect_s)
        if self._connection.connectionState in ("new", "connecting"):
            self._on_end(f"WebRTC did not connect within {self._connect_s:g} s")

    def _follow(self) -> None:
        state = self._connection.connectionState
        if state in ("failed", "closed"):
            self._on_end("the WebRTC connection was lost")

    def _receive(self, track: MediaStreamTrack) -> None:
        if track.kind == "video" and self._on_camera is not None:
            self._start(self._read_camera(track, self._on_camera))

    async def _read_camera(
        self, track: MediaStreamTrack, on_camera: Callable[[Frame], None]
    ) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return  # the connection's end, or the page stopped its camera
            if not isinstance(frame, VideoFrame):
                continue
            if max(frame.width, frame.height) > LONGEST_SIDE:
                self._on_end(
                    f"the camera sends {frame.width}x{frame.height}; "
                    f"expected at most {LONGEST_SIDE} pixels a side"
                )
                return
            pixels: Frame = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            on_camera(pixels)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
