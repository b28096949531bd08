"""Choosing widths: the least important channels, counted by the milliseconds they win."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge.checkpoints.families import family_of
from mirnet_edge.compression.channels import axes_of, spaces_of
from mirnet_edge.errors import OptionError
from mirnet_edge.pruning.widths import Knob, with_widths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn


@dataclass(frozen=True)
class Base:
    """A width of the trunk, and what each free width does to it."""

    config: Any
    ms: float
    """Of the whole network, with all widths as they are."""
    saved_ms: Mapping[tuple[Knob, int], float]
    """What each narrower width saves, alone."""


@dataclass(frozen=True)
class Choice:
    """A config, and what the table promises."""

    config: Any
    predicted_ms: float
    removed: float
    """The importance of all that goes."""


def choose(
    network: nn.Module, scores: Mapping[str, Tensor], bases: Sequence[Base], target_ms: float
) -> Choice:
    """Return the config that the table puts at the target with the least importance removed.

    For each trunk the widths are narrowed one at a time, always the one that removes least
    importance for each millisecond it wins.

    Raises:
        OptionError: No width of the table is that fast.
    """
    choices = [_narrowed(network, scores, base, target_ms) for base in bases]
    reached = [choice for choice in choices if choice.predicted_ms <= target_ms]
    if not reached:
        least = min(choice.predicted_ms for choice in choices)
        raise OptionError(
            f"the target is {target_ms:.2f} ms; the narrowest network of these blocks takes "
            f"{least:.2f} ms. Ask for less, drop blocks with --blocks, or choose a "
            "smaller --round-to"
        )
    return min(reached, key=lambda choice: choice.removed)


def narrowest(network: nn.Module, scores: Mapping[str, Tensor], bases: Sequence[Base]) -> Choice:
    """Return the fastest config of the table."""
    choices = [_narrowed(network, scores, base, 0.0) for base in bases]
    return min(choices, key=lambda choice: choice.predicted_ms)


def removed_importance(network: nn.Module, config: Any, scores: Mapping[str, Tensor]) -> float:  # noqa: ANN401  # the families' configs have no type in common
    """Return the summed scores of the channels that a config has no place for."""
    with torch.device("meta"):
        narrow = family_of(network).network(config)
    spaces = spaces_of(narrow.state_dict(), axes_of(network))
    total = 0.0
    for name, row in scores.items():
        total += float(row.sort().values[: row.numel() - spaces[name].size].sum())
    return total


def _narrowed(
    network: nn.Module, scores: Mapping[str, Tensor], base: Base, target_ms: float
) -> Choice:
    whole = removed_importance(network, base.config, scores)
    removed = {
        (knob, value): removed_importance(network, with_widths(base.config, {knob: value}), scores)
        - whole
        for knob, value in base.saved_ms
    }
    chosen: dict[Knob, int] = {}
    now, lost = base.ms, whole
    while now > target_ms:
        steps = []
        for (knob, value), saved in base.saved_ms.items():
            former = (knob, chosen[knob]) if knob in chosen else None
            if former and value >= former[1]:
                continue
            won = saved - (base.saved_ms[former] if former else 0.0)
            price = removed[knob, value] - (removed[former] if former else 0.0)
            if won > 0.0:
                steps.append((max(price, 0.0) / won, knob, value, won, price))
        if not steps:
            break
        _, knob, value, won, price = min(steps, key=lambda step: step[0])
        chosen[knob] = value
        now, lost = now - won, lost + price
    return Choice(with_widths(base.config, chosen), now, lost)
