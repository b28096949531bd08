"""Measure the overhead of the live pipeline over its runner, interleaved.

    python benchmarks/live.py build/live --video night_bridge_720p.mp4 [--rounds 6] [--seconds 5]

Every round runs each of these for a few seconds:

    runner     the runner alone, on frames in memory
    + decoder  the same, while a thread decodes the video at its frame rate on the same cores
    smoothed   the runner with temporal smoothing, on frames in memory
    live       the pipeline: decode, latest frame, convert to pixels, runner with smoothing
    eager      the pipeline with every frame converted as it is decoded, dropped ones too

"Overhead" is the CPU time of all threads per shown frame, without decoding, over that of the runner
alone; other programs hardly change it. Decoding is timed separately: it is not part of the
pipeline, but uses the same cores.

Ratios are of the mean latencies of one round; printed are the median of all rounds, the smallest
and the largest.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.machine import describe
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.sources import FileSource
from mirnet_edge.video.restorer import single_runner_restorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.frames import VideoFrame
    from mirnet_edge.video.live.pipeline import LiveStatistics

_FRAMES = 24
"""Frames in memory for the runner alone."""


@dataclass
class Measurement:
    """Measurements of one variant, of all rounds."""

    restore_ms: list[list[float]] = field(default_factory=list)
    """Latency of each frame, by rounds."""
    cpu_s: float = 0.0
    """CPU time of all threads."""
    runs: list[LiveStatistics] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    """Frame age less restoring: waiting in the latest-frame buffer, and conversion to pixels."""

    def means(self) -> np.ndarray:
        """Return the mean latency of each round."""
        return np.array([np.mean(one) for one in self.restore_ms])

    @property
    def cpu_ms(self) -> float:
        """CPU time of all threads per restored frame."""
        return 1e3 * self.cpu_s / sum(map(len, self.restore_ms))

    def cpu_without_decoding_ms(self, decode_ms: float) -> float:
        """Return the CPU time per shown frame of a live run without decoding."""
        captured = sum(run.captured for run in self.runs)
        return self.cpu_ms - decode_ms * captured / sum(map(len, self.restore_ms))

    def percentiles(self) -> str:
        """Return p50 and p95 of all frames."""
        p50, p95 = np.percentile(np.concatenate(self.restore_ms), (50, 95))
        return f"{p50:.1f} | {p95:.1f}"


class EagerFileSource(FileSource):
    """A video file whose every frame is converted to pixels on the thread that decodes it."""

    def read(self) -> VideoFrame | None:
        """Return the next frame."""
        frame = super().read()
        if frame is not None:
            _ = frame.pixels
        return frame


def main() -> None:
    """Print latency of all variants, then frame age and stages of the live ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    video, seconds = arguments.video, arguments.seconds
    ready = read_frames(video)
    rows = {name: Measurement() for name in ("runner", "+ decoder", "smoothed", "live", "eager")}
    decode_ms: list[float] = []
    with open_bundle(arguments.bundle, arguments.backend, arguments.precision) as runner:
        smoothed = smooth_over_time(runner)
        smoothed.run(ready[0][None])
        turns: dict[str, Callable[[], None]] = {
            "runner": lambda: run_frames(runner, ready, seconds, rows["runner"]),
            "+ decoder": lambda: run_beside_decoder(
                runner, ready, seconds, rows["+ decoder"], video
            ),
            "smoothed": lambda: run_frames(smoothed, ready, seconds, rows["smoothed"]),
            "live": lambda: run_live(runner, FileSource(video), seconds, rows["live"]),
            "eager": lambda: run_live(runner, EagerFileSource(video), seconds, rows["eager"]),
        }
        for turn in range(arguments.rounds):
            decode_ms.append(measure_decoding_ms(video))
            # rotated: the order matters on a machine that warms up
            names = list(turns)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                started_s = time.process_time()
                turns[name]()
                rows[name].cpu_s += time.process_time() - started_s
    machine = describe()
    print(f"{machine.processor}, {machine.cores} cores, {runner.name}, {video.name}\n")
    print_times(rows)
    print_runs(rows, float(np.mean(decode_ms)))


def read_frames(video: Path) -> list[Frame]:
    """Return the first frames of a video."""
    with FileSource(video) as source:
        read = itertools.islice(iter(source.read, None), _FRAMES)
        return [frame.pixels for frame in read]


def measure_decoding_ms(video: Path, count: int = 120) -> float:
    """Return the processor time, of all threads, that one frame's decoding takes."""
    with FileSource(video) as source:
        started_s = time.process_time()
        decoded = sum(1 for _ in itertools.islice(iter(source.read, None), count))
        return 1e3 * (time.process_time() - started_s) / decoded


def run_frames(runner: Runner, ready: list[Frame], seconds: float, row: Measurement) -> None:
    """Restore frames that lie ready, over and over."""
    taken_ms: list[float] = []
    end = time.perf_counter() + seconds
    for frame in itertools.cycle(ready):
        started = time.perf_counter()
        if started > end:
            break
        runner.run(frame[None])
        taken_ms.append(1e3 * (time.perf_counter() - started))
    row.restore_ms.append(taken_ms)


def run_beside_decoder(
    runner: Runner, ready: list[Frame], seconds: float, row: Measurement, video: Path
) -> None:
    """Restore frames in memory while a thread decodes the video at its frame rate."""
    stop = threading.Event()

    def decode() -> None:
        with FileSource(video) as source:
            origin = REAL_CLOCK.now()
            for frame in iter(source.read, None):
                REAL_CLOCK.sleep(origin + (frame.time_s or 0.0) - REAL_CLOCK.now(), stop)
                if stop.is_set():
                    return

    thread = threading.Thread(target=decode)
    thread.start()
    run_frames(runner, ready, seconds, row)
    stop.set()
    thread.join()


def run_live(runner: Runner, source: FileSource, seconds: float, row: Measurement) -> None:
    """Run the live pipeline without a display."""
    run = Live(source, single_runner_restorer(runner))
    taken_ms: list[float] = []
    end = time.perf_counter() + seconds
    for shown in run:
        taken_ms.append(shown.status.restore_ms)
        row.ages_ms.append(shown.status.age_ms)
        row.waits_ms.append(shown.status.age_ms - shown.status.restore_ms)
        if time.perf_counter() > end:
            run.controls.stop()
    row.restore_ms.append(taken_ms)
    row.runs.append(run.statistics())


def print_times(rows: dict[str, Measurement]) -> None:
    """Print the latency of each variant, and its ratio to the runner alone."""
    print("| | latency p50 (ms) | p95 (ms) | x runner | x runner + decoder |"
          " CPU time of all threads per frame (ms) | x runner |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        ratios = " | ".join(
            format_ratios(row.means() / rows[base].means()) for base in ("runner", "+ decoder")
        )
        cpu = row.cpu_ms / rows["runner"].cpu_ms
        print(f"| {name} | {row.percentiles()} | {ratios} | {row.cpu_ms:.0f} | {cpu:.2f} |")


def print_runs(rows: dict[str, Measurement], decode_ms: float) -> None:
    """Print throughput, dropped frames, stages, frame age and overhead of the live variants."""
    print(f"\nDecoding a frame: {decode_ms:.1f} ms of CPU time.")
    print("\n| | throughput (fps) | dropped | decode p50 (ms) | convert p50 (ms) |"
          " frame age p50 (ms) | p95 (ms) | p99 (ms) | age less restoring p95 (ms) |"
          " two frame times (ms) | frames within | overhead, x runner |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        if not row.runs:
            continue
        fps = np.median([run.fps for run in row.runs])
        dropped = sum(run.dropped for run in row.runs) / sum(run.captured for run in row.runs)
        decode, pixels = (
            np.median([run.stages[stage].p50_ms for run in row.runs])
            for stage in ("read", "convert")
        )
        p50, p95, p99 = np.percentile(row.ages_ms, (50, 95, 99))
        bound = 2.0 * np.median([run.frame_time_ms for run in row.runs])
        within = np.mean(np.array(row.waits_ms) <= bound)
        overhead = row.cpu_without_decoding_ms(decode_ms) / rows["runner"].cpu_ms
        print(
            f"| {name} | {fps:.1f} | {dropped:.0%} | {decode:.1f} | {pixels:.1f} | "
            f"{p50:.0f} | {p95:.0f} | {p99:.0f} | {np.percentile(row.waits_ms, 95):.0f} | "
            f"{bound:.0f} | {within:.1%} | {overhead:.2f} |"
        )


def format_ratios(ratios: np.ndarray) -> str:
    """Return median, smallest and largest ratio as text."""
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


if __name__ == "__main__":
    main()
