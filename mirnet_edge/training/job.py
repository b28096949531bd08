"""Train weights: from a training request to a weights file with its model card.

request -> recipe and network -> teacher -> image pairs -> training loop -> interpolation ->
channels that contribute least set to zero -> card.

With a teacher, training is distillation (Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015): the student's target is a mix of ground truth and the teacher's output. Images
without ground truth, such as streets at night, get the teacher's output as pseudo-labels.
"""

from __future__ import annotations

import dataclasses
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
from mirnet_edge.models.dead_channels import describe_silenced, silence_dead_channels
from mirnet_edge.models.reparameterization import fold_convolutions, widen_convolutions
from mirnet_edge.quantization.qat import learned_ranges_of, prepare_qat, remove_quantizers
from mirnet_edge.training import loop
from mirnet_edge.training.listing import list_images, list_pairs
from mirnet_edge.training.loop import Trainer, join_processes, restore_frames, validate
from mirnet_edge.training.pairs import (
    Pairs,
    add_monochrome,
    concatenate_pairs,
    degrade_images,
    load_pairs,
    mix_pairs,
    require_measurable,
    sample_inputs,
)
from mirnet_edge.training.recipe import TrainingRecipe, read_recipe, recipe_from_values
from mirnet_edge.training.tasks import add_capture_noise, find_task, make_overlay_tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.training.listing import PairFiles
    from mirnet_edge.training.loop import Precision
    from mirnet_edge.training.record import ValidationScore
    from mirnet_edge.training.tasks import Task

FINE_TUNING = "fine-tune"
"""The default recipe with initial weights."""
QAT = "qat"
"""The default recipe of quantization-aware training."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The options of one training run."""

    data: Path
    """Training set: a folder as `training.listing.list_pairs` reads it."""
    out: Path
    """Folder for the training state, the history and the finished weights."""
    task: str = "low-light"
    recipe: str | None = None
    """A recipe's name or file; None for the task's or, with `init`, `FINE_TUNING` or `QAT`."""
    run: int | None = None
    """Which of the recipe's runs, from 1; None for a recipe of one."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe to override."""
    architecture: str | None = None
    """None: that of the recipe."""
    network: dict[str, Any] = field(default_factory=dict)
    """Fields of the network's config to override."""
    init: str | None = None
    """Pretrained weights to fine-tune; their network is used."""
    init_key: str | None = None
    """Which set of weights of several in the file of `init`; see `checkpoints.load`."""
    teacher: str | None = None
    teacher_key: str | None = None
    """Weights of the same task to distill from."""
    unlabeled: Path | None = None
    """Folder of images without ground truth; the teacher makes their pseudo-labels."""
    overlays: Path | None = None
    """Folder of images with transparency (damage), laid over the clean images of `data`."""
    replay: Path | None = None
    """Former training set, sampled for half of each batch against forgetting."""
    max_drop_db: float | None = None
    """Largest accuracy drop (PSNR) of `init` on the validation images of `replay`: the weights are
    interpolated towards `init` until it holds; None for no limit."""
    interpolation: float = 1.0
    """How far the weights are interpolated from `init` (0) to the trained ones (1)."""
    silence_fraction: float = 0.0
    """Fraction of each layer's contribution, 0 to below 1, whose channels are set to zero after
    training; see `models.dead_channels.silence_dead_channels`."""
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = 1
    """Threads that sample batches ahead."""
    compiled: bool = False
    """Whether to run the network through torch.compile."""
    tensorboard: bool = False
    """Whether to write TensorBoard events."""
    qat: bool = False
    """Quantization-aware training (QAT) of `init`, distilled from its fp32 self by default."""
    max_seconds: float = math.inf


def check_request(request: TrainingRequest) -> None:
    """Refuse contradicting or incomplete options before anything is read.

    Raises:
        OptionError: Two options contradict each other, or one needs another.
        MissingDependencyError: An option needs a package that is not installed.
    """
    if request.qat and request.init is None:
        raise OptionError("--qat fine-tunes pretrained weights; give them with --init")
    if request.unlabeled is not None and request.teacher is None:
        raise OptionError("--unlabeled images get pseudo-labels of a teacher; give --teacher")
    if request.max_drop_db is not None:
        if request.init is None or request.replay is None:
            raise OptionError(
                "--keep limits the accuracy drop of --init on the images of --replay; give both"
            )
        if request.qat:
            raise OptionError("--keep interpolates float weights; leave out --keep or --qat")
        if not request.max_drop_db >= 0.0:
            raise OptionError(f"--keep must be 0 dB or more, found {request.max_drop_db:g}")
    if request.tensorboard:
        require("tensorboard", "--tensorboard")  # now, not at the first validation


def select_device(name: str, precision: Precision) -> torch.device:
    """Return the device to train on.

    Raises:
        OptionError: It is not available, or cannot train in that precision.
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
    """Return the recipe and the network: of the task, overridden by the file and the options.

    Raises:
        OptionError: There is no such recipe, or a value in it lies outside its range.
    """
    own = read_recipe(find_task(request.task).name)
    given = own
    if request.recipe is not None or request.init is not None:
        given = read_recipe(request.recipe or (QAT if request.qat else FINE_TUNING))
    architecture = request.architecture or given.architecture or own.architecture or "edge"
    network: dict[str, Any] = {}
    for file in (own, given):
        # fields of one architecture's config do not fit another
        if architecture == (file.architecture or own.architecture):
            network |= file.network
    if given.runs and request.run is None:
        raise OptionError(
            f"the recipe {request.recipe} has {len(given.runs)} runs, which `mirnet train` trains "
            "one after the other; expected a recipe of one run here"
        )
    training = given.training_of(request.run) | request.training
    origin = "options" if request.recipe is None else request.recipe
    return recipe_from_values(training, origin), (architecture, {**network, **request.network})


def load_initial_network(
    request: TrainingRequest, network: tuple[str, dict[str, Any]], task: Task
) -> tuple[nn.Module, str | None]:
    """Return the network to train and the SHA-256 of its pretrained weights, None for random ones.

    Raises:
        CheckpointError: The weights of `init` cannot be read.
        OptionError: There is no such network, or it does not fit the task.
    """
    if request.init is not None:
        if request.network or request.architecture:
            raise OptionError(
                "--init determines the network; leave out --model, --channels and --blocks"
            )
        loaded = checkpoints.load(request.init, request.init_key)
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


def load_teacher(
    weights: str | None, model: nn.Module, key: str | None = None
) -> tuple[nn.Module | None, str | None]:
    """Return the teacher network and the SHA-256 of its weights; None without one.

    Raises:
        CheckpointError: The weights cannot be read.
        OptionError: The teacher's output does not fit the student's.
    """
    if weights is None:
        return None, None
    loaded = checkpoints.load(weights, key)
    teacher = loaded.model
    scales = [getattr(one.config, "scale", 1) for one in (teacher, model)]
    if scales[0] != scales[1]:
        raise OptionError(
            f"the teacher {weights} has scale {scales[0]}, the student {scales[1]}; expected "
            "the same. Choose another teacher"
        )
    if teacher.multiple > model.multiple:  # type: ignore[operator]
        raise OptionError(
            f"the teacher {weights} takes multiples of {teacher.multiple}, the student of "
            f"{model.multiple}; choose a teacher with a smaller stem"
        )
    return teacher, loaded.sha256


class LoadingObserver(Protocol):
    """Callbacks while images are loaded and pseudo-labels made."""

    def on_loading(self, total: int) -> None:
        """Loading begins, of this many images."""

    def on_loaded(self) -> None:
        """One more image was loaded."""

    def on_labeling(self, total: int) -> None:
        """Pseudo-labeling begins, of this many images."""

    def on_labeled(self) -> None:
        """One more image has its pseudo-label."""


@dataclass(frozen=True)
class TrainingData:
    """The image pairs of a run."""

    train: Pairs
    validation: Pairs
    replay_validation: Pairs | None
    """The validation images of `TrainingRequest.replay`; None without `max_drop_db`."""


def read_data(
    request: TrainingRequest,
    recipe: TrainingRecipe,
    task: Task,
    teacher: nn.Module | None,
    observer: LoadingObserver,
) -> TrainingData:
    """Return the image pairs that a request names.

    Raises:
        DataError: A folder holds something else, or images do not fit each other.
        OptionError: An option does not apply to the task.
    """
    listing = list_pairs(request.data)
    replay = None if request.replay is None else list_pairs(request.replay)
    replay_train = () if replay is None else replay.train
    replay_val = () if replay is None or request.max_drop_db is None else replay.val
    unlabeled = () if request.unlabeled is None else list_images(request.unlabeled)
    train_task, val_task = task, task
    if request.overlays is not None:
        train_task, val_task = make_overlay_tasks(task, request.overlays)
    observer.on_loading(
        sum(map(len, (listing.train, listing.val, replay_train, replay_val, unlabeled)))
    )

    def load(pairs: tuple[PairFiles, ...], task: Task = train_task) -> Pairs:
        return load_pairs(
            pairs, degrade=task.degrade, scale=task.scale, on_loaded=lambda _: observer.on_loaded()
        )

    train, validation = load(listing.train), degrade_images(load(listing.val, val_task))
    require_measurable(validation)
    if request.overlays is not None and train.degrade is None:
        raise DataError(
            "--overlays are laid over clean images; found image pairs in --data. Give a folder of "
            "clean images alone"
        )
    if unlabeled and teacher is not None:
        require_pairs(train)  # before the teacher's long work
        images = load(unlabeled)
        observer.on_labeling(len(images))
        labeled = make_pseudo_labels(images, teacher, task.scale, observer.on_labeled)
        train = concatenate_pairs(train, labeled)
    if replay_train:
        train = mix_pairs(train, load(replay_train))
    degrade = train.degrade
    if degrade is not None and recipe.monochrome_fraction:
        train = add_monochrome(train, recipe.monochrome_fraction)
    if degrade is not None and recipe.capture_noise_fraction:
        train = replace(train, degrade=add_capture_noise(degrade, recipe.capture_noise_fraction))
    replay_validation = degrade_images(load(replay_val, val_task)) if replay_val else None
    if replay_validation is not None:
        require_measurable(replay_validation)
    return TrainingData(train, validation, replay_validation)


def require_pairs(pairs: Pairs) -> None:
    """Refuse clean images where pseudo-labeled images are to be added.

    Raises:
        DataError: These are clean images, without degraded ones.
    """
    if pairs.degrade is not None:
        raise DataError(
            "--unlabeled goes with image pairs; found clean images in --data. Put images in its "
            "folders low/ and high/"
        )


def make_pseudo_labels(
    images: Pairs, teacher: nn.Module, scale: int, on_labeled: Callable[[], None]
) -> Pairs:
    """Return pairs of the images and the teacher's 8-bit outputs for them (pseudo-labels).

    Args:
        images: Their targets are the images to restore.
        teacher: Restores each image once, whole, with the frame's own global context.
        scale: How many times higher and wider its output is.
        on_labeled: Called after each image.
    """
    labels = []
    teacher.eval()
    for frame in images.targets:
        labels.append(restore_frames(teacher, frame[None], scale)[0])
        on_labeled()
    return replace(
        images, degraded=images.targets, targets=tuple(labels), degrade=None, scale=scale
    )


class TrainingObserver(LoadingObserver, Protocol):
    """Callbacks while a training job runs."""

    def on_start(self, recipe: TrainingRecipe, step: int, exposure_steps: int) -> None:
        """Training starts, or resumes, at this step."""

    def on_initial_score(self, score: ValidationScore) -> None:
        """The weights of `init` were validated, before the first step."""

    def on_exposure_step(self, step: int, loss: float) -> None:
        """A step of the first stage is done."""

    def on_damage_step(self, step: int, loss: float) -> None:
        """A step of the damage branch's stage is done."""

    def on_step(self, step: int, loss: float) -> None:
        """A step is done."""

    def on_validated(self, score: ValidationScore) -> None:
        """The EMA weights were validated and saved."""

    def on_interpolated(self, fraction: float, accuracy_drop_db: float) -> None:
        """Weights interpolated by this fraction have this accuracy drop on the replay images."""


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training job."""

    weights: Path
    score: ValidationScore
    network: nn.Module
    """The network that was scored; with `qat` fake-quantized, while the file holds its float
    weights."""
    interpolation: InterpolationResult | None
    """With `max_drop_db`: how far the weights are interpolated from `init`."""
    steps: int
    """Those of the recipe; more than those of `score` where the time was up before."""


def train_weights(request: TrainingRequest, observer: TrainingObserver) -> TrainingResult:
    """Train, or resume training, and write `OUT/TASK.safetensors`.

    Raises:
        MirnetEdgeError: An option is wrong, or the data or weights cannot be read.
        TrainingError: The loss or a weight diverged; the last state is kept.
    """
    check_request(request)
    device = select_device(request.device, request.precision)
    task = find_task(request.task)
    recipe, network = resolve_request(request)
    if request.qat and recipe.branch_expansion:
        raise OptionError(
            "--qat trains folded convolutions, the recipe has branch_expansion "
            f"{recipe.branch_expansion:g}; leave out one of them"
        )
    with join_processes(device) as process:
        torch.manual_seed(recipe.seed)
        model, parent = load_initial_network(request, network, task)
        fp32_self = request.init if request.qat else None
        key = request.teacher_key if request.teacher else request.init_key
        teacher, teacher_sha256 = load_teacher(request.teacher or fp32_self, model, key)
        if teacher is not None:
            teacher = teacher.to(device)
        data = read_data(request, recipe, task, teacher, observer)
        if recipe.branch_expansion:
            widen_convolutions(model, recipe.branch_expansion)
        if request.qat:
            prepare_qat(
                model,
                sample_inputs(data.train, model.multiple),  # type: ignore[arg-type]
                recipe.qat_target,
            )
        trainer = Trainer(
            model, recipe, request.out, teacher=teacher, device=device,
            precision=request.precision, process=process, workers=request.workers,
            compiled=request.compiled, tensorboard=request.tensorboard,
            start=" ".join(map(str, (parent, teacher_sha256, data.train.sha256))),
        )  # fmt: skip
        loop.resume_state(trainer)
        if request.init is not None and trainer.step == 0 and process.is_leader:
            observer.on_initial_score(trainer.score_initial(data.validation))
        observer.on_start(recipe, trainer.step, trainer.exposure_steps)
        score = trainer.run(
            data.train,
            data.validation,
            on_exposure_step=observer.on_exposure_step,
            on_damage_step=observer.on_damage_step,
            on_step=observer.on_step,
            on_score=observer.on_validated,
            max_seconds=request.max_seconds,
        )
        weights = request.out / f"{task.name}.safetensors"
        trained = fold_convolutions(trainer.ema_model)
        result = TrainingResult(weights, score, trained, None, recipe.steps)
        if process.is_leader:
            result = _interpolate(request, result, data, observer)
            result, silenced = _silence_channels(request, result, data)
            card = make_card(
                task.name, trainer, result.score, data.train, request.data.resolve().name
            )
            notes = (_describe_data(request, result.interpolation), silenced)
            note = "; ".join(filter(None, notes)) or None
            update: dict[str, Any] = {"parent": parent, "teacher": teacher_sha256, "note": note}
            final = result.network.cpu()
            if request.qat and recipe.qat_target == "cpu":
                update["int8_ranges"] = learned_ranges_of(final)
            checkpoints.save(
                remove_quantizers(final) if request.qat else final,
                weights,
                card.model_copy(update=update),
            )
        process.wait()
    return result


def _interpolate(
    request: TrainingRequest,
    result: TrainingResult,
    data: TrainingData,
    observer: TrainingObserver,
) -> TrainingResult:
    """Return the result interpolated towards `init`, as far as the request says."""
    if request.init is None or (request.interpolation == 1.0 and request.max_drop_db is None):
        return result
    initial = checkpoints.load(request.init, request.init_key).model.to(
        next(result.network.parameters()).device
    )
    found = None
    network = interpolate_weights(initial, result.network, request.interpolation)
    if data.replay_validation is not None and request.max_drop_db is not None:
        found = interpolate_within_drop(
            initial, network, data.replay_validation, request.max_drop_db,
            observer.on_interpolated,
        )  # fmt: skip
        network = found.network
    return replace(_score_again(result, network, data), interpolation=found)


def _silence_channels(
    request: TrainingRequest, result: TrainingResult, data: TrainingData
) -> tuple[TrainingResult, str | None]:
    """Return the result without the channels that contribute least, and the card's note on it."""
    if not request.silence_fraction:
        return result, None
    network, fraction = result.network, request.silence_fraction
    multiple: int = network.multiple  # type: ignore[assignment]  # every network states it
    device = next(network.parameters()).device
    images = sample_inputs(data.train, multiple, _SILENCING_IMAGES)
    found = silence_dead_channels(network, (one.to(device) for one in images), fraction=fraction)
    note = describe_silenced(found, fraction, len(images))
    return _score_again(result, network, data), note


def _score_again(result: TrainingResult, network: nn.Module, data: TrainingData) -> TrainingResult:
    psnr_db, gtmean_db, ssim, mae = validate(network, data.validation)
    score = replace(result.score, psnr_db=psnr_db, psnr_gtmean_db=gtmean_db, ssim=ssim, mae=mae)
    return replace(result, score=score, network=network)


_SILENCING_IMAGES = 64
_FRACTION_STEPS = 16  # resolution of the interpolation; two runs differ by more than a finer one


@dataclass(frozen=True)
class InterpolationResult:
    """A network with interpolated weights (WiSE-FT)."""

    network: nn.Module
    fraction: float
    """0 is the initial network, 1 the fine-tuned one."""
    accuracy_drop_db: float
    """Drop in mean PSNR on the images of the initial network; negative for an improvement."""


def interpolate_within_drop(
    initial: nn.Module,
    fine_tuned: nn.Module,
    images: Pairs,
    max_drop_db: float,
    on_tried: Callable[[float, float], None] = lambda fraction, accuracy_drop_db: None,
) -> InterpolationResult:
    """Return the interpolated network closest to FINE_TUNED whose accuracy drop is allowed.

    By bisection, as the drop grows along the line between the two weights (WiSE-FT: Wortsman et
    al., "Robust fine-tuning of zero-shot models", CVPR 2022, figure 1). Fraction 0 is INITIAL,
    without a drop.

    Args:
        initial: Before fine-tuning.
        fine_tuned: After it.
        images: Validation pairs of INITIAL's training set.
        max_drop_db: The largest drop of their mean PSNR.
        on_tried: Called with each measured fraction and its accuracy drop in dB.

    Raises:
        CheckpointError: The two networks have other shapes.
    """
    before_db = validate(initial, images)[0]

    def measure(step: int) -> InterpolationResult:
        fraction = step / _FRACTION_STEPS
        network = interpolate_weights(initial, fine_tuned, fraction)
        accuracy_drop_db = before_db - validate(network, images)[0]
        on_tried(fraction, accuracy_drop_db)
        return InterpolationResult(network, fraction, accuracy_drop_db)

    best, allowed, refused = measure(_FRACTION_STEPS), 0, _FRACTION_STEPS
    if best.accuracy_drop_db <= max_drop_db:
        return best
    best = InterpolationResult(initial, 0.0, 0.0)
    while refused - allowed > 1:
        middle = (allowed + refused) // 2
        tried = measure(middle)
        if tried.accuracy_drop_db <= max_drop_db:
            best, allowed = tried, middle
        else:
            refused = middle
    return best


def make_card(
    task: str, trainer: Trainer, score: ValidationScore, train: Pairs, trained_on: str
) -> ModelCard:
    """Return the model card of a trainer's EMA weights; saving adds the network's config."""
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
        revision=find_revision(Path(__file__).parents[2]),
    )


def find_revision(root: Path) -> str | None:
    """Return the git commit of a source tree, with `+` after it for uncommitted changes.

    None for an installed package, which has no git history.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    # without locks: a kill would leave one in the repository
    commit, changes = (
        subprocess.run(
            [git, "--no-optional-locks", "-C", root, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    if commit.returncode or changes.returncode:
        return None
    return commit.stdout.strip() + ("+" if changes.stdout else "")


def _describe_data(request: TrainingRequest, found: InterpolationResult | None) -> str | None:
    """Return the card's note on additional data and interpolated weights, None without any."""
    notes = []
    if request.interpolation < 1.0:
        notes.append(f"interpolated weights, {request.interpolation:g} of the way from the parent")
    if request.unlabeled is not None:
        notes.append(f"pseudo-labels of the teacher for {request.unlabeled.resolve().name}")
    if request.overlays is not None:
        notes.append(f"overlays of {request.overlays.resolve().name} on half of the images")
    if request.replay is not None:
        name = request.replay.resolve().name
        notes.append(f"half of the images were sampled from {name}")
        if found is not None:
            notes.append(
                f"interpolated weights, {found.fraction:g} of the way from the parent to the "
                f"fine-tuned ones; accuracy drop {found.accuracy_drop_db:.2f} dB on the val "
                f"images of {name}"
            )
    return "; ".join(notes) or None
