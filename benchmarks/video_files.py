"""Restore video files and hold what came out against what went in: frames, times, sound, tags.

    python benchmarks/video_files.py CLIPS... --bundle build/any --out build/films

Sound is compared packet by packet, byte by byte. A row whose "kept" says no makes the exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av

from mirnet_edge.files import sha256_of
from mirnet_edge.manifest import FILE_NAME
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.video.files.decoding import VideoReader, read_color_tags
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

if TYPE_CHECKING:
    from fractions import Fraction

    from mirnet_edge.video.frames import ColorTags


@dataclass(frozen=True)
class Told:
    """What a file is made of."""

    times: list[Fraction]
    """Of its frames, in seconds."""
    sound: list[bytes]
    size: str
    rotation: int
    color: ColorTags
    promised: int

    @property
    def steps(self) -> str:
        """Return the shortest and the longest time between two frames, in ms."""
        steps = [1e3 * float(b - a) for a, b in pairwise(self.times)]
        return f"{min(steps):.1f} to {max(steps):.1f}"


def told(path: Path) -> Told:
    """Return what a file is made of, as far as it decodes."""
    with VideoReader(path) as reader:
        frames = [one for packet in reader.packets() for one in reader.decode(packet)]
        promised = reader.frame_count
    first = frames[0]
    with av.open(str(path)) as container:
        sound = [
            bytes(packet)
            for stream in container.streams.audio[:1]
            for packet in container.demux(stream)
            if packet.size
        ]
    return Told(
        times=[frame.pts * frame.time_base for frame in frames],
        sound=sound,
        size=f"{first.width}x{first.height}",
        rotation=first.rotation,
        color=read_color_tags(first),
        promised=promised,
    )


def row(clip: Path, before: Told, after: Told, rate: float) -> tuple[str, bool]:
    """Return a line of the table, and whether all is kept."""
    same = before.times == after.times
    heard = before.sound == after.sound
    tags = (before.size, before.rotation, before.color) == (
        after.size, after.rotation, after.color
    )  # fmt: skip
    sound = f"{len(before.sound)} packets, {'the same bytes' if heard else 'NOT the same'}"
    line = (
        f"| {clip.name} | {before.size} | {before.promised or 'not said'} | {len(before.times)} | "
        f"{len(after.times)} | {before.steps} | {'all equal' if same else 'NOT equal'} | "
        f"{sound if before.sound else 'none'} | {'kept' if tags else 'NOT kept'} | {rate:.1f} |"
    )
    return line, same and heard and tags


def main() -> None:
    """Print one row per clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print("| clip | size | frames promised | that decode | written | ms between frames | times |"
          " sound | size, rotation, color | fps |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    kept = True
    with open_bundle(arguments.bundle) as runner:
        for clip in arguments.clips:
            made_by = sha256_of(arguments.bundle / FILE_NAME)
            done = restore_video(
                clip, single_runner_restorer(runner), arguments.out, made_by=made_by
            )
            line, same = row(clip, told(clip), told(done.output), done.frames / done.seconds)
            print(line, flush=True)
            if done.shortfall:
                print(f"  {done.shortfall}", file=sys.stderr)
            kept = kept and same
    sys.exit(int(not kept))


if __name__ == "__main__":
    main()
