"""Frames that a network broke: passed through as they came, and counted.

fp16 networks of other projects are known to give NaN where an activation overflows, which the
viewer sees as a black frame. The source frame is better than that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirnet_edge.images import Frames

logger = logging.getLogger(__name__)

# Looked at first of a frame, because looking at all of it takes longer.
_SPARSE = 16


class BrokenFrames:
    """Counts broken frames and gives the source in their place; says so once."""

    def __init__(self, name: str, scale: int) -> None:
        """Remember whose frames they are, and how many times larger they come out."""
        self._name, self._scale = name, scale
        self.count = 0

    def replaced(self, source: Frames, restored: Frames, *, is_finite: bool = True) -> Frames:
        """Return RESTORED, or SOURCE at its size where it is broken.

        In the pools of these networks one NaN becomes a frame of NaN, which the cast to 8 bits
        turns into one colour: such a frame is broken, unless the source was of one colour too.

        Args:
            source: (1, H, W, 3) uint8.
            restored: (1, scale H, scale W, 3) uint8.
            is_finite: False where the network's floats were seen to hold NaN or infinity.
        """
        if is_finite and not self._is_of_one_colour(source, restored):
            return restored
        self.count += 1
        if self.count == 1:
            logger.warning(
                "%s gave a broken frame (NaN, or one colour all over); the source frame is passed "
                "instead, and counted. Try --precision fp32",
                self._name,
            )
        copied: Frames = source.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        return copied

    def _is_of_one_colour(self, source: Frames, restored: Frames) -> bool:
        sparse = restored[:, ::_SPARSE, ::_SPARSE]
        if sparse.min() != sparse.max() or restored.min() != restored.max():
            return False
        return bool(source.min() != source.max())
