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
    """A stream's color metadata: how luma and chroma are coded.

    `transfer` and `primaries` are code points of ITU-T H.273, 2 where unspecified; they are
    copied to the output, never converted.
    """

    matrix: Matrix = "bt709"
    range: Range = "limited"
    transfer: int = 2
    primaries: int = 2


class VideoFrame:
    """One frame of a video. It may be kept, and must not be written to.

    Decoded frames are converted to RGB pixels on first use, once: a dropped frame costs nothing.
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
        continuous: bool = True,
    ) -> None:
        """Create a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB, contiguous, or a function that returns them, called once at
                most, on any thread.
            index: Counted by the source from 0, dropped frames included.
            captured_s: The time of capture, in seconds of the pipeline's clock.
            pts: Presentation time in units of `time_base`, where the source has one.
            time_base: Seconds per unit of `pts`.
            color: The stream's color metadata.
            continuous: False after a pause or a seek: the time since the frame before says nothing
                about the frame rate.
        """
        self._pixels = pixels
        self._lock = threading.Lock()
        self.index = index
        self.captured_s = captured_s
        self.pts, self.time_base = pts, time_base
        self.color = color
        self.continuous = continuous

    @property
    def pixels(self) -> Frame:
        """Return (H, W, 3) uint8 RGB, contiguous; the same array each time."""
        with self._lock:
            if callable(self._pixels):
                self._pixels = self._pixels()  # and the decoder's frame is freed
            return self._pixels

    def captured_at(self, captured_s: float, *, continuous: bool | None = None) -> VideoFrame:
        """Return the same frame with another time of capture; called before pixels are used.

        Args:
            captured_s: The time of capture, in seconds of the pipeline's clock.
            continuous: Replaces the frame's own, unless None.
        """
        return VideoFrame(
            pixels=self._pixels,
            index=self.index,
            captured_s=captured_s,
            pts=self.pts,
            time_base=self.time_base,
            color=self.color,
            continuous=self.continuous if continuous is None else continuous,
        )

    @property
    def time_s(self) -> float | None:
        """Return the presentation time in seconds, None where the source has none."""
        if self.pts is None or self.time_base is None:
            return None
        return float(self.pts * self.time_base)


LiveState: TypeAlias = Literal["live", "playing", "paused", "ended", "frozen", "stalled"]
"""live: a camera's newest frame · playing, paused, ended: of a file · frozen: the display repeats
its frame while the source goes on · stalled: the source gives no frames."""


@dataclass(frozen=True, kw_only=True)
class PlaybackStatus:
    """Where a file is played."""

    position_s: float
    """Of the newest frame, from the first one."""
    duration_s: float | None
    """None where the file does not say."""
    loop: bool
    """Whether it begins again at its end."""


@dataclass(frozen=True, kw_only=True)
class LiveStatus:
    """Statistics and state at one frame, as a window or a page displays them."""

    fps: float
    """Displayed frames per second over the last second; 0 at the first, and without new frames."""
    age_ms: float
    """This frame's age: from capture until it is passed to the sinks."""
    age_p95_ms: float
    """95th percentile of all frame ages, sinks included; 0 at the first."""
    restore_ms: float
    """The time of restoring this frame."""
    captured: int
    shown: int
    dropped: int
    """Frames replaced by newer ones before they could be restored, or too old."""
    failed: int
    """Frames that could not be restored, and were displayed unrestored."""
    configuration: str
    """The one in use: `backend:precision`, and the frame budget's reductions."""
    configurations: tuple[str, ...]
    """Those that `Controls.choose_configuration` accepts."""
    restoring: bool
    """False where restoration is switched off."""
    frozen: bool
    recording: bool
    snapshots: int
    """How many were requested so far; a sink compares with the number it has saved."""
    note: str
    """The last warning, in one line; empty where there is none."""
    state: LiveState = "live"
    strength: float = 1.0
    """Share of the restored frame, from 0 to 1; the rest is the source's."""
    playback: PlaybackStatus | None = None
    """None for cameras and streams."""
    placement: str = ""
    """What computed the last restored frame, as its backend told: devices, and their nodes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DisplayedFrame:
    """A frame as sinks get it, before and after restoration. Repeated while frozen."""

    before: VideoFrame
    after: Frame
    """(scale H, scale W, 3) uint8 RGB; the source's pixels, enlarged, where restoration is off or
    failed. Shared by all sinks: it must not be written to."""
    restored: bool
    """Whether `after` is the network's output."""
    status: LiveStatus


def describe_configuration(configuration: str, placement: str) -> str:
    """Return a configuration with what computed it, where its backend told."""
    return f"{configuration} ({placement})" if placement else configuration


def format_status(status: LiveStatus) -> str:
    """Return the status in one line."""
    state = "" if status.state in ("live", "playing") else f"  {status.state}"
    state += "" if status.restoring else "  restoration off"
    failed = f"  failed {status.failed}" if status.failed else ""
    return (
        f"{status.fps:4.1f} fps  age p95 {status.age_p95_ms:.0f} ms  "
        f"dropped {status.dropped}{failed}  "
        f"{describe_configuration(status.configuration, status.placement)}{state}"
    )


Item = TypeVar("Item")


class BufferClosed(Exception):  # noqa: N818  # the end of a stream, not a fault
    """The buffer is closed and empty."""


class LatestFrameBuffer(Generic[Item]):
    """A one-slot buffer between two threads: `put` replaces a waiting item, which is dropped.

    `put` never waits, so backpressure costs frames and not delay. Closing the buffer, with or
    without an error, wakes the taking thread at once.
    """

    def __init__(self, clock: Clock = REAL_CLOCK) -> None:
        """Start empty and open.

        Args:
            clock: The clock of `take`'s timeout.
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
        """Return how many items were replaced before they were taken (dropped frames)."""
        with self._changed:
            return self._dropped

    def put(self, item: Item) -> None:
        """Put an item, dropping one that still waits. Ignored once closed."""
        with self._changed:
            if self._closed:
                return
            self._put += 1
            self._dropped += self._item is not None
            self._item = item
            self._changed.notify_all()

    def take(self, timeout_s: float | None = None) -> Item | None:
        """Return the newest item, waiting for one; None on timeout.

        Raises:
            BufferClosed: The buffer is closed and empty.
            BaseException: The error it was closed with; a waiting item is discarded.
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
        """Close the buffer, with the error that `take` raises from now on, if any.

        Only the first call has an effect.
        """
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._changed.notify_all()
