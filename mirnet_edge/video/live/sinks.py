"""Live sinks: where restored frames go; memory, detached thread, virtual camera."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import VideoError
from mirnet_edge.video.frames import BufferClosed, LatestFrameBuffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame


class Sink(Protocol):
    """Shows, writes or sends frames. `with` opens it and, at the end, closes what it wrote.

    Opened, used and closed by one thread.
    """

    def __enter__(self) -> Sink: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, shown: DisplayedFrame) -> None:
        """Take a frame, in a few milliseconds: the next frame waits meanwhile.

        What it raises ends the program; to end it without a fault there is `Controls.stop`.
        Called again with the same image while that is frozen, or while the source is silent.
        """


class MemorySink:
    """Remembers what it was shown. For tests of all that is done with sinks."""

    def __init__(self, on_show: Callable[[DisplayedFrame], None] = lambda shown: None) -> None:
        """Say what else it does with every frame."""
        self._on_show = on_show
        self.shown: list[DisplayedFrame] = []
        """What it got, in order."""
        self.is_open = False

    @property
    def indices(self) -> list[int]:
        """Return the indices of the frames it got."""
        return [shown.before.index for shown in self.shown]

    def __enter__(self) -> MemorySink:
        self.is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_open = False

    def show(self, shown: DisplayedFrame) -> None:
        """Remember a frame.

        Raises:
            ValueError: It is not open.
            Exception: What `on_show` raises.
        """
        if not self.is_open:
            raise ValueError("a frame was shown to a sink that is not open")
        self.shown.append(shown)
        self._on_show(shown)


class Detached:
    """Runs a sink on a thread of its own: a slow one loses frames and slows nobody.

    The sink is opened, used and closed there. What it raises reaches the main thread at the next
    frame, or at the end.
    """

    def __init__(self, sink: Sink, *, patience_s: float = 10.0) -> None:
        """Remember the sink; it is opened by `with`.

        Args:
            sink: Any.
            patience_s: How long closing it may take before it is left behind.
        """
        self._sink = sink
        self._patience_s = patience_s
        self._buffer: LatestFrameBuffer[DisplayedFrame] = LatestFrameBuffer()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    @property
    def dropped(self) -> int:
        """Return how many frames the sink was too slow for."""
        return self._buffer.dropped

    def __enter__(self) -> Detached:
        self._buffer, self._error = LatestFrameBuffer(), None
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()
        self._ready.wait(self._patience_s)
        self._raise_error()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._buffer.close()
        if self._thread is not None:
            self._thread.join(self._patience_s)
        if error is None:
            self._raise_error()

    def show(self, shown: DisplayedFrame) -> None:
        """Leave a frame for the sink.

        Raises:
            BaseException: What the sink failed with.
        """
        self._raise_error()
        self._buffer.put(shown)

    def _run(self) -> None:
        try:
            with self._sink as sink, suppress(BufferClosed):
                self._ready.set()
                while True:
                    shown = self._buffer.take()
                    if shown is not None:
                        sink.show(shown)
        except BaseException as error:  # noqa: BLE001  # carried to the main thread
            self._error = error
            self._buffer.close()
        finally:
            self._ready.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


AUTO = "auto"
_FPS = 30.0  # what it announces; frames are sent as they come
_SET_UP = "sudo modprobe v4l2loopback exclusive_caps=1"


class VirtualCameraDevice(Protocol):
    """What is used of `pyvirtualcam.Camera`."""

    def send(self, frame: Frame) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class VirtualCamera:
    """Gives what is shown to a virtual camera, opened with the first frame, which has its size.

    To be used through `Detached`: a device may block.
    """

    def __init__(
        self,
        device: str,
        *,
        open_device: Callable[[str, int, int], VirtualCameraDevice] | None = None,
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
        self._device: VirtualCameraDevice | None = None
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

    def show(self, shown: DisplayedFrame) -> None:
        """Send a frame; another size opens the camera anew.

        Raises:
            VideoError: There is no device, or it is in use.
        """
        if shown.after is self._last:
            return  # the image stands still, and so does the camera's
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


def _pyvirtualcam(name: str, width: int, height: int) -> VirtualCameraDevice:
    """Return a device that takes (H, W, 3) uint8 RGB."""
    virtual = require("pyvirtualcam", "a virtual camera")
    try:
        device: VirtualCameraDevice = virtual.Camera(
            width, height, _FPS, fmt=virtual.PixelFormat.RGB,
            device=None if name == AUTO else name,
        )  # fmt: skip
    except RuntimeError as error:
        raise VideoError(
            f"the virtual camera {name} cannot be opened for {width}x{height}: "
            f"{' '.join(str(error).split())[:200].rstrip('.')}. On Linux: {_SET_UP}"
        ) from error
    return device
