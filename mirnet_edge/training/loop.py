"""The training loop: the exposure branch on thumbnails, the rest on crops, then on whole frames."""

from __future__ import annotations

import copy
import logging
import math
import time
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from mirnet_edge.errors import TrainingError
from mirnet_edge.models.edge import MIRNetEdge
from mirnet_edge.training import loss, record, state
from mirnet_edge.training.batches import Drawing, batches
from mirnet_edge.training.exposure import train_exposure
from mirnet_edge.training.parallel import Process
from mirnet_edge.training.recipe import require_crops
from mirnet_edge.training.record import Score
from mirnet_edge.training.thumbnails import Thumbnails
from mirnet_edge.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.models.edge import ExposureBranch
    from mirnet_edge.training.batches import Batch
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.recipe import Recipe

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_WEIGHT = 1e4
_ALONE = Process()
_PROCESSOR = torch.device("cpu")


class Trainer:
    """Train one network in one folder; `run` goes on where the folder's last state stopped."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        folder: Path,
        *,
        teacher: nn.Module | None = None,
        device: torch.device = _PROCESSOR,
        precision: Precision = "fp32",
        process: Process = _ALONE,
        workers: int = 1,
        start: str = "",
        compiled: bool = False,
        tensorboard: bool = False,
    ) -> None:
        """Prepare to train MODEL; nothing is written before the first state is saved.

        Args:
            model: One of our networks.
            recipe: How.
            folder: For the state and the history.
            teacher: A network whose pictures are aimed at beside the references.
            device: Where to train; the model goes there.
            precision: Of the network's arithmetic in training; the weights stay float32.
            process: This one, where several share the run.
            workers: Threads that draw batches ahead.
            start: What the run begins from (weights, teacher, data); a state of another start is
                refused.
            compiled: Let torch.compile fuse the network: a minute at the start, then faster steps.
            tensorboard: Also write the scores as TensorBoard's events.

        Raises:
            OptionError: The recipe's crops do not suit the network.
        """
        # torch's annotations know no `to` with a memory format
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model).requires_grad_(requires_grad=False).eval()
        self.teacher = None if teacher is None else teacher.to(device).requires_grad_(False).eval()
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.precision = precision
        self.process = process
        self.workers = workers
        self.tensorboard = tensorboard
        self.start = start
        self.step = 0
        self.multiple: int = model.multiple  # type: ignore[assignment]
        require_crops(recipe, self.multiple * _scale_of(model))
        self._first = [weight.detach().clone() for weight in self.model.parameters()]
        rests = self._has_exposure_stage or not recipe.exposure_learns
        if self._branch is not None and rests:
            self._branch.requires_grad_(requires_grad=False)
        called = process.shared(self.model)
        self._called = torch.compile(called) if compiled else called
        # half precision's gradients vanish unless they are scaled; bfloat16 has float32's range
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [weight for weight in trained if weight.ndim > 1],
                    "weight_decay": recipe.weight_decay,
                },
                {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
        )

    @property
    def _branch(self) -> ExposureBranch | None:
        return self.model.exposure if isinstance(self.model, MIRNetEdge) else None

    @property
    def _has_exposure_stage(self) -> bool:
        return self._branch is not None and self.recipe.exposure_steps > 0

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
            MirnetEdgeError: The folder cannot be written; its last state is kept.
        """
        started = clock()
        if self.step == 0 and self._has_exposure_stage:
            self._train_exposure(train, on_exposure_step)
        losses: list[float] = []
        score: Score | None = None
        steps = range(self.step, self.recipe.steps)
        for batch in self._batches(train, steps):
            losses.append(self._one_step(batch))
            self.step += 1
            on_step(self.step, losses[-1])
            out_of_time = self.process.any(clock() - started > max_seconds)
            last = self.step == self.recipe.steps or out_of_time
            if last or self.step % self.recipe.validate_every == 0:
                self._require_sane_weights()
                score = self._score(losses, validation)
                losses.clear()
                if self.process.leads:
                    state.save(self)
                    record.append(self.folder, score)
                    if self.tensorboard:
                        record.append_to_tensorboard(self.folder, score)
                self.process.wait()
                on_score(score)
            if out_of_time:
                break
        return score or self._score(losses, validation)

    def _train_exposure(self, train: Pairs, on_step: Callable[[int, float], None]) -> None:
        branch = self._branch
        if branch is None:
            return
        branch.requires_grad_(requires_grad=True)
        thumbnails = Thumbnails(train, self.recipe.exposure_copies)
        train_exposure(branch, thumbnails, self.recipe, on_step)
        branch.requires_grad_(requires_grad=False)
        self.averaged.load_state_dict(self.model.state_dict())

    def _batches(self, train: Pairs, steps: range) -> Iterator[Batch]:
        recipe = self.recipe

        def drawing(step: int) -> Drawing:
            return Drawing(
                size=recipe.batch_at(step, self.process.count),
                crop=recipe.crop(step),
                multiple=self.multiple,
                lit_share=recipe.lit_share,
                exposure_range=recipe.exposure_range,
                extra_noise=recipe.extra_noise,
                mixup=recipe.mixup,
                thumbnails=any(has_exposure(one) for one in (self.model, self.teacher)),
            )

        return batches(
            train, drawing, steps, seed=recipe.seed, places=self.process.places,
            workers=self.workers,
        )  # fmt: skip

    def _score(self, losses: Sequence[float], validation: Pairs) -> Score:
        mean = sum(losses) / len(losses) if losses else math.nan
        figures = validate(self.averaged, validation) if self.process.leads else (math.nan,) * 4
        return Score(self.step, mean, *figures)

    def _one_step(self, batch: Batch) -> float:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        self.model.train()
        low, high = batch.low.to(self.device), batch.high.to(self.device)
        restored = self._restored(low, batch.thumbnail)
        target = self._target(low, high, batch.thumbnail)
        value = self.process.mean(float(loss.DISTANCES[recipe.distance](restored, high).detach()))
        if not math.isfinite(value):
            raise self._failure(f"the loss is {value}")
        total = loss.total(restored, target, recipe)
        if recipe.anchor_weight:
            total = total + recipe.anchor_weight * self._way_from_first()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if recipe.gradient_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # a short memory at first, or the average would hold the random start for long
        keep = min(recipe.ema, (self.step + 1) / (self.step + 10)) if recipe.ema else 0.0
        with torch.no_grad():
            for mean, weight in zip(
                self.averaged.parameters(), self.model.parameters(), strict=True
            ):
                mean.lerp_(weight, 1.0 - keep)
        return value

    def _require_sane_weights(self) -> None:
        """Refuse to save weights that have run away: still numbers, but they restore nothing."""
        largest = max(float(weight.detach().abs().max()) for weight in self.model.parameters())
        if not largest < _LARGEST_WEIGHT:
            raise self._failure(f"a weight has grown to {largest:.3g}")

    def _failure(self, what: str) -> TrainingError:
        kept = "nothing was saved yet"
        if state.exists(self.folder):
            kept = f"what was last saved in {self.folder} is kept"
        return TrainingError(
            f"{what} at step {self.step}; {kept}. Train anew with a smaller --learning-rate"
        )

    def _restored(self, low: Tensor, thumbnail: Tensor | None) -> Tensor:
        """Return the network's output, in float32 whatever it was computed in."""
        half = _HALVES.get(self.precision)
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            restored: Tensor = self._called(*self._given(self.model, low, thumbnail))
        return restored.float()

    def _target(self, low: Tensor, high: Tensor, thumbnail: Tensor | None) -> Tensor:
        """Return the reference, moved towards what the teacher makes of the same pictures."""
        if self.teacher is None:
            return high
        with torch.no_grad():
            taught: Tensor = self.teacher(*self._given(self.teacher, low, thumbnail))
        return high.lerp(taught.clamp(0.0, 1.0), self.recipe.teacher_weight)

    def _given(
        self, network: nn.Module, low: Tensor, thumbnail: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return what a network takes: its exposure branch sees the whole frames, made small."""
        if thumbnail is None or not has_exposure(network):
            return (low,)
        return low, thumbnail.to(self.device)

    def _way_from_first(self) -> Tensor:
        ways = [
            (weight - first).square().sum()
            for weight, first in zip(self.model.parameters(), self._first, strict=True)
        ]
        return torch.stack(ways).sum()


def has_exposure(network: nn.Module | None) -> bool:
    """Return whether a network looks at the whole frame, made small, to set the exposure."""
    return isinstance(network, MIRNetEdge) and network.exposure is not None


def _scale_of(model: nn.Module) -> int:
    return model.config.scale if isinstance(model, MIRNetEdge) else 1
