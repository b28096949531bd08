"""`mirnet train`: train or fine-tune weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mirnet_edge.cli.application import command
from mirnet_edge.cli.arguments import (
    DEVICE,
    INPUT,
    MODEL,
    OUTPUT,
    TRAINING,
    WEIGHTS_METAVAR,
    TrainingDeviceOption,
    WorkersOption,
    check_folder,
    check_positive,
    check_weights,
)
from mirnet_edge.cli.progress import TrainingProgress
from mirnet_edge.errors import OptionError

_RECIPES = "the recipe's"
_DIAGNOSIS, _OLD_PHOTO = "diagnosis", "old-photo"


def train(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with pairs.csv (low, high, scene, split), or with low/ and high/, or of "
            "clean images, which are degraded for the task. For diagnosis: the folder that the "
            "recipe's sources are relative to, or one of clean images."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the training state, the history and the finished weights."),
    ] = Path("build/train"),
    task: Annotated[
        str, typer.Option(help="low-light, denoise, super-resolution, old-photo or diagnosis.")
    ] = "low-light",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Training recipe: a name of this package or a TOML file.",
            show_default="the task's; fine-tune with --init",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Instead of --recipe: network and training as published. seed: the Keras example; "
            "mirnet, mirnet-v2: the papers.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar=WEIGHTS_METAVAR, help="Initial weights to fine-tune.", rich_help_panel=MODEL
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            help="Which set of weights of several in the file of --init, by the names around it.",
            show_default="the averaged one (EMA), else the first",
            rich_help_panel=MODEL,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar=WEIGHTS_METAVAR,
            help="Weights of the teacher, for distillation.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    model: Annotated[
        Literal["edge", "mirnet", "mirnet-v2", "keras-mirnet"] | None,
        typer.Option(help="Architecture.", show_default=_RECIPES, rich_help_panel=MODEL),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="Channels: 32,48,64 for edge, one number for the others.",
            show_default=_RECIPES,
            rich_help_panel=MODEL,
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            help="Number of multi-scale blocks.", show_default=_RECIPES, rich_help_panel=MODEL
        ),
    ] = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images without ground truth, for pseudo-labels by --teacher.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(
            help="Folder of damage with transparency, to lay over old photos.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Former training data for half of each batch, against forgetting.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Largest accuracy drop of --init on --replay, in dB: the weights are interpolated "
            "until it holds.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Training steps.", show_default=_RECIPES, rich_help_panel=TRAINING),
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
            help="Steps of the first stage, on thumbnails.",
            show_default=_RECIPES,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate.", show_default=_RECIPES, rich_help_panel=TRAINING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed.", show_default=_RECIPES, rich_help_panel=TRAINING),
    ] = None,
    qat: Annotated[
        bool,
        typer.Option(
            "--qat",
            help="Quantization-aware training of --init; also writes the INT8 graph.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    device: TrainingDeviceOption = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(help="Arithmetic; fp16 on a GPU only.", rich_help_panel=DEVICE),
    ] = "fp32",
    workers: WorkersOption = 1,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Fuse the network: a minute at the start, faster steps.",
            rich_help_panel=DEVICE,
        ),
    ] = False,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after so many minutes; the same command resumes.", rich_help_panel=DEVICE
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write TensorBoard events to --out.", rich_help_panel=OUTPUT
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Train a network on image pairs or clean images. The same command resumes a stopped run."""
    check_positive(max_minutes, "--max-minutes")
    check_positive(steps, "--steps")
    check_positive(batch, "--batch")
    max_seconds = math.inf if max_minutes is None else 60.0 * max_minutes
    unused = {
        "init": init, "teacher": teacher, "model": model, "channels": channels, "blocks": blocks,
        "preset": preset, "unlabeled": unlabeled, "overlays": overlays, "replay": replay,
        "keep": keep, "exposure_steps": exposure_steps, "qat": qat or None,
        "compile": compiled or None, "tensorboard": tensorboard or None,
    }  # fmt: skip
    if task == _DIAGNOSIS:
        _check_unused(f"--task {_DIAGNOSIS}", **unused, crop=crop)
        check_folder(data, "--data")
        from mirnet_edge.cli.train_diagnosis import train_diagnosis_network
        from mirnet_edge.training.diagnosis.job import DiagnosisRequest

        overrides = _given(steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
        diagnosis = DiagnosisRequest(
            data=data, out=out, recipe=recipe, overrides=overrides, max_seconds=max_seconds
        )
        train_diagnosis_network(diagnosis, as_json=as_json)
        return
    if _is_translation(recipe, task):
        _check_unused(
            f"--recipe {recipe}", **unused, steps=steps, batch=batch, crop=crop,
            learning_rate=learning_rate, device={"cuda": "cuda"}.get(device),
        )  # fmt: skip
        _train_translation(
            data, out, str(recipe), _given(seed=seed), precision, max_seconds, as_json=as_json
        )
        return
    check_positive(crop, "--crop")
    _check_workers(workers)
    network = _given(channels=_channels(channels), blocks=blocks)
    check_weights(init)
    check_weights(teacher)
    check_folder(data, "--data", "one with pairs.csv, with low/ and high/, or of clean images")
    for option, folder in (("unlabeled", unlabeled), ("overlays", overlays), ("replay", replay)):
        check_folder(folder, f"--{option}")
    from mirnet_edge.training.recipe import read_recipe
    from mirnet_edge.training.tasks import find_task

    find_task(task)
    recipe = _choose_recipe(recipe, preset)
    if recipe is not None:
        read_recipe(recipe)
    from mirnet_edge.training.job import TrainingRequest
    from mirnet_edge.training.runs import train_by_recipe

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
        network=network,
        init=init,
        init_key=weights_key,
        teacher=teacher,
        unlabeled=unlabeled,
        overlays=overlays,
        replay=replay,
        max_drop_db=keep,
        device=device,
        precision=precision,
        workers=workers,
        compiled=compiled,
        tensorboard=tensorboard,
        qat=qat,
        max_seconds=max_seconds,
    )
    with TrainingProgress.shown() as display:
        trained = train_by_recipe(request, display)
    if not display.leads:
        return
    graph = None
    if qat:
        from mirnet_edge.export.onnx_graph import write_int8

        graph = write_int8(trained.network, trained.weights.with_name(f"{task}-int8.onnx"))
    score = trained.score
    figures = {"psnr_db": score.psnr_db, "ssim": score.ssim, "mae": score.mae}
    figures |= {"step": score.step, "steps": trained.steps}
    named = {} if graph is None else {"int8": str(graph)}
    kept = trained.interpolation
    if as_json:
        blend = (
            {}
            if kept is None
            else {"share": kept.fraction, "accuracy_drop_db": kept.accuracy_drop_db}
        )
        print(json.dumps({"weights": str(trained.weights), **named, **figures, **blend}))
        return
    print(f"{trained.weights}: {score.psnr_db:.2f} dB, SSIM {score.ssim:.3f} on the val split")
    if score.step < trained.steps:
        print(
            f"stopped by --max-minutes after {score.step} of {trained.steps} steps: the weights "
            f"are those of step {score.step}, and the same command resumes there"
        )
    if kept is not None:
        print(
            f"interpolated {kept.fraction:.0%} of the way from {init} to the fine-tuned weights; "
            f"accuracy drop {kept.accuracy_drop_db:.2f} dB on {replay}"
        )


def _check_workers(workers: int) -> None:
    """Refuse a negative number of threads.

    Raises:
        OptionError: It is negative.
    """
    if workers < 0:
        raise OptionError(f"--workers must not be negative, found {workers}")


def _train_translation(
    data: Path,
    out: Path,
    recipe: str,
    overrides: dict[str, Any],
    precision: Literal["fp32", "bf16", "fp16"],
    max_seconds: float,
    *,
    as_json: bool,
) -> None:
    """Train old-photo translation.

    Raises:
        MirnetEdgeError: As `cli.train_translation.train_old_photo_translation`.
    """
    if precision == "fp16":
        raise OptionError("--precision fp16 needs a GPU; choose fp32 or bf16")
    check_folder(data, "--data")
    from mirnet_edge.cli.train_translation import train_old_photo_translation
    from mirnet_edge.training.translation.job import TranslationRequest

    request = TranslationRequest(
        data=data, out=out, recipe=recipe, overrides=overrides, precision=precision,
        max_seconds=max_seconds,
    )  # fmt: skip
    train_old_photo_translation(request, as_json=as_json)


def _check_unused(choice: str, **values: object) -> None:
    """Refuse options that a choice of networks of their own has no use for.

    Raises:
        OptionError: One was given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]
    if given:
        raise OptionError(
            f"{choice} has its own network, trained from its recipe on the processor; "
            f"leave out {', '.join(given)}"
        )


def _is_translation(recipe: str | None, task: str) -> bool:
    """Return whether a recipe is one of old-photo translation.

    Raises:
        OptionError: It is, and the task is another.
    """
    from mirnet_edge.training.translation.recipe import is_translation_recipe

    if not is_translation_recipe(recipe):
        return False
    if task != _OLD_PHOTO:
        raise OptionError(f"--recipe {recipe} needs --task {_OLD_PHOTO}, found {task}")
    return True


def _choose_recipe(recipe: str | None, preset: str | None) -> str | None:
    """Return the recipe's name or file.

    Raises:
        OptionError: There is no such preset, or both were given.
    """
    from mirnet_edge.training.recipe import PRESETS

    if preset is None:
        return recipe
    if recipe is not None:
        raise OptionError("--preset names a recipe; leave out --preset or --recipe")
    if preset not in PRESETS:
        raise OptionError(f"--preset must be one of {', '.join(PRESETS)}, found {preset!r}")
    return preset


def _given(**values: Any) -> dict[str, Any]:  # noqa: ANN401  # options of several types
    return {name: value for name, value in values.items() if value is not None}


def _channels(text: str | None) -> tuple[int, ...] | int | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--channels must be numbers, as 32,48,64; found {text!r}") from error
    return numbers if len(numbers) > 1 else numbers[0]


main = command(
    train,
    examples=(
        "train --data pairs --task low-light",
        "train --data my_pairs --init shipped:low-light --out build/fine_tuned",
        "train --data lol --preset seed --channels 16 --max-minutes 60",
        "train --data data --task diagnosis --out build/diagnosis",
        "train --data data --task old-photo --recipe old-photo-translation",
    ),
    former_options={"--unlabelled": "--unlabeled"},
)

if __name__ == "__main__":  # torchrun starts modules
    main()
