"""Frame rate of the page of `mirnet web` in Chromium, beside ONNX Runtime in Python, interleaved.

    python benchmarks/browser.py [shipped:low-light ...] [--size 640x480] [--rounds 15]
    python benchmarks/browser.py --into docs/guides/browser.md    # and replace its figures

Each round restores one frame of video with every row in turn: the page with one thread and two,
its INT8 network, and this package's ONNX Runtime on the same numbers of threads. Times of the page
hold the conversion of pixels in both directions. `CPU ms` is processor time per frame, of all
threads together, which other programs lengthen less. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import datetime
import os
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
from mirnet_edge.files import write_atomically
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.machine import describe
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

_BEGIN, _END = "<!-- measured by benchmarks/browser.py -->", "<!-- /measured -->"
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
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--into", type=Path, help=f"replace what stands between {_BEGIN} and {_END}"
    )
    arguments = parser.parse_args()
    height, width = parse_size(arguments.size, "--size")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    machine = describe()
    lines = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        day = datetime.datetime.now(datetime.timezone.utc).date()
        lines.append(
            f"{machine.processor}, {machine.cores} cores, load {os.getloadavg()[0]:.1f} before, "
            f"Chromium {browser.version}, {day}."
        )
        for bundle in arguments.bundles:
            lines += measure(browser, bundle, (height, width), arguments.rounds, arguments.threads)
        browser.close()
    print("\n".join(lines))
    if arguments.into is not None:
        replace_figures(arguments.into, lines)


def replace_figures(document: Path, lines: list[str]) -> None:
    """Put lines between the marks of a document, in place of what stood there."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        sys.exit(f"{document} has no {_BEGIN} ... {_END}; add both lines where the figures go")
    text = "\n".join([before + begin, *lines, end + after])
    write_atomically(document, text.encode())


def measure(
    browser: Browser, bundle: str, size: tuple[int, int], rounds: int, counts: list[int]
) -> list[str]:
    """Return the lines of the table of one bundle, on each number of threads."""
    height, width = size
    folder = find_bundle(bundle)
    frame = timing_frame(height, width)
    with ExitStack() as stack:
        rows: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {}
        session = browser.new_browser_cdp_session()

        def chromium_s() -> float:
            """Return the processor time of Chromium's pages so far, in seconds."""
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            return sum(one["cpuTime"] for one in processes if one["type"] == "renderer")

        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for precision in ("fp32", "int8"):
            page = write_page(folder, temporary / precision, name=bundle, precision=precision)
            server = stack.enter_context(serve_page(page.folder, 0))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            for threads in counts:
                label, run = open_engine(browser, server.address, threads, width, height)
                rows[f"page, {precision}, {label}"] = (run, chromium_s)
            if precision == "fp32":
                about = page.summary.partition(": ")[2].partition(";")[0]
        for threads in counts:
            runner = stack.enter_context(
                open_bundle(bundle, "onnxruntime", "fp32", threads=threads)
            )

            def run_python(runner: object = runner) -> float:
                begun = time.perf_counter()
                runner.run(frame)  # type: ignore[attr-defined]
                return 1e3 * (time.perf_counter() - begun)

            row = (run_python, time.process_time)
            rows[f"Python, fp32, {threads} thread{'s' * (threads > 1)}"] = row
        times: dict[str, list[float]] = {name: [] for name in rows}
        used: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(rounds + 1):
            for name, (run, processor_s) in rows.items():
                before = processor_s()
                taken = run()
                if number:  # the first compiles, and makes one-time allocations
                    times[name].append(taken)
                    used[name].append(1e3 * (processor_s() - before))
    title = f"`{bundle}`, {width}x{height}, {rounds} interleaved rounds; the page: {about}."
    return ["", title, "", *table_lines(times, used)]


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


def table_lines(times: dict[str, list[float]], used: dict[str, list[float]]) -> Iterator[str]:
    """Yield p50, frames per second, processor time, and ratios to Python on as many threads."""
    yield "| row | p50 ms | fps | time x Python | CPU ms | CPU x Python |"
    yield "|---|---|---|---|---|---|"
    for name, samples in times.items():
        reference = f"Python, fp32, {name.rpartition(', ')[2]}"
        p50 = float(np.median(samples))
        ratio = np.median(np.array(samples) / np.array(times[reference]))
        processor, others = np.mean(used[name]), np.mean(used[reference])
        yield (
            f"| {name} | {p50:.1f} | {1e3 / p50:.1f} | {ratio:.2f} | {processor:.0f} | "
            f"{processor / others:.2f} |"
        )


if __name__ == "__main__":
    main()
