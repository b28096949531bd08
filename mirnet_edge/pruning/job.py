"""Prune weights to a measured speed: from a request to a file with its record.

table -> depth and widths -> cut -> timed end to end -> trained from the unpruned, once per round.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mirnet_edge import checkpoints
from mirnet_edge.compression.prune import pruned, without_blocks
from mirnet_edge.pruning.cutting import Cut, Cuttable, attempt, cheapest, cut_to
from mirnet_edge.pruning.record import TABLE_FILE, WEIGHTS_FILE, PruneRecord, Quality, Round
from mirnet_edge.pruning.request import config_like, size_of
from mirnet_edge.pruning.scoring import losses_on, scores_of
from mirnet_edge.pruning.shortening import all_blocks, shortened
from mirnet_edge.pruning.table import conditions_of, read_table
from mirnet_edge.pruning.timing import bases_from, measure_table, time_networks
from mirnet_edge.runtime.measure import p50
from mirnet_edge.training.job import Observer as TrainingObserver
from mirnet_edge.training.job import train_weights
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.pairs import load_pairs, made_bad, require_measurable
from mirnet_edge.training.request import Request as TrainingRequest
from mirnet_edge.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.compression.importance import Loss
    from mirnet_edge.pruning.cutting import Target
    from mirnet_edge.pruning.record import Candidate
    from mirnet_edge.pruning.request import Opened
    from mirnet_edge.pruning.shortening import Kept
    from mirnet_edge.pruning.table import LatencyTable
    from mirnet_edge.training.pairs import Pairs


class Observer(TrainingObserver, Protocol):
    """Who is told how far the job is."""

    def stage(self, what: str) -> None:
        """The job begins with this."""


def prune_weights(
    given: Opened, observer: Observer, clock: Callable[[], float] = time.monotonic
) -> PruneRecord:
    """Prune, or go on pruning, and write `OUT/pruned.safetensors` and `OUT/prune.json`.

    Args:
        given: Of `request.opened`.
        observer: Told how far it is.
        clock: Seconds, rising; replaced in tests.

    Raises:
        MirnetEdgeError: The target cannot be reached, or pictures or an earlier run's files
            cannot be read.
        TrainingError: The loss is no longer a number; the last state is kept.
    """
    run = _Run(given, observer, clock)
    while not run.record.finished:
        run.one_stage()  # at least one, however short the time
        if run.seconds_left <= 0.0:
            break
    return run.record


@dataclass
class _Run:
    """One run of the command: what it has, and what is done of it."""

    given: Opened
    observer: Observer
    clock: Callable[[], float]
    record: PruneRecord = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()
        self.record = self.given.record
        self._pairs: Pairs | None = None

    @property
    def seconds_left(self) -> float:
        return self.given.request.max_seconds - (self.clock() - self._started)

    def one_stage(self) -> None:
        """Cut the network of the next round, or train what was cut last."""
        rounds = self.record.rounds
        if rounds and not self._is_trained(rounds[-1]):
            self._train(len(rounds))
        else:
            self._cut(len(rounds) + 1)

    def _is_trained(self, done: Round) -> bool:
        return done.distilled is not None and done.distilled.steps == self.given.recipe.steps

    def _folder(self, number: int) -> Path:
        return self.given.request.out / f"round-{number}"

    def _trained_file(self, number: int) -> Path:
        return self._folder(number) / "training" / f"{self.given.task.name}.safetensors"

    def _cut(self, number: int) -> None:
        parent = self.given.network
        if number > 1:
            parent = checkpoints.load(self._trained_file(number - 1)).model
        cut, found = self._like(parent) if self.given.like else self._chosen(parent, number)
        self.observer.stage(f"validate what was cut (round {number})")
        unpruned = self.record.unpruned or self._quality(self.given.network)
        self._keep(unpruned=unpruned)  # before the round's folder is there
        target = self._folder(number) / "cut.safetensors"
        card = checkpoints.Card(
            task=self.given.task.name, parent=self.given.sha256, licence=self.given.card.licence
        )
        checkpoints.save(cut.network, target, card)
        done = Round(
            goal=self.record.asked.goal(number), kept=cut.kept, attempts=cut.attempts,
            best=cut.best, reached=cut.reached, cut=self._quality(cut.network), **found,
        )  # fmt: skip
        self._keep(
            rounds=[*self.record.rounds, done],
            pruned_size=size_of(cut.network, self.record.conditions.size),
        )

    def _chosen(self, parent: nn.Module, number: int) -> tuple[Cut, dict[str, Any]]:
        asked = self.record.asked
        losses = self._losses(parent)
        unpruned_ms = self._unpruned_ms(parent, number)

        def cuttable(kept: Kept, network: nn.Module) -> Cuttable:
            scores = scores_of(network, asked.importance, losses, asked.seed)
            bases = bases_from(self._table(network, number), network, unpruned_ms)
            return Cuttable(network, kept, scores, bases)

        whole = cuttable(all_blocks(parent), parent)
        goal = asked.goal(number)
        self.given.require_needed(goal.ms(unpruned_ms), unpruned_ms)
        candidates: list[Candidate] = []
        depths: list[tuple[Kept, nn.Module]] = []
        if asked.blocks:
            self.observer.stage("measure what blocks are worth")
            depths = list(shortened(parent, losses))
        known = {str(whole.kept): whole}  # scores and tables are taken once for each depth

        def remembered(kept: Kept, network: nn.Module) -> Cuttable:
            if str(kept) not in known:
                known[str(kept)] = cuttable(kept, network)
            return known[str(kept)]

        def find(target: Target) -> Cuttable:
            if not depths:
                return whole
            source, candidates[:] = cheapest(depths, losses, target, remembered)
            return source

        cut = cut_to(find, goal, unpruned_ms, self._timed)
        return cut, {"candidates": candidates, "table_unpruned_ms": unpruned_ms}

    def _like(self, parent: nn.Module) -> tuple[Cut, dict[str, Any]]:
        """Cut to the widths of another run; only which channels go is decided here."""
        asked = self.record.asked
        kept, config = config_like(self.given)
        losses = self._losses(parent)
        short = without_blocks(parent, kept)
        small = pruned(short, config, scores_of(short, asked.importance, losses, asked.seed))
        only = attempt(small, None, self._timed)
        reached = only.pruned_ms <= only.unpruned_ms
        return Cut(small, kept, [only], 0, reached), {"candidates": [], "table_unpruned_ms": None}

    def _losses(self, network: nn.Module) -> list[Loss]:
        self.observer.stage("measure what channels are worth")
        recipe = self.given.recipe
        return losses_on(
            self.given.request.data, self.given.task, network,
            batch=recipe.batch, crop=recipe.crops[0], seed=self.record.asked.seed,
        )  # fmt: skip

    def _unpruned_ms(self, parent: nn.Module, number: int) -> float:
        """Return what all tables of the run take the unpruned network to need."""
        first = self.record.rounds[0].table_unpruned_ms if self.record.rounds else None
        return first or self._table(parent, number).unpruned_ms

    def _table(self, network: nn.Module, number: int) -> LatencyTable:
        wanted = self.record.conditions
        conditions = conditions_of(network, wanted.backend, wanted.size, wanted.round_to)
        path = table_file(self.given.request.out, self.given.network, network, number)
        if path.exists():
            return read_table(path, conditions)
        self.observer.stage(f"measure the latency table {path.name}, once for this machine")
        return measure_table(
            network, self.given.network, conditions, path, on_stage=self.observer.stage
        )

    def _timed(self, network: nn.Module) -> tuple[float, float]:
        self.observer.stage("time what was cut beside the unpruned")
        pair = {"unpruned": self.given.network, "pruned": network.eval()}
        samples = time_networks(pair, self.record.conditions)
        return p50(samples["unpruned"]), p50(samples["pruned"])

    def _quality(self, network: nn.Module) -> Quality:
        task = self.given.task
        if self._pairs is None:
            listed = list_pairs(self.given.request.data).val
            self._pairs = made_bad(load_pairs(listed, degrade=task.degrade, scale=task.scale))
            require_measurable(self._pairs)
        psnr_db, gtmean_db, ssim, _ = validate(network.eval(), self._pairs)
        return Quality(psnr_db=psnr_db, psnr_gtmean_db=gtmean_db, ssim=ssim)

    def _train(self, number: int) -> None:
        request, asked = self.given.request, self.record.asked
        self.observer.stage(f"learn from the unpruned (round {number} of {asked.rounds})")
        score = train_weights(
            TrainingRequest(
                data=request.data, out=self._folder(number) / "training", task=asked.task,
                recipe=asked.recipe, init=str(self._folder(number) / "cut.safetensors"),
                teacher=request.weights, training={**asked.training, "seed": asked.seed},
                device=request.device, workers=request.workers, max_seconds=self.seconds_left,
            ),
            self.observer,
        ).score  # fmt: skip
        learned = Quality(
            psnr_db=score.psnr_db, psnr_gtmean_db=score.psnr_gtmean_db, ssim=score.ssim,
            steps=score.step,
        )  # fmt: skip
        done = self.record.rounds[-1].model_copy(update={"distilled": learned})
        self._write_weights(number, done)
        finished = number == asked.rounds and self._is_trained(done)
        self._keep(rounds=[*self.record.rounds[:-1], done], finished=finished)

    def _write_weights(self, number: int, done: Round) -> None:
        trained = checkpoints.load(self._trained_file(number))
        fast, asked = done.chosen, self.record.asked
        height, width = asked.size
        card = trained.card.model_copy(
            update={
                "parent": self.given.sha256,
                "licence": self.given.card.licence,
                "figures": {**trained.card.figures, "speedup": round(fast.speedup, 3)},
                "note": f"pruned by {asked.importance}; {fast.pruned_ms:.2f} ms where the unpruned "
                f"takes {fast.unpruned_ms:.2f} ms ({asked.backend}, {width}x{height})",
            }
        )
        checkpoints.save(trained.model, self.given.request.out / WEIGHTS_FILE, card)

    def _keep(self, **news: Any) -> None:  # noqa: ANN401  # fields of several types
        self.record = self.record.model_copy(update=news)
        self.record.write(self.given.request.out)


def table_file(out: Path, unpruned: nn.Module, network: nn.Module, number: int) -> Path:
    """Return where the latency table of a network of a round lies.

    Each depth has its own, and so has each round: what is cut there is another network.
    """
    folder = out if number == 1 else out / f"round-{number}"
    blocks: list[Kept] = [all_blocks(one) for one in (unpruned, network)]
    if blocks[0] == blocks[1]:
        return folder / TABLE_FILE
    stem = Path(TABLE_FILE).stem
    return folder / f"{stem}-{len(blocks[1])}x{len(blocks[1][0])}.json"
