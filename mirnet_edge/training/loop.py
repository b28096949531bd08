"""The training loop: the exposure branch on thumbnails, the rest on crops, then on whole frames.

The batch of a step depends on (seed, step) alone, so a run that was stopped goes on with the
same batches it would have seen.
"""

from __future__ import annotations

import io
import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mirnet_edge.errors import CheckpointError, OptionError, TrainingError
from mirnet_edge.files import write_atomically
from mirnet_edge.metrics import SSIM_WINDOW
from mirnet_edge.models.edge import MIRNetEdge
from mirnet_edge.training import record
from mirnet_edge.training.exposure import train_exposure
from mirnet_edge.training.loss import charbonnier, structural_dissimilarity
from mirnet_edge.training.pairs import Pairs, draw_batch
from mirnet_edge.training.record import Score
from mirnet_edge.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Raises:
        OptionError: A value makes no sense.
    """

    steps: int = 10000
    batch: int = 12
    crop: int = 192
    """Side of the training crops, in pixels."""
    whole_share: float = 0.2
    """Share of the steps, at the end, that see whole frames: crops give the pools statistics
    that whole frames do not have (Chu et al., "Improving Image Restoration by Revisiting Global
    Information Aggregation", ECCV 2022)."""
    whole_batch: int = 2
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    ema: float = 0.999
    gradient_norm: float = 1.0
    structure_weight: float = 0.1
    """Weight of structural dissimilarity beside the Charbonnier distance."""
    exposure_steps: int = 8000
    """Steps of the first stage, in which the exposure branch alone learns from thumbnails; it is
    left as it is afterwards."""
    exposure_batch: int = 24
    exposure_learning_rate: float = 3e-3
    seed: int = 0
    validate_every: int = 500

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        positive = (
            "steps", "batch", "crop", "whole_batch", "validate_every", "exposure_steps",
            "exposure_batch",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0.0 <= self.whole_share <= 1.0 or not 0.0 <= self.ema < 1.0:
            raise OptionError(
                "whole_share must lie in [0, 1] and ema in [0, 1), "
                f"found {self.whole_share} and {self.ema}"
            )
        if self.crop < SSIM_WINDOW:
            raise OptionError(f"crop must be at least {SSIM_WINDOW}, found {self.crop}")
        if min(self.learning_rate, self.exposure_learning_rate) <= 0:
            raise OptionError(
                "learning rates must be above 0, found "
                f"{self.learning_rate} and {self.exposure_learning_rate}"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine to a thousandth."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (0.001 + 0.999 * cosine)


class Trainer:
    """Train one network in one folder; `run` goes on where the folder's last state stopped."""

    def __init__(self, model: MIRNetEdge, recipe: Recipe, folder: Path) -> None:
        """Prepare to train MODEL; nothing is written before the first state is saved."""
        # torch's annotations know no `to` with a memory format
        self.model: MIRNetEdge = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = MIRNetEdge(model.config).requires_grad_(requires_grad=False).eval()
        self.averaged.load_state_dict(model.state_dict())
        self.recipe = recipe
        self.folder = folder
        self.step = 0
        branch = set(map(id, model.exposure.parameters()))  # it has a stage of its own
        trained = [weight for weight in model.parameters() if id(weight) not in branch]
        decayed = [weight for weight in trained if weight.ndim > 1]
        other = [weight for weight in trained if weight.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": other, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
        )

    def run(
        self,
        train: Pairs,
        validation: Pairs,
        *,
        on_exposure_step: Callable[[int, float], None] = lambda step, loss: None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        on_score: Callable[[Score], None] = lambda score: None,
        clock: Callable[[], float] = time.monotonic,
        max_seconds: float = math.inf,
    ) -> Score:
        """Train to the last step or until the time is up, and return the last score.

        A run that was killed goes on where it last validated; before that, at its beginning.

        Raises:
            TrainingError: The loss is no longer a number; the last state is kept.
        """
        started = clock()
        if self.step == 0:
            self._train_exposure(train, on_exposure_step)
        self.model.exposure.requires_grad_(requires_grad=False)
        losses: list[float] = []
        score: Score | None = None
        while self.step < self.recipe.steps:
            losses.append(self._one_step(train))
            self.step += 1
            on_step(self.step, losses[-1])
            out_of_time = clock() - started > max_seconds
            last = self.step == self.recipe.steps or out_of_time
            if last or self.step % self.recipe.validate_every == 0:
                score = self._score(losses, validation)
                losses.clear()
                self.save(score)
                on_score(score)
            if out_of_time:
                break
        return score or self._score(losses, validation)

    def _train_exposure(self, train: Pairs, on_step: Callable[[int, float], None]) -> None:
        train_exposure(
            self.model.exposure,
            train,
            steps=self.recipe.exposure_steps,
            batch=self.recipe.exposure_batch,
            learning_rate=self.recipe.exposure_learning_rate,
            seed=self.recipe.seed,
            on_step=on_step,
        )
        self.averaged.exposure.load_state_dict(self.model.exposure.state_dict())

    def _score(self, losses: Sequence[float], validation: Pairs) -> Score:
        loss = sum(losses) / len(losses) if losses else math.nan
        return Score(self.step, loss, *validate(self.averaged, validation))

    def _one_step(self, train: Pairs) -> float:
        recipe = self.recipe
        whole = self.step >= recipe.steps * (1.0 - recipe.whole_share)
        # a generator of its own for each step: resuming needs no saved state of chance
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        batch = draw_batch(
            train,
            recipe.whole_batch if whole else recipe.batch,
            None if whole else recipe.crop,
            self.model.multiple,
            generator,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        self.model.train()
        restored = self.model(
            batch.low.contiguous(memory_format=torch.channels_last), batch.thumbnail_low
        )
        loss = charbonnier(restored, batch.high)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.step}; what was last saved in {self.folder} "
                "is good. Train anew with a smaller --learning-rate"
            )
        total = loss + recipe.structure_weight * structural_dissimilarity(restored, batch.high)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_norm)
        self.optimizer.step()
        # a short memory at first, or the average would hold the random start for long
        keep = min(recipe.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, weight in zip(
                self.averaged.parameters(), self.model.parameters(), strict=True
            ):
                mean.lerp_(weight, 1.0 - keep)
        return value

    def save(self, score: Score) -> None:
        """Write the state to the folder, whole or not at all, and one line of history."""
        buffer = io.BytesIO()
        torch.save(
            {
                "step": self.step,
                "recipe": asdict(self.recipe),
                "model": self.model.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            buffer,
        )
        write_atomically(self.folder / _STATE_FILE, buffer.getvalue())
        record.append(self.folder, score)

    def resume(self) -> bool:
        """Take up the folder's last state; return whether there was one.

        Raises:
            CheckpointError: The state is damaged, or of another recipe or network.
        """
        path = self.folder / _STATE_FILE
        if not path.is_file():
            return False
        state = _read_state(path)
        different = sorted(
            name
            for name, value in asdict(self.recipe).items()
            if state["recipe"].get(name) != value and name not in ("validate_every",)
        )
        if different:
            raise CheckpointError(
                f"{path} was trained with other values of {', '.join(different)}; give the same "
                "options, or another --out"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} belongs to a network of another shape; give the same options, "
                "or another --out"
            ) from error
        self.step = int(state["step"])
        logger.info("resumed %s at step %d", path, self.step)
        return True


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them mean "damaged"
        # without its own words: they advise to unpickle what nobody vouches for
        raise CheckpointError(f"{path} is damaged; remove it to start anew") from error
    if not isinstance(state, dict) or {"step", "recipe", "model"} - set(state):
        raise CheckpointError(f"{path} is not a training state; remove it to start anew")
    return state
