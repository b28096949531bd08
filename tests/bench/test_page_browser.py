"""The HTML report in a browser: slider, lists, phone layout, no network requests."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.bench.markdown_report import write_report
from mirnet_edge.bench.record import ImageCrop
from mirnet_edge.images.files import ImageFile, write_image

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

ROWS = {"before": 20, "edge openvino:int8": 120, "reference": 200}
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture
def page_file(row_of, report_of, tmp_path):
    """Return the HTML report of one image with another gray level for each entry."""
    (tmp_path / "crops").mkdir()
    crops = []
    for place, (row, level) in enumerate(ROWS.items()):
        file = f"crops/{place}.jpg"
        image = ImageFile(frame=np.full((300, 400, 3), level, np.uint8), format="JPEG")
        write_image(tmp_path / file, image)
        crops.append(ImageCrop(pairs="night", image="p0", row=row, file=file))
    rows = [
        row_of("edge openvino:int8", median_ms=8.0, psnr_db=22.9),
        row_of("a competitor with a long name to wrap on phones", kind="competitor",
               median_ms=200.0, psnr_db=15.0),
    ]  # fmt: skip
    write_report(report_of(rows, crops=crops), tmp_path)
    return tmp_path / "report.html"


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=SIZES)
def page(request, browser, page_file):
    width, height = SIZES[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    errors, requests = [], []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda one: requests.append(one.url))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def gray_at(page, fraction):
    """Return the gray level at a fraction of the width from the left."""
    shot = page.locator(".compare").first
    shot.scroll_into_view_if_needed()
    image = Image.open(io.BytesIO(shot.screenshot())).convert("L")
    return image.getpixel((round(fraction * (image.width - 1)), round(0.8 * image.height)))


def test_the_slider_clips_and_the_lists_select(page):
    slider = page.locator(".compare input").first
    assert abs(gray_at(page, 0.3) - ROWS["before"]) < 8
    assert abs(gray_at(page, 0.7) - ROWS["edge openvino:int8"]) < 8
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "20"
    assert abs(gray_at(page, 0.3) - ROWS["edge openvino:int8"]) < 8
    page.locator("select.left").first.select_option(label="reference")
    assert abs(gray_at(page, 0.1) - ROWS["reference"]) < 8
    assert page.locator("em.left").first.inner_text() == "reference"


def test_nothing_overflows_and_every_image_is_there(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    broken = page.evaluate(
        "[...document.images].filter(one => one.complete && !one.naturalWidth).length"
    )
    assert broken == 0
