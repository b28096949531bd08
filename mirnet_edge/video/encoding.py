"""Writing videos with PyAV: whole or not at all, with the colour tags and times they are given."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.files import replaced_file
from mirnet_edge.video.decoding import SWSCALE_MATRIX, SWSCALE_RANGE, exact, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from av import VideoFrame as Coded
    from av.video.codeccontext import VideoCodecContext
    from av.video.reformatter import VideoReformatter

    from mirnet_edge.images import Frame
    from mirnet_edge.video.frames import Colour, Matrix, Shown

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
"""Of the files that are written: containers that hold H.264 with any timestamps."""
PART_SUFFIX = ".nut"
"""Of a part that is to be joined with others: a container that keeps any time base."""
_H273_MATRIX: dict[Matrix, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
# near the eye's limit: restoring is not to be undone by the file it is kept in
_QUALITY = {"crf": "16", "preset": "veryfast"}
_TICK = Fraction(1, 90_000)


class VideoWriter:
    """An H.264 file that is being written; it appears under its name when `with` ends well."""

    def __init__(
        self,
        path: Path,
        *,
        height: int,
        width: int,
        time_base: Fraction,
        rate: Fraction | None,
        colour: Colour,
        aspect: Fraction | None = None,
        quality: Mapping[str, str] = _QUALITY,
    ) -> None:
        """Say what is to be written; nothing is yet.

        Args:
            path: Its suffix is one of `SUFFIXES`, or `PART_SUFFIX`.
            height: Of the frames.
            width: Of the frames; where a side is odd, chroma is stored at full size (4:4:4).
            time_base: Seconds per unit of the times.
            rate: Frames per second on average, for the encoder's own use.
            colour: By which frames are coded, and tagged.
            aspect: Width over height of a pixel; None for square ones.
            quality: Options of libx264.

        Raises:
            OptionError: Another suffix.
        """
        if path.suffix.lower() not in (*SUFFIXES, PART_SUFFIX):
            raise OptionError(
                f"expected a video name ending in {', '.join(SUFFIXES)}, found {path.name}"
            )
        self._path = path
        self._size = (height, width)
        self._time_base, self._rate = time_base, rate
        self._colour, self._aspect = colour, aspect
        self._quality = dict(quality)
        self._stack = ExitStack()
        self.frames = 0
        """How many were written."""

    def __enter__(self) -> VideoWriter:
        av = require("av", "writing video")
        from av.video.reformatter import VideoReformatter

        with ExitStack() as stack:
            part = stack.enter_context(replaced_file(self._path))
            self._container = stack.enter_context(av.open(str(part), "w"))
            self._reformatter = VideoReformatter()
            self._video = self._container.add_stream(
                "libx264", rate=self._rate or Fraction(30), options=self._quality
            )
            self._set_up_video()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)  # keeps nothing
            return
        with self._stack, naming(self._path):
            if self.frames:
                self._container.mux(self._video.encode(None))

    def write(self, pixels: Frame, pts: int) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB of the writer's size.
            pts: In units of the time base; rises from frame to frame.

        Raises:
            VideoError: Another size, or it cannot be written.
        """
        if pixels.shape[:2] != self._size:
            raise VideoError(
                f"{self._path}: expected frames of {self._size[1]}x{self._size[0]}, found "
                f"{pixels.shape[1]}x{pixels.shape[0]}; write another file for another size"
            )
        layout = self._video.codec_context.pix_fmt or "yuv420p"
        frame = luma_and_chroma(self._reformatter, pixels, layout, self._colour)
        frame.pts, frame.time_base = pts, self._time_base
        with naming(self._path):
            self._container.mux(self._video.encode(frame))
        self.frames += 1

    def _set_up_video(self) -> None:
        height, width = self._size
        context = self._video.codec_context
        context.height, context.width = height, width
        context.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        context.time_base = self._video.time_base = self._time_base
        tag(context, self._colour)
        if self._aspect:
            context.sample_aspect_ratio = self._aspect


def tag(context: VideoCodecContext, colour: Colour) -> None:
    """Write into an encoder's stream how its frames are coded."""
    context.colorspace = _H273_MATRIX[colour.matrix]
    context.color_range = SWSCALE_RANGE[colour.range]
    context.color_trc = colour.transfer
    context.color_primaries = colour.primaries


def luma_and_chroma(
    reformatter: VideoReformatter, pixels: Frame, layout: str, colour: Colour
) -> Coded:
    """Return (H, W, 3) uint8 RGB as an encoder takes it, coded by a matrix and range.

    Args:
        reformatter: Keeps its tables from frame to frame.
        pixels: The frame.
        layout: FFmpeg's name of how luma and chroma are stored.
        colour: How they are coded.
    """
    from av import VideoFrame

    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return reformatter.reformat(
        rgb,
        format=layout,
        src_color_range=SWSCALE_RANGE["full"],
        dst_colorspace=SWSCALE_MATRIX[colour.matrix],
        dst_color_range=SWSCALE_RANGE[colour.range],
        interpolation=exact(),
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what PyAV raises while it writes PATH into one line.

    Raises:
        VideoError: It cannot be written.
    """
    av = require("av", "writing video")
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be written: {reason_of(error)}. Free the disk, or choose another name"
        ) from error


class Recorder:
    """A sink that writes what is shown while recording is on, one file per time it was switched on.

    Frames keep the times at which they were captured; those that live video drops are missing.
    To be used through `Detached`: encoding takes longer than a sink may.
    """

    def __init__(self, path: Path) -> None:
        """Remember the name; later recordings are called STEM-2, STEM-3.

        Raises:
            OptionError: Its suffix is none that is written.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError(
                f"--record must end in {', '.join(SUFFIXES)}, found {path.name}; rename it"
            )
        require("av", "recording")
        self._path = path
        self._writer: VideoWriter | None = None
        self._size: tuple[int, int] | None = None
        self._origin_s = 0.0
        self._last_pts = -1
        self.files: list[Path] = []
        """Those begun, in order."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish()  # what was recorded is kept, whatever ended the run

    def show(self, shown: Shown) -> None:
        """Write a frame, where recording is on and the frame is a new one.

        Raises:
            VideoError: It cannot be written.
        """
        if not shown.figures.recording:
            self._finish()
            return
        if self._writer is None or shown.after.shape[:2] != self._size:
            self._begin(shown)
        pts = round((shown.before.captured_s - self._origin_s) / _TICK)
        if self._writer is not None and pts > self._last_pts:
            self._writer.write(shown.after, pts)
            self._last_pts = pts

    def _begin(self, shown: Shown) -> None:
        self._finish()
        number = len(self.files) + 1
        name = self._path.name if number == 1 else f"{self._path.stem}-{number}{self._path.suffix}"
        height, width = shown.after.shape[:2]
        writer = VideoWriter(
            self._path.with_name(name), height=height, width=width, time_base=_TICK, rate=None,
            colour=shown.before.colour,
        )  # fmt: skip
        self._writer = writer.__enter__()
        self.files.append(self._path.with_name(name))
        self._size, self._last_pts = (height, width), -1
        self._origin_s = shown.before.captured_s

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(None, None, None)
