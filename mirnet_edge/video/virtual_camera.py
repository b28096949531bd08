"""A sink that other programs see as a camera: v4l2loopback on Linux, OBS's camera elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mirnet_edge.images import Frame
    from mirnet_edge.video.frames import Shown

AUTO = "auto"
_FPS = 30.0  # what it announces; frames are sent as they come
_SET_UP = "sudo modprobe v4l2loopback exclusive_caps=1"


class Device(Protocol):
    """What is used of `pyvirtualcam.Camera`."""

    def send(self, frame: Frame) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class VirtualCamera:
    """Gives what is shown to a virtual camera, opened with the first frame, which has its size.

    To be used through `Detached`: a device may block.
    """

    def __init__(
        self, device: str, *, open_device: Callable[[str, int, int], Device] | None = None
    ) -> None:
        """Remember the device.

        Args:
            device: /dev/videoN of v4l2loopback, the camera's name elsewhere, or "auto".
            open_device: Opens a device for a width and a height; replaced in tests.

        Raises:
            MissingDependencyError: pyvirtualcam is not installed.
            VideoError: There is no such device.
        """
        if open_device is None:
            require("pyvirtualcam", "a virtual camera")
            if sys.platform == "linux" and device != AUTO and not Path(device).exists():
                raise VideoError(
                    f"{device} does not exist; expected a device of v4l2loopback: {_SET_UP}, then "
                    f"--virtual-camera {AUTO}"
                )
        self._name = device
        self._open_device = _pyvirtualcam if open_device is None else open_device
        self._device: Device | None = None
        self._size = (0, 0)
        self._last: Frame | None = None

    def __enter__(self) -> VirtualCamera:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def show(self, shown: Shown) -> None:
        """Send a frame; another size opens the camera anew.

        Raises:
            VideoError: There is no device, or it is in use.
        """
        if shown.after is self._last:
            return  # the picture stands still, and so does the camera's
        self._last = shown.after
        height, width = shown.after.shape[:2]
        if self._device is None or self._size != (height, width):
            self._close()
            self._device = self._open_device(self._name, width, height)
            self._size = (height, width)
        self._device.send(np.ascontiguousarray(shown.after))

    def _close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()


def _pyvirtualcam(name: str, width: int, height: int) -> Device:
    """Return a device that takes (H, W, 3) uint8 RGB."""
    virtual = require("pyvirtualcam", "a virtual camera")
    try:
        device: Device = virtual.Camera(
            width, height, _FPS, fmt=virtual.PixelFormat.RGB,
            device=None if name == AUTO else name,
        )  # fmt: skip
    except RuntimeError as error:
        raise VideoError(
            f"the virtual camera {name} cannot be opened for {width}x{height}: "
            f"{' '.join(str(error).split())[:200].rstrip('.')}. On Linux: {_SET_UP}"
        ) from error
    return device
