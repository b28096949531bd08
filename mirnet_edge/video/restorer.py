"""Restoring the frames of a video: which runner is at work, and changing it between two frames."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.runtime.temporal_smoothing import SmoothingState, TemporalSmoother


class Restorer:
    """Restores frames by one of several runners. For one thread; can be opened twice.

    A runner is opened when it is first chosen and stays open to the end: going back is quick.
    """

    def __init__(self, runners: Mapping[str, Callable[[], Runner]], first: str) -> None:
        """Remember what can be chosen; `with` opens the first.

        Args:
            runners: What makes each runner, by the name of its mode. All of one scale.
            first: The mode to begin with.

        Raises:
            OptionError: `first` is none of them.
        """
        self._runners = dict(runners)
        self._check(first)
        self._mode = first
        self._open: dict[str, TemporalSmoother] = {}
        self._depth = 0
        self._stack = ExitStack()

    @property
    def mode(self) -> str:
        """Return the mode at work."""
        return self._mode

    @property
    def scale(self) -> int:
        """Return how many times higher and wider restored frames are; it must be open."""
        return self._opened(self._mode).scale

    @property
    def modes(self) -> tuple[str, ...]:
        """Return the modes that can be chosen."""
        return tuple(self._runners)

    def __enter__(self) -> Restorer:
        self._opened(self._mode)
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
            self._open.clear()
            self._stack.close()

    def choose(self, mode: str) -> None:
        """Go over to another mode; where that cannot be opened the former stays.

        Raises:
            OptionError: No such mode.
            MirnetEdgeError: It cannot be opened.
        """
        self._check(mode)
        self._opened(mode)
        self._mode = mode

    def restore(self, pixels: Frame) -> Frame:
        """Return a frame restored: a new array, (scale H, scale W, 3).

        Raises:
            MirnetEdgeError: The runner is not open, or failed.
        """
        restored: Frame = self._opened(self._mode).run(pixels[None])[0]
        return restored

    def passed(self, pixels: Frame) -> Frame:
        """Return a frame as it is, of the size that a restored one has."""
        scale = self._opened(self._mode).scale
        if scale == 1:
            return pixels
        import cv2

        size = (scale * pixels.shape[1], scale * pixels.shape[0])
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    @property
    def smoothing_state(self) -> SmoothingState | None:
        """Return what the next frame is smoothed with; None where it begins a scene."""
        return self._opened(self._mode).smoothing_state

    @smoothing_state.setter
    def smoothing_state(self, smoothing_state: SmoothingState | None) -> None:
        """Go on from a frame that another run ended with; it must be open."""
        self._opened(self._mode).smoothing_state = smoothing_state

    def _opened(self, mode: str) -> TemporalSmoother:
        if mode not in self._open:
            self._open[mode] = self._stack.enter_context(wrap_runner(self._runners[mode]()))
        return self._open[mode]

    def _check(self, mode: str) -> None:
        if mode not in self._runners:
            raise OptionError(
                f"expected a mode of {', '.join(self._runners) or 'none'}, found {mode!r}"
            )


def single_runner_restorer(runner: Runner) -> Restorer:
    """Return a restorer that has one runner."""
    return Restorer({runner.name: lambda: runner}, runner.name)


def wrap_runner(runner: Runner) -> TemporalSmoother:
    """Return the runner as video needs it: the one place where every runner of a video passes.

    What it decides for the whole frame is smoothed over time and forgotten at cuts: no flicker.
    """
    return smooth_over_time(runner)


def bundle_runners(
    bundle: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
) -> dict[str, Callable[[], Runner]]:
    """Return what makes the runner of each mode of a bundle that was accepted and runs here.

    The first is the one to begin with; the others follow from the fastest to the slowest.

    Args:
        bundle: The bundle's folder.
        backend: The backend to begin with, or auto.
        precision: The precision to begin with, or auto.
        threads: How many the backend may use; None leaves it to the backend.

    Raises:
        BundleError: No bundle, a changed file, or no mode that fits.
        EngineError: The backend is tensorrt.
        OptionError: No such backend or precision, or less than one thread.
    """
    from pathlib import Path

    from mirnet_edge.manifest import read_manifest
    from mirnet_edge.runtime.bundle import fitting_configurations, open_bundle

    first = open_bundle(bundle, backend, precision, threads=threads)
    runners: dict[str, Callable[[], Runner]] = {first.name: lambda: first}
    for mode in fitting_configurations(read_manifest(Path(bundle))):
        if mode.name not in runners:
            runners[mode.name] = _opener(bundle, mode.backend, mode.precision, threads)
    return runners


def bundle_restorer(
    bundle: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
) -> Restorer:
    """Return a restorer with the modes of a bundle; see `bundle_runners`."""
    runners = bundle_runners(bundle, backend, precision, threads=threads)
    return Restorer(runners, next(iter(runners)))


def _opener(
    bundle: str | Path, backend: str, precision: str, threads: int | None
) -> Callable[[], Runner]:
    from mirnet_edge.runtime.bundle import open_bundle

    return lambda: open_bundle(bundle, backend, precision, threads=threads)
