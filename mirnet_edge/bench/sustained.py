"""A row running without pause: what minutes make of its rate, and the energy that a frame takes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirnet_edge.bench.measure import timed_run
from mirnet_edge.bench.record import Part
from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.measure import p50, p95

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.bench.sensors import Sensors
    from mirnet_edge.images import Frames
    from mirnet_edge.runtime.runner import Runner

# A part is half a minute, of short runs an eighth: enough parts to see where the rate falls.
_PART_S, _FEWEST_PARTS = 30.0, 8
# Counters of energy move about ten times a second: two percent of this.
LOOP_S = 5.0


@dataclass(frozen=True)
class Pace:
    """How long a row runs, and in which parts.

    Raises:
        OptionError: No time.
    """

    seconds: float
    part_s: float
    clock: Callable[[], float] = time.perf_counter
    """Seconds, rising; replaced in tests."""

    def __post_init__(self) -> None:
        """Refuse what gives no figures."""
        if not (0.0 < self.part_s <= self.seconds < math.inf):
            raise OptionError(f"--sustained must be more than 0 minutes, found {self.seconds / 60}")


def sustained_pace(minutes: float, clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Return the pace of a run of minutes.

    Raises:
        OptionError: Not more than 0 minutes.
    """
    seconds = 60.0 * minutes
    return Pace(seconds, min(_PART_S, seconds / _FEWEST_PARTS), clock)


@dataclass
class Endured:
    """What was measured so far of one row; complete or not."""

    sustained: bool = False
    """Whether minutes were asked for, not energy alone."""
    parts: list[Part] = field(default_factory=list)
    failure: str | None = None
    """Why there is nothing more to come."""

    @property
    def figures(self) -> dict[str, object]:
        """Return the fields of the row's `Timing`."""
        if self.sustained:
            return {"sustained": self.parts}
        return {"loop": self.parts[0]} if self.parts else {}


def endure(
    runner: Runner,
    frame: Frames,
    pace: Pace,
    sensors: Sensors,
    found: Endured,
    on_part: Callable[[Part], None] = lambda part: None,
) -> None:
    """Let an open, warm runner restore a frame again and again, without pause.

    When it fails or this is interrupted, `found` holds the parts that were whole.

    Args:
        runner: Open.
        frame: (1, H, W, 3) uint8, given to every run.
        pace: How long, with which clock.
        sensors: Read at the end of each part.
        found: Filled in.
        on_part: Told each part.
    """
    clock = pace.clock
    with sensors.watching():
        began = started = clock()
        count = sensors.joules()
        while started - began < pace.seconds:
            # the next edge ahead: a run that is longer than a part ends several
            edge = began + pace.part_s * (math.floor((started - began) / pace.part_s + 1e-9) + 1)
            samples: list[float] = []
            now = started
            while now < edge:
                elapsed = timed_run(runner, frame, clock, found)
                if elapsed is None:
                    return
                samples.append(elapsed)
                now = clock()
            former, count = count, sensors.joules()
            used = {kind: count[kind] - former[kind] for kind in count if kind in former}
            found.parts.append(
                Part(
                    end_s=round(now - began, 3),
                    seconds=round(now - started, 3),
                    runs=len(samples),
                    p50_ms=round(p50(samples), 4),
                    p95_ms=round(p95(samples), 4),
                    end=sensors.conditions(),
                    joules={kind: round(value, 4) for kind, value in used.items()},
                )
            )
            on_part(found.parts[-1])
            started = clock()
