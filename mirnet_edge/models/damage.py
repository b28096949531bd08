"""Find the damage of a print, and fill it from what is around it: scratches, cracks, dust, stains.

Two steps before the network that restores the rest:

- `DamageBranch`, a small U-Net (Ronneberger et al., MICCAI 2015), gives a mask of the damage.
- `fill_damage` replaces masked pixels by pull-push interpolation (Gortler et al., "The Lumigraph",
  SIGGRAPH 1996): a pyramid of averages over the undamaged pixels, from coarse to fine.

Both are differentiable: after a stage of its own on masks of synthetic damage (training/damage.py),
the branch learns with the rest, because filling a pixel brings it closer to the ground truth or
not. Experiments: docs/decisions/033-damage-branch.md.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

FILL_LEVELS = 4
"""Levels of the pyramid: its coarsest cells are 2^4 pixels wide and see two cells each way."""
_EPSILON = 1e-3  # of the weights: an area without any undamaged pixel has no value of its own
_SOLID = 4.0  # a cell with a quarter of its pixels undamaged is as good as a whole one


class DamageBranch(nn.Module):
    """Estimate how likely each pixel is damaged: a U-Net of three scales, from 1/2 to 1/8."""

    def __init__(self, channels: int) -> None:
        """Take CHANNELS at half the resolution; starts with 5 % everywhere."""
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels]
        self.enter = nn.Conv2d(3, channels, 4, stride=2, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(one, two, 1) for one, two in pairwise(widths))
        self.seen = nn.ModuleList(_Residual(width) for width in widths)
        self.up = nn.ModuleList(nn.Conv2d(two, one, 1) for one, two in pairwise(widths))
        self.refine = nn.ModuleList(_Residual(width) for width in widths)
        self.leave = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.normal_(self.leave.weight, std=1e-2)
        nn.init.constant_(self.leave.bias, -3.0)  # type: ignore[arg-type]  # it has a bias

    def forward(self, batch: Tensor) -> Tensor:
        """Return the mask, (N, 1, H, W) in [0, 1], of (N, 3, H, W); H and W multiples of 8."""
        return self.logits_of(batch).sigmoid()

    def logits_of(self, batch: Tensor) -> Tensor:
        """Return the mask before its sigmoid."""
        features = self.seen[0](functional.relu(self.enter(batch)))
        skipped = [features]
        for down, seen in zip(self.down, list(self.seen)[1:], strict=True):
            features = seen(down(functional.avg_pool2d(features, 2)))
            skipped.append(features)
        features = self.refine[-1](features)
        for scale in reversed(range(len(self.up))):
            features = self.refine[scale](skipped[scale] + _doubled(self.up[scale](features)))
        return functional.pixel_shuffle(self.leave(features), 2)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), last)
        for parameter in last.parameters():  # starts as the identity
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = features + self.body(features)
        return added


def fill_damage(batch: Tensor, mask: Tensor) -> Tensor:
    """Return the batch with masked pixels interpolated from the others around them (pull-push).

    Args:
        batch: (N, C, H, W); H and W multiples of 2 ** `FILL_LEVELS`.
        mask: (N, 1, H, W) in [0, 1]: 0 keeps a pixel, 1 replaces it.

    Returns:
        The same shape. Where everything within reach is masked, values near zero.
    """
    weight = 1.0 - mask
    pyramid = list(_pull(batch * weight, weight))
    # the coarsest cells look at their neighbors, so that one that is all masked has a value too
    sums, weights = (
        functional.avg_pool2d(part, 5, stride=1, padding=2, count_include_pad=False)
        for part in pyramid[-1]
    )
    filled = sums / (weights + _EPSILON)
    sums, weights = pyramid[-1]
    filled = filled + (_SOLID * weights).clamp(max=1.0) * (sums / (weights + _EPSILON) - filled)
    for sums, weights in reversed(pyramid[:-1]):
        coarse = _doubled(filled)
        solid = (_SOLID * weights).clamp(max=1.0)
        filled = coarse + solid * (sums / (weights + _EPSILON) - coarse)
    around = _doubled(filled)
    return around + weight * (batch - around)


def _pull(sums: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weighted sums and weights, averaged over cells of 2, 4, 8, 16 pixels."""
    for _ in range(FILL_LEVELS):
        sums, weights = functional.avg_pool2d(sums, 2), functional.avg_pool2d(weights, 2)
        yield sums, weights


def _doubled(features: Tensor) -> Tensor:
    return functional.interpolate(
        features, scale_factor=2.0, mode="bilinear", align_corners=False, antialias=False
    )
