"""From a target to a network that was measured to reach it: choose, cut, time, choose again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.checkpoints.families import plain_config
from mirnet_edge.compression.prune import pruned
from mirnet_edge.errors import OptionError
from mirnet_edge.pruning.choice import Choice, choose, narrowest
from mirnet_edge.pruning.record import Attempt, Candidate, Goal
from mirnet_edge.pruning.scoring import mean_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from mirnet_edge.compression.importance import Loss
    from mirnet_edge.pruning.choice import Base
    from mirnet_edge.pruning.shortening import Kept

    Timed = Callable[[nn.Module], tuple[float, float]]
    """Return milliseconds per frame of the unpruned network and of this one, in one run."""
    Target = Callable[[Kept], float]
    """Return what the table is asked for of a depth, in milliseconds."""

_ATTEMPTS = 3
# The table errs by a few percent. The first attempt takes it to err on the dear side: what is
# measured decides, and where the widths are few, missing the target by one percent in the table
# would cut half of the trunk.
_DOUBT = 1.05


@dataclass(frozen=True)
class Cuttable:
    """A network to cut, and what its widths cost and are worth."""

    network: nn.Module
    kept: Kept
    """Which blocks of the network before are in it."""
    scores: Mapping[str, Tensor]
    bases: Sequence[Base]


@dataclass(frozen=True)
class Cut:
    """A network that was cut and timed."""

    network: nn.Module
    kept: Kept
    attempts: list[Attempt]
    best: int
    reached: bool


def cut_to(
    find: Callable[[Target], Cuttable], goal: Goal, table_unpruned_ms: float, timed: Timed
) -> Cut:
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
    first = first_target_ms(goal, table_unpruned_ms)
    targets: dict[str, float] = {}

    def target(kept: Kept) -> float:
        return targets.get(str(kept), first)

    source = find(target)
    choice = choose(source.network, source.scores, source.bases, first)
    made: list[tuple[nn.Module, Kept]] = []
    attempts: list[Attempt] = []
    while True:
        made.append((pruned(source.network, choice.config, source.scores), source.kept))
        attempts.append(attempt(made[-1][0], choice.predicted_ms, timed))
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
    return Cut(*made[best], attempts, best, reached)


def first_target_ms(goal: Goal, table_unpruned_ms: float) -> float:
    """Return what the table is asked for at first, in milliseconds: always less than it has."""
    wanted = goal.ms(table_unpruned_ms)
    return min(_DOUBT * wanted, (wanted + table_unpruned_ms) / 2.0)


def attempt(network: nn.Module, predicted_ms: float | None, timed: Timed) -> Attempt:
    """Time a network and return what is recorded of it."""
    unpruned_ms, pruned_ms = timed(network)
    config: Any = network.config
    return Attempt(
        config=plain_config(config),
        predicted_ms=predicted_ms,
        unpruned_ms=unpruned_ms,
        pruned_ms=pruned_ms,
    )


def cheapest(
    depths: Iterable[tuple[Kept, nn.Module]],
    losses: Sequence[Loss],
    target: Target,
    cuttable: Callable[[Kept, nn.Module], Cuttable],
) -> tuple[Cuttable, list[Candidate]]:
    """Return the depth whose network at the target has the smallest loss, untrained.

    A depth whose loss is above that before anything else is cut is not cut: narrowing it does not
    help.

    Raises:
        OptionError: No depth can be made that fast.
    """
    candidates: list[Candidate] = []
    best: tuple[float, Cuttable] | None = None
    slow: OptionError | None = None
    for kept, network in depths:
        loss = mean_loss(network, losses)
        cut_loss = None
        if best is None or loss < best[0]:
            source = cuttable(kept, network)
            try:
                choice = choose(network, source.scores, source.bases, target(kept))
            except OptionError as error:
                slow = error
            else:
                cut_loss = mean_loss(pruned(network, choice.config, source.scores), losses)
                if best is None or cut_loss < best[0]:
                    best = (cut_loss, source)
        candidates.append(Candidate(kept=kept, loss=loss, cut_loss=cut_loss))
    if best is None:
        raise slow or OptionError("there is no block; expected a network with blocks")
    return best[1], candidates


def _again(
    find: Callable[[Target], Cuttable], target: Target, last: Cuttable
) -> tuple[Cuttable, Choice]:
    """Return the choice at the targets, else the narrowest of the last depth."""
    try:
        source = find(target)
        choice = choose(source.network, source.scores, source.bases, target(source.kept))
    except OptionError:
        return last, narrowest(last.network, last.scores, last.bases)
    return source, choice
