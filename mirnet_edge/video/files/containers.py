"""Choose the container of a result and what goes along, by trials with FFmpeg's own muxers."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.errors import VideoError
from mirnet_edge.video.files.decoding import ffmpeg_reason, is_cover

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from av.container import InputContainer
    from av.stream import Stream

    from mirnet_edge.video.files.inspection import VideoInspection
    from mirnet_edge.video.files.muxing import OutputVideo

logger = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""FFmpeg's muxers of the containers that results are written in, by suffix."""
FALLBACK_SUFFIXES = (".mp4", ".mkv")
"""Where the source's container cannot hold the restored video."""
_NAMES = {"mp4": "MP4", "mov": "QuickTime", "matroska": "Matroska"}
_MOV_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"
# the loss of a track in one container, to be compared with that in another
_LOST_SOUND, _ENCODED_SOUND, _LOST_SUBTITLES, _LOST_OTHER = 1000, 100, 10, 1


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """What a result holds beside the restored video, in which container."""

    suffix: str
    copied: tuple[int, ...] = ()
    """Indices of the source's tracks that are copied."""
    encoded: tuple[int, ...] = ()
    """Indices of the source's sound tracks that are encoded as AAC."""
    covers: tuple[int, ...] = ()
    """Indices of the source's cover images."""
    keeps_attachments: bool = False
    keeps_chapters: bool = True
    keeps_timecode: bool = True
    keeps_metadata: bool = True
    notes: tuple[str, ...] = ()
    """What is changed or left out, in one line each."""

    @property
    def format(self) -> str:
        """Return FFmpeg's muxer."""
        return FORMATS[self.suffix.lower()]


def plan_output(
    source: Path,
    container: InputContainer,
    inspection: VideoInspection,
    video: OutputVideo,
    preferred: str,
) -> OutputPlan:
    """Return the container of a result and what goes along, proven with a packet of each track.

    Args:
        source: The file, for messages.
        container: The file, open.
        inspection: Of the file.
        video: The restored video stream.
        preferred: The suffix of the result's name.

    Raises:
        VideoError: The video itself cannot be muxed.
    """
    return _Planner(source, container, inspection, video).plan(preferred)


class _Planner:
    """Tries which tracks of one file the containers hold."""

    def __init__(
        self,
        source: Path,
        container: InputContainer,
        inspection: VideoInspection,
        video: OutputVideo,
    ) -> None:
        self._source, self._container = source, container
        self._inspection, self._video = inspection, video

    def plan(self, preferred: str) -> OutputPlan:
        plans = [self._plan_for(suffix) for suffix in self._suffixes(preferred)]
        plan, loss = min(plans, key=lambda one: one[1])
        first, first_loss = plans[0]
        if plan is not first:
            held = _NAMES[plan.format]
            lacking = _NAMES[first.format]
            note = f"the result is {held} ({plan.suffix}), which keeps its tracks as they are"
            plan = replace(plan, notes=(note, *plan.notes))
            logger.debug("%s: %d in %s, %d in %s", self._source, loss, held, first_loss, lacking)
        return self._prove(plan)

    def _suffixes(self, preferred: str) -> Sequence[str]:
        """Return the containers to choose from, the preferred one first."""
        is_mov = self._container.format.name == _MOV_FORMAT
        is_matroska = "matroska" in self._container.format.name
        if preferred.lower() in FORMATS:
            holds_source = is_matroska if FORMATS[preferred.lower()] == "matroska" else is_mov
            if holds_source or preferred.lower() != self._source.suffix.lower():
                return (preferred,)
        return (".mkv",) if is_matroska and not self._is_webm() else FALLBACK_SUFFIXES

    def _is_webm(self) -> bool:
        return self._source.suffix.lower() == ".webm"

    def _plan_for(self, suffix: str) -> tuple[OutputPlan, int]:
        """Return the plan for one container, and the loss in it."""
        plan, loss, notes = OutputPlan(suffix=suffix), 0, list[str]()
        name = _NAMES[plan.format]
        for stream in self._container.streams:
            if stream.index == self._inspection.scan.video:
                continue
            if stream.type == "video":
                plan, lost = self._with_cover(plan, stream)
            elif stream.type == "audio":
                plan, lost = self._with_sound(plan, stream)
            elif stream.type == "attachment":
                lost = 0 if plan.format == "matroska" else _LOST_OTHER
                plan = replace(plan, keeps_attachments=not lost)
            else:
                plan, lost = self._with_other(plan, stream)
            loss += lost
            if lost and stream.index in plan.encoded:
                notes.append(f"{_title(stream)} cannot be copied into {name}; it is encoded as AAC")
            elif lost:
                notes.append(f"{_title(stream)} is left out: {self._reason(stream, name)}")
        return replace(plan, notes=tuple(notes)), loss

    def _with_cover(self, plan: OutputPlan, stream: Stream) -> tuple[OutputPlan, int]:
        samples = self._inspection.samples.get(stream.index)
        if is_cover(stream) and samples and stream.codec_context is not None:
            kept = replace(plan, covers=(*plan.covers, stream.index))
            if not self._try(self._alone(kept, covers=(stream.index,))):
                return kept, 0
        return plan, _LOST_OTHER

    def _with_sound(self, plan: OutputPlan, stream: Stream) -> tuple[OutputPlan, int]:
        if stream.codec_context is None:
            return plan, _LOST_SOUND
        alone = self._alone(plan, copied=(stream.index,))
        if self._is_usual(stream, plan.format) and not self._try(alone):
            return replace(plan, copied=(*plan.copied, stream.index)), 0
        if not self._try(self._alone(plan, encoded=(stream.index,))):
            return replace(plan, encoded=(*plan.encoded, stream.index)), _ENCODED_SOUND
        return plan, _LOST_SOUND

    def _with_other(self, plan: OutputPlan, stream: Stream) -> tuple[OutputPlan, int]:
        if self._is_rewritten(stream):
            return plan, 0
        is_subtitle = stream.type == "subtitle"
        within_mov = plan.format != "matroska" and self._container.format.name == _MOV_FORMAT
        if (is_subtitle and stream.codec_context is not None) or within_mov:
            alone = self._alone(plan, copied=(stream.index,))
            if not self._try(alone):
                return replace(plan, copied=(*plan.copied, stream.index)), 0
        return plan, _LOST_SUBTITLES if is_subtitle else _LOST_OTHER

    def _is_usual(self, stream: Stream, container: str) -> bool:
        """Return whether players expect such sound there: few play PCM or Vorbis in MP4."""
        is_rare = stream.codec_context.name.startswith(("pcm_", "vorbis"))
        return not (container == "mp4" and is_rare and self._container.format.name != _MOV_FORMAT)

    def _is_rewritten(self, stream: Stream) -> bool:
        """Return whether a data track holds the timecode or chapters, which are written anew."""
        chapters = self._container.chapters()
        # QuickTime stores chapters as a track of text
        is_chapters = stream.type == "data" and chapters and stream.frames == len(chapters)
        return bool(is_chapters or (stream.type == "data" and "timecode" in stream.metadata))

    def _reason(self, stream: Stream, container: str) -> str:
        if stream.type == "video" and not is_cover(stream):
            return "one video track is restored"
        if stream.codec_context is None and stream.type in ("audio", "subtitle"):
            return "FFmpeg does not know its codec"
        return f"{container} cannot hold it"

    def _alone(self, plan: OutputPlan, **tracks: tuple[int, ...]) -> OutputPlan:
        """Return a plan of the same container with some tracks only."""
        return OutputPlan(
            suffix=plan.suffix, keeps_chapters=False, keeps_timecode=False, keeps_metadata=False,
            **tracks,  # type: ignore[arg-type]  # fields of tracks
        )  # fmt: skip

    def _prove(self, plan: OutputPlan) -> OutputPlan:
        """Return the plan, or the one next to it that can be muxed as a whole.

        Raises:
            VideoError: The video alone cannot be muxed.
        """
        for lacking, note in (({}, ""), *_smaller_plans(plan)):
            smaller = replace(plan, **lacking)  # type: ignore[arg-type]  # fields of plans
            reason = self._try(smaller)
            if not reason:
                return replace(smaller, notes=(*plan.notes, note) if note else plan.notes)
        raise VideoError(
            f"{self._source}: expected a video that {_NAMES[plan.format]} can hold, found one that "
            f"it cannot ({reason}). Choose another container, for example a name that ends in .mkv"
        )

    def _try(self, plan: OutputPlan) -> str:
        """Return why a plan cannot be muxed with the samples of its tracks; empty where it can."""
        av = require("av", "writing video")
        from mirnet_edge.video.files.muxing import OutputFile

        try:
            with OutputFile(io.BytesIO(), plan, self._container, self._inspection, self._video) as (
                output
            ):
                output.write_samples()
        except (av.FFmpegError, ValueError) as error:  # PyAV's for codecs that do not fit
            return ffmpeg_reason(error)
        return ""


def _smaller_plans(plan: OutputPlan) -> Iterator[tuple[dict[str, object], str]]:
    """Yield what to leave out of a plan that cannot be muxed, least first, with a line for it."""
    least: dict[str, object] = {}
    said: list[str] = []
    for name, value, what in (
        ("keeps_timecode", False, "timecode"),
        ("keeps_attachments", False, "attachments"),
        ("covers", (), "cover image"),
        ("keeps_chapters", False, "chapters"),
        ("keeps_metadata", False, "metadata"),
        ("copied", (), "copied tracks"),
        ("encoded", (), "sound"),
    ):
        least[name] = value
        if getattr(plan, name):
            said.append(what)
            yield dict(least), f"left out, because the container refuses it: {', '.join(said)}"


_KINDS = {"audio": "sound", "subtitle": "subtitles"}


def _title(stream: Stream) -> str:
    """Return how a track is named in messages."""
    kind = _KINDS.get(stream.type, stream.type)
    if stream.type == "video" and is_cover(stream):
        kind = "cover image"
    name = stream.codec_context.name if stream.codec_context is not None else "unknown"
    return f"track {stream.index} ({kind}, {name})"
