"""A runner without a network, for tests of all that is done with one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirnet_edge.images.contract import check_frames
from mirnet_edge.runtime.runner import ReentrantContext

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frames


class NullRunner(ReentrantContext):
    """Gives back a copy of what it takes. For tests of all that is done with a runner."""

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
        """Say how it behaves.

        Args:
            name: What messages call it.
            multiple: What it claims to pad to.
            scale: How often it repeats each pixel, both ways.
            delay_s: How long each run takes, in seconds.
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
        """How often `run` was called."""
        self.opened = 0
        """How often it was allocated."""
        self.is_open = False

    @property
    def name(self) -> str:
        """Return the name it was given."""
        return self._name

    @property
    def multiple(self) -> int:
        """Return the multiple it was given."""
        return self._multiple

    @property
    def scale(self) -> int:
        """Return the scale it was given."""
        return self._scale

    def run(self, frames: Frames) -> Frames:
        """Return a copy of the frames, after the delay.

        Raises:
            ImageError: Not (N, H, W, 3) uint8.
            EngineError: Used outside `with`.
            Exception: The failure it was given.
        """
        self._require_open(self.name)
        check_frames(frames)
        self.calls += 1
        if self._failure is not None and self.calls >= self._fails_at:
            raise self._failure
        if self._delay_s:
            time.sleep(self._delay_s)
        copied: Frames = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        return copied

    def _open(self) -> None:
        self.opened += 1
        self.is_open = True

    def _close(self) -> None:
        self.is_open = False
