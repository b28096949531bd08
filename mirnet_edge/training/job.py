"""Train weights: from a request to a file with its card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from mirnet_edge import checkpoints
from mirnet_edge.compression.qat import plain_network, prepare_qat
from mirnet_edge.training import state
from mirnet_edge.training.card import card_of
from mirnet_edge.training.data import Data, Reader, read_data
from mirnet_edge.training.keeping import Kept, kept
from mirnet_edge.training.loop import Trainer
from mirnet_edge.training.pairs import first_batches
from mirnet_edge.training.parallel import joined
from mirnet_edge.training.request import (
    Request,
    device_of,
    require_sense,
    resolved,
    started_from,
    teacher_of,
)
from mirnet_edge.training.tasks import task_of
from mirnet_edge.training.validation import validate

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mirnet_edge.training.recipe import Recipe
    from mirnet_edge.training.record import Score


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    weights: Path
    score: Score
    network: nn.Module
    """What was scored; with `qat` it is fake-quantized, and the weights' file is its float self."""
    kept: Kept | None
    """With `keep_db`: how far the weights lie from `init`, and what that lost."""


class Observer(Reader, Protocol):
    """Who is told how far the job is."""

    def starting(self, recipe: Recipe, step: int) -> None:
        """Training begins, or goes on, at this step."""

    def exposure_step(self, step: int, loss: float) -> None:
        """A step of the first stage is done."""

    def stepped(self, step: int, loss: float) -> None:
        """A step is done."""

    def scored(self, score: Score) -> None:
        """The weights were validated and saved."""

    def blended(self, share: float, lost_db: float) -> None:
        """This share of what was learned costs so much of what `Request.init` could do."""


def train_weights(request: Request, observer: Observer) -> Trained:
    """Train, or go on training, and write `OUT/TASK.safetensors`.

    Raises:
        MirnetEdgeError: The request makes no sense, or the data or weights cannot be read.
        TrainingError: The loss is no longer a number; the last state is kept.
    """
    require_sense(request)
    device = device_of(request.device, request.precision)
    task = task_of(request.task)
    recipe, network = resolved(request)
    with joined(device) as process:
        torch.manual_seed(recipe.seed)
        model, parent = started_from(request, network, task)
        fp32_self = request.init if request.qat else None
        teacher, taught_by = teacher_of(request.teacher or fp32_self, model)
        if teacher is not None:
            teacher = teacher.to(device)
        data = read_data(request, recipe, task, teacher, observer)
        if request.qat:
            prepare_qat(model, first_batches(data.train, model.multiple))  # type: ignore[arg-type]
        trainer = Trainer(
            model, recipe, request.out, teacher=teacher, device=device,
            precision=request.precision, process=process, workers=request.workers,
            compiled=request.compiled, tensorboard=request.tensorboard,
            start=" ".join(map(str, (parent, taught_by, data.train.sha256))),
        )  # fmt: skip
        state.resume(trainer)
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
        trained = Trained(weights, score, trainer.averaged, None)
        if process.leads:
            trained = _finished(request, trained, data, observer)
            card = card_of(
                task.name, trainer, trained.score, data.train, request.data.resolve().name
            )
            update = {"parent": parent, "teacher": taught_by, "note": _note(request, trained.kept)}
            averaged = trained.network.cpu()
            checkpoints.save(
                plain_network(averaged) if request.qat else averaged,
                weights,
                card.model_copy(update=update),
            )
        process.wait()
    return trained


def _finished(request: Request, trained: Trained, data: Data, observer: Observer) -> Trained:
    """Return what was trained, moved back towards `init` where that forgot too much of it."""
    if data.former is None or request.init is None or request.keep_db is None:
        return trained
    former = checkpoints.load(request.init).model.to(next(trained.network.parameters()).device)
    found = kept(former, trained.network, data.former, request.keep_db, observer.blended)
    psnr_db, gtmean_db, ssim, mae = validate(found.network, data.validation)
    score = replace(trained.score, psnr_db=psnr_db, psnr_gtmean_db=gtmean_db, ssim=ssim, mae=mae)
    return replace(trained, score=score, network=found.network, kept=found)


def _note(request: Request, found: Kept | None) -> str | None:
    notes = []
    if request.unlabelled is not None:
        notes.append(f"the teacher labelled the pictures of {request.unlabelled.resolve().name}")
    if request.overlays is not None:
        notes.append(f"half of the pictures had damage of {request.overlays.resolve().name}")
    if request.replay is not None:
        name = request.replay.resolve().name
        notes.append(f"half of the pictures were drawn from {name}")
        if found is not None:
            notes.append(
                f"{found.share:g} of the way from the parent to what was trained, which lost "
                f"{found.lost_db:.2f} dB on the val pictures of {name}"
            )
    return "; ".join(notes) or None
