"""Live video in Python: `stream()`, a drop-in `cv2.VideoCapture`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.runtime.shipped import DEFAULT_BUNDLE
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.sources import open_source
from mirnet_edge.video.restorer import bundle_restorer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.sources import Source


def stream(
    source: str | int | Source,
    bundle: str | Path = DEFAULT_BUNDLE,
    *,
    size: tuple[int, int] | None = None,
) -> Iterator[DisplayedFrame]:
    """Yield the newest frame, restored, at each iteration.

    A file is played at its own speed, like a camera: frames for which the loop is too slow are
    dropped, and `status.dropped` counts them. `video.files.restoring.restore_video` drops none.

    Args:
        source: A camera's number, any value of `mirnet live --source`, or a `Source`.
        bundle: A bundle's folder, or `shipped:NAME`.
        size: (height, width) of the frames, where the source supports a choice.

    Yields:
        `before.pixels` and `after`, (H, W, 3) uint8 RGB, and the status.

    Raises:
        MirnetEdgeError: The source or the bundle cannot be opened, or the source failed.
    """
    opened = open_source(str(source), size=size) if isinstance(source, (str, int)) else source
    yield from Live(opened, bundle_restorer(bundle))


class RestoringCapture:
    """A `cv2.VideoCapture` with restored frames: the same methods, BGR as in OpenCV.

    Every frame is restored in turn; for live video without growing delay use `stream`.
    """

    def __init__(
        self, source: str | int, bundle: str | Path = DEFAULT_BUNDLE, api: int | None = None
    ) -> None:
        """Open the source, as OpenCV does; `isOpened` returns whether that succeeded.

        Args:
            source: As `cv2.VideoCapture` takes it: a number, a file, a URL, a pipeline.
            bundle: A bundle's folder, or `shipped:NAME`.
            api: OpenCV's number of the capture backend; None for any.

        Raises:
            MirnetEdgeError: The bundle cannot be opened.
        """
        import cv2

        self._stack = ExitStack()
        self._restorer = self._stack.enter_context(bundle_restorer(bundle))
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
