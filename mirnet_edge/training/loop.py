"""The training loop: optimizer, EMA weights, distillation, validation, training state, DDP.

    torchrun --nproc-per-node 2 --no-python mirnet-train --task denoise --data photos

Each process takes its rows of every batch and gradients are averaged, so that the run equals that
of a single process. The training state (`state.pt`) is saved at every validation; an interrupted
run resumes from it.
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
from mirnet_edge.models.dead_channels import recycle_dead_channels
from mirnet_edge.models.edge import MIRNetEdge, PixelHead
from mirnet_edge.training import loss, record
from mirnet_edge.training.batches import BatchSampling, iterate_batches, require_image_sizes
from mirnet_edge.training.damage import train_damage
from mirnet_edge.training.exposure import count_steps, train_exposure
from mirnet_edge.training.optimizers import make_optimizer
from mirnet_edge.training.pairs import Thumbnails
from mirnet_edge.training.recipe import FORMER_FIELDS, TrainingRecipe, require_crops
from mirnet_edge.training.record import ValidationScore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.models.damage import DamageBranch
    from mirnet_edge.models.edge import ExposureBranch
    from mirnet_edge.training.batches import Batch
    from mirnet_edge.training.pairs import Pairs

logger = logging.getLogger(__name__)

_METRICS = (metrics.psnr, metrics.psnr_gtmean, metrics.ssim, metrics.mae)


def validate(model: nn.Module, pairs: Pairs) -> tuple[float, float, float, float]:
    """Return mean PSNR in dB, brightness-matched PSNR, SSIM, and absolute error on [0, 1].

    Measured on whole frames, after rounding to 8 bits. `pairs` must hold degraded images.
    """
    rows = []
    for degraded, target in zip(pairs.inputs, pairs.targets, strict=True):
        output = restore_frames(model, degraded[None], pairs.scale)
        rows.append([float(figure(output, target[None])[0]) for figure in _METRICS])
    psnr_db, gtmean_db, ssim, mae = (
        sum(column) / len(column) for column in zip(*rows, strict=True)
    )
    return psnr_db, gtmean_db, ssim, mae


def restore_frames(model: nn.Module, frames: Frames, scale: int = 1) -> Frames:
    """Return the restored frames, (N, H, W, 3) uint8, of frames of any size."""
    height, width = frames.shape[1:3]
    padded = contract.pad_to_multiple(frames, model.multiple)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    with torch.inference_mode():
        batch = model(torch.from_numpy(contract.batch_from_frames(padded)).to(device))
    return contract.crop_to(
        contract.frames_from_batch(batch.cpu().numpy()), scale * height, scale * width
    )


# environment variables of torchrun
_LAUNCHED, _LOCAL = "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True)
class DistributedProcess:
    """One of the processes of a distributed run (DDP), or the only one."""

    rank: int = 0
    count: int = 1

    @property
    def rows(self) -> slice:
        """Return which rows of a batch this process takes."""
        return slice(self.rank, None, self.count)

    @property
    def is_leader(self) -> bool:
        """Return whether it is the one that validates, writes and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped for training, so that gradients are averaged."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def average(self, value: float) -> float:
        """Return the mean of all processes' values; every process must call it."""
        if self.count == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        held = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.all_reduce(held)
        return float(held) / self.count

    def share(self, value: float) -> float:
        """Return the leader's value; every process must call it."""
        return self.average(self.count * value if self.is_leader else 0.0)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; every process must call it."""
        return self.average(math.inf if flag else 0.0) > 0.0

    def largest(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over all processes; every process must call it."""
        if self.count > 1:
            distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
        return values

    def wait(self) -> None:
        """Wait until all processes have called it."""
        if self.count > 1:
            distributed.barrier()


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[DistributedProcess]:
    """Yield this process of those that torchrun started; the only one without torchrun.

    Raises:
        OptionError: The process group cannot be formed.
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
            f"cannot form the process group ({str(error)[:120]}); start all processes with torchrun"
        ) from error
    try:
        yield DistributedProcess(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


_STATE_FILE = "state.pt"
_KEYS = {"step", "recipe", "start", "model", "averaged", "optimizer", "scaler"}
_MAY_CHANGE = {"validate_every"}


def save_state(trainer: Trainer) -> None:
    """Write the training state to the trainer's folder, atomically.

    Raises:
        MirnetEdgeError: The folder cannot be written, or the disk is full; the former state is
            kept.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "step": trainer.step,
            "stages": sorted(trainer.finished_stages),
            "recipe": asdict(trainer.recipe),
            "model": trainer.model.state_dict(),
            "averaged": trainer.ema_model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "start": trainer.start,
            "psnr_db": trainer.psnr_db,
        },
        buffer,
    )
    write_atomically(trainer.folder / _STATE_FILE, buffer.getvalue())


def has_state(folder: Path) -> bool:
    """Return whether FOLDER holds a training state."""
    return (folder / _STATE_FILE).is_file()


def resume_state(trainer: Trainer) -> bool:
    """Load the last training state of the trainer's folder; return whether there was one.

    Raises:
        CheckpointError: The state is damaged, or of another recipe or network.
    """
    path = trainer.folder / _STATE_FILE
    if not path.is_file():
        return False
    state = _read(path)
    # fields that came later had no effect: their default
    recipe = {**asdict(TrainingRecipe()), **rename_keys(state["recipe"], FORMER_FIELDS)}
    different = sorted(
        name
        for name, value in asdict(trainer.recipe).items()
        if name not in _MAY_CHANGE and recipe.get(name) != value
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
        trainer.ema_model.load_state_dict(state["averaged"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is of a network of another shape; give the same options, or another --out"
        ) from error
    trainer.step = int(state["step"])
    # states of older versions were first saved after the stages
    trainer.finished_stages = set(state.get("stages", ("exposure", "damage")))
    trainer.psnr_db = list(state.get("psnr_db", ()))  # states of older versions have none
    logger.info("resumed %s at step %d", path, trainer.step)
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them mean "damaged"
        # torch's own message is left out: it advises to unpickle an untrusted file
        raise CheckpointError(f"{path} is damaged; remove it to train from the start") from error
    if not isinstance(state, dict) or _KEYS - set(state):
        raise CheckpointError(f"{path} is not a training state; remove it to train from the start")
    return state


Precision = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_WEIGHT = 1e4
_RECENT_BATCHES = 8
_RECYCLED_PART = 0.75  # of the steps; what is recycled needs time to learn
_RECYCLING = 3_000_017  # part of the random seed, so that it differs from those of other uses
_SINGLE_PROCESS = DistributedProcess()
_CPU = torch.device("cpu")


class Trainer:
    """Train one network in one folder; after `resume_state`, from the folder's last state."""

    def __init__(
        self,
        model: nn.Module,
        recipe: TrainingRecipe,
        folder: Path,
        *,
        teacher: nn.Module | None = None,
        device: torch.device = _CPU,
        precision: Precision = "fp32",
        process: DistributedProcess = _SINGLE_PROCESS,
        workers: int = 1,
        start: str = "",
        compiled: bool = False,
        tensorboard: bool = False,
    ) -> None:
        """Prepare to train MODEL; nothing is written before the first state is saved.

        Args:
            model: The network, with its initial weights.
            recipe: The hyperparameters.
            folder: For the training state and the history.
            teacher: A network to distill from: its outputs are mixed into the targets.
            device: Where to train; the model is moved there.
            precision: Of autocast in training; the weights stay float32.
            process: This one, where several share the run.
            workers: Threads that sample batches ahead.
            start: Identifies initial weights, teacher and data; a state of another start is
                refused.
            compiled: Run the network through torch.compile: a minute at the start, then faster
                steps.
            tensorboard: Also write the scores as TensorBoard events.

        Raises:
            OptionError: The recipe's crops are no multiples of the network's, or it limits the
                residual of a network whose head has no gate.
        """
        if recipe.residual_weight and not has_gate(model):
            raise OptionError(
                "residual_weight is for a MIRNetEdge whose head has a gate; this network has none. "
                "Leave it out of the recipe"
            )
        # torch's annotations have no `to` with a memory format
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema_model = copy.deepcopy(self.model).requires_grad_(requires_grad=False).eval()
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
        self.finished_stages: set[str] = set()
        """Of the stages of single branches, "exposure" and "damage"."""
        self.psnr_db: list[float] = []
        """PSNR of each validation so far, the same in every process."""
        self.multiple: int = model.multiple  # type: ignore[assignment]
        require_crops(recipe, self.multiple * _scale_of(model))
        self._initial_weights = [weight.detach().clone() for weight in self.model.parameters()]
        is_frozen = self._has_exposure_stage or not recipe.exposure_trainable
        if self._exposure_branch is not None and is_frozen:
            self._exposure_branch.requires_grad_(requires_grad=False)
        if self._damage_branch is not None and not recipe.damage_trainable:
            self._damage_branch.requires_grad_(requires_grad=False)
        wrapped = process.wrap(self.model)
        self._forward_model = torch.compile(wrapped) if compiled else wrapped
        # fp16 gradients underflow unless they are scaled; bf16 has the range of fp32
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.optimizer = make_optimizer(
            recipe.optimizer, self.model.parameters(), recipe.learning_rate, recipe.weight_decay
        )

    @property
    def _exposure_branch(self) -> ExposureBranch | None:
        return self.model.exposure if isinstance(self.model, MIRNetEdge) else None

    @property
    def exposure_steps(self) -> int:
        """Return the steps of the first stage, over all branches."""
        return count_steps(self._exposure_branch, self.recipe)

    @property
    def _has_exposure_stage(self) -> bool:
        return self._exposure_branch is not None and self.recipe.exposure_steps > 0

    @property
    def _damage_branch(self) -> DamageBranch | None:
        return self.model.damage if isinstance(self.model, MIRNetEdge) else None

    @property
    def _has_damage_stage(self) -> bool:
        return self._damage_branch is not None and self.recipe.damage_steps > 0

    def run(
        self,
        train: Pairs,
        validation: Pairs,
        *,
        on_exposure_step: Callable[[int, float], None] = lambda step, loss: None,
        on_damage_step: Callable[[int, float], None] = lambda step, loss: None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        on_score: Callable[[ValidationScore], None] = lambda score: None,
        clock: Callable[[], float] = time.monotonic,
        max_seconds: float = math.inf,
    ) -> ValidationScore:
        """Train to the last step or until the time is up, and return the last score.

        Steps after the last validation are lost when the run is killed, and the stage of a branch
        that was not finished.

        Raises:
            DataError: An image is smaller than a crop of the steps that are left.
            TrainingError: The loss or a weight diverged; the last state is kept.
            MirnetEdgeError: The folder cannot be written; its last state is kept.
            KeyboardInterrupt: Ctrl-C; says what is kept.
        """
        started = clock()
        crops = {self.recipe.crop_at(step) for step in range(self.step, self.recipe.steps)}
        require_image_sizes(train, max((crop for crop in crops if crop), default=0))
        with self._explain_interruption():
            if self._has_exposure_stage and "exposure" not in self.finished_stages:
                self._train_exposure(train, on_exposure_step)
                self._finish_stage("exposure")
            if self._has_damage_stage and "damage" not in self.finished_stages:
                self._train_damage(train, on_damage_step)
                self._finish_stage("damage")
            losses: list[float] = []
            score: ValidationScore | None = None
            steps = range(self.step, self.recipe.steps)
            for batch in self._batches(train, steps):
                losses.append(self._train_step(batch))
                self.step += 1
                self._recycle_dead_channels(train)
                on_step(self.step, losses[-1])
                out_of_time = self.process.any(clock() - started > max_seconds)
                last = self.step == self.recipe.steps or out_of_time
                if last or self.step % self.recipe.validate_every == 0:
                    self._require_bounded_weights()
                    score = self._validate(losses, validation)
                    self.psnr_db.append(self.process.share(score.psnr_db))
                    losses.clear()
                    if self.process.is_leader:
                        save_state(self)
                        record.append_score(self.folder, score)
                        if self.tensorboard:
                            record.append_to_tensorboard(self.folder, score)
                    self.process.wait()
                    on_score(score)
                if out_of_time:
                    break
            return score or self._validate(losses, validation)

    def score_initial(self, validation: Pairs) -> ValidationScore:
        """Return the validation score of the weights that training starts from, as step 0."""
        return self._validate((), validation)

    @contextlib.contextmanager
    def _explain_interruption(self) -> Iterator[None]:
        """Say in the KeyboardInterrupt of Ctrl-C what is kept."""
        try:
            yield
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(self._describe_interruption()) from error

    def _describe_interruption(self) -> str:
        where = f"interrupted at step {self.step} of {self.recipe.steps}"
        if not has_state(self.folder):
            return (
                f"{where}, before the first validation: nothing is kept; a smaller "
                "validate_every in the recipe saves earlier"
            )
        state = _read(self.folder / _STATE_FILE)
        kept = f"step {state['step']}"
        if not state["step"]:
            kept = f"the trained branches ({', '.join(state['stages'])})"
        return (
            f"{where}; the state of {kept} is kept in {self.folder}, and the same command "
            "resumes there"
        )

    def _finish_stage(self, name: str) -> None:
        """Keep the weights of a branch that was trained alone."""
        self.ema_model.load_state_dict(self.model.state_dict())
        self.finished_stages.add(name)
        if self.process.is_leader:
            save_state(self)
        self.process.wait()

    def _train_exposure(self, train: Pairs, on_step: Callable[[int, float], None]) -> None:
        branch = self._exposure_branch
        if branch is None:
            return
        branch.requires_grad_(requires_grad=True)
        thumbnails = Thumbnails(train, self.recipe.exposure_samples_per_image)
        train_exposure(branch, thumbnails, self.recipe, on_step)
        branch.requires_grad_(requires_grad=False)

    def _train_damage(self, train: Pairs, on_step: Callable[[int, float], None]) -> None:
        if isinstance(self.model, MIRNetEdge):
            train_damage(self.model, train, self.recipe, on_step)

    def _batches(self, train: Pairs, steps: range) -> Iterator[Batch]:
        recipe = self.recipe

        def sampling_at(step: int) -> BatchSampling:
            return BatchSampling(
                size=recipe.batch_size_at(step, self.process.count),
                crop=recipe.crop_at(step),
                multiple=self.multiple,
                well_lit_fraction=recipe.well_lit_fraction,
                exposure_jitter=recipe.exposure_jitter,
                noise_jitter=recipe.noise_jitter,
                mixup=recipe.mixup,
                noise_pairs=recipe.flicker_weight > 0.0,
                thumbnails=any(has_exposure_branch(one) for one in (self.model, self.teacher)),
            )

        return iterate_batches(
            train, sampling_at, steps, seed=recipe.seed, rows=self.process.rows,
            workers=self.workers,
        )  # fmt: skip

    def _recycle_dead_channels(self, train: Pairs) -> None:
        """Every `recycle_every` steps, give channels that no recent batch used new weights."""
        recipe = self.recipe
        every = recipe.recycle_every
        if not every or self.step % every or self.step > _RECYCLED_PART * recipe.steps:
            return
        # sampled again, not kept: a resumed run has the same
        recent = range(max(0, self.step - _RECENT_BATCHES), self.step)
        inputs = [
            self._network_inputs(self.model, batch.degraded.to(self.device), batch.thumbnail)
            for batch in self._batches(train, recent)
        ]
        generator = torch.Generator().manual_seed(recipe.seed + _RECYCLING * self.step)
        recycled = recycle_dead_channels(
            self.model, inputs, self.optimizer, generator=generator, reduce=self.process.largest
        )
        logger.info("step %d: %d dead channels recycled", self.step, recycled)

    def _validate(self, losses: Sequence[float], validation: Pairs) -> ValidationScore:
        mean = sum(losses) / len(losses) if losses else math.nan
        figures = (
            validate(self.ema_model, validation) if self.process.is_leader else (math.nan,) * 4
        )
        return ValidationScore(self.step, mean, *figures)

    def _train_step(self, batch: Batch) -> float:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(self.step, self.psnr_db)
        self.model.train()
        degraded, ground_truth = batch.degraded.to(self.device), batch.target.to(self.device)
        restored, residual = self._restore(degraded, batch.thumbnail)
        target = self._distillation_target(degraded, ground_truth, batch.thumbnail)
        value = self.process.average(
            float(loss.PIXEL_LOSSES[recipe.pixel_loss](restored, ground_truth).detach())
        )
        if not math.isfinite(value):
            raise self._divergence_error(f"the loss is {value}")
        total = loss.total_loss(restored, target, recipe)
        if recipe.flicker_weight:
            total = total + recipe.flicker_weight * loss.flicker_penalty(restored)
        if residual is not None:
            penalty = loss.residual_penalty(residual, recipe.residual_limit)
            total = total + recipe.residual_weight * penalty
        if recipe.l2_sp_weight:
            total = total + recipe.l2_sp_weight * self._l2_sp_penalty()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if recipe.gradient_clipping:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clipping)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # EMA warm-up: a smaller decay at first, or the random initial weights would stay for long
        decay = (
            min(recipe.ema_decay, (self.step + 1) / (self.step + 10)) if recipe.ema_decay else 0.0
        )
        with torch.no_grad():
            for mean, weight in zip(
                self.ema_model.parameters(), self.model.parameters(), strict=True
            ):
                mean.lerp_(weight, 1.0 - decay)
        return value

    def _require_bounded_weights(self) -> None:
        """Refuse to save diverged weights: still finite, but useless."""
        largest = max(float(weight.detach().abs().max()) for weight in self.model.parameters())
        if not largest < _LARGEST_WEIGHT:
            raise self._divergence_error(f"a weight has grown to {largest:.3g}")

    def _divergence_error(self, what: str) -> TrainingError:
        saved = "nothing was saved yet"
        if has_state(self.folder):
            saved = f"the last state in {self.folder} is kept"
        return TrainingError(
            f"{what} at step {self.step}; {saved}. Train again with a smaller --learning-rate"
        )

    def _restore(self, degraded: Tensor, thumbnail: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the network's output and, for its penalty, the residual in it, in float32."""
        half = _HALVES.get(self.precision)
        inputs = self._network_inputs(self.model, degraded, thumbnail)
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            if not self.recipe.residual_weight:
                return self._forward_model(*inputs).float(), None
            restored, residual = self._forward_model(*inputs, with_residual=True)
        return restored.float(), residual.float()

    def _distillation_target(
        self, degraded: Tensor, ground_truth: Tensor, thumbnail: Tensor | None
    ) -> Tensor:
        """Return the ground truth, mixed with the teacher's output by `teacher_weight`."""
        if self.teacher is None:
            return ground_truth
        with torch.no_grad():
            output: Tensor = self.teacher(*self._network_inputs(self.teacher, degraded, thumbnail))
        return ground_truth.lerp(output.clamp(0.0, 1.0), self.recipe.teacher_weight)

    def _network_inputs(
        self, network: nn.Module, degraded: Tensor, thumbnail: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return a network's inputs: with an exposure branch also the frames' thumbnails."""
        if thumbnail is None or not has_exposure_branch(network):
            return (degraded,)
        return degraded, thumbnail.to(self.device)

    def _l2_sp_penalty(self) -> Tensor:
        """Return the squared L2 distance to the initial weights (L2-SP regularization)."""
        distances = [
            (weight - initial).square().sum()
            for weight, initial in zip(self.model.parameters(), self._initial_weights, strict=True)
        ]
        return torch.stack(distances).sum()


def has_exposure_branch(network: nn.Module | None) -> bool:
    """Return whether a network is a MIRNetEdge with an exposure branch."""
    return isinstance(network, MIRNetEdge) and network.exposure is not None


def has_gate(network: nn.Module) -> bool:
    """Return whether a network is a MIRNetEdge that adds its residual to a gated input."""
    return isinstance(network, MIRNetEdge) and isinstance(network.head, PixelHead)


def _scale_of(model: nn.Module) -> int:
    return model.config.scale if isinstance(model, MIRNetEdge) else 1
