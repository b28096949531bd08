"""Small images and networks to train on and with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config
from mirnet_edge.training.pairs import Pairs
from mirnet_edge.training.recipe import TrainingRecipe

_THREE = (8, 8, 8)
_TINY = {
    "edge": lambda: MIRNetEdge(MIRNetEdgeConfig(channels=_THREE, exposure_channels=4)),
    "plain edge": lambda: MIRNetEdge(MIRNetEdgeConfig(channels=_THREE, exposure_channels=0)),
    "damage edge": lambda: MIRNetEdge(
        MIRNetEdgeConfig(
            channels=_THREE, stem=2, exposure_channels=4, light=True, damage_channels=4
        )
    ),
    "doubling edge": lambda: MIRNetEdge(
        MIRNetEdgeConfig(channels=_THREE, exposure_channels=0, stem=2, scale=2)
    ),
    "mirnet": lambda: MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1, streams=2, columns=1)),
    "mirnet-v2": lambda: MIRNetV2(MIRNetV2Config(channels=8, groups=1, blocks=1, conv_groups=(1,))),
}


def _random(number, size):
    return np.random.default_rng([number, *size]).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def make_network():
    """Return a new tiny network: make_network("mirnet", seed=0)."""

    def make(name="edge", seed=0):
        torch.manual_seed(seed)
        return _TINY[name]()

    return make


@pytest.fixture
def make_pairs():
    """Return random targets and dark inputs: make_pairs(3, (32, 48), scale=1, degrade=None).

    With `degrade` there are clean images only.
    """

    def make(count=3, size=(32, 48), *, scale=1, degrade=None):
        target = tuple(_random(number, size) for number in range(count))
        degraded = tuple(None if degrade else frame[::scale, ::scale] // 4 for frame in target)
        return Pairs(tuple(map(str, range(count))), degraded, target, "sha", degrade, scale)

    return make


@pytest.fixture
def make_recipe():
    """Return a recipe of eight steps: make_recipe(steps=3)."""

    def make(**values):
        quick = {
            "steps": 8, "batch": 2, "crops": (16,), "warmup_steps": 2, "validate_every": 4,
            "whole_frame_fraction": 0.25,
        }  # fmt: skip
        return TrainingRecipe(**(quick | values))

    return make


@pytest.fixture
def write_clean():
    """Write random images to a folder: write_clean(folder, 12, (48, 64))."""

    def write(folder, count=12, size=(48, 64)):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(_random(number, size)).save(folder / f"{number:02}.png")
        return folder

    return write


@pytest.fixture
def write_pairs():
    """Write image pairs with dark inputs: write_pairs(folder, 5, (48, 64), scale=1)."""

    def write(folder, count=5, size=(48, 64), *, scale=1):
        for kind in ("low", "high"):
            (folder / kind).mkdir(parents=True)
        for number in range(count):
            target = _random(number, size)
            Image.fromarray(target[::scale, ::scale] // 4).save(folder / f"low/{number}.png")
            Image.fromarray(target).save(folder / f"high/{number}.png")
        return folder

    return write
