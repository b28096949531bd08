"""The page on WebGPU, computed by SwiftShader on the processor: values, not speed."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.export.web import graph as web_graph_module
from mirnet_edge.manifest import FILE_NAME, bind, read_manifest, to_json

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
READY_MS = 60_000
FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


@pytest.fixture(scope="module")
def browser(chromium):
    """Return Chromium with a software GPU."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", *FLAGS]
        )
        page = started.new_page()
        page.goto("chrome://version")
        adapter = page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)")
        page.close()
        if not adapter:
            pytest.skip("this Chromium has no software GPU (SwiftShader)")
        yield started
        started.close()


def wait_for_comparison(page):
    """Wait until the page has compared WebGPU with WASM, and return what it says."""
    page.locator("#choices:not([hidden])").wait_for(timeout=READY_MS)
    speed = page.locator("#speed", has_text=re.compile("^(Measured here|WebGPU is not used)"))
    speed.wait_for(timeout=READY_MS)
    return speed.text_content()


def test_webgpu_gives_the_same_values_and_the_provider_that_ran_is_shown(
    make_bundle, make_page, serve_folder, open_page, frames_of
):
    page = open_page(serve_folder(make_page(make_bundle())))
    said = wait_for_comparison(page)
    assert said.startswith("Measured here on a small frame: WebGPU ")
    page.locator("#provider").select_option("webgpu")
    assert page.locator("#runs-on").text_content() == "WebGPU"
    frame = frames_of(60, 84)[0] // 2
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG")
    photo = {"name": "a.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    page.set_input_files("#file", photo)
    page.locator("#frame-view[data-provider=webgpu]").wait_for(timeout=READY_MS)
    with page.expect_download() as download:
        page.locator("#save").click()
    with Image.open(download.value.path()) as image:
        restored = np.asarray(image.convert("RGB"))
    wanted = np.minimum(255, np.rint(1.5 * frame))
    assert np.abs(restored - wanted).max() <= 1
    # the other provider restores the photo in view again
    page.locator("#provider").select_option("wasm")
    page.locator("#frame-view[data-provider=wasm]").wait_for(timeout=READY_MS)
    assert not page.faults


def six_channels(path):
    """Write a graph with a convolution over six channels, which WebGPU computes wrong."""
    import onnx
    from onnx import helper, numpy_helper

    kernel = np.random.default_rng(0).uniform(0, 4e-5, (4, 6, 3, 3)).astype(np.float32)
    constants = {
        "scale": np.float32(1 / 255), "full": np.float32(255), "kernel": kernel,
        "last": np.full((3, 4, 1, 1), 0.25, np.float32),
    }  # fmt: skip
    uint8, floating = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["frames"], ["levels"], to=floating),
        helper.make_node("Mul", ["levels", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["batch"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["full", "batch"], ["others"]),
        helper.make_node("Concat", ["batch", "others"], ["six"], axis=1),
        helper.make_node("Conv", ["six", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "last"], ["b"]),
        helper.make_node("Mul", ["b", "full"], ["c"]),
        helper.make_node("Round", ["c"], ["d"]),
        helper.make_node("Transpose", ["d"], ["e"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["e"], ["restored"], to=uint8),
    ]
    shape = ["n", "h", "w", 3]
    graph = helper.make_graph(
        nodes, "six",
        [helper.make_tensor_value_info("frames", uint8, shape)],
        [helper.make_tensor_value_info("restored", uint8, shape)],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("is_widened", [True, False], ids=["as exported", "as it was"])
def test_a_provider_of_other_values_is_not_used(
    is_widened, make_bundle, make_page, serve_folder, open_page, monkeypatch
):
    bundle = make_bundle()
    manifest = read_manifest(bundle)
    bound = bind(six_channels(bundle / "fp32.onnx"))
    graphs = [manifest.graphs[0].model_copy(update={"onnx": bound})]
    (bundle / FILE_NAME).write_bytes(to_json(manifest.model_copy(update={"graphs": graphs})))
    if not is_widened:
        monkeypatch.setattr(web_graph_module, "_missing_channels", lambda *_: 0)
    said = wait_for_comparison(open_page(serve_folder(make_page(bundle))))
    if is_widened:
        assert said.startswith("Measured here on a small frame: WebGPU ")
    else:
        # once this fails, onnxruntime-web computes such convolutions right: widen them no more
        assert "WebGPU is not used: WebGPU gives other values here, by up to" in said
