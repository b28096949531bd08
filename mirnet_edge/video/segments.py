"""What is finished of a video that is being restored, so that a killed run can go on from there."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.files import write_atomically
from mirnet_edge.runtime.anchoring import Past
from mirnet_edge.video.encoding import PART_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RECIPE = "recipe.json"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a video that is restored and coded."""

    path: Path
    frames: int
    failed: int
    """Of them, those that could not be restored."""
    first_pts: int
    """In units of the source's time base."""
    size: tuple[int, int]
    """(height, width) of its frames."""
    past: Past | None
    """What the frame after it is smoothed with."""


class Segments:
    """A folder of finished segments of one video; it is there only while something is unfinished.

    A segment counts once its record is there, which is written after the segment itself, whole or
    not at all: a kill at any moment loses what is not finished, and nothing else.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, object]) -> None:
        """Name the folder; nothing is read or written yet.

        Args:
            folder: Beside the result.
            recipe: All that the segments depend on; others are thrown away. Made of what JSON has.
        """
        self._folder = folder
        self._recipe = json.dumps(recipe, indent=1, sort_keys=True)

    def finished(self) -> list[Segment]:
        """Return what can be gone on from, in order; what was made otherwise is removed."""
        known = self._folder / _RECIPE
        if not known.is_file() or known.read_text() != self._recipe:
            self.remove()
            return []
        segments: list[Segment] = []
        while self._record(len(segments)).is_file():
            segments.append(self._read(len(segments)))
        return segments

    def path(self, number: int) -> Path:
        """Return where a segment is to be written."""
        return self._folder / f"{number:05}{PART_SUFFIX}"

    def finish(self, number: int, segment: Segment) -> None:
        """Write a segment's record, after the segment.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        if number == 0:
            write_atomically(self._folder / _RECIPE, self._recipe.encode())
        arrays = {
            "frames": np.array([segment.frames, segment.failed]),
            "first_pts": np.array(segment.first_pts),
            "size": np.array(segment.size),
        }
        if segment.past is not None:
            past = segment.past
            arrays |= {
                "shape": np.array(past.shape), "seen": past.seen,
                "level": past.level, "decided": past.decided,
            }  # fmt: skip
        record = io.BytesIO()
        np.savez(record, allow_pickle=False, **arrays)  # exact, as JSON's decimals are not
        write_atomically(self._record(number), record.getvalue())

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder where no segment is finished."""
        if not self.any():
            self.remove()

    def any(self) -> bool:
        """Say whether a segment is finished, whatever it was made by."""
        return self._record(0).is_file()

    def _record(self, number: int) -> Path:
        return self._folder / f"{number:05}.npz"

    def _read(self, number: int) -> Segment:
        with np.load(self._record(number)) as record:
            past = None
            if "seen" in record:
                shape = tuple(int(side) for side in record["shape"])
                past = Past(shape, record["seen"], record["level"], record["decided"])
            frames, failed = (int(count) for count in record["frames"])
            height, width = (int(side) for side in record["size"])
            return Segment(
                path=self.path(number), frames=frames, failed=failed,
                first_pts=int(record["first_pts"]), size=(height, width), past=past,
            )  # fmt: skip
