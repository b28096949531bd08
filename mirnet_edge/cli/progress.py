"""How far a job is, on stderr: what training, pruning and the export show."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from mirnet_edge.cli.application import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.progress import Progress, TaskID
    from typing_extensions import Self

    from mirnet_edge.runtime.weights import FramePlan
    from mirnet_edge.training.recipe import TrainingRecipe
    from mirnet_edge.training.record import ValidationScore


class StageProgress:
    """Shows the stages of a job on stderr, each with its steps and the time that is left.

    On a terminal one bar, elsewhere a line when a stage begins and, in long ones, now and then.
    """

    _QUIET_S = 20.0

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._started = self._began = self._printed = clock()
        self._what = ""
        self._bar: TaskID | None = None

    @classmethod
    @contextlib.contextmanager
    def shown(cls) -> Iterator[Self]:
        """Yield a display while its bar is on the screen."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
        )
        console = stderr()
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            yield cls(progress)

    def on_stage(self, what: str) -> None:
        """Say what begins."""
        self._what, self._began = what, self._clock()
        if not self._progress.console.is_terminal:
            self._print(what)
            return
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task(what, total=None)

    def on_step(self, done: int, total: int) -> None:
        """Say how many of the steps of a stage are done."""
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total)
            return
        now = self._clock()
        if done and now - self._printed > self._QUIET_S:
            left = (now - self._began) / done * (total - done)
            self._print(f"{self._what}: {done} of {total}, about {left:.0f} s left")

    def _print(self, text: str) -> None:
        self._printed = self._clock()
        elapsed = self._printed - self._started
        self._progress.console.print(
            f"{elapsed:6.1f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )


class PassProgress:
    """Shows how a network in torch is about to restore a frame, and how far it is."""

    _QUIET_S = 20.0

    def __init__(
        self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the function that prints a line, above a bar where one is shown."""
        self._show, self._clock = show, clock
        self._source: Path | None = None
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._plan: FramePlan | None = None
        self._began = self._printed = clock()

    @contextlib.contextmanager
    def shown(self, source: Path, progress: Progress) -> Iterator[None]:
        """Show the passes of an image within PROGRESS."""
        self._source, self._progress, self._plan = source, progress, None
        try:
            yield
        finally:
            if self._bar is not None:
                progress.remove_task(self._bar)
            self._source = self._progress = self._bar = None

    def facts(self) -> dict[str, int]:
        """Return the tiles of the last image and its predicted memory, for `--json`."""
        plan = self._plan
        if plan is None:
            return {}
        peak = {} if plan.peak_bytes is None else {"predicted_memory_mib": plan.peak_bytes >> 20}
        return {"tiles": plan.tiles, **peak}

    def on_plan(self, plan: FramePlan) -> None:
        """Print a plan, for a video that of its first frame."""
        former, self._plan = self._plan, plan
        if former is None or (former.size, former.tile) != (plan.size, plan.tile):
            source = "" if self._source is None else f"{self._source}: "
            self._show(f"{source}{plan.describe()}")
        self._began = self._printed = self._clock()
        if plan.tiles > 1 and self._progress is not None:
            name = "frame" if self._source is None else self._source.name
            self._bar = self._progress.add_task(f"{name}, percent", total=100)

    def on_pixels(self, done: int, total: int) -> None:
        """Say how much of the image is done."""
        if self._progress is None:  # a video's frames have a bar
            return
        if self._bar is not None:
            self._progress.update(self._bar, completed=100 * done // total)
        now = self._clock()
        if self._progress.disable and done < total and now - self._printed > self._QUIET_S:
            self._printed = now
            left = (now - self._began) / done * (total - done)
            self._show(f"{self._source}: {100 * done // total} %, about {left:.0f} s left")


class TrainingProgress:
    """Shows a job's progress on stderr; of several processes the first one does."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self.leads = os.environ.get("RANK", "0") == "0"  # torchrun's
        progress.disable = not self.leads

    @classmethod
    @contextlib.contextmanager
    def shown(cls) -> Iterator[Self]:
        """Yield a display while its bars are on the screen."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr()) as progress:
            yield cls(progress)

    def on_stage(self, what: str) -> None:
        """Say what begins."""
        self._progress.console.print(what, markup=False, highlight=False, soft_wrap=True)

    def on_run(self, number: int, runs: int, *, is_finished: bool) -> None:
        """Say which run begins, without the bars of the one before."""
        while self._bars:
            self._progress.remove_task(self._bars.popitem()[1])
        self.on_stage(f"run {number} of {runs}" + (": finished before" if is_finished else ""))

    def on_loading(self, total: int) -> None:
        """Begin the bar of the images."""
        self._bars["read"] = self._progress.add_task("read images", total=total)

    def on_loaded(self) -> None:
        """Move it on."""
        self._progress.advance(self._bars["read"])

    def on_labeling(self, total: int) -> None:
        """Begin the bar of the images without references."""
        self._bars["label"] = self._progress.add_task("label images", total=total)

    def on_labeled(self) -> None:
        """Move it on."""
        self._progress.advance(self._bars["label"])

    def on_start(self, recipe: TrainingRecipe, step: int, exposure_steps: int) -> None:
        """Begin the bars of training, and say where a stopped run goes on."""
        if step and self.leads:
            self._progress.console.print(
                f"going on at step {step} of {recipe.steps}", highlight=False, soft_wrap=True
            )
        self._bars["exposure"] = self._progress.add_task(
            "exposure", total=exposure_steps, visible=bool(exposure_steps) and step == 0
        )
        self._bars["damage"] = self._progress.add_task(
            "damage", total=recipe.damage_steps, visible=bool(recipe.damage_steps) and step == 0
        )
        self._bars["train"] = self._progress.add_task("train", total=recipe.steps, completed=step)

    def on_initial_score(self, score: ValidationScore) -> None:
        """Say how good the weights are that training starts from."""
        self.on_stage(
            f"before training: PSNR {score.psnr_db:.2f} dB  brightness-matched "
            f"{score.psnr_gtmean_db:.2f} dB  SSIM {score.ssim:.4f} on the val split"
        )

    def on_exposure_step(self, step: int, loss: float) -> None:
        """Move the first stage's bar on."""
        self._update_stage("exposure", step, loss)

    def on_damage_step(self, step: int, loss: float) -> None:
        """Move the damage branch's bar on."""
        self._update_stage("damage", step, loss)

    def on_step(self, step: int, loss: float) -> None:
        """Move the bar on."""
        self._update("train", step, f"loss {loss:.4f}")

    def on_validated(self, score: ValidationScore) -> None:
        """Say what validation found."""
        if not self.leads:
            return
        self._progress.console.print(
            f"step {score.step:6}  loss {score.loss:.4f}  PSNR {score.psnr_db:.2f} dB  "
            f"brightness-matched {score.psnr_gtmean_db:.2f} dB  SSIM {score.ssim:.4f}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def on_interpolated(self, share: float, accuracy_drop_db: float) -> None:
        """Say how far the weights went."""
        if self.leads:
            self._progress.console.print(
                f"interpolation {share:.0%}: accuracy drop {accuracy_drop_db:.2f} dB on replay",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _update_stage(self, bar: str, step: int, loss: float) -> None:
        """Move a bar on, and say where it ends: files of output show no bars."""
        self._update(bar, step, f"{bar} loss {loss:.4f}")
        if step == self._progress.tasks[self._progress.task_ids.index(self._bars[bar])].total:
            self.on_stage(f"{bar} branch: {step} steps, loss {loss:.4f}")

    def _update(self, bar: str, completed: int, text: str) -> None:
        self._progress.update(self._bars[bar], completed=completed, description=text)
