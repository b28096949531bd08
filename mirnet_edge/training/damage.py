"""The stage of training in which the damage branch learns masks, after the exposure branch's.

The restoration loss alone cannot start it: filling a pixel of a scratch changes nothing while the
others of the scratch stay. Its truth is exact, because the damage is synthetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mirnet_edge.images.contract import batch_from_frames
from mirnet_edge.models.edge import thumbnail_of
from mirnet_edge.training.aging import (
    age_with_damage,
    choose_window,
    cut_square,
    flip_at_random,
)
from mirnet_edge.training.exposure import schedule_stage
from mirnet_edge.training.loss import damage_loss
from mirnet_edge.training.optimizers import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.models.edge import MIRNetEdge
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.recipe import TrainingRecipe

_WEIGHT_DECAY = 1e-4
_GRADIENT_CLIPPING = 1.0
_REGION = 2.0  # how many times wider than the crop the region is that ages
_CROPS_PER_REGION = 2  # degrading a region takes as long as a training step of its crops
_STAGE = 2_000_000  # part of the sampling seed, so that it differs from those of other stages


def train_damage(
    network: MIRNetEdge,
    pairs: Pairs,
    recipe: TrainingRecipe,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train the network's damage branch in place, on masks; the rest of it does not change.

    Args:
        network: With a damage branch; its exposure branch, trained before, prepares what it sees.
        pairs: Clean photos.
        recipe: Its `damage_` fields, optimizer, batch, first crop and seed count. A seed gives
            the same weights.
        on_step: Called with the steps done and the step's loss.
    """
    branch = network.damage
    if branch is None:
        return
    is_trainable = next(branch.parameters()).requires_grad
    branch.train().requires_grad_()
    device = next(branch.parameters()).device
    peak = recipe.damage_learning_rate
    optimizer = make_optimizer(recipe.optimizer, branch.parameters(), peak, _WEIGHT_DECAY)
    for step in range(recipe.damage_steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule_stage(step, recipe.damage_steps)
        aged, thumbnail, damage = (
            part.to(device) for part in _sample_crops(pairs, recipe, network.multiple, step)
        )
        with torch.no_grad():
            exposed = network.expose(aged, thumbnail)
        loss = damage_loss(branch.logits_of(exposed), damage)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(branch.parameters(), _GRADIENT_CLIPPING)
        optimizer.step()
        on_step(step + 1, float(loss.detach()))
    branch.requires_grad_(requires_grad=is_trainable)


def _sample_crops(
    pairs: Pairs, recipe: TrainingRecipe, multiple: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return crops of aged photos (N, 3, C, C), their regions' thumbnails, and widened masks."""
    crop = recipe.crops[0] // multiple * multiple
    rows: list[tuple[Frame, Tensor, np.ndarray]] = []
    for number in range(-(-recipe.batch // _CROPS_PER_REGION)):
        generator = np.random.default_rng((recipe.seed, step, _STAGE + number))
        target = pairs.targets[pairs.sample_indices(generator, 1)[0]]
        photo = age_with_damage(
            flip_at_random(cut_square(target, round(_REGION * crop), generator), generator),
            generator,
            capture_noise_fraction=recipe.capture_noise_fraction,
        )
        height, width = (side // 8 * 8 for side in photo.aged.shape[:2])
        small = _batch([photo.aged[:height, :width]])
        for _ in range(_CROPS_PER_REGION):
            window = choose_window(photo.damage, crop, generator)
            rows.append((photo.aged[window], thumbnail_of(small)[0], photo.damage[window]))
    aged, thumbnails, damage = zip(*rows[: recipe.batch], strict=True)
    masks = torch.from_numpy(np.stack(damage)[:, None]).float()
    return _batch(aged), torch.stack(thumbnails), _widened(masks)


def _widened(masks: Tensor) -> Tensor:
    """Return masks (N, 1, H, W) one pixel wider: a rim that is missed stays visible once filled."""
    return functional.max_pool2d(masks, 3, stride=1, padding=1)


def _batch(frames: tuple[Frame, ...] | list[Frame]) -> Tensor:
    return torch.from_numpy(batch_from_frames(np.stack(frames)))
