"""Restore with a weights file and no bundle: its network in torch, within a limit of memory.

    weights ─ open_weights ─► WeightsRunner ─ plan ─► the whole frame, or tiles as large as fit

The full networks keep kilobytes of activations for each pixel, 50 GB for a photo of 12 megapixels.
So what a pass takes is predicted from the network's activations, and the tiles are chosen, before
anything is computed. Tiles share the frame's global context (`runtime.tiling`); how much they
overlap is measured on the first frame that is cut.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.images.contract import check_float_frames, check_frames, padded_size, size_text
from mirnet_edge.manifest import ImageContract
from mirnet_edge.memory import available_memory, resident_memory
from mirnet_edge.runtime.backends import AUTO
from mirnet_edge.runtime.runner import RunnerWrapper
from mirnet_edge.runtime.tiling import TileAxis, TiledRunner, tile_runner
from mirnet_edge.runtime.torch_runner import BACKEND, TorchRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from mirnet_edge.checkpoints import LoadedCheckpoint
    from mirnet_edge.images.contract import FloatFrames, Frames
    from mirnet_edge.manifest import Precision
    from mirnet_edge.runtime.runner import ContextVectors, Runner

# Resident memory of a pass over the sum of its activations, for what the allocator and convolutions
# keep beside: 1.1 to 1.85 for one block of MIRNet and of Keras MIRNet, 16 and 64 channels, 192x192
# to 512x512 (torch 2.13, glibc, 2026-11).
_OVERHEAD = 1.5
# Of each pixel of an image: itself, its result, and copies of both.
_IMAGE_BYTES = 32
_UNKNOWN_MEMORY = 4 << 30
_PROBE_MULTIPLES = 16  # the side of the frame whose activations are counted
_TIMED_SIDE = 64
# (height, width) of what the reach is measured on, and where it is cut: a second of a full network
_REACH_STRIP, _REACH_CUT = (64, 256), 128


@dataclass(frozen=True, kw_only=True)
class FramePlan:
    """How a frame is restored, and what that is predicted to take."""

    size: tuple[int, int]
    """(height, width) of the frame, padded to the network's multiple."""
    tile: tuple[int, int]
    """(height, width) of its tiles; its own for one pass over the whole frame."""
    tiles: int
    overlap: int
    """Least overlap of neighboring tiles, in pixels."""
    pixels: int
    """Of all passes together, those that compute the frame's context among them."""
    pass_bytes: int
    """Predicted memory of the largest pass."""
    peak_bytes: int | None
    """Predicted peak of the process's resident memory; None where the system does not report it."""
    seconds: float | None
    """Predicted, from a pass over a small frame; None where it was not measured."""

    def describe(self) -> str:
        """Return the plan in one line for people."""
        how = "as a whole"
        if self.tiles > 1:
            how = f"in {self.tiles} tiles of {size_text(*self.tile)}, overlap {self.overlap}"
        memory = f"{self.pass_bytes / 2**20:.0f} MiB for activations"
        if self.peak_bytes is not None:
            memory += f", {self.peak_bytes / 2**20:.0f} MiB in all"
        taken = "" if self.seconds is None else f"; about {_duration_text(self.seconds)}"
        return f"{size_text(*self.size)} {how}; predicted memory {memory}{taken}"


class PassObserver(Protocol):
    """Receives how a frame is going to be restored, and its progress."""

    def on_plan(self, plan: FramePlan) -> None:
        """Take the plan of a frame, before its first pass."""

    def on_pixels(self, done: int, total: int) -> None:
        """Take how many pixels the passes have restored, of those of the plan."""


def open_weights(
    weights: str,
    key: str | None = None,
    *,
    backend: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    tile: tuple[int, int] | Literal["auto"] | None = None,
    max_memory_mib: int | None = None,
    compiled: bool = False,
) -> WeightsRunner:
    """Return a runner for a weights file: on an NVIDIA GPU where torch has one, else on the CPU.

    The weights are loaded, and nothing is computed yet.

    Args:
        weights: What `checkpoints.load` takes.
        key: Which set of weights of several in the file; see `checkpoints.load`.
        backend: auto or torch.
        precision: fp32, bf16, fp16, or auto: fp16 on a GPU, fp32 on a CPU.
        threads: At most, on a CPU; None leaves it to torch.
        tile: (height, width) of the tiles of larger frames; None or "auto" for the largest that
            the memory allows.
        max_memory_mib: Memory limit of a pass; None for half of what is available when a frame
            is restored.
        compiled: As `TorchRunner` takes it.

    Raises:
        MissingDependencyError: torch is not installed.
        CheckpointError: The weights cannot be loaded, or restore something else than RGB.
        OptionError: Another backend or precision, or a value that makes no sense.
    """
    if backend not in (AUTO, BACKEND.name):
        raise OptionError(
            f"weights run in {BACKEND.name}, found --backend {backend}: leave it out, or make a "
            f"bundle for it: mirnet export --weights {weights}"
        )
    if precision not in (AUTO, *BACKEND.precisions):
        raise OptionError(
            f"weights run in {', '.join(BACKEND.precisions)}, found --precision {precision}: "
            f"choose one of them, or make a bundle: mirnet export --weights {weights} --int8"
        )
    torch = BACKEND.require()
    from mirnet_edge import checkpoints

    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen: Any = precision
    if precision == AUTO:
        chosen = "fp16" if device == "cuda" else "fp32"
    network = _NetworkRunner(
        checkpoints.load(weights, key),
        checkpoints.resolve(weights),
        precision=chosen,
        device=device,
        threads=threads,
        compiled=compiled,
    )
    fixed = None if isinstance(tile, str) else tile
    return WeightsRunner(network, tile=fixed, max_memory_mib=max_memory_mib)


class _NetworkRunner(TorchRunner):
    """The network of a weights file in its inference form, with global context in and out."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        path: Path,
        *,
        precision: Precision,
        device: str,
        threads: int | None,
        compiled: bool,
    ) -> None:
        from mirnet_edge.models.global_context import ContextAnchoredNetwork
        from mirnet_edge.models.inference_form import ContextFrameInterface, to_inference_form

        config: Any = loaded.model.config
        channels = getattr(config, "in_channels", 3)
        if channels != 3:
            raise CheckpointError(
                f"{path} restores images of {channels} channels; expected a network of RGB images. "
                "Choose other weights"
            )
        self.anchored = ContextAnchoredNetwork(to_inference_form(loaded.model)).eval()
        self.interface = ContextFrameInterface(self.anchored, "uint8")
        image = ImageContract(
            io="uint8", multiple=self.anchored.multiple, size=None,
            scale=int(getattr(config, "scale", 1)), vectors=self.anchored.layout,
        )  # fmt: skip
        name = f"{BACKEND.name}:{precision}"
        super().__init__(
            path, image, name=name, precision=precision, device=device, threads=threads,
            compiled=compiled,
        )  # fmt: skip
        self.notice = loaded.notice
        self.device = device
        self.pixels = 0
        """Of the passes so far."""
        self.on_pass: Callable[[], None] = lambda: None
        """Called after each pass."""

    def _make_network(self) -> nn.Module:
        return self.interface

    def _compute(self, *inputs: NDArray[Any]) -> Any:  # noqa: ANN401  # one tensor, or two
        computed = super()._compute(*inputs)
        self._count(inputs[0])
        return computed

    def _infer_levels(
        self, levels: FloatFrames, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> FloatFrames:
        restored = super()._infer_levels(levels, context_in, weight)
        self._count(levels)
        return restored

    def _count(self, frames: NDArray[Any]) -> None:
        self.pixels += frames.shape[1] * frames.shape[2]
        self.on_pass()


class WeightsRunner(RunnerWrapper):
    """Restores frames of any size with a network in torch; see `open_weights`."""

    def __init__(
        self,
        network: _NetworkRunner,
        *,
        tile: tuple[int, int] | None,
        max_memory_mib: int | None,
    ) -> None:
        """Take the network, and the tile size or the memory limit, where given."""
        super().__init__(network)
        self._network = network
        tile_runner(network, tile=tile, max_memory_mib=max_memory_mib)  # refuses what it would
        self._tile = tile
        self._max_memory_mib = max_memory_mib
        self._bytes_per_pixel: float | None = None
        self._seconds_per_pixel: float | None = None
        self.observer: PassObserver | None = None

    @property
    def notice(self) -> str | None:
        """Return the terms of the weights to tell the user, None for none."""
        return self._network.notice

    @property
    def context_length(self) -> int:
        """Return how many numbers a frame's context vectors hold."""
        return self._network.context_length

    takes_floats = True

    def run(self, frames: Frames) -> Frames:
        """Restore frames.

        Args:
            frames: (N, H, W, 3) uint8 RGB of any size.

        Returns:
            A new array, (N, scale H, scale W, 3), which belongs to the caller.

        Raises:
            ImageError: Not such frames.
            EngineError: Used outside `with`, or torch failed.
            OptionError: The memory limit allows no tile larger than the overlap.
        """
        check_frames(frames)
        return self._planned(frames).run(frames)

    def run_with_context(
        self, frames: Frames, context_in: ContextVectors | None, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        """Restore frames as `ContextRunner` does.

        Raises:
            MirnetEdgeError: As for `run`, or the vectors or the smoothing weight do not fit.
        """
        check_frames(frames)
        return self._planned(frames).run_with_context(frames, context_in, smoothing_weight)

    def run_float(
        self, frames: FloatFrames, context_in: ContextVectors | None = None
    ) -> FloatFrames:
        """Restore frames as `FloatRunner` does.

        Raises:
            MirnetEdgeError: As for `run`.
        """
        check_float_frames(frames)
        return self._planned(frames).run_float(frames, context_in)

    @property
    def bytes_per_pixel(self) -> float:
        """Return the predicted memory of a pass for each of its pixels."""
        if self._bytes_per_pixel is None:
            import torch

            from mirnet_edge.models.memory import peak_activation_bytes

            side = _PROBE_MULTIPLES * self.multiple
            frame = torch.zeros(1, side, side, 3, dtype=torch.uint8, device="meta")
            context = torch.zeros(1, self.context_length), torch.zeros(1)
            counted = peak_activation_bytes(self._network.interface, frame, *context)
            self._bytes_per_pixel = _OVERHEAD * counted / side**2
        return self._bytes_per_pixel

    def plan(self, frames: Frames | FloatFrames) -> FramePlan:
        """Return how frames are restored, one after the other.

        The first frame that needs tiles is used to measure how much they must overlap; the first
        of all, where there is an observer, to time a small pass.

        Args:
            frames: As `run` or `run_float` take them.

        Raises:
            EngineError: Used outside `with`.
            OptionError: The memory limit allows no tile larger than the overlap.
        """
        height, width = padded_size(frames.shape[1], frames.shape[2], self.multiple)
        whole = (height, width)
        limit = self._limit_bytes()
        affordable = int(limit / self.bytes_per_pixel)
        overlap, tile = 0, whole
        if self._tile is not None or height * width > affordable:
            overlap = 2 * self._reach(frames)
            tile = self._tile_of(whole, affordable)
            least = overlap + self.multiple
            if self._tile is None and any(
                side < min(least, length) for side, length in zip(tile, whole, strict=True)
            ):
                raise OptionError(self._too_small(limit, tile, least))
            if self._tile is None:
                tile = self._shrink(whole, tile, overlap)
        down, across = self._axes(whole, tile, overlap)
        tiles = len(down.origins) * len(across.origins)
        pixels = tiles * math.prod(tile)
        if tiles > 1:
            measured = self._axes(whole, tile, 0)
            pixels += math.prod(len(one.origins) for one in measured) * math.prod(tile)
        pass_bytes = int(self.bytes_per_pixel * math.prod(tile))
        peak = None if self._network.device != "cpu" else resident_memory()
        if peak is not None:
            peak += pass_bytes + _IMAGE_BYTES * math.prod(whole)
        return FramePlan(
            size=whole,
            tile=tile,
            tiles=tiles,
            overlap=overlap,
            pixels=pixels * len(frames),
            pass_bytes=pass_bytes,
            peak_bytes=peak,
            seconds=self._seconds(pixels * len(frames)),
        )

    def _planned(self, frames: Frames | FloatFrames) -> _NetworkRunner | TiledRunner:
        """Return the runner for frames of this size, after telling the observer of the plan."""
        plan = self.plan(frames)
        if self.observer is not None:
            self._watch(self.observer, plan)
        if plan.tiles == 1:
            return self._network
        return tile_runner(self._network, tile=plan.tile, overlap=plan.overlap)

    def _watch(self, observer: PassObserver, plan: FramePlan) -> None:
        before = self._network.pixels
        observer.on_plan(plan)
        self._network.on_pass = lambda: observer.on_pixels(
            min(plan.pixels, self._network.pixels - before), plan.pixels
        )

    def _shrink(
        self, whole: tuple[int, int], tile: tuple[int, int], overlap: int
    ) -> tuple[int, int]:
        """Return the smallest tiles of which as many cover the frame, so that fewer pixels do."""
        counts = [len(one.origins) for one in self._axes(whole, tile, overlap)]
        tall, wide = (
            -(-(length + (count - 1) * overlap) // count)
            for length, count in zip(whole, counts, strict=True)
        )
        tall, wide = padded_size(tall, wide, self.multiple)
        return min(tall, tile[0]), min(wide, tile[1])

    def _limit_bytes(self) -> int:
        if self._max_memory_mib is not None:
            return self._max_memory_mib << 20
        if self._network.device == "cpu":
            available = available_memory()
        else:
            import torch

            available = torch.cuda.mem_get_info()[0]
        return (_UNKNOWN_MEMORY if available is None else available) // 2

    def _tile_of(self, whole: tuple[int, int], affordable: int) -> tuple[int, int]:
        """Return the (height, width) of a frame's tiles: the given ones or the largest that fit."""
        if self._tile is None:
            return _largest_tile(whole, affordable, self.multiple)
        tall, wide = padded_size(*self._tile, self.multiple)
        return min(tall, whole[0]), min(wide, whole[1])

    def _axes(
        self, size: tuple[int, int], tile: tuple[int, int], overlap: int
    ) -> tuple[TileAxis, TileAxis]:
        multiple = self.multiple
        return (
            TileAxis.of(size[0], tile[0], overlap, multiple),
            TileAxis.of(size[1], tile[1], overlap, multiple),
        )

    def _reach(self, frames: Any) -> int:  # noqa: ANN401  # of levels or floats
        """Return how far the network sees, measured once, rounded up to its multiple."""
        image = self._network.image
        if image.reach is None:
            from mirnet_edge.models.reach import measure_reach

            frame = frames[:1]
            if frame.dtype != np.uint8:
                frame = np.rint(255.0 * frame.clip(0.0, 1.0)).astype(np.uint8)
            reach = measure_reach(
                self._network.anchored, [frame], strip=_REACH_STRIP, cuts=(_REACH_CUT,),
                both_ways=False,
            )  # fmt: skip
            reach = -(-reach // self.multiple) * self.multiple
            self._network.image = image.model_copy(update={"reach": reach})
            return reach
        return image.reach

    def _seconds(self, pixels: int) -> float | None:
        """Return the predicted seconds of passes over so many pixels."""
        if self.observer is None or self._network.compiled:  # each size would be compiled
            return None
        if self._seconds_per_pixel is None:
            side = -(-_TIMED_SIDE // self.multiple) * self.multiple
            frame = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
            for _ in range(2):  # the first makes the one-time allocations
                started = time.perf_counter()
                self._network.run(frame)
                self._seconds_per_pixel = (time.perf_counter() - started) / side**2
        return pixels * (self._seconds_per_pixel or 0.0)

    def _too_small(self, limit: int, tile: tuple[int, int], least: int) -> str:
        mebibytes = math.ceil(least**2 * self.bytes_per_pixel / (1 << 20))
        return (
            f"{limit >> 20} MiB of memory allow tiles of {size_text(*tile)} at "
            f"{self.bytes_per_pixel / 1024:.1f} KiB a pixel; expected at least "
            f"{size_text(least, least)}. Give --max-memory {mebibytes} or more"
        )


def as_weights_runner(runner: Runner) -> WeightsRunner | None:
    """Return the runner of weights inside a runner, None where there is none."""
    while not isinstance(runner, WeightsRunner):
        if not isinstance(runner, RunnerWrapper):
            return None
        runner = runner.runner
    return runner


def _largest_tile(size: tuple[int, int], pixels: int, multiple: int) -> tuple[int, int]:
    """Return the (height, width) of at most so many pixels that is nearest to a square."""
    side = math.isqrt(pixels)
    short = min(side, *size)
    other = pixels // max(1, short)
    tall, wide = (short, other) if size[0] <= size[1] else (other, short)
    return tall // multiple * multiple, wide // multiple * multiple


def _duration_text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
