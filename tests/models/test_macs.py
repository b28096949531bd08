"""Counting against hand calculations and published totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from mirnet_edge.errors import ImageError
from mirnet_edge.models import (
    KerasMIRNet,
    KerasMIRNetConfig,
    MIRNet,
    MIRNetConfig,
    MIRNetEdge,
    MIRNetV2,
    MIRNetV2Config,
)
from mirnet_edge.models.macs import count_macs, count_parameters

if TYPE_CHECKING:
    from collections.abc import Callable


class Pooled(nn.Module):
    """A linear layer behind a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 11)

    def forward(self, batch: Tensor) -> Tensor:
        result: Tensor = self.linear(batch.mean((2, 3)))
        return result


class Twice(nn.Module):
    """One convolution that runs twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.second = self.first

    def forward(self, batch: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(batch))
        return result


@dataclass(frozen=True)
class Hand:
    id: str
    model: nn.Module
    macs: int
    """For a 10x8 frame."""
    parameters: int


HAND = [
    Hand("convolution", nn.Conv2d(3, 5, 3, padding=1), 80 * 5 * 3 * 9, 5 * 3 * 9 + 5),
    Hand("strided", nn.Conv2d(3, 5, 2, stride=2, bias=False), 20 * 5 * 3 * 4, 60),
    Hand("grouped", nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), 80 * 6 * 9, 54),
    Hand("transposed", nn.ConvTranspose2d(3, 7, 3, stride=2, bias=False), 80 * 3 * 7 * 9, 189),
    Hand("linear", Pooled(), 33, 44),
    Hand("shared", Twice(), 2 * 80 * 9, 9),
    Hand("nothing", nn.ReLU(), 0, 0),
]


@pytest.mark.parametrize("case", HAND, ids=lambda case: case.id)
def test_counts_by_hand(case: Hand) -> None:
    assert count_macs(case.model, 10, 8) == case.macs
    assert count_parameters(case.model) == case.parameters


@dataclass(frozen=True)
class Published:
    """GMACs at 256x256: reference/anchors.md, section 4.1 (2026), measured on the authors' code."""

    id: str
    build: Callable[[], nn.Module]
    gmacs: float
    tolerance: float
    """Half the last digit given there."""


PUBLISHED = [
    Published("mirnet", MIRNet, 479.4, 0.05),
    Published("mirnet-v2", MIRNetV2, 139.6, 0.05),
    Published("keras-2021", lambda: KerasMIRNet(KerasMIRNetConfig(variant="2021")), 391.6, 0.05),
    Published("keras-2023", KerasMIRNet, 486.6, 0.05),
    Published(
        "mirnet-32", lambda: MIRNet(MIRNetConfig(channels=32, groups=1, blocks=1)), 20.4, 0.05
    ),
]


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.id)
def test_totals_are_the_published_ones(case: Published) -> None:
    with torch.device("meta"):
        model = case.build()
    assert count_macs(model, 256, 256) / 1e9 == pytest.approx(case.gmacs, abs=case.tolerance)


def test_parameters_are_the_published_ones() -> None:
    """31.79 M although the state dict holds 42.3 M values; 5.86 M: anchors.md, section 4.1."""
    with torch.device("meta"):
        assert count_parameters(MIRNet()) == 31_787_419
        assert count_parameters(MIRNetV2()) == 5_858_560


def test_parameters_are_those_that_keras_counts() -> None:
    """anchors2.md, part D.2: Keras 3.15.1, 2026-11-28."""
    with torch.device("meta"):
        older, newer = KerasMIRNet(KerasMIRNetConfig(variant="2021")), KerasMIRNet()
    assert count_parameters(older) == 36_351_613
    assert count_parameters(newer) == 44_157_007
    convolutions = [sum(type(one) is nn.Conv2d for one in net.modules()) for net in (older, newer)]
    assert convolutions == [506, 638]


def test_counting_leaves_the_model_as_it_was() -> None:
    model = MIRNetEdge().train()
    macs = count_macs(model, 64, 64)
    assert macs > 0
    assert count_macs(model, 64, 64) == macs
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_half_precision_and_two_views_are_counted_too() -> None:
    defocus = MIRNetV2Config(
        in_channels=6,
        channels=8,
        groups=1,
        blocks=1,
        conv_groups=(1,),
        task="defocus_deblurring",
    )
    model = MIRNetV2(defocus)
    assert count_macs(model.half(), 8, 8) == count_macs(model.float(), 8, 8) > 0


def test_sizes_the_network_refuses_are_refused() -> None:
    with pytest.raises(ImageError, match="multiples of"):
        count_macs(MIRNetEdge(), 50, 50)
