"""Frame rate of the page of `mirnet web` in Chromium, beside ONNX Runtime in Python, interleaved.

    python benchmarks/browser.py [shipped:low-light ...] [--size 640x480] [--rounds 15]

Each round restores one frame of video with every row in turn: the page with one thread and two,
its INT8 network, and this package's ONNX Runtime on the same numbers of threads. Times of the page
hold the conversion of pixels in both directions. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.measure import timing_frame
from mirnet_edge.cli.arguments import parse_size
from mirnet_edge.export.web.page import write_page
from mirnet_edge.export.web.serving import serve_page
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.machine import describe
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

_OPEN = """async () => {
    const { Engine, loadFacts } = await import("./engine.js");
    const engine = new Engine(await loadFacts());
    await engine.open("wasm");
    window.engine = engine;
    return engine.label;
}"""
_RUN = """async ([width, height]) => {
    if (!window.frame) {
        const image = new ImageData(width, height);
        image.data.forEach((_, at) => (image.data[at] = at % 4 === 3 ? 255 : (at * 7919) % 61));
        window.frame = image;
    }
    const bitmap = await createImageBitmap(window.frame);
    const { ms, before, after } = await window.engine.restore(bitmap, { isVideo: true });
    before.close();
    after.close();
    return ms;
}"""


def main() -> None:
    """Print a table for each bundle: p50, frames per second, and the ratio to Python."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", default=["shipped:low-light"])
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    height, width = parse_size(arguments.size, "--size")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    machine = describe()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        print(f"{machine.processor}, {machine.cores} cores; Chromium {browser.version}")
        for bundle in arguments.bundles:
            measure(browser, bundle, height, width, arguments.rounds)
        browser.close()


def measure(browser: Browser, bundle: str, height: int, width: int, rounds: int) -> None:
    """Print the table of one bundle."""
    folder = find_bundle(bundle)
    frame = timing_frame(height, width)
    with ExitStack() as stack:
        rows: dict[str, Callable[[], float]] = {}
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for precision in ("fp32", "int8"):
            page = write_page(folder, temporary / precision, name=bundle, precision=precision)
            server = stack.enter_context(serve_page(page.folder, 0))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            for threads in (1, 2):
                label, run = open_engine(browser, server.address, threads, width, height)
                rows[f"page, {precision}, {label}"] = run
            if precision == "fp32":
                print(f"\n{page.summary.partition(': ')[2].partition(';')[0]}")
        for threads in (1, 2):
            runner = stack.enter_context(
                open_bundle(bundle, "onnxruntime", "fp32", threads=threads)
            )

            def run_python(runner: object = runner) -> float:
                begun = time.perf_counter()
                runner.run(frame)  # type: ignore[attr-defined]
                return 1e3 * (time.perf_counter() - begun)

            rows[f"Python, fp32, {threads} thread{'s' * (threads > 1)}"] = run_python
        times = {name: [] for name in rows}
        for number in range(rounds + 1):
            for name, run in rows.items():
                taken = run()
                if number:  # the first compiles, and makes one-time allocations
                    times[name].append(taken)
    print_table(f"{bundle}, {width}x{height}, {rounds} interleaved rounds", times)


def open_engine(
    browser: Browser, address: str, threads: int, width: int, height: int
) -> tuple[str, Callable[[], float]]:
    """Return what the page runs on, and a function that restores a frame and returns the ms."""
    page = browser.new_page()
    page.add_init_script(
        f"Object.defineProperty(navigator, 'hardwareConcurrency', {{ value: {threads} }})"
    )
    page.goto(address)
    label = page.evaluate(_OPEN)
    return label, lambda: float(page.evaluate(_RUN, [width, height]))


def print_table(title: str, times: dict[str, list[float]]) -> None:
    """Print p50, frames per second and the ratio to Python on as many threads."""
    print(f"\n{title}\n\n| row | p50 ms | fps | time x Python |\n|---|---|---|---|")
    for name, samples in times.items():
        threads = name.rpartition(", ")[2]
        reference = times[f"Python, fp32, {threads}"]
        ratios = np.array(samples) / np.array(reference)
        p50 = float(np.median(samples))
        print(f"| {name} | {p50:.1f} | {1e3 / p50:.1f} | {np.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
