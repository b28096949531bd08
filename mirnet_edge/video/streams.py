"""Files that stand for a camera, and network streams: sources that PyAV reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import SourceInterruptedError, VideoError
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.decoding import (
    RgbDecoder,
    VideoReader,
    colour_of,
    readable,
    reason_of,
    upright,
)
from mirnet_edge.video.frames import VideoFrame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from av import VideoFrame as Decoded
    from av.container import InputContainer

    from mirnet_edge.video.clock import Clock

_OPEN_S, _SILENT_S = 10.0, 5.0
# RTSP's datagrams lose what a busy network drops: smeared pictures. Nothing may be held back.
_LOW_DELAY = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class FileSource:
    """A video file at its own pace, as if a camera showed it. Turned upright."""

    def __init__(
        self, path: Path, *, size: tuple[int, int] | None = None, clock: Clock = REAL_CLOCK
    ) -> None:
        """Remember the file; nothing is read yet.

        Args:
            path: Of any format that FFmpeg knows.
            size: (height, width) to scale the stored frames to; None for their own.
            clock: Stamps the frames.
        """
        self._path, self._size, self._clock = path, size, clock
        self._reader = VideoReader(path)
        self._frames: Iterator[Decoded] = iter(())
        self._index = 0
        self._rate: float | None = None

    @property
    def name(self) -> str:
        """Return the file's name, without its folder."""
        return self._path.name

    @property
    def paced(self) -> bool:
        """Return True: a file is read faster than it plays."""
        return True

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames, None before it was opened."""
        return 1.0 / self._rate if self._rate else None

    def __enter__(self) -> FileSource:
        self._decoder = RgbDecoder(self._size)
        reader = self._reader.__enter__()
        self._rate = float(reader.rate) if reader.rate else None
        self._frames = (
            frame for packet in reader.packets() for frame in reader.decoded(packet)
        )  # fmt: skip
        self._index = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._frames = iter(())
        self._reader.__exit__(kind, error, traceback)

    def read(self) -> VideoFrame | None:
        """Return the next frame, None after the last that can be decoded.

        Raises:
            VideoError: Not one can be.
        """
        frame = next(self._frames, None)
        if frame is None:
            if self._index == 0:
                raise VideoError(
                    f"{self._path} holds no frame that can be decoded; name another file"
                )
            return None
        read = _video_frame(frame, self._decoder, self._index, self._clock.now())
        self._index += 1
        return read


class StreamSource:
    """A network stream: RTSP over TCP, HTTP, RTMP, SRT or UDP."""

    def __init__(
        self, url: str, *, size: tuple[int, int] | None = None, clock: Clock = REAL_CLOCK
    ) -> None:
        """Remember the address; nothing is opened yet.

        Args:
            url: With its protocol.
            size: (height, width) to scale frames to; None for their own.
            clock: Stamps the frames.
        """
        self._url, self._size, self._clock = url, size, clock
        self._container: InputContainer | None = None
        self._frames: Iterator[tuple[Decoded, float]] = iter(())
        self._index = 0
        self._rate: float | None = None

    @property
    def name(self) -> str:
        """Return the address, without the password it may hold."""
        return without_password(self._url)

    @property
    def paced(self) -> bool:
        """Return False: its frames come when they come."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames, None where the stream does not say."""
        return 1.0 / self._rate if self._rate else None

    def __enter__(self) -> StreamSource:
        av = require("av", "reading network streams")
        self._decoder = RgbDecoder(self._size)
        options = _LOW_DELAY if self._url.startswith("rtsp") else {"fflags": "nobuffer"}
        with readable(self.name):
            self._container = av.open(self._url, options=options, timeout=(_OPEN_S, _SILENT_S))
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{self.name} sends no video; check the address")
        rate = self._container.streams.video[0].average_rate
        self._rate = float(rate) if rate else None
        self._frames = self._decoded(self._container)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._frames = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self) -> VideoFrame | None:
        """Return the next frame.

        Raises:
            SourceInterruptedError: The sender has gone silent or hung up.
        """
        av = require("av", "reading network streams")
        try:
            frame, received_s = next(self._frames)
        except StopIteration:
            raise SourceInterruptedError(f"{self.name} has ended") from None
        except av.FFmpegError as error:
            raise SourceInterruptedError(
                f"{self.name} was interrupted: {reason_of(error)}"
            ) from error
        read = _video_frame(frame, self._decoder, self._index, received_s)
        self._index += 1
        return read

    def _decoded(self, container: InputContainer) -> Iterator[tuple[Decoded, float]]:
        """Yield frames with the time at which the packet came that completed them."""
        av = require("av", "reading network streams")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # threads by frame hold back as many frames as there are
        for packet in container.demux(stream):
            received_s = self._clock.now()
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # the first packets before a key frame, say
                continue
            for frame in frames:
                yield frame, received_s


def without_password(url: str) -> str:
    """Return an address without the user and password it may hold: it may be told."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.rpartition('@')[2]}"


def _video_frame(
    frame: Decoded, decoder: RgbDecoder, index: int, captured_s: float
) -> VideoFrame:  # fmt: skip
    return VideoFrame(
        # not yet: a frame that is dropped needs no pixels, and they cost as much as decoding it
        pixels=lambda: upright(decoder.pixels(frame), frame.rotation),
        index=index,
        captured_s=captured_s,
        pts=frame.pts,
        time_base=frame.time_base,
        colour=colour_of(frame),
    )
