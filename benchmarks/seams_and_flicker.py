"""What context anchoring is worth: seams of tiles, flicker of video, ghosts at cuts, and its cost.

    python benchmarks/seams_and_flicker.py seams build/low-light --images night
    python benchmarks/seams_and_flicker.py flicker build/low-light --video night_bridge_720p.mp4
    python benchmarks/seams_and_flicker.py still build/low-light --images night
    python benchmarks/seams_and_flicker.py cost build/plain build/low-light

Bundles are made with mirnet-export --anchored; `cost` takes one made without it first.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mirnet_edge
from mirnet_edge.bench.quality import still_clip
from mirnet_edge.images.contract import LUMA
from mirnet_edge.images.files import read_image
from mirnet_edge.metrics import flicker, psnr
from mirnet_edge.runtime.measure import measure_interleaved, p50
from mirnet_edge.runtime.restore import find_images
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.runtime.tiling import TileAxis, tile_runner
from mirnet_edge.video.live.sources import read_clip

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame, Frames
    from mirnet_edge.runtime.runner import ContextRunner, Runner


class WithoutVectors:
    """A runner whose vectors nobody knows of."""

    def __init__(self, runner: Runner) -> None:
        """Hide those of RUNNER."""
        self.name, self.multiple, self.scale = runner.name, runner.multiple, runner.scale
        self.run = runner.run
        self._runner = runner

    def __enter__(self) -> WithoutVectors:
        """Open the runner."""
        self._runner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self._runner.__exit__(None, None, None)


def seam_energy(tiles: Frame, whole: Frame, columns: list[int]) -> float:
    """Return the mean step, in 8-bit levels, that tiling adds between the columns of a cut.

    Of the difference to the whole frame, so that edges of the image itself do not count.
    """
    error = (tiles.astype(np.float64) - whole) @ LUMA
    steps = [np.abs(error[:, at] - error[:, at - 1]).mean() for at in columns]
    return float(np.mean(steps)) if steps else 0.0  # an image no wider than a tile has no seam


def seams(runner: ContextRunner, images: list[Frame], side: int) -> None:
    """Print one line per overlap: PSNR to the whole frame, largest error and seam energy."""
    print("| overlap | own pools: dB | seam | frame's vectors: dB | worst level | seam |"
          " vectors by tiles: dB | worst level | seam |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    reach = runner.image.reach
    for overlap in sorted({0, 32, 64, 96, -(-2 * reach // runner.multiple) * runner.multiple}):
        rows = []
        for image in images:
            frame = image[None]
            whole, own = runner.run_with_context(frame, None, 0.0)
            anchored = tile_runner(runner, tile=(side, side), overlap=overlap)
            found = (
                tile_runner(WithoutVectors(runner), tile=(side, side), overlap=overlap).run(frame),
                anchored.run_with_context(frame, own, 1.0)[0],
                anchored.run(frame),
            )
            axis = TileAxis.of(image.shape[1], side, overlap, runner.multiple)
            cuts = [(one + axis.tile + two) // 2 for one, two in pairwise(axis.origins)]
            rows.append([
                figure for one in found for figure in (
                    min(float(psnr(one, whole)[0]), 99.0),
                    float(np.abs(one.astype(int) - whole).max()),
                    seam_energy(one[0], whole[0], cuts),
                )
            ])  # fmt: skip
        mean, worst = np.mean(rows, 0), np.max(rows, 0)
        print(
            f"| {overlap} | {mean[0]:.1f} | {mean[2]:.2f} | {mean[3]:.1f} | {worst[4]:.0f} | "
            f"{mean[5]:.3f} | {mean[6]:.1f} | {worst[7]:.0f} | {mean[8]:.3f} |", flush=True
        )  # fmt: skip


def breathing(restored: Frames) -> float:
    """Return how much the frames' mean luma jumps from each to the next, in 8-bit levels (RMS)."""
    level = (restored @ LUMA).mean((1, 2))
    return float(np.sqrt(np.mean(np.diff(level) ** 2)))


def steadiness(runner: ContextRunner, name: str, frames: Frames) -> None:
    """Print one line per way of steadying a clip."""
    plain, own = runner.run_with_context(frames, None, 0.0)
    fixed = np.repeat(own.mean(0, keepdims=True), len(frames), 0)
    ways = {
        "each frame by itself": plain,
        "smoothed": smooth_over_time(runner).run(frames),
        "smoothed, gains alone": smooth_over_time(WithoutVectors(runner)).run(frames),
        "one set of vectors for all": runner.run_with_context(frames, fixed, 1.0)[0],
    }
    for way, restored in ways.items():
        print(f"| {name} | {way} | {flicker(restored, frames):.3f} | {breathing(restored):.3f} |",
              flush=True)  # fmt: skip


def cuts(runner: ContextRunner, clips: list[Frames]) -> None:
    """Print what the frame after each cut has in common with the result without a past."""
    lit = np.minimum(clips[0][:8].astype(int) * 3, 255).astype(np.uint8)
    for name, after in {"another scene": clips[1][:8], "a light, three times": lit}.items():
        video = smooth_over_time(runner)
        video.run(clips[0][:8])
        found, expected = video.run(after[:1])[0], runner.run(after[:1])[0]
        worst = int(np.abs(found.astype(int) - expected).max())
        print(f"| {name} | {video.used_memory:.2f} | {worst} |", flush=True)


def cost(plain: Path, anchored: Path, frame: Frames, rounds: int) -> None:
    """Print the time of the anchored graph over that of the plain one, interleaved, per mode."""
    for mode in ("onnxruntime:fp32", "openvino:fp32", "openvino:int8"):
        backend, _, precision = mode.partition(":")
        runners = {
            kind: mirnet_edge.open_bundle(bundle, backend, precision, threads=1)
            for kind, bundle in (("plain", plain), ("anchored", anchored))
        }
        times = measure_interleaved(runners, frame, rounds=rounds)
        ratios = [two / one for one, two in zip(times["plain"], times["anchored"], strict=True)]
        print(f"| {mode} | {p50(times['plain']):.1f} | {p50(ratios):.3f} |", flush=True)


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("seams", "still", "flicker", "cost"))
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--count", type=int, default=3, help="images, or frames of the video")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mode", default="onnxruntime:fp32", help="backend:precision")
    arguments = parser.parse_args()
    if arguments.table == "cost":
        frame = np.random.default_rng(0).integers(0, 60, (1, 480, 640, 3), np.uint8)
        cost(*arguments.bundles, frame, arguments.rounds)
        return
    backend, _, precision = arguments.mode.partition(":")
    with mirnet_edge.open_bundle(arguments.bundles[0], backend, precision, threads=1) as runner:
        if arguments.table == "flicker":
            frames = read_clip(arguments.video, arguments.count, widest=640)
            steadiness(runner, arguments.video.stem, frames)
            return
        paths = find_images([arguments.images])[: arguments.count]
        images = [read_image(path).frame for path in paths]
        if arguments.table == "seams":
            seams(runner, images, arguments.tile)
            return
        clips = [still_clip(image) for image in images]
        for path, clip in zip(paths, clips, strict=True):
            steadiness(runner, path.stem, clip)
        cuts(runner, clips)


if __name__ == "__main__":
    main()
