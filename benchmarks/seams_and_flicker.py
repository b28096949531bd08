"""Measure context anchoring: seams of tiles, flicker of video, ghosting at cuts, and latency.

    python benchmarks/seams_and_flicker.py seams build/low-light --images night
    python benchmarks/seams_and_flicker.py flicker build/low-light --video night_bridge_720p.mp4
    python benchmarks/seams_and_flicker.py still build/low-light --images night
    python benchmarks/seams_and_flicker.py latency build/plain build/low-light

Bundles are exported with `mirnet-export --anchored`; `latency` also takes one without, first.
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
from mirnet_edge.images.kinds import why_left_out
from mirnet_edge.metrics import flicker, psnr
from mirnet_edge.runtime.inputs import find_inputs
from mirnet_edge.runtime.measure import measure_interleaved, p50
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.runtime.tiling import TileAxis, tile_runner
from mirnet_edge.video.live.sources import read_clip

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame, Frames
    from mirnet_edge.runtime.runner import ContextRunner, Runner


class ContextFreeRunner:
    """A runner without the context inputs and outputs of the wrapped one."""

    def __init__(self, runner: Runner) -> None:
        """Wrap RUNNER."""
        self.name, self.multiple, self.scale = runner.name, runner.multiple, runner.scale
        self.run = runner.run
        self._runner = runner

    def __enter__(self) -> ContextFreeRunner:
        """Open the runner."""
        self._runner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self._runner.__exit__(None, None, None)


def seam_energy(tiles: Frame, whole: Frame, columns: list[int]) -> float:
    """Return the mean step, in 8-bit levels, that tiling adds across the columns of a seam.

    Measured on the difference to the whole frame, so that edges of the image do not count.
    """
    error = (tiles.astype(np.float64) - whole) @ LUMA
    steps = [np.abs(error[:, at] - error[:, at - 1]).mean() for at in columns]
    return float(np.mean(steps)) if steps else 0.0  # an image no wider than a tile has no seam


def print_seams(runner: ContextRunner, images: list[Frame], side: int) -> None:
    """Print a row for each overlap: PSNR to the whole frame, largest error and seam energy."""
    print("| overlap | tile's context: PSNR (dB) | seam | frame's context: PSNR (dB) | "
          "worst level | seam | tiles' mean context: PSNR (dB) | worst level | seam |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    reach = runner.image.reach
    for overlap in sorted({0, 32, 64, 96, -(-2 * reach // runner.multiple) * runner.multiple}):
        rows = []
        for image in images:
            frame = image[None]
            whole, own = runner.run_with_context(frame, None, 0.0)
            anchored = tile_runner(runner, tile=(side, side), overlap=overlap)
            found = (
                tile_runner(ContextFreeRunner(runner), tile=(side, side), overlap=overlap).run(
                    frame
                ),
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


def brightness_jitter(restored: Frames) -> float:
    """Return the RMS change of mean luma from frame to frame, in 8-bit levels."""
    level = (restored @ LUMA).mean((1, 2))
    return float(np.sqrt(np.mean(np.diff(level) ** 2)))


def print_flicker(runner: ContextRunner, name: str, frames: Frames) -> None:
    """Print flicker and brightness jitter of a clip for each kind of temporal smoothing."""
    plain, own = runner.run_with_context(frames, None, 0.0)
    fixed = np.repeat(own.mean(0, keepdims=True), len(frames), 0)
    variants = {
        "none": plain,
        "smoothed": smooth_over_time(runner).run(frames),
        "smoothed, gain alone": smooth_over_time(ContextFreeRunner(runner)).run(frames),
        "one context for all frames": runner.run_with_context(frames, fixed, 1.0)[0],
    }
    for variant, restored in variants.items():
        ratio, jitter = flicker(restored, frames), brightness_jitter(restored)
        print(f"| {name} | {variant} | {ratio:.3f} | {jitter:.3f} |", flush=True)


def print_cuts(runner: ContextRunner, clips: list[Frames]) -> None:
    """Print how far the frame after a cut is from one restored without smoothing state."""
    lit = np.minimum(clips[0][:8].astype(int) * 3, 255).astype(np.uint8)
    for name, after in {"another scene": clips[1][:8], "a light, three times": lit}.items():
        video = smooth_over_time(runner)
        video.run(clips[0][:8])
        found, expected = video.run(after[:1])[0], runner.run(after[:1])[0]
        worst = int(np.abs(found.astype(int) - expected).max())
        print(f"| {name} | {video.used_weight:.2f} | {worst} |", flush=True)


def print_latency(plain: Path, anchored: Path, frame: Frames, rounds: int) -> None:
    """Print the latency ratio of the anchored graph to the plain one for each configuration."""
    for name in ("onnxruntime:fp32", "openvino:fp32", "openvino:int8"):
        backend, _, precision = name.partition(":")
        runners = {
            kind: mirnet_edge.open_bundle(bundle, backend, precision, threads=1)
            for kind, bundle in (("plain", plain), ("anchored", anchored))
        }
        times = measure_interleaved(runners, frame, rounds=rounds)
        ratios = [two / one for one, two in zip(times["plain"], times["anchored"], strict=True)]
        print(f"| {name} | {p50(times['plain']):.1f} | {p50(ratios):.3f} |", flush=True)


def main() -> None:
    """Print the chosen table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("seams", "still", "flicker", "latency"))
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--count", type=int, default=3, help="images, or frames of the video")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--configuration", "--mode", default="onnxruntime:fp32", help="backend:precision"
    )
    arguments = parser.parse_args()
    if arguments.table == "latency":
        frame = np.random.default_rng(0).integers(0, 60, (1, 480, 640, 3), np.uint8)
        print_latency(*arguments.bundles, frame, arguments.rounds)
        return
    backend, _, precision = arguments.configuration.partition(":")
    with mirnet_edge.open_bundle(arguments.bundles[0], backend, precision, threads=1) as runner:
        if arguments.table == "flicker":
            frames = read_clip(arguments.video, arguments.count, widest=640)
            print_flicker(runner, arguments.video.stem, frames)
            return
        found = find_inputs([arguments.images], why_left_out).files
        paths = [one.path for one in found][: arguments.count]
        images = [read_image(path).frame for path in paths]
        if arguments.table == "seams":
            print_seams(runner, images, arguments.tile)
            return
        clips = [still_clip(image) for image in images]
        for path, clip in zip(paths, clips, strict=True):
            print_flicker(runner, path.stem, clip)
        print_cuts(runner, clips)


if __name__ == "__main__":
    main()
