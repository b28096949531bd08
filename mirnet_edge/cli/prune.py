"""`mirnet prune`: narrower weights that are measured to be faster."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from mirnet_edge.runtime.backends import find_backend

if TYPE_CHECKING:
    from mirnet_edge.pruning.record import PruneRecord, PruningQuality

_PRUNING = "Pruning"


def prune(
    data: Annotated[Path, typer.Option(help="Images, as mirnet train --data takes them.")],
    weights: Annotated[
        str,
        typer.Option(
            metavar=WEIGHTS_METAVAR,
            help="A .safetensors, .pth or .pt file, weights of Keras (.h5, .keras, a SavedModel), "
            "or weights of this package.",
        ),
    ] = "shipped:low-light",
    weights_key: WeightsKeyOption = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the weights and the record; a stopped run is resumed.")
    ] = Path("build/prune"),
    speedup: Annotated[
        float | None,
        typer.Option(
            help="Wanted speedup, measured here: 2 halves the latency.", rich_help_panel=SPEED
        ),
    ] = None,
    target_latency: Annotated[
        float | None,
        typer.Option(help="Instead: wanted latency of a frame here, in ms.", rich_help_panel=SPEED),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Instead: the --out folder of another run, whose blocks and widths are taken.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="Backend that is timed; one for CPUs.", rich_help_panel=SPEED),
    ] = "openvino",
    size: Annotated[
        str,
        typer.Option(metavar=SIZE_METAVAR, help="Size of the timed frame.", rich_help_panel=SPEED),
    ] = "256x256",
    importance: Annotated[
        Literal["taylor", "magnitude", "random"],
        typer.Option(help="Measure of a channel's importance.", rich_help_panel=_PRUNING),
    ] = "taylor",
    round_to: Annotated[
        int,
        typer.Option(
            help="Widths are multiples of this: 8; 16 or 32 where INT8 follows.",
            rich_help_panel=_PRUNING,
        ),
    ] = 8,
    blocks: Annotated[
        bool,
        typer.Option(
            "--blocks",
            help="Remove whole blocks too, where the accuracy drop is smaller.",
            rich_help_panel=_PRUNING,
        ),
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            help="Rounds of pruning and training, each a part of the way.", rich_help_panel=_PRUNING
        ),
    ] = 1,
    task: Annotated[
        str | None,
        typer.Option(
            help="What the weights restore.",
            show_default="as their card says",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="Training recipe after pruning: a name of this package or a TOML file.",
            rich_help_panel=TRAINING,
        ),
    ] = "prune",
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps after each round.",
            show_default="the recipe's",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Batch size.", show_default="the recipe's", rich_help_panel=TRAINING),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side of the crops in pixels.",
            show_default="the recipe's",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.", show_default="the recipe's", rich_help_panel=TRAINING
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=TRAINING)] = 0,
    device: TrainingDeviceOption = "auto",
    workers: WorkersOption = 1,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after so many minutes; the same command resumes.", rich_help_panel=DEVICE
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Prune a network to a measured speed; it then learns from the unpruned one."""
    frame_size = parse_size(size, "--size")
    find_backend(backend)
    check_positive(max_minutes, "--max-minutes")
    check_positive(steps, "--steps")
    check_positive(batch, "--batch")
    check_positive(crop, "--crop")
    check_weights(weights)
    check_folder(data, "--data")
    check_folder(like, "--like", "the --out of another run")
    from mirnet_edge.pruning.job import PruningRequest, load_pruning, prune_weights

    training = {
        "steps": steps,
        "batch": batch,
        "crops": None if crop is None else (crop,),
        "learning_rate": learning_rate,
    }
    request = PruningRequest(
        weights=weights,
        weights_key=weights_key,
        data=data,
        out=out,
        speedup=speedup,
        latency_ms=target_latency,
        like=like,
        task=task,
        backend=backend,
        size=frame_size,
        importance=importance,
        round_to=round_to,
        blocks=blocks,
        rounds=rounds,
        recipe=recipe,
        training={name: value for name, value in training.items() if value is not None},
        seed=seed,
        device=device,
        workers=workers,
        max_seconds=math.inf if max_minutes is None else 60.0 * max_minutes,
    )
    given = load_pruning(request)
    try:
        with TrainingProgress.shown() as display:
            record = prune_weights(given, display)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"interrupted; the latency table, the pruned networks and the last training state in "
            f"{out} are kept, and the same command resumes there"
        ) from error
    if as_json:
        sys.stdout.write(record.model_dump_json(indent=1) + "\n")
    else:
        _show(record, out)


def _show(record: PruneRecord, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("")
    for heading in ("ms", "times\nfaster", "PSNR\ndB", "at equal\nbrightness", "SSIM", "steps"):
        table.add_column(heading, justify="right")
    if record.rounds and record.unpruned:
        first = record.rounds[-1].chosen.unpruned_ms
        table.add_row("unpruned", f"{first:.2f}", "1.00", *_cells(record.unpruned))
    for number, one in enumerate(record.rounds, 1):
        name = f"round {number} " if record.options.rounds > 1 else ""
        times = (f"{one.chosen.pruned_ms:.2f}", f"{one.chosen.speedup:.2f}")
        table.add_row(f"{name}pruned", *times, *_cells(one.cut))
        if one.distilled is not None:
            table.add_row(f"{name}distilled", *times, *_cells(one.distilled))
    console = Console()
    console.print(table)
    for line in _lines(record, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(quality: PruningQuality) -> tuple[str, ...]:
    return (
        f"{quality.psnr_db:.2f}",
        f"{quality.psnr_gtmean_db:.2f}",
        f"{quality.ssim:.4f}",
        str(quality.steps) if quality.steps else "",
    )


def _lines(record: PruneRecord, out: Path) -> list[str]:
    options, facts = record.options, record.conditions.machine
    height, width = options.size
    lines = [f"{options.backend}, {width}x{height}; {facts.processor}, {facts.cores} cores"]
    if record.pruned_size is not None:
        old, new = record.unpruned_size, record.pruned_size
        lines.append(
            f"{old.gmacs:.2f} -> {new.gmacs:.2f} GMACs, "
            f"{old.parameters:,} -> {new.parameters:,} parameters"
        )
    if record.rounds and not record.rounds[-1].reached:
        one = record.rounds[-1]
        lines.append(
            f"NOT reached: the goal was {one.goal}; the fastest pruned network is "
            f"{one.chosen.speedup:.2f}x, {one.chosen.pruned_ms:.2f} ms (attempts: "
            f"{len(one.attempts)})"
        )
    if not record.finished:
        lines.append("Stopped by --max-minutes: the same command resumes.")
    lines.append(f"Weights and record: {out}")
    return lines


main = command(
    prune,
    examples=(
        "prune --data pairs --speedup 1.5",
        "prune --data pairs --target-latency 20 --size 640x480 --out build/fast",
    ),
)
