"""Saving single frames of a live run as pictures."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from mirnet_edge.pictures import Picture, write_picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from mirnet_edge.video.frames import Shown


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

    def show(self, shown: Shown) -> None:
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
            write_picture(path, Picture(frame=pixels))
            self._on_saved(path)
