"""Live controls: what windows and web pages ask of the pipeline, and snapshots."""

from __future__ import annotations

import datetime
import threading
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError
from mirnet_edge.images.files import ImageFile, write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from mirnet_edge.video.frames import DisplayedFrame


class Snapshots:
    """A sink that saves a frame, before and after, whenever one was asked for.

    To be used through `Detached`: writing a PNG takes longer than a sink may.
    """

    def __init__(
        self, folder: Path, on_saved: Callable[[Path], None] = lambda path: None
    ) -> None:  # fmt: skip
        """Remember where to save.

        Args:
            folder: Made where it is missing.
            on_saved: Told each file.
        """
        self._folder, self._on_saved = folder, on_saved
        self._saved = 0

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, shown: DisplayedFrame) -> None:
        """Save the frame where one was asked for since the last.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        if shown.figures.snapshots <= self._saved:
            return
        self._saved = shown.figures.snapshots
        stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        self._folder.mkdir(parents=True, exist_ok=True)
        for kind, pixels in (("before", shown.before.pixels), ("after", shown.after)):
            path = self._folder / f"mirnet-{stamp}-{self._saved}-{kind}.png"
            write_image(path, ImageFile(frame=pixels))
            self._on_saved(path)


class Controls:
    """Requests, and how they stand. Every method may be called from any thread.

    The pipeline reads the requests between two frames; nothing here waits for it.
    """

    def __init__(self, modes: tuple[str, ...] = (), *, recording: bool = False) -> None:
        """Start restoring, not frozen.

        Args:
            modes: What `choose_configuration` takes, beside "auto".
            recording: Whether to record from the first frame on.
        """
        self._lock = threading.Lock()
        self._modes = modes
        self._restoring, self._frozen, self._recording = True, False, recording
        self._snapshots = 0
        self._mode: str | None = None
        self._stopped = threading.Event()

    @property
    def modes(self) -> tuple[str, ...]:
        """Return what `choose_configuration` takes."""
        with self._lock:
            return self._modes

    @property
    def restoring(self) -> bool:
        """Return whether frames are to be restored."""
        with self._lock:
            return self._restoring

    @property
    def frozen(self) -> bool:
        """Return whether the image is to stand still."""
        with self._lock:
            return self._frozen

    @property
    def recording(self) -> bool:
        """Return whether what is shown is to be written."""
        with self._lock:
            return self._recording

    @property
    def snapshots(self) -> int:
        """Return how many snapshots were asked for so far."""
        with self._lock:
            return self._snapshots

    @property
    def stopped(self) -> bool:
        """Return whether the pipeline is to end."""
        return self._stopped.is_set()

    def offer_modes(self, modes: tuple[str, ...]) -> None:
        """Say what `choose_configuration` takes. Called by the pipeline."""
        with self._lock:
            self._modes = modes

    def toggle_restoring(self) -> None:
        """Switch restoration off or on."""
        with self._lock:
            self._restoring = not self._restoring

    def toggle_frozen(self) -> None:
        """Let the image stand still, or go on."""
        with self._lock:
            self._frozen = not self._frozen

    def set_restoring(self, wanted: bool) -> None:
        """Switch restoration on or off."""
        with self._lock:
            self._restoring = wanted

    def set_frozen(self, wanted: bool) -> None:
        """Let the image stand still or go on."""
        with self._lock:
            self._frozen = wanted

    def set_recording(self, wanted: bool) -> None:
        """Begin or end to write what is shown."""
        with self._lock:
            self._recording = wanted

    def ask_snapshot(self) -> None:
        """Ask for the frame that is shown next to be saved."""
        with self._lock:
            self._snapshots += 1

    def choose_mode(self, mode: str) -> None:
        """Ask for another mode; the newest request counts.

        Raises:
            OptionError: It is none of `modes`.
        """
        with self._lock:
            if mode not in self._modes:
                raise OptionError(
                    f"expected a mode of {', '.join(self._modes) or 'none'}, found {mode!r}"
                )
            self._mode = mode

    def take_mode(self) -> str | None:
        """Return the mode asked for since the last call, None where none was.

        Called by the pipeline, between two frames.
        """
        with self._lock:
            mode, self._mode = self._mode, None
            return mode

    def stop(self) -> None:
        """End the pipeline after the frame at hand."""
        self._stopped.set()
