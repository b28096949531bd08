"""Publish restored video to an RTSP server: reconnect, RTSP session, low-delay H.264 encoder.

    Publisher.show ─► latest-frame buffer ─ publisher's thread ─► LowDelayEncoder ─► RtspSession

FFmpeg's own RTSP muxer is not used: PyAV 18 holds the GIL while it connects and disconnects,
without a timeout, so that a server that accepts and never responds would stop every thread.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import secrets
import select
import socket
import struct
from contextlib import suppress
from fractions import Fraction
from hashlib import md5
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.video.clock import REAL_CLOCK, BackOff
from mirnet_edge.video.files.encoding import convert_to_yuv, write_color_tags
from mirnet_edge.video.live.sinks import DetachedSink
from mirnet_edge.video.live.sources import strip_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import ColorTags, DisplayedFrame

logger = logging.getLogger(__name__)

CLOCK_RATE = 90_000
"""Ticks per second of video in RTP (RFC 3551)."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
_CLOSE_TIMEOUT_S = 1.0  # for a server that no longer receives


class Publisher:
    """A sink that publishes to an RTSP server, on its own thread.

    A slow server costs frames and delays nothing. One that cannot be reached is tried again, with
    a back-off of up to four seconds. Each disconnect and each reconnect is reported once.
    """

    def __init__(self, url: str, *, on_change: Callable[[str], None] = logger.warning) -> None:
        """Store the URL; the first frame connects.

        Args:
            url: rtsp://[USER:PASSWORD@]HOST[:PORT]/NAME.
            on_change: Called with one line when the server is connected, lost or connected
                again; on the publisher's thread.

        Raises:
            OptionError: Another kind of URL.
            MissingDependencyError: PyAV is not installed.
        """
        require("av", "publishing")
        self._sink = _RtspSink(url, on_change)
        self._detached = DetachedSink(self._sink, close_timeout_s=_CLOSE_TIMEOUT_S)

    @property
    def published(self) -> int:
        """Return how many frames were sent."""
        return self._sink.published

    @property
    def dropped(self) -> int:
        """Return how many frames were not sent: the server was too slow, or not connected."""
        return self._sink.missed + self._detached.dropped

    @property
    def losses(self) -> int:
        """Return how often the connection was lost."""
        return self._sink.losses

    def summary(self) -> str:
        """Return the numbers of frames and of lost connections, in one line."""
        times = "once" if self.losses == 1 else f"{self.losses} times"
        lost = f"; the connection was lost {times}" if self.losses else ""
        return f"{self._sink.name}: {self.published} frames sent, {self.dropped} not sent{lost}"

    def __enter__(self) -> Publisher:
        self._detached.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._detached.__exit__(kind, error, traceback)

    def show(self, shown: DisplayedFrame) -> None:
        """Put a frame in the latest-frame buffer."""
        self._detached.show(shown)


class _RtspSink:
    """Encodes and sends frames, on the publisher's thread."""

    def __init__(self, url: str, on_change: Callable[[str], None]) -> None:
        self._session = RtspSession(url)
        self.name = self._session.name
        self._on_change = on_change
        self._encoder: LowDelayEncoder | None = None
        self._size = (0, 0)
        self._start_s = 0.0
        self._last: DisplayedFrame | None = None
        self._last_ticks = -1
        self._back_off = BackOff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._next_attempt_s = 0.0
        self._is_interrupted = self._was_connected = False
        self.published = self.missed = self.losses = 0

    def __enter__(self) -> _RtspSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def show(self, shown: DisplayedFrame) -> None:
        """Send a frame, connecting first where that is due; report errors, never raise them.

        While the display is frozen its frame is sent again and again: servers drop silent
        publishers.
        """
        if self._encoder is None and REAL_CLOCK.now() < self._next_attempt_s:
            self.missed += 1
            return
        try:
            self._send(shown)
        except VideoError as error:
            self.missed += 1
            self._handle_disconnect(error)
        else:
            self.published += 1
            self._handle_sent()

    def _send(self, shown: DisplayedFrame) -> None:
        height, width = shown.after.shape[:2]
        if self._encoder is not None and self._size != (height, width):
            self._disconnect()  # a stream has one size; a new size needs a new session
        is_new = self._encoder is None
        encoder = self._encoder or LowDelayEncoder(height, width, shown.before.color)
        if is_new:
            self._size, self._start_s = (height, width), shown.before.captured_s
            self._last_ticks = -1
        ticks = self._ticks(shown)
        units = encoder.encode(shown.after, ticks)
        if is_new:
            self._session.connect(units)
            self._encoder = encoder
        self._session.send(units, ticks)

    def _ticks(self, shown: DisplayedFrame) -> int:
        """Return a frame's time stamp: its capture; of a repeated frame, now."""
        is_repeated = self._last is not None and shown.after is self._last.after
        at_s = REAL_CLOCK.now() if is_repeated else shown.before.captured_s
        self._last = shown
        self._last_ticks = max(round((at_s - self._start_s) * CLOCK_RATE), self._last_ticks + 1)
        return self._last_ticks

    def _handle_disconnect(self, error: VideoError) -> None:
        was_connected = self._encoder is not None
        self._disconnect()
        self._next_attempt_s = REAL_CLOCK.now() + self._back_off.next_pause_s()
        self.losses += was_connected
        if not self._is_interrupted:
            self._on_change(f"{error}; trying again")
        self._is_interrupted = True

    def _handle_sent(self) -> None:
        self._back_off.reset()
        if self._is_interrupted or not self._was_connected:
            again = " again" if self._was_connected else ""
            self._on_change(f"publishing to {self.name}{again}")
        self._is_interrupted, self._was_connected = False, True

    def _disconnect(self) -> None:
        self._encoder = None
        self._session.close()


_PORT = 554
_RESPONSE_S, _SEND_S = 5.0, 5.0
_TEARDOWN_S = 0.5
_SEND_BUFFER_BYTES = 128 << 10  # of the system, for a slow server: one or two frames
_MAX_PAYLOAD_BYTES = 1400  # so that a server can forward packets by UDP unchanged
_MAX_RESPONSE_BYTES = 64 << 10
_PAYLOAD_TYPE = 96
_TRACK = "streamid=0"
_SPS, _PPS, _KIND = 7, 8, 0x1F
_FRAGMENT = 28  # FU-A, RFC 6184, section 5.8


class RtspSession:
    """One RTSP session that publishes one stream: RTP interleaved in the same TCP connection.

    For one thread. Every call has a timeout, after which it raises `VideoError`.
    """

    def __init__(self, url: str) -> None:
        """Store the URL; nothing is sent yet.

        Args:
            url: rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH.

        Raises:
            OptionError: Another kind of URL.
        """
        self.name = strip_credentials(url).rstrip("/")
        """The URL without credentials."""
        try:
            parts = urlsplit(url)
            self._address = (parts.hostname or "", parts.port or _PORT)
        except ValueError as error:  # for example a port that is not a number
            raise _url_error(url) from error
        if parts.scheme != "rtsp" or not parts.hostname:
            raise _url_error(url)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._socket: socket.socket | None = None
        self._reset()
        self._sequence, self._source = secrets.randbits(16), secrets.randbits(32)
        self._first_ticks = secrets.randbits(32)

    def _reset(self) -> None:
        """Reset the state of a former connection: requests are counted from 1 in each."""
        self._unread = b""
        self._session = ""
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._request_count = 0

    def connect(self, key_frame: Sequence[bytes]) -> None:
        """Connect and announce the stream.

        Args:
            key_frame: NAL units that describe the stream, SPS and PPS among them.

        Raises:
            VideoError: The server cannot be reached, does not respond, or refuses.
        """
        self._reset()
        try:
            self._socket = socket.create_connection(self._address, timeout=_RESPONSE_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._send_request(
                "ANNOUNCE", self.name, "Content-Type: application/sdp", body=_sdp(key_frame)
            )
            transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"
            self._send_request("SETUP", f"{self.name}/{_TRACK}", transport)
            self._send_request("RECORD", self.name, "Range: npt=0.000-")
            self._socket.settimeout(_SEND_S)
        except OSError as error:
            self.close()
            raise VideoError(f"{self.name} does not respond: {_reason(error)}") from error
        except VideoError:
            self.close()
            raise

    def send(self, units: Sequence[bytes], ticks: int) -> None:
        """Send a frame.

        Args:
            units: Its NAL units.
            ticks: Its time in units of 1 / CLOCK_RATE.

        Raises:
            VideoError: The connection was lost, or the server no longer receives.
        """
        if self._socket is None:
            raise VideoError(f"{self.name} is not connected: expected `connect` before `send`")
        parts = [part for unit in units for part in _payloads(unit)]
        stamp = (self._first_ticks + ticks) & 0xFFFFFFFF
        packets = []
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            head = struct.pack(
                ">BBHII", 0x80, last << 7 | _PAYLOAD_TYPE, self._sequence, stamp, self._source
            )
            self._sequence = (self._sequence + 1) & 0xFFFF
            packets.append(struct.pack(">cBH", b"$", 0, len(head) + len(part)) + head + part)
        try:
            self._discard_received()
            self._socket.sendall(b"".join(packets))
        except OSError as error:
            raise VideoError(f"{self.name} was lost: {_reason(error)}") from error

    def close(self) -> None:
        """Send TEARDOWN, where that is possible at once, and disconnect."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        with connection:
            if self._session:
                connection.settimeout(_TEARDOWN_S)
                with suppress(OSError):  # the connection is lost already
                    connection.sendall(self._format_request("TEARDOWN", self.name))
        self._session = ""

    def _send_request(self, method: str, url: str, *fields: str, body: str = "") -> None:
        """Send a request and read the response; authenticate once where the server requires it.

        Raises:
            OSError: There is no response.
            VideoError: The status is not 200.
        """
        for _ in range(2):
            self._socket_or_raise().sendall(self._format_request(method, url, *fields, body=body))
            status, response = self._read_response()
            if not status.startswith("401 ") or self._challenge is not None or not self._user:
                break
            self._challenge = _parse_challenge(response)
        if not status.startswith("200 "):
            hint = "check user and password" if status.startswith("401 ") else "check the address"
            raise VideoError(f"{self.name} refuses to be published to: {status}; {hint}")
        for name, value in response:
            if name == "session":
                self._session = value.partition(";")[0].strip()

    def _format_request(self, method: str, url: str, *fields: str, body: str = "") -> bytes:
        self._request_count += 1
        lines = [
            f"{method} {url} RTSP/1.0",
            f"CSeq: {self._request_count}",
            "User-Agent: mirnet-edge",
        ]
        lines += fields
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._challenge is not None:
            lines.append(f"Authorization: {self._credentials(method, url)}")
        if body:
            lines.append(f"Content-Length: {len(body.encode())}")
        return "\r\n".join([*lines, "", body]).encode()

    def _credentials(self, method: str, url: str) -> str:
        scheme, challenge = self._challenge or ("basic", {})
        if scheme == "basic":
            credentials = f"{self._user}:{self._password}".encode()
            return f"Basic {base64.b64encode(credentials).decode()}"
        realm, nonce = challenge.get("realm", ""), challenge.get("nonce", "")
        user_hash = _md5(f"{self._user}:{realm}:{self._password}")
        response = _md5(f"{user_hash}:{nonce}:{_md5(f'{method}:{url}')}")
        return (
            f'Digest username="{self._user}", realm="{realm}", nonce="{nonce}", uri="{url}", '
            f'response="{response}"'
        )

    def _read_response(self) -> tuple[str, list[tuple[str, str]]]:
        """Return a response's status and header fields, with names in lower case."""
        status = self._read_line()
        if status.startswith("$"):
            raise ConnectionError("it sent media instead of a response")
        fields = []
        while line := self._read_line():
            name, _, value = line.partition(":")
            fields.append((name.strip().lower(), value.strip()))
        for name, value in fields:
            if name == "content-length" and value.isdecimal():
                self._skip(int(value))
        return status.partition(" ")[2] or status, fields

    def _read_line(self) -> str:
        while b"\n" not in self._unread:
            if len(self._unread) > _MAX_RESPONSE_BYTES:
                raise ConnectionError("its response is not RTSP")
            self._receive()
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def _skip(self, count: int) -> None:
        if count > _MAX_RESPONSE_BYTES:
            raise ConnectionError("its response is not RTSP")
        while len(self._unread) < count:
            self._receive()
        self._unread = self._unread[count:]

    def _receive(self) -> None:
        received = self._socket_or_raise().recv(4096)
        if not received:
            raise ConnectionError("it closed the connection")
        self._unread += received

    def _socket_or_raise(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("not connected")
        return self._socket

    def _discard_received(self) -> None:
        """Receive and discard the server's RTCP reports."""
        connection = self._socket_or_raise()
        while select.select([connection], [], [], 0.0)[0]:
            if not connection.recv(4096):
                raise ConnectionError("it closed the connection")


def _url_error(url: str) -> OptionError:
    return OptionError(f"expected a URL like rtsp://HOST:8554/NAME, found {url!r}")


def _reason(error: OSError) -> str:
    return (
        "no response in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
    )


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()  # RTSP's digest uses it


def _parse_challenge(fields: list[tuple[str, str]]) -> tuple[str, dict[str, str]]:
    """Return the scheme and parameters of authentication: MD5 digest where offered, else basic."""
    offered: dict[str, dict[str, str]] = {}
    for name, value in fields:
        if name == "www-authenticate":
            scheme, _, rest = value.partition(" ")
            parameters = parse_keqv_list([item for item in parse_http_list(rest) if "=" in item])
            if parameters.get("algorithm", "MD5").upper() == "MD5":
                offered[scheme.lower()] = parameters
    if "digest" in offered:
        return "digest", offered["digest"]
    return "basic", {}


def _sdp(units: Sequence[bytes]) -> str:
    """Return the SDP of a stream (RFC 4566, RFC 6184) that begins with these NAL units."""
    sets = [unit for unit in units if unit[0] & _KIND in (_SPS, _PPS)]
    profile = next(unit[1:4].hex() for unit in sets if unit[0] & _KIND == _SPS)
    coded = ",".join(base64.b64encode(unit).decode() for unit in sets)
    return "\r\n".join(
        [
            "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=mirnet-edge", "c=IN IP4 0.0.0.0", "t=0 0",
            f"m=video 0 RTP/AVP {_PAYLOAD_TYPE}",
            f"a=rtpmap:{_PAYLOAD_TYPE} H264/{CLOCK_RATE}",
            f"a=fmtp:{_PAYLOAD_TYPE} packetization-mode=1;profile-level-id={profile};"
            f"sprop-parameter-sets={coded}",
            f"a=control:{_TRACK}", "",
        ]
    )  # fmt: skip


def _payloads(unit: bytes) -> Iterator[bytes]:
    """Yield a NAL unit as RTP payloads: whole, or in fragments (RFC 6184, section 5.8)."""
    if len(unit) <= _MAX_PAYLOAD_BYTES:
        yield unit
        return
    indicator, kind, body = unit[0] & ~_KIND | _FRAGMENT, unit[0] & _KIND, unit[1:]
    starts = range(0, len(body), _MAX_PAYLOAD_BYTES - 2)
    for start in starts:
        edge = (start == 0) << 7 | (start == starts[-1]) << 6
        yield bytes([indicator, edge | kind]) + body[start : start + _MAX_PAYLOAD_BYTES - 2]


_KEY_INTERVAL = 2 * CLOCK_RATE  # the longest that a new player waits
_FRAMES_PER_S = 30  # for rate control only: frames are sent as they are displayed
# most of it is spent on the noise of dark frames; slower connections drop frames
_BITS_PER_PIXEL, _MIN_BIT_RATE = 0.2, 500_000


class LowDelayEncoder:
    """A low-delay H.264 encoder (8 bits, 4:2:0, no B-frames), a key frame every two seconds."""

    def __init__(self, height: int, width: int, color: ColorTags) -> None:
        """Open the encoder.

        Args:
            height: Of the frames. An odd side is made even by repeating its last line.
            width: As the height.
            color: The color metadata.
        """
        av = require("av", "publishing")
        from av.video.reformatter import VideoReformatter

        self._color = color
        self._odd = (height % 2, width % 2)
        self._reformatter = VideoReformatter()
        self._codec = av.VideoCodecContext.create("libx264", "w")
        codec = self._codec
        codec.height, codec.width = height + self._odd[0], width + self._odd[1]
        codec.pix_fmt = "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, CLOCK_RATE), _FRAMES_PER_S
        codec.gop_size = 1 << 20  # key frames are set by time
        codec.thread_count = encoder_threads()
        rate = max(_MIN_BIT_RATE, int(_BITS_PER_PIXEL * _FRAMES_PER_S * codec.height * codec.width))
        codec.options = {
            "preset": "superfast", "tune": "zerolatency", "crf": "20", "bf": "0",
            "forced-idr": "1", "maxrate": str(rate), "bufsize": str(rate // 2),
        }  # fmt: skip
        write_color_tags(codec, color)
        self._next_key: int | None = None

    def encode(self, pixels: Frame, ticks: int) -> list[bytes]:
        """Return a frame's NAL units, without start codes; key frames begin with SPS and PPS.

        Args:
            pixels: (H, W, 3) uint8 RGB of the encoder's size.
            ticks: Its time in units of 1 / CLOCK_RATE, increasing from frame to frame.
        """
        from av.video.frame import PictureType

        below, right = self._odd
        if below or right:
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
        frame = convert_to_yuv(self._reformatter, pixels, "yuv420p", self._color)
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_RATE)
        if self._next_key is None or ticks >= self._next_key:
            frame.pict_type = PictureType.I
            self._next_key = ticks + _KEY_INTERVAL
        content = b"".join(map(bytes, self._codec.encode(frame)))
        # a start code cannot occur within a unit, and none ends with a zero (H.264, 7.4.1)
        return [unit for unit in re.split(rb"\x00*\x00\x00\x01", content) if unit]


def encoder_threads() -> int:
    """Return the number of threads for a live encoder: the network needs the other cores."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))
