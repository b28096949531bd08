"""How much a row makes video flicker, frame by frame, as a program runs it that knows no past."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.record import ClipFacts, Flicker
from mirnet_edge.calibration.builtin import builtin_set
from mirnet_edge.degradations import Noise, noisy
from mirnet_edge.errors import ImageError, MirnetEdgeError
from mirnet_edge.metrics import flicker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirnet_edge.images import Frame, Frames
    from mirnet_edge.runtime.runner import Runner

STILL = "still"
FRAMES = 24  # a second of film
_WIDTH = 512
_NOISE = Noise(photons=300, sigma=2)
"""Of a small sensor at night."""


@dataclass(frozen=True)
class Clip:
    """A short video in memory."""

    name: str
    frames: Frames
    """(N, H, W, 3) uint8 RGB, in order."""


def still_clip(picture: Frame, count: int = FRAMES) -> Frames:
    """Return what a camera at rest sees of a picture, (N, H, W, 3): its noise alone moves."""
    import cv2

    height = round(_WIDTH * picture.shape[0] / picture.shape[1])
    small = np.asarray(
        cv2.resize(picture, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8
    )
    generator = np.random.default_rng(0)
    return np.stack([noisy(small, _NOISE, generator) for _ in range(count)])


def built_in_clip(task: str) -> Clip:
    """Return a clip that stands still, of the built-in pictures of a task."""
    return Clip(STILL, still_clip(builtin_set(task).judging[0].frame))


@dataclass
class Seen:
    """What was measured so far on one clip."""

    clip: Clip
    flicker: dict[str, Flicker] = field(default_factory=dict)
    """By row."""
    note: str = ""
    """Why no row has a figure, where that is so."""

    @property
    def facts(self) -> ClipFacts:
        """Return what the report says of the clip."""
        count, height, width = self.clip.frames.shape[:3]
        return ClipFacts(
            name=self.clip.name,
            frames=count,
            width=width,
            height=height,
            note=self.note,
            sha256=hashlib.sha256(np.ascontiguousarray(self.clip.frames).tobytes()).hexdigest(),
        )


def measure_flicker(
    runners: Mapping[str, Runner],
    seen: Seen,
    row_seconds: float,
    on_row: Callable[[str], None] = lambda name: None,
) -> None:
    """Let every open runner restore a clip, one frame after the other; fill in `seen`.

    A row that takes longer than ROW_SECONDS is left out and says so.
    """
    frames = seen.clip.frames
    try:
        flicker(frames, frames)
    except ImageError as error:
        seen.note = " ".join(str(error).split())
        return
    for row, runner in runners.items():
        on_row(row)
        try:
            restored = _restored(runner, frames, row_seconds)
        except MirnetEdgeError as error:
            seen.flicker[row] = _without(seen.clip, " ".join(str(error).split()))
            continue
        if restored is None:
            seen.flicker[row] = _without(seen.clip, f"takes longer than {row_seconds:g} s")
            continue
        ratio = flicker(restored, frames)
        seen.flicker[row] = Flicker(
            clip=seen.clip.name, ratio=round(ratio, 4) if math.isfinite(ratio) else None
        )


def _restored(runner: Runner, frames: Frames, row_seconds: float) -> Frames | None:
    started = time.monotonic()
    restored = []
    for frame in frames:
        if time.monotonic() - started > row_seconds:
            return None
        restored.append(runner.run(frame[None])[0])
    return np.stack(restored)


def _without(clip: Clip, note: str) -> Flicker:
    return Flicker(clip=clip.name, ratio=None, note=note)
