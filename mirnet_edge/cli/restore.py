"""`mirnet restore`: restore images and videos."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from mirnet_edge.cli.application import command, print_error, stderr
from mirnet_edge.cli.arguments import (
    BACKENDS_HELP,
    SHIPPED,
    SIZE_METAVAR,
    SPEED,
    check_bundle,
    check_file,
    check_output_folder,
    check_weights,
    parse_size,
)
from mirnet_edge.errors import OptionError, VideoError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mirnet_edge.errors import ImageError
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.restore import RestoredImage
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.files.restoring import RestoredVideo

logger = logging.getLogger(__name__)


class VideoExecutor(Protocol):
    """Restores videos into a folder, one after the other or many at once."""

    def __call__(self, videos: list[Path], out: Path, results: VideoResults) -> None:
        """Restore the videos and add each result."""


@dataclass
class VideoResults:
    """The videos restored so far and those that failed; each is printed as it is added."""

    progress: Progress
    done: list[RestoredVideo] = field(default_factory=list)
    failed: list[tuple[Path, VideoError]] = field(default_factory=list)

    def add_restored(self, one: RestoredVideo, mode: str) -> None:
        """Add a restored video and the configuration that restored it."""
        self.done.append(one)
        for line in _lines(one, mode):
            self.progress.console.print(
                line, markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    def add_failed(self, video: Path, error: VideoError) -> None:
        """Add a video that cannot be read or written."""
        self.failed.append((video, error))
        print_error(error)


def restore_in_process(runner: Runner, choice: RunnerChoice) -> VideoExecutor:
    """Return an executor that restores videos one after the other, with a progress bar each.

    Args:
        runner: Opened by the executor.
        choice: What the runner was made from; the segments of an earlier run are kept where its
            fingerprint was the same.
    """

    def execute(videos: list[Path], out: Path, results: VideoResults) -> None:
        from mirnet_edge.video.files.restoring import restore_video
        from mirnet_edge.video.restorer import single_runner_restorer

        fingerprint = choice.fingerprint()
        with runner:
            for video in videos:
                bar = results.progress.add_task(video.name, total=None)

                def advance(count: int, total: int | None, bar: TaskID = bar) -> None:
                    known = None if total is None else max(count, total)
                    results.progress.update(bar, completed=count, total=known)

                try:
                    one = restore_video(
                        video,
                        single_runner_restorer(runner),
                        out,
                        fingerprint=fingerprint,
                        on_frame=advance,
                    )
                except VideoError as error:
                    results.add_failed(video, error)
                else:
                    results.add_restored(one, runner.name)
                results.progress.remove_task(bar)

    return execute


def restore_with_ray(choice: RunnerChoice, address: str | None) -> VideoExecutor:
    """Return an executor that restores one video per task of a Ray cluster.

    Args:
        choice: The runner of each worker.
        address: The cluster's; None for one that is started here.
    """

    def execute(videos: list[Path], out: Path, results: VideoResults) -> None:
        from mirnet_edge.video.files.ray_cluster import restore_on_ray

        bar = results.progress.add_task("videos", total=len(videos))

        def add_restored(one: RestoredVideo, mode: str) -> None:
            results.add_restored(one, mode)
            results.progress.advance(bar)

        def add_failed(video: Path, error: VideoError) -> None:
            results.add_failed(video, error)
            results.progress.advance(bar)

        with redirect_stdout(_LogWriter()):
            restore_on_ray(
                videos, choice, out, address=address, on_done=add_restored, on_failed=add_failed
            )

    return execute


class _LogWriter(io.TextIOBase):
    """Logs what Ray prints to stdout, which is for results; -v shows it."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


def restore_videos(
    videos: list[Path], execute: VideoExecutor, out: Path
) -> tuple[list[RestoredVideo], list[tuple[Path, VideoError]]]:
    """Restore videos, with a progress bar on a terminal.

    Args:
        videos: Files.
        execute: Restores them.
        out: The folder for the results.

    Returns:
        The restored videos, and those that cannot be read or written with the reason; in the
        order of VIDEOS.

    Raises:
        OptionError: Two results would have one name.
        MirnetEdgeError: A result would replace its source, or the folder cannot be written.
        KeyboardInterrupt: Ctrl-C; says what is kept.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if not videos:
        return [], []
    _check_stems(videos)
    console = stderr()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        results = VideoResults(progress)
        try:
            execute(videos, out, results)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_interruption(videos, out, results)) from error
    turn = {video: place for place, video in enumerate(videos)}
    results.done.sort(key=lambda one: turn[one.source])
    results.failed.sort(key=lambda one: turn[one[0]])
    return results.done, results.failed


def _interruption(videos: list[Path], out: Path, results: VideoResults) -> str:
    """Return in one line what an interrupted run has finished, and how to resume it."""
    from mirnet_edge.video.files.muxing import has_segments

    over = {one.source for one in results.done} | {path for path, _ in results.failed}
    unfinished = [video for video in videos if video not in over and has_segments(video, out)]
    if unfinished:
        which = unfinished[0].name if len(unfinished) == 1 else f"{len(unfinished)} videos"
        line = f"the finished segments of {which} are kept, and the same command resumes there"
    else:
        line = "no segment was finished; the same command starts again"
    if results.done:
        done = f"{len(results.done)} of {len(videos)} videos are done"
        line += f". {done}: --skip-existing skips them"
    return f"interrupted; {line}"


def video_report(
    done: list[RestoredVideo], failed: list[tuple[Path, VideoError]]
) -> dict[str, Any]:
    """Return the part of the `--json` document about videos."""
    return {
        "videos": [
            {
                "input": str(one.source),
                "output": str(one.output),
                "frames": one.frames,
                "not_restored": one.failed,
                "resumed": one.resumed,
                "width": one.width,
                "height": one.height,
                "seconds": round(one.seconds, 3),
                "shortfall": one.shortfall,
            }
            for one in done
        ],
        "failed_videos": [{"input": str(path), "error": str(error)} for path, error in failed],
    }


def _lines(one: RestoredVideo, mode: str) -> list[str]:
    rate = (one.frames - one.resumed) / one.seconds if one.seconds else 0.0
    lines = [f"{one.output}  {one.width}x{one.height}  {one.frames} frames  {rate:.1f} fps  {mode}"]
    if one.resumed:
        lines.append(
            f"{one.source}: resumed; an interrupted run had restored the first {one.resumed}"
        )
    if one.failed:
        lines.append(f"{one.source}: {one.failed} frames could not be restored and were copied")
    if one.shortfall:
        lines.append(one.shortfall)
    return lines


def _check_stems(videos: list[Path]) -> None:
    """Refuse videos whose results could have one name: the container may change."""
    owners: dict[str, Path] = {}
    for video in videos:
        other = owners.setdefault(video.stem, video)
        if other is not video:
            raise OptionError(
                f"{other} and {video} would both be restored as {video.stem}; restore them into "
                "two folders"
            )


_INCOMPLETE = 2


def restore(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images (PNG, JPEG, WebP, TIFF, AVIF, HEIC, raw), folders of images, or videos."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; they keep their names.")],
    bundle: Annotated[
        str,
        typer.Option(
            metavar="DIR|shipped:NAME",
            help="A bundle's folder, written by mirnet export, or weights of this package, "
            "exported on first use.",
        ),
    ] = "shipped:low-light",
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write NAME.compare.png: before and after.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip inputs whose results --out holds already.")
    ] = False,
    backend: Annotated[
        str,
        typer.Option(help=f"{BACKENDS_HELP}.", rich_help_panel=SPEED),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, bf16, fp16, int8, int8+bf16 or int8+fp16.", rich_help_panel=SPEED
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads to use; with --executor ray, for each video.",
            show_default="the backend's choice; an equal share with ray",
            rich_help_panel=SPEED,
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar=f"{SIZE_METAVAR}|auto",
            help="Restore large images in tiles of this size. auto: the size of the bundle's "
            "graphs, or what --max-memory allows.",
            show_default="whole images",
            rich_help_panel=SPEED,
        ),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(
            help="Memory for restoring beside the image, in MiB; sets the tile size.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="local: one video after the other. ray: one task per video, on a Ray cluster or, "
            "without one, on this machine's cores.",
            rich_help_panel=SPEED,
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A running cluster, for --executor ray; it must see the same paths.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Restore images and videos.

    Inputs that cannot be read are listed; the others are restored, and the exit code is 2. Videos
    keep every frame, its timestamp, and the sound; the same command resumes an interrupted one.
    """
    tiles = _tile(tile)
    _check_inputs(images)
    check_output_folder(out)
    if bundle.startswith(SHIPPED):
        check_weights(bundle)
    else:
        check_bundle(Path(bundle))
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.restore import check_outputs, find_images, is_restored
    from mirnet_edge.video.files import muxing
    from mirnet_edge.video.files.restoring import is_video

    videos = [path for path in images if is_video(path) and not path.is_dir()]
    images = find_images([path for path in images if path not in videos])
    skipped: set[Path] = set()
    if skip_existing:
        check_outputs(images, out, compare=compare)  # an input is no result
        requested = len(images) + len(videos)
        skipped = {path for path in images if is_restored(path, out, compare=compare)}
        skipped |= {path for path in videos if muxing.is_restored(path, out)}
        images = [path for path in images if path not in skipped]
        videos = [path for path in videos if path not in skipped]
        if skipped:
            print_error(f"{len(skipped)} of {requested} results are in {out} already")
    choice = RunnerChoice(
        bundle=_find_bundle(bundle), backend=backend, precision=precision, threads=threads,
        tile=tiles,
        max_memory_mib=max_memory,
    )  # fmt: skip
    runner = choice.runner()
    execute = (
        restore_with_ray(choice, ray_address)
        if executor == "ray"
        else restore_in_process(runner, choice)
    )
    done, failed = _restore_images(images, runner, out, compare=compare) if images else ([], [])
    videos_done, failed_videos = restore_videos(videos, execute, out)
    if as_json:
        report = _report(runner, done, failed)
        if skip_existing:
            report["skipped"] = sorted(map(str, skipped))
        if videos:
            report |= video_report(videos_done, failed_videos)
        print(json.dumps(report, indent=1))
    for kind, failures, requested in (
        ("images", len(failed), len(images)),
        ("videos", len(failed_videos), len(videos)),
    ):
        if failures and requested > 1:
            print_error(f"{failures} of {requested} {kind} were not restored")
    if failed or failed_videos:
        raise typer.Exit(_INCOMPLETE)


def _check_inputs(images: list[Path]) -> None:
    """Refuse inputs none of which exists; single ones that do not are listed later.

    Raises:
        OptionError: None exists.
    """
    if not any(path.exists() for path in images):
        check_file(images[0], "the input", "an image, a folder of images or a video")


def _find_bundle(bundle: str) -> Path:
    from mirnet_edge.export.shipped import find_bundle

    console = stderr()
    return find_bundle(
        bundle, lambda what: console.print(what, highlight=False, markup=False, soft_wrap=True)
    )


def _tile(text: str | None) -> tuple[int, int] | Literal["auto"] | None:
    if text is None or text == "auto":
        return None if text is None else "auto"
    return parse_size(text, "--tile")


def _restore_images(
    images: list[Path], runner: Runner, out: Path, *, compare: bool
) -> tuple[list[RestoredImage], list[tuple[Path, ImageError]]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from mirnet_edge.runtime.restore import restore_files

    console = stderr()
    failed: list[tuple[Path, ImageError]] = []
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with runner, shown as progress:
        bar = progress.add_task(runner.name, total=len(images))

        def show(line: str) -> None:
            progress.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
            progress.advance(bar)

        def fail(path: Path, error: ImageError) -> None:
            failed.append((path, error))
            print_error(error)
            progress.advance(bar)

        done = restore_files(
            images,
            runner,
            out,
            compare=compare,
            on_done=lambda one: show(
                f"{one.output}  {one.width}x{one.height}  {one.latency_ms:.1f} ms  {runner.name}"
            ),
            on_failed=fail,
        )
    return done, failed


def _report(
    runner: Runner, done: list[RestoredImage], failed: list[tuple[Path, ImageError]]
) -> dict[str, Any]:
    return {
        "runner": runner.name,
        "restored": [
            {
                "input": str(one.source),
                "output": str(one.output),
                "comparison": str(one.comparison) if one.comparison else None,
                "width": one.width,
                "height": one.height,
                "latency_ms": round(one.latency_ms, 3),
            }
            for one in done
        ],
        "failed": [{"input": str(path), "error": str(error)} for path, error in failed],
    }


main = command(
    restore,
    examples=(
        "restore night.jpg --out restored",
        "restore holiday/ film.mp4 --bundle build/bundle --out restored",
        "restore scan.tif --bundle shipped:old-photo --out restored",
    ),
    former_options={"--engine": "--executor"},
)
