"""Play a video file live: pause, seek, loop, and wait at the end for a replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import PlaybackStatus
from mirnet_edge.video.live.sources import Source

if TYPE_CHECKING:
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.frames import VideoFrame
    from mirnet_edge.video.live.controls import Controls

_POLL_S = 0.04  # a request is followed within this time
_RESYNC_S = 0.5
_LONGEST_GAP_S = 10.0


class SeekableSource(Source, Protocol):
    """A source with a duration, in which any position can be sought: a file."""

    @property
    def duration_s(self) -> float | None:
        """The duration in seconds, None where it is unknown."""

    def seek(self, position_s: float) -> None:
        """Continue at a position, in seconds from the first frame."""


class FilePlayer:
    """A source that plays a file at its own speed, by the controls of windows and pages.

    `read` waits while the file is paused, and at its end where it is held there. It returns at
    once when the pipeline is stopped.
    """

    def __init__(
        self,
        source: SeekableSource,
        controls: Controls,
        *,
        hold_at_end: bool,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Store the parts; nothing is opened yet.

        Args:
            source: The file.
            controls: The pipeline's.
            hold_at_end: Wait at the end for a replay; otherwise `read` returns None there, unless
                the controls say loop.
            clock: The pipeline's.
        """
        self._source, self._controls = source, controls
        self._hold_at_end, self._clock = hold_at_end, clock
        self._next: VideoFrame | None = None
        self._start_s: float | None = None
        self._position_s = self._first_s = self._next_s = 0.0
        self._has_first = False
        self._is_sought, self._has_jumped = False, True
        self._ended = False

    @property
    def name(self) -> str:
        """Return the file's name, without its folder."""
        return self._source.name

    @property
    def paced(self) -> bool:
        """Return False: frames are returned when they are due."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames, None before it was opened."""
        return self._source.frame_time_s

    @property
    def ended(self) -> bool:
        """Return whether the end was reached, and the player waits there."""
        return self._ended

    @property
    def playback(self) -> PlaybackStatus:
        """Return where the file is played. May be called from any thread."""
        return PlaybackStatus(
            position_s=self._position_s,
            duration_s=self._source.duration_s,
            loop=self._controls.loop,
        )

    def __enter__(self) -> FilePlayer:
        self._source.__enter__()
        self._next, self._start_s = None, None
        self._has_first = self._is_sought = self._ended = False
        self._has_jumped = True
        return self

    def __exit__(self, *_: object) -> None:
        self._source.__exit__(None, None, None)

    def read(self) -> VideoFrame | None:
        """Return the next frame when it is due; None at the end, and when the pipeline stops.

        Raises:
            VideoError: No frame can be decoded.
        """
        while not self._controls.stopped:
            position_s = self._controls.take_seek()
            if position_s is not None:
                self._seek(position_s)
            if self._next is None and not self._ended and not self._read_next():
                return None
            frame = self._next
            if frame is None:
                self._sleep(_POLL_S)
            elif self._is_sought:
                return self._give(frame)
            elif self._controls.paused:
                self._restart_pace()
                self._sleep(_POLL_S)
            elif (wait_s := self._seconds_until_due()) > _POLL_S:
                self._sleep(_POLL_S)
            else:
                self._sleep(wait_s)
                return self._give(frame)
        return None

    def _read_next(self) -> bool:
        """Read a frame ahead, or begin again, or hold at the end; return False to end the run."""
        frame = self._source.read()
        if frame is None:
            if self._controls.loop:
                self._seek(0.0)
                return True
            self._ended = self._hold_at_end
            return self._hold_at_end
        time_s = frame.time_s
        if time_s is None:
            time_s = self._next_s + (self._source.frame_time_s or 0.0)
        if not self._has_first:
            self._has_first, self._first_s = True, time_s
        if not 0.0 <= time_s - self._next_s <= _LONGEST_GAP_S:
            self._restart_pace()  # the clock of the file jumped: go on at once
        self._next, self._next_s = frame, time_s
        return True

    def _seek(self, position_s: float) -> None:
        duration_s, frame_time_s = self._source.duration_s, self._source.frame_time_s or 0.0
        if duration_s is not None:  # at the end there is the last frame
            position_s = min(position_s, duration_s - frame_time_s)
        self._source.seek(max(0.0, position_s))
        self._next = None
        self._ended, self._is_sought = False, True
        self._restart_pace()

    def _seconds_until_due(self) -> float:
        now_s = self._clock.now()
        if self._start_s is None or now_s - (self._start_s + self._next_s) > _RESYNC_S:
            # after a pause, and where reading fell behind: at normal speed rather than catching up
            self._start_s = now_s - self._next_s
        return self._start_s + self._next_s - now_s

    def _restart_pace(self) -> None:
        self._start_s, self._has_jumped = None, True

    def _give(self, frame: VideoFrame) -> VideoFrame:
        is_continuous, self._has_jumped = not self._has_jumped, False
        self._next, self._is_sought = None, False
        self._position_s = max(0.0, self._next_s - self._first_s)
        now_s = self._clock.now()
        if self._start_s is None:
            self._start_s = now_s - self._next_s
        return frame.captured_at(now_s, continuous=is_continuous)

    def _sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds, self._controls.stop_event)
