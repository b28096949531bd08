"""mirnet-restore: restore images and videos."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from mirnet_edge.cli.application import command, parsed_size, print_error, stderr
from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.runtime.backends import backend_names

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress, TaskID

    from mirnet_edge.errors import ImageError
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.restore import RestoredImage
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.files.restoring import RestoredVideo

logger = logging.getLogger(__name__)
_BACKENDS = f"auto, {', '.join(backend_names())}."


class VideoWork(Protocol):
    """Restores videos into a folder, one after the other or many at once, and tells each."""

    def __call__(self, videos: list[Path], out: Path, told: VideoReport) -> None: ...  # noqa: D102


@dataclass
class VideoReport:
    """What came of the videos so far; tells it as it comes."""

    program: str
    """Begins the lines of what failed."""
    progress: Progress
    done: list[RestoredVideo] = field(default_factory=list)
    failed: list[tuple[Path, VideoError]] = field(default_factory=list)

    def restored(self, one: RestoredVideo, mode: str) -> None:
        """Take a result and the mode that made it."""
        self.done.append(one)
        for line in _lines(one, mode):
            self.progress.console.print(
                line, markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    def lost(self, video: Path, error: VideoError) -> None:
        """Take a video that cannot be read or written."""
        self.failed.append((video, error))
        print_error(self.program, error)


def restore_in_process(runner: Runner, choice: RunnerChoice) -> VideoWork:
    """Return what restores videos one after the other, with a bar each.

    Args:
        runner: Opened for as long as it takes.
        choice: What it was made by; what an earlier run left is gone on from where that was the
            same.
    """

    def work(videos: list[Path], out: Path, told: VideoReport) -> None:
        from mirnet_edge.video.files.restoring import restore_video
        from mirnet_edge.video.restorer import single_runner_restorer

        fingerprint = choice.fingerprint()
        with runner:
            for video in videos:
                bar = told.progress.add_task(video.name, total=None)

                def advance(count: int, total: int | None, bar: TaskID = bar) -> None:
                    known = None if total is None else max(count, total)
                    told.progress.update(bar, completed=count, total=known)

                try:
                    one = restore_video(
                        video,
                        single_runner_restorer(runner),
                        out,
                        fingerprint=fingerprint,
                        on_frame=advance,
                    )
                except VideoError as error:
                    told.lost(video, error)
                else:
                    told.restored(one, runner.name)
                told.progress.remove_task(bar)

    return work


def restore_with_ray(choice: RunnerChoice, address: str | None) -> VideoWork:
    """Return what spreads videos over a Ray cluster, with one bar that counts them.

    Args:
        choice: The runner of each worker.
        address: Of a cluster; None for one that is started here.
    """

    def work(videos: list[Path], out: Path, told: VideoReport) -> None:
        from mirnet_edge.video.files.ray_cluster import restore_on_ray

        bar = told.progress.add_task("videos", total=len(videos))

        def restored(one: RestoredVideo, mode: str) -> None:
            told.restored(one, mode)
            told.progress.advance(bar)

        def lost(video: Path, error: VideoError) -> None:
            told.lost(video, error)
            told.progress.advance(bar)

        with redirect_stdout(_Aside()):
            restore_on_ray(videos, choice, out, address=address, on_done=restored, on_failed=lost)

    return work


class _Aside(io.TextIOBase):
    """Takes what Ray prints, which -v shows: stdout is for results."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


def restore_videos(
    program: str, videos: list[Path], work: VideoWork, out: Path
) -> tuple[list[RestoredVideo], list[tuple[Path, VideoError]]]:
    """Restore videos, with a bar where somebody looks.

    Args:
        program: Begins the lines on stderr.
        videos: Files.
        work: What restores them.
        out: The folder for the results.

    Returns:
        Those that were restored, and those that cannot be read or written with the reason; in the
        order in which they were named.

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
        told = VideoReport(program, progress)
        try:
            work(videos, out, told)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_skip_existing(videos, out, told)) from error
    turn = {video: place for place, video in enumerate(videos)}
    told.done.sort(key=lambda one: turn[one.source])
    told.failed.sort(key=lambda one: turn[one[0]])
    return told.done, told.failed


def _skip_existing(videos: list[Path], out: Path, told: VideoReport) -> str:
    """Return in one line what a run that is interrupted leaves, and what to do."""
    from mirnet_edge.video.files.muxing import has_segments

    over = {one.source for one in told.done} | {path for path, _ in told.failed}
    begun = [video for video in videos if video not in over and has_segments(video, out)]
    if begun:
        which = begun[0].name if len(begun) == 1 else f"{len(begun)} videos"
        line = f"the finished segments of {which} are kept, and the same command goes on from there"
    else:
        line = "no segment was finished; the same command begins again"
    if told.done:
        done = f"{len(told.done)} of {len(videos)} videos are done"
        line += f". {done}: --skip-existing leaves them out"
    return f"interrupted; {line}"


def report_of(done: list[RestoredVideo], failed: list[tuple[Path, VideoError]]) -> dict[str, Any]:
    """Return what `--json` tells of videos."""
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
            f"{one.source}: an earlier run that was cut off had restored the first {one.resumed}"
        )
    if one.failed:
        lines.append(f"{one.source}: {one.failed} frames could not be restored: as they came")
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


_PROGRAM = "mirnet-restore"
_INCOMPLETE = 2
_ENGINES = ("local", "ray")


def restore(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images (PNG, JPEG, WebP, TIFF), folders of them, or videos."),
    ],
    bundle: Annotated[Path, typer.Option(help="A bundle's folder, made by mirnet-export.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; they keep their names.")],
    backend: Annotated[str, typer.Option(help=_BACKENDS)] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16, fp16, int8, int8+bf16 or int8+fp16.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="How many to use; the backend decides if left out. With --engine ray: for each "
            "video; an equal share if left out."
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            help="Restore large images in tiles: WIDTHxHEIGHT, or auto: the size of the "
            "bundle's graphs, or what --max-memory allows."
        ),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(help="MiB that restoring may take beside the image; sets the tiles' size."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write NAME.compare.png: before and after.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave out what --out holds already, whatever made it."
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="local: one video after the other; ray: one task each, on a Ray cluster or, "
            "without one, on this machine's cores."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A running cluster, for --engine ray; it must see the same paths.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Restore images and videos with a bundle.

    What cannot be read is named; the others are restored, and the exit code is 2. Videos keep
    every frame, its time, and the sound; the same command goes on with one that was cut off.
    """
    if engine not in _ENGINES:
        raise OptionError(f"--engine must be one of {', '.join(_ENGINES)}, found {engine!r}")
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.restore import check_outputs, find_images, is_restored
    from mirnet_edge.video.files import muxing
    from mirnet_edge.video.files.restoring import is_video

    videos = [path for path in images if is_video(path) and not path.is_dir()]
    images = find_images([path for path in images if path not in videos])
    skipped: set[Path] = set()
    if skip_existing:
        check_outputs(images, out, compare=compare)  # an input is not its own result
        asked = len(images) + len(videos)
        skipped = {path for path in images if is_restored(path, out, compare=compare)}
        skipped |= {path for path in videos if muxing.is_restored(path, out)}
        images = [path for path in images if path not in skipped]
        videos = [path for path in videos if path not in skipped]
        if skipped:
            print_error(_PROGRAM, f"{len(skipped)} of {asked} results are in {out} already")
    choice = RunnerChoice(
        bundle=bundle, backend=backend, precision=precision, threads=threads, tile=_tile(tile),
        max_memory_mib=max_memory,
    )  # fmt: skip
    runner = choice.runner()
    work = (
        restore_with_ray(choice, ray_address)
        if engine == "ray"
        else restore_in_process(runner, choice)
    )
    done, failed = _restored(images, runner, out, compare=compare) if images else ([], [])
    films, failed_films = restore_videos(_PROGRAM, videos, work, out)
    if as_json:
        report = _report(runner, done, failed)
        if skip_existing:
            report["skipped"] = sorted(map(str, skipped))
        if videos:
            report |= report_of(films, failed_films)
        print(json.dumps(report, indent=1))
    for kind, lost, asked in (
        ("images", len(failed), len(images)),
        ("videos", len(failed_films), len(videos)),
    ):
        if lost and asked > 1:
            print_error(_PROGRAM, f"{lost} of {asked} {kind} were not restored")
    if failed or failed_films:
        raise typer.Exit(_INCOMPLETE)


def _tile(text: str | None) -> tuple[int, int] | Literal["auto"] | None:
    if text is None or text == "auto":
        return None if text is None else "auto"
    return parsed_size(text, "--tile")


def _restored(
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
            show(f"{_PROGRAM}: {' '.join(str(error).split())}")

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


main = command(restore)
