"""The part of mirnet-restore that restores videos: progress, lines and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirnet_edge.cli.application import complain, stderr
from mirnet_edge.errors import OptionError, VideoError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import TaskID

    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.restoring import RestoredVideo


def restored_videos(
    program: str, videos: list[Path], runner: Runner, out: Path, made_by: str
) -> tuple[list[RestoredVideo], list[tuple[Path, VideoError]]]:
    """Restore videos one after the other, with a bar each where somebody looks.

    Args:
        program: Begins the lines on stderr.
        videos: Files.
        runner: Open.
        out: The folder for the results.
        made_by: Of the bundle and the options; what an earlier run left is gone on from where it
            was the same.

    Returns:
        Those that were restored, and those that cannot be read or written with the reason.

    Raises:
        OptionError: Two results would have one name.
        MirnetEdgeError: A result would replace its source, or the folder cannot be written.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from mirnet_edge.video.restorer import single
    from mirnet_edge.video.restoring import restore_video

    _check_stems(videos)
    console = stderr()
    done: list[RestoredVideo] = []
    failed: list[tuple[Path, VideoError]] = []
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        for video in videos:
            bar = progress.add_task(video.name, total=None)

            def advance(count: int, total: int | None, bar: TaskID = bar) -> None:
                known = None if total is None else max(count, total)
                progress.update(bar, completed=count, total=known)

            try:
                one = restore_video(video, single(runner), out, made_by=made_by, on_frame=advance)
            except VideoError as error:
                failed.append((video, error))
                complain(program, error)
            else:
                done.append(one)
                for line in _lines(one, runner):
                    progress.console.print(
                        line, markup=False, emoji=False, highlight=False, soft_wrap=True
                    )
            progress.remove_task(bar)
    return done, failed


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


def _lines(one: RestoredVideo, runner: Runner) -> list[str]:
    rate = (one.frames - one.resumed) / one.seconds if one.seconds else 0.0
    lines = [
        f"{one.output}  {one.width}x{one.height}  {one.frames} frames  {rate:.1f} fps  "
        f"{runner.name}"
    ]
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
