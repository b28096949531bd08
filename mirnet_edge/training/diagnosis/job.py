"""Train the diagnosis network: samples -> training loop -> thresholds -> measurement.

The same request resumes: samples are found again in the folder's cache, and the training state
(`state.pt`), saved at every validation, holds weights, their moving average and the optimizer's.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from mirnet_edge.diagnosis.labels import LABELS
from mirnet_edge.errors import CheckpointError, TrainingError
from mirnet_edge.files import write_atomically
from mirnet_edge.models.diagnosis import DiagnosisNetwork, FrameStatistics
from mirnet_edge.training.diagnosis.recipe import (
    DIAGNOSIS,
    DiagnosisRecipe,
    list_overlays,
    list_sources,
    read_diagnosis_recipe,
)
from mirnet_edge.training.diagnosis.samples import (
    CLASSES,
    Samples,
    make_samples,
    view_fine_files,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from mirnet_edge.training.diagnosis.recipe import SourceImage

HISTORY_FILE = "history.csv"
STATE_FILE = "state.pt"
_SIGMA_WEIGHT = 0.4
_SMOOTHING = 0.01  # of labels: keeps scores from saturating
_LEAST_SIGMA = 0.3  # levels: below it the logarithm says nothing
# a label's threshold lies above every fine validation image by this much, as a logit: validation
# images are few, and a fine image that is changed is the worst error
_MARGIN = 1.0
_LARGEST_GRADIENT = 5.0


@dataclass(frozen=True, kw_only=True)
class DiagnosisRequest:
    """The options of one diagnosis training."""

    data: Path
    """The folder that the recipe's sources are relative to, or one of clean images."""
    out: Path
    """Folder for samples, training state, history, weights and report."""
    recipe: str | None = None
    """A TOML file; None for the package's."""
    overrides: dict[str, Any]
    """Fields of the recipe to override."""
    max_seconds: float = math.inf


@dataclass(frozen=True)
class DiagnosisScore:
    """Validation of the EMA weights."""

    step: int
    loss: float
    """Mean training loss since the last validation."""
    validation_loss: float
    accuracy: float
    """Fraction of the validation samples with a known label whose top label is right."""
    fine_accuracy: float
    """The same, of the fine ones."""


class DiagnosisObserver(Protocol):
    """Callbacks while a diagnosis network is trained."""

    def on_samples(self, total: int) -> None:
        """Samples are going to be made, this many."""

    def on_sample(self) -> None:
        """One more sample was made."""

    def on_begin(self, steps: int, step: int) -> None:
        """Training of so many steps starts, or resumes, at a step."""

    def on_step(self, step: int, loss: float) -> None:
        """A step is done."""

    def on_score(self, score: DiagnosisScore) -> None:
        """The EMA weights were validated and the state was saved."""


@dataclass(frozen=True)
class TrainedDiagnosis:
    """The outcome of a diagnosis training."""

    network: DiagnosisNetwork
    """In evaluation mode; its thresholds are all 0.5."""
    weights: Path
    history: list[DiagnosisScore]
    images: list[SourceImage]
    held_out: Samples
    """Synthetic samples of scenes that were held out."""
    recipe: DiagnosisRecipe
    is_finished: bool


def train_diagnosis(request: DiagnosisRequest, observer: DiagnosisObserver) -> TrainedDiagnosis:
    """Train, or resume training, and write `OUT/diagnosis.safetensors`.

    Raises:
        MirnetEdgeError: The recipe is wrong, or images cannot be read.
        CheckpointError: The folder's training state is of another recipe.
        TrainingError: The loss diverged; the last state is kept.
    """
    recipe = read_diagnosis_recipe(request.recipe)
    recipe = DiagnosisRecipe.model_validate({**recipe.model_dump(), **request.overrides})
    images = list_sources(recipe, request.data)
    request.out.mkdir(parents=True, exist_ok=True)
    counts = {
        "train": recipe.samples,
        "validation": recipe.validation_samples,
        "held-out": recipe.validation_samples,
    }
    observer.on_samples(sum(counts.values()))
    train, validation, held_out = (
        make_samples(
            images,
            list_overlays(recipe, request.data, split),  # type: ignore[arg-type]
            split,  # type: ignore[arg-type]
            count,
            recipe.seed + place * 1_000_003,
            request.out,
            observer.on_sample,
        )
        for place, (split, count) in enumerate(counts.items())
    )
    trainer = _Trainer(recipe, request.out)
    observer.on_begin(recipe.steps, trainer.step)
    train_inputs, inputs = SampleInputs(train), SampleInputs(validation)
    finished = trainer.run(train_inputs, inputs, request.max_seconds, observer)
    network = shift_thresholds(
        trainer.averaged, SampleInputs(view_fine_files(images, "validation"))
    )
    weights = request.out / f"{DIAGNOSIS}.safetensors"
    save_diagnosis(network, weights)
    history = read_history(request.out)
    return TrainedDiagnosis(network, weights, history, images, held_out, recipe, finished)


def save_diagnosis(network: DiagnosisNetwork, path: Path) -> None:
    """Write a network's weights to a .safetensors file, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors))


def load_diagnosis(path: Path) -> DiagnosisNetwork:
    """Return the network of a weights file, in evaluation mode.

    Raises:
        CheckpointError: The file is missing or holds another network.
    """
    network = DiagnosisNetwork()
    try:
        network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} holds no weights of a diagnosis network ({error}); give the file that "
            "mirnet train --task diagnosis wrote"
        ) from error
    return network.eval()


class _Trainer:
    """The state of a training: network, its moving average, optimizer, step."""

    def __init__(self, recipe: DiagnosisRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = DiagnosisNetwork().train()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0
        self._resume()

    def run(
        self,
        train: SampleInputs,
        validation: SampleInputs,
        max_seconds: float,
        observer: DiagnosisObserver,
    ) -> bool:
        """Train until the last step or the limit of time; return whether all steps are done."""
        recipe, begin = self.recipe, time.monotonic()
        losses: list[float] = []
        while self.step < recipe.steps:
            loss = self._step(train)
            losses.append(loss)
            observer.on_step(self.step, loss)
            is_late = time.monotonic() - begin > max_seconds
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps or is_late:
                score = measure_score(self.averaged, validation, recipe, self.step, losses)
                self._save()
                append_history(self.folder, score)
                observer.on_score(score)
                losses = []
            if is_late:
                break
        return self.step == recipe.steps

    def _step(self, inputs: SampleInputs) -> float:
        recipe = self.recipe
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = np.random.default_rng((recipe.seed, self.step))
        batch = inputs.batch(self._places(len(inputs)), generator)
        # dropout follows from the step, so that a resumed run equals one that was not stopped
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 7919 * self.step)
            logits, sigma = self.network.score_statistics(
                batch.overview, batch.spectrum, batch.tones
            )
        loss = loss_of(logits, sigma, batch.targets, recipe.fine_weight)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.step}; the state of the last validation is "
                "kept. Lower --learning-rate"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1
        self._average()
        return value

    def _learning_rate(self) -> float:
        recipe = self.recipe
        warm = min(1.0, (self.step + 1) / max(1, recipe.warmup_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.step / recipe.steps))
        return recipe.learning_rate * warm * (0.001 + 0.999 * cosine)

    def _places(self, count: int) -> NDArray[np.intp]:
        """Return the samples of this step: each once per epoch, in random order."""
        recipe = self.recipe
        first = self.step * recipe.batch
        chosen = []
        for number in range(first, first + recipe.batch):
            epoch, place = divmod(number, count)
            chosen.append(int(_order_of(recipe.seed, epoch, count)[place]))
        return np.array(chosen, np.intp)

    def _average(self) -> None:
        # a short memory at first, so that the random initial weights are forgotten
        decay = min(self.recipe.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        own = self.network.state_dict()
        with torch.no_grad():
            for name, tensor in self.averaged.state_dict().items():
                if tensor.is_floating_point():
                    tensor.lerp_(own[name], 1.0 - decay)
                else:
                    tensor.copy_(own[name])

    def _save(self) -> None:
        stream = io.BytesIO()
        torch.save(
            {
                "recipe": self.recipe.model_dump_json(),
                "step": self.step,
                "network": self.network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            stream,
        )
        write_atomically(self.folder / STATE_FILE, stream.getvalue())

    def _resume(self) -> None:
        file = self.folder / STATE_FILE
        if not file.is_file():
            return
        state = torch.load(file, weights_only=True)
        if state["recipe"] != self.recipe.model_dump_json():
            raise CheckpointError(
                f"{file} was trained by another recipe; give the same options, or another --out"
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])


def measure_score(
    network: DiagnosisNetwork,
    validation: SampleInputs,
    recipe: DiagnosisRecipe,
    step: int = 0,
    losses: Sequence[float] = (),
) -> DiagnosisScore:
    """Return the score of a network in evaluation mode, with the mean of its training losses."""
    logits, sigma = predict(network, validation)
    right = is_right(top_of(logits.numpy()), validation.targets.numpy())
    return DiagnosisScore(
        step,
        sum(losses) / len(losses) if losses else math.nan,
        float(loss_of(logits, sigma, validation.targets, recipe.fine_weight)),
        float(right.mean()),
        float(right[validation.is_fine].mean()),
    )


@dataclass(frozen=True)
class _SampleBatch:
    overview: Tensor
    spectrum: Tensor
    tones: Tensor
    targets: Tensor


def _order_of(seed: int, epoch: int, count: int) -> NDArray[np.intp]:
    key = (seed, epoch, count)
    if key not in _orders:
        _orders.clear()
        for known in (epoch, epoch + 1):  # a batch may span two epochs
            generator = np.random.default_rng((seed, known))
            _orders[seed, known, count] = generator.permutation(count)
    return _orders[key]


_orders: dict[tuple[int, int, int], NDArray[np.intp]] = {}


class SampleInputs:
    """Samples as the trained layers take them: the fixed layers are computed once."""

    def __init__(self, samples: Samples, batch: int = 64) -> None:
        self.samples = samples
        self.targets = torch.from_numpy(np.array(samples.targets))
        statistics = FrameStatistics().eval()
        spectra, all_tones = [], []
        with torch.inference_mode():
            for first in range(0, len(samples), batch):
                part = slice(first, first + batch)
                crops = samples.crops[part].transpose(0, 1, 4, 2, 3)
                crops_unit = torch.from_numpy(np.ascontiguousarray(crops)).float() / 255.0
                spectrum, tones = statistics(self._overview(part), crops_unit)
                spectra.append(spectrum)
                all_tones.append(tones)
        self.spectrum, self.tones = (torch.cat(parts).clone() for parts in (spectra, all_tones))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_fine(self) -> NDArray[np.bool_]:
        """Return which samples were made to be fine."""
        return np.asarray(self.samples.classes == CLASSES.index("fine"))

    def batch(
        self, places: NDArray[np.intp] | slice, generator: np.random.Generator | None = None
    ) -> _SampleBatch:
        """Return samples; with a generator, their overviews are flipped and turned at random."""
        overview = self._overview(places)
        if generator is not None:
            if generator.random() < 0.5:
                overview = overview.flip(3)
            if generator.random() < 0.5:
                overview = overview.flip(2)
            if generator.random() < 0.3:
                overview = overview.transpose(2, 3)
        return _SampleBatch(
            overview, self.spectrum[places], self.tones[places], self.targets[places]
        )

    def _overview(self, places: NDArray[np.intp] | slice) -> Tensor:
        views = np.ascontiguousarray(self.samples.overviews[places].transpose(0, 3, 1, 2))
        return torch.from_numpy(views).float() / 255.0


def loss_of(logits: Tensor, sigma: Tensor, targets: Tensor, fine_weight: float) -> Tensor:
    """Return the mean loss: cross-entropy of the known labels, and the error of log sigma.

    Args:
        logits: (N, labels).
        sigma: (N,) in 8-bit levels.
        targets: (N, 2 labels + 2), as `Samples.targets`.
        fine_weight: Of samples without a label.
    """
    count = len(LABELS)
    target, known = targets[:, :count], targets[:, count : 2 * count]
    smoothed = target * (1.0 - _SMOOTHING) + 0.5 * _SMOOTHING
    each = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    is_fine = (target.sum(1) == 0).float()
    weight = known * (1.0 + (fine_weight - 1.0) * is_fine)[:, None]
    loss = (each * weight).sum() / weight.sum().clamp(min=1.0)
    true, has_sigma = targets[:, -2], targets[:, -1]
    error = functional.smooth_l1_loss(
        sigma.clamp(min=_LEAST_SIGMA).log(),
        true.clamp(min=_LEAST_SIGMA).log(),
        reduction="none",
        beta=0.2,
    )
    return loss + _SIGMA_WEIGHT * (error * has_sigma).sum() / has_sigma.sum().clamp(min=1.0)


def predict(
    network: DiagnosisNetwork, inputs: SampleInputs, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Return the logits, (N, labels), and sigma, (N,), of all samples."""
    logits, sigmas = [], []
    with torch.inference_mode():
        for first in range(0, len(inputs), batch):
            part = inputs.batch(slice(first, first + batch))
            found, sigma = network.score_statistics(part.overview, part.spectrum, part.tones)
            logits.append(found)
            sigmas.append(sigma)
    return torch.cat(logits), torch.cat(sigmas)


def top_of(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the top labels as indices of `CLASSES`: fine where no logit reaches 0."""
    best = logits.argmax(1)
    return np.where(logits.max(1) >= 0.0, best, len(LABELS))


def is_right(top: NDArray[np.intp], targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether each top label holds: present or unknown, or fine where none is present."""
    count = len(LABELS)
    present, known = targets[:, :count] > 0.5, targets[:, count : 2 * count] > 0.5
    allowed = np.concatenate([present | ~known, ~present.any(1, keepdims=True)], 1)
    return allowed[np.arange(len(top)), top]


def shift_thresholds(network: DiagnosisNetwork, validation: SampleInputs) -> DiagnosisNetwork:
    """Return a network whose labels hold from a score of 0.5 on, with few false alarms.

    Each label's bias is lowered until every fine image is below its threshold by a margin.

    Args:
        network: Trained.
        validation: Fine images, whole, as in use: samples are parts of them with other colors.
            Held-out images have no part in it.
    """
    shifted = copy.deepcopy(network).eval()
    logits = predict(shifted, validation)[0].numpy()[validation.is_fine]
    targets = validation.targets.numpy()[validation.is_fine]
    known = targets[:, len(LABELS) : 2 * len(LABELS)] > 0.5
    highest = np.where(known, logits, -np.inf).max(0, initial=-_MARGIN)
    shift = np.maximum(highest + _MARGIN, 0.0).astype(np.float32)
    last: nn.Linear = shifted.head[-1]  # type: ignore[assignment]
    with torch.no_grad():
        last.bias[: len(LABELS)] -= torch.from_numpy(shift)
    return shifted


def append_history(folder: Path, score: DiagnosisScore) -> None:
    """Append a score to a run's history, and remove those of later steps."""
    kept = [one for one in read_history(folder) if one.step < score.step]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [one.name for one in fields(DiagnosisScore)])
    writer.writeheader()
    writer.writerows(asdict(one) for one in [*kept, score])
    write_atomically(folder / HISTORY_FILE, stream.getvalue().encode())


def read_history(folder: Path) -> list[DiagnosisScore]:
    """Return the scores of a run's folder, oldest first."""
    file = folder / HISTORY_FILE
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            DiagnosisScore(
                int(row.pop("step")), **{key: float(value) for key, value in row.items()}
            )
            for row in csv.DictReader(stream)
        ]
