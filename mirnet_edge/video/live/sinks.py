"""Live sinks: detached threads, snapshots, virtual cameras, memory."""

from __future__ import annotations

import datetime
import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import MirnetEdgeError, VideoError
from mirnet_edge.images.files import ImageFile, write_image
from mirnet_edge.video.frames import BufferClosed, LatestFrameBuffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame


logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Displays, writes or sends frames, while its context is open.

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
        """Take a frame, within a few milliseconds: the pipeline waits meanwhile.

        An error ends the run; `Controls.stop` ends it without one. Called again with the same
        frame while the display is frozen, or while the source gives none.
        """


class DetachedSink:
    """Runs a sink on its own thread: a slow one drops frames and does not delay the pipeline.

    The sink is opened, used and closed on that thread. Its errors are raised on the main thread
    at the next frame, or at the end.
    """

    def __init__(self, sink: Sink, *, close_timeout_s: float = 10.0) -> None:
        """Store the sink; `with` opens it.

        Args:
            sink: Any sink.
            close_timeout_s: How long opening or closing it may take; after that it is abandoned.
        """
        self._sink = sink
        self._close_timeout_s = close_timeout_s
        self._buffer: LatestFrameBuffer[DisplayedFrame] = LatestFrameBuffer()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    @property
    def dropped(self) -> int:
        """Return how many frames the sink was too slow for."""
        return self._buffer.dropped

    def __enter__(self) -> DetachedSink:
        self._buffer, self._error = LatestFrameBuffer(), None
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()
        self._ready.wait(self._close_timeout_s)
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
            self._thread.join(self._close_timeout_s)
        if error is None:
            self._raise_error()

    def show(self, shown: DisplayedFrame) -> None:
        """Put a frame for the sink.

        Raises:
            BaseException: The sink's error.
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
        except BaseException as error:  # noqa: BLE001  # raised again on the main thread
            self._error = error
            self._buffer.close()
        finally:
            self._ready.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


class Snapshots:
    """A sink that saves a frame as PNG files, before and after, when a snapshot is requested.

    Wrap it in `DetachedSink`: writing a PNG takes longer than a sink may.
    """

    def __init__(
        self,
        folder: Path,
        on_saved: Callable[[Path], None] = lambda path: None,
        on_failed: Callable[[str], None] = logger.warning,
    ) -> None:
        """Store the folder.

        Args:
            folder: Created where it is missing.
            on_saved: Called with each file.
            on_failed: Called with one line where a file cannot be written; the run goes on.
        """
        self._folder, self._on_saved, self._on_failed = folder, on_saved, on_failed
        self._saved = 0

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, shown: DisplayedFrame) -> None:
        """Save the frame where a snapshot was requested since the last one."""
        if shown.status.snapshots <= self._saved:
            return
        self._saved = shown.status.snapshots
        try:
            paths = save_snapshot(self._folder, shown)
        except MirnetEdgeError as error:
            self._on_failed(f"no snapshot was saved: {error}")
            return
        for path in paths:
            self._on_saved(path)


def save_snapshot(folder: Path, shown: DisplayedFrame) -> tuple[Path, Path]:
    """Save a frame as PNG files and return their paths, before and after.

    Args:
        folder: Created where it is missing.
        shown: The frame. Names hold the time and its index, and replace no other file.

    Raises:
        MirnetEdgeError: The folder cannot be written.
    """
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    stem = f"mirnet-{stamp}-{shown.before.index}"
    number = 1
    while (folder / f"{stem}-after.png").exists():
        number += 1
        stem = f"mirnet-{stamp}-{shown.before.index}-{number}"
    before, after = folder / f"{stem}-before.png", folder / f"{stem}-after.png"
    write_image(before, ImageFile(frame=shown.before.pixels))
    write_image(after, ImageFile(frame=shown.after))
    return before, after


AUTO = "auto"
_FPS = 30.0  # announced; frames are sent as they are displayed
_SETUP_COMMAND = "sudo modprobe v4l2loopback exclusive_caps=1"


class VirtualCameraDevice(Protocol):
    """What is used of `pyvirtualcam.Camera`."""

    def send(self, frame: Frame) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class VirtualCamera:
    """Sends displayed frames to a virtual camera, which is opened in the size of the first.

    Wrap it in `DetachedSink`: a device may block.
    """

    def __init__(
        self,
        device: str,
        *,
        open_device: Callable[[str, int, int], VirtualCameraDevice] | None = None,
    ) -> None:
        """Store the device; it is opened with the first frame.

        Args:
            device: /dev/videoN of v4l2loopback, the camera's name elsewhere, or "auto".
            open_device: Opens a device by name, width and height; replaced in tests.

        Raises:
            MissingDependencyError: pyvirtualcam is not installed.
            VideoError: There is no such device.
        """
        if open_device is None:
            require("pyvirtualcam", "a virtual camera")
            if sys.platform == "linux" and device != AUTO and not Path(device).exists():
                raise VideoError(
                    f"{device} does not exist; expected a device of v4l2loopback: "
                    f"{_SETUP_COMMAND}, then --virtual-camera {AUTO}"
                )
        self._name = device
        self._open_device = _open_virtual_camera if open_device is None else open_device
        self._device: VirtualCameraDevice | None = None
        self._size = (0, 0)
        self._last: Frame | None = None

    def __enter__(self) -> VirtualCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, shown: DisplayedFrame) -> None:
        """Send a frame; a change of size reopens the camera.

        Raises:
            VideoError: There is no device, or it is in use.
        """
        if shown.after is self._last:
            return  # frozen: the camera repeats its last frame
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


def _open_virtual_camera(name: str, width: int, height: int) -> VirtualCameraDevice:
    """Return an open device that takes (H, W, 3) uint8 RGB."""
    pyvirtualcam = require("pyvirtualcam", "a virtual camera")
    try:
        device: VirtualCameraDevice = pyvirtualcam.Camera(
            width, height, _FPS, fmt=pyvirtualcam.PixelFormat.RGB,
            device=None if name == AUTO else name,
        )  # fmt: skip
    except RuntimeError as error:
        raise VideoError(
            f"the virtual camera {name} cannot be opened for {width}x{height}: "
            f"{' '.join(str(error).split())[:200].rstrip('.')}. On Linux: {_SETUP_COMMAND}"
        ) from error
    return device


class MemorySink:
    """Keeps all frames in memory. For tests."""

    def __init__(self, on_show: Callable[[DisplayedFrame], None] = lambda shown: None) -> None:
        """Store a function to call with every frame."""
        self._on_show = on_show
        self.shown: list[DisplayedFrame] = []
        """The frames it got, in order."""
        self.is_open = False

    @property
    def indices(self) -> list[int]:
        """Return the indices of the frames it got."""
        return [shown.before.index for shown in self.shown]

    def __enter__(self) -> MemorySink:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def show(self, shown: DisplayedFrame) -> None:
        """Keep a frame.

        Raises:
            ValueError: The sink is not open.
            Exception: An error of `on_show`.
        """
        if not self.is_open:
            raise ValueError("expected an open sink, found a closed one: use `with sink:`")
        self.shown.append(shown)
        self._on_show(shown)
