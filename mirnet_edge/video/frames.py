"""What travels through the pipeline: a frame with its time and colour, and what a sink gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from mirnet_edge.images import Frame

Matrix: TypeAlias = Literal["bt601", "bt709", "bt2020"]
Range: TypeAlias = Literal["limited", "full"]


@dataclass(frozen=True, kw_only=True)
class Colour:
    """How a stream codes colour as luma and chroma: what it was read by, and is written by.

    `transfer` and `primaries` are the numbers of ITU-T H.273, 2 where the stream does not say;
    they are carried, never converted.
    """

    matrix: Matrix = "bt709"
    range: Range = "limited"
    transfer: int = 2
    primaries: int = 2


class VideoFrame:
    """One picture of a video. Whoever gets one may keep it, and writes nothing into it.

    What a decoder gives is turned into pixels when somebody first asks for them, and once: live
    video drops frames that nobody looks at.
    """

    def __init__(
        self,
        *,
        pixels: Frame | Callable[[], Frame],
        index: int,
        captured_s: float,
        pts: int | None = None,
        time_base: Fraction | None = None,
        colour: Colour = Colour(),
    ) -> None:
        """Say what it shows, and when.

        Args:
            pixels: (H, W, 3) uint8 RGB, contiguous, or what makes them: called once at most, by
                any thread.
            index: Counted by the source from 0, dropped frames included.
            captured_s: When it was captured, in seconds of the pipeline's clock.
            pts: Presentation time in units of `time_base`, where the source has one.
            time_base: Seconds per unit of `pts`.
            colour: How the stream codes it.
        """
        self._pixels = pixels
        self._making = threading.Lock()
        self.index = index
        self.captured_s = captured_s
        self.pts, self.time_base = pts, time_base
        self.colour = colour

    @property
    def pixels(self) -> Frame:
        """Return (H, W, 3) uint8 RGB, contiguous: the same array each time."""
        with self._making:
            if callable(self._pixels):
                self._pixels = self._pixels()  # and the decoder's frame is let go
            return self._pixels

    def captured_at(self, captured_s: float) -> VideoFrame:
        """Return the same frame with another time of capture, before anybody asked for pixels."""
        return VideoFrame(
            pixels=self._pixels,
            index=self.index,
            captured_s=captured_s,
            pts=self.pts,
            time_base=self.time_base,
            colour=self.colour,
        )

    @property
    def time_s(self) -> float | None:
        """Return the presentation time in seconds, None where the source has none."""
        if self.pts is None or self.time_base is None:
            return None
        return float(self.pts * self.time_base)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How the pipeline does at one frame: what a window or a page writes beside the picture."""

    fps: float
    """Frames shown per second, over the last second or so; 0 at the first."""
    age_ms: float
    """From this frame's capture to its hand-over to the sinks."""
    age_p95_ms: float
    """Of all frames shown so far, up to the end of the sinks; 0 at the first."""
    restore_ms: float
    """What restoring this frame took."""
    captured: int
    shown: int
    dropped: int
    """Frames that were replaced by newer ones before they could be restored, or grew too old."""
    failed: int
    """Frames that could not be restored, and were shown as they came."""
    mode: str
    """`backend:precision` and what the budget made of it; what restores now."""
    modes: tuple[str, ...]
    """What `Controls.choose_mode` takes."""
    restoring: bool
    """False where restoration is switched off."""
    frozen: bool
    recording: bool
    snapshots: int
    """How many were asked for so far; a sink that saves them compares with its own count."""
    note: str
    """The last thing worth telling in one line; empty where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What a sink gets. While the picture is frozen it gets the same two again and again."""

    before: VideoFrame
    after: Frame
    """(scale H, scale W, 3) uint8 RGB of the same moment; the source's own pixels, enlarged,
    where restoration is off or failed. Belongs to all sinks: write nothing into it."""
    restored: bool
    """Whether `after` comes from the network."""
    figures: Figures


def figures_line(figures: Figures) -> str:
    """Return what is written below the picture: one line."""
    state = " frozen" if figures.frozen else "" if figures.restoring else " restoration off"
    failed = f"  failed {figures.failed}" if figures.failed else ""
    return (
        f"{figures.fps:4.1f} fps  age p95 {figures.age_p95_ms:.0f} ms  "
        f"dropped {figures.dropped}{failed}  {figures.mode}{state}"
    )
