"""mirnet-prune: narrower weights that are measured to be faster."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command, parsed_size
from mirnet_edge.cli.progress import TrainingProgress

if TYPE_CHECKING:
    from mirnet_edge.pruning.record import PruneRecord, PruningQuality


def prune(
    data: Annotated[Path, typer.Option(help="Images, as mirnet-train --data takes them.")],
    weights: Annotated[
        str, typer.Option(help="A .safetensors, .pth or .pt file, or shipped:low-light.")
    ] = "shipped:low-light",
    out: Annotated[
        Path, typer.Option(help="Folder for the weights and the record; a stopped run goes on.")
    ] = Path("build/prune"),
    speedup: Annotated[
        float | None, typer.Option(help="How many times faster, measured here.")
    ] = None,
    target_latency: Annotated[
        float | None, typer.Option(help="Milliseconds that a frame may take here, instead.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="--out of another run, instead: cut to its blocks and widths."),
    ] = None,
    backend: Annotated[str, typer.Option(help="openvino or onnxruntime.")] = "openvino",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the frame that is timed.")] = "256x256",
    importance: Annotated[
        str, typer.Option(help="What a channel is worth: taylor, magnitude or random.")
    ] = "taylor",
    round_to: Annotated[
        int, typer.Option(help="Widths are multiples: 8; 16 or 32 where INT8 follows.")
    ] = 8,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Let whole blocks go too, where that loses less.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="Cut and train so often, each time a part of the way.")
    ] = 1,
    task: Annotated[
        str | None, typer.Option(help="What the weights restore; default: as their card says.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="How to train after a cut: a recipe of ours or a TOML file.")
    ] = "prune",
    steps: Annotated[int | None, typer.Option(help="Training steps after each cut.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the crops in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.")] = None,
    seed: Annotated[int, typer.Option(help="All chance comes from it.")] = 0,
    device: Annotated[str, typer.Option(help="To train on: auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Threads that draw batches ahead.")] = 1,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; run again to go on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Cut a network to a measured speed, and let it learn from the unpruned one."""
    from mirnet_edge.pruning.job import PruningRequest, load_pruning, prune_weights

    training = {
        "steps": steps,
        "batch": batch,
        "crops": None if crop is None else (crop,),
        "learning_rate": learning_rate,
    }
    request = PruningRequest(
        weights=weights,
        data=data,
        out=out,
        speedup=speedup,
        latency_ms=target_latency,
        like=like,
        task=task,
        backend=backend,
        size=parsed_size(size, "--size"),
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
    with TrainingProgress.shown() as display:
        record = prune_weights(given, display)
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
        table.add_row("unpruned", f"{first:.2f}", "1.00", *_figures(record.unpruned))
    for number, one in enumerate(record.rounds, 1):
        name = f"round {number} " if record.options.rounds > 1 else ""
        times = (f"{one.chosen.pruned_ms:.2f}", f"{one.chosen.speedup:.2f}")
        table.add_row(f"{name}cut", *times, *_figures(one.cut))
        if one.distilled is not None:
            table.add_row(f"{name}trained", *times, *_figures(one.distilled))
    console = Console()
    console.print(table)
    for line in _lines(record, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _figures(quality: PruningQuality) -> tuple[str, ...]:
    return (
        f"{quality.psnr_db:.2f}",
        f"{quality.psnr_gtmean_db:.2f}",
        f"{quality.ssim:.4f}",
        str(quality.steps) if quality.steps else "",
    )


def _lines(record: PruneRecord, out: Path) -> list[str]:
    asked, facts = record.options, record.conditions.machine
    height, width = asked.size
    lines = [f"{asked.backend}, {width}x{height}; {facts.processor}, {facts.cores} cores"]
    if record.pruned_size is not None:
        old, new = record.unpruned_size, record.pruned_size
        lines.append(
            f"{old.gmacs:.2f} -> {new.gmacs:.2f} GMACs, "
            f"{old.parameters:,} -> {new.parameters:,} parameters"
        )
    if record.rounds and not record.rounds[-1].reached:
        one = record.rounds[-1]
        lines.append(
            f"NOT reached: {one.goal} was asked for; the fastest that was cut is "
            f"{one.chosen.speedup:.2f}x, {one.chosen.pruned_ms:.2f} ms (attempts: "
            f"{len(one.attempts)})"
        )
    if not record.finished:
        lines.append("Out of time: run the same command again to go on.")
    lines.append(f"Weights and record: {out}")
    return lines


main = command(prune)
