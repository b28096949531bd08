"""What is to be trained, and what that starts from: recipe, network, weights, teacher, device."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints.families import FAMILIES
from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError
from mirnet_edge.training.recipe import Recipe, read_recipe, recipe_from
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mirnet_edge.training.loop import Precision
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
    unlabelled: Path | None = None
    """A folder of pictures without references: what the teacher makes of them is aimed at."""
    overlays: Path | None = None
    """A folder of damage with transparency, to be laid over the clean pictures of `data`."""
    replay: Path | None = None
    """Old pictures that half of the batches come from, so that they are not forgotten."""
    keep_db: float | None = None
    """How much PSNR `replay`'s val pictures may lose against `init`; None: as much as they do."""
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = 1
    compiled: bool = False
    tensorboard: bool = False
    qat: bool = False
    """Train `init` to bear INT8; without a teacher it learns from its fp32 self."""
    max_seconds: float = math.inf


def require_sense(request: Request) -> None:
    """Refuse what cannot be meant, before anything is read.

    Raises:
        OptionError: Two wishes contradict each other, or one lacks another.
        MissingDependencyError: What is asked for is not installed.
    """
    if request.qat and request.init is None:
        raise OptionError("--qat trains weights that restore already; give them with --init")
    if request.unlabelled is not None and request.teacher is None:
        raise OptionError(
            "--unlabelled pictures are labelled by a teacher; give one with --teacher"
        )
    if request.keep_db is not None:
        if request.init is None or request.replay is None:
            raise OptionError(
                "--keep measures what --init could do on the pictures of --replay; give both"
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


def resolved(request: Request) -> tuple[Recipe, tuple[str, dict[str, Any]]]:
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


def started_from(
    request: Request, network: tuple[str, dict[str, Any]], task: Task
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
