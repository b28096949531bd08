"""Live video in a program: `stream()` and an OpenCV-like capture class."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.dependencies import advice, available
from mirnet_edge.errors import BundleError, MissingDependencyError
from mirnet_edge.manifest import FILE_NAME, read_manifest
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.sources import open_source
from mirnet_edge.video.restorer import bundle_restorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.sources import Source

DEFAULT_WEIGHTS = "shipped:low-light"


def shipped_bundle(
    weights: str = DEFAULT_WEIGHTS,
    *,
    cache: Path | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> Path:
    """Return the folder of a bundle of shipped weights, exported on first use.

    It is of this machine (its modes are timed here) and of this version of the package. Its
    graphs take and give the vectors that are smoothed over time. INT8 is among them where NNCF is
    installed; whether it runs is the gate's word.

    Args:
        weights: The name of shipped weights.
        cache: The folder to keep it in; None for the user's cache.
        on_stage: Told in a few words what is being done, where anything is.

    Raises:
        MissingDependencyError: There is none yet, and what makes one is not installed.
        MirnetEdgeError: The cache cannot be written.
    """
    int8 = available("nncf")
    modes = "anchored-int8" if int8 else "anchored"
    name = f"{weights.removeprefix('shipped:')}-{modes}-{version('mirnet-edge')}"
    folder = (cache or user_cache()) / "bundles" / name
    if (folder / FILE_NAME).is_file():
        try:
            read_manifest(folder)
        except BundleError:
            pass  # of another schema, or cut off by a full disk: made anew below
        else:
            return folder
    if not (available("torch") and available("onnx")):
        raise MissingDependencyError(
            f"no bundle was named, and making one of {weights} needs packages that are not "
            f"installed: give --bundle DIR (made elsewhere by mirnet-export), or {advice('torch')}"
        )
    from mirnet_edge.export.job import export_bundle
    from mirnet_edge.export.workspace import ExportOptions

    on_stage(f"making a bundle of {weights} in {folder}, once")
    options = ExportOptions(weights=weights, out=folder, target="cpu", anchored=True, int8=int8)
    export_bundle(options, on_stage)
    return folder


def user_cache() -> Path:
    """Return this package's folder in the user's cache, where the system keeps that."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "mirnet-edge"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mirnet-edge"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mirnet-edge"


def stream(
    source: str | int | Source,
    bundle: str | Path | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> Iterator[DisplayedFrame]:
    """Yield the newest frame, restored, each time it is asked for one.

    A file is shown at its own pace, as a camera would: frames for which the loop is too slow are
    dropped, and `figures.dropped` counts them. `video.files.restoring.restore_video` drops none.

    Args:
        source: As `mirnet-webcam --source` takes it, a camera's number, or a `Source`.
        bundle: A bundle's folder; None for one of the shipped weights, made on first use.
        size: (height, width) of the frames, where the source can choose.

    Yields:
        `before.pixels` and `after`, (H, W, 3) uint8 RGB, and the figures.

    Raises:
        MirnetEdgeError: The source or the bundle cannot be opened, or the source was lost.
    """
    opened = open_source(str(source), size=size) if isinstance(source, (str, int)) else source
    yield from Live(opened, bundle_restorer(bundle or shipped_bundle()))


class RestoringCapture:
    """`cv2.VideoCapture` whose frames are restored: the same methods, BGR as OpenCV has it.

    Every frame is restored in turn; for live video without growing delay use `stream`.
    """

    def __init__(
        self, source: str | int, bundle: str | Path | None = None, api: int | None = None
    ) -> None:
        """Open at once, as OpenCV does; `isOpened` tells whether that went well.

        Args:
            source: What `cv2.VideoCapture` takes: a number, a file, an address, a pipeline.
            bundle: A bundle's folder; None for one of the shipped weights, made on first use.
            api: OpenCV's number of the interface; None for any.

        Raises:
            MirnetEdgeError: The bundle cannot be opened.
        """
        import cv2

        self._stack = ExitStack()
        self._restorer = self._stack.enter_context(bundle_restorer(bundle or shipped_bundle()))
        place = source if isinstance(source, int) else str(source)
        self._capture = cv2.VideoCapture(place, cv2.CAP_ANY if api is None else api)

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's name
        """Return whether frames can be read."""
        return bool(self._capture.isOpened())

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Return True and the next frame restored, (scale H, scale W, 3) BGR, or False and None."""
        return self.retrieve() if self.grab() else (False, None)

    def grab(self) -> bool:
        """Take the next frame without decoding it."""
        return bool(self._capture.grab())

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Return True and the frame that was grabbed, restored, or False and None."""
        there, pixels = self._capture.retrieve()
        if not there:
            return False, None
        rgb = np.ascontiguousarray(pixels[..., ::-1], np.uint8)
        return True, np.ascontiguousarray(self._restorer.restore(rgb)[..., ::-1])

    def get(self, property_id: int) -> float:
        """Return a property; width and height are those of restored frames."""
        import cv2

        value = float(self._capture.get(property_id))
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        return value * self._restorer.scale if property_id in sides else value

    def set(self, property_id: int, value: float) -> bool:
        """Set a property of the source."""
        return bool(self._capture.set(property_id, value))

    def release(self) -> None:
        """Close the source and the bundle. May be called again."""
        self._capture.release()
        self._stack.close()
