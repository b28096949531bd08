"""One viewer's WebRTC connection: sends the shared stream, may receive the viewer's camera."""

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
from mirnet_edge.video.web.broadcast import QueueClosed
from mirnet_edge.video.web.camera import MAX_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from av.stream import Stream

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.web.broadcast import Broadcast, ViewerQueue

logger = logging.getLogger(__name__)


class BackgroundTasks:
    """Tasks of one event loop, referenced until they are done."""

    def __init__(self) -> None:
        """Start without tasks."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine as a task."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()


class SharedTrack(MediaStreamTrack):
    """A video track of frames that were encoded once for all viewers; aiortc sends them as is."""

    kind = "video"

    def __init__(self, queue: ViewerQueue) -> None:
        """Send the frames of one viewer's queue."""
        super().__init__()
        self._queue = queue

    async def recv(self) -> Packet[Stream]:
        """Return the next frame.

        Raises:
            MediaStreamError: The viewer left.
        """
        try:
            frame = await self._queue.take()
        except QueueClosed:
            raise MediaStreamError from None
        packet = Packet(frame.content)
        packet.pts, packet.time_base = frame.ticks, Fraction(1, CLOCK_RATE)
        return packet


class Peer:
    """One WebRTC connection, from the page's offer to its end. Belongs to one event loop."""

    def __init__(
        self,
        broadcast: Broadcast,
        *,
        on_camera: Callable[[Frame], None] | None,
        on_end: Callable[[str], None],
        connect_s: float,
    ) -> None:
        """Subscribe to a stream; `answer` connects.

        Args:
            broadcast: The stream to send.
            on_camera: Called on the event loop with each frame of the viewer's camera; None
                refuses a camera.
            on_end: Called with the reason when the connection is lost or not made in time.
            connect_s: Timeout for connecting.
        """
        # no STUN server: the default is a third party's
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._broadcast = broadcast
        self._queue = broadcast.subscribe()
        self._on_camera, self._on_end = on_camera, on_end
        self._connect_s = connect_s
        self._tasks = BackgroundTasks()
        self._connection.on("track", self._handle_track)
        self._connection.on("connectionstatechange", self._handle_state)

    async def answer(self, offer: str) -> str:
        """Return the answer (SDP) to a page's offer, and begin to send.

        Raises:
            VideoError: The offer cannot be read, or holds no VP8 video.
        """
        direction = "sendonly" if self._on_camera is None else "sendrecv"
        transceiver = self._connection.addTransceiver(SharedTrack(self._queue), direction=direction)
        supported = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences(
            [codec for codec in supported if codec.mimeType.lower() in ("video/vp8", "video/rtx")]
        )
        try:
            await self._connection.setRemoteDescription(
                RTCSessionDescription(sdp=offer, type="offer")
            )
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except Exception as error:  # aiortc's parser raises errors of many types
            logger.debug("an SDP offer was rejected", exc_info=True)
            raise VideoError(f"the browser's WebRTC offer cannot be used: {error!r}") from error
        self._tasks.start(self._check_connected_in_time())
        return str(self._connection.localDescription.sdp)

    async def close(self) -> None:
        """Close the connection; nothing is called afterwards."""
        self._broadcast.unsubscribe(self._queue)
        self._connection.remove_all_listeners()
        self._tasks.cancel()
        await self._connection.close()

    async def _check_connected_in_time(self) -> None:
        await asyncio.sleep(self._connect_s)
        if self._connection.connectionState in ("new", "connecting"):
            self._on_end(f"WebRTC did not connect within {self._connect_s:g} s")

    def _handle_state(self) -> None:
        state = self._connection.connectionState
        if state in ("failed", "closed"):
            self._on_end("the WebRTC connection was lost")

    def _handle_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "video" and self._on_camera is not None:
            self._tasks.start(self._read_camera(track, self._on_camera))

    async def _read_camera(
        self, track: MediaStreamTrack, on_camera: Callable[[Frame], None]
    ) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return  # the connection ended, or the page stopped its camera
            if not isinstance(frame, VideoFrame):
                continue
            if max(frame.width, frame.height) > MAX_SIDE:
                self._on_end(
                    f"the camera sends {frame.width}x{frame.height}; "
                    f"expected at most {MAX_SIDE} pixels a side"
                )
                return
            pixels: Frame = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            on_camera(pixels)
