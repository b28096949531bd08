"""Restore video files and compare output to input: frames, timestamps, sound, metadata.

    python benchmarks/video_files.py CLIPS... --bundle build/any --out build/films

Sound is compared packet by packet, byte by byte. Exit code 1: something differs.
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
class VideoContent:
    """Frames, sound and metadata of a video file."""

    times: list[Fraction]
    """Timestamps of its frames, in seconds."""
    sound: list[bytes]
    size: str
    rotation: int
    color: ColorTags
    header_frames: int
    """Number of frames that the container states; 0 where it does not."""

    @property
    def steps(self) -> str:
        """Shortest and longest time between two frames, in ms."""
        steps = [1e3 * float(b - a) for a, b in pairwise(self.times)]
        return f"{min(steps):.1f} to {max(steps):.1f}"


def read_content(path: Path) -> VideoContent:
    """Return the content of a file, as far as it decodes."""
    with VideoReader(path) as reader:
        frames = [one for packet in reader.packets() for one in reader.decode(packet)]
        header_frames = reader.frame_count
    first = frames[0]
    with av.open(str(path)) as container:
        sound = [
            bytes(packet)
            for stream in container.streams.audio[:1]
            for packet in container.demux(stream)
            if packet.size
        ]
    return VideoContent(
        times=[frame.pts * frame.time_base for frame in frames],
        sound=sound,
        size=f"{first.width}x{first.height}",
        rotation=first.rotation,
        color=read_color_tags(first),
        header_frames=header_frames,
    )


def format_row(
    clip: Path, before: VideoContent, after: VideoContent, rate: float
) -> tuple[str, bool]:
    """Return a table row, and whether timestamps, sound and metadata are equal."""
    # a result begins at 0
    same = [time - before.times[0] for time in before.times] == [
        time - after.times[0] for time in after.times
    ]
    same_sound = before.sound == after.sound
    tags = (before.size, before.rotation, before.color) == (
        after.size, after.rotation, after.color
    )  # fmt: skip
    sound = f"{len(before.sound)} packets, {'equal bytes' if same_sound else 'NOT equal'}"
    line = (
        f"| {clip.name} | {before.size} | {before.header_frames or 'unknown'} | "
        f"{len(before.times)} | {len(after.times)} | {before.steps} | "
        f"{'all equal' if same else 'NOT equal'} | "
        f"{sound if before.sound else 'none'} | {'equal' if tags else 'NOT equal'} | {rate:.1f} |"
    )
    return line, same and same_sound and tags


def main() -> None:
    """Print a table row for each clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print("| clip | size | frames in header | decoded | written | frame interval (ms) | "
          "timestamps | sound | size, rotation, color | throughput (fps) |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    equal = True
    with open_bundle(arguments.bundle) as runner:
        for clip in arguments.clips:
            fingerprint = sha256_of(arguments.bundle / FILE_NAME)
            done = restore_video(
                clip, single_runner_restorer(runner), arguments.out, fingerprint=fingerprint
            )
            line, same = format_row(
                clip, read_content(clip), read_content(done.output), done.frames / done.seconds
            )
            print(line, flush=True)
            if done.shortfall:
                print(f"  {done.shortfall}", file=sys.stderr)
            equal = equal and same
    sys.exit(int(not equal))


if __name__ == "__main__":
    main()
