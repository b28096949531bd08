"""Measure a trained diagnosis network on held-out scenes, and write its report.

Real images are looked at as files, whole and at their own size, as `mirnet diagnose` does; samples
degraded from held-out clean images measure each label apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mirnet_edge.charts import ChartAxis, ChartSeries, arrange_charts, line_chart, matrix_chart
from mirnet_edge.diagnosis.labels import FINE, LABELS
from mirnet_edge.diagnosis.network import diagnosis_from_scores
from mirnet_edge.diagnosis.views import stack_views, take_views
from mirnet_edge.files import write_atomically
from mirnet_edge.training.diagnosis.job import SampleInputs, is_right, predict, top_of
from mirnet_edge.training.diagnosis.samples import CLASSES, read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.charts import Chart
    from mirnet_edge.diagnosis.result import Diagnosis
    from mirnet_edge.models.diagnosis import DiagnosisNetwork
    from mirnet_edge.training.diagnosis.job import DiagnosisScore, TrainedDiagnosis
    from mirnet_edge.training.diagnosis.recipe import SourceImage

REPORT_FILE = "diagnosis.md"
CURVES_FILE, CONFUSION_FILE = "diagnosis-curves.svg", "diagnosis-confusion.svg"
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class MeasuredImage:
    """A held-out real image and its diagnosis."""

    image: SourceImage
    diagnosis: Diagnosis
    true_sigma: float | None
    """Where the source names a noise-free reference."""

    @property
    def is_right(self) -> bool:
        """Return whether the top label is one that the source has, or fine where it has none."""
        return self.diagnosis.top_label in (self.image.source.labels or (FINE,))


@dataclass(frozen=True)
class LabelAccuracy:
    """Accuracy of one label, on held-out samples whose truth is known."""

    label: str
    samples: int
    positives: int
    accuracy: float
    recall: float
    false_positives: float
    """Fraction of the samples without the label that are given it."""


@dataclass(frozen=True)
class DiagnosisMeasurement:
    """All that the report shows."""

    images: list[MeasuredImage]
    labels: list[LabelAccuracy]
    confusion: list[list[int]]
    """Rows: the class a sample was made for. Columns: its top label. Both as `CLASSES`."""
    sample_accuracy: float
    """Fraction of the samples whose top label holds: several can."""
    sigma_error: float
    """Median of |estimate / truth - 1| over samples with known noise of 2.5 levels or more."""

    @property
    def fine_images(self) -> list[MeasuredImage]:
        """Return the real images that are fine."""
        return [one for one in self.images if not one.image.source.labels]


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    fraction, squared = right / count, _Z**2
    center = (fraction + squared / (2 * count)) / (1 + squared / count)
    spread = math.sqrt(fraction * (1 - fraction) / count + squared / (4 * count**2))
    room = _Z * spread / (1 + squared / count)
    return max(0.0, center - room), min(1.0, center + room)


def measure_diagnosis(
    trained: TrainedDiagnosis, on_image: Callable[[], None] = lambda: None
) -> DiagnosisMeasurement:
    """Return what the network finds in the held-out real images and samples.

    Raises:
        DataError: An image cannot be read.
    """
    images = []
    for image in trained.images:
        if image.split == "held-out":
            images.append(_measure_image(trained.network, image))
            on_image()
    samples = trained.held_out
    logits, sigma = (tensor.numpy() for tensor in predict(trained.network, SampleInputs(samples)))
    targets = np.array(samples.targets)
    top = top_of(logits)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (np.array(samples.classes), top), 1)
    return DiagnosisMeasurement(
        images,
        [_label_accuracy(place, logits, targets) for place in range(len(LABELS))],
        confusion.tolist(),
        float(is_right(top, targets).mean()),
        _sigma_error(sigma, targets),
    )


def _measure_image(network: DiagnosisNetwork, image: SourceImage) -> MeasuredImage:
    frame = read_whole(image.path)
    views = stack_views([take_views(frame)])
    overview = torch.from_numpy(views.overview).permute(0, 3, 1, 2).float() / 255.0
    crops = torch.from_numpy(views.crops).permute(0, 1, 4, 2, 3).float() / 255.0
    with torch.inference_mode():
        logits, sigma = network(overview, crops)
    scores = torch.sigmoid(logits).numpy()
    diagnosis = diagnosis_from_scores(scores, sigma.numpy(), (frame.shape[0], frame.shape[1]))
    true_sigma = None
    if image.source.reference is not None:
        stem = image.path.stem.replace(*image.source.reference)
        clean = read_whole(image.path.with_name(stem + image.path.suffix))
        true_sigma = float(np.std(frame.astype(np.float32) - clean))
    return MeasuredImage(image, diagnosis, true_sigma)


def _label_accuracy(
    place: int, logits: NDArray[np.float32], targets: NDArray[np.float32]
) -> LabelAccuracy:
    known = targets[:, len(LABELS) + place] > 0.5
    truth, found = targets[known, place] > 0.5, logits[known, place] >= 0.0
    return LabelAccuracy(
        LABELS[place],
        int(known.sum()),
        int(truth.sum()),
        float((truth == found).mean()),
        float(found[truth].mean()) if truth.any() else math.nan,
        float(found[~truth].mean()) if (~truth).any() else math.nan,
    )


def _sigma_error(sigma: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
    chosen = (targets[:, -1] > 0.5) & (targets[:, -2] >= 2.5)
    if not chosen.any():
        return math.nan
    return float(np.median(np.abs(sigma[chosen] / targets[chosen, -2] - 1.0)))


def write_report(folder: Path, trained: TrainedDiagnosis, found: DiagnosisMeasurement) -> Path:
    """Write the report and its two charts, and return the report's path."""
    charts = {
        CURVES_FILE: draw_diagnosis_curves(trained.history),
        CONFUSION_FILE: matrix_chart(
            "Confusion matrix", CLASSES, found.confusion, width=760,
            across="top label", down="sample made for",
        ),
    }  # fmt: skip
    for name, chart in charts.items():
        write_atomically(folder / name, chart.to_file())
    report = folder / REPORT_FILE
    write_atomically(report, "\n".join(_report_lines(trained, found)).encode())
    return report


def draw_diagnosis_curves(history: Sequence[DiagnosisScore]) -> Chart:
    """Return loss and accuracy over training steps."""
    loss, accuracy = (
        line_chart(
            title,
            [
                ChartSeries(
                    name, [(float(one.step), getattr(one, field)) for one in history], style
                )
                for name, field, style in series
            ],
            ChartAxis(label="step"),
            ChartAxis(label=title, format="{:.3g}".format),
            size=(520, 320),
        )
        for title, series in _CURVES
    )
    return arrange_charts("Loss and accuracy", [loss, accuracy], columns=2)


_CURVES: Any = (
    ("loss", (("training", "loss", "primary"), ("validation", "validation_loss", "secondary"))),
    (
        "accuracy of the top label",
        (("all labels", "accuracy", "primary"), ("fine", "fine_accuracy", "secondary")),
    ),
)


def _report_lines(trained: TrainedDiagnosis, found: DiagnosisMeasurement) -> list[str]:
    recipe, last = trained.recipe, trained.history[-1]
    parameters = sum(one.numel() for one in trained.network.parameters())
    return [
        "# Diagnosis network: training report",
        "",
        "Written by `mirnet train --task diagnosis`. Intervals are 95 % (Wilson). Every image here "
        "is of a scene or file that nothing was trained on and no threshold fitted on: the split "
        "follows from the scene's name (`training/diagnosis/recipe.py`), before training.",
        "",
        f"{parameters / 1e6:.3f} M parameters; {last.step} of {recipe.steps} steps of "
        f"{recipe.batch} samples; {recipe.samples} training samples; random seed {recipe.seed}.",
        "",
        "## Real images, held out",
        "",
        *_source_table(found),
        "",
        *_fine_lines(found),
        "",
        *_sigma_lines(found),
        "",
        "### Images with a wrong top label",
        "",
        *_wrong_lines(found),
        "",
        "## Samples degraded from held-out clean images",
        "",
        f"{sum(map(sum, found.confusion))} samples, a sixth made for each class. Top label holds: "
        f"{found.sample_accuracy:.1%} (samples may have several labels). Median error of sigma: "
        f"{found.sigma_error:.0%}.",
        "",
        "| label | samples | with it | accuracy | recall | false positives |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one.label} | {one.samples} | {one.positives} | {one.accuracy:.1%} | "
            f"{one.recall:.1%} | {one.false_positives:.1%} |"
            for one in found.labels
        ),
        "",
        'Samples whose strength lies between "has it" and "has it not" count for no label '
        "(`training/diagnosis/degrading.py`).",
        "",
        "| made for \\ top label | " + " | ".join(CLASSES) + " |",
        "|---" * (len(CLASSES) + 1) + "|",
        *(
            f"| {name} | " + " | ".join(map(str, row)) + " |"
            for name, row in zip(CLASSES, found.confusion, strict=True)
        ),
        "",
        f"![confusion matrix]({CONFUSION_FILE})",
        "",
        "## Training",
        "",
        f"![loss and accuracy]({CURVES_FILE})",
        "",
        "| step | training loss | validation loss | accuracy | accuracy on fine samples |",
        "|---|---|---|---|---|",
        *(
            f"| {one.step} | {one.loss:.4f} | {one.validation_loss:.4f} | {one.accuracy:.1%} | "
            f"{one.fine_accuracy:.1%} |"
            for one in trained.history
        ),
        "",
        "Image files per source and split (trained on, thresholds chosen on, held out):",
        "",
        "| source | train | validation | held out |",
        "|---|---|---|---|",
        *_split_rows(trained),
        "",
    ]


def _source_table(found: DiagnosisMeasurement) -> list[str]:
    rows = [
        "| source | expected top label | images | scenes | right | accuracy | interval | changed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.image.source.name for one in found.images):
        own = [one for one in found.images if one.image.source.name == name]
        expected = " or ".join(own[0].image.source.labels or (FINE,))
        scenes = len({one.image.scene for one in own})
        rows.append(f"| {name} | {expected} | {len(own)} | {scenes} | {_fraction(own)} |")
    groups = (
        ("**all fine**", FINE, found.fine_images),
        (
            "**all that need restoring**",
            "as above",
            [one for one in found.images if one.image.source.labels],
        ),
        ("**all**", "as above", found.images),
    )
    for name, expected, own in groups:
        if own:
            scenes = len({(one.image.source.name, one.image.scene) for one in own})
            rows.append(f"| {name} | {expected} | {len(own)} | {scenes} | {_fraction(own)} |")
    return rows


def _fraction(images: Sequence[MeasuredImage]) -> str:
    right = sum(one.is_right for one in images)
    low, high = wilson_interval(right, len(images))
    changed = sum(bool(one.diagnosis.tasks) for one in images)
    return f"{right} | {right / len(images):.1%} | {low:.1%} to {high:.1%} | {changed}"


def _fine_lines(found: DiagnosisMeasurement) -> list[str]:
    fine = found.fine_images
    if not fine:
        return ["No fine images are held out."]
    labeled = sum(not one.is_right for one in fine)
    changed = sum(bool(one.diagnosis.tasks) for one in fine)
    low, high = wilson_interval(changed, len(fine))
    return [
        f"Fine images that are wrongly said to need restoring: {labeled} of {len(fine)} "
        f"({labeled / len(fine):.1%}) have a label; {changed} ({changed / len(fine):.1%}, interval "
        f"{low:.1%} to {high:.1%}) would be changed by `mirnet restore`: a blurred image has a "
        "label and is left alone."
    ]


def _sigma_lines(found: DiagnosisMeasurement) -> list[str]:
    known = [one for one in found.images if one.true_sigma]
    if not known:
        return []
    ratios = [one.diagnosis.sigma / (one.true_sigma or 1.0) for one in known]
    errors = [abs(ratio - 1.0) for ratio in ratios]
    true = [one.true_sigma or 0.0 for one in known]
    return [
        f"Sigma of real noise ({len(known)} images with a noise-free reference, {min(true):.1f} to "
        f"{max(true):.1f} levels): median error {np.median(errors):.0%}, median ratio of estimate "
        f"to truth {np.median(ratios):.2f}."
    ]


def _wrong_lines(found: DiagnosisMeasurement) -> list[str]:
    wrong = [one for one in found.images if not one.is_right]
    if not wrong:
        return ["None."]
    return ["| image | source | found |", "|---|---|---|"] + [
        f"| {one.image.path.name} | {one.image.source.name} | {one.diagnosis.describe()} |"
        for one in wrong
    ]


def _split_rows(trained: TrainedDiagnosis) -> list[str]:
    rows = []
    for name in dict.fromkeys(one.source.name for one in trained.images):
        counts = [
            sum(one.source.name == name and one.split == split for one in trained.images)
            for split in ("train", "validation", "held-out")
        ]
        rows.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return rows
