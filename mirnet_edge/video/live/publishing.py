"""Publish restored video to an RTSP server: H.264 low-delay encoder, session, reconnect.

FFmpeg has such a publisher. But PyAV 18 connects it, and ends it, with the interpreter's lock held
and without a timeout: a server that takes the connection and says nothing would stop every thread.

Live ─ Publisher.show ─► Detached: latest-frame buffer ─► its thread: LowDelayEncoder ─► RtspSession
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
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.files.muxing import luma_and_chroma, write_color_tags
from mirnet_edge.video.live.sinks import Detached
from mirnet_edge.video.live.sources import without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import ColorTags, DisplayedFrame

CLOCK_RATE = 90_000
"""Ticks per second of video in RTP (RFC 3551)."""
_KEY_EVERY = 2 * CLOCK_RATE  # what a player that joins later waits at most
_FRAMES_PER_S = 30  # for the rate control alone: frames come when they come
# noise of a dark frame costs most of it; a line that carries less loses frames
_BITS_PER_PIXEL, _LEAST_RATE = 0.2, 500_000


class LowDelayEncoder:
    """H.264 (8 bits, 4:2:0, no B frames) of one size, a whole image every two seconds."""

    def __init__(self, height: int, width: int, color: ColorTags) -> None:
        """Open it.

        Args:
            height: Of the frames. An odd side is made even by repeating its last line.
            width: As the height.
            color: By which frames are coded, and tagged.
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
        codec.gop_size = 1 << 20  # key frames come by the clock
        # the network is at work on the other cores
        codec.thread_count = max(1, min(4, (os.cpu_count() or 1) // 2))
        rate = max(_LEAST_RATE, int(_BITS_PER_PIXEL * _FRAMES_PER_S * codec.height * codec.width))
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
            ticks: When it was captured, in units of 1 / CLOCK_RATE; rises from frame to frame.
        """
        from av.video.frame import PictureType

        below, right = self._odd
        if below or right:
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
        frame = luma_and_chroma(self._reformatter, pixels, "yuv420p", self._color)
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_RATE)
        if self._next_key is None or ticks >= self._next_key:
            frame.pict_type = PictureType.I
            self._next_key = ticks + _KEY_EVERY
        content = b"".join(map(bytes, self._codec.encode(frame)))
        # a start code cannot occur within a unit, and none ends with a zero (H.264, 7.4.1)
        return [unit for unit in re.split(rb"\x00*\x00\x00\x01", content) if unit]


_PORT = 554
_ANSWER_S, _SEND_S = 5.0, 5.0
_GOODBYE_S = 0.5
_SEND_BUFFER = 128 << 10  # what the system may hold back for a slow server: a frame or two
_LARGEST_PAYLOAD = 1400  # so that a server may send packets on by UDP as they are
_LARGEST_ANSWER = 64 << 10
_PAYLOAD_TYPE = 96
_TRACK = "streamid=0"
_SPS, _PPS, _KIND = 7, 8, 0x1F
_FRAGMENT = 28  # FU-A, RFC 6184, section 5.8


class RtspSession:
    """One connection over which one stream is published: RTP in the same TCP connection.

    For one thread. Everything takes bounded time and raises `VideoError` where that ran out.
    """

    def __init__(self, url: str) -> None:
        """Remember the address; nothing is sent yet.

        Args:
            url: rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH.

        Raises:
            OptionError: Another kind of address.
        """
        self.name = without_password(url).rstrip("/")
        """The address, as it may be told."""
        try:
            parts = urlsplit(url)
            self._place = (parts.hostname or "", parts.port or _PORT)
        except ValueError as error:  # a port that is no number, say
            raise _no_address(url) from error
        if parts.scheme != "rtsp" or not parts.hostname:
            raise _no_address(url)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._socket: socket.socket | None = None
        self._begin()
        self._sequence, self._source = secrets.randbits(16), secrets.randbits(32)
        self._first_ticks = secrets.randbits(32)

    def _begin(self) -> None:
        """Forget what a former connection came to: servers count requests of each from 1."""
        self._unread = b""
        self._session = ""
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._asked = 0

    def connect(self, key_frame: Sequence[bytes]) -> None:
        """Connect and agree on the stream.

        Args:
            key_frame: NAL units, SPS and PPS among them, which describe the stream.

        Raises:
            VideoError: Nobody is there, it does not answer, or it refuses.
        """
        self._begin()
        try:
            self._socket = socket.create_connection(self._place, timeout=_ANSWER_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._ask("ANNOUNCE", self.name, "Content-Type: application/sdp", body=_sdp(key_frame))
            transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"
            self._ask("SETUP", f"{self.name}/{_TRACK}", transport)
            self._ask("RECORD", self.name, "Range: npt=0.000-")
            self._socket.settimeout(_SEND_S)
        except OSError as error:
            self.close()
            raise VideoError(f"{self.name} does not answer: {_reason(error)}") from error
        except VideoError:
            self.close()
            raise

    def send(self, units: Sequence[bytes], ticks: int) -> None:
        """Send a frame.

        Args:
            units: Its NAL units.
            ticks: Its time in units of 1 / CLOCK_RATE.

        Raises:
            VideoError: The server has gone, or takes nothing.
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
            self._hear()
            self._socket.sendall(b"".join(packets))
        except OSError as error:
            raise VideoError(f"{self.name} was lost: {_reason(error)}") from error

    def close(self) -> None:
        """Say goodbye, where that can be said at once, and hang up."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        with connection:
            if self._session:
                connection.settimeout(_GOODBYE_S)
                with suppress(OSError):  # it has gone already
                    connection.sendall(self._request("TEARDOWN", self.name))
        self._session = ""

    def _ask(self, method: str, url: str, *fields: str, body: str = "") -> None:
        """Send a request and take the answer; where it asks who we are, say so once.

        Raises:
            OSError: No answer.
            VideoError: Another answer than 200.
        """
        for _ in range(2):
            self._write(self._request(method, url, *fields, body=body))
            status, answer = self._answer()
            if not status.startswith("401 ") or self._challenge is not None or not self._user:
                break
            self._challenge = _challenge(answer)
        if not status.startswith("200 "):
            hint = "check user and password" if status.startswith("401 ") else "check the address"
            raise VideoError(f"{self.name} refuses to be published to: {status}; {hint}")
        for name, value in answer:
            if name == "session":
                self._session = value.partition(";")[0].strip()

    def _request(self, method: str, url: str, *fields: str, body: str = "") -> bytes:
        self._asked += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._asked}", "User-Agent: mirnet-edge"]
        lines += fields
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._challenge is not None:
            lines.append(f"Authorization: {self._credentials(method, url)}")
        if body:
            lines.append(f"Content-Length: {len(body.encode())}")
        return "\r\n".join([*lines, "", body]).encode()

    def _credentials(self, method: str, url: str) -> str:
        scheme, given = self._challenge or ("basic", {})
        if scheme == "basic":
            both = f"{self._user}:{self._password}".encode()
            return f"Basic {base64.b64encode(both).decode()}"
        realm, nonce = given.get("realm", ""), given.get("nonce", "")
        who = _md5(f"{self._user}:{realm}:{self._password}")
        response = _md5(f"{who}:{nonce}:{_md5(f'{method}:{url}')}")
        return (
            f'Digest username="{self._user}", realm="{realm}", nonce="{nonce}", uri="{url}", '
            f'response="{response}"'
        )

    def _answer(self) -> tuple[str, list[tuple[str, str]]]:
        """Return an answer's status and its fields, names in small letters."""
        status = self._line()
        if status.startswith("$"):
            raise ConnectionError("it sent media before it agreed to take any")
        fields = []
        while line := self._line():
            name, _, value = line.partition(":")
            fields.append((name.strip().lower(), value.strip()))
        for name, value in fields:
            if name == "content-length" and value.isdecimal():
                self._read(int(value))
        return status.partition(" ")[2] or status, fields

    def _line(self) -> str:
        while b"\n" not in self._unread:
            if len(self._unread) > _LARGEST_ANSWER:
                raise ConnectionError("its answer is no RTSP")
            self._receive()
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def _read(self, count: int) -> None:
        if count > _LARGEST_ANSWER:
            raise ConnectionError("its answer is no RTSP")
        while len(self._unread) < count:
            self._receive()
        self._unread = self._unread[count:]

    def _receive(self) -> None:
        received = self._connected().recv(4096)
        if not received:
            raise ConnectionError("it hung up")
        self._unread += received

    def _write(self, request: bytes) -> None:
        self._connected().sendall(request)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("not connected")
        return self._socket

    def _hear(self) -> None:
        """Take and forget what the server says meanwhile: reports on what it received."""
        connection = self._connected()
        while select.select([connection], [], [], 0.0)[0]:
            if not connection.recv(4096):
                raise ConnectionError("it hung up")


def _no_address(url: str) -> OptionError:
    return OptionError(f"expected an address like rtsp://HOST:8554/NAME, found {url!r}")


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()  # what RTSP's digest is made with


def _challenge(fields: list[tuple[str, str]]) -> tuple[str, dict[str, str]]:
    """Return how the server wants to be told who we are: by a digest with MD5, or in the clear."""
    offered: dict[str, dict[str, str]] = {}
    for name, value in fields:
        if name == "www-authenticate":
            scheme, _, rest = value.partition(" ")
            given = parse_keqv_list([one for one in parse_http_list(rest) if "=" in one])
            if given.get("algorithm", "MD5").upper() == "MD5":
                offered[scheme.lower()] = given
    if "digest" in offered:
        return "digest", offered["digest"]
    return "basic", {}


def _sdp(units: Sequence[bytes]) -> str:
    """Return the description of a stream (RFC 4566, RFC 6184) that begins with these units."""
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
    """Yield a NAL unit as RTP payloads: itself, or in fragments (RFC 6184, section 5.8)."""
    if len(unit) <= _LARGEST_PAYLOAD:
        yield unit
        return
    indicator, kind, body = unit[0] & ~_KIND | _FRAGMENT, unit[0] & _KIND, unit[1:]
    starts = range(0, len(body), _LARGEST_PAYLOAD - 2)
    for start in starts:
        edge = (start == 0) << 7 | (start == starts[-1]) << 6
        yield bytes([indicator, edge | kind]) + body[start : start + _LARGEST_PAYLOAD - 2]


logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
_LEAVE_S = 1.0  # a server that takes nothing more may hold up the end for so long


class Publisher:
    """Publishes the newest frame, on a thread of its own; `show` only leaves it there.

    A server that is slow loses frames; one that is not there, or went away, is tried again and
    again, after pauses that grow to four seconds. Each loss and each return is told once.
    """

    def __init__(self, url: str, *, tell: Callable[[str], None] = logger.warning) -> None:
        """Remember the address; the first frame is what connects.

        Args:
            url: rtsp://[USER:PASSWORD@]HOST[:PORT]/NAME.
            tell: Gets one line when the server is lost, found, or found again. Called from the
                publisher's own thread.

        Raises:
            OptionError: Another kind of address.
            MissingDependencyError: PyAV is not installed.
        """
        require("av", "publishing")
        self._sending = _Sending(url, tell)
        self._detached = Detached(self._sending, patience_s=_LEAVE_S)

    @property
    def published(self) -> int:
        """Return how many frames were sent."""
        return self._sending.published

    @property
    def dropped(self) -> int:
        """Return how many frames the server was too slow for, or missed while it was away."""
        return self._sending.missed + self._detached.dropped

    @property
    def losses(self) -> int:
        """Return how often the server was lost."""
        return self._sending.losses

    def summary(self) -> str:
        """Return in one line what it came to."""
        times = "once" if self.losses == 1 else f"{self.losses} times"
        lost = f"; the server was lost {times}" if self.losses else ""
        return f"{self._sending.name}: {self.published} frames sent, {self.dropped} not sent{lost}"

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
        """Leave a frame for the server; one that still waits is replaced."""
        self._detached.show(shown)


class _Sending:
    """The work on the publisher's thread."""

    def __init__(self, url: str, tell: Callable[[str], None]) -> None:
        self._session = RtspSession(url)
        self.name = self._session.name
        self._tell = tell
        self._encoder: LowDelayEncoder | None = None
        self._size = (0, 0)
        self._origin_s = 0.0
        self._last: DisplayedFrame | None = None
        self._last_ticks = -1
        self._pause_s, self._next_try_s = _FIRST_PAUSE_S, 0.0
        self._trouble = self._was_there = False
        self.published = self.missed = self.losses = 0

    def __enter__(self) -> _Sending:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def show(self, shown: DisplayedFrame) -> None:
        """Send a frame, connecting where that is due; a fault of the server's is told, not raised.

        An image that stands still is sent again as often as it is shown: servers drop who is
        silent.
        """
        if self._encoder is None and REAL_CLOCK.now() < self._next_try_s:
            self.missed += 1
            return
        try:
            self._send(shown)
        except VideoError as error:
            self.missed += 1
            self._lose(error)
        else:
            self.published += 1
            self._find()

    def _send(self, shown: DisplayedFrame) -> None:
        height, width = shown.after.shape[:2]
        if self._encoder is not None and self._size != (height, width):
            self._hang_up()  # a stream has one size; players follow a new one
        fresh = self._encoder is None
        encoder = self._encoder or LowDelayEncoder(height, width, shown.before.color)
        if fresh:
            self._size, self._origin_s = (height, width), shown.before.captured_s
            self._last_ticks = -1
        ticks = self._ticks(shown)
        units = encoder.encode(shown.after, ticks)
        if fresh:
            self._session.connect(units)
            self._encoder = encoder
        self._session.send(units, ticks)

    def _ticks(self, shown: DisplayedFrame) -> int:
        """Return a frame's time: its capture's; of an image that stands still, now."""
        stands = self._last is not None and shown.after is self._last.after
        at_s = REAL_CLOCK.now() if stands else shown.before.captured_s
        self._last = shown
        self._last_ticks = max(round((at_s - self._origin_s) * CLOCK_RATE), self._last_ticks + 1)
        return self._last_ticks

    def _lose(self, error: VideoError) -> None:
        connected = self._encoder is not None
        self._hang_up()
        self._next_try_s = REAL_CLOCK.now() + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_PAUSE_S)
        self.losses += connected
        if not self._trouble:
            self._tell(f"{error}; trying again")
        self._trouble = True

    def _find(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        if self._trouble or not self._was_there:
            again = " again" if self._was_there else ""
            self._tell(f"publishing to {self.name}{again}")
        self._trouble, self._was_there = False, True

    def _hang_up(self) -> None:
        self._encoder = None
        self._session.close()
