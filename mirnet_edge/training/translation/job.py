"""Train old-photo translation: photos -> stages (detector, two VAEs, mapping) -> weights.

The same request resumes: the training state (`state.pt`), saved at every validation, holds the
networks, the latent discriminator and the optimizers.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import time
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Protocol

import safetensors
import safetensors.torch
import torch
from torch import nn

from mirnet_edge.errors import CheckpointError, TrainingError
from mirnet_edge.files import write_atomically
from mirnet_edge.models.translation import (
    LATENT_STRIDE,
    LatentDiscriminator,
    OldPhotoTranslation,
    TranslationConfig,
    latent_damage,
)
from mirnet_edge.training.loss import damage_loss, l1_loss
from mirnet_edge.training.translation.losses import (
    deception_loss,
    discriminator_loss,
    kl_divergence,
    weighted_l1_loss,
)
from mirnet_edge.training.translation.recipe import (
    TRANSLATION,
    TranslationRecipe,
    read_translation_recipe,
)
from mirnet_edge.training.translation.samples import AgedBatch, BatchMaker, load_data

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.training.translation.recipe import TranslationStage
    from mirnet_edge.training.translation.samples import OldPhotoData

HISTORY_FILE = "history.csv"
STATE_FILE = "state.pt"
_CONFIG_KEY = "translation"
_LARGEST_GRADIENT = 1.0
_LAST_RATE = 0.01  # of the peak, where the cosine ends
_VALIDATION_BATCHES, _VALIDATION_SIZE, _VALIDATION_CROP = 6, 4, 128
_VALIDATION_STEP = 10**9  # its samples are none of training's


@dataclass(frozen=True, kw_only=True)
class TranslationRequest:
    """The options of one training of old-photo translation."""

    data: Path
    """The folder that the recipe's folders are relative to."""
    out: Path
    """Folder for training state, history and weights."""
    recipe: str = TRANSLATION
    """A TOML file, or the package's."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe to override."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of convolutions; losses are fp32."""
    max_seconds: float = math.inf


@dataclass(frozen=True)
class TranslationScore:
    """Validation on crops of held-out photos, degraded alike at every validation."""

    step: int
    """Of all stages together."""
    stage: str
    loss: float
    """Mean training loss since the last validation."""
    psnr_db: float
    """Of photos that the stage's VAE decodes, or that the mapping makes; NaN for the detector."""
    damage_db: float
    """The same, of the damaged pixels alone; of mapped photos."""
    damage_iou: float
    """Intersection of found and true damage over their union; of the detector."""


class TranslationObserver(Protocol):
    """Callbacks while old-photo translation is trained."""

    def on_begin(self, steps: int, step: int) -> None:
        """Training of so many steps starts, or resumes, at a step."""

    def on_step(self, step: int, loss: float) -> None:
        """A step is done."""

    def on_translation_score(self, score: TranslationScore) -> None:
        """The networks were validated, and the state was saved."""


@dataclass(frozen=True)
class TrainedTranslation:
    """The outcome of a training."""

    network: OldPhotoTranslation
    """In evaluation mode."""
    weights: Path
    history: list[TranslationScore]
    recipe: TranslationRecipe
    is_finished: bool


def train_translation(
    request: TranslationRequest, observer: TranslationObserver
) -> TrainedTranslation:
    """Train, or resume training, and write `OUT/old-photo-translation.safetensors`.

    Raises:
        MirnetEdgeError: The recipe is wrong, or photos cannot be read.
        CheckpointError: The folder's training state is of another recipe.
        TrainingError: The loss diverged; the last state is kept.
    """
    recipe = read_translation_recipe(request.recipe, request.overrides)
    train, held_out = load_data(recipe, request.data)
    request.out.mkdir(parents=True, exist_ok=True)
    trainer = _TranslationTrainer(recipe, request.out, request.precision)
    observer.on_begin(recipe.steps, trainer.step)
    finished = trainer.run(train, held_out, request.max_seconds, observer)
    weights = request.out / f"{TRANSLATION}.safetensors"
    save_translation(trainer.network, weights)
    history = read_translation_history(request.out)
    return TrainedTranslation(trainer.network.eval(), weights, history, recipe, finished)


def save_translation(network: OldPhotoTranslation, path: Path) -> None:
    """Write a network's weights and sizes to a .safetensors file, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {_CONFIG_KEY: json.dumps(network.config.to_json())}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_translation(path: Path) -> OldPhotoTranslation:
    """Return the network of a weights file, in evaluation mode.

    Raises:
        CheckpointError: The file is missing or holds another network.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            config = TranslationConfig(**json.loads((file.metadata() or {})[_CONFIG_KEY]))
            network = OldPhotoTranslation(config)
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # it is no dict
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} holds no weights of old-photo translation ({error}); give the file that "
            f"mirnet train --recipe {TRANSLATION} wrote"
        ) from error
    return network.eval()


class _TranslationTrainer:
    """The state of a training: networks, discriminator, the stage's optimizers, step."""

    def __init__(self, recipe: TranslationRecipe, folder: Path, precision: str) -> None:
        self.recipe, self.folder = recipe, folder
        self._is_half = precision == "bf16"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = OldPhotoTranslation(recipe.config).train()
            discriminator = LatentDiscriminator(recipe.config).train()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = discriminator
        self.step = 0
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._resume()

    def run(
        self,
        train: OldPhotoData,
        held_out: OldPhotoData,
        max_seconds: float,
        observer: TranslationObserver,
    ) -> bool:
        """Train until the last step or the limit of time; return whether all steps are done."""
        recipe, begin = self.recipe, time.monotonic()
        batches = BatchMaker(train, recipe)
        validation = [
            BatchMaker(held_out, recipe).aged(
                _VALIDATION_STEP + place, _VALIDATION_SIZE, _VALIDATION_CROP
            )
            for place in range(_VALIDATION_BATCHES)
        ]
        losses: list[float] = []
        while self.step < recipe.steps:
            stage, own_step = recipe.stage_at(self.step)
            if own_step == 0:
                self._begin(stage)
            losses.append(self._step(stage, own_step, batches))
            observer.on_step(self.step, losses[-1])
            ends = own_step + 1 == stage.steps
            is_late = time.monotonic() - begin > max_seconds
            if self.step % recipe.validate_every == 0 or ends or is_late:
                score = self._validate(stage, validation, sum(losses) / len(losses))
                self._save()
                append_translation_score(self.folder, score)
                observer.on_translation_score(score)
                losses = []
            if is_late:
                break
        return self.step == recipe.steps

    def _begin(self, stage: TranslationStage) -> None:
        """Make a stage's optimizers; the clean VAE begins with the old one's weights."""
        if stage.name == "clean" and self.recipe.stages[0] != stage:
            self.network.clean.load_state_dict(copy.deepcopy(self.network.old.state_dict()))
        self._optimizers = self._make_optimizers(stage)

    def _make_optimizers(self, stage: TranslationStage) -> dict[str, torch.optim.Optimizer]:
        trained: dict[str, nn.Module] = {"network": getattr(self.network, stage.name)}
        if stage.name == "old":
            trained["discriminator"] = self.discriminator
        return {
            name: torch.optim.AdamW(
                module.parameters(), stage.learning_rate, weight_decay=self.recipe.weight_decay
            )
            for name, module in trained.items()
        }

    def _step(self, stage: TranslationStage, own_step: int, batches: BatchMaker) -> float:
        warm = min(1.0, (own_step + 1) / max(1, self.recipe.warmup_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * own_step / stage.steps))
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * warm * (_LAST_RATE + (1 - _LAST_RATE) * cosine)
        loss = self._loss(stage, batches)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.step}; the state of the last validation is "
                "kept. Lower the stage's learning_rate in the recipe"
            )
        self._descend("network", getattr(self.network, stage.name), loss)
        self.step += 1
        return value

    def _descend(self, name: str, module: nn.Module, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), _LARGEST_GRADIENT)
        optimizer.step()

    def _half(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._is_half)

    def _loss(self, stage: TranslationStage, batches: BatchMaker) -> Tensor:
        losses = {
            "detector": self._detector_loss,
            "old": self._old_loss,
            "clean": self._clean_loss,
            "mapping": self._mapping_loss,
        }
        return losses[stage.name](stage, batches)

    def _detector_loss(self, stage: TranslationStage, batches: BatchMaker) -> Tensor:
        batch = batches.aged(self.step, stage.batch, stage.crop)
        with self._half():
            logits = self.network.detector.logits_of(_channels_last(batch.aged))
        return damage_loss(logits.float(), batch.damage)

    def _old_loss(self, stage: TranslationStage, batches: BatchMaker) -> Tensor:
        """Return the loss of the VAE of old photos, real and synthetic; train the discriminator."""
        synthetic = batches.aged(self.step, stage.batch, stage.crop).aged
        # half as many: there are few scans
        real = batches.real(self.step, max(1, stage.batch // 2), stage.crop)
        photos = torch.cat([synthetic, real])
        decoded, latents, mean, log_variance = self._reconstruct(self.network.old, photos)
        loss = self._autoencoder_loss(decoded, photos, mean, log_variance)
        if not self.recipe.adversarial_weight:
            return loss
        of_synthetic, of_real = latents[: len(synthetic)], latents[len(synthetic) :]
        known = discriminator_loss(
            self.discriminator(of_real.detach()), self.discriminator(of_synthetic.detach())
        )
        self._descend("discriminator", self.discriminator, known)
        deceived = deception_loss(self.discriminator(of_synthetic))
        return loss + self.recipe.adversarial_weight * deceived

    def _clean_loss(self, stage: TranslationStage, batches: BatchMaker) -> Tensor:
        photos = batches.clean(self.step, stage.batch, stage.crop)
        decoded, _, mean, log_variance = self._reconstruct(self.network.clean, photos)
        return self._autoencoder_loss(decoded, photos, mean, log_variance)

    def _autoencoder_loss(
        self, decoded: Tensor, photos: Tensor, mean: Tensor, log_variance: Tensor
    ) -> Tensor:
        return l1_loss(decoded, photos) + self.recipe.kl_weight * kl_divergence(mean, log_variance)

    def _mapping_loss(self, stage: TranslationStage, batches: BatchMaker) -> Tensor:
        """Return the distance of mapped latents to the clean photo's, and of the photos."""
        recipe, network = self.recipe, self.network
        batch = batches.aged(self.step, stage.batch, stage.crop)
        with self._half():
            with torch.no_grad():
                mean, _ = network.old.encoder(_channels_last(batch.aged))
                wanted, _ = network.clean.encoder(_channels_last(batch.clean))
            mapped = network.mapping(mean, latent_damage(batch.damage))
            restored = network.clean.decoder(mapped)
        pixels = weighted_l1_loss(restored.float(), batch.clean, batch.damage, recipe.damage_weight)
        return pixels + recipe.latent_weight * l1_loss(mapped.float(), wanted.float())

    def _reconstruct(self, vae: nn.Module, photos: Tensor) -> tuple[Tensor, ...]:
        # the noise follows from the step, so that a resumed run equals one that was not stopped
        generator = torch.Generator().manual_seed(self.recipe.seed + 7919 * self.step)
        height, width = (side // LATENT_STRIDE for side in photos.shape[2:])
        shape = (len(photos), self.recipe.config.latent_channels, height, width)
        noise = torch.randn(shape, generator=generator)
        with self._half():
            outputs = vae(_channels_last(photos), noise)
        return tuple(one.float() for one in outputs)

    def _validate(
        self, stage: TranslationStage, batches: list[AgedBatch], loss: float
    ) -> TranslationScore:
        """Return how well the stage does on held-out photos."""
        errors, damaged, pixels, damage = 0.0, 0.0, 0, 0
        both, either = 0.0, 0.0
        network = self.network.eval()
        with torch.inference_mode():
            for batch in batches:
                if stage.name == "detector":
                    found = network.detector(batch.aged) > 0.5
                    truth = batch.damage > 0.5
                    both += float((found & truth).sum())
                    either += float((found | truth).sum())
                    continue
                restored, target = _outputs_of(stage.name, network, batch)
                error = (restored.clamp(0.0, 1.0) - target).square().mean(1, keepdim=True)
                errors, pixels = errors + float(error.sum()), pixels + error.numel()
                damaged += float((error * batch.damage).sum())
                damage += int(batch.damage.sum())
        network.train()
        return TranslationScore(
            self.step,
            stage.name,
            loss,
            _decibels(errors, pixels),
            _decibels(damaged, damage) if stage.name == "mapping" else math.nan,
            both / either if either else math.nan,
        )

    def _save(self) -> None:
        stream = io.BytesIO()
        torch.save(
            {
                "recipe": self.recipe.model_dump_json(),
                "step": self.step,
                "network": self.network.state_dict(),
                "discriminator": self.discriminator.state_dict(),
                "optimizers": {name: one.state_dict() for name, one in self._optimizers.items()},
            },
            stream,
        )
        write_atomically(self.folder / STATE_FILE, stream.getvalue())

    @staticmethod
    def _values_of(recipe: TranslationRecipe, step: int) -> dict[str, Any]:
        """Return what of a recipe has had a part in the first STEP steps."""
        values = recipe.model_dump(exclude={"stages", "validate_every"})
        starts = accumulate((stage.steps for stage in recipe.stages), initial=0)
        started = [
            stage.model_dump()
            for stage, start in zip(recipe.stages, starts, strict=False)
            if start < step
        ]
        return {**values, "stages": started}

    def _resume(self) -> None:
        file = self.folder / STATE_FILE
        if not file.is_file():
            return
        state = torch.load(file, weights_only=True)
        former = TranslationRecipe.model_validate_json(state["recipe"])
        if self._values_of(former, state["step"]) != self._values_of(self.recipe, state["step"]):
            raise CheckpointError(
                f"{file} was trained by another recipe; give the same one, but for stages that "
                "have not begun, or another --out"
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.discriminator.load_state_dict(state["discriminator"])
        stage, _ = self.recipe.stage_at(self.step - 1)  # the next one begins with new ones
        self._optimizers = self._make_optimizers(stage)
        for name, one in self._optimizers.items():
            one.load_state_dict(state["optimizers"][name])


def _outputs_of(
    stage: str, network: OldPhotoTranslation, batch: AgedBatch
) -> tuple[Tensor, Tensor]:
    """Return what a stage makes of the means of latents, and what it is to be."""
    if stage == "mapping":
        return network.translate(batch.aged, batch.damage), batch.clean
    vae, photos = {"old": (network.old, batch.aged), "clean": (network.clean, batch.clean)}[stage]
    return vae.decoder(vae.encoder(photos)[0]), photos


def _channels_last(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last)


def _decibels(squares: float, count: int) -> float:
    return -10.0 * math.log10(squares / count) if count and squares else math.nan


def append_translation_score(folder: Path, score: TranslationScore) -> None:
    """Append a score to a run's history, and remove those of later steps."""
    kept = [one for one in read_translation_history(folder) if one.step < score.step]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [one.name for one in fields(TranslationScore)])
    writer.writeheader()
    writer.writerows(asdict(one) for one in [*kept, score])
    write_atomically(folder / HISTORY_FILE, stream.getvalue().encode())


def read_translation_history(folder: Path) -> list[TranslationScore]:
    """Return the scores of a run's folder, oldest first."""
    file = folder / HISTORY_FILE
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            TranslationScore(
                int(row.pop("step")),
                row.pop("stage"),
                **{name: float(value) for name, value in row.items()},
            )
            for row in csv.DictReader(stream)
        ]
