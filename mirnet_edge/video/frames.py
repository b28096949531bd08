"""Video frames with time and color tags, and the latest-frame buffer (one slot)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

from mirnet_edge.video.clock import REAL_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.clock import Clock

Matrix: TypeAlias = Literal["bt601", "bt709", "bt2020"]
Range: TypeAlias = Literal["limited", "full"]


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """How a stream codes color as luma and chroma: what it was read by, and is written by.

    `transfer` and `primaries` are the numbers of ITU-T H.273, 2 where the stream does not say;
    they are carried, never converted.
    """

    matrix: Matrix = "bt709"
    range: Range = "limited"
    transfer: int = 2
    primaries: int = 2


class VideoFrame:
    """One image of a video. Whoever gets one may keep it, and writes nothing into it.

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
        color: ColorTags = ColorTags(),
    ) -> None:
        """Say what it shows, and when.

        Args:
            pixels: (H, W, 3) uint8 RGB, contiguous, or what makes them: called once at most, by
                any thread.
            index: Counted by the source from 0, dropped frames included.
            captured_s: When it was captured, in seconds of the pipeline's clock.
            pts: Presentation time in units of `time_base`, where the source has one.
            time_base: Seconds per unit of `pts`.
            color: How the stream codes it.
        """
        self._pixels = pixels
        self._making = threading.Lock()
        self.index = index
        self.captured_s = captured_s
        self.pts, self.time_base = pts, time_base
        self.color = color

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
            color=self.color,
        )

    @property
    def time_s(self) -> float | None:
        """Return the presentation time in seconds, None where the source has none."""
        if self.pts is None or self.time_base is None:
            return None
        return float(self.pts * self.time_base)


@dataclass(frozen=True, kw_only=True)
class LiveFigures:
    """How the pipeline does at one frame: what a window or a page writes beside the image."""

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
class DisplayedFrame:
    """What a sink gets. While the image is frozen it gets the same two again and again."""

    before: VideoFrame
    after: Frame
    """(scale H, scale W, 3) uint8 RGB of the same moment; the source's own pixels, enlarged,
    where restoration is off or failed. Belongs to all sinks: write nothing into it."""
    restored: bool
    """Whether `after` comes from the network."""
    figures: LiveFigures


def figures_line(figures: LiveFigures) -> str:
    """Return what is written below the image: one line."""
    state = " frozen" if figures.frozen else "" if figures.restoring else " restoration off"
    failed = f"  failed {figures.failed}" if figures.failed else ""
    return (
        f"{figures.fps:4.1f} fps  age p95 {figures.age_p95_ms:.0f} ms  "
        f"dropped {figures.dropped}{failed}  {figures.mode}{state}"
    )


Item = TypeVar("Item")


class BufferClosed(Exception):  # noqa: N818  # the end of a stream, not a fault
    """Nothing more will come."""


class LatestFrameBuffer(Generic[Item]):
    """Holds the newest item. Putting never waits; what was not taken is replaced and counted.

    One thread puts, one takes. What fails or ends on the putting side reaches the taking side at
    once, even while it waits.
    """

    def __init__(self, clock: Clock = REAL_CLOCK) -> None:
        """Start empty and open.

        Args:
            clock: What waits.
        """
        self._clock = clock
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._put = 0
        self._dropped = 0

    @property
    def put_count(self) -> int:
        """Return how many items were put."""
        with self._changed:
            return self._put

    @property
    def dropped(self) -> int:
        """Return how many items were replaced before they were taken."""
        with self._changed:
            return self._dropped

    def put(self, item: Item) -> None:
        """Leave an item; an item that is still there is dropped. Ignored once closed."""
        with self._changed:
            if self._closed:
                return
            self._put += 1
            self._dropped += self._item is not None
            self._item = item
            self._changed.notify_all()

    def take(self, timeout_s: float | None = None) -> Item | None:
        """Return the newest item, waiting for one; None where the time ran out.

        Raises:
            MailboxClosed: Closed, and the last item was taken.
            BaseException: What the putting side failed with; an item that waits is forgotten.
        """
        end = None if timeout_s is None else self._clock.now() + timeout_s
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if self._item is not None:
                    item, self._item = self._item, None
                    return item
                if self._closed:
                    raise BufferClosed
                left = None if end is None else end - self._clock.now()
                if left is not None and left <= 0.0:
                    return None
                self._clock.wait(self._changed, left)

    def close(self, error: BaseException | None = None) -> None:
        """Tell the taking side that nothing more comes, and why where it is a fault.

        Only the first call counts.
        """
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._changed.notify_all()
