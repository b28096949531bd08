"""Counting and timing without end, in memory that does not grow."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

_SMALLEST_MS, _LARGEST_MS, _STEP = 1e-3, 1e7, 1.01


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How long something took, over all times it was done. All zero where it never was."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Durations:
    """A histogram of durations whose bins are 1 % wide: percentiles are that exact."""

    def __init__(self) -> None:
        """Start empty."""
        bins = math.ceil(math.log(_LARGEST_MS / _SMALLEST_MS) / math.log(_STEP)) + 1
        self._counts = np.zeros(bins, np.int64)
        self._total_ms = 0.0
        self._max_ms = 0.0
        self.count = 0
        """How many were added."""

    def add(self, milliseconds: float) -> None:
        """Count one duration; what lies below 0.001 ms counts as that."""
        clamped = min(max(milliseconds, _SMALLEST_MS), _LARGEST_MS)
        self._counts[int(math.log(clamped / _SMALLEST_MS) / math.log(_STEP))] += 1
        self.count += 1
        self._total_ms += milliseconds
        self._max_ms = max(self._max_ms, milliseconds)

    def percentile(self, q: float) -> float:
        """Return what q percent of the durations do not exceed, to 1 %; 0 where there are none."""
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(self.count * q / 100.0))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_SMALLEST_MS * _STEP ** (place + 1), self._max_ms)

    def spread(self) -> Spread:
        """Return the figures so far."""
        return Spread(
            count=self.count,
            mean_ms=self._total_ms / self.count if self.count else 0.0,
            p50_ms=self.percentile(50.0),
            p95_ms=self.percentile(95.0),
            p99_ms=self.percentile(99.0),
            max_ms=self._max_ms,
        )


@dataclass(frozen=True, kw_only=True)
class LiveStatistics:
    """What a live run came to. Captured = shown + dropped + held, and one where it was cut off."""

    source: str
    mode: str
    """What restored at the end."""
    seconds: float
    """From the first frame shown to the last."""
    captured: int
    shown: int
    dropped: int
    """Replaced by newer frames before they could be restored, or grown too old to be shown."""
    held: int
    """Came while the picture was frozen."""
    failed: int
    """Could not be restored, and were shown as they came."""
    reconnects: int
    fps: float
    """Frames shown per second: intervals, not frames, over `seconds`."""
    frame_time_ms: float
    """Between two frames of the source, as they came."""
    age: Spread
    """From capture to the end of the sinks."""
    stages: dict[str, Spread]
    """read: getting a frame out of the source · convert: its pixels · restore · show: all sinks."""

    def write_json(self, path: Path) -> None:
        """Write the figures, whole or not at all.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())
