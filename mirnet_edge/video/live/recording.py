"""Record displayed frames to video files that stay playable when the disk is full."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import MirnetEdgeError, OptionError, VideoError
from mirnet_edge.files import hidden_sibling
from mirnet_edge.video.files.encoding import (
    SUFFIXES,
    EncodingOptions,
    FrameEncoder,
    convert_write_errors,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import ColorTags, DisplayedFrame

logger = logging.getLogger(__name__)

_TIME_BASE = Fraction(1, 90_000)
# a fragment a second, which a cut file can be played by; at the end an ordinary file
_FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}


class Recorder:
    """A sink that records displayed frames to video files, a new one each time it is switched on.

    Frames keep their times of capture; dropped frames are missing. Where a file cannot be written,
    for example on a full disk, the recording ends, what was written is kept and can be played,
    and the run goes on. Wrap it in `DetachedSink`: encoding takes longer than a sink may.
    """

    def __init__(self, path: Path, on_failed: Callable[[str], None] = logger.warning) -> None:
        """Store the file name; later recordings are named STEM-2, STEM-3.

        Args:
            path: The first recording; a file of that name is replaced once the recording ends.
            on_failed: Called with one line when a recording cannot go on, on this sink's thread.

        Raises:
            OptionError: Its suffix is not supported.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError(f"--record must end in {', '.join(SUFFIXES)}, found {path.name}")
        require("av", "recording")
        self._path = path
        self._on_failed = on_failed
        self._has_failed = False
        self._file: RecordingFile | None = None
        self._size: tuple[int, int] | None = None
        self._start_s = 0.0
        self._last_pts = -1
        self.files: list[Path] = []
        """The recordings so far, in order."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish_file()  # the recording is kept, whatever ended the run

    def show(self, shown: DisplayedFrame) -> None:
        """Write a frame, where recording is on and the frame is new."""
        if not shown.status.recording:
            self._has_failed = False
            self._finish_file()
        elif not self._has_failed:
            try:
                self._write(shown)
            except MirnetEdgeError as error:
                self._end_after(error)

    def _write(self, shown: DisplayedFrame) -> None:
        if self._file is None or shown.after.shape[:2] != self._size:
            self._start_file(shown)
        pts = round((shown.before.captured_s - self._start_s) / _TIME_BASE)
        if self._file is not None and pts > self._last_pts:
            self._file.write(shown.after, pts)
            self._last_pts = pts

    def _start_file(self, shown: DisplayedFrame) -> None:
        self._finish_file()
        number = len(self.files) + 1
        name = self._path.name if number == 1 else f"{self._path.stem}-{number}{self._path.suffix}"
        height, width = shown.after.shape[:2]
        path = self._path.with_name(name)
        self._file = RecordingFile(path, height=height, width=width, color=shown.before.color)
        self.files.append(path)
        self._size, self._last_pts = (height, width), -1
        self._start_s = shown.before.captured_s

    def _finish_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except MirnetEdgeError as error:
                self._end_after(error)

    def _end_after(self, error: MirnetEdgeError) -> None:
        """Report an error and record no more; the file so far is kept."""
        self._has_failed = True
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except MirnetEdgeError as second:  # expected: the disk is still full
                logger.debug("%s", second)
        kept = [path for path in self.files[-1:] if path.is_file()]
        self._on_failed(
            f"the recording ended: {error}" + "".join(f"; {path} is kept" for path in kept)
        )


class RecordingFile:
    """An H.264 file with any time stamps, playable up to its last second whatever ends it."""

    def __init__(self, path: Path, *, height: int, width: int, color: ColorTags) -> None:
        """Open the file, under a hidden name until it is closed.

        Args:
            path: Its suffix is one of `SUFFIXES`.
            height: Of the frames.
            width: Of the frames; where a side is odd, chroma is not subsampled (4:4:4).
            color: The color metadata, by which frames are coded.

        Raises:
            VideoError: It cannot be written.
        """
        av = require("av", "recording")
        self._path, self._part = path, hidden_sibling(path, f".part{path.suffix}")
        self.frames = 0
        """The number of frames written."""
        options = {} if path.suffix.lower() == ".mkv" else _FRAGMENTS
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._folder_error(error) from error
        with convert_write_errors(path):
            self._container = av.open(f"file:{self._part}", "w", options=options)
        encoding = EncodingOptions(
            height=height, width=width, time_base=_TIME_BASE, rate=None, color=color
        )
        self._encoder = FrameEncoder(self._container, encoding)

    def write(self, pixels: Frame, pts: int) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB of the file's size.
            pts: In units of 1 / 90000 s, increasing from frame to frame.

        Raises:
            VideoError: It cannot be written: the disk is full, for example.
        """
        with convert_write_errors(self._path):
            self._container.mux(self._encoder.encode(pixels, pts))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. A file without a frame is removed.

        Raises:
            VideoError: Its end cannot be written; what was written has the name all the same.
        """
        try:
            with convert_write_errors(self._path):
                if self.frames:
                    self._container.mux(self._encoder.flush())
                self._container.close()
        finally:
            self._give_name()

    def _give_name(self) -> None:
        try:
            if self.frames:
                self._part.replace(self._path)
            else:
                self._part.unlink(missing_ok=True)
        except OSError as error:
            raise self._folder_error(error) from error

    def _folder_error(self, error: OSError) -> VideoError:
        return VideoError(
            f"{self._path} cannot be written: {error.strerror}. Choose another folder"
        )
