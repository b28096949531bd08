"""What live video costs beside the bare engine, measured in turns.

    python benchmarks/live.py build/live --video night_bridge_720p.mp4 [--rounds 6] [--seconds 5]

Every round runs each of these for a few seconds:

    engine     the runner alone, on frames that lie ready
    + decoder  the same, while a thread decodes the video at its own rate: what shares the cores
    smoothed   the runner as video runs it, on frames that lie ready
    live       the pipeline: decode, newest frame, pixels, smoothed runner
    eager      the pipeline, when every frame is made pixels as it is decoded, dropped ones too

"Own work" is the processor time of all threads per shown frame, less decoding, over that of the
engine alone: what the pipeline adds. Other programs on the machine hardly change it. Decoding is
timed by itself; it is no work of the pipeline, but it takes the same cores.

Ratios are of one round's mean times; the middle one of all rounds is printed, with the extremes.
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

_READY = 24
"""Frames that lie ready for the bare engine."""


@dataclass
class Row:
    """What one contender took."""

    restore_ms: list[list[float]] = field(default_factory=list)
    """Of each frame, by rounds."""
    processor_s: float = 0.0
    """Of all threads."""
    runs: list[LiveStatistics] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    """Age without restoring: waiting in the latest-frame buffer, and becoming pixels."""

    def means(self) -> np.ndarray:
        """Return the mean of each round."""
        return np.array([np.mean(one) for one in self.restore_ms])

    @property
    def processor_ms(self) -> float:
        """Return processor time per restored frame, all threads together."""
        return 1e3 * self.processor_s / sum(map(len, self.restore_ms))

    def own_ms(self, decode_ms: float) -> float:
        """Return the processor time per shown frame of a live run without decoding."""
        captured = sum(run.captured for run in self.runs)
        return self.processor_ms - decode_ms * captured / sum(map(len, self.restore_ms))

    def percentiles(self) -> str:
        """Return p50 and p95 of all frames."""
        p50, p95 = np.percentile(np.concatenate(self.restore_ms), (50, 95))
        return f"{p50:.1f} | {p95:.1f}"


class Eager(FileSource):
    """A file whose every frame is made pixels on the thread that decodes it."""

    def read(self) -> VideoFrame | None:
        """Return the next frame."""
        frame = super().read()
        if frame is not None:
            _ = frame.pixels
        return frame


def main() -> None:
    """Print the table of contenders, the live runs' ages and their stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    video, seconds = arguments.video, arguments.seconds
    ready = frames_of(video)
    rows = {name: Row() for name in ("engine", "+ decoder", "smoothed", "live", "eager")}
    decode_ms: list[float] = []
    with open_bundle(arguments.bundle, arguments.backend, arguments.precision) as runner:
        steady = smooth_over_time(runner)
        steady.run(ready[0][None])
        turns: dict[str, Callable[[], None]] = {
            "engine": lambda: bare(runner, ready, seconds, rows["engine"]),
            "+ decoder": lambda: beside_decoder(runner, ready, seconds, rows["+ decoder"], video),
            "smoothed": lambda: bare(steady, ready, seconds, rows["smoothed"]),
            "live": lambda: live(runner, FileSource(video), seconds, rows["live"]),
            "eager": lambda: live(runner, Eager(video), seconds, rows["eager"]),
        }
        for turn in range(arguments.rounds):
            decode_ms.append(decoding_ms(video))
            # each begins a round in its turn: what follows what matters on a machine that warms up
            names = list(turns)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                started_s = time.process_time()
                turns[name]()
                rows[name].processor_s += time.process_time() - started_s
    machine = describe()
    print(f"{machine.processor}, {machine.cores} cores, {runner.name}, {video.name}\n")
    print_times(rows)
    print_runs(rows, float(np.mean(decode_ms)))


def frames_of(video: Path) -> list[Frame]:
    """Return the first frames of a video."""
    with FileSource(video) as source:
        read = itertools.islice(iter(source.read, None), _READY)
        return [frame.pixels for frame in read]


def decoding_ms(video: Path, count: int = 120) -> float:
    """Return the processor time, of all threads, that one frame's decoding takes."""
    with FileSource(video) as source:
        started_s = time.process_time()
        decoded = sum(1 for _ in itertools.islice(iter(source.read, None), count))
        return 1e3 * (time.process_time() - started_s) / decoded


def bare(runner: Runner, ready: list[Frame], seconds: float, row: Row) -> None:
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


def beside_decoder(
    runner: Runner, ready: list[Frame], seconds: float, row: Row, video: Path
) -> None:
    """Restore frames that lie ready while a thread decodes the video at its rate."""
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
    bare(runner, ready, seconds, row)
    stop.set()
    thread.join()


def live(runner: Runner, source: FileSource, seconds: float, row: Row) -> None:
    """Run the pipeline without a display."""
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


def print_times(rows: dict[str, Row]) -> None:
    """Print what restoring a frame takes, beside the engine alone."""
    print("| | restore: p50 ms | p95 | x engine | x engine beside a decoder |"
          " all threads, ms of processor per frame | x engine |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        ratios = " | ".join(
            spread(row.means() / rows[base].means()) for base in ("engine", "+ decoder")
        )
        processor = row.processor_ms / rows["engine"].processor_ms
        print(
            f"| {name} | {row.percentiles()} | {ratios} | {row.processor_ms:.0f} | "
            f"{processor:.2f} |"
        )


def print_runs(rows: dict[str, Row], decode_ms: float) -> None:
    """Print what live runs came to: rate, age, drops, stages, the pipeline's own work."""
    print(f"\nDecoding a frame: {decode_ms:.1f} ms of processor.")
    print("\n| | fps | dropped | decode p50 ms | pixels p50 | age p50 | p95 | p99 |"
          " age less restoring p95 | two frame times | frames within |"
          " own work x engine |")  # fmt: skip
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
        own = row.own_ms(decode_ms) / rows["engine"].processor_ms
        print(
            f"| {name} | {fps:.1f} | {dropped:.0%} | {decode:.1f} | {pixels:.1f} | "
            f"{p50:.0f} | {p95:.0f} | {p99:.0f} | {np.percentile(row.waits_ms, 95):.0f} | "
            f"{bound:.0f} | {within:.1%} | {own:.2f} |"
        )


def spread(ratios: np.ndarray) -> str:
    """Return the middle ratio and the extremes."""
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


if __name__ == "__main__":
    main()
