"""Train weights: from a request to a file with its card."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints.families import FAMILIES
from mirnet_edge.compression.qat import plain_network, prepare_qat
from mirnet_edge.dependencies import require
from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.training import state
from mirnet_edge.training.card import card_of
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import Trainer
from mirnet_edge.training.pairs import (
    Pairs,
    first_batches,
    load_pairs,
    made_bad,
    require_measurable,
)
from mirnet_edge.training.parallel import joined
from mirnet_edge.training.recipe import Recipe, read_recipe, recipe_from
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mirnet_edge.training.listing import Pair
    from mirnet_edge.training.loop import Precision
    from mirnet_edge.training.record import Score
    from mirnet_edge.training.tasks import Task


FINE_TUNING = "fine-tune"
"""The recipe of a run that starts from weights."""
QAT = "qat"
"""The recipe of a run that teaches weights to bear INT8."""


@dataclass(frozen=True, kw_only=True)
class Request:
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
    """Weights of the same task whose pictures are aimed at too."""
    replay: Path | None = None
    """Old pictures that half of the batches come from, so that they are not forgotten."""
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = 1
    compiled: bool = False
    tensorboard: bool = False
    qat: bool = False
    """Train `init` to bear INT8; without a teacher it learns from its fp32 self."""
    max_seconds: float = math.inf


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    weights: Path
    score: Score
    network: nn.Module
    """What was scored; with `qat` it is fake-quantized, and the weights' file is its float self."""


class Observer(Protocol):
    """Who is told how far the job is."""

    def reading(self, total: int) -> None:
        """So many pictures are about to be read."""

    def read(self) -> None:
        """One more picture was read."""

    def starting(self, recipe: Recipe, step: int) -> None:
        """Training begins, or goes on, at this step."""

    def exposure_step(self, step: int, loss: float) -> None:
        """A step of the first stage is done."""

    def stepped(self, step: int, loss: float) -> None:
        """A step is done."""

    def scored(self, score: Score) -> None:
        """The weights were validated and saved."""


def train_weights(request: Request, observer: Observer) -> Trained:
    """Train, or go on training, and write `OUT/TASK.safetensors`.

    Raises:
        MirnetEdgeError: The request makes no sense, or the data or weights cannot be read.
        TrainingError: The loss is no longer a number; the last state is kept.
    """
    if request.qat and request.init is None:
        raise OptionError("--qat trains weights that restore already; give them with --init")
    device = device_of(request.device, request.precision)
    if request.tensorboard:
        require("tensorboard", "--tensorboard")  # now, not after the first interval
    task = task_of(request.task)
    recipe, network = _resolved(request)
    with joined(device) as process:
        torch.manual_seed(recipe.seed)
        model, parent = _start(request, network, task)
        fp32_self = request.init if request.qat else None
        teacher, taught_by = _teacher(request.teacher or fp32_self, model)
        train, validation = _data(request, task, observer)
        if request.qat:
            prepare_qat(model, first_batches(train, model.multiple))  # type: ignore[arg-type]
        trainer = Trainer(
            model, recipe, request.out, teacher=teacher, device=device,
            precision=request.precision, process=process, workers=request.workers,
            compiled=request.compiled, tensorboard=request.tensorboard,
            start=" ".join(map(str, (parent, taught_by, train.sha256))),
        )  # fmt: skip
        state.resume(trainer)
        observer.starting(recipe, trainer.step)
        score = trainer.run(
            train,
            validation,
            on_exposure_step=observer.exposure_step,
            on_step=observer.stepped,
            on_score=observer.scored,
            max_seconds=request.max_seconds,
        )
        weights = request.out / f"{task.name}.safetensors"
        if process.leads:
            card = card_of(task.name, trainer, score, train, request.data.resolve().name)
            note = None
            if request.replay is not None:
                note = f"half of the pictures were drawn from {request.replay.resolve().name}"
            card = card.model_copy(update={"parent": parent, "teacher": taught_by, "note": note})
            averaged = trainer.averaged.cpu()
            checkpoints.save(plain_network(averaged) if request.qat else averaged, weights, card)
        process.wait()
    return Trained(weights, score, trainer.averaged)


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


def _resolved(request: Request) -> tuple[Recipe, tuple[str, dict[str, Any]]]:
    """Return the recipe and the network: the task's own, the file's, what was asked for."""
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


def _start(
    request: Request, network: tuple[str, dict[str, Any]], task: Task
) -> tuple[nn.Module, str | None]:
    """Return the network to train, and the hash of the weights it starts from."""
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


def _teacher(weights: str | None, model: nn.Module) -> tuple[nn.Module | None, str | None]:
    """Return the network to learn from and the hash of its weights."""
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


def _data(request: Request, task: Task, observer: Observer) -> tuple[Pairs, Pairs]:
    listing = list_pairs(request.data)
    replayed = () if request.replay is None else list_pairs(request.replay).train
    observer.reading(len(listing.train) + len(listing.val) + len(replayed))

    def loaded(pairs: tuple[Pair, ...]) -> Pairs:
        return load_pairs(
            pairs, degrade=task.degrade, scale=task.scale, on_loaded=lambda _: observer.read()
        )

    train, validation = loaded(listing.train), made_bad(loaded(listing.val))
    require_measurable(validation)
    if replayed:
        train = mixed(train, loaded(replayed))
    return train, validation


def mixed(one: Pairs, two: Pairs) -> Pairs:
    """Return the pairs of both, those of the smaller set repeated until each makes up half.

    Raises:
        DataError: One holds pairs, the other clean pictures.
    """
    if (one.degrade is None) != (two.degrade is None):
        raise DataError(
            "one of --data and --replay holds pairs, the other clean pictures; give two of a kind"
        )
    longest = max(len(one), len(two))
    columns = [
        tuple(
            getattr(source, column)[place % len(source)]
            for source in (one, two)
            for place in range(longest)
        )
        if getattr(one, column)
        else ()
        for column in ("names", "low", "high")
    ]
    digest = hashlib.sha256((one.sha256 + two.sha256).encode()).hexdigest()
    return replace(one, names=columns[0], low=columns[1], high=columns[2], sha256=digest)
