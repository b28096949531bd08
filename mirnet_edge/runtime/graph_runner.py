"""What every backend does alike: check, pad, infer, crop."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.errors import EngineError, ImageError, MirnetEdgeError, OptionError
from mirnet_edge.images import (
    batch_from_frames,
    check_frames,
    crop_to,
    frames_from_batch,
    pad_to_multiple,
    padded_size,
    size_text,
)
from mirnet_edge.runtime.runner import Opened, Vectors, check_anchors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import ImageContract, Precision


class GraphRunner(Opened):
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

    def run_anchored(
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
        check_anchors(frames, given, memory, self.vector_length)
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
                given, vectors = self._infer_anchored(fed, vectors, share)
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

    def _infer_anchored(
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
