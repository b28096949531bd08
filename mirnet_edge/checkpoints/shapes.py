"""The shape of a network, told from the tensors of its state dict.

The tensors may come from a file nobody vouches for: what they say is taken as a config, which
refuses what makes no network.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNetConfig
from mirnet_edge.models.mirnet_v2 import DEFOCUS_TASK, MIRNetV2Config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor


def mirnet_config_from_tensors(tensors: Mapping[str, Tensor]) -> MIRNetConfig:
    """Return the shape of the MIRNet whose state dict this is.

    Where a file stores shared tensors once, the columns cannot be counted: it then needs a card.

    Raises:
        KeyError: A tensor that every MIRNet has is missing.
        OptionError: The tensors' shapes make no MIRNet.
    """
    channels, in_channels = tensors["conv_in.weight"].shape[:2]
    block = "body.0.body.0.blocks."
    streams = _count_indices(tensors, block)
    # the second convolution: what is inside a unit may have been pruned
    factor = tensors[f"{block}1.0.body.2.weight"].shape[0] // channels if streams > 1 else 2
    first = "body.0.body.0."
    ways = {
        "down": [f"down.{channels * factor**stream}_2" for stream in range(streams - 1)],
        "up": [f"last_up.{stream}" for stream in range(1, streams)],
    }
    return MIRNetConfig(
        in_channels=in_channels,
        out_channels=tensors["conv_out.weight"].shape[0],
        channels=channels,
        groups=_count_indices(tensors, "body."),
        blocks=_count_indices([key for key in tensors if ".blocks." in key], "body.0.body."),
        streams=streams,
        columns=_count_indices(tensors, f"{block}0."),
        factor=factor,
        unit_widths=tuple(
            tensors[f"{block}{stream}.0.body.0.weight"].shape[0] for stream in range(streams)
        ),
        **{
            f"{way}_widths": tuple(
                tensors[f"{first}{name}.body.0.top.0.weight"].shape[0] for name in names
            )
            for way, names in ways.items()
        },
    )


def mirnet_v2_config_from_tensors(tensors: Mapping[str, Tensor]) -> MIRNetV2Config:
    """Return the shape of the MIRNet-v2 whose state dict this is.

    The task is known where it changes the network. The channel factor is the shortest decimal
    number that gives the channels found.

    Raises:
        KeyError: A tensor that every MIRNet-v2 has is missing.
        OptionError: The tensors' shapes make no MIRNet-v2.
    """
    channels, in_channels = tensors["conv_in.weight"].shape[:2]
    out_channels = tensors["conv_out.weight"].shape[0]
    streams = [f"body.0.body.0.dau_{stream}.body." for stream in ("top", "mid", "bot")]
    # the second convolution: what is inside a block may have been pruned
    middle, bottom = (tensors[f"{stream}2.weight"].shape[0] for stream in streams[1:])
    groups = _count_indices(tensors, "body.")
    first = [tensors[f"body.{group}.body.0.dau_top.body.0.weight"] for group in range(groups)]
    return MIRNetV2Config(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        channel_factor=_channel_factor(channels, middle, bottom),
        groups=groups,
        blocks=_count_indices([key for key in tensors if ".dau_top." in key], "body.0.body."),
        conv_groups=tuple(channels // max(weight.shape[1], 1) for weight in first),
        task=None if in_channels == out_channels else DEFOCUS_TASK,
        unit_widths=tuple(tensors[f"{stream}0.weight"].shape[0] for stream in streams),
    )


def edge_config_from_tensors(tensors: Mapping[str, Tensor]) -> MIRNetEdgeConfig:
    """Return the shape of the MIRNetEdge whose state dict this is.

    Raises:
        KeyError: A tensor that every MIRNetEdge has is missing.
    """
    indices = [int(found[1]) for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))]
    stem = round((tensors["stem.weight"].shape[1] / 3) ** 0.5)
    pixels = tensors["head.weight"].shape[0] // 4
    exposure = tensors.get("exposure.features.0.weight")
    if exposure is None and any(key.startswith("exposure.") for key in tensors):
        raise KeyError("exposure.features.0.weight")
    return MIRNetEdgeConfig(
        channels=(
            tensors["stem.weight"].shape[0],
            tensors["blocks.0.down_middle.weight"].shape[0],
            tensors["blocks.0.down_bottom.weight"].shape[0],
        ),
        blocks=max(indices) + 1,
        stem=stem,
        exposure_channels=0 if exposure is None else exposure.shape[0],
        scale=round(pixels**0.5) // max(1, stem),
    )


def _count_indices(keys: Iterable[str], prefix: str) -> int:
    """Return how many different numbers follow PREFIX in the keys of a state dict.

    Counted, not read as "largest plus one": a key such as `body.999999999.x` in a file nobody
    vouches for must not make a network of that depth.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({found[1] for key in keys if (found := pattern.match(key))})


def _channel_factor(top: int, middle: int, bottom: int) -> float:
    """Return the shortest decimal f with int(top f) = middle and int(top f²) = bottom.

    Raises:
        OptionError: There is none.
    """
    for factor in _decimals_from(max(middle / top, math.sqrt(bottom / top))):
        if (int(top * factor), int(top * factor**2)) == (middle, bottom):
            return factor
    raise OptionError(f"no channel_factor makes streams of {top}, {middle} and {bottom} channels")


def _decimals_from(low: float) -> Iterator[float]:
    """Yield, digit by digit, the decimals next to the smallest factor that could do."""
    for digits in range(1, 10):
        # both neighbours: rounding can put `low` itself on the wrong side of a short decimal
        for numerator in (math.floor(low * 10**digits), math.ceil(low * 10**digits)):
            yield numerator / 10**digits
