"""The capture thread: reads a source, paces a file, opens again what was interrupted."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import SourceInterruptedError, VideoError
from mirnet_edge.video.statistics import Durations

if TYPE_CHECKING:
    from types import TracebackType

    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.frames import VideoFrame
    from mirnet_edge.video.mailbox import Mailbox
    from mirnet_edge.video.sources import Source

logger = logging.getLogger(__name__)

_JOIN_S = 0.5
_LATE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to put up with a source that gives nothing."""

    first_pause_s: float = 0.25
    """Before an interrupted source is opened again; twice as long each time."""
    longest_pause_s: float = 4.0
    give_up_s: float = 30.0
    """After which an interrupted source that does not come back is an error."""
    blocked_s: float = 30.0
    """After which a source that is stuck in one call is an error."""


class Capture:
    """Reads a source on a thread of its own into a mailbox, between `with` and its end.

    The source's end and its faults close the mailbox. A thread that is stuck in the source when
    the block ends is left behind: it is a daemon, and the program ends without it.
    """

    def __init__(
        self,
        source: Source,
        mailbox: Mailbox[VideoFrame],
        clock: Clock,
        patience: Patience,
    ) -> None:
        """Remember what to read; nothing is opened yet."""
        self._source = source
        self._mailbox = mailbox
        self._clock = clock
        self._patience = patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._origin: float | None = None
        self._called_at: float | None = None
        self._heard_at = clock.now()
        self._trouble: VideoError | None = None
        self.reads = Durations()
        """What getting a frame out of the source took."""
        self.reconnects = 0
        """How often an interrupted source came back."""

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._mailbox.close()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            logger.warning("%s did not let go; it is left behind", self._source.name)

    @property
    def trouble(self) -> str:
        """Return what keeps frames from coming, in one line; empty where nothing does."""
        trouble = self._trouble
        return "" if trouble is None else f"{trouble}; trying again"

    def check(self) -> None:
        """Refuse to wait any longer for a source that is stuck. Called by the main thread.

        Raises:
            VideoError: It has been in one call for too long.
        """
        called_at = self._called_at
        if called_at is None:
            return
        stuck_s = self._clock.now() - called_at
        if stuck_s > self._patience.blocked_s:
            raise VideoError(
                f"{self._source.name} has given nothing for {stuck_s:.0f} s and does not answer; "
                "check the camera or the network, and start again"
            )

    def _run(self) -> None:
        try:
            self._read_to_end()
        except BaseException as error:  # noqa: BLE001  # carried to the main thread
            self._mailbox.close(error)
        else:
            self._mailbox.close()

    def _read_to_end(self) -> None:
        pause_s = self._patience.first_pause_s
        while not self._stop.is_set():
            frames_before = self.reads.count
            try:
                self._read_once()
            except VideoError as error:
                # a fault while opening again what was interrupted is part of the interruption
                if not isinstance(error, SourceInterruptedError) and self._trouble is None:
                    raise
                if self.reads.count > frames_before:
                    pause_s = self._patience.first_pause_s
                self._called_at = None
                self._bear(error)
                self._clock.sleep(pause_s, self._stop)
                pause_s = min(2.0 * pause_s, self._patience.longest_pause_s)
            else:
                return

    def _bear(self, error: VideoError) -> None:
        silent_s = self._clock.now() - self._heard_at
        if silent_s > self._patience.give_up_s:
            raise VideoError(
                f"{self._source.name} did not come back within {silent_s:.0f} s: {error}"
            ) from error
        if self._trouble is None:
            logger.warning("%s: %s; trying again", self._source.name, error)
        self._trouble = error

    def _read_once(self) -> None:
        """Open the source and read until it ends or the block does."""
        self._origin = None
        self._called_at = self._clock.now()
        with self._source as source:
            while not self._stop.is_set():
                started = self._called_at = self._clock.now()
                frame = source.read()
                self._called_at = None
                if frame is None:
                    return
                self._heard_at = self._clock.now()
                self.reads.add(1e3 * (self._heard_at - started))
                if self._trouble is not None:
                    self._trouble = None
                    self.reconnects += 1
                self._mailbox.put(self._at_its_time(frame) if source.paced else frame)

    def _at_its_time(self, frame: VideoFrame) -> VideoFrame:
        """Wait until a file's frame is due, as if a camera took it then."""
        now, time_s = self._clock.now(), frame.time_s
        if time_s is None:
            return frame
        if self._origin is None or now - (self._origin + time_s) > _LATE_S:
            # a reader that fell behind goes on from here, rather than race after lost time
            self._origin = now - time_s
        self._clock.sleep(self._origin + time_s - now, self._stop)
        return frame.captured_at(self._clock.now())
