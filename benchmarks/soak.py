"""Soak-test the live pipeline: memory and frame age over minutes at several times the speed.

    python benchmarks/soak.py CLIP [--minutes 10] [--speed 4] [--restore-ms 12] [--json]
    python benchmarks/soak.py CLIP --bundle shipped:low-light --speed 1 [--size 1920x1080]
        [--backend openvino --precision int8 --threads N]

The clip repeats, reopened each time, through the capture thread, the latest-frame buffer, a runner
that waits and copies, or a bundle, and a sink on its own thread. Exit code 1: resident memory at
the end is more than 8 MiB above that after a fifth of the time, or the frame age has grown by more
than a frame time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.measure import peak_memory_mib
from mirnet_edge.cli.arguments import parse_size
from mirnet_edge.memory import resident_memory
from mirnet_edge.runtime.machine import usable_cores
from mirnet_edge.runtime.shipped import find_bundle
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.frames import VideoFrame
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.sinks import DetachedSink, Sink
from mirnet_edge.video.live.sources import FileSource
from mirnet_edge.video.live.threads import few_threads_restorer
from mirnet_edge.video.restorer import bundle_restorer, single_runner_restorer

if TYPE_CHECKING:
    from types import TracebackType

    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.pipeline import LiveStatistics
    from mirnet_edge.video.restorer import Restorer

_GROWTH_MIB = 8.0


class RepeatingSource:
    """A source that repeats a video file at another speed, without end."""

    paced = True

    def __init__(self, path: Path, speed: int, size: tuple[int, int] | None = None) -> None:
        """Set the file, the speed as a factor, and the (height, width) of the frames."""
        self._source = FileSource(path, size=size)
        self._speed = speed
        self._index, self._passes = 0, 0
        self._start_s = self._last_s = 0.0

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self._source.name

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames at this speed."""
        own_s = self._source.frame_time_s
        return None if own_s is None else own_s / self._speed

    def __enter__(self) -> RepeatingSource:
        self._source.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._source.__exit__(kind, error, traceback)

    def read(self) -> VideoFrame:
        """Return the next frame, the first after the last."""
        frame = self._source.read()
        if frame is None:
            self._source.__exit__(None, None, None)
            self._source.__enter__()
            self._passes += 1
            self._start_s = self._last_s + (self._source.frame_time_s or 0.04)
            frame = self._source.read()
        if frame is None:
            raise ValueError(f"{self.name} holds no frame any more")
        self._last_s = self._start_s + (frame.time_s or 0.0)
        index, self._index = self._index, self._index + 1
        return VideoFrame(
            pixels=lambda: frame.pixels,
            index=index,
            captured_s=frame.captured_s,
            pts=round(1e6 * self._last_s),
            time_base=Fraction(1, 1_000_000 * self._speed),
            color=frame.color,
        )


class ReadingSink(Sink):
    """A sink that reads every frame and keeps none."""

    def __enter__(self) -> ReadingSink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, shown: DisplayedFrame) -> None:
        """Read the middle of both images."""
        for pixels in (shown.before.pixels, shown.after):
            _ = int(pixels[pixels.shape[0] // 2].sum())


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Memory and frame age over one interval of the run."""

    seconds: float
    """Since the start, at the end of the interval."""
    rss_mib: float
    shown: int
    age_p50_ms: float
    age_p95_ms: float
    age_max_ms: float


def soak(
    source: RepeatingSource, restorer: Restorer, *, seconds: float, every_s: float
) -> tuple[list[Interval], LiveStatistics]:
    """Return memory and frame age of each interval, and the statistics of the whole run.

    Args:
        source: What is restored.
        restorer: What restores it.
        seconds: How long, of real time.
        every_s: Duration of an interval.
    """
    run = Live(source, restorer, [DetachedSink(ReadingSink())])
    intervals: list[Interval] = []
    ages_ms: list[float] = []
    started = time.monotonic()
    for shown in run:
        ages_ms.append(shown.status.age_ms)
        passed_s = time.monotonic() - started
        if passed_s >= (len(intervals) + 1) * every_s:
            p50, p95 = np.percentile(ages_ms, (50, 95))
            intervals.append(Interval(
                seconds=passed_s, rss_mib=(resident_memory() or 0) / 2**20, shown=len(ages_ms),
                age_p50_ms=float(p50), age_p95_ms=float(p95), age_max_ms=max(ages_ms),
            ))  # fmt: skip
            ages_ms.clear()
        if passed_s >= seconds:
            run.controls.stop()
    return intervals, run.statistics()


def growth(intervals: list[Interval]) -> tuple[float, float]:
    """Return the growth from the second fifth to the last: memory in MiB, median frame age in ms.

    The first is left out: buffers fill, pages are touched for the first time.
    """
    fifth = max(1, len(intervals) // 5)
    early, late = intervals[fifth : 2 * fifth], intervals[-fifth:]
    memory, age = (
        float(np.median([getattr(one, name) for one in late]))
        - float(np.median([getattr(one, name) for one in early]))
        for name in ("rss_mib", "age_p50_ms")
    )
    return memory, age


def print_rows(intervals: list[Interval]) -> None:
    """Print a table."""
    print(
        "| minutes | memory (MiB) | shown | frame age p50 (ms) | p95 (ms) | max (ms) |\n"
        "|---|---|---|---|---|---|"
    )
    for one in intervals:
        print(
            f"| {one.seconds / 60:.1f} | {one.rss_mib:.1f} | {one.shown} | "
            f"{one.age_p50_ms:.1f} | {one.age_p95_ms:.1f} | {one.age_max_ms:.0f} |"
        )


def main() -> None:
    """Print a row for each interval and the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--speed", type=int, default=4)
    parser.add_argument("--restore-ms", type=float, default=12.0)
    parser.add_argument("--bundle", help="restore with this bundle")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, help="as few as hold the frame rate by default")
    parser.add_argument("--size", help="WIDTHxHEIGHT of the frames")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds = 60.0 * arguments.minutes
    size = parse_size(arguments.size, "--size") if arguments.size else None
    source = RepeatingSource(arguments.clip, arguments.speed, size)
    restorer = _restorer(arguments, source)
    processor_s = time.process_time()
    intervals, statistics = soak(source, restorer, seconds=seconds, every_s=seconds / 20)
    busy = (time.process_time() - processor_s) / (seconds * usable_cores())
    memory_mib, age_ms = growth(intervals)
    if arguments.json:
        document = {
            "intervals": [asdict(one) for one in intervals],
            "statistics": asdict(statistics),
        }
        print(json.dumps(document, indent=1))
    else:
        print_rows(intervals)
        print(
            f"\n{statistics.captured} frames captured at {1e3 / statistics.frame_time_ms:.0f} a "
            f"second, {statistics.shown} shown, {statistics.dropped} dropped; growth "
            f"{memory_mib:+.1f} MiB, age p50 {age_ms:+.1f} ms\n"
            f"{statistics.configuration}: {statistics.fps:.1f} fps shown, age p95 "
            f"{statistics.age.p95_ms:.0f} ms, peak memory {peak_memory_mib() or 0.0:.0f} MiB, "
            f"{busy:.0%} of the processor busy with it"
            + (f", threads {restorer.threads or 'all'}" if hasattr(restorer, "threads") else "")
        )
    sys.exit(int(memory_mib > _GROWTH_MIB or age_ms > statistics.frame_time_ms))


def _restorer(arguments: argparse.Namespace, source: RepeatingSource) -> Restorer:
    """Return the restorer that the options ask for, made as `mirnet live` makes it."""
    if not arguments.bundle:
        return single_runner_restorer(NullRunner(delay_s=1e-3 * arguments.restore_ms))
    folder = find_bundle(arguments.bundle)
    given = (arguments.backend, arguments.precision)
    if arguments.threads is None:
        return few_threads_restorer(folder, lambda: source.frame_time_s, *given)
    return bundle_restorer(folder, *given, threads=arguments.threads)


if __name__ == "__main__":
    main()
