"""Live video that the viewer's browser restores: what is sent, and what is shown."""

from __future__ import annotations

import queue
import re
import threading
from contextlib import contextmanager

import pytest

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.export.web.runtime import find_archive
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import VideoFrame
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.web.broadcast import (
    STRIP_HEIGHT,
    read_index_strip,
    source_alone,
)
from mirnet_edge.video.web.browser_compute import read_browser_files, unrestored_restorer
from mirnet_edge.video.web.server import WebSink

READY_MS = 60_000
# of texts as "12.3 ms" and "1.2 s", read at one moment
_MILLISECONDS = """(names) => names.map((name) => {
    const [number, unit] = document.getElementById(name).textContent.split(" ");
    return parseFloat(number) * (unit === "s" ? 1000 : 1);
})"""


class DarkClip:
    """The dark frames as a camera of five frames per second, again and again."""

    name, paced, frame_time_s = "clip", False, 0.2

    def __init__(self, frames):
        self._frames = frames

    def __enter__(self):
        self._index = 0
        return self

    def __exit__(self, *_):
        pass

    def read(self):
        REAL_CLOCK.sleep(self.frame_time_s)
        index, self._index = self._index, self._index + 1
        pixels = self._frames[index % len(self._frames)]
        return VideoFrame(pixels=pixels, index=index, captured_s=REAL_CLOCK.now())


@pytest.fixture
def browser_files(make_bundle):
    """Return what a browser needs for the tiny network that brightens by half."""
    try:
        archive = find_archive()
    except MirnetEdgeError as error:
        pytest.skip(f"no onnxruntime-web on this machine: {error}")
    return read_browser_files(str(make_bundle()), archive)


@contextmanager
def serving_live(frames, browser_files):
    """Run the pipeline beside the block; gives the page's address and the controls."""
    controls = Controls()
    opened: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
    sink = WebSink(controls, port=0, on_open=opened.put, browser_files=browser_files)
    live = Live(DarkClip(frames), unrestored_restorer(), [sink], controls=controls)
    thread = threading.Thread(target=live.run)
    thread.start()
    try:
        yield opened.get(timeout=20)[0], controls
    finally:
        controls.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_the_frame_that_is_sent_is_the_source_with_its_index(make_shown):
    image = source_alone(make_shown(77, height=240, width=320, before=20, after=120))
    assert image.shape == (240 + STRIP_HEIGHT, 320, 3)
    assert (image[:240] == 20).all()
    assert read_index_strip(image) == 77


def mean_of(page, key):
    """Return the mean of the image with the split at its end (before) or home (after)."""
    page.locator("#split").press(key)
    return page.evaluate(
        """() => {
            const canvas = document.getElementById("frame-view");
            const context = canvas.getContext("2d");
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
            let sum = 0;
            for (let at = 0; at < data.length; at += 4) sum += data[at + 1];
            return (4 * sum) / data.length;
        }"""
    )


@pytest.mark.browser
@pytest.mark.timeout(180)
@pytest.mark.parametrize("transport", ["WebRTC", "MJPEG"])
def test_the_browser_restores_what_the_server_sends(
    transport, dark_frames, browser_files, open_page
):
    with serving_live(dark_frames, browser_files) as (address, controls):
        page = open_page(f"{address}?transport={transport.lower()}")
        page.locator(f"#frame-view[data-transport={transport}]").wait_for(timeout=READY_MS)
        page.locator("#cover").wait_for(state="hidden", timeout=READY_MS)
        assert page.evaluate("crossOriginIsolated")
        before, after = mean_of(page, "End"), mean_of(page, "Home")
        assert before > 5  # an image, and no black one
        assert after == pytest.approx(1.5 * before, rel=0.2)
        assert page.locator("#size").text_content() == "320×240"
        assert page.locator("#runs-on").text_content().startswith("WASM, ")
        # the age is that of what is seen: this browser's restoring is part of it
        page.locator("#age", has_text=re.compile("s$")).wait_for()
        age_ms, restore_ms = page.evaluate(_MILLISECONDS, ["age", "restore-ms"])
        assert age_ms + 1 >= restore_ms > 0  # rounded to a millisecond
        options = page.locator("#configuration option").all_text_contents()
        assert options == ["this browser: the faster", "this browser: WASM"]
        # the strength and the switch are this browser's own
        page.locator("#strength").fill("0")
        assert mean_of(page, "Home") == pytest.approx(before, rel=0.1)
        page.locator("#strength").fill("100")
        page.locator("#restoring").click()
        page.locator("#after-tag", has_text="not restored").wait_for()
        assert controls.restoring
        page.locator("#restoring").click()
        with page.expect_download() as download:
            page.locator("#snapshot").click()
        assert download.value.suggested_filename.startswith("mirnet-")
        assert not page.faults


def test_without_it_the_page_needs_no_webassembly(serving):
    import urllib.request

    with (
        serving() as (sink, _),
        urllib.request.urlopen(sink.addresses[0], timeout=10) as answer,
    ):
        assert "wasm" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cross-Origin-Embedder-Policy"] is None
