"""Weights between two others: what the second learned, without all that it forgot of the first."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from mirnet_edge.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from torch import nn


def blended(first: nn.Module, second: nn.Module, share: float) -> nn.Module:
    """Return a network whose weights lie SHARE of the way from FIRST to SECOND.

    The second is to be fine-tuned from the first: then the straight line between them holds
    networks that do both tasks (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR
    2022).

    Args:
        first: A network.
        second: One of the same shape.
        share: 0 gives the first, 1 the second.

    Raises:
        CheckpointError: The two have other shapes.
        OptionError: The share lies outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise OptionError(f"the share must lie in [0, 1], found {share}")
    if first.config != second.config:  # a config's type tells the architecture
        raise CheckpointError(
            f"expected two networks of one shape, found {first.config} and {second.config}; blend "
            "weights with those they were fine-tuned from"
        )
    model = copy.deepcopy(first)
    others = second.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.lerp_(others[name], share)
    return model
