"""Restore folders of difficult images and videos, load difficult checkpoints; print what came out.

    python benchmarks/cases.py CASES

CASES holds `image/`, `video/` and `checkpoint/`, with files of the names below; a file that is not
there is left out. The tests make such files themselves (`tests/images`, `tests/video/files`,
`tests/checkpoints`). The exit code is 1 where an outcome differs.
"""

from __future__ import annotations

import io
import itertools
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image, ImageStat
from rich.console import Console
from rich.table import Table

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.images.metadata import ExifBlock
from mirnet_edge.runtime.restore import restore_files
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.images.contract import Frames


class Brightener(NullRunner):
    """Doubles every level, so that a copy made before is told from one made after."""

    def run(self, frames: Frames) -> Frames:
        """Return frames twice as bright."""
        bright: Frames = np.minimum(2 * super().run(frames).astype(int), 255).astype(np.uint8)
        return bright


class Lines(logging.Handler):
    """Collects what the library logs."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        self.texts.append(record.getMessage())


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def _thumbnail(before: Path, after: Path) -> str:
    with Image.open(after) as image:
        exif = ExifBlock(image.info["exif"][6:])
    place = exif.number("I", exif.next_place)
    if not place:
        return "no thumbnail"
    tags = {entry.tag: exif.value(entry) for entry in exif.directory(place)[0]}
    start, length = tags[0x0201], tags[0x0202]
    thumbnail = Image.open(io.BytesIO(exif.block[start : start + length]))
    levels = [sum(ImageStat.Stat(one.convert("RGB")).mean) / 3 for one in (thumbnail, _open(after))]
    return f"{'new' if abs(levels[0] - levels[1]) < 3 else 'old'} thumbnail"


def _kept(before: Path, after: Path) -> str:
    one, two = _open(before), _open(after)
    names = {"dpi", "xmp", "photoshop", "comment", "icc_profile"} & set(one.info)
    lost = sorted(
        name
        for name in names
        if (
            np.max(np.abs(np.subtract(one.info[name], two.info.get(name, (0, 0))))) > 0.5
            if name == "dpi"
            else one.info[name] != two.info.get(name)
        )
    )
    return f"{', '.join(sorted(names))} kept" if not lost else f"lost: {lost}"


def _mode(before: Path, after: Path) -> str:
    return _open(after).mode


def _format(before: Path, after: Path) -> str:
    image = _open(after)
    return f"{image.format} {image.width}x{image.height}"


IMAGES: dict[str, tuple[str, Callable[[Path, Path], str]]] = {
    "grey.png": ("L", _mode),
    "thumbnail.jpg": ("new thumbnail or no thumbnail", _thumbnail),
    "dpi_xmp_iptc.jpg": ("comment, dpi, photoshop, xmp kept", _kept),
    "dpi.png": ("dpi kept", _kept),
    "opaque_rgba_named.jpg": ("JPEG 240x160", _format),
    "reduced_copy.tif": ("TIFF 240x160", _format),
    "no_end_marker.jpg": ("lacks its end marker", _format),
    "lost_tail.jpg": ("is damaged", _format),
    "b.heic": ("its HEIF header cannot be read or pip install", _format),
    "d.avif": ("AVIF", _format),
    "f.jfif": ("JPEG", _format),
}
CHECKPOINTS = {
    "net_prefix.pth": "keys begin with 'net.'",
    "model_state_dict.pth": "loads",
    "thop.pth": "ignored",
    "empty_ema.pth": "loads",
}


VIDEOS: dict[str, tuple[str, ...]] = {
    "wma_sound.wmv": ("50 frames", "sound aac"),
    "stereo_pcm.avi": ("50 frames", "sound pcm"),
    "unknown_sound.mov": ("1 sound", "left out"),
    "joined.ts": ("100 frames", "4.0 s", "1 sound"),
    "cover_first.mp4": ("50 frames", "cover"),
    "cover_attached.mkv": ("50 frames", "cover"),
    "edit_list.mp4": ("42 frames", "nothing said"),
    "mirrored.mp4": ("50 frames", "turned"),
    "timecode_tag.mov": ("timecode",),
    "film.mkv": ("languages eng", "chapters", "subtitle", "attachment", "title"),
    "phone_tags.mov": ("com.apple.quicktime.make", "creation_time"),
    "alpha.webm": ("its transparency is kept",),
    "camcorder.MTS": ("25 frames", "1 sound"),
    "loop.gif": ("10 frames",),
    "hlg10.mov": ("yuv420p10le", "transfer 18", "primaries 9"),
    "interlaced.mp4": ("interlac",),
    "size_changes.mkv": ("50 frames", "bars"),
    "bframes.avi": ("steps 0.04",),
    "one_frame.mp4": ("1 frames", "0.0 s"),
    "gray8.mkv": ("gray",),
}
"""What must be in the description of each result, or in the lines that were printed."""


def describe_video(path: Path) -> str:
    """Return a video's frames, times, streams and tags, in words."""
    with av.open(path) as container:
        film = next(one for one in container.streams.video if not _is_cover(one))
        frames = list(container.decode(film))
        times = [float(one.pts * one.time_base) for one in frames]
        steps = sorted({round(two - one, 3) for one, two in itertools.pairwise(times)})
        first = frames[0]
        pixels = first.to_ndarray(format="rgb24").astype(int)
        words = [
            f"{len(frames)} frames", f"{times[-1] - times[0] + (steps or [0])[0]:.1f} s",
            f"steps {' '.join(map(str, steps[:3]))}", first.format.name,
            f"transfer {int(first.color_trc)}", f"primaries {int(first.color_primaries)}",
            f"{len(container.streams.audio)} sound",
            *(f"sound {one.codec_context.name}" for one in container.streams.audio),
            *(one.type for one in container.streams if one.type not in ("video", "audio")),
            *("cover" for one in container.streams.video if _is_cover(one)),
            *(["chapters"] if container.chapters() else []),
            *("turned" for one in first.side_data if one.type.name == "DISPLAYMATRIX"),
            *(["gray"] if np.ptp(pixels, axis=2).max() <= 1 else []),
            *(f"languages {one.metadata['language']}" for one in container.streams
              if "language" in one.metadata),
            *sorted(container.metadata),
            *sorted({key for one in container.streams for key in one.metadata}),
        ]  # fmt: skip
    return ", ".join(dict.fromkeys(words))


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def restore_video_case(path: Path, out: Path) -> str:
    """Return what restoring a video gave, in words."""
    try:
        done = restore_video(path, single_runner_restorer(NullRunner()), out / path.name)
    except MirnetEdgeError as error:
        return str(error).replace(f"{path} ", "")
    said = [*done.notes, *([done.shortfall] if done.shortfall else [])]
    return "; ".join([describe_video(done.output), *(said or ["nothing said"])])


def restore_case(path: Path, out: Path, lines: Lines) -> str:
    """Return what restoring a file gave, in words."""
    lines.texts.clear()
    failures: list[str] = []
    done = restore_files(
        [path], Brightener(), out, on_failed=lambda _, error: failures.append(str(error))
    )
    if failures:
        return failures[0].replace(f"{path} ", "")
    read = IMAGES[path.name][1](path, done[0].output)
    return "; ".join([read, *(text.replace(f"{path} ", "") for text in lines.texts)])


def load_case(path: Path, lines: Lines) -> str:
    """Return what loading a checkpoint gave, in words."""
    from mirnet_edge import checkpoints

    lines.texts.clear()
    try:
        loaded = checkpoints.load(path)
    except MirnetEdgeError as error:
        return str(error).replace(f"{path} ", "")
    return "; ".join([f"loads: {loaded.architecture}", *lines.texts]).replace(f"{path}", "")


def main(cases: Path) -> int:
    """Print the table; return 1 where an outcome differs."""
    lines = Lines()
    logging.getLogger("mirnet_edge").addHandler(lines)
    logging.getLogger("mirnet_edge").propagate = False
    table = Table("file", "expected", "got", "")
    differs = 0
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            (path, IMAGES[path.name][0], restore_case(path, Path(folder), lines))
            for path in sorted((cases / "image").glob("*"))
            if path.name in IMAGES
        ]
        rows += [
            (path, CHECKPOINTS[path.name], load_case(path, lines))
            for path in sorted((cases / "checkpoint").glob("*"))
            if path.name in CHECKPOINTS
        ]
        videos = [
            (path, VIDEOS[path.name], restore_video_case(path, Path(folder)))
            for path in sorted((cases / "video").glob("*"))
            if path.name in VIDEOS
        ]
    for path, parts, got in videos:
        absent = [part for part in parts if part not in got]
        differs += bool(absent)
        table.add_row(path.name, ", ".join(parts), got, f"DIFFERS: {absent}" if absent else "")
    for path, expected, got in rows:
        fits = any(part in got for part in expected.split(" or "))
        differs += not fits
        table.add_row(path.name, expected, got, "" if fits else "DIFFERS")
    Console(width=160).print(table)
    return int(differs > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
