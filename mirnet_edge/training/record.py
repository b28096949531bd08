"""Training history: one CSV row per validation, the learning curves, TensorBoard events."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from mirnet_edge.charts import Chart, ChartAxis, ChartSeries, arrange_charts, line_chart
from mirnet_edge.dependencies import require
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HISTORY_FILE = "history.csv"
CURVES_FILE = "curves.svg"
# Each panel: its title, and the columns it shows.
_PANELS = (
    ("training loss", ("loss",)),
    ("PSNR (dB)", ("psnr_db", "psnr_gtmean_db")),
    ("SSIM", ("ssim",)),
    ("mean absolute error", ("mae",)),
)
_LABELS = {"psnr_db": "as is", "psnr_gtmean_db": "brightness-matched"}


@dataclass(frozen=True)
class ValidationScore:
    """Validation metrics of the EMA weights: means over whole frames."""

    step: int
    loss: float
    """Mean training loss since the last score."""
    psnr_db: float
    psnr_gtmean_db: float
    """PSNR after matching the output's mean brightness to the ground truth, so that it measures
    noise, detail and color."""
    ssim: float
    mae: float
    """Mean absolute error on [0, 1]."""


def append_score(folder: Path, score: ValidationScore) -> None:
    """Append a row to the history, and remove the rows of later steps of an interrupted run.

    Also writes the chart of the learning curves.
    """
    kept = [one for one in read_history(folder) if one.step < score.step]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(ValidationScore)])
    writer.writeheader()
    writer.writerows(asdict(one) for one in [*kept, score])
    write_atomically(folder / HISTORY_FILE, stream.getvalue().encode())
    write_atomically(folder / CURVES_FILE, draw_curves([*kept, score]).to_file())


def append_to_tensorboard(folder: Path, score: ValidationScore) -> None:
    """Append a score to the events that `tensorboard --logdir FOLDER` shows.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """
    require("tensorboard", "--tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in asdict(score).items():
            if name != "step":
                writer.add_scalar(name, value, score.step)


def read_history(folder: Path) -> list[ValidationScore]:
    """Return the scores of a run's folder, oldest first; none where there is no history."""
    path = folder / HISTORY_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            ValidationScore(
                int(row.pop("step")), **{name: float(value) for name, value in row.items()}
            )
            for row in csv.DictReader(stream)
        ]


def draw_curves(scores: Sequence[ValidationScore]) -> Chart:
    """Return the validation curves over training steps, a panel per metric.

    Args:
        scores: At least one, in order.
    """
    panels = [
        line_chart(
            title,
            [
                ChartSeries(
                    _LABELS.get(column, ""),
                    [(float(score.step), getattr(score, column)) for score in scores],
                    "primary" if column == columns[0] else "secondary",
                )
                for column in columns
            ],
            ChartAxis(label="step"),
            ChartAxis(label=title, format="{:.4g}".format),
            size=(520, 320),
        )
        for title, columns in _PANELS
    ]
    return arrange_charts("Validation curves", panels, columns=2)
