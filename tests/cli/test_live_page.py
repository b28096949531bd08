"""`mirnet live` on a page: addresses, the browser, the first minute without options, files."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiortc", reason='needs pip install "mirnet-edge[web]"')

CODE = "from mirnet_edge.cli.live import main; main()"


@contextmanager
def started(*options, **environment):
    """Run the command beside the block; it is killed at its end."""
    running = subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, options)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "40", "DISPLAY": "", "WAYLAND_DISPLAY": "", **environment},
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def end(running, number=signal.SIGTERM):
    """End it by a signal, and return the rest of what it printed."""
    begun = time.monotonic()
    running.send_signal(number)
    rest = running.communicate(timeout=20)[1]
    assert running.returncode == 0, rest
    assert "left behind" not in rest
    assert "Traceback" not in rest
    assert time.monotonic() - begun < 5  # a loaded machine; it is under one on a quiet one
    return rest


@pytest.mark.parametrize("source", ["synthetic", "browser"])
def test_the_page_is_there_at_the_address_told_and_ctrl_c_ends_it(make_bundle, source):
    options = ["--source", source, "--bundle", make_bundle(), "--display", "web", "--no-open"]
    with started(*options, "--host", "0.0.0.0", "--port", "0") as running:
        line = running.stderr.readline()
        address = re.fullmatch(r"open (http://\S+/[\w-]{20,}/)\n", line).group(1)
        if source == "browser":
            advice = running.stderr.readline()
            assert advice.startswith("browsers give their camera to https only: openssl req -x509")
        with urllib.request.urlopen(address, timeout=10) as page:
            assert page.status == 200
        outside = address.rsplit("/", 2)[0]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(outside, timeout=10)
        end(running, signal.SIGINT)


@pytest.mark.skipif(any(Path("/dev").glob("video*")), reason="there is a camera here")
@pytest.mark.skipif(sys.platform != "linux", reason="where else a display is, is not known")
def test_without_options_a_synthetic_scene_is_on_a_page_that_is_opened(make_bundle, tmp_path):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!/bin/sh\necho $1 > {opened}.part; mv {opened}.part {opened}\nexec sleep 9 2>/dev/null\n"
    )
    browser.chmod(0o755)
    options = ["--bundle", make_bundle(), "--port", "0"]
    with started(*options, DISPLAY=":99", BROWSER=str(browser)) as running:
        said = running.stderr.readline()
        assert said.startswith("no camera was found: a synthetic scene is shown; --source takes")
        address = running.stderr.readline().removeprefix("open ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        wait_until(opened.exists)
        assert opened.read_text().strip() == address
        end(running)  # although the browser runs


@pytest.mark.parametrize("reason", ["no display", "no browser"])
def test_a_page_that_cannot_be_opened_is_served_all_the_same(make_bundle, tmp_path, reason):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\ntouch {opened}\n")
    browser.chmod(0o755)
    environment = {"DISPLAY": "" if reason == "no display" else ":99", "BROWSER": str(browser)}
    if reason == "no browser":
        environment |= {"BROWSER": str(tmp_path / "nowhere"), "PATH": ""}
    options = ["--source", "synthetic", "--bundle", make_bundle(), "--port", "0"]
    with started(*options, **environment) as running:
        address = running.stderr.readline().removeprefix("open ").strip()
        with urllib.request.urlopen(address, timeout=10) as page:
            assert page.status == 200
        end(running)
    assert not opened.exists()


@pytest.fixture
def clip(write_video):
    """A file of half a second."""
    return write_video("clip.mkv", np.full((12, 48, 64, 3), 30, np.uint8), rate=24)


def test_a_file_waits_at_its_end_for_a_replay(make_bundle, clip):
    aiohttp = pytest.importorskip("aiohttp")

    async def watch(address):
        """Return the states that the page is sent, a replay requested at the first end."""
        states = []
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{address}session") as live,
        ):
            while states.count("ended") < 2:
                message = await live.receive_json(timeout=20)
                state = message.get("state")
                if state and (not states or states[-1] != state):
                    states.append(state)
                    if states.count("ended") == 1 and state == "ended":
                        assert message["playback"]["duration_s"] == pytest.approx(0.5, abs=0.1)
                        await live.send_json({"type": "seek", "position_s": 0.0})
        return states

    options = ["--source", clip, "--bundle", make_bundle(), "--port", "0"]
    with started(*options) as running:
        address = running.stderr.readline().removeprefix("open ").strip()
        states = asyncio.run(watch(address))
        assert running.poll() is None
        end(running)
    assert states[-3:] == ["ended", "playing", "ended"]


def test_a_file_on_a_page_can_end_the_run(make_bundle, clip):
    options = ["--source", clip, "--bundle", make_bundle(), "--port", "0", "--exit-at-end"]
    with started(*options) as running:
        rest = running.communicate(timeout=60)[1]
        assert running.returncode == 0
        assert re.search(r"clip\.mkv: \d+ frames at", rest)


def wait_until(happened, seconds=20.0):
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)
