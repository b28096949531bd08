"""mirnet-train: make weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from mirnet_edge.cli.application import command
from mirnet_edge.cli.progress import TrainingProgress


def train(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with pairs.csv (low, high, scene, split), or with low/ and high/, or of "
            "clean images, which the task makes bad."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the state, the history and the finished weights.")
    ] = Path("build/train"),
    task: Annotated[
        str, typer.Option(help="low-light, denoise, super-resolution or old-photo.")
    ] = "low-light",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe of ours or a TOML file; default: the task's, with --init fine-tune."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="edge, mirnet or mirnet-v2; default: the recipe's.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="Of the network: 32,48,64 for edge, one number for the others."),
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="Multi-scale blocks of the network.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: a file or shipped:NAME.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Weights to learn from: a file or shipped:NAME.")
    ] = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option(help="Folder of images without references: --teacher says what they become."),
    ] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(help="Folder of damage with transparency, to lay over old photos."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Former training data, so that it is not forgotten.")
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="How many dB --init may lose on --replay: the weights end where they lose no more."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the crops in pixels.")] = None,
    exposure_steps: Annotated[
        int | None, typer.Option(help="Steps of the first stage, on thumbnails.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.")] = None,
    seed: Annotated[int | None, typer.Option(help="All chance comes from it.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the arithmetic: fp32, bf16 or, on a GPU, fp16.")
    ] = "fp32",
    workers: Annotated[int, typer.Option(help="Threads that draw batches ahead.")] = 1,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Fuse the network: a minute at the start, faster steps."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's events to --out.")
    ] = False,
    qat: Annotated[
        bool,
        typer.Option("--qat", help="Teach --init to bear INT8; also writes the INT8 graph."),
    ] = False,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; run again to go on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train a network on pairs of images or clean ones. Stopped runs go on where they were."""
    from mirnet_edge.errors import OptionError
    from mirnet_edge.training.job import TrainingRequest, train_weights

    if max_minutes is not None and not max_minutes > 0:
        raise OptionError(f"--max-minutes must be above 0, found {max_minutes:g}")
    if workers < 0:
        raise OptionError(f"--workers must not be negative, found {workers}")
    training = _given(
        steps=steps,
        batch=batch,
        crops=None if crop is None else (crop,),
        exposure_steps=exposure_steps,
        learning_rate=learning_rate,
        seed=seed,
    )
    request = TrainingRequest(
        data=data,
        out=out,
        task=task,
        recipe=recipe,
        training=training,
        architecture=model,
        network=_given(channels=_channels(channels), blocks=blocks),
        init=init,
        teacher=teacher,
        unlabeled=unlabeled,
        overlays=overlays,
        replay=replay,
        keep_db=keep,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # checked with the device
        workers=workers,
        compiled=compiled,
        tensorboard=tensorboard,
        qat=qat,
        max_seconds=math.inf if max_minutes is None else 60.0 * max_minutes,
    )
    with TrainingProgress.shown() as display:
        trained = train_weights(request, display)
    if not display.leads:
        return
    graph = None
    if qat:
        from mirnet_edge.export.onnx_graph import write_int8

        graph = write_int8(trained.network, trained.weights.with_name(f"{task}-int8.onnx"))
    score = trained.score
    figures = {"psnr_db": score.psnr_db, "ssim": score.ssim, "mae": score.mae, "step": score.step}
    named = {} if graph is None else {"int8": str(graph)}
    kept = trained.kept
    if as_json:
        blend = (
            {} if kept is None else {"share": kept.share, "accuracy_drop_db": kept.accuracy_drop_db}
        )
        print(json.dumps({"weights": str(trained.weights), **named, **figures, **blend}))
        return
    print(f"{trained.weights}: {score.psnr_db:.2f} dB, SSIM {score.ssim:.3f} on the val split")
    if kept is not None:
        print(
            f"interpolated {kept.share:.0%} of the way from {init} to the fine-tuned weights; "
            f"accuracy drop {kept.accuracy_drop_db:.2f} dB on {replay}"
        )


def _given(**values: Any) -> dict[str, Any]:  # noqa: ANN401  # options of several types
    return {name: value for name, value in values.items() if value is not None}


def _channels(text: str | None) -> tuple[int, ...] | int | None:
    from mirnet_edge.errors import OptionError

    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--channels must be numbers, as 32,48,64; found {text!r}") from error
    return numbers if len(numbers) > 1 else numbers[0]


main = command(train)

if __name__ == "__main__":  # torchrun starts modules
    main()
