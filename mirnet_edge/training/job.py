"""Train weights: from a training request to a weights file with its model card.

Nobody can take a bright image of a street at night to train on, but what a large network makes of
it can be aimed at (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.checkpoints.families import FAMILIES, plain_config
from mirnet_edge.checkpoints.store import interpolate_weights
from mirnet_edge.dependencies import require
from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.quantization.qat import prepare_qat, remove_quantizers
from mirnet_edge.training import loop
from mirnet_edge.training.listing import list_images, list_pairs
from mirnet_edge.training.loop import Trainer, join_processes, restore_frames, validate
from mirnet_edge.training.pairs import (
    Pairs,
    add_monochrome,
    degrade_images,
    load_pairs,
    mix_pairs,
    require_measurable,
    sample_inputs,
)
from mirnet_edge.training.recipe import TrainingRecipe, read_recipe, recipe_from
from mirnet_edge.training.tasks import add_capture_noise, overlay_tasks, task_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.training.listing import PairFiles
    from mirnet_edge.training.loop import Precision
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.recipe import TrainingRecipe
    from mirnet_edge.training.record import ValidationScore
    from mirnet_edge.training.tasks import Task

FINE_TUNING = "fine-tune"
"""The recipe of a run that starts from weights."""
QAT = "qat"
"""The recipe of a run that teaches weights to bear INT8."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What is to be trained."""

    data: Path
    """A folder as `training.listing.list_pairs` reads it."""
    out: Path
    """Folder for the state, the history and the finished weights."""
    task: str = "low-light"
    recipe: str | None = None
    """A recipe's name or file; None for the task's own or, from weights, `FINE_TUNING`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe that are to be other than it says."""
    architecture: str | None = None
    """None: as the recipe says."""
    network: dict[str, Any] = field(default_factory=dict)
    """Fields of the network's config that are to be other than the recipe says."""
    init: str | None = None
    """Weights to start from; their network is taken."""
    teacher: str | None = None
    """Weights of the same task whose images are aimed at too."""
    unlabeled: Path | None = None
    """A folder of images without references: what the teacher makes of them is aimed at."""
    overlays: Path | None = None
    """A folder of damage with transparency, to be laid over the clean images of `data`."""
    replay: Path | None = None
    """Old images that half of the batches come from, so that they are not forgotten."""
    keep_db: float | None = None
    """How much PSNR `replay`'s val images may lose against `init`; None: as much as they do."""
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = 1
    compiled: bool = False
    tensorboard: bool = False
    qat: bool = False
    """Train `init` to bear INT8; without a teacher it learns from its fp32 self."""
    max_seconds: float = math.inf


def check_request(request: TrainingRequest) -> None:
    """Refuse what cannot be meant, before anything is read.

    Raises:
        OptionError: Two wishes contradict each other, or one lacks another.
        MissingDependencyError: What is asked for is not installed.
    """
    if request.qat and request.init is None:
        raise OptionError("--qat trains weights that restore already; give them with --init")
    if request.unlabeled is not None and request.teacher is None:
        raise OptionError("--unlabeled images are labeled by a teacher; give one with --teacher")
    if request.keep_db is not None:
        if request.init is None or request.replay is None:
            raise OptionError(
                "--keep measures what --init could do on the images of --replay; give both"
            )
        if request.qat:
            raise OptionError("--keep blends weights, --qat trains their INT8 form; choose one")
        if not request.keep_db >= 0.0:
            raise OptionError(f"--keep must be 0 dB or more, found {request.keep_db:g}")
    if request.tensorboard:
        require("tensorboard", "--tensorboard")  # now, not after the first interval


def device_of(name: str, precision: Precision) -> torch.device:
    """Return the device to train on.

    Raises:
        OptionError: It is not here, or cannot train in that precision.
    """
    available = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise OptionError(f"--device must be auto, cpu or cuda, found {name!r}")
    if precision not in ("fp32", "bf16", "fp16"):
        raise OptionError(f"--precision must be fp32, bf16 or fp16, found {precision!r}")
    if name == "cuda" and not available:
        raise OptionError(
            "--device cuda needs an NVIDIA GPU and a torch built for it; found "
            f"torch {torch.__version__} without. Use --device cpu"
        )
    chosen = "cuda" if available and name != "cpu" else "cpu"
    if chosen == "cpu" and precision == "fp16":
        raise OptionError("--precision fp16 needs a GPU, found none; use bf16 on a processor")
    return torch.device(chosen)


def resolve_request(request: TrainingRequest) -> tuple[TrainingRecipe, tuple[str, dict[str, Any]]]:
    """Return the recipe and the network: the task's own, the file's, what was asked for.

    Raises:
        OptionError: There is no such recipe, or a value in it makes no sense.
    """
    own = read_recipe(task_of(request.task).name)
    given = own
    if request.recipe is not None or request.init is not None:
        given = read_recipe(request.recipe or (QAT if request.qat else FINE_TUNING))
    architecture = request.architecture or given.architecture or own.architecture or "edge"
    network: dict[str, Any] = {}
    for file in (own, given):
        # fields of one architecture mean nothing to another
        if architecture == (file.architecture or own.architecture):
            network |= file.network
    training = {**given.training, **request.training}
    origin = "options" if request.recipe is None else request.recipe
    return recipe_from(training, origin), (architecture, {**network, **request.network})


def load_initial_network(
    request: TrainingRequest, network: tuple[str, dict[str, Any]], task: Task
) -> tuple[nn.Module, str | None]:
    """Return the network to train, and the hash of the weights it starts from.

    Raises:
        CheckpointError: The weights of `init` cannot be read.
        OptionError: There is no such network, or it does not fit the task.
    """
    if request.init is not None:
        if request.network or request.architecture:
            raise OptionError(
                "--init brings its network along; leave out --model, --channels and --blocks"
            )
        loaded = checkpoints.load(request.init)
        _require_scale(loaded.model, task, request.init)
        return loaded.model.requires_grad_().train(), loaded.sha256
    architecture, fields = network
    family = {family.name: family for family in FAMILIES}.get(architecture)  # type: ignore[call-overload]
    if family is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise OptionError(f"--model must be one of {names}, found {architecture!r}")
    try:
        model = family.network(family.config(**fields))
    except (TypeError, ValueError) as error:
        settings = ", ".join(field.name for field in dataclasses.fields(family.config))
        raise OptionError(
            f"{family.title} cannot be built with {fields} ({error}); its settings are {settings}"
        ) from error
    _require_scale(model, task, f"a {family.title} of these settings")
    return model, None


def _require_scale(model: nn.Module, task: Task, name: str) -> None:
    scale = getattr(model.config, "scale", 1)
    if scale != task.scale:
        raise OptionError(
            f"the task {task.name} needs a network of scale {task.scale}; {name} has scale "
            f"{scale}. Choose other weights, or --model edge"
        )


def teacher_of(weights: str | None, model: nn.Module) -> tuple[nn.Module | None, str | None]:
    """Return the network to learn from and the hash of its weights.

    Raises:
        CheckpointError: The weights cannot be read.
        OptionError: What it makes does not fit what the student makes.
    """
    if weights is None:
        return None, None
    loaded = checkpoints.load(weights)
    teacher = loaded.model
    scales = [getattr(one.config, "scale", 1) for one in (teacher, model)]
    if scales[0] != scales[1]:
        raise OptionError(
            f"the teacher {weights} has scale {scales[0]}, the student {scales[1]}; expected "
            "the same"
        )
    if teacher.multiple > model.multiple:  # type: ignore[operator]
        raise OptionError(
            f"the teacher {weights} takes multiples of {teacher.multiple}, the student of "
            f"{model.multiple}; choose a teacher with a smaller stem"
        )
    return teacher, loaded.sha256


def make_pseudo_labels(
    images: Pairs, teacher: nn.Module, scale: int, on_labeled: Callable[[], None]
) -> Pairs:
    """Return pairs of the images and of what the teacher makes of them, whole and in 8 bits.

    Args:
        images: Their good side is what is to be restored.
        teacher: It sees each image once, whole: its pools are those of the frame.
        scale: How many times higher and wider the teacher makes them.
        on_labeled: Told when one more is done.
    """
    made = []
    teacher.eval()
    for frame in images.high:
        made.append(restore_frames(teacher, frame[None], scale)[0])
        on_labeled()
    return replace(images, low=images.high, high=tuple(made), degrade=None, scale=scale)


def require_pairs(pairs: Pairs) -> None:
    """Refuse what labeled images cannot be put to.

    Raises:
        DataError: These are clean images, which have no bad ones yet.
    """
    if pairs.degrade is not None:
        raise DataError(
            "--unlabeled goes with pairs; found clean images in --data. Put images in its "
            "folders low/ and high/"
        )


def concatenate_pairs(pairs: Pairs, others: Pairs) -> Pairs:
    """Return the pairs of both, each as often as it is there."""
    digest = hashlib.sha256((pairs.sha256 + others.sha256).encode()).hexdigest()
    return replace(
        pairs,
        names=pairs.names + others.names,
        low=pairs.low + others.low,
        high=pairs.high + others.high,
        sha256=digest,
    )


class ReadingObserver(Protocol):
    """Who is told how far the reading is."""

    def reading(self, total: int) -> None:
        """So many images are about to be read."""

    def read(self) -> None:
        """One more image was read."""

    def labeling(self, total: int) -> None:
        """The teacher is about to label so many images."""

    def labeled(self) -> None:
        """It labeled one more."""


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is judged by."""

    train: Pairs
    validation: Pairs
    former: Pairs | None
    """Of `TrainingRequest.replay`, those that validate; None where nothing is to be kept."""


def read_data(
    request: TrainingRequest,
    recipe: TrainingRecipe,
    task: Task,
    teacher: nn.Module | None,
    reader: ReadingObserver,
) -> TrainingData:
    """Return the images that a request names.

    Raises:
        DataError: A folder holds something else, or images do not fit each other.
        OptionError: The task has no use for what was asked for.
    """
    listing = list_pairs(request.data)
    replay = None if request.replay is None else list_pairs(request.replay)
    replayed = () if replay is None else replay.train
    former = () if replay is None or request.keep_db is None else replay.val
    alone = () if request.unlabeled is None else list_images(request.unlabeled)
    training, validating = task, task
    if request.overlays is not None:
        training, validating = overlay_tasks(task, request.overlays)
    reader.reading(sum(map(len, (listing.train, listing.val, replayed, former, alone))))

    def loaded(pairs: tuple[PairFiles, ...], task: Task = training) -> Pairs:
        return load_pairs(
            pairs, degrade=task.degrade, scale=task.scale, on_loaded=lambda _: reader.read()
        )

    train, validation = loaded(listing.train), degrade_images(loaded(listing.val, validating))
    require_measurable(validation)
    if request.overlays is not None and train.degrade is None:
        raise DataError(
            "--overlays are laid over clean images; found pairs in --data. Give a folder of "
            "clean images alone"
        )
    if alone and teacher is not None:
        require_pairs(train)  # before the teacher takes its time
        images = loaded(alone)
        reader.labeling(len(images))
        train = concatenate_pairs(
            train, make_pseudo_labels(images, teacher, task.scale, reader.labeled)
        )
    if replayed:
        train = mix_pairs(train, loaded(replayed))
    degrade = train.degrade
    if degrade is not None and recipe.monochrome_fraction:
        train = add_monochrome(train, recipe.monochrome_fraction)
    if degrade is not None and recipe.capture_noise_fraction:
        train = replace(train, degrade=add_capture_noise(degrade, recipe.capture_noise_fraction))
    kept = degrade_images(loaded(former, validating)) if former else None
    if kept is not None:
        require_measurable(kept)
    return TrainingData(train, validation, kept)


def card_of(
    task: str, trainer: Trainer, score: ValidationScore, train: Pairs, trained_on: str
) -> ModelCard:
    """Return the card of a trainer's averaged weights; saving it adds the network's config."""
    return ModelCard(
        task=task,
        trained_on=trained_on,
        figures={
            "val_psnr_db": round(score.psnr_db, 4),
            "val_psnr_gtmean_db": round(score.psnr_gtmean_db, 4),
            "val_ssim": round(score.ssim, 5),
            "val_mae": round(score.mae, 5),
            "steps": score.step,
        },
        recipe=plain_config(trainer.recipe),
        data_sha256=train.sha256,
        revision=revision_of(Path(__file__).parents[2]),
    )


def revision_of(root: Path) -> str | None:
    """Return the commit a source tree stands at, with `+` where it was changed since.

    None for an installed package, which has no history.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    commit, changes = (
        subprocess.run([git, "-C", root, *words], capture_output=True, text=True, check=False)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    if commit.returncode or changes.returncode:
        return None
    return commit.stdout.strip() + ("+" if changes.stdout else "")


_STEPS = 16  # places on the line; finer than one run repeats another


@dataclass(frozen=True)
class InterpolationResult:
    """A network between two, and what it has of each."""

    network: nn.Module
    share: float
    """How far it lies from the former to the fine-tuned: 0 to 1."""
    accuracy_drop_db: float
    """PSNR on the former images, against the former network; negative where that grew."""


def interpolate_within_drop(
    former: nn.Module,
    tuned: nn.Module,
    images: Pairs,
    largest_drop_db: float,
    on_tried: Callable[[float, float], None] = lambda share, accuracy_drop_db: None,
) -> InterpolationResult:
    """Return the blend closest to TUNED that loses at most so much on the former's IMAGES.

    By bisection, since the loss grows along the line between the two (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022, figure 1). Share 0 is FORMER, which loses nothing.

    Args:
        former: Before fine-tuning.
        tuned: After it.
        images: Bad and good ones of what FORMER was made for, none that trained.
        largest_drop_db: What may be lost of their mean PSNR.
        on_tried: Gets each share that was measured, and its loss in dB.

    Raises:
        CheckpointError: The two networks have other shapes.
    """
    before_db = validate(former, images)[0]

    def at(step: int) -> InterpolationResult:
        share = step / _STEPS
        network = interpolate_weights(former, tuned, share)
        accuracy_drop_db = before_db - validate(network, images)[0]
        on_tried(share, accuracy_drop_db)
        return InterpolationResult(network, share, accuracy_drop_db)

    best, good, bad = at(_STEPS), 0, _STEPS
    if best.accuracy_drop_db <= largest_drop_db:
        return best
    best = InterpolationResult(former, 0.0, 0.0)
    while bad - good > 1:
        middle = at((good + bad) // 2)
        if middle.accuracy_drop_db <= largest_drop_db:
            best, good = middle, (good + bad) // 2
        else:
            bad = (good + bad) // 2
    return best


@dataclass(frozen=True)
class TrainingResult:
    """What came of it."""

    weights: Path
    score: ValidationScore
    network: nn.Module
    """What was scored; with `qat` it is fake-quantized, and the weights' file is its float self."""
    kept: InterpolationResult | None
    """With `keep_db`: how far the weights lie from `init`, and what that lost."""


class TrainingObserver(ReadingObserver, Protocol):
    """Who is told how far the job is."""

    def starting(self, recipe: TrainingRecipe, step: int) -> None:
        """Training begins, or goes on, at this step."""

    def exposure_step(self, step: int, loss: float) -> None:
        """A step of the first stage is done."""

    def stepped(self, step: int, loss: float) -> None:
        """A step is done."""

    def scored(self, score: ValidationScore) -> None:
        """The weights were validated and saved."""

    def blended(self, share: float, accuracy_drop_db: float) -> None:
        """This share of what was learned costs so much of what `TrainingRequest.init` could do."""


def train_weights(request: TrainingRequest, observer: TrainingObserver) -> TrainingResult:
    """Train, or go on training, and write `OUT/TASK.safetensors`.

    Raises:
        MirnetEdgeError: The request makes no sense, or the data or weights cannot be read.
        TrainingError: The loss is no longer a number; the last state is kept.
    """
    check_request(request)
    device = device_of(request.device, request.precision)
    task = task_of(request.task)
    recipe, network = resolve_request(request)
    with join_processes(device) as process:
        torch.manual_seed(recipe.seed)
        model, parent = load_initial_network(request, network, task)
        fp32_self = request.init if request.qat else None
        teacher, taught_by = teacher_of(request.teacher or fp32_self, model)
        if teacher is not None:
            teacher = teacher.to(device)
        data = read_data(request, recipe, task, teacher, observer)
        if request.qat:
            prepare_qat(model, sample_inputs(data.train, model.multiple))  # type: ignore[arg-type]
        trainer = Trainer(
            model, recipe, request.out, teacher=teacher, device=device,
            precision=request.precision, process=process, workers=request.workers,
            compiled=request.compiled, tensorboard=request.tensorboard,
            start=" ".join(map(str, (parent, taught_by, data.train.sha256))),
        )  # fmt: skip
        loop.resume_state(trainer)
        observer.starting(recipe, trainer.step)
        score = trainer.run(
            data.train,
            data.validation,
            on_exposure_step=observer.exposure_step,
            on_step=observer.stepped,
            on_score=observer.scored,
            max_seconds=request.max_seconds,
        )
        weights = request.out / f"{task.name}.safetensors"
        trained = TrainingResult(weights, score, trainer.averaged, None)
        if process.leads:
            trained = _finish(request, trained, data, observer)
            card = card_of(
                task.name, trainer, trained.score, data.train, request.data.resolve().name
            )
            update = {"parent": parent, "teacher": taught_by, "note": _note(request, trained.kept)}
            averaged = trained.network.cpu()
            checkpoints.save(
                remove_quantizers(averaged) if request.qat else averaged,
                weights,
                card.model_copy(update=update),
            )
        process.wait()
    return trained


def _finish(
    request: TrainingRequest,
    trained: TrainingResult,
    data: TrainingData,
    observer: TrainingObserver,
) -> TrainingResult:
    """Return what was trained, moved back towards `init` where that forgot too much of it."""
    if data.former is None or request.init is None or request.keep_db is None:
        return trained
    former = checkpoints.load(request.init).model.to(next(trained.network.parameters()).device)
    found = interpolate_within_drop(
        former, trained.network, data.former, request.keep_db, observer.blended
    )
    psnr_db, gtmean_db, ssim, mae = validate(found.network, data.validation)
    score = replace(trained.score, psnr_db=psnr_db, psnr_gtmean_db=gtmean_db, ssim=ssim, mae=mae)
    return replace(trained, score=score, network=found.network, kept=found)


def _note(request: TrainingRequest, found: InterpolationResult | None) -> str | None:
    notes = []
    if request.unlabeled is not None:
        notes.append(f"the teacher labeled the images of {request.unlabeled.resolve().name}")
    if request.overlays is not None:
        notes.append(f"half of the images had damage of {request.overlays.resolve().name}")
    if request.replay is not None:
        name = request.replay.resolve().name
        notes.append(f"half of the images were drawn from {name}")
        if found is not None:
            notes.append(
                f"{found.share:g} of the way from the parent to what was trained, which lost "
                f"{found.accuracy_drop_db:.2f} dB on the val images of {name}"
            )
    return "; ".join(notes) or None
