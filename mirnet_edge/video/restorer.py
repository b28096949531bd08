"""Restore the frames of a video, with a configuration that can change between two frames."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.runner import placement_of
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.runtime.temporal_smoothing import SmoothingState, TemporalSmoother


class Restorer:
    """Restores frames with one of several configurations. For one thread; a reentrant context.

    Global context is smoothed over time, and reset at scene cuts, so that brightness does not
    flicker. A runner is opened when it is first chosen and stays open to the end, so that
    returning to it is quick.
    """

    def __init__(self, runners: Mapping[str, Callable[[], Runner]], first: str) -> None:
        """Store the configurations; `with` opens the first.

        Args:
            runners: A function that returns each configuration's runner, by its name. All runners
                have the same scale.
            first: The configuration to start with.

        Raises:
            OptionError: `first` is not one of them.
        """
        self._runners = dict(runners)
        self._check_name(first)
        self._configuration = first
        self._open: dict[str, TemporalSmoother] = {}
        self._depth = 0
        self._stack = ExitStack()
        self._placement = ""

    @property
    def placement(self) -> str:
        """Return what computed the last frame, as its backend told: devices, and their nodes.

        Empty before the first frame, and where the backend does not tell.
        """
        return self._placement

    @property
    def configuration(self) -> str:
        """Return the configuration in use."""
        return self._configuration

    @property
    def scale(self) -> int:
        """Return how many times higher and wider restored frames are; requires an open context."""
        return self._open_runner(self._configuration).scale

    @property
    def configurations(self) -> tuple[str, ...]:
        """Return the configurations that can be chosen."""
        return tuple(self._runners)

    def __enter__(self) -> Restorer:
        self._open_runner(self._configuration)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.close_runners()

    def close_runners(self) -> None:
        """Close all runners; those that are used again are opened again."""
        self._open.clear()
        self._stack.close()

    def choose(self, configuration: str) -> None:
        """Change to another configuration; on failure the former one stays in use.

        Raises:
            OptionError: There is no such configuration.
            MirnetEdgeError: It cannot be opened.
        """
        self._check_name(configuration)
        self._open_runner(configuration)
        self._configuration = configuration

    def restore(self, pixels: Frame) -> Frame:
        """Return the restored frame: a new array, (scale H, scale W, 3) uint8 RGB.

        Raises:
            MirnetEdgeError: The runner failed.
        """
        runner = self._open_runner(self._configuration)
        restored: Frame = runner.run(pixels[None])[0]
        self._placement = placement_of(runner)
        return restored

    @property
    def takes_floats(self) -> bool:
        """Return whether `restore_float` can be used; requires an open context."""
        return self._open_runner(self._configuration).takes_floats

    def restore_float(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the restored frame without rounding to 8 bits.

        Args:
            pixels: (H, W, 3) float32 RGB in [0, 1].

        Returns:
            A new array, (scale H, scale W, 3).

        Raises:
            MirnetEdgeError: The runner failed, or gives 8 bits alone.
        """
        restored: NDArray[np.float32] = self._open_runner(self._configuration).run_float(
            pixels[None]
        )[0]
        return restored

    def resize_unrestored(self, pixels: Frame) -> Frame:
        """Return the unrestored frame, enlarged to the size of a restored one."""
        scale = self._open_runner(self._configuration).scale
        if scale == 1:
            return pixels
        import cv2

        size = (scale * pixels.shape[1], scale * pixels.shape[0])
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    @property
    def smoothing_state(self) -> SmoothingState | None:
        """Return the state that the next frame is smoothed with; None at the start of a scene."""
        return self._open_runner(self._configuration).smoothing_state

    @smoothing_state.setter
    def smoothing_state(self, smoothing_state: SmoothingState | None) -> None:
        """Continue from the last frame of another run; requires an open context."""
        self._open_runner(self._configuration).smoothing_state = smoothing_state

    def _open_runner(self, configuration: str) -> TemporalSmoother:
        if configuration not in self._open:
            self._open[configuration] = self._stack.enter_context(
                smooth_over_time(self._runners[configuration]())
            )
        return self._open[configuration]

    def _check_name(self, configuration: str) -> None:
        if configuration not in self._runners:
            raise OptionError(
                f"expected a configuration of {', '.join(self._runners)}, found {configuration!r}"
            )


def single_runner_restorer(runner: Runner) -> Restorer:
    """Return a restorer with a single runner."""
    return Restorer({runner.name: lambda: runner}, runner.name)


def bundle_runners(
    bundle: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
) -> dict[str, Callable[[], Runner]]:
    """Return a bundle's accepted configurations that run here, each with a function to open it.

    The first is the one to start with; the others follow, fastest first.

    Args:
        bundle: The bundle's folder, or `shipped:NAME`.
        backend: The backend to start with, or auto.
        precision: The precision to start with, or auto.
        threads: Threads of the backend; None for its default.

    Raises:
        BundleError: The folder is no bundle, a file was changed, or no configuration runs here.
        EngineError: The backend cannot run here.
        OptionError: Unknown backend or precision, or less than one thread.
    """
    from mirnet_edge.runtime.bundle import (
        fitting_configurations,
        open_bundle,
        read_manifest_here,
    )
    from mirnet_edge.runtime.shipped import find_bundle

    first = open_bundle(bundle, backend, precision, threads=threads)
    runners: dict[str, Callable[[], Runner]] = {first.name: lambda: first}
    manifest = read_manifest_here(find_bundle(bundle), threads=threads)
    others = [one.name for one in fitting_configurations(manifest) if one.name not in runners]
    return runners | bundle_openers(bundle, others, threads)


def bundle_restorer(
    bundle: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
) -> Restorer:
    """Return a restorer with a bundle's configurations; see `bundle_runners`."""
    runners = bundle_runners(bundle, backend, precision, threads=threads)
    return Restorer(runners, next(iter(runners)))


def bundle_openers(
    bundle: str | Path, configurations: Iterable[str], threads: int | None
) -> dict[str, Callable[[], Runner]]:
    """Return a function to open each of a bundle's configurations, by name: `backend:precision`."""
    return {
        name: _bundle_opener(bundle, *name.split(":"), threads=threads) for name in configurations
    }


def _bundle_opener(
    bundle: str | Path, backend: str, precision: str, *, threads: int | None
) -> Callable[[], Runner]:
    from mirnet_edge.runtime.bundle import open_bundle

    return lambda: open_bundle(bundle, backend, precision, threads=threads)
