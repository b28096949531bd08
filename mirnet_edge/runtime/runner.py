"""What every runner is: frames in, frames out; open in `with` and free after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, OptionError

if TYPE_CHECKING:
    from types import TracebackType

    from mirnet_edge.images import Frames

Vectors: TypeAlias = NDArray[np.float32]
"""(N, G): the pooled vectors of N frames, one after the other; see `ImageContract.vectors`."""

_Self = TypeVar("_Self", bound="Opened")
_Outer = TypeVar("_Outer", bound="Around")


class Runner(Protocol):
    """Restores frames. Built cheaply; `with` allocates what it needs and frees it at the end.

    The same runner can be opened again, and opened twice: it is freed by the last exit. It is
    for one thread at a time.
    """

    @property
    def name(self) -> str:
        """`backend:precision`."""

    @property
    def multiple(self) -> int:
        """Frames whose sides are multiples of this need no padding."""

    @property
    def scale(self) -> int:
        """How many times higher and wider restored frames are."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def run(self, frames: Frames) -> Frames:
        """Restore frames.

        Args:
            frames: (N, H, W, 3) uint8 RGB of any size.

        Returns:
            A new array, (N, scale H, scale W, 3), which belongs to the caller.
        """


class AnchoredRunner(Runner, Protocol):
    """A runner that can be given the pooled vectors of another frame; see `models.anchoring`."""

    @property
    def vector_length(self) -> int:
        """How many numbers a frame's vectors hold; 0 where the runner takes frames alone."""

    def run_anchored(
        self, frames: Frames, given: Vectors | None, memory: float
    ) -> tuple[Frames, Vectors]:
        """Restore frames with vectors between their own and those given.

        Args:
            frames: As `run` takes them.
            given: (N, vector_length), finite; None for memory 0.
            memory: From 0, the frames' own vectors, to 1, those given.

        Returns:
            What `run` returns, and the vectors that were used, which belong to the caller.
        """


def anchored(runner: Runner) -> AnchoredRunner | None:
    """Return the runner if it takes vectors, else None."""
    if getattr(runner, "vector_length", 0):
        return cast("AnchoredRunner", runner)
    return None


def check_anchors(frames: Frames, given: Vectors | None, memory: float, vector_length: int) -> None:
    """Refuse vectors and a memory that `run_anchored` cannot use.

    Raises:
        OptionError: The memory lies outside [0, 1], or the vectors do not fit or are not finite.
    """
    if not 0.0 <= memory <= 1.0:
        raise OptionError(
            f"memory must lie in [0, 1], found {memory:g}; 0 takes a frame's own vectors, 1 those "
            "given"
        )
    if given is None:
        if memory > 0.0:
            raise OptionError(
                f"memory is {memory:g} and no vectors are given; expected what the last call "
                "returned, or memory 0"
            )
        return
    expected = (len(frames), vector_length)
    if given.shape != expected or not np.isfinite(given).all():
        raise OptionError(
            f"expected finite vectors of shape {expected}, found {given.shape}"
            f"{'' if given.shape != expected else ' with a value that is not'}; "
            "give what the last call returned"
        )


class Opened(ABC):
    """Counts how often it was entered; opens on the first, closes on the last exit."""

    _depth = 0

    def __enter__(self: _Self) -> _Self:
        if self._depth == 0:
            self._open()
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._close()

    def _require_open(self, name: str) -> None:
        if self._depth == 0:
            raise EngineError(
                f"{name} is not open: expected `with runner:` around runner.run(frames). "
                "Enter it first"
            )

    @abstractmethod
    def _open(self) -> None:
        """Allocate."""

    @abstractmethod
    def _close(self) -> None:
        """Free."""


class Around:
    """What a runner around another has of it: its name and sizes, and when it is open."""

    def __init__(self, runner: Runner) -> None:
        """Take the runner inside, open or not."""
        self.runner = runner

    @property
    def name(self) -> str:
        """Return the name of the runner inside."""
        return self.runner.name

    @property
    def multiple(self) -> int:
        """Return that of the runner inside."""
        return self.runner.multiple

    @property
    def scale(self) -> int:
        """Return that of the runner inside."""
        return self.runner.scale

    def __enter__(self: _Outer) -> _Outer:
        self.runner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.runner.__exit__(kind, error, traceback)
