"""Temporal smoothing of restored video, against flicker, with scene-cut detection.

Noise alone gives each frame of a still scene slightly different global context vectors, and an
exposure that is a few levels off: the video flickers. The context is therefore smoothed
exponentially from frame to frame,

    used = (1 - weight) · this frame's own + weight · the context used for the last frame,

in the same pass that restores the frame. The weight is reduced by how much the image has changed
since the last frame: to nothing at a scene cut or when a light is switched on; that frame is
restored as the first of a video is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.images.contract import check_float_frames, check_frames
from mirnet_edge.runtime.runner import RunnerWrapper, as_context_runner, as_float_runner

if TYPE_CHECKING:
    from mirnet_edge.images.contract import FloatFrames, Frame, Frames
    from mirnet_edge.runtime.runner import ContextVectors, FloatRunner, Runner

# Leaves a nineteenth of the variance of random jitter; a time constant of 0.3 s at 30 fps.
DEFAULT_SMOOTHING_WEIGHT = 0.9
_SIGNATURE_SIZE = (18, 32)

FrameSignature: TypeAlias = NDArray[np.float32]
"""(18, 32, 3), square roots of block means, in [0, 1]: noise is then about equal everywhere."""


@dataclass(frozen=True, kw_only=True)
class SceneCutDetector:
    """Scene-cut detection: how far to reduce the smoothing weight, from two frame signatures.

    Raises:
        OptionError: The two limits are not in order.
    """

    still: float = 0.015
    """Mean change of a `FrameSignature`, in its range of 1, up to which the weight is kept."""
    cut: float = 0.05
    """Mean change from which on it is a scene cut, and the weight is 0."""

    def __post_init__(self) -> None:
        """Refuse limits that are not in order."""
        if not 0.0 <= self.still < self.cut:
            raise OptionError(
                f"limits must rise from 0 over still to cut, found {self.still:g} and {self.cut:g}"
            )

    def scale_weight(self, change: float) -> float:
        """Return the factor of the smoothing weight after a change: from 1 to 0 at a scene cut."""
        return float(np.clip((self.cut - change) / (self.cut - self.still), 0.0, 1.0))


@dataclass(frozen=True)
class SmoothingState:
    """The smoothing state after a frame: all that smoothing the next frame depends on."""

    shape: tuple[int, ...]
    """Of the frame."""
    signature: FrameSignature
    mean_signature: NDArray[np.float32]
    """(3,): the signature's mean, smoothed as the context is."""
    context: ContextVectors
    """(1, G): the global context vectors used, or the logarithms of three gains."""


def smooth_over_time(
    runner: Runner,
    *,
    smoothing_weight: float = DEFAULT_SMOOTHING_WEIGHT,
    cuts: SceneCutDetector | None = None,
) -> TemporalSmoother:
    """Return a runner that smooths the frames of one video, given in their order.

    Where the runner takes global context vectors, these are smoothed. Where it does not, each
    color's overall gain, from the source to the restored frame, is smoothed instead: that steadies
    the exposure and leaves the network's other decisions as they were.

    Args:
        runner: Open or not; opened and closed with the result.
        smoothing_weight: From 0, no smoothing, to 1, the first frame of each scene decides.
        cuts: Scene-cut detection; with its default limits where None.

    Raises:
        OptionError: The smoothing weight lies outside [0, 1].
    """
    return TemporalSmoother(
        runner, smoothing_weight=smoothing_weight, cuts=cuts or SceneCutDetector()
    )


class TemporalSmoother(RunnerWrapper):
    """A runner with temporal smoothing (`smooth_over_time`). For one video and one thread."""

    def __init__(self, runner: Runner, *, smoothing_weight: float, cuts: SceneCutDetector) -> None:
        """See `smooth_over_time`."""
        if not 0.0 <= smoothing_weight <= 1.0:
            raise OptionError(
                f"the smoothing weight must lie in [0, 1], found {smoothing_weight:g}; 0 restores "
                "every frame by itself"
            )
        super().__init__(runner)
        self.smoothing_weight = smoothing_weight
        self.cuts = cuts
        self.used_weight = 0.0
        """The smoothing weight of the last frame: 0 for the first of a scene."""
        self._context_runner = as_context_runner(runner)
        self._float_runner = as_float_runner(runner)
        self._state: SmoothingState | None = None
        self._signature: FrameSignature = np.zeros((*_SIGNATURE_SIZE, 3), np.float32)

    def __enter__(self) -> TemporalSmoother:
        super().__enter__()
        self.reset()
        return self

    @property
    def smoothing_state(self) -> SmoothingState | None:
        """Return the state that the next frame is smoothed from; None where it begins a scene."""
        return self._state

    @smoothing_state.setter
    def smoothing_state(self, smoothing_state: SmoothingState | None) -> None:
        """Resume from the state after a frame of another run."""
        self._state = smoothing_state

    def reset(self) -> None:
        """Restore the next frame as the first of a scene: after a seek, or on another camera."""
        self._state = None

    def run(self, frames: Frames) -> Frames:
        """Restore frames that follow each other, and those of the call before.

        Args:
            frames: (N, H, W, 3) uint8 RGB of any size; another size than before is a scene cut.

        Returns:
            A new array, (N, scale H, scale W, 3), which belongs to the caller.

        Raises:
            MirnetEdgeError: As the runner inside.
        """
        check_frames(frames)
        restored = [self._restore(frame) for frame in frames]
        return restored[0][None] if len(restored) == 1 else np.stack(restored)

    def _restore(self, frame: Frame) -> Frame:
        state, weight = self._begin(frame)
        context_in = None if state is None else state.context
        if self._context_runner is not None:
            restored, context = self._context_runner.run_with_context(
                frame[None], context_in, weight
            )
            result: Frame = restored[0]
        else:
            restored_frame = self.runner.run(frame[None])[0]
            result, context = _smooth_gains(frame, restored_frame, context_in, weight)
        self._keep(frame, state, weight, context)
        return result

    def _begin(self, frame: Frame) -> tuple[SmoothingState | None, float]:
        """Return the state that a frame is smoothed with, and the smoothing weight.

        The state is None where the frame begins a scene. Until `_keep`, there is none: after a
        frame that failed, a scene begins.
        """
        self._signature = frame_signature(frame)
        weight = self._scale_weight(frame, self._signature) * self.smoothing_weight
        state, self._state = self._state, None
        return (state if weight > 0.0 else None), weight

    def _keep(
        self, frame: Frame, state: SmoothingState | None, weight: float, context: ContextVectors
    ) -> None:
        """Set the state after a frame."""
        self.used_weight = weight
        mean = self._signature.mean((0, 1))
        if state is not None:
            mean = (1 - weight) * mean + weight * state.mean_signature
        if np.isfinite(context).all():  # else the network overflowed, and a scene begins
            self._state = SmoothingState(frame.shape, self._signature, mean, context)

    @property
    def takes_floats(self) -> bool:
        """Whether the wrapped runner takes frames of more than 8 bits, and this one then too."""
        return self._float_runner is not None

    def run_float(self, frames: FloatFrames) -> FloatFrames:
        """Restore frames that follow each other without rounding them to 8 bits.

        Global context vectors are those of the 8-bit form: such a runner runs twice for each frame.

        Args:
            frames: (N, H, W, 3) float32 RGB in [0, 1].

        Returns:
            A new array, (N, scale H, scale W, 3) in [0, 1], which belongs to the caller.

        Raises:
            EngineError: The wrapped runner gives 8 bits alone.
            MirnetEdgeError: As the runner inside.
        """
        check_float_frames(frames)
        if self._float_runner is None:
            raise EngineError(f"{self.name} gives 8 bits alone. Choose another --backend")
        runner = self._float_runner
        return np.concatenate([self._restore_float(runner, frame) for frame in frames])

    def _restore_float(self, runner: FloatRunner, frame: FloatFrames) -> FloatFrames:
        rounded = np.rint(frame * np.float32(255.0)).astype(np.uint8)
        if self._context_runner is not None:
            self._restore(rounded)  # for the context; without a state, it was not finite
            context = None if self._state is None else self._state.context
            return runner.run_float(frame[None], context)
        restored = runner.run_float(frame[None])
        state, weight = self._begin(rounded)
        own = np.log((_mean_levels(restored[0]) + 1.0) / (_mean_levels(frame) + 1.0))[None]
        used = own if state is None else (1 - weight) * own + weight * state.context
        self._keep(rounded, state, weight, used.astype(np.float32))
        gains = np.exp(used - own).astype(np.float32)
        return np.clip(restored * gains, 0.0, 1.0, out=restored)

    def _scale_weight(self, frame: Frame, signature: FrameSignature) -> float:
        """Return the factor of the smoothing weight: 0 where the frame begins a scene."""
        state = self._state
        if state is None or state.shape != frame.shape:
            return 0.0
        change = np.abs(signature - state.signature).mean()
        # a slow fade changes little from frame to frame, but leaves the smoothed context behind
        drift = np.abs(signature.mean((0, 1)) - state.mean_signature).mean()
        return self.cuts.scale_weight(float(max(change, drift)))


def frame_signature(frame: Frame) -> FrameSignature:
    """Return the signature that a frame is compared with others by."""
    import cv2

    height, width = _SIGNATURE_SIZE
    # eight pixels each way are enough of a block
    step = max(1, min(frame.shape[0] // (8 * height), frame.shape[1] // (8 * width)))
    small = cv2.resize(
        np.ascontiguousarray(frame[::step, ::step]), (width, height), interpolation=cv2.INTER_AREA
    )
    signature: FrameSignature = np.sqrt(np.asarray(small, np.float32) / np.float32(255.0))
    return signature


def _mean_levels(frame: FloatFrames) -> NDArray[np.float64]:
    """Return the mean of each channel of a float frame, (3,), in levels of 8 bits."""
    import cv2

    return 255.0 * np.array(cv2.mean(np.ascontiguousarray(frame))[:3])


def _smooth_gains(
    source: Frame, restored: Frame, context_in: ContextVectors | None, weight: float
) -> tuple[Frame, ContextVectors]:
    """Return a restored frame with its three gains smoothed, and their logarithms, (1, 3)."""
    import cv2

    # OpenCV's mean and table: numpy's take 47 ms for a 720p frame, these 3
    sums = [np.array(cv2.mean(np.ascontiguousarray(one))[:3]) + 1.0 for one in (restored, source)]
    own = np.log(sums[0] / sums[1])[None]
    if context_in is None:
        return restored, own.astype(np.float32)
    used = (1 - weight) * own + weight * context_in
    levels = np.arange(256)[:, None] * np.exp(used - own)
    table = np.rint(levels).clip(0, 255).astype(np.uint8)
    smoothed = np.asarray(cv2.LUT(np.ascontiguousarray(restored), table[None]), np.uint8)
    return smoothed, used.astype(np.float32)
