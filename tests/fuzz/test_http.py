"""Fuzz the page's server: no bytes of a stranger make it fail, log an error or stop serving.

    MIRNET_FUZZ_SECONDS=600 pytest -rP tests/fuzz/test_http.py

Each target runs for that long, 2 s without the variable, and says how many inputs it sent and what
was answered.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import re
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp", reason='needs pip install "mirnet-edge[web]"')
pytest.importorskip("aiortc", reason='needs pip install "mirnet-edge[web]"')

from mirnet_edge.video.frames import DisplayedFrame, LiveStatus, VideoFrame
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.web.server import WebSink
from mirnet_edge.video.web.sessions import StreamLimits

SECONDS = float(os.environ.get("MIRNET_FUZZ_SECONDS", "2"))
_QUIET_S = 0.02  # the server has answered what it will
_ROUND = 40  # examples between two looks at the clock
pytestmark = pytest.mark.timeout(SECONDS + 120)


class Target:
    """A served page, and the errors that it logged."""

    def __init__(self, token, snapshots):
        limits = StreamLimits(
            viewers=8, request_s=1.0, keep_alive_s=1.0, send_s=1.0, heartbeat_s=2.0, connect_s=1.0
        )
        self.token = token
        self.controls = Controls(("null:fp32", "null:int8"))
        self.sink = WebSink(self.controls, port=0, token=token, limits=limits, snapshots=snapshots)
        self.errors = []
        self.statuses = Counter()
        self.sent = 0

    def __enter__(self):
        self.sink.__enter__()
        self.sink.show(_shown())
        address = urlsplit(self.sink.addresses[0])
        self.place = (address.hostname, address.port)
        self._handler = logging.Handler(logging.ERROR)
        self._handler.emit = lambda record: self.errors.append(self._handler.format(record))
        logging.getLogger().addHandler(self._handler)
        return self

    def __exit__(self, *_):
        logging.getLogger().removeHandler(self._handler)
        self.sink.__exit__(None, None, None)

    def exchange(self, pieces, *, hasty=False, read_s=2.0):
        """Send pieces on one connection, end it, and return all that was answered.

        A hasty client ends it before it is answered.
        """
        self.sent += 1
        answer = b""
        with suppress(OSError), socket.create_connection(self.place, timeout=read_s) as client:
            with suppress(OSError):  # it may close before all is sent
                for piece in pieces:
                    client.sendall(piece)
            client.settimeout(_QUIET_S)
            for _ in range(1 if hasty else 2):
                if hasty:
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(read_s)
                with suppress(TimeoutError):
                    while part := client.recv(65536):
                        answer += part
                if not hasty:
                    # who waits for the rest of a request, or for the next one, learns its end
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(read_s)
        return answer

    def check(self, answer):
        """Fail where a response is a server's fault, or an error was logged."""
        found = [int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE)]
        self.statuses.update(found or [0])
        assert all(code < 500 or code == 503 for code in found), answer[:300]
        assert self.errors == []
        assert b"Traceback" not in answer

    def check_alive(self):
        """Fail where an ordinary request is not served, or a session, now that all viewers left."""
        close = b"Connection: close\r\n\r\n"
        page = b"GET " + self.prefix + b"/ HTTP/1.1\r\n" + LOCAL + close
        assert self.exchange([page]).startswith(b"HTTP/1.1 200")
        end = time.monotonic() + 20
        while not self.exchange([self.handshake(), CLOSING]).startswith(b"HTTP/1.1 101"):
            assert time.monotonic() < end, "sessions of viewers who left are still counted"
            time.sleep(0.1)

    @property
    def prefix(self):
        return f"/{self.token}".encode() if self.token else b""

    def handshake(self):
        """Return the request that opens a session."""
        return (
            b"GET " + self.prefix + b"/session HTTP/1.1\r\n" + LOCAL + b"Connection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            + base64.b64encode(bytes(16)) + b"\r\n\r\n"
        )  # fmt: skip

    def report(self, name):
        counts = ", ".join(f"{code or 'none'}: {n}" for code, n in sorted(self.statuses.items()))
        line = f"{name}: {self.sent} inputs in {SECONDS:g} s; answers by status: {counts}\n"
        sys.stdout.write(line)


def _shown():
    status = LiveStatus(
        fps=30.0, age_ms=20.0, age_p95_ms=25.0, restore_ms=5.0, captured=1, shown=1, dropped=0,
        failed=0, configuration="null:fp32", configurations=("null:fp32", "null:int8"),
        restoring=True, frozen=False, recording=False, snapshots=0, note="",
    )  # fmt: skip
    pixels = np.zeros((16, 16, 3), np.uint8)
    before = VideoFrame(pixels=pixels, index=7, captured_s=0.0)
    return DisplayedFrame(before=before, after=pixels, restored=True, status=status)


@pytest.fixture(params=[None, "secret"], ids=["local", "token"])
def target(request, tmp_path):
    with Target(request.param, tmp_path) as running:
        yield running
        running.check_alive()


def fuzz(make_property):
    """Make and run a hypothesis test, each round with another seed, until the time is over."""
    end = time.monotonic() + SECONDS
    with_settings = settings(
        max_examples=_ROUND, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )  # fmt: skip
    for number in itertools.count():
        with_settings(seed(number)(make_property()))()
        if time.monotonic() > end:
            return


METHODS = [b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b"PUT", b"get", b"", b"PRI"]
TARGETS = [
    b"/", b"/page.js", b"/session", b"/stream.mjpg", b"/snapshot.png", b"/snapshot.png?index=7",
    b"/snapshot.png?index=99999999999999999999", b"/snapshot.png?index=-1&index=7&key=%00",
    b"/secret/", b"/secret/session", b"/secret/../secret/page.js", b"/%2e%2e/%2e%2e/etc/passwd",
    b"//secret/", b"/secret%2f", b"*", b"page.js", b"", b"http://127.0.0.1/", b"http://[::1/",
    b"http://a:99999/", b"/%ff%fe", b"/\xff\xfe", b"/?" + b"a=b&" * 300, b"/" + b"a/" * 500,
]  # fmt: skip
NAMES = [
    b"Host", b"Origin", b"Connection", b"Upgrade", b"Content-Length", b"Transfer-Encoding",
    b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Sec-WebSocket-Extensions", b"Expect",
    b"Content-Type", b"Content-Encoding", b"Range", b"Cookie", b"X",
]  # fmt: skip
VALUES = [
    b"127.0.0.1", b"localhost", b"[::1]", b"[::1", b"evil.example", b"http://127.0.0.1", b"null",
    b"http://[", b"http://[x]:y/", b"close", b"keep-alive", b"Upgrade", b"websocket", b"13", b"0",
    b"5", b"-1", b"99999999999999999999", b"chunked", b"chunked, chunked", b"gzip", b"deflate",
    b"100-continue", b"permessage-deflate; client_max_window_bits=99", b"bytes=0-0",
    b"multipart/form-data; boundary=", b"dGhlIHNhbXBsZSBub25jZQ==", b"", b"\xff\xfe",
    b"a" * 9000, b"a\tb", b"a\x00b",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTTP", b"http/1.1", b""]
BODIES = [
    b"",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"hello",
    b"\x1f\x8b",
]


@st.composite
def http_requests(draw):
    """Return a request's bytes in pieces: of known parts, random ones, and cut or changed ones."""
    few = st.binary(max_size=12)

    def choose(usual, known):
        """Draw the usual value seven times in eight, else a known or a random one."""
        return usual if draw(st.integers(0, 7)) else draw(st.sampled_from(known) | few)

    target = choose(draw(st.sampled_from(TARGETS)), TARGETS)
    line = b" ".join([choose(b"GET", METHODS), target, choose(b"HTTP/1.1", VERSIONS)])
    headers = []
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        headers.append((choose(b"Origin", NAMES), choose(b"http://127.0.0.1", VALUES)))
    if draw(st.integers(0, 7)):
        headers.insert(0, (b"Host", b"127.0.0.1"))
    lines = [line, *(name + b": " + value for name, value in headers)]
    end = choose(b"\r\n", [b"\n", b"\r"])
    whole = bytearray(end.join(lines) + 2 * end + draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(whole)))
        kind = draw(st.sampled_from(["insert", "delete", "cut"]))
        if kind == "insert":
            whole[place:place] = draw(few)
        elif kind == "delete":
            del whole[place : place + draw(st.integers(1, 8))]
        else:
            del whole[place:]
    repeated = bytes(whole) * draw(st.sampled_from([1, 1, 1, 1, 2, 20]))
    cut = draw(st.integers(0, len(repeated)))
    return [repeated[:cut], repeated[cut:]]


LOCAL = b"Host: 127.0.0.1\r\n"


def test_no_request_makes_the_server_fail(target):
    def make():
        @given(http_requests(), st.booleans())
        # found in the past
        @example([b"GET / HTTP/1.1\r\n" + LOCAL + b"Origin: http://[::1\r\n\r\n"], False)
        @example(
            [b"GET /snapshot.png?index=" + 5000 * b"9" + b" HTTP/1.1\r\n" + LOCAL + b"\r\n"], False
        )
        @example([b"OPTIONS * HTTP/1.1\r\n" + LOCAL + b"\r\n"], False)
        @example([b"GET /%ff HTTP/1.1\r\n" + LOCAL + b"\r\n"], False)
        def check(pieces, hasty):
            target.check(target.exchange(pieces, hasty=hasty))

        return check

    fuzz(make)
    target.report("requests")


TYPES = [
    "offer", "refresh", "disconnect", "restoring", "frozen", "configuration", "strength", "paused",
    "loop", "seek", "snapshot", "status", "",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["null:int8", "v=0", "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", 10**400]),
)  # fmt: skip
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | SCALARS},
    optional={
        name: SCALARS | st.lists(SCALARS, max_size=2)
        for name in ("on", "strength", "position_s", "configuration", "sdp", "index", "more")
    },
)


@st.composite
def websocket_frames(draw):
    """Return frames of a WebSocket: messages of the page, changed, and frames of any kind."""
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        text = json.dumps(draw(MESSAGES)).encode()
        payload = draw(st.sampled_from([text, text, text[: len(text) // 2], b"[" * 4000]))
        payload = draw(st.just(payload) | st.binary(max_size=20))
        opcode = draw(st.sampled_from([1, 1, 1, 1, 0, 2, 8, 9, 10, 3, 15]))
        final = draw(st.sampled_from([0x80, 0x80, 0x80, 0, 0xC0]))
        masked = draw(st.sampled_from([True, True, True, False]))
        length = draw(st.sampled_from([None, None, None, 0, 2**16 + 5, 2**63 - 1]))
        frames.append(_frame(final | opcode, payload, masked=masked, length=length))
    return frames


def _frame(first, payload, *, masked=True, length=None):
    length = len(payload) if length is None else length
    bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack(">BB", first, bit | length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", first, bit | 126, length)
    else:
        head = struct.pack(">BBQ", first, bit | 127, length)
    return head + (bytes(4) if masked else b"") + payload


CLOSING = _frame(0x88, struct.pack(">H", 1000))


def test_no_websocket_frame_makes_the_server_fail(target):
    def make():
        @given(websocket_frames(), st.booleans())
        @example([_frame(0x81, b'{"type": "seek", "position_s": 1e999}')], True)
        @example([_frame(0x81, b'{"type": "snapshot", "index": 99999999999999999999}')], False)
        def check(frames, hasty):
            target.check(target.exchange([target.handshake(), *frames, CLOSING], hasty=hasty))

        return check

    fuzz(make)
    target.report("WebSocket messages")


def test_the_checks_above_can_fail(target):
    logging.getLogger("aiohttp.server").error("a fault")
    with pytest.raises(AssertionError):
        target.check(b"HTTP/1.1 200 OK\r\n")
    target.errors.clear()
    with pytest.raises(AssertionError):
        target.check(b"HTTP/1.1 500 Internal Server Error\r\n")
