"""Video without flicker: what a network decides about whole frames changes slowly, until a cut.

Noise alone gives each frame of a still scene slightly other global context vectors, and an exposure
that is a few levels off: the image breathes. Vectors are therefore carried from frame to frame,

    used = (1 - memory) · this frame's own + memory · those used for the last frame,

in the same pass that restores the frame. How much is kept depends on how much the image has
changed: all of it while it stands still, nothing at a cut or when a light is switched on; that
frame then comes out as if it were the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import OptionError
from mirnet_edge.images.contract import check_frames
from mirnet_edge.runtime.runner import RunnerWrapper, as_context_runner

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame, Frames
    from mirnet_edge.runtime.runner import Runner, Vectors

# Of 0.9, random jitter leaves the nineteenth part of its variance; a third of a second at 30 fps.
USUAL_MEMORY = 0.9
_GLANCE_SIZE = (18, 32)

Glance: TypeAlias = NDArray[np.float32]
"""(18, 32, 3), square roots of block means, in [0, 1]: where noise is about as large everywhere."""


@dataclass(frozen=True, kw_only=True)
class SceneCutDetector:
    """How much of the past is worth keeping, told from frames made tiny.

    Raises:
        OptionError: The two limits are not in order.
    """

    still: float = 0.015
    """Mean change of what a `Glance` holds, in its range of 1, up to which all is kept."""
    cut: float = 0.05
    """Mean change from which nothing is kept."""

    def __post_init__(self) -> None:
        """Refuse limits that are not in order."""
        if not 0.0 <= self.still < self.cut:
            raise OptionError(
                f"limits must rise from 0 over still to cut, found {self.still:g} and {self.cut:g}"
            )

    def kept(self, change: float) -> float:
        """Return the share of the memory that is left after a change: from 1 to 0."""
        return float(np.clip((self.cut - change) / (self.cut - self.still), 0.0, 1.0))


def smooth_over_time(
    runner: Runner, *, memory: float = USUAL_MEMORY, cuts: SceneCutDetector | None = None
) -> TemporalSmoother:
    """Return a runner for the frames of one video, in their order.

    Where the runner takes vectors, these are carried over. Where it does not, each color's
    overall gain, from what went in to what came out, is smoothed in their place: the exposure is
    steady then, the network's other decisions are as they were.

    Args:
        runner: Open or not; opened and closed with the result.
        memory: From 0, every frame by itself, to 1, the first frame of each scene decides.
        cuts: When to forget.

    Raises:
        OptionError: The memory lies outside [0, 1].
    """
    return TemporalSmoother(runner, memory=memory, cuts=cuts or SceneCutDetector())


class TemporalSmoother(RunnerWrapper):
    """A runner that smooths over time (`smooth_over_time`). For one video and one thread."""

    def __init__(self, runner: Runner, *, memory: float, cuts: SceneCutDetector) -> None:
        """See `smooth_over_time`."""
        if not 0.0 <= memory <= 1.0:
            raise OptionError(
                f"memory must lie in [0, 1], found {memory:g}; 0 takes every frame by itself"
            )
        super().__init__(runner)
        self.memory = memory
        self.cuts = cuts
        self.used_memory = 0.0
        """Of the last frame: 0 for the first of a scene."""
        self._anchored = as_context_runner(runner)
        self._last: SmoothingState | None = None

    def __enter__(self) -> TemporalSmoother:
        super().__enter__()
        self.forget()
        return self

    @property
    def smoothing_state(self) -> SmoothingState | None:
        """Return what the next frame goes on from; None where it begins a scene."""
        return self._last

    @smoothing_state.setter
    def smoothing_state(self, smoothing_state: SmoothingState | None) -> None:
        """Go on from a frame that another run ended with."""
        self._last = smoothing_state

    def forget(self) -> None:
        """Take the next frame as the first: after a seek, or when the camera changes."""
        self._last = None

    def run(self, frames: Frames) -> Frames:
        """Restore frames that follow each other, and those of the call before.

        Args:
            frames: (N, H, W, 3) uint8 RGB of any size; another size than before is a cut.

        Returns:
            A new array, (N, scale H, scale W, 3), which belongs to the caller.

        Raises:
            MirnetEdgeError: As the runner inside.
        """
        check_frames(frames)
        restored = [self._restored(frame) for frame in frames]
        return restored[0][None] if len(restored) == 1 else np.stack(restored)

    def _restored(self, frame: Frame) -> Frame:
        seen = frame_signature(frame)
        memory = self._kept(frame, seen) * self.memory
        # until this frame is through, there is no past: a failed one is no frame to go on from
        smoothing_state, self._last = self._last, None
        given = smoothing_state.decided if smoothing_state is not None and memory > 0.0 else None
        if self._anchored is not None:
            restored, decided = self._anchored.run_with_context(frame[None], given, memory)
            result: Frame = restored[0]
        else:
            result, decided = _smooth_gains(frame, self.runner.run(frame[None])[0], given, memory)
        self.used_memory = memory
        level = seen.mean((0, 1))
        if smoothing_state is not None and memory > 0.0:
            level = (1 - memory) * level + memory * smoothing_state.level
        if np.isfinite(decided).all():  # else the network overflowed; the next frame starts anew
            self._last = SmoothingState(frame.shape, seen, level, decided)
        return result

    def _kept(self, frame: Frame, seen: Glance) -> float:
        """Return the share of the memory to use: 0 where there is nothing to remember."""
        smoothing_state = self._last
        if smoothing_state is None or smoothing_state.shape != frame.shape:
            return 0.0
        moved = np.abs(seen - smoothing_state.seen).mean()
        # a slow fade never moves much from frame to frame, but leaves what is remembered behind
        drifted = np.abs(seen.mean((0, 1)) - smoothing_state.level).mean()
        return self.cuts.kept(float(max(moved, drifted)))


@dataclass(frozen=True)
class SmoothingState:
    """What is known of the frame before: all that the next one goes on from."""

    shape: tuple[int, ...]
    seen: Glance
    level: NDArray[np.float32]
    """(3,): the glance's mean, remembered as the vectors are."""
    decided: Vectors
    """(1, G): the vectors used, or the logarithms of three gains."""


def frame_signature(frame: Frame) -> Glance:
    """Return what two frames are compared by."""
    import cv2

    height, width = _GLANCE_SIZE
    # eight pixels each way are enough of a cell
    step = max(1, min(frame.shape[0] // (8 * height), frame.shape[1] // (8 * width)))
    small = cv2.resize(
        np.ascontiguousarray(frame[::step, ::step]), (width, height), interpolation=cv2.INTER_AREA
    )
    glance: Glance = np.sqrt(np.asarray(small, np.float32) / np.float32(255.0))
    return glance


def _smooth_gains(
    before: Frame, after: Frame, given: Vectors | None, memory: float
) -> tuple[Frame, Vectors]:
    """Return a restored frame with its gains as smoothed, and their logarithms, (1, 3)."""
    import cv2

    # OpenCV's mean and table: numpy's take 47 ms for a 720p frame, these 3
    sums = [np.array(cv2.mean(np.ascontiguousarray(one))[:3]) + 1.0 for one in (after, before)]
    own = np.log(sums[0] / sums[1])[None]
    if given is None:
        return after, own.astype(np.float32)
    used = (1 - memory) * own + memory * given
    levels = np.arange(256)[:, None] * np.exp(used - own)
    table = np.rint(levels).clip(0, 255).astype(np.uint8)
    evened = np.asarray(cv2.LUT(np.ascontiguousarray(after), table[None]), np.uint8)
    return evened, used.astype(np.float32)
