"""Where a video's result goes: its container, its name, what of the source is copied into it."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.video.encoding import SUFFIXES
from mirnet_edge.video.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from av.stream import Stream

    from mirnet_edge.video.decoding import VideoReader

logger = logging.getLogger(__name__)

_OTHERS = (".mp4", ".mkv")  # of results whose source's own container cannot hold H.264


def output_of(source: Path, copied: Sequence[Stream], out: Path) -> Path:
    """Return the result's file: in its own container where that holds H.264 with any timestamps."""
    suffix = source.suffix
    if suffix.lower() not in SUFFIXES:
        usual, lenient = _OTHERS
        codecs = {stream.codec_context.name for stream in copied}
        suffix = usual if codecs <= _codecs_of("mp4") else lenient
    return out / f"{source.stem}{suffix}"


def parts_of(output: Path) -> Path:
    """Return the folder that holds a result's finished segments until it is there."""
    return output.with_name(f".{output.name}.parts")


def has_parts(source: Path, out: Path) -> bool:
    """Say whether finished segments of a video lie in OUT, from which a run would go on."""
    return any(Segments(parts_of(output), {}).any() for output in _outputs(source, out))


def is_restored(source: Path, out: Path) -> bool:
    """Say whether OUT holds a video's result, whatever made it: results are there whole."""
    return any(
        output.is_file() and output.resolve() != source.resolve()
        for output in _outputs(source, out)
    )


def _outputs(source: Path, out: Path) -> set[Path]:
    return {out / f"{source.stem}{suffix}" for suffix in (source.suffix, *_OTHERS)}


def copied_streams(reader: VideoReader) -> list[Stream]:
    """Return the streams beside the pictures that can be copied; tells of those that cannot."""
    streams = reader.container.streams
    copied: list[Stream] = list(streams.audio)
    for stream in streams.subtitles:
        same = reader.path.suffix.lower() in SUFFIXES
        if same:
            copied.append(stream)
        else:
            logger.warning("%s: its subtitles are not kept in another container", reader.path)
    return copied


def _codecs_of(container: str) -> set[str]:
    av = require("av", "writing video")
    with av.open(io.BytesIO(), "w", format=container) as empty:
        return set(empty.supported_codecs)
