"""The runner interface: frames in, frames out, and what all backends share.

fp16 networks of other projects are known to give NaN where an activation overflows, which the
viewer sees as a black frame. The source frame is better than that.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, ImageError, MirnetEdgeError, OptionError
from mirnet_edge.images.contract import (
    batch_from_frames,
    check_frames,
    crop_to,
    frames_from_batch,
    pad_to_multiple,
    padded_size,
    size_text,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import ImageContract, Precision

Vectors: TypeAlias = NDArray[np.float32]
"""(N, G): the global context vectors of N frames; see `ImageContract.vectors`."""

_Self = TypeVar("_Self", bound="ReentrantContext")
_Outer = TypeVar("_Outer", bound="RunnerWrapper")


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


class ContextRunner(Runner, Protocol):
    """A runner that takes the global context vectors of another frame (`models.global_context`)."""

    @property
    def vector_length(self) -> int:
        """How many numbers a frame's vectors hold; 0 where the runner takes frames alone."""

    def run_with_context(
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


def as_context_runner(runner: Runner) -> ContextRunner | None:
    """Return the runner if it takes vectors, else None."""
    if getattr(runner, "vector_length", 0):
        return cast("ContextRunner", runner)
    return None


def check_context(frames: Frames, given: Vectors | None, memory: float, vector_length: int) -> None:
    """Refuse vectors and a memory that `run_with_context` cannot use.

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


class ReentrantContext(ABC):
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


class RunnerWrapper:
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


logger = logging.getLogger(__name__)

# Looked at first of a frame, because looking at all of it takes longer.
_SPARSE = 16


class BrokenFrames:
    """Counts broken frames and gives the source in their place; says so once."""

    def __init__(self, name: str, scale: int) -> None:
        """Remember whose frames they are, and how many times larger they come out."""
        self._name, self._scale = name, scale
        self.count = 0

    def replaced(self, source: Frames, restored: Frames, *, is_finite: bool = True) -> Frames:
        """Return RESTORED, or SOURCE at its size where it is broken.

        In the pools of these networks one NaN becomes a frame of NaN, which the cast to 8 bits
        turns into one color: such a frame is broken, unless the source was of one color too.

        Args:
            source: (1, H, W, 3) uint8.
            restored: (1, scale H, scale W, 3) uint8.
            is_finite: False where the network's floats were seen to hold NaN or infinity.
        """
        if is_finite and not self._is_of_one_color(source, restored):
            return restored
        self.count += 1
        if self.count == 1:
            logger.warning(
                "%s gave a broken frame (NaN, or one color all over); the source frame is passed "
                "instead, and counted. Try --precision fp32",
                self._name,
            )
        copied: Frames = source.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        return copied

    def _is_of_one_color(self, source: Frames, restored: Frames) -> bool:
        sparse = restored[:, ::_SPARSE, ::_SPARSE]
        if sparse.min() != sparse.max() or restored.min() != restored.max():
            return False
        return bool(source.min() != source.max())


class GraphRunner(ReentrantContext):
    """A file of the bundle in one backend. Subclasses load it and infer; the rest is here.

    Frames are inferred one at a time: on a processor a batch is not faster, it needs memory for
    all its frames, and a graph of fixed size takes one.
    """

    def __init__(
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        threads: int | None = None,
    ) -> None:
        """Remember what to open; nothing is read yet.

        Args:
            path: The graph or the weights.
            image: What the graph takes and gives.
            name: How messages and reports call this runner.
            precision: What the backend is to compute in.
            threads: How many it may use; None leaves it to the backend.

        Raises:
            OptionError: Less than one thread.
        """
        if threads is not None and threads < 1:
            raise OptionError(
                f"--threads must be at least 1, found {threads}; leave it out for all"
            )
        self.path = path
        self.image = image
        self.precision: Precision = precision
        self.threads = threads
        self._name = name
        self._inferring_s = (0.0, 0.0)
        self.stages_s = (0.0, 0.0, 0.0)
        """How long the last run spent before, in and after the network, in seconds."""

    @property
    def name(self) -> str:
        """Return `backend:precision`."""
        return self._name

    @property
    def multiple(self) -> int:
        """Return what the sides of a frame are padded to."""
        return self.image.multiple

    @property
    def scale(self) -> int:
        """Return how many times higher and wider restored frames are."""
        return self.image.scale

    def run(self, frames: Frames) -> Frames:
        """Restore frames.

        Args:
            frames: (N, H, W, 3) uint8 RGB of any size; of one that pads to the graph's where
                that is fixed.

        Returns:
            A new array, (N, scale H, scale W, 3), which belongs to the caller.

        Raises:
            ImageError: Not such frames, or not of the graph's size.
            EngineError: Used outside `with`, or the backend failed.
        """
        return self._run(frames, None, 0.0)[0]

    @property
    def vector_length(self) -> int:
        """Return how many numbers a frame's vectors hold; 0 where the graph takes frames alone."""
        return self.image.vector_length

    def run_with_context(
        self, frames: Frames, given: Vectors | None, memory: float
    ) -> tuple[Frames, Vectors]:
        """Restore frames with vectors between their own and those given.

        Args:
            frames: As for `run`.
            given: (N, vector_length), finite; None for memory 0.
            memory: From 0, the frames' own vectors, to 1, those given.

        Returns:
            What `run` returns, and the vectors that were used; both belong to the caller.

        Raises:
            ImageError: As for `run`.
            EngineError: As for `run`, or the graph takes frames alone.
            OptionError: The memory lies outside [0, 1], or the vectors do not fit.
        """
        if not self.vector_length:
            raise EngineError(
                f"{self.path.name} takes no vectors; expected a graph of a bundle made with "
                "mirnet-export --anchored"
            )
        check_frames(frames)
        check_context(frames, given, memory, self.vector_length)
        return self._run(frames, given, memory)

    def _run(self, frames: Frames, given: Vectors | None, memory: float) -> tuple[Frames, Vectors]:
        self._require_open(self.name)
        check_frames(frames)
        count, height, width = frames.shape[:3]
        self._check_size(height, width)
        tall, wide = self.scale * height, self.scale * width
        restored = np.empty((count, tall, wide, 3), np.uint8)
        vectors = np.zeros((count, self.vector_length), np.float32)
        if given is not None:
            vectors[:] = given
        before = network = after = 0.0
        for place in range(count):
            started = time.perf_counter()
            padded = pad_to_multiple(frames[place : place + 1], self.multiple)
            whole, used = self._restored(padded, vectors[place : place + 1], memory)
            restored[place] = crop_to(whole, tall, wide)[0]
            vectors[place] = used
            entered, left = self._inferring_s
            before, network = before + entered - started, network + left - entered
            after += time.perf_counter() - left
        self.stages_s = (before, network, after)
        return restored, vectors

    def infer(self, fed: NDArray[Any]) -> NDArray[Any]:
        """Run the graph once on what it takes itself: nothing is checked, padded or converted.

        Args:
            fed: Contiguous, with a batch of one.

        Returns:
            What the graph gives; it may be overwritten by the next call.

        Raises:
            EngineError: Used outside `with`.
        """
        self._require_open(self.name)
        return self._infer(fed)

    def _restored(self, padded: Frames, vectors: Vectors, memory: float) -> tuple[Frames, Vectors]:
        """Return (1, scale H, scale W, 3) uint8 of (1, H, W, 3) uint8 whose sides fit."""
        floating = self.image.io == "float"
        fed = batch_from_frames(padded) if floating else np.ascontiguousarray(padded)
        started = time.perf_counter()
        try:
            if self.vector_length:
                share = np.full(1, memory, np.float32)
                given, vectors = self._infer_with_context(fed, vectors, share)
            else:
                given = self._infer(fed)
        except MirnetEdgeError:
            raise
        except Exception as error:  # each backend has its own kinds
            size = size_text(*padded.shape[1:3])
            raise self._failure(f"could not run it on a {size} frame", error) from error
        self._inferring_s = (started, time.perf_counter())
        sides = (1, 2) if self.image.io == "uint8" else (2, 3)
        expected = tuple(
            self.scale * side if axis in sides else side for axis, side in enumerate(fed.shape)
        )
        if given.shape != expected:
            raise EngineError(
                f"{self.path.name} gave an output of shape {given.shape}, expected {expected}; "
                "export the bundle again"
            )
        return frames_from_batch(given) if floating else given, vectors

    def _check_size(self, height: int, width: int) -> None:
        fixed = self.image.size
        if fixed is not None and padded_size(height, width, self.multiple) != tuple(fixed):
            found = size_text(height, width)
            raise ImageError(
                f"frame is {found}; the bundle was exported for {size_text(*fixed)}: "
                f"export again with --dynamic or --size {found}"
            )

    def _open(self) -> None:
        try:
            self._load()
        except MirnetEdgeError:
            self._close()
            raise
        except Exception as error:
            self._close()
            raise self._failure("could not open it", error) from error

    def _failure(self, what: str, error: Exception) -> EngineError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return EngineError(
            f"{self.path.name}: {self.name} {what}: {reason[:300]}. "
            "Try another --backend, or export the bundle again"
        )

    @abstractmethod
    def _load(self) -> None:
        """Load the file into the backend. May raise anything."""

    @abstractmethod
    def _infer(self, fed: NDArray[Any]) -> NDArray[Any]:
        """Run the graph once.

        Args:
            fed: What the graph takes, contiguous, with a batch of one: (1, H, W, 3) uint8, or
                (1, 3, H, W) float32 for `io="float"`.

        Returns:
            The same type, both sides times the scale; it may be overwritten by the next call.
        """

    def _infer_with_context(
        self, fed: NDArray[Any], given: Vectors, memory: Vectors
    ) -> tuple[NDArray[Any], Vectors]:
        """Run an anchored graph once.

        Args:
            fed: As for `_infer`.
            given: (1, vector_length), contiguous.
            memory: (1,).

        Returns:
            What `_infer` returns, and the vectors; both may be overwritten by the next call.
        """
        raise EngineError(
            f"{self.name} does not run anchored graphs. Choose another --backend, or export "
            "without --anchored"
        )
