"""mirnet-train: make weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirnet_edge.cli.application import command, stderr

if TYPE_CHECKING:
    from mirnet_edge.training.loop import Recipe, Trainer
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.record import Score


def train(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with pairs.csv (low, high, scene, split), or with low/ and high/."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the state, the history and the finished weights.")
    ] = Path("build/train"),
    task: Annotated[str, typer.Option(help="What the network learns: low-light.")] = "low-light",
    steps: Annotated[int | None, typer.Option(help="How many steps; default 10000.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step; default 12.")] = None,
    crop: Annotated[
        int | None, typer.Option(help="Side of the crops in pixels; default 192.")
    ] = None,
    exposure_steps: Annotated[
        int | None, typer.Option(help="Steps of the first stage, on thumbnails; default 8000.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; default 0.001.")] = None,
    seed: Annotated[int, typer.Option(help="All chance comes from it.")] = 0,
    blocks: Annotated[int, typer.Option(help="Multi-scale blocks of the network.")] = 1,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; run again to go on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train MIRNetEdge on pairs of pictures. Stopped runs go on where they were."""
    from mirnet_edge.errors import OptionError
    from mirnet_edge.training.loop import Recipe

    if max_minutes is not None and max_minutes <= 0:
        raise OptionError(f"--max-minutes must be above 0, found {max_minutes:g}")
    if task != "low-light":
        raise OptionError(
            f"--task must be low-light, found {task!r}; other tasks are not there yet"
        )
    given = {
        "steps": steps,
        "batch": batch,
        "crop": crop,
        "exposure_steps": exposure_steps,
        "learning_rate": learning_rate,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    recipe = Recipe(seed=seed, **chosen)
    weights, score = _train(data, out, task, recipe, blocks, max_minutes)
    figures = {"psnr_db": score.psnr_db, "ssim": score.ssim, "step": score.step}
    if as_json:
        print(json.dumps({"weights": str(weights), **figures}))
    else:
        print(f"{weights}: {score.psnr_db:.2f} dB, SSIM {score.ssim:.3f} on the val split")


def _train(
    data: Path, out: Path, task: str, recipe: Recipe, blocks: int, max_minutes: float | None
) -> tuple[Path, Score]:
    import math

    import torch

    from mirnet_edge import checkpoints
    from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
    from mirnet_edge.training.card import card_of
    from mirnet_edge.training.loop import Trainer

    train_pairs, validation = _load(data)
    torch.manual_seed(recipe.seed)
    trainer = Trainer(MIRNetEdge(MIRNetEdgeConfig(blocks=blocks)), recipe, out)
    if trainer.resume():
        print(f"going on at step {trainer.step} of {recipe.steps}", file=sys.stderr)
    score = _run(trainer, train_pairs, validation, math.inf if max_minutes is None else max_minutes)
    weights = out / f"{task}.safetensors"
    checkpoints.save(
        trainer.averaged, weights, card_of(task, trainer, score, train_pairs, data.name)
    )
    return weights, score


def _load(data: Path) -> tuple[Pairs, Pairs]:
    from rich.progress import Progress

    from mirnet_edge.training.listing import list_pairs
    from mirnet_edge.training.pairs import load_pairs

    listing = list_pairs(data)
    lists = (listing.train, listing.val)
    with Progress(console=stderr(), transient=True) as progress:
        bar = progress.add_task("read pictures", total=sum(map(len, lists)))
        train_pairs, validation = (
            load_pairs(pairs, on_loaded=lambda _: progress.advance(bar)) for pairs in lists
        )
    return train_pairs, validation


def _run(trainer: Trainer, train_pairs: Pairs, validation: Pairs, max_minutes: float) -> Score:
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
        first = progress.add_task(
            "exposure", total=trainer.recipe.exposure_steps, visible=trainer.step == 0
        )
        bar = progress.add_task("train", total=trainer.recipe.steps, completed=trainer.step)

        def show(score: Score) -> None:
            progress.console.print(
                f"step {score.step:6}  loss {score.loss:.4f}  PSNR {score.psnr_db:.2f} dB  "
                f"brightness-matched {score.psnr_gtmean_db:.2f} dB  SSIM {score.ssim:.4f}"
            )

        return trainer.run(
            train_pairs,
            validation,
            on_exposure_step=lambda step, loss: progress.update(
                first, completed=step, description=f"exposure loss {loss:.4f}"
            ),
            on_step=lambda step, loss: progress.update(
                bar, completed=step, description=f"loss {loss:.4f}"
            ),
            on_score=show,
            max_seconds=60.0 * max_minutes,
        )


main = command(train)
