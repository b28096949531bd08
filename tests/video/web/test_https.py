"""The page over https, with certificates that were made here; and what is said without one."""

from __future__ import annotations

import asyncio
import http.client
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from urllib.parse import urlsplit

import aiohttp
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.web.camera import BrowserSource
from mirnet_edge.video.web.server import WebSink, openssl_command
from mirnet_edge.video.web.sessions import StreamLimits


@pytest.fixture
def pair(tmp_path, make_certificate):
    return make_certificate(tmp_path)


def get(sink, path, certificate):
    address = urlsplit(sink.addresses[0])
    trusting = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection(
        address.hostname, address.port, timeout=5, context=trusting
    )
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
        status, body = get(sink, "/secret/", certificate)
        assert status == 200
        assert b"mirnet-edge live" in body
        assert get(sink, "/", certificate)[0] == 403


async def first(sink, certificate, way):
    trusting = ssl.create_default_context(cafile=str(certificate))
    address = sink.addresses[0] + way
    async with aiohttp.ClientSession() as client:
        if way == "session":
            async with client.ws_connect(address.replace("https", "wss"), ssl=trusting) as live:
                came = await live.receive_json(timeout=5)
        else:
            async with client.get(address, ssl=trusting) as answer:
                came = await answer.content.readline()
    await asyncio.sleep(0.2)  # aiohttp's client closes TLS after it says that it is closed
    return came


def test_the_session_and_the_stream_are_secured_too(pair, serving, make_shown):
    certificate, key = pair
    with serving(certificate=certificate, key=key) as (sink, _):
        sink.show(make_shown(0))
        hello = asyncio.run(first(sink, certificate, "session"))
        assert (hello["type"], hello["https"]) == ("session", "")
        assert asyncio.run(first(sink, certificate, "stream.mjpg")) == b"--frame\r\n"


def test_who_speaks_http_gets_nothing_and_the_others_go_on(pair, serving):
    certificate, key = pair
    with serving(certificate=certificate, key=key) as (sink, _):
        address = urlsplit(sink.addresses[0])
        plain = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
        plain.request("GET", "/")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()
        plain.close()
        assert get(sink, "/", certificate)[0] == 200


def test_who_says_nothing_is_dropped_before_any_request(pair, serving):
    certificate, key = pair
    limits = StreamLimits(request_s=0.3)
    with serving(certificate=certificate, key=key, limits=limits) as (sink, _):
        address = urlsplit(sink.addresses[0])
        started = time.monotonic()
        with socket.create_connection((address.hostname, address.port), timeout=5) as silent:
            assert silent.recv(1) == b""
        assert time.monotonic() - started < 4


@pytest.mark.parametrize("fault", ["missing", "no PEM", "another's key", "a passphrase", "no key"])
def test_what_cannot_be_used_is_one_line_that_says_how_to_make_it(
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


def test_a_key_alone_is_refused(pair):
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
def test_where_a_browsers_camera_needs_https_it_is_said_how(options, advised, pair):
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
def test_the_command_that_is_told_makes_what_is_needed(tmp_path, serving):
    command = shlex.split(openssl_command("127.0.0.1"))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    with serving(certificate=certificate, key=key) as (sink, _):
        assert get(sink, "/", certificate)[0] == 200
