"""`mirnet distill`: small networks that learn from a large one, and what each is worth."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command
from mirnet_edge.cli.arguments import (
    DEVICE,
    SIZE_METAVAR,
    SPEED,
    TRAINING,
    WEIGHTS_METAVAR,
    TrainingDeviceOption,
    WeightsKeyOption,
    WorkersOption,
    check_folder,
    check_positive,
    check_weights,
    parse_size,
)
from mirnet_edge.cli.progress import TrainingProgress
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.pruning.distillation import DistillationRecord

_RECIPES = "the recipes'"


def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar=WEIGHTS_METAVAR,
            help="Weights to learn from: of the authors (.pth), of Keras (.h5, .keras), or ours.",
        ),
    ],
    data: Annotated[Path, typer.Option(help="Images, as mirnet train --data takes them.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the networks, the table and the chart.")
    ] = Path("build/distill"),
    task: Annotated[str, typer.Option(help="What the teacher restores.")] = "low-light",
    weights_key: WeightsKeyOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE[,RECIPE...]",
            help="Training recipes, one MIRNetEdge student each: names of this package or TOML "
            "files; none for no student.",
            show_default="the task's",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            metavar="SPEEDUP[,SPEEDUP...]",
            help="Also prune the teacher itself to these speedups, as mirnet prune does.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps of each network.", show_default=_RECIPES, rich_help_panel=TRAINING
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Batch size.", show_default=_RECIPES, rich_help_panel=TRAINING),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side of the crops in pixels.", show_default=_RECIPES, rich_help_panel=TRAINING
        ),
    ] = None,
    exposure_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of the first stage of students, on thumbnails.",
            show_default=_RECIPES,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=TRAINING)] = 0,
    backend: Annotated[
        str,
        typer.Option(help="Backend that is timed; one for CPUs.", rich_help_panel=SPEED),
    ] = "openvino",
    size: Annotated[
        str,
        typer.Option(metavar=SIZE_METAVAR, help="Size of the timed frame.", rich_help_panel=SPEED),
    ] = "256x256",
    device: TrainingDeviceOption = "auto",
    workers: WorkersOption = 1,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop training after so many minutes, and compare what there is; the same "
            "command resumes.",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Distill a large network into small ones; a table and a Pareto chart compare them."""
    frame_size = parse_size(size, "--size")
    check_positive(max_minutes, "--max-minutes")
    check_positive(steps, "--steps")
    check_positive(batch, "--batch")
    check_positive(crop, "--crop")
    check_weights(teacher)
    check_folder(data, "--data")
    speedups = _parse_speedups(prune)
    from mirnet_edge.pruning.distillation import DistillationRequest, distill_teacher
    from mirnet_edge.training.tasks import find_task

    find_task(task)
    training = {
        "steps": steps,
        "batch": batch,
        "crops": None if crop is None else (crop,),
        "exposure_steps": exposure_steps,
    }
    request = DistillationRequest(
        teacher=teacher,
        teacher_key=weights_key,
        data=data,
        out=out,
        task=task,
        recipes=_parse_recipes(recipe, task),
        speedups=speedups,
        training={name: value for name, value in training.items() if value is not None},
        backend=backend,
        size=frame_size,
        seed=seed,
        device=device,
        workers=workers,
        max_seconds=math.inf if max_minutes is None else 60.0 * max_minutes,
    )
    with TrainingProgress.shown() as display:
        record = distill_teacher(request, display)
    if as_json:
        sys.stdout.write(record.model_dump_json(indent=1) + "\n")
    else:
        _show(record, out)


def _parse_recipes(text: str | None, task: str) -> tuple[str, ...]:
    if text is None:
        return (task,)
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


def _parse_speedups(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        speedups = tuple(float(part) for part in text.split(","))
    except ValueError:
        speedups = ()
    if not speedups or min(speedups) <= 1.0:
        raise OptionError(f"--prune takes speedups above 1, as 2,4; found {text!r}")
    return speedups


def _show(record: DistillationRecord, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from mirnet_edge.pruning.distillation import CHART_FILE

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("")
    for heading in ("ms", "GMACs", "parameters", "PSNR\ndB", "at equal\nbrightness", "SSIM"):
        table.add_column(heading, justify="right")
    table.add_column("Pareto\nfront")
    for one in record.networks:
        table.add_row(
            one.name,
            f"{one.latency_ms:.2f}",
            f"{one.size.gmacs:.3g}",
            f"{one.size.parameters:,}",
            f"{one.quality.psnr_db:.2f}",
            f"{one.quality.psnr_gtmean_db:.2f}",
            f"{one.quality.ssim:.4f}",
            "yes" if one.is_on_front else "",
        )
    console = Console()
    console.print(table)
    facts, (height, width) = record.conditions.machine, record.conditions.size
    lines = [
        f"{record.conditions.backend}, fp32, {width}x{height}; {facts.processor}, "
        f"{facts.cores} cores; PSNR on the val split",
        f"Chart: {out / CHART_FILE}",
    ]
    if not record.finished:
        lines.append("Stopped by --max-minutes: the same command resumes.")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


main = command(
    distill,
    examples=(
        "distill mirnet.pth --data lol",
        "distill mirnet.keras --data lol --prune 2,4",
    ),
)
