"""Cameras through OpenCV, the only place beside the window where pixels are BGR."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.errors import SourceInterruptedError, VideoError
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import VideoFrame

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from mirnet_edge.video.clock import Clock

_LIKELY_FPS = (1.0, 1000.0)
_MJPEG_ABOVE = 640 * 480


class Device(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def isOpened(self) -> bool: ...  # noqa: N802, D102  # OpenCV's name

    def grab(self) -> bool: ...  # noqa: D102

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]: ...  # noqa: D102

    def get(self, property_: int) -> float: ...  # noqa: D102

    def release(self) -> None: ...  # noqa: D102


class CameraSource:
    """A camera. Frames are stamped when they are grabbed, before they are decoded."""

    def __init__(
        self, name: str, open_device: Callable[[], Device], *, clock: Clock = REAL_CLOCK
    ) -> None:
        """Remember how to open it.

        Args:
            name: What messages call it.
            open_device: See `numbered_camera` and `gstreamer_camera`.
            clock: Stamps the frames.
        """
        self._name, self._open_device, self._clock = name, open_device, clock
        self._device: Device | None = None
        self._index = 0
        self._frame_time_s: float | None = None

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return self._name

    @property
    def paced(self) -> bool:
        """Return False: frames come when they come."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return what the camera announces, None before it was opened."""
        return self._frame_time_s

    def __enter__(self) -> CameraSource:
        import cv2

        device = self._open_device()
        if not device.isOpened():
            device.release()
            raise _not_there(self._name)
        fps = device.get(cv2.CAP_PROP_FPS)
        self._frame_time_s = 1.0 / fps if _LIKELY_FPS[0] <= fps <= _LIKELY_FPS[1] else None
        self._device = device
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._device is not None:
            self._device.release()
            self._device = None

    def read(self) -> VideoFrame | None:
        """Return the next frame.

        Raises:
            SourceInterruptedError: The camera gives none: unplugged, or taken by another.
            VideoError: Used outside `with`.
        """
        import cv2

        if self._device is None:
            raise VideoError(f"{self._name} is not open: expected `with source:`")
        grabbed = self._device.grab()
        captured_s = self._clock.now()
        there, pixels = self._device.retrieve() if grabbed else (False, None)
        if not there or pixels is None:
            raise SourceInterruptedError(f"{self._name} gives no more frames; was it unplugged?")
        index, self._index = self._index, self._index + 1
        rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
        return VideoFrame(pixels=rgb, index=index, captured_s=captured_s)


def numbered_camera(
    number: int, *, size: tuple[int, int] | None = None, fps: float | None = None
) -> Callable[[], Device]:
    """Return what opens a camera by its number, with one frame of buffer.

    Args:
        number: 0 for the first.
        size: (height, width) to ask it for; None for its own.
        fps: To ask it for; None for its own.
    """

    def open_device() -> Device:
        import cv2

        # what it prints about a missing camera is said better here
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        interface = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        device = cv2.VideoCapture(number, interface)
        device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # V4L2 keeps four: 133 ms
        if size is not None:
            if size[0] * size[1] > _MJPEG_ABOVE:  # raw, USB 2 carries 5 to 10 of these a second
                device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            device.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
            device.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        if fps is not None:
            device.set(cv2.CAP_PROP_FPS, fps)
        return device  # type: ignore[return-value]  # its properties are named otherwise

    return open_device


def gstreamer_camera(pipeline: str) -> Callable[[], Device]:
    """Return what opens a GStreamer pipeline.

    Args:
        pipeline: As `gst-launch-1.0` takes it. Where it has no appsink, one is added that keeps
            nothing but the newest frame.
    """

    def open_device() -> Device:
        import cv2

        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise VideoError(
                f"OpenCV {cv2.__version__} was built without GStreamer, which gst: and csi need "
                "(the package from pip has none); use the system's OpenCV (Debian, JetPack: "
                "python3-opencv), or give a camera's number"
            )
        return cv2.VideoCapture(  # type: ignore[return-value]  # as above
            with_appsink(pipeline), cv2.CAP_GSTREAMER
        )

    return open_device


def with_appsink(pipeline: str) -> str:
    """Return a pipeline that gives BGR frames to OpenCV and keeps none but the newest."""
    if "appsink" in pipeline:
        return pipeline
    head = pipeline.rstrip("! ")
    sink = "appsink drop=true max-buffers=1 sync=false"
    return f"{head} ! videoconvert ! video/x-raw,format=BGR ! {sink}"


def csi_pipeline(
    *, sensor: int = 0, size: tuple[int, int] = (720, 1280), fps: int = 30, flip: int = 0
) -> str:
    """Return the GStreamer pipeline of a CSI camera on a Jetson.

    Args:
        sensor: The camera's number.
        size: (height, width).
        fps: Frames per second.
        flip: `flip-method` of nvvidconv: 0 as it is, 2 turned by 180 degrees.
    """
    height, width = size
    return with_appsink(
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 ! "
        # the converter gives BGRx at the least; videoconvert takes the fourth channel off
        f"nvvidconv flip-method={flip} ! video/x-raw,format=BGRx"
    )


def check_number(number: int) -> None:
    """Refuse a camera that is not there, where the system tells without opening it.

    Raises:
        VideoError: No such camera.
    """
    if sys.platform == "linux" and not Path(f"/dev/video{number}").exists():
        raise _not_there(f"camera {number}")


def _not_there(name: str) -> VideoError:
    return VideoError(
        f"{name} cannot be opened{_cameras_there()}; plug one in, close the program that holds "
        "it, or try without: --source synthetic"
    )


def _cameras_there() -> str:
    if sys.platform != "linux":
        return ""
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f" (this machine has {', '.join(found)})" if found else " (this machine has no camera)"
