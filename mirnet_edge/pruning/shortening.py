"""Which blocks go first: networks that get shorter by what is least useful."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirnet_edge.compression.importance import block_usefulness
from mirnet_edge.compression.prune import without_blocks
from mirnet_edge.pruning.scoring import mean_loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from mirnet_edge.compression.importance import Loss

    Kept = list[list[int]]
    """For each group which of its blocks stay."""


def all_blocks(network: nn.Module) -> Kept:
    """Return the blocks of a network as they are."""
    config: Any = network.config
    return [list(range(config.blocks)) for _ in range(getattr(config, "groups", 1))]


def shortened(network: nn.Module, losses: Sequence[Loss]) -> Iterator[tuple[Kept, nn.Module]]:
    """Yield the network, then ever shorter ones, with the blocks that stay.

    Each time the least useful block of every group goes, or the least useful group: whichever adds
    less to the loss for each block that goes. Nothing is trained.
    """
    kept, short = all_blocks(network), network
    yield kept, short
    worth = block_usefulness(network, losses)
    now = mean_loss(network, losses)
    while options := _options(kept, worth):
        networks = [without_blocks(network, option) for option in options]
        values = [mean_loss(one, losses) for one in networks]
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
