"""The videos of `mirnet restore`: one after the other in this process, or many at once with Ray."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mirnet_edge.cli.application import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.progress import Progress, TaskID

    from mirnet_edge.cli.batch import RestorationBatch
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.video.files.restoring import RestoredVideo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """A video to restore."""

    path: Path
    output: Path
    """Its suffix is replaced where its container cannot be written."""
    choice: RunnerChoice
    facts: dict[str, Any]
    """For the `--json` document, beside those of the result."""


@dataclass(frozen=True, kw_only=True)
class VideoComparison:
    """A video of before and after side by side, to write beside a result that is there."""

    source: Path
    restored: Path
    output: Path


class VideoExecutor(Protocol):
    """Restores videos, one after the other or many at once."""

    def __call__(
        self,
        jobs: Sequence[VideoJob],
        batch: RestorationBatch,
        progress: Progress,
        *,
        overwrite: bool,
    ) -> None:
        """Restore the videos and add each outcome to the batch."""


class LocalExecutor:
    """Restores videos one after the other, with a progress bar each.

    The segments of an interrupted run are continued where the fingerprint of its runner was the
    same.
    """

    def __init__(self, open_runner: Callable[[RunnerChoice], Runner]) -> None:
        """Take the function that returns a choice's open runner."""
        self._open_runner = open_runner

    def __call__(
        self,
        jobs: Sequence[VideoJob],
        batch: RestorationBatch,
        progress: Progress,
        *,
        overwrite: bool,
    ) -> None:
        """Restore the videos."""
        for job in jobs:
            bar = progress.add_task(job.path.name, total=None)

            def advance(count: int, total: int | None, bar: TaskID = bar) -> None:
                known = None if total is None else max(count, total)
                progress.update(bar, completed=count, total=known)

            try:
                one, configuration = self._restore(job, advance, overwrite=overwrite)
            except Exception as error:  # noqa: BLE001  # whatever it is, the others are restored
                batch.add_failed(job.path, error)
            else:
                add_restored(batch, job, one, configuration)
            progress.remove_task(bar)

    def _restore(
        self, job: VideoJob, on_frame: Callable[[int, int | None], None], *, overwrite: bool
    ) -> tuple[RestoredVideo, str]:
        """Return the restored video and the configuration that restored it."""
        from mirnet_edge.video.files.restoring import restore_video
        from mirnet_edge.video.restorer import single_runner_restorer

        runner = self._open_runner(job.choice)
        one = restore_video(
            job.path,
            single_runner_restorer(runner),
            job.output.parent,
            name=job.output.name,
            overwrite=overwrite,
            fingerprint=job.choice.fingerprint(),
            on_frame=on_frame,
        )
        return one, runner.name


class RayExecutor:
    """Restores one video per task of a Ray cluster."""

    def __init__(self, address: str | None) -> None:
        """Take the address of a cluster; None for one that is started here."""
        self._address = address

    def __call__(
        self,
        jobs: Sequence[VideoJob],
        batch: RestorationBatch,
        progress: Progress,
        *,
        overwrite: bool,
    ) -> None:
        """Restore the videos; those of one choice of runner at once."""
        from mirnet_edge.video.files.ray_cluster import restore_on_ray

        bar = progress.add_task("videos", total=len(jobs))
        by_path = {job.path: job for job in jobs}

        def on_done(one: RestoredVideo, configuration: str) -> None:
            add_restored(batch, by_path[one.source], one, configuration)
            progress.advance(bar)

        def on_failed(path: Path, error: Exception) -> None:
            batch.add_failed(path, error)
            progress.advance(bar)

        for choice in dict.fromkeys(job.choice for job in jobs):
            own = [job for job in jobs if job.choice == choice]
            with redirect_stdout(_LogWriter()):
                restore_on_ray(
                    [job.path for job in own], choice, own[0].output.parent,
                    outputs={job.path: job.output for job in own}, overwrite=overwrite,
                    address=self._address, on_done=on_done, on_failed=on_failed,
                )  # fmt: skip


class _LogWriter(io.TextIOBase):
    """Logs what Ray prints to stdout, which is for results; -v shows it."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


def restore_videos(
    jobs: Sequence[VideoJob], execute: VideoExecutor, batch: RestorationBatch, *, overwrite: bool
) -> None:
    """Restore videos, with a progress bar on a terminal.

    Raises:
        MirnetEdgeError: Something that concerns all of them.
        KeyboardInterrupt: Ctrl-C; says what is kept.
    """
    with _video_progress() as progress:
        try:
            execute(jobs, batch, progress, overwrite=overwrite)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_interruption(jobs, batch)) from error


def write_comparisons(comparisons: Sequence[VideoComparison], batch: RestorationBatch) -> None:
    """Write comparisons one after the other, with a progress bar on a terminal.

    Raises:
        KeyboardInterrupt: Ctrl-C; says what is kept.
    """
    from mirnet_edge.video.files.comparing import compare_videos

    with _video_progress() as progress:
        for one in comparisons:
            bar = progress.add_task(one.output.name, total=None)

            def advance(done: int, bar: TaskID = bar) -> None:
                progress.update(bar, completed=done)

            try:
                height, width = compare_videos(
                    one.source, one.restored, one.output, on_frame=advance
                )
            except KeyboardInterrupt as error:
                line = f"interrupted; {one.restored} is complete, {one.output.name} is not written"
                raise KeyboardInterrupt(f"{line}: --skip-existing writes it alone") from error
            except Exception as error:  # noqa: BLE001  # whatever it is, the others are written
                batch.add_failed(one.source, error)
            else:
                batch.add_comparison(one.source, one.output, f"{width}x{height}")
            progress.remove_task(bar)


def _video_progress() -> Progress:
    """Return a progress display on stderr, shown on a terminal alone."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _interruption(jobs: Sequence[VideoJob], batch: RestorationBatch) -> str:
    """Return in one line what an interrupted run has finished, and how to resume it."""
    from mirnet_edge.video.files.muxing import has_segments

    unfinished = [
        job.path
        for job in jobs
        if job.path not in batch.outcomes
        and has_segments(job.path, job.output.parent, job.output.name)
    ]
    if unfinished:
        which = unfinished[0].name if len(unfinished) == 1 else f"{len(unfinished)} videos"
        line = f"the finished segments of {which} are kept, and the same command resumes there"
    else:
        line = "no segment was finished; the same command starts again"
    done = sum(job.path in batch.outcomes for job in jobs)
    if done:
        line += f". {done} of {len(jobs)} videos are done: --skip-existing skips them"
    return f"interrupted; {line}"


def add_restored(
    batch: RestorationBatch, job: VideoJob, one: RestoredVideo, configuration: str
) -> None:
    """Add a restored video and the configuration that restored it."""
    rate = (one.frames - one.resumed) / one.seconds if one.seconds else 0.0
    size = f"{one.width}x{one.height}"
    lines = [f"{one.output}  {size}  {one.frames} frames  {rate:.1f} fps  {configuration}"]
    if one.resumed:
        lines.append(
            f"{one.source}: resumed; an interrupted run had restored the first {one.resumed}"
        )
    if one.failed:
        lines.append(f"{one.source}: {one.failed} frames could not be restored and were copied")
    if one.shortfall:
        lines.append(one.shortfall)
    facts = {
        "output": str(one.output),
        "configuration": configuration,
        **job.facts,
        "frames": one.frames,
        "not_restored": one.failed,
        "resumed": one.resumed,
        "width": one.width,
        "height": one.height,
        "seconds": round(one.seconds, 3),
        "shortfall": one.shortfall,
        "notes": list(one.notes),
    }
    batch.add_done(job.path, lines, facts)
