"""Runners made of others: a chain of networks, and a result blended with its source.

Both take and give the global context vectors of the runners inside, one after the other, so that
temporal smoothing smooths each network of a chain.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.images.contract import check_frames
from mirnet_edge.runtime.runner import (
    ReentrantContext,
    RunnerWrapper,
    as_context_runner,
    as_float_runner,
    check_context,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import FloatFrames, Frames
    from mirnet_edge.runtime.runner import ContextVectors, FloatRunner, Runner

_Levels = TypeVar("_Levels", np.uint8, np.float32)


def chain_runners(runners: Sequence[Runner]) -> Runner:
    """Return a runner that restores with each of the runners in turn; a single one as it is.

    Raises:
        OptionError: There is none.
    """
    if not runners:
        raise OptionError("expected at least one runner, found none")
    return runners[0] if len(runners) == 1 else ChainRunner(runners)


class ChainRunner(ReentrantContext):
    """Restores frames with several runners, each taking what the one before gave."""

    def __init__(self, runners: Sequence[Runner]) -> None:
        """Take the runners in their order, open or not; they are opened and closed together."""
        self.runners = tuple(runners)
        self._contexts = [as_context_runner(one) for one in self.runners]
        self._lengths = [one.context_length if one else 0 for one in self._contexts]
        self._stack = ExitStack()

    @property
    def name(self) -> str:
        """Return the names of all."""
        return " + ".join(one.name for one in self.runners)

    @property
    def multiple(self) -> int:
        """Return a multiple that suits all."""
        return math.lcm(*(one.multiple for one in self.runners))

    @property
    def scale(self) -> int:
        """Return how many times higher and wider restored frames are."""
        return math.prod(one.scale for one in self.runners)

    @property
    def context_length(self) -> int:
        """Return how many numbers the context vectors of all hold together."""
        return sum(self._lengths)

    def run(self, frames: Frames) -> Frames:
        """Restore frames: (N, H, W, 3) uint8 in, a new (N, scale H, scale W, 3) out.

        Raises:
            MirnetEdgeError: As the runners inside.
        """
        self._require_open(self.name)
        for one in self.runners:
            frames = one.run(frames)
        return frames

    def run_with_context(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore frames as `ContextRunner` does; the vectors of all runners follow each other.

        Raises:
            OptionError: The smoothing weight lies outside [0, 1], or the vectors do not fit.
            MirnetEdgeError: As the runners inside.
        """
        self._require_open(self.name)
        check_frames(frames)
        check_context(frames, context_in, smoothing_weight, self.context_length)
        used = np.empty((len(frames), self.context_length), np.float32)
        begin = 0
        for runner, context_runner, length in zip(
            self.runners, self._contexts, self._lengths, strict=True
        ):
            if context_runner is None:
                frames = runner.run(frames)
                continue
            part = slice(begin, begin + length)
            given = None if context_in is None else np.ascontiguousarray(context_in[:, part])
            frames, used[:, part] = context_runner.run_with_context(frames, given, smoothing_weight)
            begin += length
        return frames, used

    @property
    def takes_floats(self) -> bool:
        """Return whether all of them take frames of more than 8 bits."""
        return all(as_float_runner(one) is not None for one in self.runners)

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Restore frames as `FloatRunner` does, without rounding between the runners.

        Raises:
            EngineError: Not open, or one takes 8 bits alone.
            MirnetEdgeError: As the runners inside.
        """
        self._require_open(self.name)
        begin = 0
        for runner, length in zip(self.runners, self._lengths, strict=True):
            part = slice(begin, begin + length)
            given = None if context_in is None or not length else context_in[:, part]
            frames = require_float_runner(runner).run_float(frames, given)
            begin += length
        return frames

    def _open(self) -> None:
        with ExitStack() as stack:
            for one in self.runners:
                stack.enter_context(one)
            self._stack = stack.pop_all()

    def _close(self) -> None:
        self._stack.close()


def check_strength(strength: float) -> None:
    """Refuse a strength outside [0, 1].

    Raises:
        OptionError: It is outside, or not a number.
    """
    if not 0.0 <= strength <= 1.0:
        raise OptionError(
            f"--strength must lie from 0, the input, to 1, the restored image, found {strength:g}"
        )


class BlendingRunner(RunnerWrapper):
    """A runner whose restored frames are blended with their source."""

    def __init__(self, runner: Runner, strength: float) -> None:
        """Wrap a runner.

        Args:
            runner: Open or not.
            strength: From 0, the source at the size of the restored frame, to 1, that frame.

        Raises:
            OptionError: The strength lies outside [0, 1].
        """
        check_strength(strength)
        super().__init__(runner)
        self.strength = strength
        self._context_runner = as_context_runner(runner)

    @property
    def context_length(self) -> int:
        """Return that of the runner inside."""
        return self._context_runner.context_length if self._context_runner else 0

    def run(self, frames: Frames) -> Frames:
        """Restore frames: (N, H, W, 3) uint8 in, a new (N, scale H, scale W, 3) out.

        Raises:
            MirnetEdgeError: As the runner inside.
        """
        return blend_frames(frames, self.runner.run(frames), self.strength)

    def run_with_context(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore frames as `ContextRunner` does.

        Raises:
            OptionError: The runner inside takes no context vectors.
            MirnetEdgeError: As the runner inside.
        """
        if self._context_runner is None:
            raise OptionError(f"{self.name} takes no context vectors; call run")
        restored, used = self._context_runner.run_with_context(frames, context_in, smoothing_weight)
        return blend_frames(frames, restored, self.strength), used

    @property
    def takes_floats(self) -> bool:
        """Return whether the runner inside takes frames of more than 8 bits."""
        return as_float_runner(self.runner) is not None

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Restore frames as `FloatRunner` does.

        Raises:
            EngineError: The runner inside takes 8 bits alone.
            MirnetEdgeError: As the runner inside.
        """
        restored = require_float_runner(self.runner).run_float(frames, context_in)
        return blend_frames(frames, restored, self.strength)


def require_float_runner(runner: Runner) -> FloatRunner:
    """Return the runner as one that takes frames of more than 8 bits.

    Raises:
        EngineError: It takes 8 bits alone.
    """
    found = as_float_runner(runner)
    if found is None:
        raise EngineError(f"{runner.name} takes frames of 8 bits; expected more. Give it uint8")
    return found


def blend_frames(
    frames: NDArray[_Levels], restored: NDArray[_Levels], strength: float
) -> NDArray[_Levels]:
    """Return restored frames blended with their sources, enlarged to their size: a new array.

    Args:
        frames: (N, H, W, 3) uint8, or float32 in [0, 1].
        restored: (N, scale H, scale W, 3) of the same type.
        strength: From 0, the sources, to 1, the restored frames.
    """
    import cv2

    blended = np.empty_like(restored)
    for place, (before, after) in enumerate(zip(frames, restored, strict=True)):
        enlarged = enlarge(before, *after.shape[:2])
        cv2.addWeighted(after, strength, enlarged, 1.0 - strength, 0.0, dst=blended[place])
    return blended


def enlarge(pixels: NDArray[_Levels], height: int, width: int) -> NDArray[_Levels]:
    """Return pixels, (H, W) or (H, W, 3), resized by bicubic interpolation, as viewers enlarge.

    Args:
        pixels: uint8, or float32 in [0, 1]; those of that size are returned as they are.
        height: Of the result.
        width: Of the result.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    from PIL import Image

    size, bicubic = (width, height), Image.Resampling.BICUBIC
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, bicubic), pixels.dtype)
    channels = np.atleast_3d(pixels).transpose(2, 0, 1)  # of floats Pillow takes one at a time
    resized = [np.asarray(Image.fromarray(one).resize(size, bicubic)) for one in channels]
    enlarged = np.stack(resized, -1).clip(0.0, 1.0).reshape(height, width, *pixels.shape[2:])
    return np.asarray(enlarged, pixels.dtype)
