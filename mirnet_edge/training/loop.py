"""The training loop, with validation, saved state and several processes (DDP).

    torchrun --nproc-per-node 2 --no-python mirnet-train --task denoise --data photos

Each process takes its places of every batch; gradients are averaged, so that the run is the one
that a single process would have made.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed, nn

from mirnet_edge import metrics
from mirnet_edge.errors import CheckpointError, OptionError, TrainingError
from mirnet_edge.files import write_atomically
from mirnet_edge.images import contract
from mirnet_edge.manifest import rename_keys
from mirnet_edge.models.edge import MIRNetEdge
from mirnet_edge.training import loss, record
from mirnet_edge.training.batches import BatchSampling, batches
from mirnet_edge.training.exposure import train_exposure
from mirnet_edge.training.pairs import Thumbnails
from mirnet_edge.training.recipe import FORMER_FIELDS, require_crops
from mirnet_edge.training.record import ValidationScore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.models.edge import ExposureBranch
    from mirnet_edge.training.batches import Batch
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.recipe import TrainingRecipe

_FIGURES = (metrics.psnr, metrics.psnr_gtmean, metrics.ssim, metrics.mae)


def validate(model: nn.Module, pairs: Pairs) -> tuple[float, float, float, float]:
    """Return mean PSNR in dB, the same brightness-matched, SSIM, and absolute error on [0, 1].

    The output is measured as it will be seen, in 8 bits. `pairs` holds bad images.
    """
    rows = []
    for low, high in zip(pairs.low, pairs.high, strict=True):
        output = restore_frames(model, low[None], pairs.scale)
        rows.append([float(figure(output, high[None])[0]) for figure in _FIGURES])
    psnr_db, gtmean_db, ssim, mae = (
        sum(column) / len(column) for column in zip(*rows, strict=True)
    )
    return psnr_db, gtmean_db, ssim, mae


def restore_frames(model: nn.Module, frames: Frames, scale: int = 1) -> Frames:
    """Return what a network makes of whole frames, (N, H, W, 3) uint8, of any size."""
    height, width = frames.shape[1:3]
    padded = contract.pad_to_multiple(frames, model.multiple)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    with torch.inference_mode():
        batch = model(torch.from_numpy(contract.batch_from_frames(padded)).to(device))
    return contract.crop_to(
        contract.frames_from_batch(batch.cpu().numpy()), scale * height, scale * width
    )


# torchrun sets these
_LAUNCHED, _LOCAL = "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True)
class DistributedProcess:
    """One of the processes of a run."""

    rank: int = 0
    count: int = 1

    @property
    def places(self) -> slice:
        """Which places of a batch are this process's."""
        return slice(self.rank, None, self.count)

    @property
    def leads(self) -> bool:
        """Whether it is the one that validates, writes and prints."""
        return self.rank == 0

    def shared(self, model: nn.Module) -> nn.Module:
        """Return the model as it is to be called in training: its gradients become means."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def mean(self, value: float) -> float:
        """Return the mean of all processes' values; each must ask."""
        if self.count == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        held = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.all_reduce(held)
        return float(held) / self.count

    def any(self, here: bool) -> bool:
        """Return whether it is so in any process; each must ask."""
        return self.mean(math.inf if here else 0.0) > 0.0

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            distributed.barrier()


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[DistributedProcess]:
    """Yield this process's place among those that torchrun started; alone where it did not.

    Raises:
        OptionError: The group cannot be formed.
    """
    if _LAUNCHED not in os.environ:
        yield DistributedProcess()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get(_LOCAL, "0")))
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise OptionError(
            f"the processes do not find each other ({str(error)[:120]}); start them with torchrun"
        ) from error
    try:
        yield DistributedProcess(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"
_KEYS = {"step", "recipe", "start", "model", "averaged", "optimizer", "scaler"}
_FREE_TO_CHANGE = {"validate_every"}


def save_state(trainer: Trainer) -> None:
    """Write the state to the trainer's folder, whole or not at all.

    Raises:
        MirnetEdgeError: The folder cannot be written, or the disk is full; the former state is
            kept.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "step": trainer.step,
            "recipe": asdict(trainer.recipe),
            "model": trainer.model.state_dict(),
            "averaged": trainer.averaged.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "start": trainer.start,
        },
        buffer,
    )
    write_atomically(trainer.folder / _STATE_FILE, buffer.getvalue())


def has_state(folder: Path) -> bool:
    """Say whether a run left a state in FOLDER."""
    return (folder / _STATE_FILE).is_file()


def resume_state(trainer: Trainer) -> bool:
    """Take up the last state of the trainer's folder; return whether there was one.

    Raises:
        CheckpointError: The state is damaged, or of another recipe or network.
    """
    path = trainer.folder / _STATE_FILE
    if not path.is_file():
        return False
    state = _read(path)
    recipe = rename_keys(state["recipe"], FORMER_FIELDS)
    different = sorted(
        name
        for name, value in asdict(trainer.recipe).items()
        if name not in _FREE_TO_CHANGE and recipe.get(name) != value
    )
    if state["start"] != trainer.start:
        different.append("--init, --teacher, --replay or the data")
    if different:
        raise CheckpointError(
            f"{path} was trained with other values of {', '.join(different)}; give the same "
            "options, or another --out"
        )
    try:
        trainer.model.load_state_dict(state["model"])
        trainer.averaged.load_state_dict(state["averaged"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} belongs to a network of another shape; give the same options, or another --out"
        ) from error
    trainer.step = int(state["step"])
    logger.info("resumed %s at step %d", path, trainer.step)
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them mean "damaged"
        # without its own words: they advise to unpickle what nobody vouches for
        raise CheckpointError(f"{path} is damaged; remove it to start anew") from error
    if not isinstance(state, dict) or _KEYS - set(state):
        raise CheckpointError(f"{path} is not a training state; remove it to start anew")
    return state


Precision = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_WEIGHT = 1e4
_ALONE = DistributedProcess()
_PROCESSOR = torch.device("cpu")


class Trainer:
    """Train one network in one folder; `run` goes on where the folder's last state stopped."""

    def __init__(
        self,
        model: nn.Module,
        recipe: TrainingRecipe,
        folder: Path,
        *,
        teacher: nn.Module | None = None,
        device: torch.device = _PROCESSOR,
        precision: Precision = "fp32",
        process: DistributedProcess = _ALONE,
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
            teacher: A network whose images are aimed at beside the references.
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
        on_score: Callable[[ValidationScore], None] = lambda score: None,
        clock: Callable[[], float] = time.monotonic,
        max_seconds: float = math.inf,
    ) -> ValidationScore:
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
        score: ValidationScore | None = None
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
                    save_state(self)
                    record.append_score(self.folder, score)
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

        def drawing(step: int) -> BatchSampling:
            return BatchSampling(
                size=recipe.batch_at(step, self.process.count),
                crop=recipe.crop(step),
                multiple=self.multiple,
                well_lit_fraction=recipe.well_lit_fraction,
                exposure_jitter=recipe.exposure_jitter,
                noise_jitter=recipe.noise_jitter,
                mixup=recipe.mixup,
                thumbnails=any(has_exposure(one) for one in (self.model, self.teacher)),
            )

        return batches(
            train, drawing, steps, seed=recipe.seed, places=self.process.places,
            workers=self.workers,
        )  # fmt: skip

    def _score(self, losses: Sequence[float], validation: Pairs) -> ValidationScore:
        mean = sum(losses) / len(losses) if losses else math.nan
        figures = validate(self.averaged, validation) if self.process.leads else (math.nan,) * 4
        return ValidationScore(self.step, mean, *figures)

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
        total = loss.training_loss(restored, target, recipe)
        if recipe.l2_sp_weight:
            total = total + recipe.l2_sp_weight * self._way_from_first()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if recipe.gradient_clipping:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clipping)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # a short memory at first, or the average would hold the random start for long
        keep = (
            min(recipe.ema_decay, (self.step + 1) / (self.step + 10)) if recipe.ema_decay else 0.0
        )
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
        if has_state(self.folder):
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
        """Return the reference, moved towards what the teacher makes of the same images."""
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
