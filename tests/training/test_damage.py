"""The stage that trains the damage branch: it finds damage afterwards, and changes nothing else."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from mirnet_edge.degradations import OldPhoto
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.training import damage as stage
from mirnet_edge.training.aging import age_with_damage
from mirnet_edge.training.damage import train_damage
from mirnet_edge.training.loop import Trainer
from mirnet_edge.training.pairs import Pairs, degrade_images

CONFIG = MIRNetEdgeConfig(
    channels=(8, 8, 8), stem=2, exposure_channels=4, light=True, damage_channels=8
)
SHORT = {"batch": 4, "crops": (64,), "damage_steps": 400, "damage_learning_rate": 1e-2}


def _network():
    torch.manual_seed(0)
    return MIRNetEdge(CONFIG)


@pytest.fixture
def pairs():
    """Return smooth gray photos, on which damage stands out."""
    ramp = np.linspace(40, 160, 128)[None, :, None] + np.linspace(0, 40, 96)[:, None, None]
    photos = tuple(np.rint(ramp.repeat(3, 2) - shift).astype(np.uint8) for shift in (0, 20, 40))
    return Pairs(("a", "b", "c"), (None,) * 3, photos, "sha", lambda frame, generator: frame)


def test_it_learns_where_damage_is_and_leaves_the_rest_of_the_network_alone(
    pairs, make_recipe, monkeypatch
):
    cracked = partial(age_with_damage, aging=OldPhoto(cracks=3))  # nothing else: few steps do
    monkeypatch.setattr(stage, "age_with_damage", cracked)
    monkeypatch.setattr(stage, "schedule_stage", lambda step, steps: 1.0)  # no warm-up
    network = _network()
    before, steps = copy.deepcopy(network), []
    recipe = make_recipe(**SHORT)
    train_damage(network, pairs, recipe, lambda step, loss: steps.append(step))
    assert steps == list(range(1, 401))
    aged, thumbnails, masks = stage._sample_crops(pairs, recipe, 16, 999)
    with torch.no_grad():
        found = network.damage(network.expose(aged, thumbnails))
    assert found[masks > 0].mean() > 1.5 * found[masks == 0].mean()
    for name, weight in network.state_dict().items():
        if not name.startswith("damage."):
            assert torch.equal(weight, before.state_dict()[name]), name


def test_it_is_trained_by_the_recipes_optimizer(pairs, make_recipe, monkeypatch):
    seen, make = [], stage.make_optimizer
    monkeypatch.setattr(
        stage, "make_optimizer", lambda name, *given: seen.append(name) or make(name, *given)
    )
    weights = []
    for name in ("adamw", "muon"):
        network = _network()
        train_damage(network, pairs, make_recipe(**SHORT | {"damage_steps": 2}, optimizer=name))
        weights.append(network.damage.seen[0].body[0].weight)
    assert seen == ["adamw", "muon"]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("trainable", [True, False])
def test_damage_trainable_false_freezes_the_branch_after_its_stage(
    tmp_path, pairs, make_recipe, trainable
):
    network = _network()
    values = SHORT | {
        "damage_steps": 2,
        "steps": 3,
        "validate_every": 3,
        "whole_frame_fraction": 0.0,
    }
    recipe = make_recipe(**values, damage_trainable=trainable)
    trainer = Trainer(network, recipe, tmp_path)
    after_stage = []
    before = copy.deepcopy(network.damage.state_dict())

    def note(step, loss):
        if step == 1:
            after_stage.append(copy.deepcopy(network.damage.state_dict()))

    trainer.run(pairs, degrade_images(pairs), on_step=note, on_damage_step=lambda step, loss: None)
    changed = [
        not torch.equal(one, before[name]) for name, one in network.damage.state_dict().items()
    ]
    assert any(changed), "by its stage"
    same = [
        torch.equal(one, after_stage[0][name]) for name, one in network.damage.state_dict().items()
    ]
    assert all(same) != trainable


def test_the_same_seed_gives_the_same_branch(pairs, make_recipe):
    networks = [_network() for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        train_damage(network, pairs, make_recipe(**SHORT | {"damage_steps": 2}, seed=seed))
    first, again, other = (network.damage.leave.weight for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def _widened(damage):
    """Return a mask with the pixels beside it, which show a rim once it is filled."""
    padded = np.pad(damage, 1)
    height, width = damage.shape
    return np.any(
        [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0
    ).astype(np.float32)


def test_crops_show_the_damage_of_their_masks(pairs, make_recipe, monkeypatch):
    seen = []

    def spy(frame, generator, **options):
        seen.append(age_with_damage(frame, generator, **options))
        return seen[-1]

    monkeypatch.setattr(stage, "age_with_damage", spy)
    aged, thumbnails, masks = stage._sample_crops(pairs, make_recipe(**SHORT), 16, 0)
    assert aged.shape == (4, 3, 64, 64)
    assert thumbnails.shape == (4, 3, 24, 36)
    assert masks.shape == (4, 1, 64, 64)
    assert len(seen) == 2  # two crops of each
    for row in range(4):
        photo = seen[row // 2]
        crop = (aged[row] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        height, width = (side - 63 for side in photo.aged.shape[:2])
        assert any(
            np.array_equal(photo.aged[y : y + 64, x : x + 64], crop)
            and np.array_equal(
                _widened(photo.damage[y : y + 64, x : x + 64]), masks[row, 0].numpy()
            )
            for y in range(height)
            for x in range(width)
        )


def test_photos_smaller_than_the_crop_are_reflected(pairs, make_recipe):
    aged, _, _ = stage._sample_crops(pairs, make_recipe(**SHORT | {"crops": (112,)}), 16, 0)
    assert aged.shape[-2:] == (112, 112)  # of photos 96 pixels high
