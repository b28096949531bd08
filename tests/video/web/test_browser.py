"""The page in a real browser, whose fake camera plays a dark clip made here."""

from __future__ import annotations

import io
import queue
import socket
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import VideoFrame
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
from mirnet_edge.video.restorer import Restorer
from mirnet_edge.video.web.camera import BrowserSource
from mirnet_edge.video.web.server import WebSink

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

WIDTH, HEIGHT, FPS, GAIN = 320, 240, 15, 4


class Gain(NullRunner):
    """Four times as bright."""

    def run(self, frames):
        return np.minimum(super().run(frames).astype(np.uint16) * GAIN, 255).astype(np.uint8)


class Clip:
    """The dark frames as a camera, again and again."""

    name, paced, frame_time_s = "clip", False, 1 / FPS

    def __init__(self, frames):
        self._frames = frames

    def __enter__(self):
        self._index = 0
        return self

    def __exit__(self, *_):
        pass

    def read(self):
        REAL_CLOCK.sleep(1 / FPS)
        index, self._index = self._index, self._index + 1
        return VideoFrame(
            pixels=self._frames[index % len(self._frames)],
            index=index,
            captured_s=REAL_CLOCK.now(),
        )


@contextmanager
def running(make_source, **options):
    """Run the pipeline beside the block; gives the page's address and the controls."""
    controls = Controls()
    source = make_source(controls)
    camera = source if isinstance(source, BrowserSource) else None
    opened: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
    sink = WebSink(controls, camera=camera, on_open=opened.put, **{"port": 0, **options})
    runners = {name: lambda name=name: Gain(name) for name in ("null:fp32", "null:int8")}
    reconnect_policy = ReconnectPolicy(
        blocked_s=1e9
    )  # as long as it takes until a viewer switches a camera on
    live = Live(
        source,
        Restorer(runners, "null:fp32"),
        [sink],
        controls=controls,
        reconnect_policy=reconnect_policy,
    )
    thread = threading.Thread(target=live.run)
    thread.start()
    try:
        yield opened.get(timeout=20)[0], controls
    finally:
        controls.stop()
        thread.join(5)
    assert not thread.is_alive()


@pytest.fixture
def make_clip(dark_frames):
    return lambda _: Clip(dark_frames)


def wait_for_image(page, transport):
    page.locator(f"#frame-view[data-transport={transport}]").wait_for(timeout=20_000)


def luma(page, key):
    """Return the mean of the image with the split at its end (before) or home (after)."""
    page.locator("#split").press(key)
    return page.evaluate(
        """() => {
            const canvas = document.getElementById("frame-view");
            const { width, height } = canvas;
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            let sum = 0;
            for (let at = 0; at < pixels.length; at += 4)
                sum += 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];
            return (4 * sum) / pixels.length;
        }"""
    )


def assert_restored(page):
    before, after = luma(page, "End"), luma(page, "Home")
    assert before > 5  # an image, and no black one
    assert after == pytest.approx(GAIN * before, rel=0.15)


@pytest.mark.parametrize("transport", ["WebRTC", "MJPEG"])
def test_the_page_shows_restored_frames_that_move(open_page, transport, make_clip):
    with running(make_clip) as (address, _):
        page = open_page(address + ("?transport=mjpeg" if transport == "MJPEG" else ""))
        wait_for_image(page, transport)
        assert_restored(page)
        first = int(page.locator("#frame-view").get_attribute("data-frames"))
        page.wait_for_function(
            "(count) => Number(document.getElementById('frame-view').dataset.frames) >= count",
            arg=first + 3,
        )
        assert page.faults == []


def test_a_browser_without_webrtc_falls_back_to_mjpeg(open_page, browser, make_clip):
    with running(make_clip) as (address, _):
        page = open_page("about:blank")
        page.add_init_script("window.RTCPeerConnection = undefined")
        page.goto(address)
        wait_for_image(page, "MJPEG")
        assert_restored(page)


def test_a_viewers_camera_is_restored_and_sent_back_to_that_viewer(open_page):
    with running(BrowserSource) as (address, _):
        page = open_page(address)
        page.locator("#camera").click()
        wait_for_image(page, "WebRTC")
        assert_restored(page)
        other = open_page(address)  # another viewer does not see it
        other.locator("#camera").click()
        other.get_by_text("another viewer's camera is on").wait_for(timeout=10_000)
        assert other.locator("#frame-view[data-frames]").count() == 0


def test_split_and_controls_work_by_mouse_and_keyboard(open_page, make_clip):
    with running(make_clip) as (address, controls):
        page = open_page(address)
        wait_for_image(page, "WebRTC")
        split = page.locator("#split")
        box = page.locator("#stage").bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.3 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"], steps=4)
        page.mouse.up()
        assert split.get_attribute("aria-valuenow") == "20"
        split.press("ArrowRight")
        assert split.get_attribute("aria-valuenow") == "22"
        page.locator("#configuration").select_option("null:int8")
        page.locator("#restoring").click()
        page.locator("#restoring[aria-pressed=false]").wait_for()
        page.get_by_text("not restored").wait_for()
        page.locator("#restoring").click()
        page.locator("#frozen").click()
        page.locator("#frozen[aria-pressed=true]").wait_for()
        assert controls.frozen
        page.wait_for_timeout(600)  # what was on its way is there
        with page.expect_download() as download:
            page.locator("#snapshot").click()
        image = np.asarray(Image.open(io.BytesIO(download.value.path().read_bytes())))
        assert image.shape == (HEIGHT, WIDTH, 3)
        weights = (0.299, 0.587, 0.114)
        assert (image @ weights).mean() == pytest.approx(luma(page, "Home"), rel=0.05)
        assert page.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_without_overflow(open_page, scheme, make_clip):
    with running(make_clip) as (address, _):
        phone = {"width": 390, "height": 844}
        page = open_page(address, viewport=phone, color_scheme=scheme, is_mobile=True)
        wait_for_image(page, "WebRTC")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        widest = "Math.max(...[...document.querySelectorAll('body *:not(.hidden)')].map("
        assert page.evaluate(widest + "(one) => one.getBoundingClientRect().right))") <= 390


def test_the_token_is_enforced_and_nothing_is_loaded_from_other_hosts(open_page, make_clip):
    with running(make_clip, token="secret") as (address, _):
        outside = address.removesuffix("secret/")
        refused = open_page("about:blank")
        assert refused.goto(outside).status == 403
        requested = []
        page = open_page("about:blank")
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        wait_for_image(page, "WebRTC")
        assert len(requested) >= 7
        assert {urlsplit(url).netloc for url in requested} == {urlsplit(address).netloc}


@pytest.fixture
def outside():
    """This machine's address as others see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its own")
        return probe.getsockname()[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_without_https_the_page_shows_how_to_serve_it_to_other_machines(open_page, outside, width):
    with running(BrowserSource, host=outside) as (address, _):
        page = open_page(address, viewport={"width": width, "height": 800})
        page.get_by_text("openssl req -x509").wait_for(timeout=10_000)
        text = page.locator("#cover-text").inner_text()
        assert f"subjectAltName=IP:{outside}" in text
        assert "--certificate certificate.pem --key key.pem" in text
        assert page.locator("#camera").is_hidden()
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        clipped = page.evaluate(
            "document.querySelector('#cover').scrollHeight - "
            "document.querySelector('#cover').clientHeight"
        )
        assert clipped <= 0


def test_a_browser_camera_on_another_machine_is_restored_over_https(
    open_page, outside, make_certificate, tmp_path
):
    certificate, key = make_certificate(tmp_path, host=outside)
    with running(BrowserSource, host=outside, certificate=certificate, key=key) as (address, _):
        assert address.startswith(f"https://{outside}:")
        page = open_page(address, ignore_https_errors=True)
        page.locator("#camera").click()
        wait_for_image(page, "WebRTC")
        assert page.faults == []


def test_a_server_that_ends_is_no_longer_live_and_one_that_returns_is(open_page, make_clip):
    badge = "(text) => document.getElementById('state').textContent.startsWith(text)"
    with running(make_clip) as (address, _):
        page = open_page(address + "?transport=mjpeg")
        page.wait_for_function(badge, arg="live")
    page.wait_for_function(badge, arg="no connection")
    for name in ("Restore", "Freeze", "Snapshot", "1:1"):
        assert page.get_by_role("button", name=name).is_disabled()
    assert page.get_by_role("slider", name="Strength").is_disabled()
    with running(make_clip, port=urlsplit(address).port):
        page.wait_for_function(badge, arg="live")
        assert page.get_by_role("button", name="Freeze").is_enabled()
