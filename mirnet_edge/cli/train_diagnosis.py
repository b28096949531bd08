"""`mirnet train --task diagnosis`: train, measure, report and export the diagnosis network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mirnet_edge.cli.progress import TrainingProgress

if TYPE_CHECKING:
    from mirnet_edge.training.diagnosis.job import DiagnosisRequest, DiagnosisScore


class DiagnosisProgress(TrainingProgress):
    """Shows how far samples and training are, on stderr."""

    def on_samples(self, total: int) -> None:
        """Begin the bar of the samples."""
        self._bars["samples"] = self._progress.add_task("degrade images", total=total)

    def on_sample(self) -> None:
        """Move it on."""
        self._progress.advance(self._bars["samples"])

    def on_begin(self, steps: int, step: int) -> None:
        """Begin the bar of training, and say where a stopped run goes on."""
        self._progress.update(self._bars["samples"], visible=False)
        if step:
            self.on_stage(f"going on at step {step} of {steps}")
        self._bars["train"] = self._progress.add_task("train", total=steps, completed=step)

    def on_score(self, score: DiagnosisScore) -> None:
        """Say what validation found."""
        self.on_stage(
            f"step {score.step:6}  loss {score.loss:.4f}  validation {score.validation_loss:.4f}  "
            f"top label right {score.accuracy:.1%}  of fine samples {score.fine_accuracy:.1%}"
        )


def train_diagnosis_network(request: DiagnosisRequest, *, as_json: bool) -> None:
    """Train, or resume, and print what was measured on held-out images.

    Raises:
        MirnetEdgeError: As `training.diagnosis.job.train_diagnosis`.
    """
    from mirnet_edge.export.diagnosis import export_diagnosis
    from mirnet_edge.training.diagnosis.job import train_diagnosis
    from mirnet_edge.training.diagnosis.report import measure_diagnosis, write_report

    with DiagnosisProgress.shown() as display:
        trained = train_diagnosis(request, display)
        display.on_stage("measure on held-out images")
        found = measure_diagnosis(trained)
    report = write_report(request.out, trained, found)
    graph = trained.weights.with_suffix(".onnx")
    export_diagnosis(trained.network, graph)
    right = sum(one.is_right for one in found.images)
    fine = found.fine_images
    alarms = sum(not one.is_right for one in fine)
    if as_json:
        print(
            json.dumps(
                {
                    "weights": str(trained.weights),
                    "graph": str(graph),
                    "report": str(report),
                    "step": trained.history[-1].step,
                    "finished": trained.is_finished,
                    "images": len(found.images),
                    "right": right,
                    "fine_images": len(fine),
                    "fine_images_with_a_label": alarms,
                    "sample_accuracy": found.sample_accuracy,
                }
            )
        )
        return
    print(
        f"{graph}: top label right on {right} of {len(found.images)} held-out images; "
        f"{alarms} of {len(fine)} fine ones have a label"
    )
    print(f"{report}: accuracy by source and label, confusion matrix, curves")
    if not trained.is_finished:
        print("stopped before the last step; the same command resumes")
