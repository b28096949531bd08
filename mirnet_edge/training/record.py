"""The record of a run: one CSV line per validation, and its curves as an image."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import available, require
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HISTORY_FILE = "history.csv"
CURVES_FILE = "curves.png"
# Each panel: its title, and the columns it shows.
_PANELS = (
    ("training loss", ("loss",)),
    ("PSNR, dB", ("psnr_db", "psnr_gtmean_db")),
    ("SSIM", ("ssim",)),
    ("mean absolute error", ("mae",)),
)
_LABELS = {"psnr_db": "as it is", "psnr_gtmean_db": "at equal brightness"}


@dataclass(frozen=True)
class ValidationScore:
    """Validation figures of the averaged weights: means over whole frames."""

    step: int
    loss: float
    """Mean training loss since the last score."""
    psnr_db: float
    psnr_gtmean_db: float
    """PSNR after matching the output's mean brightness to the reference: without it, what is
    left is noise, detail and color."""
    ssim: float
    mae: float
    """On [0, 1]."""


def append_score(folder: Path, score: ValidationScore) -> None:
    """Add a line to the history; lines of later steps, of a run that was killed, go.

    The curves are drawn anew where matplotlib is installed.
    """
    kept = [one for one in read_history(folder) if one.step < score.step]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(ValidationScore)])
    writer.writeheader()
    writer.writerows(asdict(one) for one in [*kept, score])
    write_atomically(folder / HISTORY_FILE, stream.getvalue().encode())
    if available("matplotlib"):
        draw_curves([*kept, score], folder / CURVES_FILE)


def append_to_tensorboard(folder: Path, score: ValidationScore) -> None:
    """Add a score to the events that `tensorboard --logdir FOLDER` shows.

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


def draw_curves(scores: Sequence[ValidationScore], path: Path) -> None:
    """Write the curves as a PNG, one panel per kind of figure."""
    from matplotlib.figure import Figure

    # a figure of its own, without pyplot: no window, nothing global
    figure = Figure(figsize=(10, 6), layout="constrained")
    for place, (title, columns) in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(2, 2, place)
        for column in columns:
            values = [getattr(score, column) for score in scores]
            steps = [score.step for score in scores]
            axes.plot(steps, values, marker="o", markersize=3, label=_LABELS.get(column))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(columns) > 1:
            axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(path, stream.getvalue())
