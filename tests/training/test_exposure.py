"""The first stage: the exposure branch alone, on thumbnails, and what its teachers are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import ExposureBranch
from mirnet_edge.models.reparameterization import fold_convolutions, widen_convolutions
from mirnet_edge.training import exposure
from mirnet_edge.training.exposure import count_steps, join_branches, train_exposure
from mirnet_edge.training.loss import match_brightness
from mirnet_edge.training.pairs import Pairs, Thumbnails

QUICK = {"exposure_batch": 8, "exposure_learning_rate": 1e-2, "well_lit_fraction": 0.0}


class Black(ExposureBranch):
    """A branch that cannot learn: all it makes is black."""

    def forward(self, batch, thumbnail):
        return 0.0 * (batch + self.decide[-1].bias.sum())


def _scenes(count=12):
    """Smooth images and their quarter: what is to be learned is a gain of four."""
    y, x = np.mgrid[:32, :48]
    target = tuple(
        np.stack([120 + 100 * np.sin((x + 3 * n) / 9), 200 - 2 * y, 40 + 3 * y + n], -1)
        .clip(0, 255)
        .astype(np.uint8)
        for n in range(count)
    )
    return Pairs(
        tuple(map(str, range(count))), tuple(frame // 4 for frame in target), target, "sha"
    )


def _branch(seed=0):
    torch.manual_seed(seed)
    return ExposureBranch(4)


def _shown(branch, pairs):
    """Return what the branch makes of each thumbnail."""
    degraded = torch.stack([pairs.thumbnails(index)[0] for index in range(len(pairs))])
    with torch.no_grad():
        return branch(degraded, degraded)


def _trained(pairs, make_recipe, branch=None, **values):
    branch = branch or _branch()
    train_exposure(branch, Thumbnails(pairs, 1), make_recipe(**QUICK, **values))
    return branch


def test_it_learns_the_exposure(make_recipe):
    pairs = _scenes()
    target = torch.stack([pairs.thumbnails(index)[1] for index in range(len(pairs))])
    before = float((_shown(_branch(), pairs) - target).abs().mean())
    after = float(
        (_shown(_trained(pairs, make_recipe, exposure_steps=150), pairs) - target).abs().mean()
    )
    assert after < before / 5


def test_at_equal_brightness_it_is_trained_for_colors_alone(make_recipe):
    pairs = _scenes()
    cast = np.float32((0.6, 0.4, 0.3))
    degraded = tuple((frame * cast).astype(np.uint8) for frame in pairs.targets)
    pairs = replace(pairs, degraded=degraded)
    target = torch.stack([pairs.thumbnails(index)[1] for index in range(len(pairs))])
    values = {"exposure_steps": 300, "exposure_equal_brightness_fraction": 1.0}
    exposed = _shown(_trained(pairs, make_recipe, **values), pairs)
    error = (match_brightness(exposed, target) - target).abs().mean()
    assert error < 0.02
    # of the brightness nothing can be learned
    assert (exposed - target).abs().mean() > 0.1


def test_the_same_seed_gives_the_same_branch_and_another_another(make_recipe):
    pairs = _scenes()
    shown = [
        _shown(_trained(pairs, make_recipe, exposure_steps=5, seed=seed), pairs)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])


def test_the_kept_branch_aims_at_its_teachers_and_not_at_the_references(make_recipe, monkeypatch):
    pairs = _scenes()
    monkeypatch.setattr("mirnet_edge.training.exposure._new_branch", lambda branch, seed: Black(4))
    shown = _shown(_trained(pairs, make_recipe, exposure_steps=150, exposure_teachers=2), pairs)
    assert float(shown.abs().mean()) < 0.02


@pytest.mark.parametrize("teachers", [0, 1, 3])
def test_every_step_of_every_branch_is_told(make_recipe, teachers):
    told = []
    recipe = make_recipe(**QUICK, exposure_steps=4, exposure_teachers=teachers)
    train_exposure(
        _branch(), Thumbnails(_scenes(), 1), recipe, lambda step, loss: told.append(step)
    )
    assert told == list(range(1, 4 * (teachers + 1) + 1))


def test_teachers_start_from_seeds_of_their_own_and_leave_chance_alone(make_recipe):
    pairs = _scenes()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    branch = _branch()
    torch.manual_seed(5)
    taught = _trained(pairs, make_recipe, branch, exposure_steps=5, exposure_teachers=2)
    assert torch.equal(torch.rand(1), expected)
    alone = _trained(pairs, make_recipe, exposure_steps=5)
    assert not torch.equal(_shown(taught, pairs), _shown(alone, pairs))


def test_members_are_joined_to_the_mean_of_their_curves():
    members = [_branch(seed) for seed in range(3)]
    thumbnail = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, member in enumerate(members):
            for layer in (*member.features, *member.decide):
                if isinstance(layer, torch.nn.Conv2d):
                    layer.bias.uniform_(-0.5, 0.5)
            member.decide[-1].weight.normal_()
            member.decide[-1].bias.fill_(number)
        curves = torch.stack([one.curve_of(thumbnail) for one in members])
        joined = join_branches(members).curve_of(thumbnail)
    assert float(curves.std(0).min()) > 0.01  # they differ
    assert torch.allclose(joined, curves.mean(0), atol=1e-5)


def test_members_are_trained_apart_from_other_weights(make_recipe):
    pairs, steps = _scenes(), []
    recipe = make_recipe(**QUICK, exposure_steps=5)
    branch = ExposureBranch(4, members=2)
    train_exposure(branch, Thumbnails(pairs, 1), recipe, lambda step, loss: steps.append(step))
    assert steps == list(range(1, count_steps(branch, recipe) + 1)) == list(range(1, 11))
    one, other = branch.features[0].weight[:4], branch.features[0].weight[4:]
    assert not torch.allclose(one, other, atol=1e-2)
    alone = _branch()
    torch.manual_seed(recipe.seed)
    alone = _trained(pairs, make_recipe, ExposureBranch(4), exposure_steps=5)
    assert torch.equal(alone.features[0].weight, one)


def test_members_are_joined_where_convolutions_are_trained_as_branches(make_recipe):
    recipe, thumbnails = make_recipe(**QUICK, exposure_steps=5), Thumbnails(_scenes(), 1)
    plain, widened = ExposureBranch(4, members=2), ExposureBranch(4, members=2)
    widen_convolutions(widened, 2.0)
    for branch in (plain, widened):
        train_exposure(branch, thumbnails, recipe)
    fold_convolutions(widened)
    for name, value in plain.state_dict().items():
        assert torch.allclose(widened.state_dict()[name], value, atol=1e-5), name


def test_members_and_teachers_at_once_are_refused(make_recipe):
    recipe = make_recipe(**QUICK, exposure_steps=1, exposure_teachers=2)
    with pytest.raises(OptionError, match="teachers are for a branch of one member, found 2"):
        train_exposure(ExposureBranch(4, members=2), Thumbnails(_scenes(), 1), recipe)


def test_dark_thumbnails_get_the_noise_of_an_eighth_and_targets_none(make_recipe):
    gray = (np.full((32, 48, 3), 100, np.uint8),)
    thumbnails = Thumbnails(Pairs(("gray",), gray, gray, "sha"), 1)
    recipe = make_recipe(exposure_batch=200, noise_jitter=40.0, exposure_mixup=0.0)
    degraded, target = exposure._sample_thumbnails(thumbnails, recipe, 0, 0)
    deviations = 255.0 * degraded.std((1, 2, 3))
    assert 40.0 / 8 * 0.8 < float(deviations.max()) < 40.0 / 8 * 1.1
    assert 0.3 < float((deviations < 0.01).float().mean()) < 0.7
    assert float(target.std()) < 1e-5
    well_lit = make_recipe(exposure_batch=20, noise_jitter=40.0, well_lit_fraction=1.0)
    degraded, _ = exposure._sample_thumbnails(thumbnails, well_lit, 0, 0)
    assert float(degraded.std()) < 1e-5
