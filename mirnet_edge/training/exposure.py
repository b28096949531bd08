"""The first stage of training: the exposure branch alone, on thumbnails of whole frames.

The exposure of a frame is one decision per frame, so its training needs many frames, not many
pixels: a thumbnail shows exposure and color but neither noise nor detail. Experiments:
docs/decisions/005-exposure-first.md.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import THUMBNAIL_FACTOR
from mirnet_edge.training.batches import add_noise_jitter, sample_exposure_jitter
from mirnet_edge.training.loss import charbonnier_loss, match_brightness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from mirnet_edge.models.edge import ExposureBranch
    from mirnet_edge.training.pairs import Thumbnails
    from mirnet_edge.training.recipe import TrainingRecipe

_WARMUP_STEPS = 100
_EMA_DECAY = 0.995
_WEIGHT_DECAY = 1e-4
_GRADIENT_CLIPPING = 1.0
_STAGE = 1_000_000  # part of the sampling seed, so that it differs from that of the batches


def train_exposure(
    branch: ExposureBranch,
    thumbnails: Thumbnails,
    recipe: TrainingRecipe,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train the branch in place; it ends with its EMA weights.

    With `exposure_teachers`, that many branches are trained first, each from other initial
    weights, and the branch is distilled from the mean of their outputs: an ensemble, which
    averages out what one run learns by chance.

    Of a branch of several members each is trained alone, from other initial weights, and they are
    joined.

    Args:
        branch: Any state.
        thumbnails: Of degraded and target frames.
        recipe: Its `exposure_` fields, augmentation and random seed count. The same seed gives
            the same weights.
        on_step: Called with the steps done, over all branches (`count_steps`), and the step's loss.

    Raises:
        OptionError: There are both members and teachers.
    """
    if branch.members > 1:
        if recipe.exposure_teachers:
            raise OptionError(
                f"exposure_teachers are for a branch of one member, found {branch.members}; leave "
                "exposure_teachers out of the recipe, or exposure_members"
            )
        members = [_new_branch(branch, recipe.seed + number) for number in range(branch.members)]
        for number, member in enumerate(members):
            done = number * recipe.exposure_steps
            _train(member, thumbnails, recipe, number, [], partial(_report, on_step, done))
        _copy_layers(join_branches(members), branch)
        return
    teachers: list[ExposureBranch] = []
    for number in range(recipe.exposure_teachers):
        teacher = _new_branch(branch, recipe.seed + number)
        done = number * recipe.exposure_steps
        _train(teacher, thumbnails, recipe, number, [], partial(_report, on_step, done))
        teachers.append(teacher.requires_grad_(requires_grad=False))
    done = recipe.exposure_teachers * recipe.exposure_steps
    _train(branch, thumbnails, recipe, len(teachers), teachers, partial(_report, on_step, done))


def count_steps(branch: ExposureBranch | None, recipe: TrainingRecipe) -> int:
    """Return the steps of the first stage, over all branches that it trains."""
    return (
        0 if branch is None else recipe.exposure_steps * (branch.members + recipe.exposure_teachers)
    )


def join_branches(members: Sequence[ExposureBranch]) -> ExposureBranch:
    """Return one branch whose tone curve is the mean of the members', all of equal width."""
    states = [member.state_dict() for member in members]
    joined = type(members[0])(members[0].channels, len(members))
    state = {}
    for name in joined.state_dict():
        parts = [one[name] for one in states]
        if name == "decide.2.bias":  # the curve's
            state[name] = torch.stack(parts).mean(0)
        elif name == "decide.2.weight":
            state[name] = torch.cat(parts, 1) / len(members)
        else:
            state[name] = torch.cat(parts)
    joined.load_state_dict(state)
    return joined


@torch.no_grad()
def _copy_layers(source: ExposureBranch, target: ExposureBranch) -> None:
    """Give a branch another one's kernels, also where it is trained as several branches."""
    for name, layer in source.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        own = cast("nn.Conv2d", target.get_submodule(name))
        if parametrize.is_parametrized(own, "weight"):
            own.weight = layer.weight.detach()
        else:
            own.weight.copy_(layer.weight)
        cast("Tensor", own.bias).copy_(cast("Tensor", layer.bias))


def _new_branch(branch: ExposureBranch, seed: int) -> ExposureBranch:
    """Return a branch like one member with random weights of SEED."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(branch)(branch.channels)
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
    """Train one branch, of sampling seed NUMBER, on the targets or on its teachers' mean."""
    ema_branch = copy.deepcopy(branch)
    device = next(branch.parameters()).device
    peak = recipe.exposure_learning_rate
    optimizer = torch.optim.AdamW(branch.parameters(), lr=peak, weight_decay=_WEIGHT_DECAY)
    for step in range(recipe.exposure_steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule_stage(step, recipe.exposure_steps)
        degraded, target = _sample_thumbnails(thumbnails, recipe, number, step)
        degraded, target = degraded.to(device), target.to(device)
        if teachers:
            target = torch.stack([teacher(degraded, degraded) for teacher in teachers]).mean(0)
        exposed = branch(degraded, degraded)
        loss = charbonnier_loss(exposed, target)
        if fraction := recipe.exposure_equal_brightness_fraction:
            matched = charbonnier_loss(match_brightness(exposed, target), target)
            loss = loss.lerp(matched, fraction)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(branch.parameters(), _GRADIENT_CLIPPING)
        optimizer.step()
        decay = min(_EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, weight in zip(ema_branch.parameters(), branch.parameters(), strict=True):
                mean.lerp_(weight, 1.0 - decay)
        on_step(step + 1, float(loss.detach()))
    branch.load_state_dict(ema_branch.state_dict())


def schedule_stage(step: int, steps: int) -> float:
    """Return the learning rate of a stage's step over its peak: warm-up, then cosine decay."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / _WARMUP_STEPS) * (0.001 + 0.999 * cosine)


def _sample_thumbnails(
    thumbnails: Thumbnails, recipe: TrainingRecipe, number: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return augmented degraded and target thumbnails, (N, 3, h, w).

    Degraded ones are blended with another of the batch by up to `exposure_mixup` (Zhang et al.,
    "mixup", ICLR 2018): without it, the branch overfits to a few hundred scenes.
    """
    count = recipe.exposure_batch
    generator = np.random.default_rng((recipe.seed, step, _STAGE + number))
    rows, is_dark = [], []
    # each pixel is a mean of about 8x8; without noise the branch follows that of a camera: flicker
    noise_jitter = recipe.noise_jitter / THUMBNAIL_FACTOR
    for index in thumbnails.sample_places(generator, count):
        jitter = sample_exposure_jitter(recipe.well_lit_fraction, recipe.exposure_jitter, generator)
        dark, bright = (side.numpy() for side in thumbnails[index])
        exposed = jitter.apply(dark, bright)
        if not jitter.towards_target:
            exposed = add_noise_jitter(exposed, noise_jitter, generator)
        rows.append((exposed, bright))
        is_dark.append(not jitter.towards_target)
    degraded, target = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    for axis in (2, 3):
        if generator.integers(2):
            degraded, target = degraded.flip(axis), target.flip(axis)
    other = generator.permutation(count)
    # no camera makes a blend of a well-lit and a dark image
    both_dark = np.asarray(is_dark) & np.asarray(is_dark)[other]
    weight = torch.from_numpy(
        generator.random(count, np.float32) * np.float32(recipe.exposure_mixup) * both_dark
    ).view(-1, 1, 1, 1)
    return degraded.lerp(degraded[other], weight), target.lerp(target[other], weight)
