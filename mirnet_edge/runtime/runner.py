"""The runner interface, frames in and frames out, and the base class of all backends' runners."""

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
    check_float_frames,
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

    from mirnet_edge.images.contract import Batch, FloatFrames, Frames
    from mirnet_edge.manifest import ImageContract, Precision

ContextVectors: TypeAlias = NDArray[np.float32]
"""(N, G): the global context vectors of N frames, concatenated; see `ImageContract.vectors`."""

_Self = TypeVar("_Self", bound="ReentrantContext")
_Wrapper = TypeVar("_Wrapper", bound="RunnerWrapper")


class Runner(Protocol):
    """Restores frames. Constructing one is cheap; `with` opens it and closes it at the end.

    The same runner can be opened again, and opened twice: the last exit closes it. It is for one
    thread at a time.
    """

    @property
    def name(self) -> str:
        """Return `backend:precision`."""

    @property
    def multiple(self) -> int:
        """Return what the sides of frames are padded to a multiple of."""

    @property
    def scale(self) -> int:
        """Return how many times higher and wider restored frames are."""

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
    """A runner of a context-anchored graph: takes and gives global context vectors."""

    @property
    def context_length(self) -> int:
        """Return how many numbers a frame's context vectors hold; 0 where it takes frames alone."""

    def run_with_context(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore frames with a weighted mean of their own context vectors and those given.

        Args:
            frames: As `run` takes them.
            context_in: (N, context_length), finite; None for a smoothing weight of 0.
            smoothing_weight: From 0, the frames' own vectors, to 1, `context_in`.

        Returns:
            What `run` returns, and the context vectors used, which belong to the caller.
        """


def as_context_runner(runner: Runner) -> ContextRunner | None:
    """Return the runner if it takes context vectors, else None."""
    if getattr(runner, "context_length", 0):
        return cast("ContextRunner", runner)
    return None


class FloatRunner(Runner, Protocol):
    """A runner that also takes and gives frames of more than 8 bits."""

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Restore frames without rounding to 8 bits, neither before the network nor after it.

        Args:
            frames: (N, H, W, 3) float32 RGB in [0, 1] of any size.
            context_in: (N, context_length), used in place of the frames' own context vectors; None
                for their own.

        Returns:
            A new array, (N, scale H, scale W, 3) in [0, 1], which belongs to the caller.
        """


def placement_of(runner: Runner) -> str:
    """Return what computes an open runner's graph, where its backend tells; else an empty text.

    OpenVINO compiles a graph for the first frame of a size, and tells after that.
    """
    while isinstance(runner, RunnerWrapper):
        runner = runner.runner
    return str(getattr(runner, "placement", ""))


def as_float_runner(runner: Runner) -> FloatRunner | None:
    """Return the runner if it takes frames of more than 8 bits, else None."""
    if getattr(runner, "takes_floats", False):
        return cast("FloatRunner", runner)
    return None


def check_context(
    frames: Frames | FloatFrames,
    context_in: ContextVectors | None,
    smoothing_weight: float,
    context_length: int,
) -> None:
    """Refuse context vectors and a smoothing weight that `run_with_context` cannot use.

    Raises:
        OptionError: The smoothing weight lies outside [0, 1], or the vectors do not fit or are not
            finite.
    """
    if not 0.0 <= smoothing_weight <= 1.0:
        raise OptionError(
            f"the smoothing weight must lie in [0, 1], found {smoothing_weight:g}; 0 takes a "
            "frame's own context vectors, 1 those given"
        )
    if context_in is None:
        if smoothing_weight > 0.0:
            raise OptionError(
                f"the smoothing weight is {smoothing_weight:g} and no context vectors are given; "
                "give those that the last call returned, or a smoothing weight of 0"
            )
        return
    expected = (len(frames), context_length)
    if context_in.shape != expected or not np.isfinite(context_in).all():
        raise OptionError(
            f"expected finite vectors of shape {expected}, found {context_in.shape}"
            f"{'' if context_in.shape != expected else ' with a value that is not finite'}; "
            "give those that the last call returned"
        )


class ReentrantContext(ABC):
    """A context manager that can be entered repeatedly: the first opens, the last exit closes."""

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
    """A runner that wraps another: has its name and sizes, and is opened and closed with it."""

    def __init__(self, runner: Runner) -> None:
        """Wrap a runner, open or not."""
        self.runner = runner

    @property
    def name(self) -> str:
        """Return the name of the wrapped runner."""
        return self.runner.name

    @property
    def multiple(self) -> int:
        """Return that of the runner inside."""
        return self.runner.multiple

    @property
    def scale(self) -> int:
        """Return that of the runner inside."""
        return self.runner.scale

    def __enter__(self: _Wrapper) -> _Wrapper:
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

# Every 16th pixel is compared first: comparing all of them takes longer.
_STRIDE = 16


class BrokenFrames:
    """Replaces broken frames by their source, counts them, and warns once.

    fp16 activations that overflow become NaN. Global pooling spreads one NaN over the frame, and
    the cast to 8 bits turns it into one color: a frame of one color is broken, unless its source
    is of one color too.
    """

    def __init__(self, name: str, scale: int) -> None:
        """Prepare for the frames of one runner.

        Args:
            name: The runner's, for the warning.
            scale: How many times higher and wider restored frames are.
        """
        self._name, self._scale = name, scale
        self.count = 0

    def replace(self, source: Frames, restored: Frames, *, is_finite: bool = True) -> Frames:
        """Return RESTORED, or SOURCE at its size where RESTORED is broken.

        Args:
            source: (1, H, W, 3) uint8.
            restored: (1, scale H, scale W, 3) uint8.
            is_finite: False where the network's floats hold NaN or infinity.
        """
        if is_finite and not self._is_of_one_color(source, restored):
            return restored
        self.count += 1
        if self.count == 1:
            logger.warning(
                "%s gave a broken frame (NaN, or one color all over); the source frame is shown "
                "instead, and counted. Try --precision fp32",
                self._name,
            )
        enlarged: Frames = source.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        return enlarged

    def _is_of_one_color(self, source: Frames, restored: Frames) -> bool:
        sparse = restored[:, ::_STRIDE, ::_STRIDE]
        if sparse.min() != sparse.max() or restored.min() != restored.max():
            return False
        return bool(source.min() != source.max())


class GraphRunner(ReentrantContext):
    """Base class of the backends' runners: a subclass loads a file of the bundle and infers.

    This class checks, pads, converts and crops. Frames are inferred one at a time: on a processor
    a batch is not faster, it needs memory for all its frames, and a graph of fixed size takes one.
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
            image: The graph's inputs and outputs.
            name: Of this runner in messages and reports.
            precision: To compute in.
            threads: At most; None leaves it to the backend.

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
        self._inference_span_s = (0.0, 0.0)
        self.stages_s = (0.0, 0.0, 0.0)
        """Seconds of the last run before, in and after the network."""
        self.placement = ""
        """What computes the open graph, where the backend tells: devices, and their nodes."""

    @property
    def name(self) -> str:
        """Return `backend:precision`."""
        return self._name

    @property
    def multiple(self) -> int:
        """Return what the sides of frames are padded to a multiple of."""
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
    def context_length(self) -> int:
        """Return how many numbers a frame's context vectors hold; 0 where it takes frames alone."""
        return self.image.context_length

    def run_with_context(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore frames with a weighted mean of their own context vectors and those given.

        Args:
            frames: As for `run`.
            context_in: (N, context_length), finite; None for a smoothing weight of 0.
            smoothing_weight: From 0, the frames' own vectors, to 1, `context_in`.

        Returns:
            What `run` returns, and the context vectors used; both belong to the caller.

        Raises:
            ImageError: As for `run`.
            EngineError: As for `run`, or the graph takes frames alone.
            OptionError: The smoothing weight lies outside [0, 1], or the vectors do not fit.
        """
        if not self.context_length:
            raise EngineError(
                f"{self.path.name} takes no context vectors; expected a graph of a bundle made "
                "with mirnet-export --anchored"
            )
        check_frames(frames)
        check_context(frames, context_in, smoothing_weight, self.context_length)
        return self._run(frames, context_in, smoothing_weight)

    def _run(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        self._require_open(self.name)
        check_frames(frames)
        count, height, width = frames.shape[:3]
        self._check_size(height, width)
        tall, wide = self.scale * height, self.scale * width
        restored = np.empty((count, tall, wide, 3), np.uint8)
        context = np.zeros((count, self.context_length), np.float32)
        if context_in is not None:
            context[:] = context_in
        before = network = after = 0.0
        for place in range(count):
            started = time.perf_counter()
            padded = pad_to_multiple(frames[place : place + 1], self.multiple)
            one, used = self._restore(padded, context[place : place + 1], smoothing_weight)
            restored[place] = crop_to(one, tall, wide)[0]
            context[place] = used
            entered, left = self._inference_span_s
            before, network = before + entered - started, network + left - entered
            after += time.perf_counter() - left
        self.stages_s = (before, network, after)
        return restored, context

    takes_floats: bool = False
    """Whether `run_float` can be used: a subclass that sets it has `_infer_levels`."""

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Restore frames without rounding to 8 bits, neither before the network nor after it.

        A graph of uint8 frames is opened a second time without its rounding, on first use.

        Args:
            frames: (N, H, W, 3) float32 RGB in [0, 1], as for `run`.
            context_in: (N, context_length), used in place of the frames' own context vectors; None
                for their own, and for graphs that take frames alone.

        Returns:
            A new array, (N, scale H, scale W, 3) in [0, 1], which belongs to the caller.

        Raises:
            ImageError: As for `run`.
            EngineError: As for `run`, or the backend gives 8 bits alone.
            OptionError: The context vectors do not fit.
        """
        self._require_open(self.name)
        check_float_frames(frames)
        smoothing_weight = 0.0 if context_in is None else 1.0
        check_context(frames, context_in, smoothing_weight, self.context_length)
        count, height, width = frames.shape[:3]
        self._check_size(height, width)
        tall, wide = self.scale * height, self.scale * width
        restored = np.empty((count, tall, wide, 3), np.float32)
        for place in range(count):
            padded = pad_to_multiple(frames[place : place + 1], self.multiple)
            context = np.zeros((1, self.context_length), np.float32)
            if context_in is not None:
                context[:] = context_in[place]
            one = self._restore_float(padded, context, smoothing_weight)
            restored[place] = crop_to(one, tall, wide)[0]
        np.nan_to_num(restored, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        return np.clip(restored, 0.0, 1.0, out=restored)

    def _restore_float(
        self, padded: FloatFrames, context: ContextVectors, smoothing_weight: float
    ) -> FloatFrames:
        """Return (1, scale H, scale W, 3) of (1, H, W, 3) whose sides fit."""
        if self.image.io == "float":
            inputs = padded.transpose(0, 3, 1, 2)
            output = self._infer_checked(np.ascontiguousarray(inputs), context, smoothing_weight)[0]
            channels_last: FloatFrames = output.transpose(0, 2, 3, 1)
            return channels_last
        levels = padded * np.float32(255.0)
        weight = np.full(1, smoothing_weight, np.float32)
        try:
            output = self._infer_levels(levels, context, weight)
        except MirnetEdgeError:
            raise
        except Exception as error:  # each backend has its own kinds
            size = size_text(*padded.shape[1:3])
            raise self._failure(f"could not run it on a {size} frame", error) from error
        self._check_output(output, levels.shape, (1, 2))
        restored: FloatFrames = output * np.float32(1 / 255)
        return restored

    def infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Run the graph once on its own input: nothing is checked, padded or converted.

        Args:
            inputs: Contiguous, with a batch of one.

        Returns:
            The graph's output; it may be overwritten by the next call.

        Raises:
            EngineError: Used outside `with`.
        """
        self._require_open(self.name)
        return self._infer(inputs)

    def _restore(
        self, padded: Frames, context: ContextVectors, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Return (1, scale H, scale W, 3) uint8 of (1, H, W, 3) uint8 whose sides fit."""
        is_float = self.image.io == "float"
        inputs = batch_from_frames(padded) if is_float else np.ascontiguousarray(padded)
        output, context = self._infer_checked(inputs, context, smoothing_weight)
        return frames_from_batch(output) if is_float else output, context

    def _infer_checked(
        self, inputs: Frames | Batch, context: ContextVectors, smoothing_weight: float
    ) -> tuple[NDArray[Any], ContextVectors]:
        """Return the graph's output for its own input, of the right shape."""
        is_float = self.image.io == "float"
        sides = (2, 3) if is_float else (1, 2)
        started = time.perf_counter()
        try:
            if self.context_length:
                weight = np.full(1, smoothing_weight, np.float32)
                output, context = self._infer_with_context(inputs, context, weight)
            else:
                output = self._infer(inputs)
        except MirnetEdgeError:
            raise
        except Exception as error:  # each backend has its own kinds
            size = size_text(*(inputs.shape[side] for side in sides))
            raise self._failure(f"could not run it on a {size} frame", error) from error
        self._inference_span_s = (started, time.perf_counter())
        self._check_output(output, inputs.shape, sides)
        return output, context

    def _check_output(
        self, output: NDArray[Any], shape: tuple[int, ...], sides: tuple[int, int]
    ) -> None:
        """Refuse an output that is not as large as the input of that shape asks for."""
        expected = tuple(
            self.scale * side if axis in sides else side for axis, side in enumerate(shape)
        )
        if output.shape != expected:
            raise EngineError(
                f"{self.path.name} gave an output of shape {output.shape}, expected {expected}; "
                "export the bundle again"
            )

    def _check_size(self, height: int, width: int) -> None:
        fixed = self.image.size
        if fixed is not None and padded_size(height, width, self.multiple) != tuple(fixed):
            found = size_text(height, width)
            raise ImageError(
                f"frame is {found}; {self.path.name} was exported for {size_text(*fixed)}: export "
                f"again with --size {found}, or with --dynamic for ONNX graphs of any size"
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
    def _infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Run the graph once.

        Args:
            inputs: Contiguous, with a batch of one: (1, H, W, 3) uint8, or (1, 3, H, W) float32
                for `io="float"`.

        Returns:
            The same type, both sides times the scale; it may be overwritten by the next call.
        """

    def _infer_levels(
        self, levels: FloatFrames, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> FloatFrames:
        """Run a graph of uint8 frames once on floats, without its rounding.

        Args:
            levels: (1, H, W, 3), RGB from 0 to 255.
            context_in: (1, context_length); of length 0 for a graph that takes frames alone.
            weight: (1,), the smoothing weight.

        Returns:
            The restored levels, both sides times the scale; they may be overwritten by the next
            call.
        """
        raise EngineError(
            f"{self.name} gives 8 bits alone. Choose --backend onnxruntime, openvino or torch"
        )

    def _infer_with_context(
        self, inputs: NDArray[Any], context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], ContextVectors]:
        """Run a context-anchored graph once.

        Args:
            inputs: As for `_infer`.
            context_in: (1, context_length), contiguous.
            weight: (1,), the smoothing weight.

        Returns:
            What `_infer` returns, and the context vectors used; both may be overwritten by the
            next call.
        """
        raise EngineError(
            f"{self.name} does not run context-anchored graphs. Choose another --backend, or "
            "export without --anchored"
        )
