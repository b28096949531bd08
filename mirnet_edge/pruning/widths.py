"""Network widths: choose narrower ones by importance and latency, and prune channels to them.

A pruned network is a network of the chosen config with the most important channels' weights. Its
config follows from its tensors, so it loads like any other.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge.checkpoints.families import family_of
from mirnet_edge.errors import OptionError
from mirnet_edge.pruning.channels import FIXED_SUFFIX, find_channel_axes, find_channel_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from mirnet_edge.pruning.channels import Axes, ChannelGroup


def prune_channels(network: nn.Module, config: Any, scores: Mapping[str, Tensor]) -> nn.Module:  # noqa: ANN401  # the families' configs have no type in common
    """Return a network of CONFIG with the most important channels of NETWORK, in their order.

    Shared tensors stay shared. With NETWORK's own config it is a copy.

    Args:
        network: A network of a known family; left unchanged.
        config: A config of its family with equally many blocks, and nowhere more channels.
        scores: The importance of every channel, by channel group (`importance.score_channels`).

    Raises:
        OptionError: The config has more channels than the network, other blocks, or a number of
            channels that grouped convolutions cannot have.
    """
    axes = find_channel_axes(network)
    narrow = family_of(network).network(config)
    if len(narrow.state_dict()) != len(network.state_dict()):
        raise OptionError(
            f"expected a config with the blocks of {network.config}, found {config}; drop blocks "
            "first"
        )
    old = find_channel_groups(network.state_dict(), axes)
    new = find_channel_groups(narrow.state_dict(), axes)
    kept = {name: _most_important(name, old[name], new[name].size, scores[name]) for name in old}
    values = narrow.state_dict()
    for (key, tensor), target in zip(network.state_dict().items(), values, strict=True):
        if not key.endswith(FIXED_SUFFIX):
            values[target] = _cut_axis(tensor, axes[key], kept, old)
    narrow.load_state_dict(values)
    return narrow.train(network.training)


def keep_blocks(network: nn.Module, kept: Sequence[Sequence[int]]) -> nn.Module:
    """Return the network with the listed multi-scale blocks only, and the groups that have any.

    Args:
        network: A network of a known family; left unchanged.
        kept: For each recursive residual group, in order, which of its blocks stay; equally many
            in each, or none. A MIRNetEdge is one group.

    Raises:
        OptionError: No block would stay, or unequal numbers of them.
    """
    counts = {len(blocks) for blocks in kept if blocks}
    if len(counts) != 1:
        raise OptionError(
            f"expected equally many blocks in each group that stays, found {list(map(list, kept))}"
        )
    (count,) = counts
    config: Any = network.config
    groups = [group for group, blocks in enumerate(kept) if blocks]
    changes: dict[str, Any] = {"blocks": count}
    if hasattr(config, "groups"):
        changes["groups"] = len(groups)
    if hasattr(config, "conv_groups"):
        changes["conv_groups"] = tuple(config.conv_groups[group] for group in groups)
    short = family_of(network).network(dataclasses.replace(config, **changes))
    former = network.state_dict()
    short.load_state_dict(
        {key: former[_former_key(key, kept, groups, config.blocks)] for key in short.state_dict()}
    )
    return short.train(network.training)


def _former_key(key: str, kept: Sequence[Sequence[int]], groups: Sequence[int], blocks: int) -> str:
    """Return the key that a tensor of a shortened network had before."""
    if found := re.match(r"blocks\.(\d+)\.", key):
        return f"blocks.{kept[0][int(found[1])]}.{key[found.end() :]}"
    if found := re.match(r"body\.(\d+)\.conv_first\.", key):  # of a Keras MIRNet's group
        return f"body.{groups[int(found[1])]}.conv_first.{key[found.end() :]}"
    found = re.match(r"body\.(\d+)\.body\.(\d+)\.", key)
    if not found:
        return key
    group, place = groups[int(found[1])], int(found[2])
    # the group's own convolution comes after its blocks
    stayed = kept[group]
    former = stayed[place] if place < len(stayed) else blocks
    return f"body.{group}.body.{former}.{key[found.end() :]}"


def _most_important(name: str, group: ChannelGroup, count: int, scores: Tensor) -> Tensor:
    """Return the indices of the channels to keep, ascending; equally many in each part."""
    parts = group.parts
    if not 0 < count <= group.size or count % parts:
        of = f" in {parts} equal parts" if parts > 1 else ""
        raise OptionError(
            f"{name} has {group.size} channels{of}; expected to keep between {parts} and as many, "
            f"found {count}"
        )
    rows = scores.reshape(parts, -1)
    best = rows.argsort(dim=1, descending=True, stable=True)[:, : count // parts]
    offsets = torch.arange(parts)[:, None] * rows.shape[1]
    return (best + offsets).flatten().sort().values


def _cut_axis(
    tensor: Tensor, axes: Axes, kept: Mapping[str, Tensor], old: Mapping[str, ChannelGroup]
) -> Tensor:
    for place, axis in enumerate(axes):
        if axis is None:
            continue
        indices, size = kept[axis.group], old[axis.group].size
        if axis.parts > 1:
            tensor = _cut_grouped(tensor, indices, axis.parts)
            continue
        repeated = torch.cat([indices + copy * size for copy in range(axis.copies)])
        tensor = tensor.index_select(place, repeated)
    return tensor.clone()


def _cut_grouped(tensor: Tensor, indices: Tensor, parts: int) -> Tensor:
    """Return the tensor pruned along its grouped input axis; its outputs are pruned already."""
    within = indices.reshape(parts, -1) % tensor.shape[1]
    rows = tensor.chunk(parts, dim=0)
    return torch.cat([row.index_select(1, own) for row, own in zip(rows, within, strict=True)])


_INNER = ("unit_widths", "down_widths", "up_widths")
_FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.125)  # of a width; each needs one measurement


@dataclass(frozen=True)
class FreeWidth:
    """A width that can be chosen independently of the others."""

    field: str
    index: int
    values: tuple[int, ...]
    """Descending; the first is the present width."""

    @property
    def name(self) -> str:
        """Return its name in latency tables."""
        return f"{self.field}.{self.index}"


def list_base_configs(config: Any, round_to: int) -> list[Any]:  # noqa: ANN401  # the families' configs have no type in common
    """Return the configs of every width of the trunk, the given one first.

    For a MIRNetEdge only the given one: its three streams are independent, hence free widths.
    """
    bases = [config]
    if isinstance(config.channels, tuple):
        return bases
    for channels in range((config.channels - 1) // round_to * round_to, 0, -round_to):
        try:
            plain = dataclasses.replace(config, channels=channels, **dict.fromkeys(_fields(config)))
            bases.append(_as_narrow(plain, config))
        except OptionError:  # too narrow, or not divisible by grouped convolutions
            continue
    return bases


def list_free_widths(config: Any, round_to: int) -> list[FreeWidth]:  # noqa: ANN401  # as above
    """Return the free widths of networks with that trunk."""
    named = {field: _inner(config, field) for field in _fields(config)}
    if isinstance(config.channels, tuple):
        named = {"channels": config.channels}
    free = []
    for field, widths in named.items():
        for index, width in enumerate(widths):
            rounded = {
                max(round_to, int(width * fraction) // round_to * round_to)
                for fraction in _FRACTIONS
            }
            values = [value for value in rounded if value < width]
            kept = [
                value for value in values if _is_legal(config, FreeWidth(field, index, ()), value)
            ]
            free.append(FreeWidth(field, index, (width, *sorted(kept, reverse=True))))
    return free


def replace_widths(config: Any, chosen: Mapping[FreeWidth, int]) -> Any:  # noqa: ANN401  # as above
    """Return the config with the chosen widths.

    Raises:
        OptionError: There is no network of these widths.
    """
    changes: dict[str, list[int]] = {}
    for width, value in chosen.items():
        own = list(config.channels if width.field == "channels" else _inner(config, width.field))
        changes.setdefault(width.field, own)[width.index] = value
    return dataclasses.replace(
        config, **{field: tuple(widths) for field, widths in changes.items()}
    )


def _is_legal(config: Any, width: FreeWidth, value: int) -> bool:  # noqa: ANN401  # as above
    try:
        replace_widths(config, {width: value})
    except OptionError:
        return False
    return True


def _fields(config: Any) -> list[str]:  # noqa: ANN401  # as above
    return [field for field in _INNER if hasattr(config, field)]


def _inner(config: Any, field: str) -> tuple[int, ...]:  # noqa: ANN401  # as above
    widths: tuple[int, ...] = config.widths
    usual = {"unit_widths": widths, "down_widths": widths[:-1], "up_widths": widths[1:]}
    given: tuple[int, ...] | None = getattr(config, field)
    return given or usual[field]


def _as_narrow(plain: Any, config: Any) -> Any:  # noqa: ANN401  # as above
    """Return a narrower trunk whose inner widths are at most the present ones."""
    return dataclasses.replace(
        plain,
        **{
            field: tuple(map(min, _inner(plain, field), _inner(config, field)))
            for field in _fields(plain)
        },
    )


@dataclass(frozen=True)
class BaseTiming:
    """The latency of one trunk width, and how much each free width saves."""

    config: Any
    ms: float
    """Latency of the whole network, before narrowing a free width."""
    saved_ms: Mapping[tuple[FreeWidth, int], float]
    """Milliseconds that each narrower width saves, alone."""


@dataclass(frozen=True)
class WidthChoice:
    """A config, with its predicted latency."""

    config: Any
    predicted_ms: float
    removed: float
    """The summed importance of the removed channels."""


def choose_widths(
    network: nn.Module, scores: Mapping[str, Tensor], bases: Sequence[BaseTiming], target_ms: float
) -> WidthChoice:
    """Return the config predicted to reach the target with the least importance removed.

    Greedy: for each trunk the free widths are narrowed one at a time, always the one that removes
    the least importance per millisecond saved.

    Raises:
        OptionError: No config of the latency table is that fast.
    """
    choices = [_narrow(network, scores, base, target_ms) for base in bases]
    reached = [choice for choice in choices if choice.predicted_ms <= target_ms]
    if not reached:
        least = min(choice.predicted_ms for choice in choices)
        raise OptionError(
            f"the target is {target_ms:.2f} ms; the narrowest network of these blocks takes "
            f"{least:.2f} ms. Choose a higher target, drop blocks with --blocks, or choose a "
            "smaller --round-to"
        )
    return min(reached, key=lambda choice: choice.removed)


def choose_fastest_widths(
    network: nn.Module, scores: Mapping[str, Tensor], bases: Sequence[BaseTiming]
) -> WidthChoice:
    """Return the fastest config of the latency table."""
    choices = [_narrow(network, scores, base, 0.0) for base in bases]
    return min(choices, key=lambda choice: choice.predicted_ms)


def sum_removed_importance(network: nn.Module, config: Any, scores: Mapping[str, Tensor]) -> float:  # noqa: ANN401  # the families' configs have no type in common
    """Return the summed importance of the channels that a config removes."""
    with torch.device("meta"):
        narrow = family_of(network).network(config)
    groups = find_channel_groups(narrow.state_dict(), find_channel_axes(network))
    total = 0.0
    for name, row in scores.items():
        total += float(row.sort().values[: row.numel() - groups[name].size].sum())
    return total


def _narrow(
    network: nn.Module, scores: Mapping[str, Tensor], base: BaseTiming, target_ms: float
) -> WidthChoice:
    whole = sum_removed_importance(network, base.config, scores)
    removed = {
        (width, value): sum_removed_importance(
            network, replace_widths(base.config, {width: value}), scores
        )
        - whole
        for width, value in base.saved_ms
    }
    chosen: dict[FreeWidth, int] = {}
    now, total = base.ms, whole
    while now > target_ms:
        steps = []
        for (width, value), saved in base.saved_ms.items():
            former = (width, chosen[width]) if width in chosen else None
            if former and value >= former[1]:
                continue
            gain = saved - (base.saved_ms[former] if former else 0.0)
            loss = removed[width, value] - (removed[former] if former else 0.0)
            if gain > 0.0:
                steps.append((max(loss, 0.0) / gain, width, value, gain, loss))
        if not steps:
            break
        _, width, value, gain, loss = min(steps, key=lambda step: step[0])
        chosen[width] = value
        now, total = now - gain, total + loss
    return WidthChoice(replace_widths(base.config, chosen), now, total)
