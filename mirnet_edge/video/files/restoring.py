"""Restore video files: every frame at its own time, audio, subtitles and metadata kept."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mirnet_edge.dependencies import require
from mirnet_edge.errors import ContainerError, OptionError
from mirnet_edge.images.sixteen_bits import widen
from mirnet_edge.video.files.containers import plan_output
from mirnet_edge.video.files.decoding import RgbDecoder, VideoReader, read_color_tags
from mirnet_edge.video.files.deinterlacing import Deinterlacer
from mirnet_edge.video.files.encoding import (
    ALPHA_CODECS,
    DEEP,
    REPRODUCIBLE,
    EncodingOptions,
    VideoWriter,
    encode_sample,
)
from mirnet_edge.video.files.high_dynamic_range import DeepRestoring, enlarge, hdr_parameters
from mirnet_edge.video.files.inspection import (
    TRANSPARENCY,
    chroma_of,
    coarser_pixels,
    display_matrix,
    has_transparency,
    inspect_video,
    is_gray,
    lost_properties,
    stored_bits,
)
from mirnet_edge.video.files.muxing import OutputVideo, join_segments, output_path
from mirnet_edge.video.files.overlap import ReadAhead, WorkBehind
from mirnet_edge.video.files.segments import Segment, SegmentFolder, segments_folder
from mirnet_edge.video.files.timing import FrameTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    import numpy as np
    from av import VideoFrame as Decoded
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.files.containers import OutputPlan
    from mirnet_edge.video.files.decoding import Pixel
    from mirnet_edge.video.files.encoding import AlphaCodec
    from mirnet_edge.video.files.inspection import VideoInspection
    from mirnet_edge.video.restorer import Restorer

logger = logging.getLogger(__name__)

SEGMENT_FRAMES = 250
"""Frames per segment: libx264 sets a key frame after as many in any case."""


@dataclass(frozen=True, kw_only=True)
class RestoredVideo:
    """The result of restoring one video."""

    source: Path
    output: Path
    frames: int
    """Frames written: as many as could be decoded."""
    failed: int
    """Those of them that could not be restored, and are written unrestored."""
    width: int
    """Of the result."""
    height: int
    seconds: float
    """The time taken, decoding and encoding included."""
    resumed: int
    """Frames that an interrupted earlier run had restored."""
    shortfall: str
    """What is missing of a damaged file, in one line; empty where nothing is."""
    notes: tuple[str, ...] = ()
    """What is changed or left out, in one line each."""


def restore_video(
    source: Path,
    restorer: Restorer,
    out: Path,
    *,
    name: str | None = None,
    overwrite: bool = True,
    fingerprint: str = "",
    on_frame: Callable[[int, int | None], None] = lambda done, total: None,
) -> RestoredVideo:
    """Restore a video into a folder; the result is written atomically.

    Kept: the number of frames and the time of each, from 0; sound, subtitles, chapters, covers,
    attachments and metadata where a container holds them; orientation, color metadata, gray, chroma
    subsampling, and 10 or 12 bits where the source has more than 8. What is changed or left out is
    logged and returned in `notes`. That the result can be muxed is proven before the first frame is
    restored.

    Finished segments of 250 frames are kept beside the result until it is complete. An interrupted
    run resumes from them, and gives the same bytes as an uninterrupted one.

    Args:
        source: The file.
        restorer: Opened here where it is not yet.
        out: The folder; created where it is missing.
        name: Of the result; the source's where None. Its suffix says which container is preferred.
        overwrite: False refuses to replace a file that is there.
        fingerprint: Of the bundle or network. A run does not resume from segments with another.
        on_frame: Called after each frame with the number done, and the total where it is known.

    Raises:
        VideoError: It cannot be read or written, or has no frame that can be decoded.
        ContainerError: Matroska, too, refuses it.
        OptionError: The result would replace the source, or a file where `overwrite` is False.
        MirnetEdgeError: The folder cannot be written.
    """
    started = time.monotonic()
    size = _size(source)
    inspection = inspect_video(source)
    with VideoReader(source) as reader, restorer:
        preferred = Path(name or source.name).suffix
        if has_transparency(inspection.first_frame):
            preferred = _suffix_for_alpha(preferred)
        options = _encoding_options(reader, inspection, restorer.scale, preferred)
        video = _output_video(reader, inspection, options, restorer.scale)
        plan = plan_output(source, reader.container, inspection, video, preferred)
        output = output_path(source, plan, out, name)
        if output.resolve() == source.resolve():
            raise OptionError(f"--out {out} would replace {source}; choose another folder")
        if output.exists() and not overwrite:
            raise OptionError(f"{output} exists already; --overwrite replaces it")
        notes = _Notes(source, plan.notes)
        for line in _pixel_notes(options, inspection):
            notes.add(line)
        segments = SegmentFolder(
            segments_folder(output),
            _segment_fingerprint(source, restorer, fingerprint, options),
            options.segment_suffix,
        )  # fmt: skip
        frames = FrameReader(reader, inspection)
        with _SegmentWriter(source, restorer, segments, options, notes) as writer:
            if reader.lacks_alpha:
                writer.lost.add(TRANSPARENCY)
            with ReadAhead(writer.convert_all(frames)) as converted:
                for frame, pts, pixels in converted:
                    writer.add(frame, pts, pixels)
                    on_frame(writer.frames, _expected_frames(reader, inspection))
        shortfall = reader.shortfall(writer.frames, inspection.end_s)
    if frames.interlaced:
        notes.add("it is interlaced; its frames were deinterlaced (bwdif)")
    end_s = None
    if _size(source) != size:
        end_s = frames.end_s
        notes.add("it was written to while it was read; the result ends where its last frame was")
    job = _MuxingJob(
        source=source, segments=writer.finished, inspection=inspection, video=video,
        last_duration=frames.last_duration, end_s=end_s,
    )  # fmt: skip
    output = job.write_somehow(plan, output, out, name, notes, overwrite=overwrite)
    segments.remove()
    return RestoredVideo(
        source=source,
        output=output,
        frames=writer.frames,
        failed=sum(segment.failed for segment in writer.finished),
        width=options.width,
        height=options.height,
        seconds=time.monotonic() - started,
        resumed=writer.resumed,
        shortfall=shortfall,
        notes=notes.lines,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _MuxingJob:
    """What a result is muxed from."""

    source: Path
    segments: Sequence[Segment]
    inspection: VideoInspection
    video: OutputVideo
    last_duration: int | None
    end_s: Fraction | None

    def write(self, plan: OutputPlan, output: Path) -> None:
        """Write the result as planned.

        Raises:
            ContainerError: The container refuses a packet. The trial before the first frame has
                two of each track, and later ones may differ.
            VideoError: It cannot be written for another reason.
        """
        with VideoReader(self.source) as reader:
            join_segments(
                self.segments, output, plan, reader, self.inspection, self.video,
                last_duration=self.last_duration, end_s=self.end_s,
            )  # fmt: skip

    def write_somehow(
        self,
        plan: OutputPlan,
        output: Path,
        out: Path,
        name: str | None,
        notes: _Notes,
        *,
        overwrite: bool,
    ) -> Path:
        """Write the result as planned, or as Matroska where that is refused; return its file.

        Raises:
            VideoError: It cannot be written, or a file of that name is there.
        """
        try:
            self.write(plan, output)
        except ContainerError as error:
            with VideoReader(self.source) as reader:
                matroska = plan_output(
                    self.source, reader.container, self.inspection, self.video, ".mkv"
                )
            other = output_path(self.source, matroska, out, name)
            if other == output or (other.exists() and not overwrite):
                raise
            self.write(matroska, other)
            notes.add(f"{output.suffix} refused it at the end; the result is Matroska ({error})")
            return other
        return output


class _Notes:
    """What is changed or left out, said once in one line each."""

    def __init__(self, source: Path, lines: Sequence[str]) -> None:
        self._source = source
        self._lines: list[str] = []
        for line in lines:
            self.add(line)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def add(self, line: str) -> None:
        if line not in self._lines:
            self._lines.append(line)
            logger.warning("%s: %s", self._source, line)


class FrameReader:
    """Iterates over the decoded frames of a video, each with its PTS in the video's time base."""

    def __init__(self, reader: VideoReader, inspection: VideoInspection) -> None:
        self._reader, self._inspection = reader, inspection
        step = 1 / reader.rate if reader.rate else None
        self._times = FrameTimes(
            video_time_base(reader), step, in_order=inspection.in_order, delay=inspection.delay
        )
        self._deinterlacer = Deinterlacer()

    @property
    def interlaced(self) -> int:
        """Return how many interlaced frames there were."""
        return self._deinterlacer.frames

    @property
    def last_duration(self) -> int | None:
        """Return the duration of the last frame, None where the source states none."""
        return self._times.duration_of_last

    @property
    def end_s(self) -> Fraction:
        """Return where the last frame ends, in seconds of the result."""
        return self._times.end_s

    def __iter__(self) -> Iterator[tuple[Decoded, int]]:
        for frame in self._progressive_frames():
            yield frame, self._times.next_pts(frame)

    def _progressive_frames(self) -> Iterator[Decoded]:
        timeline = self._inspection.timeline()
        for packet in self._reader.packets():
            packet = timeline.corrected(packet)
            self._times.add_packet(packet)
            damaged = self._reader.damage.packets
            for frame in self._reader.decode(packet):
                yield from self._deinterlacer.add(frame)
            if self._reader.damage.packets > damaged:
                self._times.drop_packet(packet)
        yield from self._deinterlacer.flush()


class _SegmentWriter:
    """Restores the frames of one video and writes them, segment by segment."""

    def __init__(
        self,
        source: Path,
        restorer: Restorer,
        segments: SegmentFolder,
        options: EncodingOptions,
        notes: _Notes,
    ) -> None:
        self._source, self._restorer, self._segments = source, restorer, segments
        self._options, self._notes = options, notes
        self.finished = segments.read_finished()
        self.resumed = sum(segment.frames for segment in self.finished)
        scale = restorer.scale
        self._size = (options.height // scale, options.width // scale)
        self._decoder = RgbDecoder(self._size, keeps_aspect=True)
        self._deep = DeepRestoring(options.color) if options.is_deep else None
        if self._deep is not None and not restorer.takes_floats:
            notes.add(
                f"{restorer.configuration} gives 8 bits alone; they are written as {options.bits}. "
                "For all of them choose --backend openvino, onnxruntime or torch"
            )
        self._writer: VideoWriter | None = None
        self._encoding = WorkBehind()
        self._segment_frames = self._first_pts = self._failed = 0
        self._has_warned = False
        self.lost: set[str] = set()
        """What the restored frames lack, as it is said in messages."""
        self.frames = 0
        """The number of frames decoded."""

    def __enter__(self) -> _SegmentWriter:
        if self.finished:
            self._restorer.smoothing_state = self.finished[-1].smoothing_state
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish_segment()
        except BaseException as failure:
            self._discard_segment(failure)
            raise
        finally:
            self._encoding.close()
        if error is not None:
            self._discard_segment(error)
        elif self.lost:
            self._notes.add(f"the result lacks {', '.join(sorted(self.lost))}")

    def _discard_segment(self, error: BaseException) -> None:
        """Remove the segment that an error interrupted."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)
        self._segments.remove_if_empty()

    def convert_all(
        self, frames: Iterable[tuple[Decoded, int]]
    ) -> Iterator[tuple[Decoded, int, Frame | NDArray[np.uint16] | None]]:
        """Yield frames with their PTS and RGB pixels, None of those that an earlier run restored.

        For another thread than the rest of the class.
        """
        for place, (frame, pts) in enumerate(frames):
            if place < self.resumed:
                yield frame, pts, None
            elif self._deep is not None:
                yield frame, pts, self._decoder.deep_pixels(frame)
            else:
                yield frame, pts, self._decoder.pixels(frame)

    def add(self, frame: Decoded, pts: int, pixels: Frame | NDArray[np.uint16] | None) -> None:
        """Restore and write one frame, unless an earlier run did.

        Args:
            frame: As it was decoded.
            pts: In the video's time base.
            pixels: Of the frame, as `convert_all` gives them.
        """
        self.frames += 1
        if (frame.height, frame.width) != self._size:
            height, width = self._size
            self._notes.add(
                f"its frames change their size, to {frame.width}x{frame.height}; they are fitted "
                f"into {width}x{height} with black bars"
            )
        known = self.lost if self._options.alpha_codec is None else {*self.lost, TRANSPARENCY}
        self.lost.update(lost_properties(frame, but=known))
        if pixels is None:
            return
        after = self._restore(pixels)
        if self._options.alpha_codec is not None:
            after = self._with_alpha(after, frame)
        writer = self._writer or self._start_segment(pts)
        self._encoding.submit(functools.partial(writer.write, after, pts))
        self._segment_frames += 1
        if self._segment_frames == SEGMENT_FRAMES:
            self._finish_segment()

    def _start_segment(self, pts: int) -> VideoWriter:
        self._first_pts = pts
        path = self._segments.path(len(self.finished))
        self._writer = VideoWriter(path, self._options).__enter__()
        return self._writer

    def _finish_segment(self) -> None:
        """Close the current segment, where there is one, and write its record."""
        self._encoding.wait()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.__exit__(None, None, None)
        number = len(self.finished)
        segment = Segment(
            path=self._segments.path(number),
            frames=writer.frames,
            failed=self._failed,
            first_pts=self._first_pts,
            size=(self._options.height, self._options.width),
            smoothing_state=self._restorer.smoothing_state,
        )
        self._segment_frames = self._failed = 0
        self._segments.write_record(number, segment)
        self.finished.append(segment)

    def _restore(self, pixels: Frame | NDArray[np.uint16]) -> Frame | NDArray[np.uint16]:
        if self._deep is not None:
            deep, levels = self._deep, cast("NDArray[np.uint16]", pixels)
            return self._restore_or(
                lambda: deep.restore(levels, self._restorer), lambda: self._resize_deep(levels)
            )
        frame = cast("Frame", pixels)
        return self._restore_or(
            lambda: self._restorer.restore(frame), lambda: self._restorer.resize_unrestored(frame)
        )

    def _with_alpha(
        self, restored: Frame | NDArray[np.uint16], frame: Decoded
    ) -> NDArray[np.uint16]:
        """Return (H, W, 4): a restored frame of 16 bits with the alpha of its source."""
        import numpy as np

        levels = restored if restored.dtype == np.uint16 else widen(cast("Frame", restored))
        alpha = self._decoder.alpha(frame)
        if alpha.shape != levels.shape[:2]:
            alpha = enlarge(alpha, levels.shape[:2])
        return np.dstack([levels, alpha])

    def _restore_or(
        self, restore: Callable[[], NDArray[Pixel]], unrestored: Callable[[], NDArray[Pixel]]
    ) -> NDArray[Pixel]:
        """Return the restored frame, or the unrestored one where restoring fails."""
        try:
            return restore()
        except Exception as error:  # noqa: BLE001  # the frame is written unrestored instead
            if not self._has_warned:
                logger.warning("%s: a frame was not restored: %s", self._source, error)
            self._has_warned = True
            self._failed += 1
            return unrestored()

    def _resize_deep(self, levels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        size = (self._options.height, self._options.width)
        return levels if levels.shape[:2] == size else enlarge(levels, size)


def _size(source: Path) -> int:
    """Return a file's size, 0 where it is missing, which reading it says."""
    return source.stat().st_size if source.is_file() else 0


def video_time_base(reader: VideoReader) -> Fraction:
    """Return the seconds per unit of a video's PTS."""
    return reader.stream.time_base or Fraction(1, 90_000)


_ALPHA_TITLES: dict[AlphaCodec, str] = {
    "prores_ks": "ProRes 4444 in QuickTime", "ffv1": "FFV1 in Matroska",
}  # fmt: skip
_OPAQUE_SUFFIXES = (".mp4", ".m4v", ".gif")
"""Of results that are wanted small and for every player, where that loses transparency."""


def _suffix_for_alpha(preferred: str) -> str:
    """Return the suffix of a container that holds transparency, unless another was named."""
    if preferred.lower() in (*ALPHA_CODECS, *_OPAQUE_SUFFIXES):
        return preferred
    return ".mkv"


def _encoding_options(
    reader: VideoReader, inspection: VideoInspection, scale: int, suffix: str
) -> EncodingOptions:
    """Return how the restored frames of a video are encoded.

    Args:
        reader: Of the source.
        inspection: Of the source.
        scale: Of the restorer.
        suffix: The preferred one of the result.
    """
    frame = inspection.first_frame
    alpha_codec = ALPHA_CODECS.get(suffix.lower()) if has_transparency(frame) else None
    return EncodingOptions(
        height=scale * frame.height,
        width=scale * frame.width,
        time_base=video_time_base(reader),
        rate=reader.rate,
        color=read_color_tags(frame),
        aspect=reader.stream.sample_aspect_ratio,
        is_gray=is_gray(frame),
        bits=stored_bits(frame),
        chroma="420" if reader.container.format.name == "gif" else chroma_of(frame),
        alpha_codec=alpha_codec,
        hdr_parameters=hdr_parameters(frame),
    )


def _pixel_notes(options: EncodingOptions, inspection: VideoInspection) -> Iterator[str]:
    """Yield in one line each how the pixels of a result differ from the source's."""
    if options.alpha_codec is not None:
        yield f"its transparency is kept: the result is {_ALPHA_TITLES[options.alpha_codec]}"
        if options.alpha_codec == "ffv1" and options.aspect not in (None, 1):
            yield f"the result lacks its pixel aspect ratio, {options.aspect}"
    yield from coarser_pixels(inspection.first_frame, options.pixel_format)


def _output_video(
    reader: VideoReader, inspection: VideoInspection, options: EncodingOptions, scale: int
) -> OutputVideo:
    """Return the restored video stream, as it is muxed."""
    matrix = display_matrix(inspection.first_frame)
    if matrix is not None and scale > 1:  # its third row moves the image, in pixels
        matrix = (*matrix[:6], scale * matrix[6], scale * matrix[7], matrix[8])
    return OutputVideo(
        sample=encode_sample(options),
        time_base=options.time_base,
        rate=reader.rate,
        matrix=matrix,
        aspect=None if options.alpha_codec is None else options.aspect,
    )


def _segment_fingerprint(
    source: Path, restorer: Restorer, fingerprint: str, options: EncodingOptions
) -> dict[str, object]:
    """Return all that a restored segment depends on and that can change between two runs."""
    av = require("av", "writing video")
    stat = source.stat()
    return {
        "source": [source.name, stat.st_size, stat.st_mtime_ns],
        "restorer": [restorer.configuration, fingerprint],
        "frames": SEGMENT_FRAMES,
        "encoder": [REPRODUCIBLE, DEEP, options.pixel_format],
        "versions": [version("mirnet-edge"), av.__version__, av.library_versions],
    }


def _expected_frames(reader: VideoReader, inspection: VideoInspection) -> int | None:
    known = reader.frame_count or inspection.packets
    if known:
        return known
    if reader.duration_s and reader.rate:
        return round(reader.duration_s * float(reader.rate))
    return None
