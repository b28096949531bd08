"""Prune until a latency target is measured: choose, prune, time, choose again."""

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
    from collections.abc import Iterator, Sequence

    from torch import nn

    from mirnet_edge.pruning.importance import Loss

    Kept = list[list[int]]
    """For each group which of its blocks stay."""
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from mirnet_edge.pruning.widths import BaseTiming

    Timed = Callable[[nn.Module], tuple[float, float]]
    """Return milliseconds per frame of the unpruned network and of this one, in one run."""
    Target = Callable[[Kept], float]
    """Return what the table is asked for of a depth, in milliseconds."""


def list_blocks(network: nn.Module) -> Kept:
    """Return the blocks of a network as they are."""
    config: Any = network.config
    return [list(range(config.blocks)) for _ in range(getattr(config, "groups", 1))]


def drop_blocks(network: nn.Module, losses: Sequence[Loss]) -> Iterator[tuple[Kept, nn.Module]]:
    """Yield the network, then ever shorter ones, with the blocks that stay.

    Each time the least useful block of every group goes, or the least useful group: whichever adds
    less to the loss for each block that goes. Nothing is trained.
    """
    kept, short = list_blocks(network), network
    yield kept, short
    worth = measure_block_importance(network, losses)
    now = compute_mean_loss(network, losses)
    while options := _options(kept, worth):
        networks = [keep_blocks(network, option) for option in options]
        values = [compute_mean_loss(one, losses) for one in networks]
        prices = [
            (value - now) / (_count(kept) - _count(option))
            for value, option in zip(values, options, strict=True)
        ]
        place = prices.index(min(prices))
        kept, short, now = options[place], networks[place], values[place]
        yield kept, short


def _options(kept: Kept, worth: list[list[float]]) -> list[Kept]:
    def useful(group: int) -> float:
        return sum(worth[group][block] for block in kept[group])

    left = [group for group, blocks in enumerate(kept) if blocks]
    options = []
    if len(kept[left[0]]) > 1:
        options.append(
            [_without_least(blocks, row) for blocks, row in zip(kept, worth, strict=True)]
        )
    if len(left) > 1:
        least = min(left, key=useful)
        options.append([[] if group == least else list(row) for group, row in enumerate(kept)])
    return options


def _without_least(blocks: list[int], worth: list[float]) -> list[int]:
    if not blocks:
        return []
    least = min(blocks, key=lambda block: worth[block])
    return [block for block in blocks if block != least]


def _count(kept: Kept) -> int:
    return sum(map(len, kept))


_ATTEMPTS = 3
# The table errs by a few percent. The first attempt takes it to err on the dear side: what is
# measured decides, and where the widths are few, missing the target by one percent in the table
# would cut half of the trunk.
_DOUBT = 1.05


@dataclass(frozen=True)
class PrunableNetwork:
    """A network to cut, and what its widths cost and are worth."""

    network: nn.Module
    kept: Kept
    """Which blocks of the network before are in it."""
    scores: Mapping[str, Tensor]
    bases: Sequence[BaseTiming]


@dataclass(frozen=True)
class PrunedNetwork:
    """A network that was cut and timed."""

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
    """Return the network at the goal, as measured.

    Where one is measured to be slower than the table promised, the table is asked for as much less
    of its depth, and the choice is made again; three attempts at most. If none reaches the goal,
    the fastest.

    Args:
        find: Gives the depth to cut, for what is asked of each.
        goal: What is to be reached.
        table_unpruned_ms: The unpruned network, in the table's terms.
        timed: Times a network end to end.

    Raises:
        OptionError: No width of the table is that fast.
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
        again = _again(find, target, source)
        if again[1].config == choice.config:
            break  # it was cut last
        source, choice = again
    best = len(attempts) - 1
    if not reached:
        best = max(range(len(attempts)), key=lambda place: attempts[place].speedup)
    return PrunedNetwork(*made[best], attempts, best, reached)


def compute_first_target_ms(goal: LatencyGoal, table_unpruned_ms: float) -> float:
    """Return what the table is asked for at first, in milliseconds: always less than it has."""
    wanted = goal.ms(table_unpruned_ms)
    return min(_DOUBT * wanted, (wanted + table_unpruned_ms) / 2.0)


def time_pruned(network: nn.Module, predicted_ms: float | None, timed: Timed) -> PruningAttempt:
    """Time a network and return what is recorded of it."""
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
    cuttable: Callable[[Kept, nn.Module], PrunableNetwork],
) -> tuple[PrunableNetwork, list[PruningCandidate]]:
    """Return the depth whose network at the target has the smallest loss, untrained.

    A depth whose loss is above that before anything else is cut is not cut: narrowing it does not
    help.

    Raises:
        OptionError: No depth can be made that fast.
    """
    candidates: list[PruningCandidate] = []
    best: tuple[float, PrunableNetwork] | None = None
    slow: OptionError | None = None
    for kept, network in depths:
        loss = compute_mean_loss(network, losses)
        cut_loss = None
        if best is None or loss < best[0]:
            source = cuttable(kept, network)
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
        raise slow or OptionError("there is no block; expected a network with blocks")
    return best[1], candidates


def _again(
    find: Callable[[Target], PrunableNetwork], target: Target, last: PrunableNetwork
) -> tuple[PrunableNetwork, WidthChoice]:
    """Return the choice at the targets, else the narrowest of the last depth."""
    try:
        source = find(target)
        choice = choose_widths(source.network, source.scores, source.bases, target(source.kept))
    except OptionError:
        return last, choose_fastest_widths(last.network, last.scores, last.bases)
    return source, choice
