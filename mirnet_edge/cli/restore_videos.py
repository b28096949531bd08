"""The part of mirnet-restore that restores videos: progress, lines and the report."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mirnet_edge.cli.application import complain, stderr
from mirnet_edge.errors import OptionError, VideoError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress, TaskID

    from mirnet_edge.runtime.choice import RunnerChoice
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.restoring import RestoredVideo


logger = logging.getLogger(__name__)


class Work(Protocol):
    """Restores videos into a folder, one after the other or many at once, and tells each."""

    def __call__(self, videos: list[Path], out: Path, told: Told) -> None: ...  # noqa: D102


@dataclass
class Told:
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
        complain(self.program, error)


def here(runner: Runner, choice: RunnerChoice) -> Work:
    """Return what restores videos one after the other, with a bar each.

    Args:
        runner: Opened for as long as it takes.
        choice: What it was made by; what an earlier run left is gone on from where that was the
            same.
    """

    def work(videos: list[Path], out: Path, told: Told) -> None:
        from mirnet_edge.video.restorer import single
        from mirnet_edge.video.restoring import restore_video

        made_by = choice.fingerprint()
        with runner:
            for video in videos:
                bar = told.progress.add_task(video.name, total=None)

                def advance(count: int, total: int | None, bar: TaskID = bar) -> None:
                    known = None if total is None else max(count, total)
                    told.progress.update(bar, completed=count, total=known)

                try:
                    one = restore_video(
                        video, single(runner), out, made_by=made_by, on_frame=advance
                    )
                except VideoError as error:
                    told.lost(video, error)
                else:
                    told.restored(one, runner.name)
                told.progress.remove_task(bar)

    return work


def by_ray(choice: RunnerChoice, address: str | None) -> Work:
    """Return what spreads videos over a Ray cluster, with one bar that counts them.

    Args:
        choice: The runner of each worker.
        address: Of a cluster; None for one that is started here.
    """

    def work(videos: list[Path], out: Path, told: Told) -> None:
        from mirnet_edge.video.fleet import restore_on_ray

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


def restored_videos(
    program: str, videos: list[Path], work: Work, out: Path
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
        told = Told(program, progress)
        try:
            work(videos, out, told)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_kept(videos, out, told)) from error
    turn = {video: place for place, video in enumerate(videos)}
    told.done.sort(key=lambda one: turn[one.source])
    told.failed.sort(key=lambda one: turn[one[0]])
    return told.done, told.failed


def _kept(videos: list[Path], out: Path, told: Told) -> str:
    """Return in one line what a run that is interrupted leaves, and what to do."""
    from mirnet_edge.video.outputs import has_parts

    over = {one.source for one in told.done} | {path for path, _ in told.failed}
    begun = [video for video in videos if video not in over and has_parts(video, out)]
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
