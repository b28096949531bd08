"""The live page's server: access policy, viewer sessions, MJPEG, snapshots, limits, https."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import OptionError
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.web.camera import BrowserSource
from mirnet_edge.video.web.server import WebSink, openssl_command
from mirnet_edge.video.web.sessions import StreamLimits, is_local

ROUTES = [
    "", "page.css", "page.js", "view.js", "streams.js", "chart.js", "local.js", "icon.svg",
    "session", "stream.mjpg", "snapshot.png",
]  # fmt: skip


def get(sink, path, **headers):
    """Return the answer to one request, its body read."""
    address = urlsplit(sink.addresses[0])
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("route", [*ROUTES, "no-such-route"])
@pytest.mark.parametrize("prefix", ["/", "/wrong/", "/secre/", "//secret/"])
def test_every_route_is_forbidden_without_the_token(serving, route, prefix):
    with serving(token="secret") as (sink, _):
        assert get(sink, f"{prefix}{route}")[0] == 403


def test_with_the_token_the_page_is_served_and_loads_nothing_from_other_hosts(serving):
    with serving(token="secret") as (sink, _):
        assert sink.addresses[0].endswith("/secret/")
        for route in ROUTES[:7]:
            status, headers, body = get(sink, f"/secret/{route}")
            assert status == 200
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["Referrer-Policy"] == "no-referrer"
            outside = body.replace(b"http://www.w3.org/2000/svg", b"").replace(
                b"http://127.0.0.1", b""
            )
            assert b"http://" not in outside
            assert b"https://" not in outside


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("cam", False)],
)
def test_a_host_that_other_machines_reach_requires_a_token(host, local):
    assert is_local(host) is local
    (address,) = WebSink(Controls(), host=host, port=80).addresses
    assert (urlsplit(address).path == "/") is local
    assert local or len(urlsplit(address).path) > 20


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_another_site_cannot_use_a_local_page(serving, headers):
    with serving() as (sink, _):
        assert get(sink, "/", **headers)[0] == 403
        assert get(sink, "/")[0] == 200


def test_a_snapshot_is_the_requested_frame(serving, make_shown):
    with serving() as (sink, _):
        assert get(sink, "/snapshot.png")[0] == 404
        for index in range(3):
            sink.show(make_shown(index, after=100 + index))
        status, headers, body = get(sink, "/snapshot.png?index=1")
        assert status == 200
        assert headers["Content-Disposition"] == 'attachment; filename="mirnet-1.png"'
        assert (np.asarray(Image.open(io.BytesIO(body))) == 101).all()
        assert get(sink, "/snapshot.png?index=9")[0] == 404
        assert get(sink, "/snapshot.png?index=-1")[0] == 400


def read_part(stream):
    """Return the next JPEG of a multipart body."""
    assert stream.readline() == b"--frame\r\n"
    head = {}
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.decode().partition(":")
        head[name.lower()] = value.strip()
    body = stream.read(int(head["content-length"]))
    assert stream.read(2) == b"\r\n"
    return int(head["x-frame"]), np.asarray(Image.open(io.BytesIO(body)))


def test_mjpeg_parts_have_length_and_index(serving, make_shown):
    with serving() as (sink, _):
        sink.show(make_shown(0))
        address = urlsplit(sink.addresses[0])
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
        connection.request("GET", "/stream.mjpg")
        stream = connection.getresponse()
        assert stream.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=frame"
        for index in range(3):
            number, image = read_part(stream)
            assert number == index
            assert image.shape[1] == 320
            sink.show(make_shown(index + 1))
        connection.close()


def connected(sink, request):
    """Return a socket that sent a request and reads nothing."""
    address = urlsplit(sink.addresses[0])
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(5)
    client.connect((address.hostname, address.port))
    client.sendall(request)
    return client


def is_closed_within(client, seconds):
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("request_", [b"", b"GET / HTTP/1.1\r\nHost: 127"], ids=["none", "half"])
def test_a_connection_without_a_request_is_dropped(serving, request_):
    with serving(limits=StreamLimits(request_s=0.3)) as (sink, _):
        client = connected(sink, request_)
        assert is_closed_within(client, 3)
        client.close()


def test_a_viewer_that_receives_nothing_is_dropped_and_viewers_are_limited(serving, make_shown):
    with serving(limits=StreamLimits(viewers=1, send_s=0.3)) as (sink, _):
        client = connected(sink, b"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(16).startswith(b"HTTP/1.1 200")
        assert get(sink, "/stream.mjpg")[0] == 503
        generator = np.random.default_rng(0)
        noisy = make_shown(0, height=480, width=640)
        noisy.after[:] = generator.integers(0, 256, noisy.after.shape)
        ends = time.monotonic() + 10
        status = 503
        while status == 503 and time.monotonic() < ends:
            for index in range(5):
                sink.show(noisy)
                time.sleep(0.01 * (index + 1))
            status = get(sink, "/session")[0]  # 400 where there is room: it is no WebSocket
        client.close()
        assert status == 400


@pytest.mark.parametrize("way", ["session", "stream.mjpg"])
def test_viewers_who_leave_are_not_counted_although_no_frame_comes(serving, make_shown, way):
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        if way == "session"
        else b""
    )
    request = f"GET /{way} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + upgrade + b"\r\n"
    with serving(limits=StreamLimits(viewers=3)) as (sink, _):
        if way == "session":
            sink.show(make_shown(0))  # and none after it
        for _ in range(12):
            ends, first = time.monotonic() + 5, b"HTTP/1.1 503"
            while first.startswith(b"HTTP/1.1 503"):
                assert time.monotonic() < ends
                client = connected(sink, request)
                first = client.recv(12)
                client.close()
                time.sleep(0.01)


def session(sink, talk):
    """Run TALK(socket) as a page, and return what it returned."""

    async def run():
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{sink.addresses[0]}session") as live,
        ):
            assert (await live.receive_json(timeout=5))["type"] == "session"
            return await asyncio.wait_for(talk(live), 10)

    return asyncio.run(run())


async def receive(live, kind):
    while (message := await live.receive_json(timeout=5))["type"] != kind:
        pass
    return message


def test_the_session_changes_controls_and_sends_status(serving, make_shown):
    with serving() as (sink, controls):
        sink.show(make_shown(7))

        async def talk(live):
            status = await receive(live, "status")
            await live.send_json({"type": "restoring", "on": False})
            await live.send_json({"type": "frozen", "on": True})
            await live.send_json({"type": "configuration", "configuration": "null:int8"})
            await live.send_json({"type": "configuration", "configuration": "no such"})
            return status, await receive(live, "error")

        status, error = session(sink, talk)
        assert status["index"] == 7
        assert (status["width"], status["height"], status["viewers"]) == (64, 48, 1)
        assert "no such" in error["message"]
        assert not controls.restoring
        assert controls.frozen
        assert controls.take_configuration() == "null:int8"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"type": "rm"}',
        json.dumps({"type": "offer", "sdp": "v=0"}),
        '{"type":"configuration"}',
    ],
)
def test_an_invalid_message_is_answered_and_the_session_continues(serving, text):
    with serving() as (sink, _):

        async def talk(live):
            await live.send_str(text)
            await receive(live, "error")
            await live.send_str(text)
            return await receive(live, "error")

        assert session(sink, talk)["message"]


def test_a_page_that_answers_no_pings_is_dropped(serving):
    with serving(limits=StreamLimits(viewers=1, heartbeat_s=0.4)) as (sink, _):

        async def run():
            # autoping off: a page that hangs answers no ping
            async with aiohttp.ClientSession() as client:
                address = f"{sink.addresses[0]}session"
                async with client.ws_connect(address, autoping=False) as silent:
                    await silent.receive(timeout=5)
                    ends = time.monotonic() + 8
                    while time.monotonic() < ends:
                        await asyncio.sleep(0.1)
                        async with client.get(address) as answer:
                            if answer.status == 400:
                                return True
            return False

        assert asyncio.run(run())


def test_a_viewers_camera_is_visible_to_that_viewer_only(serving, make_shown):
    camera = BrowserSource(Controls())
    with serving(camera=camera) as (sink, _):
        sink.show(make_shown(0))
        assert camera.claim("owner")
        assert not camera.claim("another")
        for path in ("/snapshot.png", "/snapshot.png?key=another", "/stream.mjpg?key=another"):
            assert get(sink, path)[0] == 403
        assert get(sink, "/snapshot.png?key=owner")[0] == 200
        camera.release("owner")
        assert get(sink, "/snapshot.png?key=owner")[0] == 403


def test_the_browser_source_returns_the_newest_frame_and_ends_with_the_pipeline():
    controls = Controls()
    source = BrowserSource(controls)
    with source:
        source.claim("owner")
        source.put("another", np.full((2, 2, 3), 9, np.uint8))
        for level in (1, 2):
            source.put("owner", np.full((2, 2, 3), level, np.uint8))
        frame = source.read()
        assert frame is not None
        assert (frame.index, frame.pixels[0, 0, 0]) == (1, 2)
        controls.stop()
        assert source.read() is None


def test_the_server_stops_at_once_with_viewers_connected(serving, make_shown):
    with serving() as (sink, _):
        sink.show(make_shown(0))
        client = connected(sink, b"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        client.recv(16)
        started = time.monotonic()
    assert time.monotonic() - started < 1.9  # after 2 s the server is given up
    assert is_closed_within(client, 1)
    client.close()


def test_a_port_in_use_is_an_option_error(serving):
    with serving() as (sink, _):
        port = urlsplit(sink.addresses[0]).port
        with pytest.raises(OptionError, match=f"{port}.*--port"), WebSink(Controls(), port=port):
            pass


@pytest.fixture
def pair(tmp_path, make_certificate):
    return make_certificate(tmp_path)


def get_https(sink, path, certificate):
    address = urlsplit(sink.addresses[0])
    tls = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=5, context=tls)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("together", [False, True], ids=["two files", "one file"])
def test_the_page_is_served_over_https(together, pair, serving):
    certificate, key = pair
    if together:
        certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
        key = None
    with serving(certificate=certificate, key=key, token="secret") as (sink, _):
        assert sink.addresses[0].startswith("https://127.0.0.1:")
        status, body = get_https(sink, "/secret/", certificate)
        assert status == 200
        assert b"mirnet-edge live" in body
        assert get_https(sink, "/", certificate)[0] == 403


async def receive_first(sink, certificate, way):
    tls = ssl.create_default_context(cafile=str(certificate))
    address = sink.addresses[0] + way
    async with aiohttp.ClientSession() as client:
        if way == "session":
            async with client.ws_connect(address.replace("https", "wss"), ssl=tls) as live:
                came = await live.receive_json(timeout=5)
        else:
            async with client.get(address, ssl=tls) as answer:
                came = await answer.content.readline()
    await asyncio.sleep(0.2)  # aiohttp's client closes TLS after it reports that it is closed
    return came


def test_the_session_and_the_stream_use_https_too(pair, serving, make_shown):
    certificate, key = pair
    with serving(certificate=certificate, key=key) as (sink, _):
        sink.show(make_shown(0))
        hello = asyncio.run(receive_first(sink, certificate, "session"))
        assert (hello["type"], hello["https"]) == ("session", "")
        assert asyncio.run(receive_first(sink, certificate, "stream.mjpg")) == b"--frame\r\n"


def test_plain_http_gets_no_response_and_other_viewers_continue(pair, serving):
    certificate, key = pair
    with serving(certificate=certificate, key=key) as (sink, _):
        address = urlsplit(sink.addresses[0])
        plain = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
        plain.request("GET", "/")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()
        plain.close()
        assert get_https(sink, "/", certificate)[0] == 200


def test_a_connection_without_a_handshake_is_dropped(pair, serving):
    certificate, key = pair
    limits = StreamLimits(request_s=0.3)
    with serving(certificate=certificate, key=key, limits=limits) as (sink, _):
        address = urlsplit(sink.addresses[0])
        started = time.monotonic()
        with socket.create_connection((address.hostname, address.port), timeout=5) as silent:
            assert silent.recv(1) == b""
        assert time.monotonic() - started < 4


@pytest.mark.parametrize("fault", ["missing", "no PEM", "another's key", "a passphrase", "no key"])
def test_an_unusable_certificate_is_reported_with_the_command_to_create_one(
    fault, pair, tmp_path, make_certificate
):
    certificate, key = pair
    if fault == "missing":
        certificate = tmp_path / "nowhere.pem"
    elif fault == "no PEM":
        certificate.write_text("no certificate")
    elif fault == "another's key":
        _, key = make_certificate(tmp_path / "other")
    elif fault == "a passphrase":
        certificate, key = make_certificate(tmp_path / "locked", passphrase=b"secret")
    else:
        key = None
    with pytest.raises(OptionError, match=r"--certificate .*found: .*openssl req -x509") as raised:
        WebSink(Controls(), certificate=certificate, key=key)
    assert "\n" not in str(raised.value)


def test_a_key_without_a_certificate_is_refused(pair):
    with pytest.raises(OptionError, match=r"--key .* requires --certificate"):
        WebSink(Controls(), key=pair[1])


@pytest.mark.parametrize(
    ("options", "advised"),
    [
        ({"host": "192.168.1.20"}, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "192.168.1.20", "certificate": True}, False),
        ({"host": "192.168.1.20", "camera": False}, False),
    ],
    ids=["others reach it", "this machine", "https", "no viewer's camera"],
)
def test_https_advice_is_given_where_a_browser_camera_requires_it(options, advised, pair):
    controls = Controls()
    camera = BrowserSource(controls) if options.get("camera", True) else None
    certificate, key = pair if options.get("certificate") else (None, None)
    sink = WebSink(controls, host=options["host"], camera=camera, certificate=certificate, key=key)
    if advised:
        assert openssl_command("192.168.1.20") in sink.https_advice
        assert "\n" not in sink.https_advice
    else:
        assert sink.https_advice == ""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_the_advised_command_creates_a_usable_certificate(tmp_path, serving):
    command = shlex.split(openssl_command("127.0.0.1"))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    with serving(certificate=certificate, key=key) as (sink, _):
        assert get_https(sink, "/", certificate)[0] == 200


# strangers


def exchange(sink, request):
    """Send bytes, and return all that is answered until the server closes or is silent."""
    client = connected(sink, request)
    client.settimeout(2)
    answer = b""
    try:
        while part := client.recv(65536):
            answer += part
    except (TimeoutError, ConnectionError):
        pass
    finally:
        client.close()
    return answer


LOCAL = b"Host: 127.0.0.1\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + LOCAL + b"Origin: http://[::1\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n" + LOCAL + b"Origin: http://[x]:y/\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nConnection: close\r\nHost: [::1\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nConnection: close\r\nHost: \r\n\r\n", 403),
        (b"GET page.css HTTP/1.1\r\n" + LOCAL + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n" + LOCAL + b"\r\n", 404),
        (b"CONNECT a:1 HTTP/1.1\r\n" + LOCAL + b"\r\n", 403),
        (b"GET //a:99999/ HTTP/1.1\r\n" + LOCAL + b"\r\n", 404),
        (b"GET /%ff%fe HTTP/1.1\r\n" + LOCAL + b"\r\n", 404),
        (b"GET /snapshot.png?index=" + 5000 * b"9" + b" HTTP/1.1\r\n" + LOCAL + b"\r\n", 400),
        (b"GET /snapshot.png?index=%D9%A3 HTTP/1.1\r\n" + LOCAL + b"\r\n", 400),
        (b"GET /" + 20_000 * b"a" + b" HTTP/1.1\r\n" + LOCAL + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + LOCAL + b"A: " + 100_000 * b"b" + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + LOCAL + 500 * b"A: b\r\n" + b"\r\n", 400),
        (b"GET / HTTP/9.9\r\n" + LOCAL + b"\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + LOCAL + b"Content-Length: 3\r\n\r\nabc", 405),
        (b"POST / HTTP/1.1\r\n" + LOCAL + b"Content-Length: -3\r\n\r\n", 400),
        (b"GET /session HTTP/1.1\r\n" + LOCAL + b"Upgrade: websocket\r\n\r\n", 400),
    ],
    ids=[
        "origin", "origin's port", "host", "no host", "no slash", "star", "connect", "port",
        "bytes", "huge index", "other digits", "long target", "long header", "many headers",
        "version", "tls", "post", "negative length", "no handshake",
    ],
)  # fmt: skip
@pytest.mark.parametrize("token", [None, "secret"])
def test_a_malformed_request_is_refused_without_a_traceback(
    serving, caplog, capfd, request_, status, token
):
    with serving(token=token) as (sink, _):
        answer = exchange(sink, request_)
        found = int(answer.split(b" ", 2)[1])
        # with a token, what is well formed lacks it
        assert found == status or (token and found == 403)
        assert get(sink, f"/{token}/" if token else "/")[0] == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\nHost: 127.0"], ids=["idle", "half"])
def test_a_connection_is_dropped_when_no_further_request_follows(serving, rest):
    with serving(limits=StreamLimits(keep_alive_s=0.4)) as (sink, _):
        client = connected(sink, b"GET /icon.svg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(rest)
        assert is_closed_within(client, 3)
        client.close()


def test_a_viewer_that_does_not_take_a_snapshot_is_dropped(serving, make_shown):
    shown = make_shown(0, height=1200, width=1600)
    shown.after[:] = np.random.default_rng(0).integers(0, 256, shown.after.shape)
    limits = StreamLimits(send_s=0.3, send_bytes_per_s=64 << 20)
    with serving(limits=limits) as (sink, _):
        sink.show(shown)
        client = connected(sink, b"GET /snapshot.png HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        client.settimeout(10)
        assert client.recv(16).startswith(b"HTTP/1.1 200")
        time.sleep(1.5)
        received = 0
        with suppress(ConnectionError):
            while part := client.recv(1 << 20):
                received += len(part)
        assert received < shown.after.nbytes / 2
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_listens_on_loopback_alone_by_default(serving):
    with serving() as (sink, _):
        port = urlsplit(sink.addresses[0]).port
        listening = [
            line.split()[1]
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ]
        assert listening == [f"0100007F:{port:04X}"]
