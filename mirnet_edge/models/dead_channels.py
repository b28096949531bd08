"""Channels that never fire: their recycling in training, and their exact removal after it.

Training kills channels: the input of their ReLU is negative on every image ("dying ReLU", Lu et
al., "Dying ReLU and Initialization", 2020), and gradients cannot bring them back. Between two
convolutions such a channel costs as much as any other and contributes nothing.

`recycle_dead_channels` gives them new random weights while training (Sokar et al., "The Dormant
Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023).

`silence_dead_channels` finds them on images and sets what makes them to zero, in the weights
themselves, and on request those that contribute least; `drop_silent_channels`, a step to the
inference form, leaves out what is zero, which needs no images and is exact. Figures:
docs/decisions/035-dead-channels.md and 041-denoising-shape.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_KEPT_MULTIPLE = 8
"""Widths that kernels of processors like; dead channels fill the last group up."""


def silence_dead_channels(
    network: nn.Module, batches: Iterable[Tensor], *, fraction: float = 0.0
) -> dict[str, int]:
    """Zero the weights of channels that are 0 after their ReLU on all images, in place.

    So many dead channels stay as they are that each layer's width remains a multiple of 8.

    Args:
        network: Any; of its layers only convolution, ReLU, convolution in a sequence are looked at.
        batches: Images of all kinds that it will see, (N, 3, H, W) in [0, 1].
        fraction: Zero also the channels that contribute least: together at most this fraction of
            their layer's sum of mean activation times magnitude of the weights that read it. The
            network changes a little then; fine-tuning makes up for it.

    Returns:
        How many channels were silenced, by the name of the sequence.
    """
    pairs = dict(_find_pairs(network))
    means = _watch_channels(
        network, pairs, ((batch,) for batch in batches), lambda fired: fired.mean((0, 2, 3)),
        torch.add,
    )  # fmt: skip
    silenced = {}
    for name, mean in means.items():
        contribution = mean * _reading_weights(pairs[name][2])
        ordered, dead = contribution.sort(stable=True)
        least = int((ordered.cumsum(0) <= fraction * ordered.sum()).sum())
        count = least // _KEPT_MULTIPLE * _KEPT_MULTIPLE
        if count == len(mean):
            count -= _KEPT_MULTIPLE  # a convolution without channels is none
        if count <= 0:
            continue
        maker = _last_conv(pairs[name][0])
        with torch.no_grad():
            maker.weight[dead[:count]] = 0.0
            if maker.bias is not None:
                maker.bias[dead[:count]] = 0.0
        silenced[name] = count
    return silenced


def describe_silenced(silenced: dict[str, int], fraction: float, images: int) -> str:
    """Return a model card's note on what `silence_dead_channels` found on so many images."""
    layers = ", ".join(f"{count} in {name}" for name, count in silenced.items()) or "none"
    which = f"contribute least ({fraction:g} of a layer)" if fraction else "never fire"
    return f"channels that {which} on {images} images were set to zero: {layers}"


def recycle_dead_channels(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator,
    reduce: Callable[[Tensor], Tensor] = lambda largest: largest,
) -> int:
    """Give channels that are 0 after their ReLU new random weights, in place; return how many.

    The network's output on the batches does not change: what reads those channels is set to 0.
    Layers that do not train stay as they are.

    Args:
        network: In training; its convolutions may have branches of structural re-parameterization.
        batches: Inputs of the network, of recent training steps.
        optimizer: Its state of the kernels with new weights starts again.
        generator: Of the random weights.
        reduce: Returns the largest values, (C,), over all processes of a distributed run.
    """
    pairs = dict(_find_pairs(network))
    recycled = 0
    largest = _watch_channels(
        network, pairs, batches, lambda fired: fired.amax((0, 2, 3)), torch.maximum
    )
    for name, highest in largest.items():
        dead = torch.nonzero(reduce(highest) <= 0.0).flatten()
        maker = _last_conv(pairs[name][0])
        if not len(dead) or not maker.weight.requires_grad:
            continue
        recycled += len(dead)
        bound = math.sqrt(3.0 / maker.weight[0].numel())
        fresh = torch.rand((len(dead), *maker.weight.shape[1:]), generator=generator)
        _assign(maker, (dead,), (2.0 * fresh - 1.0) * bound, optimizer)
        reader = pairs[name][2]
        if isinstance(reader, nn.Sequential):
            reader = _keep_constants(reader, dead)
        if isinstance(reader, nn.Conv2d):
            _assign(reader, (slice(None), dead), torch.zeros(()), optimizer)
    return recycled


def _keep_constants(separable: nn.Sequential, dead: Tensor) -> nn.Conv2d:
    """Return the 1x1 convolution, with what it reads of dead channels added to its bias."""
    by_channel, across = separable
    assert isinstance(by_channel, nn.Conv2d)  # as `_is_conv` found
    assert isinstance(across, nn.Conv2d)
    if by_channel.bias is not None and across.bias is not None:
        with torch.no_grad():
            across.bias += across.weight[:, dead, 0, 0] @ by_channel.bias[dead]
    return across


def _reading_weights(reader: nn.Module) -> Tensor:
    """Return the sum of magnitudes of the weights that read each channel, (C,)."""
    if isinstance(reader, nn.Sequential):
        by_channel, across = reader
        assert isinstance(by_channel, nn.Conv2d)  # as `_is_conv` found
        return by_channel.weight.detach().abs().sum((1, 2, 3)) * _reading_weights(across)
    assert isinstance(reader, nn.Conv2d)  # as `_is_conv` found
    return reader.weight.detach().abs().sum((0, 2, 3))


def _watch_channels(
    network: nn.Module,
    pairs: dict[str, nn.Sequential],
    batches: Iterable[tuple[Tensor, ...]],
    measure: Callable[[Tensor], Tensor],
    combine: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Return what `measure` finds of each channel after each pair's ReLU, (C,), of all batches."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def look(module: nn.Module, given: object, fired: Tensor) -> None:
            one = measure(fired)
            found[name] = combine(found[name], one) if name in found else one

        return pairs[name][1].register_forward_hook(look)

    handles = [watch(name) for name in pairs]
    try:
        with torch.no_grad():
            for batch in batches:
                network(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _assign(
    conv: nn.Conv2d,
    where: tuple[Tensor | slice, ...],
    values: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Set a part of a convolution's kernel, whatever branches add to it, and forget its moments."""
    with torch.no_grad():
        parameter = conv.weight
        if parametrize.is_parametrized(conv):
            parameter = conv.parametrizations.weight.original  # type: ignore[union-attr,assignment]
            values = values.to(parameter) - (conv.weight - parameter)[where]
        parameter[where] = values.to(parameter)
        for moment in optimizer.state[parameter].values():
            moment.zero_()  # steps too: with old second moments new weights would move too far
        rows = where[0]
        if conv.bias is not None and isinstance(rows, Tensor):
            conv.bias[rows] = 0.0


def drop_silent_channels(network: nn.Module) -> nn.Module:
    """Return the network, changed in place, without the channels that are zero for every input."""
    for _, sequence in list(_find_pairs(network)):
        first, second = sequence[0], sequence[2]
        maker = _last_conv(first)
        if maker.weight.is_meta:  # for counting alone: no values
            continue
        fires = maker.weight.flatten(1).any(1)
        if maker.bias is not None:
            fires = fires | (maker.bias > 0.0)
        if bool(fires.all()) or not bool(fires.any()):
            continue
        if isinstance(first, nn.Sequential):
            first[-1] = _with_outputs(maker, fires)
        else:
            sequence[0] = _with_outputs(maker, fires)
        if isinstance(second, nn.Sequential):
            _drop_inputs(second, fires)
        elif isinstance(second, nn.Conv2d):
            sequence[2] = _like(second, second.weight[:, fires], second.bias)
    return network


def _find_pairs(network: nn.Module) -> Iterator[tuple[str, nn.Sequential]]:
    """Yield each sequence of a convolution, a ReLU and a convolution, with its name.

    Convolutions may be separable: one by channel, then a 1x1 one. Two 1x1 ones, which weigh
    channels by their means, cost nothing and are left alone.
    """
    for name, module in network.named_modules():
        if (
            isinstance(module, nn.Sequential)
            and len(module) == 3
            and isinstance(module[1], nn.ReLU)
            and _is_conv(module[0])
            and _is_conv(module[2])
            and not _is_small(module)
        ):
            yield name, module


def _is_conv(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential) and len(module) == 2:
        first, last = module
        return (
            isinstance(first, nn.Conv2d)
            and isinstance(last, nn.Conv2d)
            and first.groups == first.in_channels == first.out_channels
            and last.groups == 1
            and last.kernel_size == (1, 1)
        )
    return isinstance(module, nn.Conv2d) and module.groups == 1


def _is_small(sequence: nn.Sequential) -> bool:
    kernels = [one.kernel_size for one in sequence.modules() if isinstance(one, nn.Conv2d)]
    return set(kernels) == {(1, 1)}


def _last_conv(module: nn.Module) -> nn.Conv2d:
    last = module[-1] if isinstance(module, nn.Sequential) else module
    assert isinstance(last, nn.Conv2d)  # as `_is_conv` found
    return last


def _with_outputs(conv: nn.Conv2d, kept: Tensor) -> nn.Conv2d:
    return _like(conv, conv.weight[kept], _part_of(conv.bias, kept))


def _drop_inputs(separable: nn.Sequential, kept: Tensor) -> None:
    """Change a separable convolution to one of the kept channels; others leave their bias."""
    by_channel, across = separable
    assert isinstance(by_channel, nn.Conv2d)  # as `_is_conv` found
    assert isinstance(across, nn.Conv2d)
    bias = across.bias
    if by_channel.bias is not None:
        constant = across.weight[:, ~kept, 0, 0] @ by_channel.bias[~kept]
        bias = constant if bias is None else bias + constant
    groups = int(kept.sum())
    separable[0] = _like(
        by_channel, by_channel.weight[kept], _part_of(by_channel.bias, kept), groups
    )
    separable[1] = _like(across, across.weight[:, kept], bias)


def _part_of(bias: Tensor | None, kept: Tensor) -> Tensor | None:
    return None if bias is None else bias[kept]


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    """Return a convolution of other weights, else as CONV."""
    made = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]  # two sides
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        groups,
        bias=bias is not None,
        padding_mode=conv.padding_mode,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias)
    return made.requires_grad_(conv.weight.requires_grad)
