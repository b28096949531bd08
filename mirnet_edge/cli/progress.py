"""How far training is, on stderr: what mirnet-train and mirnet-prune show."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirnet_edge.cli.application import stderr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID
    from typing_extensions import Self

    from mirnet_edge.training.recipe import TrainingRecipe
    from mirnet_edge.training.record import ValidationScore


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

    def on_start(self, recipe: TrainingRecipe, step: int) -> None:
        """Begin the bars of training, and say where a stopped run goes on."""
        if step and self.leads:
            self._progress.console.print(
                f"going on at step {step} of {recipe.steps}", highlight=False, soft_wrap=True
            )
        first = bool(recipe.exposure_steps) and step == 0
        self._bars["exposure"] = self._progress.add_task(
            "exposure",
            total=recipe.exposure_steps * (1 + recipe.exposure_teachers),
            visible=first,
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
        self._update("exposure", step, f"exposure loss {loss:.4f}")

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

    def _update(self, bar: str, completed: int, text: str) -> None:
        self._progress.update(self._bars[bar], completed=completed, description=text)
