"""`mirnet train --recipe old-photo-translation`: train and export old-photo translation."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from mirnet_edge.cli.progress import TrainingProgress

if TYPE_CHECKING:
    from mirnet_edge.training.translation.job import TranslationRequest, TranslationScore


class TranslationProgress(TrainingProgress):
    """Shows how far training is, on stderr."""

    def on_begin(self, steps: int, step: int) -> None:
        """Begin the bar, and say where a stopped run goes on."""
        if step:
            self.on_stage(f"going on at step {step} of {steps}")
        self._bars["train"] = self._progress.add_task("train", total=steps, completed=step)

    def on_translation_score(self, score: TranslationScore) -> None:
        """Say what validation found."""
        self.on_stage(
            f"step {score.step:6}  {score.stage:8}  loss {score.loss:.4f}  {_text(score)}"
        )


def train_old_photo_translation(request: TranslationRequest, *, as_json: bool) -> None:
    """Train, or resume, export the graph of a finished run, and print the last scores.

    Raises:
        MirnetEdgeError: As `training.translation.job.train_translation`.
    """
    from mirnet_edge.export.translation import export_translation
    from mirnet_edge.training.translation.job import train_translation

    with TranslationProgress.shown() as display:
        trained = train_translation(request, display)
        graph = trained.weights.with_suffix(".onnx")
        if trained.is_finished:
            display.on_stage("export the graph")
            export_translation(trained.network, graph)
    last = {score.stage: score for score in trained.history}
    step = trained.history[-1].step
    if as_json:
        figures = {
            stage: {
                name: value
                for name in ("loss", "psnr_db", "damage_db", "damage_iou")
                if not math.isnan(value := getattr(score, name))
            }
            for stage, score in last.items()
        }
        paths = {"weights": str(trained.weights)}
        paths |= {"graph": str(graph)} if trained.is_finished else {}
        print(json.dumps({**paths, "step": step, "finished": trained.is_finished, **figures}))
        return
    for stage, score in last.items():
        print(f"{stage}: {_text(score)}")
    print(f"{trained.weights}: step {step} of {trained.recipe.steps}")
    if trained.is_finished:
        print(f"{graph}: frames of up to 512x512, uint8")
    else:
        print("stopped before the last step; the same command resumes")


def _text(score: TranslationScore) -> str:
    """Return the figures that the score's stage has."""
    figures = (
        ("IoU of found damage {:.3f}", score.damage_iou),
        ("PSNR {:.2f} dB", score.psnr_db),
        ("of damaged pixels {:.2f} dB", score.damage_db),
    )
    return ", ".join(text.format(value) for text, value in figures if not math.isnan(value))
