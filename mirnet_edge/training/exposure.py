"""The first stage of training: the exposure branch alone, on thumbnails of whole frames.

How bright a frame is to be is one decision per frame, and it needs many frames, not many pixels:
a thumbnail shows exposure and color but neither noise nor detail. What was tried stands in
docs/decisions/005-exposure-first.md.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mirnet_edge.training.batches import sample_exposure_jitter
from mirnet_edge.training.loss import charbonnier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from mirnet_edge.models.edge import ExposureBranch
    from mirnet_edge.training.pairs import Thumbnails
    from mirnet_edge.training.recipe import TrainingRecipe

_WARMUP = 100
_EMA = 0.995
_WEIGHT_DECAY = 1e-4
_STAGE = 1_000_000  # sets this stage's chance apart from that of the batches


def train_exposure(
    branch: ExposureBranch,
    thumbnails: Thumbnails,
    recipe: TrainingRecipe,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train the branch in place; it ends with its averaged weights.

    With `exposure_teachers` others are trained first, each from another start, and the branch
    aims at the mean of what they give: what one run learns by accident, the others did not.

    Args:
        branch: Any state.
        thumbnails: Of bad and good frames.
        recipe: Its `exposure_` values, light and seed count. The same seed gives the same weights.
        on_step: Told the steps done, of all branches, and the step's loss.
    """
    teachers: list[ExposureBranch] = []
    for number in range(recipe.exposure_teachers):
        teacher = _new_branch(branch, recipe.seed + number)
        done = number * recipe.exposure_steps
        _train(teacher, thumbnails, recipe, number, [], partial(_report, on_step, done))
        teachers.append(teacher.requires_grad_(requires_grad=False))
    done = recipe.exposure_teachers * recipe.exposure_steps
    _train(branch, thumbnails, recipe, len(teachers), teachers, partial(_report, on_step, done))


def _new_branch(branch: ExposureBranch, seed: int) -> ExposureBranch:
    """Return another branch of the same shape, from a start of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(branch)(branch.features[0].out_channels)  # type: ignore[arg-type]
    return fresh.to(next(branch.parameters()).device)


def _report(on_step: Callable[[int, float], None], done: int, step: int, loss: float) -> None:
    on_step(done + step, loss)


def _train(
    branch: ExposureBranch,
    thumbnails: Thumbnails,
    recipe: TrainingRecipe,
    number: int,
    teachers: Sequence[ExposureBranch],
    on_step: Callable[[int, float], None],
) -> None:
    averaged = copy.deepcopy(branch)
    device = next(branch.parameters()).device
    rate = recipe.exposure_learning_rate
    optimizer = torch.optim.AdamW(branch.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY)
    for step in range(recipe.exposure_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _rate(step, recipe.exposure_steps)
        low, high = _sample_thumbnails(thumbnails, recipe, number, step)
        low, high = low.to(device), high.to(device)
        if teachers:
            high = torch.stack([teacher(low, low) for teacher in teachers]).mean(0)
        loss = charbonnier(branch(low, low), high)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(branch.parameters(), 1.0)
        optimizer.step()
        keep = min(_EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, weight in zip(averaged.parameters(), branch.parameters(), strict=True):
                mean.lerp_(weight, 1.0 - keep)
        on_step(step + 1, float(loss.detach()))
    branch.load_state_dict(averaged.state_dict())


def _rate(step: int, steps: int) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / _WARMUP) * (0.001 + 0.999 * cosine)


def _sample_thumbnails(
    thumbnails: Thumbnails, recipe: TrainingRecipe, number: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return dark and bright thumbnails, (N, 3, h, w): flipped, lit, mixed.

    Dark ones are mixed with another of the batch by up to `exposure_mixup` (Zhang et al., "mixup",
    ICLR 2018): a few hundred scenes are learned by heart otherwise.
    """
    count = recipe.exposure_batch
    generator = np.random.default_rng((recipe.seed, step, _STAGE + number))
    rows, dark = [], []
    for index in generator.integers(len(thumbnails), size=count).tolist():
        light = sample_exposure_jitter(recipe.well_lit_fraction, recipe.exposure_jitter, generator)
        dim, bright = (side.numpy() for side in thumbnails[index])
        rows.append((light.on(dim, bright), bright))
        dark.append(not light.towards_reference)
    low, high = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    for axis in (2, 3):
        if generator.integers(2):
            low, high = low.flip(axis), high.flip(axis)
    other = generator.permutation(count)
    # a lit and a dark image make none that a camera would give
    both_dark = np.asarray(dark) & np.asarray(dark)[other]
    share = torch.from_numpy(
        generator.random(count, np.float32) * np.float32(recipe.exposure_mixup) * both_dark
    ).view(-1, 1, 1, 1)
    return low.lerp(low[other], share), high.lerp(high[other], share)
