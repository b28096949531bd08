"""The finished segments of a video on disk, from which an interrupted run resumes."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.files import hidden_sibling, write_atomically
from mirnet_edge.runtime.temporal_smoothing import SmoothingState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SEGMENT_SUFFIX = ".nut"
"""Of segments: a container that keeps any time base."""
_FINGERPRINT = "fingerprint.json"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A finished segment of a video: restored and encoded."""

    path: Path
    frames: int
    failed: int
    """Those of them that could not be restored."""
    first_pts: int
    """In units of the source's time base."""
    size: tuple[int, int]
    """(height, width) of its frames."""
    smoothing_state: SmoothingState | None
    """The smoothing state after its last frame."""


class SegmentFolder:
    """The finished segments of one video; the folder is removed once the result is complete.

    A segment is finished once its record is written, atomically and after the segment: killing the
    process at any moment loses the unfinished segment only.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, object], suffix: str = SEGMENT_SUFFIX
    ) -> None:
        """Store the folder; nothing is read or written yet.

        Args:
            folder: Beside the result.
            fingerprint: All that the segments depend on, in JSON types; segments with another
                fingerprint are removed.
            suffix: Of the segments.
        """
        self._folder, self._suffix = folder, suffix
        self._fingerprint = json.dumps(fingerprint, indent=1, sort_keys=True)

    def read_finished(self) -> list[Segment]:
        """Return the finished segments, in order; remove those with another fingerprint."""
        fingerprint = self._folder / _FINGERPRINT
        if not fingerprint.is_file() or fingerprint.read_text() != self._fingerprint:
            self.remove()
            return []
        segments: list[Segment] = []
        while self._record_path(len(segments)).is_file():
            segments.append(self._read(len(segments)))
        return segments

    def path(self, number: int) -> Path:
        """Return the file of a segment."""
        return self._folder / f"{number:05}{self._suffix}"

    def write_record(self, number: int, segment: Segment) -> None:
        """Write a segment's record, which marks it as finished.

        Raises:
            MirnetEdgeError: The folder cannot be written.
        """
        if number == 0:
            write_atomically(self._folder / _FINGERPRINT, self._fingerprint.encode())
        arrays = {
            "frames": np.array([segment.frames, segment.failed]),
            "first_pts": np.array(segment.first_pts),
            "size": np.array(segment.size),
        }
        if segment.smoothing_state is not None:
            smoothing_state = segment.smoothing_state
            arrays |= {
                "shape": np.array(smoothing_state.shape), "seen": smoothing_state.signature,
                "level": smoothing_state.mean_signature, "decided": smoothing_state.context,
            }  # fmt: skip
        record = io.BytesIO()
        np.savez(record, allow_pickle=False, **arrays)  # exact, unlike JSON's decimals
        write_atomically(self._record_path(number), record.getvalue())

    def remove(self) -> None:
        """Remove the folder with its files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder where no segment is finished."""
        if not self.has_finished():
            self.remove()

    def has_finished(self) -> bool:
        """Return whether a segment is finished, whatever its fingerprint."""
        return self._record_path(0).is_file()

    def _record_path(self, number: int) -> Path:
        return self._folder / f"{number:05}.npz"

    def _read(self, number: int) -> Segment:
        with np.load(self._record_path(number)) as record:
            smoothing_state = None
            if "seen" in record:
                shape = tuple(int(side) for side in record["shape"])
                smoothing_state = SmoothingState(
                    shape, record["seen"], record["level"], record["decided"]
                )
            frames, failed = (int(count) for count in record["frames"])
            height, width = (int(side) for side in record["size"])
            return Segment(
                path=self.path(number), frames=frames, failed=failed,
                first_pts=int(record["first_pts"]),
                size=(height, width), smoothing_state=smoothing_state,
            )  # fmt: skip


def segments_folder(output: Path) -> Path:
    """Return the folder of a result's finished segments."""
    return hidden_sibling(output, ".parts")
