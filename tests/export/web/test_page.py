"""The page in a real browser: its results, its controls, and what it says when something fails."""

from __future__ import annotations

import functools
import http.server
import io
import json
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import BundleError, OptionError
from mirnet_edge.export.web.page import FACTS, PageFacts, describe_web_form, write_page
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.shipped import find_bundle
from mirnet_edge.runtime.tiling import tile_runner

pytestmark = pytest.mark.timeout(180)
LARGEST_MB = 15  # of the page with the low-light network
READY_MS = 60_000


def png_of(frame):
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG")
    return stream.getvalue()


def open_image(page, frame, name="dark.png"):
    """Open an image on the page, and wait until it is restored."""
    page.locator("#choices:not([hidden])").wait_for(timeout=READY_MS)
    frames = page.locator("#frame-view").get_attribute("data-frames")
    content = frame if isinstance(frame, bytes) else png_of(frame)
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_function(
        "(before) => document.getElementById('frame-view').dataset.frames !== before"
        " && document.getElementById('state').textContent === 'restored'",
        arg=frames,
        timeout=READY_MS,
    )


def saved(page):
    """Save what is restored, and return it with the file's name."""
    with page.expect_download() as download:
        page.locator("#save").click()
    with Image.open(download.value.path()) as image:
        return np.asarray(image.convert("RGB")), download.value.suggested_filename


@pytest.fixture
def tiny_page(make_bundle, make_page, serve_folder):
    """Serve the page of a tiny network that brightens by half: tiny_page(scale=2)."""

    def serve(**options):
        folder = make_page(make_bundle(**options))
        return serve_folder(folder)

    return serve


# what is written


def test_the_page_of_the_low_light_network_is_small_and_mostly_runtime(runtime_archive, tmp_path):
    written = write_page(
        find_bundle("shipped:low-light"), tmp_path / "page", name="x", runtime=runtime_archive
    )
    sizes = {path: path.stat().st_size for path in written.folder.rglob("*") if path.is_file()}
    assert sum(sizes.values()) == written.size_bytes <= LARGEST_MB * 1e6
    runtime = sum(size for path, size in sizes.items() if path.parent.name == "runtime")
    assert runtime > 0.7 * written.size_bytes
    facts = PageFacts.model_validate_json((tmp_path / "page" / FACTS).read_bytes())
    assert facts == written.facts
    assert facts.webgpu
    assert f"{written.size_bytes / 1e6:.1f} MB, fp32, WASM and WebGPU" in written.summary


def test_folders_of_other_things_and_precisions_that_are_not_there_are_refused(
    make_bundle, tmp_path
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    bundle = make_bundle()
    with pytest.raises(OptionError, match="holds files that are no page"):
        write_page(bundle, tmp_path / "full")
    with pytest.raises(BundleError, match="has no int8 graph"):
        write_page(bundle, tmp_path / "page", precision="int8")
    with pytest.raises(OptionError, match="is fp32 or int8, found 'fp16'"):
        write_page(bundle, tmp_path / "page", precision="fp16")
    assert not (tmp_path / "page").exists()


def test_no_address_of_elsewhere_is_in_it(make_bundle, make_page):
    folder = make_page(make_bundle())
    for path in folder.glob("*.*"):
        if path.suffix in (".js", ".html", ".css"):
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "://" not in text, path


def test_a_graph_that_cannot_be_a_page_s_is_rejected_with_the_reason(make_graph, tmp_path):
    model = make_graph(tmp_path / "a.onnx", io="float").read_bytes()
    verdict = describe_web_form(model, ImageContract(io="uint8", multiple=4, size=None))
    assert not verdict.accepted
    assert "expected a graph of uint8 frames" in verdict.reason
    verdict = describe_web_form(model, ImageContract(io="float", multiple=4, size=None))
    assert verdict.accepted
    assert verdict.webgpu


# what it gives


@pytest.mark.browser
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_results_equal_those_of_python_within_a_level(
    precision, make_page, serve_folder, open_page, dark_frames
):
    bundle = find_bundle("shipped:low-light")
    page, asked = open_page("about:blank"), []
    page.context.on("request", lambda request: asked.append(request.url))
    address = serve_folder(make_page(bundle, precision=precision))
    page.goto(address)
    dark = dark_frames[0][:231, :307]  # no multiples of the network's
    open_image(page, dark)
    assert page.evaluate("crossOriginIsolated")
    cores = page.evaluate("navigator.hardwareConcurrency")
    threads = f"WASM, {cores} thread{'s' * (cores > 1)}"
    if cores <= 4:
        assert page.locator("#runs-on").text_content() == threads
    assert page.locator("#frame-view").get_attribute("data-provider") == "wasm"
    restored, name = saved(page)
    assert name == "dark.restored.png"
    with open_bundle(bundle, "onnxruntime", precision, threads=1) as runner:
        wanted = runner.run(dark[None])[0]
    assert np.abs(wanted.astype(int) - dark).mean() > 20  # it is restored at all
    difference = np.abs(restored.astype(int) - wanted)
    # in INT8 a value beside a step may fall to its other side
    assert (difference.max() if precision == "fp32" else np.quantile(difference, 0.99)) <= 1
    assert page.locator("#size").text_content() == "307×231"
    assert page.locator("#restore-ms").text_content().endswith(("ms", " s"))
    assert not [url for url in asked if not url.startswith((address, "blob:"))]
    assert f"{address}worker.js" in asked
    assert not page.faults


@pytest.mark.browser
def test_large_images_are_restored_in_tiles_without_seams(
    make_page, serve_folder, open_page, dark_frames
):
    bundle = find_bundle("shipped:low-light")
    page = open_page("about:blank")
    # a device of little memory: tiles of 512 pixels
    page.add_init_script("Object.defineProperty(navigator, 'deviceMemory', { value: 1 })")
    page.goto(serve_folder(make_page(bundle)))
    dark = cv2.resize(dark_frames[0], (790, 601), interpolation=cv2.INTER_CUBIC)
    open_image(page, dark)
    assert "in tiles of 512 pixels" in page.locator("#remark").text_content()
    restored, _ = saved(page)
    with open_bundle(bundle, "onnxruntime", "fp32", threads=1) as runner:
        wanted = runner.run(dark[None])[0].astype(int)
    difference = np.abs(restored - wanted)
    assert difference.max() <= 3
    assert difference.mean() < 0.5
    assert not page.faults


@pytest.mark.browser
@pytest.mark.parametrize(
    "options",
    [{"scale": 2}, {"io": "float"}, {"size": (96, 128)}],
    ids=["enlarging", "floats", "one size"],
)
def test_every_kind_of_bundle_is_restored(
    options, make_bundle, make_page, serve_folder, open_page, frames_of
):
    bundle = make_bundle(**options)
    page = open_page(serve_folder(make_page(bundle)))
    frame = frames_of(150, 211)[0]
    open_image(page, frame)
    restored, _ = saved(page)
    with tile_runner(open_bundle(bundle, "onnxruntime", "fp32", threads=1)) as runner:
        wanted = runner.run(frame[None])[0].astype(int)
    assert restored.shape == wanted.shape
    assert np.abs(restored - wanted).max() <= 1


@pytest.mark.browser
def test_strength_mixes_in_the_source(tiny_page, open_page, frames_of):
    page = open_page(tiny_page())
    frame = frames_of(48, 64)[0] // 2
    open_image(page, frame)
    page.locator("#strength").fill("50")
    assert page.locator("#strength-text").text_content() == "50 %"
    restored, _ = saved(page)
    wanted = (frame + np.minimum(255, np.rint(1.5 * frame))) / 2
    assert np.abs(restored - wanted).max() <= 1


@pytest.mark.browser
def test_a_clip_plays_and_the_camera_is_live(tiny_page, open_page, dark_frames, tmp_path):
    av = pytest.importorskip("av", reason='needs pip install "mirnet-edge[video]"')
    clip = tmp_path / "clip.webm"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libvpx", rate=15)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for pixels in dark_frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    page = open_page(tiny_page())
    page.locator("#choices:not([hidden])").wait_for(timeout=READY_MS)
    page.set_input_files("#file", clip)
    page.locator("#state.live", has_text="playing").wait_for(timeout=READY_MS)
    page.wait_for_function("() => document.getElementById('fps').textContent !== '-'")
    assert page.locator("#size").text_content() == "320×240"
    page.locator("#pause").click()
    assert page.locator("#pause").get_attribute("aria-label") == "Play"
    page.locator("#camera").click()
    page.locator("#state.live", has_text="live").wait_for(timeout=READY_MS)
    assert page.locator("#player").is_hidden()
    frames = int(page.locator("#frame-view").get_attribute("data-frames"))
    page.wait_for_function(
        "(before) => Number(document.getElementById('frame-view').dataset.frames) > before + 3",
        arg=frames,
    )
    assert saved(page)[1] == "camera.restored.png"
    page.locator("#camera").click()
    page.locator("#state", has_text="stopped").wait_for()
    assert not page.faults


# how it is used


@pytest.mark.browser
def test_the_keyboard_reaches_everything_and_no_accessibility_finding_is_serious(
    tiny_page, open_page, frames_of
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def serious(page):
        found = axe.run(page).response["violations"]
        return [one["id"] for one in found if one["impact"] in ("serious", "critical")]

    page = open_page(tiny_page())
    photo = {"name": "a.png", "mimeType": "image/png", "buffer": png_of(frames_of(48, 64)[0])}
    page.on("filechooser", lambda chooser: chooser.set_files(photo))
    page.locator("#choices:not([hidden])").wait_for(timeout=READY_MS)
    assert not serious(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    page.keyboard.press("Enter")
    page.locator("#state", has_text="restored").wait_for(timeout=READY_MS)
    assert not serious(page)
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"open", "camera", "zoom", "save", "strength", "provider"} <= set(reached)
    page.locator("#split").press("Home")
    assert page.locator("#split").get_attribute("aria-valuenow") == "0"
    page.locator("#split").press("ArrowRight")
    assert page.locator("#split").get_attribute("aria-valuenow") == "2"
    page.locator("#zoom").press("Enter")
    assert page.locator("#zoom").get_attribute("aria-pressed") == "true"


@pytest.mark.browser
def test_a_photo_can_be_dropped_and_a_phone_needs_no_scrolling_sideways(
    tiny_page, open_page, frames_of
):
    page = open_page(tiny_page(), viewport={"width": 360, "height": 740}, is_mobile=True)
    page.locator("#choices:not([hidden])").wait_for(timeout=READY_MS)
    page.evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            const file = new File([Uint8Array.from(bytes)], "night.png", { type: "image/png" });
            data.items.add(file);
            const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true });
            document.body.dispatchEvent(drop);
        }""",
        list(png_of(frames_of(48, 64)[0])),
    )
    page.locator("#state", has_text="restored").wait_for(timeout=READY_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# what it says when something fails


@pytest.mark.browser
def test_what_is_no_image_is_told_and_the_next_one_is_restored(tiny_page, open_page, frames_of):
    page = open_page(tiny_page())
    page.locator("#choices:not([hidden])").wait_for(timeout=READY_MS)
    broken = {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"}
    page.set_input_files("#file", broken)
    page.locator("#note:not([hidden])").wait_for()
    note = page.locator("#note").text_content()
    assert "a.png could not be restored: this browser cannot read it" in note
    open_image(page, frames_of(48, 64)[0])
    assert page.locator("#note").is_hidden()


@pytest.mark.browser
def test_a_server_without_the_headers_gives_one_thread_and_says_so(
    make_bundle, make_page, open_page, frames_of
):
    class Plain(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = make_page(make_bundle())
    Plain.extensions_map = {**Plain.extensions_map, ".mjs": "text/javascript"}
    handler = functools.partial(Plain, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        page = open_page(f"http://127.0.0.1:{server.server_address[1]}/")
        open_image(page, frames_of(48, 64)[0])
        assert page.locator("#runs-on").text_content() == "WASM, 1 thread"
        assert "sends no COOP and COEP headers" in page.locator("#threads").text_content()
        server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "network.onnx").write_bytes(b"another"), "is not the network"),
        (lambda folder: (folder / FACTS).unlink(), "page.json cannot be loaded: 404"),
        (lambda folder: (folder / "runtime/ort-wasm-simd-threaded.wasm.gz").unlink(), "404"),
    ],
    ids=["another network", "no facts", "no runtime"],
)
def test_a_page_that_is_not_whole_says_what_is_missing(
    damage, says, make_bundle, make_page, serve_folder, open_page
):
    folder = make_page(make_bundle())
    damage(folder)
    page = open_page(serve_folder(folder))
    page.locator("#state.lost").wait_for(timeout=READY_MS)
    assert says in page.locator("#cover-text").text_content()


def test_the_facts_name_what_webgpu_lacks(make_bundle, make_graph, make_page, monkeypatch):
    monkeypatch.setattr("mirnet_edge.export.web.graph.WEBGPU_OPERATORS", frozenset({"Conv"}))
    folder = make_page(make_bundle())
    facts = json.loads((folder / FACTS).read_bytes())
    assert not facts["webgpu"]
    assert "Clip" in facts["missing_operators"]
    assert not list((folder / "runtime").glob("*webgpu*"))
