"""The camera of a Raspberry Pi through libcamera: raw frames from the program rpicam-vid.

libcamera's cameras are no V4L2 devices that OpenCV can open, and `pip` has no binding for them;
`rpicam-vid` (package rpicam-apps) writes uncompressed frames to its standard output.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError, VideoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mirnet_edge.video.live.sources import CaptureDevice

_PROGRAM = "rpicam-vid"
# rows of its raw frames are padded to a multiple of this
_ROW_MULTIPLE = 64
_TIMEOUT_S = 10.0  # the camera takes up to 2 s to start


def rpicam_camera(
    number: int = 0, *, size: tuple[int, int] | None = None, fps: float | None = None
) -> Callable[[], CaptureDevice]:
    """Return what opens a Raspberry Pi's camera.

    Args:
        number: The camera's number, as `rpicam-vid --list-cameras` shows it.
        size: (height, width); None for (720, 1280).
        fps: Frames per second; None for 30.

    Raises:
        OptionError: A width that is not a multiple of 64, or an odd height.
    """
    height, width = size or (720, 1280)
    if width % _ROW_MULTIPLE or height % 2:
        raise OptionError(
            f"--size for rpicam must have a width that is a multiple of {_ROW_MULTIPLE} and an "
            f"even height, as 640x480, 1280x720 or 1920x1080; found {width}x{height}"
        )
    command = [
        _PROGRAM, "--camera", str(number), "--width", str(width), "--height", str(height),
        "--framerate", f"{fps or 30:g}", "--codec", "yuv420", "--timeout", "0", "--nopreview",
        "--flush", "--output", "-",
    ]  # fmt: skip

    def open_device() -> CaptureDevice:
        if shutil.which(_PROGRAM) is None:
            raise VideoError(
                f"--source rpicam needs the program {_PROGRAM}, which is not found: on a Raspberry "
                "Pi, sudo apt install rpicam-apps; elsewhere give a camera's number: --source 0"
            )
        return _RpicamDevice(command, height, width, fps or 30.0)

    return open_device


class _RpicamDevice:
    """A running rpicam-vid, as OpenCV's VideoCapture is used."""

    def __init__(self, command: list[str], height: int, width: int, fps: float) -> None:
        self._height, self._width, self._fps = height, width, fps
        self._frame = bytearray(height * width * 3 // 2)
        self._process = subprocess.Popen(  # the program's own arguments
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's name
        """Return whether a first frame came."""
        return self.grab()

    def grab(self) -> bool:
        """Read the next frame; return whether there is one within the time limit."""
        if self._process.stdout is None:
            return False
        pipe, filled = self._process.stdout.fileno(), 0
        deadline = time.monotonic() + _TIMEOUT_S
        while filled < len(self._frame):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return False
            count = os.readv(pipe, [memoryview(self._frame)[filled:]])
            if count == 0:
                return False
            filled += count
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        """Return (True, (H, W, 3) uint8 BGR) of the last frame."""
        import cv2

        planes = np.frombuffer(self._frame, np.uint8).reshape(-1, self._width)
        pixels = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
        return True, np.asarray(pixels, np.uint8)

    def get(self, property_: int) -> float:
        """Return the requested frame rate for cv2.CAP_PROP_FPS, 0 for what is unknown."""
        import cv2

        return self._fps if property_ == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Stop the program."""
        self._process.terminate()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
