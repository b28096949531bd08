"""Live video in Python: `stream()`, a drop-in `cv2.VideoCapture`, the default bundle."""

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

    The bundle is specific to this machine (its configurations are timed here) and to this version
    of the package. Its graphs have global context inputs and outputs, for temporal smoothing. INT8
    is included where NNCF is installed and the quality gate accepts it.

    Args:
        weights: The name of shipped weights.
        cache: The folder of the bundles; None for the user's cache.
        on_stage: Called with a few words at each stage of the export.

    Raises:
        MissingDependencyError: There is no bundle yet, and the packages to export one are missing.
        MirnetEdgeError: The cache cannot be written.
    """
    int8 = available("nncf")
    variant = "anchored-int8" if int8 else "anchored"
    name = f"{weights.removeprefix('shipped:')}-{variant}-{version('mirnet-edge')}"
    folder = (cache or user_cache()) / "bundles" / name
    if (folder / FILE_NAME).is_file():
        try:
            read_manifest(folder)
        except BundleError:
            pass  # of another schema, or truncated by a full disk: exported again below
        else:
            return folder
    if not (available("torch") and available("onnx")):
        raise MissingDependencyError(
            f"no bundle was given, and exporting one of {weights} needs packages that are not "
            f"installed: give --bundle DIR (exported elsewhere), or {advice('torch')}"
        )
    from mirnet_edge.export.job import export_bundle
    from mirnet_edge.export.workspace import ExportOptions

    on_stage(f"exporting a bundle of {weights} to {folder}, once")
    options = ExportOptions(weights=weights, out=folder, target="cpu", anchored=True, int8=int8)
    export_bundle(options, on_stage)
    return folder


def user_cache() -> Path:
    """Return this package's folder in the user's cache folder."""
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
    """Yield the newest frame, restored, at each iteration.

    A file is played at its own speed, like a camera: frames for which the loop is too slow are
    dropped, and `status.dropped` counts them. `video.files.restoring.restore_video` drops none.

    Args:
        source: A camera's number, any value of `mirnet-webcam --source`, or a `Source`.
        bundle: A bundle's folder; None for the shipped weights, exported on first use.
        size: (height, width) of the frames, where the source supports a choice.

    Yields:
        `before.pixels` and `after`, (H, W, 3) uint8 RGB, and the status.

    Raises:
        MirnetEdgeError: The source or the bundle cannot be opened, or the source failed.
    """
    opened = open_source(str(source), size=size) if isinstance(source, (str, int)) else source
    yield from Live(opened, bundle_restorer(bundle or shipped_bundle()))


class RestoringCapture:
    """A `cv2.VideoCapture` with restored frames: the same methods, BGR as in OpenCV.

    Every frame is restored in turn; for live video without growing delay use `stream`.
    """

    def __init__(
        self, source: str | int, bundle: str | Path | None = None, api: int | None = None
    ) -> None:
        """Open the source, as OpenCV does; `isOpened` returns whether that succeeded.

        Args:
            source: As `cv2.VideoCapture` takes it: a number, a file, a URL, a pipeline.
            bundle: A bundle's folder; None for the shipped weights, exported on first use.
            api: OpenCV's number of the capture backend; None for any.

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
        success, pixels = self._capture.retrieve()
        if not success:
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
        """Close the source and the bundle. May be called more than once."""
        self._capture.release()
        self._stack.close()
