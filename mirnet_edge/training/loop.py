"""The training loop: Charbonnier, AdamW, warm-up and cosine, EMA, crops and then whole frames.

The batch of a step depends on (seed, step) alone, so a run that was stopped goes on with the
same batches it would have seen.
"""

from __future__ import annotations

import io
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mirnet_edge import images, metrics
from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.files import write_atomically
from mirnet_edge.models.edge import MIRNetEdge
from mirnet_edge.training.loss import charbonnier
from mirnet_edge.training.pairs import Pairs, draw_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"
_HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Raises:
        OptionError: A value makes no sense.
    """

    steps: int = 8000
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
    exposure_weight: float = 0.5
    """Weight of the exposure branch's own loss, on thumbnails: they show exposure and colour but
    neither noise nor detail, so the branch learns from whole frames while the rest sees crops."""
    seed: int = 0
    validate_every: int = 500

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("steps", "batch", "crop", "whole_batch", "validate_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0.0 <= self.whole_share <= 1.0 or not 0.0 <= self.ema < 1.0:
            raise OptionError(
                "whole_share must lie in [0, 1] and ema in [0, 1), "
                f"found {self.whole_share} and {self.ema}"
            )
        if self.learning_rate <= 0:
            raise OptionError(f"learning_rate must be above 0, found {self.learning_rate}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine to a thousandth."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (0.001 + 0.999 * cosine)


@dataclass(frozen=True)
class Score:
    """Validation figures of the averaged weights: means over whole frames, in dB."""

    step: int
    loss: float
    """Mean training loss since the last score."""
    psnr_db: float
    psnr_gtmean_db: float
    """PSNR after matching the output's mean brightness to the reference: without it, what is
    left is noise, detail and colour."""
    ssim: float


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
        decayed = [weight for weight in model.parameters() if weight.ndim > 1]
        other = [weight for weight in model.parameters() if weight.ndim <= 1]
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
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        on_score: Callable[[Score], None] = lambda score: None,
        clock: Callable[[], float] = time.monotonic,
        max_seconds: float = math.inf,
    ) -> Score:
        """Train to the last step or until the time is up, and return the last score."""
        started = clock()
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
        exposed = self.model.exposure(batch.thumbnail_low, batch.thumbnail_low)
        loss = charbonnier(restored, batch.high)
        total = loss + recipe.exposure_weight * charbonnier(exposed, batch.thumbnail_high)
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
        return float(loss.detach())

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
        with (self.folder / _HISTORY_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(score)) + "\n")

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


def validate(model: MIRNetEdge, pairs: Pairs) -> tuple[float, float, float]:
    """Return mean PSNR in dB, the same brightness-matched, and SSIM, over whole frames.

    The output is measured as it will be seen, in 8 bits.
    """
    rows = []
    for low, high in zip(pairs.low, pairs.high, strict=True):
        frames = low.permute(1, 2, 0).numpy()[None]
        padded = images.pad_to_multiple(frames, model.multiple)
        with torch.inference_mode():
            restored = model(torch.from_numpy(images.batch_from_frames(padded)))
        output = images.crop_to(images.frames_from_batch(restored.numpy()), *frames.shape[1:3])
        reference = high.permute(1, 2, 0).numpy()[None]
        figures = (metrics.psnr, metrics.psnr_gtmean, metrics.ssim)
        rows.append([float(figure(output, reference)[0]) for figure in figures])
    psnr_db, gtmean_db, ssim = (sum(column) / len(column) for column in zip(*rows, strict=True))
    return psnr_db, gtmean_db, ssim


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them mean "damaged"
        # without its own words: they advise to unpickle what nobody vouches for
        raise CheckpointError(f"{path} is damaged; remove it to start anew") from error
    if not isinstance(state, dict) or {"step", "recipe", "model"} - set(state):
        raise CheckpointError(f"{path} is not a training state; remove it to start anew")
    return state
