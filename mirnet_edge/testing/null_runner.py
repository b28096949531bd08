"""A runner without a network, for tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from mirnet_edge.images.contract import check_float_frames, check_frames
from mirnet_edge.runtime.runner import ReentrantContext

if TYPE_CHECKING:
    from mirnet_edge.images.contract import FloatFrames, Frames
    from mirnet_edge.runtime.runner import ContextVectors

_Pixels = TypeVar("_Pixels", "Frames", "FloatFrames")


class NullRunner(ReentrantContext):
    """A runner that returns a copy of its frames."""

    def __init__(
        self,
        name: str = "null",
        *,
        multiple: int = 1,
        scale: int = 1,
        delay_s: float = 0.0,
        failure: Exception | None = None,
        fails_at: int = 1,
    ) -> None:
        """Set its properties and failures.

        Args:
            name: In messages.
            multiple: The multiple it states; frames are not padded.
            scale: How often it repeats each pixel along both axes.
            delay_s: Duration of each run, in seconds.
            failure: Raised instead of running.
            fails_at: The call, counted from 1, from which on `failure` is raised.
        """
        self._name = name
        self._multiple = multiple
        self._scale = scale
        self._delay_s = delay_s
        self._failure = failure
        self._fails_at = fails_at
        self.calls = 0
        """Number of calls of `run`."""
        self.opened = 0
        """Number of times it was opened."""
        self.is_open = False

    @property
    def name(self) -> str:
        """Return the name."""
        return self._name

    @property
    def multiple(self) -> int:
        """Return the multiple."""
        return self._multiple

    @property
    def scale(self) -> int:
        """Return the scale."""
        return self._scale

    def run(self, frames: Frames) -> Frames:
        """Return a copy of the frames, after the delay.

        Raises:
            ImageError: Not (N, H, W, 3) uint8.
            EngineError: Used outside `with`.
            Exception: The `failure` set.
        """
        self._require_open(self.name)
        check_frames(frames)
        return self._restore(frames)

    takes_floats = True

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Return a copy of float frames; `context_in` is ignored. Fails as `run` does.

        Raises:
            ImageError: Not (N, H, W, 3) float32.
            EngineError: Used outside `with`.
            Exception: The `failure` set.
        """
        self._require_open(self.name)
        check_float_frames(frames)
        return self._restore(frames)

    def _restore(self, frames: _Pixels) -> _Pixels:
        self.calls += 1
        if self._failure is not None and self.calls >= self._fails_at:
            raise self._failure
        if self._delay_s:
            time.sleep(self._delay_s)
        copied: _Pixels = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        return copied

    def _open(self) -> None:
        self.opened += 1
        self.is_open = True

    def _close(self) -> None:
        self.is_open = False
