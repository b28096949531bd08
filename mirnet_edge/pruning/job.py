"""Structured pruning to a measured latency: from a request to a weights file with its record.

Each round: latency table -> depth and widths -> prune -> time end to end -> distill from the
unpruned network.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from mirnet_edge import checkpoints
from mirnet_edge.errors import OptionError
from mirnet_edge.models.macs import count_macs, count_parameters
from mirnet_edge.pruning.cutting import (
    PrunableNetwork,
    PrunedNetwork,
    choose_depth,
    drop_blocks,
    list_blocks,
    prune_to_target,
    time_pruned,
)
from mirnet_edge.pruning.importance import make_losses, require_importance, score_channels
from mirnet_edge.pruning.record import (
    RECORD_FILE,
    TABLE_FILE,
    WEIGHTS_FILE,
    NetworkSize,
    PruneRecord,
    PruningOptions,
    PruningQuality,
    PruningRound,
    read_record,
    resume_record,
)
from mirnet_edge.pruning.timing import (
    bases_from_table,
    measure_table,
    read_table,
    require_memory,
    time_networks,
    timing_conditions,
)
from mirnet_edge.pruning.widths import keep_blocks, prune_channels
from mirnet_edge.runtime.measure import p50
from mirnet_edge.training.job import (
    TrainingObserver,
    TrainingRequest,
    select_device,
    train_weights,
)
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import validate
from mirnet_edge.training.pairs import degrade_images, load_pairs, require_measurable
from mirnet_edge.training.recipe import (
    TrainingRecipe,
    read_recipe,
    recipe_from_values,
    require_crops,
)
from mirnet_edge.training.tasks import find_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.checkpoints.cards import ModelCard
    from mirnet_edge.pruning.cutting import Kept, Target
    from mirnet_edge.pruning.importance import Loss
    from mirnet_edge.pruning.record import PruningCandidate
    from mirnet_edge.pruning.timing import LatencyTable
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.tasks import Task

PRUNE = "prune"
"""The default recipe of distillation after pruning."""


@dataclass(frozen=True, kw_only=True)
class PruningRequest:
    """The options of a pruning run; exactly one of `speedup`, `latency_ms` and `like` is given."""

    weights: str
    weights_key: str | None = None
    """Which set of weights of several in the file; see `checkpoints.load`."""
    data: Path
    """A folder as `training.listing.list_pairs` reads it."""
    out: Path
    """Folder for the latency tables, the rounds, the record and the finished weights."""
    speedup: float | None = None
    latency_ms: float | None = None
    like: Path | None = None
    """Folder of another run, of weights of the same config, whose blocks and widths to use."""
    task: str | None = None
    """None: that of the weights' card."""
    backend: str = "openvino"
    size: tuple[int, int] = (256, 256)
    """(height, width) of the timed frame."""
    importance: str = "taylor"
    round_to: int = 8
    blocks: bool = False
    """Whether whole blocks and groups may be dropped too."""
    rounds: int = 1
    recipe: str = PRUNE
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe to override."""
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    max_seconds: float = math.inf


@dataclass(frozen=True, kw_only=True)
class LoadedPruning:
    """A checked request with its loaded parts and the record of an earlier run."""

    request: PruningRequest
    network: nn.Module
    """The unpruned network."""
    card: ModelCard
    sha256: str
    task: Task
    recipe: TrainingRecipe
    record: PruneRecord

    @property
    def like(self) -> dict[str, Any] | None:
        """Return the blocks and config of another run to prune to, None to choose them."""
        return self.record.options.like

    def require_needed(self, target_ms: float, unpruned_ms: float) -> None:
        """Refuse a target that the unpruned network reaches already.

        Raises:
            OptionError: It does.
        """
        if target_ms >= unpruned_ms:
            raise OptionError(
                f"the unpruned network takes {unpruned_ms:.2f} ms a frame here, less than the "
                f"target of {target_ms:.2f} ms; there is nothing to prune. Choose a lower target"
            )


def load_pruning(request: PruningRequest) -> LoadedPruning:
    """Return the request with its weights, task, recipe and record; writes nothing.

    Raises:
        MirnetEdgeError: An option is wrong, a backend is not installed, or weights, images or the
            folder's record cannot be read or do not fit.
    """
    _check_request(request)
    select_device(request.device, "fp32")
    loaded = checkpoints.load(request.weights, request.weights_key)
    task = _task(request, loaded.card)
    training = {**request.training, "seed": request.seed}
    recipe = recipe_from_values(
        {**read_recipe(request.recipe).training, **training}, request.recipe
    )
    network: Any = loaded.model
    require_crops(recipe, network.multiple * task.scale)
    conditions = timing_conditions(network, request.backend, request.size, request.round_to)
    list_pairs(request.data)
    options = PruningOptions(
        weights_sha256=loaded.sha256,
        data=str(request.data.resolve()),
        task=task.name,
        speedup=request.speedup,
        latency_ms=request.latency_ms,
        like=None if request.like is None else _kept_blocks(request.like, conditions.config),
        backend=request.backend,
        size=request.size,
        importance=request.importance,
        round_to=request.round_to,
        blocks=request.blocks,
        rounds=request.rounds,
        recipe=request.recipe,
        training={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in request.training.items()
        },
        seed=request.seed,
    )
    whole = measure_size(network, request.size)
    fresh = PruneRecord(options=options, conditions=conditions, unpruned_size=whole)
    record = resume_record(request.out, fresh)
    if not record.finished:
        require_memory(
            network,
            backend=request.backend,
            size=request.size,
            batch=recipe.batch,
            crop=recipe.crops[0],
        )
    return LoadedPruning(
        request=request, network=network, card=loaded.card, sha256=loaded.sha256, task=task,
        recipe=recipe, record=record,
    )  # fmt: skip


def config_from_run(given: LoadedPruning) -> tuple[Kept, Any]:
    """Return the blocks and the config of another run.

    Raises:
        OptionError: They are of another network family.
    """
    like: Any = given.like
    network: Any = given.network
    try:
        config = TypeAdapter(type(network.config)).validate_python(like["config"])
    except ValidationError as error:
        raise OptionError(
            "the run in --like is of another network family; give one of the same family"
        ) from error
    return like["kept"], config


def measure_size(network: nn.Module, size: tuple[int, int]) -> NetworkSize:
    """Return the size of a network, for frames of (height, width)."""
    return NetworkSize(gmacs=count_macs(network, *size) / 1e9, parameters=count_parameters(network))


def _kept_blocks(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    path = folder / RECORD_FILE
    record = read_record(path)
    if len(record.rounds) != 1:
        raise OptionError(
            f"{path} has {len(record.rounds)} rounds; --like needs a pruned run of one round"
        )
    if record.conditions.config != config:
        raise OptionError(
            f"{path} is of a network of another config than these weights; give a run that started "
            "from the same config"
        )
    (only,) = record.rounds
    return {"kept": only.kept, "config": only.chosen.config}


def _check_request(request: PruningRequest) -> None:
    targets = (request.speedup, request.latency_ms, request.like)
    given = sum(one is not None for one in targets)
    if given != 1:
        raise OptionError(
            f"expected one of --speedup, --target-latency and --like, found {given or 'none'}"
        )
    if request.speedup is not None and not 1.0 < request.speedup < math.inf:
        raise OptionError(f"--speedup must be above 1, found {request.speedup:g}")
    if request.latency_ms is not None and not 0.0 < request.latency_ms < math.inf:
        raise OptionError(f"--target-latency must be above 0 ms, found {request.latency_ms:g}")
    if request.rounds < 1:
        raise OptionError(f"--rounds must be at least 1, found {request.rounds}")
    if request.like is not None and (request.rounds > 1 or request.blocks):
        raise OptionError("--like determines blocks and widths; leave out --rounds and --blocks")
    if not request.max_seconds > 0.0:
        raise OptionError(f"--max-minutes must be above 0, found {request.max_seconds / 60:g}")
    if request.workers < 0:
        raise OptionError(f"--workers must not be negative, found {request.workers}")
    require_importance(request.importance)


def _task(request: PruningRequest, card: ModelCard) -> Task:
    if request.task is None and card.task == "unknown":
        raise OptionError(
            f"the card of {request.weights} has no task; give --task, for example low-light"
        )
    return find_task(request.task or card.task)


class PruningObserver(TrainingObserver, Protocol):
    """Callbacks while a pruning job runs."""

    def on_stage(self, what: str) -> None:
        """A stage begins."""


def prune_weights(
    given: LoadedPruning, observer: PruningObserver, clock: Callable[[], float] = time.monotonic
) -> PruneRecord:
    """Prune, or resume pruning, and write `OUT/pruned.safetensors` and `OUT/prune.json`.

    Args:
        given: From `load_pruning`.
        observer: Gets the progress.
        clock: Monotonic seconds; replaced in tests.

    Raises:
        MirnetEdgeError: The target cannot be reached, or images or an earlier run's files
            cannot be read.
        TrainingError: The loss or a weight diverged; the last state is kept.
    """
    run = _Run(given, observer, clock)
    while not run.record.finished:
        run.run_stage()  # at least one, however short the time
        if run.seconds_left <= 0.0:
            break
    return run.record


@dataclass
class _Run:
    """One run of the command, with its record so far."""

    given: LoadedPruning
    observer: PruningObserver
    clock: Callable[[], float]
    record: PruneRecord = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()
        self.record = self.given.record
        self._pairs: Pairs | None = None

    @property
    def seconds_left(self) -> float:
        return self.given.request.max_seconds - (self.clock() - self._started)

    def run_stage(self) -> None:
        """Prune the network of the next round, or distill the one pruned last."""
        rounds = self.record.rounds
        if rounds and not self._is_trained(rounds[-1]):
            self._distill(len(rounds))
        else:
            self._prune_round(len(rounds) + 1)

    def _is_trained(self, done: PruningRound) -> bool:
        return done.distilled is not None and done.distilled.steps == self.given.recipe.steps

    def _folder(self, number: int) -> Path:
        return self.given.request.out / f"round-{number}"

    def _trained_file(self, number: int) -> Path:
        return self._folder(number) / "training" / f"{self.given.task.name}.safetensors"

    def _prune_round(self, number: int) -> None:
        parent = self.given.network
        if number > 1:
            parent = checkpoints.load(self._trained_file(number - 1)).model
        pruned, found = (
            self._prune_like(parent) if self.given.like else self._search(parent, number)
        )
        self.observer.on_stage(f"validate the pruned network (round {number})")
        unpruned = self.record.unpruned or self._quality(self.given.network)
        self._record(unpruned=unpruned)  # before the round's folder is there
        target = self._folder(number) / "cut.safetensors"
        card = checkpoints.ModelCard(
            task=self.given.task.name, parent=self.given.sha256, license=self.given.card.license
        )
        checkpoints.save(pruned.network, target, card)
        done = PruningRound(
            goal=self.record.options.goal(number), kept=pruned.kept, attempts=pruned.attempts,
            best=pruned.best, reached=pruned.reached, cut=self._quality(pruned.network), **found,
        )  # fmt: skip
        self._record(
            rounds=[*self.record.rounds, done],
            pruned_size=measure_size(pruned.network, self.record.conditions.size),
        )

    def _search(self, parent: nn.Module, number: int) -> tuple[PrunedNetwork, dict[str, Any]]:
        options = self.record.options
        losses = self._losses(parent)
        unpruned_ms = self._unpruned_ms(parent, number)

        def make_prunable(kept: Kept, network: nn.Module) -> PrunableNetwork:
            scores = score_channels(network, options.importance, losses, options.seed)
            bases = bases_from_table(self._table(network, number), network, unpruned_ms)
            return PrunableNetwork(network, kept, scores, bases)

        whole = make_prunable(list_blocks(parent), parent)
        goal = options.goal(number)
        self.given.require_needed(goal.ms(unpruned_ms), unpruned_ms)
        candidates: list[PruningCandidate] = []
        depths: list[tuple[Kept, nn.Module]] = []
        if options.blocks:
            self.observer.on_stage("measure the importance of blocks")
            depths = list(drop_blocks(parent, losses))
        known = {str(whole.kept): whole}  # importance and tables are measured once for each depth

        def make_prunable_once(kept: Kept, network: nn.Module) -> PrunableNetwork:
            if str(kept) not in known:
                known[str(kept)] = make_prunable(kept, network)
            return known[str(kept)]

        def find(target: Target) -> PrunableNetwork:
            if not depths:
                return whole
            source, candidates[:] = choose_depth(depths, losses, target, make_prunable_once)
            return source

        pruned = prune_to_target(find, goal, unpruned_ms, self._timed)
        return pruned, {"candidates": candidates, "table_unpruned_ms": unpruned_ms}

    def _prune_like(self, parent: nn.Module) -> tuple[PrunedNetwork, dict[str, Any]]:
        """Prune to the widths of another run; only the channels are chosen here."""
        options = self.record.options
        kept, config = config_from_run(self.given)
        losses = self._losses(parent)
        short = keep_blocks(parent, kept)
        small = prune_channels(
            short, config, score_channels(short, options.importance, losses, options.seed)
        )
        only = time_pruned(small, None, self._timed)
        reached = only.pruned_ms <= only.unpruned_ms
        return PrunedNetwork(small, kept, [only], 0, reached), {
            "candidates": [],
            "table_unpruned_ms": None,
        }

    def _losses(self, network: nn.Module) -> list[Loss]:
        self.observer.on_stage("measure the importance of channels")
        recipe = self.given.recipe
        return make_losses(
            self.given.request.data, self.given.task, network,
            batch=recipe.batch, crop=recipe.crops[0], seed=self.record.options.seed,
        )  # fmt: skip

    def _unpruned_ms(self, parent: nn.Module, number: int) -> float:
        """Return the latency of the unpruned network that all tables of the run are scaled to."""
        first = self.record.rounds[0].table_unpruned_ms if self.record.rounds else None
        return first or self._table(parent, number).unpruned_ms

    def _table(self, network: nn.Module, number: int) -> LatencyTable:
        wanted = self.record.conditions
        conditions = timing_conditions(network, wanted.backend, wanted.size, wanted.round_to)
        path = locate_table(self.given.request.out, self.given.network, network, number)
        if path.exists():
            return read_table(path, conditions)
        self.observer.on_stage(f"measure the latency table {path.name}, once for this machine")
        return measure_table(
            network, self.given.network, conditions, path, on_stage=self.observer.on_stage
        )

    def _timed(self, network: nn.Module) -> tuple[float, float]:
        self.observer.on_stage("time the pruned network beside the unpruned one")
        pair = {"unpruned": self.given.network, "pruned": network.eval()}
        samples = time_networks(pair, self.record.conditions)
        return p50(samples["unpruned"]), p50(samples["pruned"])

    def _quality(self, network: nn.Module) -> PruningQuality:
        task = self.given.task
        if self._pairs is None:
            listed = list_pairs(self.given.request.data).val
            self._pairs = degrade_images(load_pairs(listed, degrade=task.degrade, scale=task.scale))
            require_measurable(self._pairs)
        psnr_db, gtmean_db, ssim, _ = validate(network.eval(), self._pairs)
        return PruningQuality(psnr_db=psnr_db, psnr_gtmean_db=gtmean_db, ssim=ssim)

    def _distill(self, number: int) -> None:
        request, options = self.given.request, self.record.options
        self.observer.on_stage(
            f"distill from the unpruned network (round {number} of {options.rounds})"
        )
        score = train_weights(
            TrainingRequest(
                data=request.data, out=self._folder(number) / "training", task=options.task,
                recipe=options.recipe, init=str(self._folder(number) / "cut.safetensors"),
                teacher=request.weights, teacher_key=request.weights_key,
                training={**options.training, "seed": options.seed},
                device=request.device, workers=request.workers, max_seconds=self.seconds_left,
            ),
            self.observer,
        ).score  # fmt: skip
        learned = PruningQuality(
            psnr_db=score.psnr_db, psnr_gtmean_db=score.psnr_gtmean_db, ssim=score.ssim,
            steps=score.step,
        )  # fmt: skip
        done = self.record.rounds[-1].model_copy(update={"distilled": learned})
        self._write_weights(number, done)
        finished = number == options.rounds and self._is_trained(done)
        self._record(rounds=[*self.record.rounds[:-1], done], finished=finished)

    def _write_weights(self, number: int, done: PruningRound) -> None:
        trained = checkpoints.load(self._trained_file(number))
        fast, options = done.chosen, self.record.options
        height, width = options.size
        card = trained.card.model_copy(
            update={
                "parent": self.given.sha256,
                "license": self.given.card.license,
                "figures": {**trained.card.figures, "speedup": round(fast.speedup, 3)},
                "note": f"pruned by {options.importance}; {fast.pruned_ms:.2f} ms where the "
                f"unpruned takes {fast.unpruned_ms:.2f} ms ({options.backend}, {width}x{height})",
            }
        )
        checkpoints.save(trained.model, self.given.request.out / WEIGHTS_FILE, card)

    def _record(self, **changes: Any) -> None:  # noqa: ANN401  # fields of several types
        self.record = self.record.model_copy(update=changes)
        self.record.write(self.given.request.out)


def locate_table(out: Path, unpruned: nn.Module, network: nn.Module, number: int) -> Path:
    """Return the file of the latency table of a round's network.

    Each depth and each round has its own, as its network to prune is another.
    """
    folder = out if number == 1 else out / f"round-{number}"
    blocks: list[Kept] = [list_blocks(one) for one in (unpruned, network)]
    if blocks[0] == blocks[1]:
        return folder / TABLE_FILE
    stem = Path(TABLE_FILE).stem
    return folder / f"{stem}-{len(blocks[1])}x{len(blocks[1][0])}.json"
