"""Every state of the page in a real browser, desktop and phone: badge, controls, accessibility."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.video.frames import PlaybackStatus
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.web.server import WebSink

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

DESKTOP = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"}
PHONE = {
    "viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True,
    "has_touch": True,
}  # fmt: skip
WIDTH, HEIGHT = 640, 480


class Feed:
    """What a pipeline shows, ten times a second, in the state that a test sets."""

    def __init__(self, make_shown, folder, port=0):
        self.controls = Controls(("null:fp32", "null:int8"))
        self.folder = folder
        self.sink = WebSink(self.controls, port=port, snapshots=folder)
        self._make_shown, self._changes = make_shown, {}
        self._lock = threading.Lock()
        self._count = 0
        self.is_silent = self.repeats = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def address(self):
        return self.sink.addresses[0]

    def __enter__(self):
        self.sink.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(5)
        self.sink.__exit__(None, None, None)

    def set(self, state="live", *, playback=None, **changes):
        """Show this state from now on: a camera's, or with PLAYBACK a file's."""
        with self._lock:
            self._changes = {"state": state, "playback": playback, **changes}

    def _run(self):
        while not self._stop.wait(0.1):
            if self.is_silent:
                continue
            with self._lock:
                state = self._changes.get("state", "live")
                self._count += state in ("live", "playing") and not self.repeats
                how = {
                    "strength": self.controls.strength, "restoring": self.controls.restoring,
                    "shown": self._count, **self._changes,
                }  # fmt: skip
                shown = self._make_shown(self._count, height=HEIGHT, width=WIDTH, **how)
            self.sink.show(replace(shown, restored=how["restoring"]))


@pytest.fixture(scope="module")
def feed(make_shown, tmp_path_factory):
    with Feed(make_shown, tmp_path_factory.mktemp("snapshots")) as running:
        yield running


def file_at(position_s, duration_s=63.0, *, loop=False):
    return PlaybackStatus(position_s=position_s, duration_s=duration_s, loop=loop)


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request, browser, feed):
    """One page for all tests of a width, on which each begins live."""
    context = browser.new_context(accept_downloads=True, **request.param)
    opened = context.new_page()
    opened.faults = []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.goto(feed.address + "?transport=mjpeg")
    opened.locator("#frame-view[data-transport]").wait_for(timeout=20_000)
    yield opened
    assert opened.faults == []
    context.close()


@pytest.fixture(autouse=True)
def _live(feed, page):
    feed.is_silent = feed.repeats = False
    feed.controls.set_restoring(True)
    feed.controls.set_strength(1.0)
    feed.set()
    wait_for_badge(page, "live · MJPEG")


def wait_for_badge(page, text):
    page.wait_for_function(
        "(text) => document.getElementById('state').textContent === text", arg=text, timeout=8000
    )


def find_violations(page):
    """Return what axe-core finds: rule, impact, elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        (one["id"], one["impact"], [node["html"][:90] for node in one["nodes"]]) for one in found
    ]


STATES = {
    "live": ({}, "live · MJPEG"),
    "recording": ({"recording": True}, "live · MJPEG · recording"),
    "frozen": ({"state": "frozen", "frozen": True}, "frozen"),
    "stalled": (
        {"state": "stalled", "note": "the cable was pulled; trying again"},
        "no new frames",
    ),
    "playing": ({"state": "playing", "playback": file_at(12.4)}, "playing · MJPEG"),
    "paused": ({"state": "paused", "playback": file_at(12.4)}, "paused"),
    "ended": ({"state": "ended", "playback": file_at(62.9)}, "ended"),
    "not restored": ({"restoring": False}, "live · MJPEG"),
    "failed": ({"failed": 3}, "live · MJPEG"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_state_has_its_badge_fits_the_screen_and_is_accessible(feed, page, state):
    changes, badge = STATES[state]
    feed.set(**changes)
    wait_for_badge(page, badge)
    is_file = "playback" in changes
    assert page.locator("#player").is_visible() is is_file
    assert page.locator("#frozen").is_visible() is not is_file
    assert page.locator("#replay").is_visible() is (state == "ended")
    if changes.get("note"):
        page.get_by_role("alert").filter(has_text=changes["note"]).wait_for()
    if state == "failed":
        page.get_by_role("alert").filter(has_text="3 frames could not be restored").wait_for()
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert find_violations(page) == []


def test_the_accessibility_check_above_can_fail(feed, page):
    feed.set("playing", playback=file_at(12.4))
    wait_for_badge(page, "playing · MJPEG")
    seek, footer = page.locator("#seek"), page.locator("footer p")
    seek.evaluate("(one) => one.setAttribute('aria-label', '')")
    footer.evaluate("(one) => { one.style.color = '#777'; }")
    found = {rule for rule, *_ in find_violations(page)}
    seek.evaluate("(one) => one.setAttribute('aria-label', 'Position in the file')")
    footer.evaluate("(one) => { one.style.color = ''; }")
    assert {"label", "color-contrast"} <= found


@pytest.mark.parametrize("cause", ["no status comes", "no frame is counted"])
def test_the_badge_does_not_say_live_without_new_frames_and_says_so_again_with_them(
    feed, page, cause
):
    feed.is_silent, feed.repeats = cause == "no status comes", cause == "no frame is counted"
    started = time.monotonic()
    wait_for_badge(page, "no new frames")
    assert time.monotonic() - started < 5
    feed.is_silent = feed.repeats = False
    wait_for_badge(page, "live · MJPEG")


def test_all_is_reached_by_the_keyboard_in_the_order_of_the_page(feed, page):
    feed.set("ended", playback=file_at(62.9))
    wait_for_badge(page, "ended")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    expected = [
        "split", "replay", "pause", "seek", "loop",
        "restoring", "zoom", "snapshot", "strength", "configuration",
    ]  # fmt: skip
    assert reached[: len(expected)] == expected
    outline = "getComputedStyle(document.getElementById('pause')).outlineStyle"
    page.locator("#seek").focus()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(outline) != "none"


def test_a_file_is_paused_sought_looped_and_replayed(feed, page):
    controls = feed.controls
    feed.set("playing", playback=file_at(12.4))
    wait_for_badge(page, "playing · MJPEG")
    position = page.get_by_role("slider", name="Position in the file")
    assert position.get_attribute("aria-valuetext") == "0:12 of 1:03"
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Space")
    wait_until(lambda: controls.paused)
    page.get_by_role("button", name="Play", exact=True).wait_for()  # at once
    feed.set("paused", playback=file_at(12.4))
    wait_for_badge(page, "paused")
    position.focus()
    page.keyboard.press("PageUp")
    sought = wait_until(controls.take_seek)
    assert 13 < sought < 25
    page.keyboard.press("Home")
    assert wait_until(lambda: controls.take_seek() == 0.0)
    page.get_by_role("button", name="Loop").click()
    wait_until(lambda: controls.loop)
    feed.set("ended", playback=file_at(62.9, loop=True))
    page.locator("#replay").click()
    wait_until(lambda: not controls.paused)
    assert wait_until(lambda: controls.take_seek() == 0.0)
    page.locator("#replay").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "pause"
    controls.set_loop(False)


def test_a_file_without_a_duration_cannot_be_sought(feed, page):
    feed.set("playing", playback=PlaybackStatus(position_s=7.0, duration_s=None, loop=False))
    wait_for_badge(page, "playing · MJPEG")
    assert page.get_by_role("slider", name="Position in the file").is_disabled()
    assert page.locator("#time").inner_text() == "0:07"


def test_what_restores_is_shown_as_it_really_ran(feed, page):
    feed.set(placement="198 of 206 nodes on ToyProvider, 8 of 206 nodes on CPUExecutionProvider")
    page.get_by_text("198 of 206 nodes on ToyProvider, 8 of 206").wait_for()
    feed.set(configuration="toy:int8")
    page.locator("#runs-on", has_text="toy:int8").wait_for()


def test_the_strength_is_set_and_follows_others(feed, page):
    strength = page.get_by_role("slider", name="Strength")
    strength.focus()
    page.keyboard.press("PageDown")
    wait_until(lambda: feed.controls.strength == 0.9)
    feed.controls.set_strength(0.25)
    page.wait_for_function("() => document.getElementById('strength').value === '25'")
    assert strength.get_attribute("aria-valuetext") == "25 percent"


def test_a_snapshot_is_saved_and_its_place_is_shown(feed, page):
    feed.set("paused", playback=file_at(3.0))
    wait_for_badge(page, "paused")
    page.get_by_role("button", name="Snapshot").click()
    toast = page.get_by_role("status").filter(has_text="Saved: ")
    toast.wait_for()
    path = Path(toast.inner_text().removeprefix("Saved: "))
    assert path.parent == feed.folder
    assert np.asarray(Image.open(path)).shape == (HEIGHT, WIDTH, 3)
    assert path.with_name(path.name.replace("after", "before")).is_file()


def test_a_snapshot_that_cannot_be_saved_is_said_and_the_page_goes_on(feed, page, monkeypatch):
    def fail(folder, shown):
        raise MirnetEdgeError(f"{folder} cannot be written (No space left on device)")

    monkeypatch.setattr("mirnet_edge.video.web.sessions.save_snapshot", fail)
    feed.set("frozen", frozen=True)  # on a loaded machine a live frame may be too old to be kept
    wait_for_badge(page, "frozen")
    page.get_by_role("button", name="Snapshot").click()
    page.get_by_role("status").filter(has_text="No space left on device").wait_for()
    feed.set()
    wait_for_badge(page, "live · MJPEG")


def test_at_one_to_one_a_received_pixel_is_a_pixel_of_the_screen(feed, page):
    zoom = page.get_by_role("button", name="1:1")
    zoom.click()
    assert zoom.get_attribute("aria-pressed") == "true"
    ratio = page.evaluate("devicePixelRatio")
    box = page.locator("#frame-view").bounding_box()
    assert box["width"] == pytest.approx(WIDTH / ratio)
    stage = page.locator("#stage").bounding_box()
    if box["width"] > stage["width"]:
        scroller = page.get_by_role("group", name="The frame at 1:1")
        scroller.focus()
        before = scroller.evaluate("(one) => one.scrollLeft")
        page.keyboard.press("ArrowRight")
        wait_until(lambda: scroller.evaluate("(one) => one.scrollLeft") > before)
    # the split is where it is drawn: before (20) is left of it, after (120) right
    page.locator("#split").focus()
    for key, level in (("Home", 120), ("End", 20)):
        page.keyboard.press(key)
        middle = page.evaluate(
            """() => {
                const canvas = document.getElementById("frame-view");
                const { data } = canvas.getContext("2d").getImageData(320, 240, 1, 1);
                return data[0];
            }"""
        )
        assert abs(middle - level) < 4
    zoom.click()
    assert page.locator("#frame-view").bounding_box()["width"] == pytest.approx(
        stage["width"], 0.01
    )


def test_a_chart_keeps_its_scale_through_a_spike(page):
    tops = page.evaluate(
        """async () => {
            const { Chart } = await import("./chart.js");
            const canvas = document.createElement("canvas");
            const chart = new Chart(canvas);
            const tops = [];
            const add = (value, times) => {
                for (let at = 0; at < times; at += 1) chart.add(value + (at % 5));
                tops.push(chart.top);
            };
            add(30, 100);
            add(4000, 3);
            add(30, 50);
            add(200, 250);
            add(30, 300);
            return tops;
        }"""
    )
    assert tops[0] == tops[1] == tops[2] == 50
    assert tops[3] == 300
    assert tops[4] == 50


def wait_until(happened, seconds=5.0):
    """Return what HAPPENED returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found
