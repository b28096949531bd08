"""Prune to a latency target: choose depth and widths, prune, measure, correct, repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.checkpoints.families import plain_config
from mirnet_edge.errors import OptionError
from mirnet_edge.pruning.importance import compute_mean_loss, measure_block_importance
from mirnet_edge.pruning.record import LatencyGoal, PruningAttempt, PruningCandidate
from mirnet_edge.pruning.widths import (
    WidthChoice,
    choose_fastest_widths,
    choose_widths,
    keep_blocks,
    prune_channels,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from mirnet_edge.pruning.importance import Loss
    from mirnet_edge.pruning.widths import BaseTiming

    Kept = list[list[int]]
    """For each recursive residual group, which of its blocks stay."""
    Timed = Callable[[nn.Module], tuple[float, float]]
    """Return milliseconds per frame of the unpruned network and of this one, interleaved."""
    Target = Callable[[Kept], float]
    """Return the target of a depth in the latency table, in milliseconds."""


def list_blocks(network: nn.Module) -> Kept:
    """Return all blocks of a network."""
    config: Any = network.config
    return [list(range(config.blocks)) for _ in range(getattr(config, "groups", 1))]


def drop_blocks(network: nn.Module, losses: Sequence[Loss]) -> Iterator[tuple[Kept, nn.Module]]:
    """Yield the network, then ever shorter ones, with their remaining blocks.

    Each step drops the least important block of every group, or the least important group:
    whichever raises the loss less per dropped block. Nothing is trained.
    """
    kept, short = list_blocks(network), network
    yield kept, short
    importance = measure_block_importance(network, losses)
    now = compute_mean_loss(network, losses)
    while options := _list_options(kept, importance):
        networks = [keep_blocks(network, option) for option in options]
        values = [compute_mean_loss(one, losses) for one in networks]
        rises = [
            (value - now) / (_count(kept) - _count(option))
            for value, option in zip(values, options, strict=True)
        ]
        place = rises.index(min(rises))
        kept, short, now = options[place], networks[place], values[place]
        yield kept, short


def _list_options(kept: Kept, importance: list[list[float]]) -> list[Kept]:
    def sum_importance(group: int) -> float:
        return sum(importance[group][block] for block in kept[group])

    left = [group for group, blocks in enumerate(kept) if blocks]
    options = []
    if len(kept[left[0]]) > 1:
        options.append(
            [_drop_least(blocks, row) for blocks, row in zip(kept, importance, strict=True)]
        )
    if len(left) > 1:
        least = min(left, key=sum_importance)
        options.append([[] if group == least else list(row) for group, row in enumerate(kept)])
    return options


def _drop_least(blocks: list[int], importance: list[float]) -> list[int]:
    if not blocks:
        return []
    least = min(blocks, key=lambda block: importance[block])
    return [block for block in blocks if block != least]


def _count(kept: Kept) -> int:
    return sum(map(len, kept))


_ATTEMPTS = 3
# The table errs by a few percent. The first attempt assumes that it predicts too much time: the
# measurement decides, and where there are few widths, missing the target by one percent in the
# table would remove half of the trunk.
_TABLE_TOLERANCE = 1.05


@dataclass(frozen=True)
class PrunableNetwork:
    """A network to prune, with the importance of its channels and the latency of its widths."""

    network: nn.Module
    kept: Kept
    """Which blocks of the unshortened network it has."""
    scores: Mapping[str, Tensor]
    bases: Sequence[BaseTiming]


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned network, with its measured latency."""

    network: nn.Module
    kept: Kept
    attempts: list[PruningAttempt]
    best: int
    reached: bool


def prune_to_target(
    find: Callable[[Target], PrunableNetwork],
    goal: LatencyGoal,
    table_unpruned_ms: float,
    timed: Timed,
) -> PrunedNetwork:
    """Return the pruned network whose measured latency reaches the goal.

    Where one is slower than predicted, the target of its depth in the latency table is lowered in
    proportion and the widths are chosen again, in at most three attempts. If none reaches the
    goal, the fastest is returned.

    Args:
        find: Returns the depth to prune, given the target of each.
        goal: The latency to reach.
        table_unpruned_ms: Latency of the unpruned network in the latency table.
        timed: Measures a network end to end.

    Raises:
        OptionError: No config of the latency table is that fast.
    """
    first = compute_first_target_ms(goal, table_unpruned_ms)
    targets: dict[str, float] = {}

    def target(kept: Kept) -> float:
        return targets.get(str(kept), first)

    source = find(target)
    choice = choose_widths(source.network, source.scores, source.bases, first)
    made: list[tuple[nn.Module, Kept]] = []
    attempts: list[PruningAttempt] = []
    while True:
        made.append((prune_channels(source.network, choice.config, source.scores), source.kept))
        attempts.append(time_pruned(made[-1][0], choice.predicted_ms, timed))
        allowed = goal.ms(attempts[-1].unpruned_ms)
        reached = attempts[-1].pruned_ms <= allowed
        if reached or len(attempts) == _ATTEMPTS:
            break
        targets[str(source.kept)] = choice.predicted_ms * allowed / attempts[-1].pruned_ms
        again = _choose_again(find, target, source)
        if again[1].config == choice.config:
            break  # it was the last attempt
        source, choice = again
    best = len(attempts) - 1
    if not reached:
        best = max(range(len(attempts)), key=lambda place: attempts[place].speedup)
    return PrunedNetwork(*made[best], attempts, best, reached)


def compute_first_target_ms(goal: LatencyGoal, table_unpruned_ms: float) -> float:
    """Return the first target in the latency table, in milliseconds: below the unpruned time."""
    wanted = goal.ms(table_unpruned_ms)
    return min(_TABLE_TOLERANCE * wanted, (wanted + table_unpruned_ms) / 2.0)


def time_pruned(network: nn.Module, predicted_ms: float | None, timed: Timed) -> PruningAttempt:
    """Return the measured latency of a pruned network beside the unpruned one."""
    unpruned_ms, pruned_ms = timed(network)
    config: Any = network.config
    return PruningAttempt(
        config=plain_config(config),
        predicted_ms=predicted_ms,
        unpruned_ms=unpruned_ms,
        pruned_ms=pruned_ms,
    )


def choose_depth(
    depths: Iterable[tuple[Kept, nn.Module]],
    losses: Sequence[Loss],
    target: Target,
    make_prunable: Callable[[Kept, nn.Module], PrunableNetwork],
) -> tuple[PrunableNetwork, list[PruningCandidate]]:
    """Return the depth whose network pruned to the target has the smallest loss, untrained.

    A depth that has a higher loss before its widths are pruned is skipped: pruning does not lower
    the loss.

    Raises:
        OptionError: No depth reaches the target.
    """
    candidates: list[PruningCandidate] = []
    best: tuple[float, PrunableNetwork] | None = None
    slow: OptionError | None = None
    for kept, network in depths:
        loss = compute_mean_loss(network, losses)
        cut_loss = None
        if best is None or loss < best[0]:
            source = make_prunable(kept, network)
            try:
                choice = choose_widths(network, source.scores, source.bases, target(kept))
            except OptionError as error:
                slow = error
            else:
                cut_loss = compute_mean_loss(
                    prune_channels(network, choice.config, source.scores), losses
                )
                if best is None or cut_loss < best[0]:
                    best = (cut_loss, source)
        candidates.append(PruningCandidate(kept=kept, loss=loss, cut_loss=cut_loss))
    if best is None:
        raise slow or OptionError(
            "expected a network with blocks, found none; choose other weights"
        )
    return best[1], candidates


def _choose_again(
    find: Callable[[Target], PrunableNetwork], target: Target, last: PrunableNetwork
) -> tuple[PrunableNetwork, WidthChoice]:
    """Return the choice at the new targets, else the fastest widths of the last depth."""
    try:
        source = find(target)
        choice = choose_widths(source.network, source.scores, source.bases, target(source.kept))
    except OptionError:
        return last, choose_fastest_widths(last.network, last.scores, last.bases)
    return source, choice
