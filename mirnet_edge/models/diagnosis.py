"""The diagnosis network: what is wrong with a frame, from its overview and crops at 1:1.

Two small CNNs, one for the overview and one for all crops, joined by pooling over the crops and
a perceptron. The crops' branch also sees their high-pass residual, amplified: noise of three
levels is a hundredth of the range beside the scene's full contrast. Pooling keeps the least and
the largest of each feature over the crops: noise is in every crop, texture only in some.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_RESIDUAL_GAIN = 12.0
_OVERVIEW_BLOCK, _CROP_BLOCK = 4, 2  # pixels each way that become channels
_LARGEST_LOG_SIGMA = 5.0  # sigma 148


@dataclass(frozen=True)
class DiagnosisConfig:
    """Shape of a diagnosis network."""

    overview_channels: tuple[int, ...] = (32, 48, 64)
    """Of the overview's 3x3 convolutions, behind a 4x4 unshuffle."""
    crop_channels: tuple[int, ...] = (32, 48, 64)
    """Of the crops' 3x3 convolutions, behind a 2x2 unshuffle."""
    hidden: int = 64
    """Width of the perceptron."""
    labels: int = 5
    """Number of labels; a last output is the logarithm of the noise's sigma."""


class DiagnosisNetwork(nn.Module):
    """Scores labels of a frame, and estimates its noise."""

    def __init__(self, config: DiagnosisConfig | None = None) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config = config or DiagnosisConfig()
        self.overview = _branch(3 * _OVERVIEW_BLOCK**2, config.overview_channels)
        self.crops = _branch(6 * _CROP_BLOCK**2, config.crop_channels)
        kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, -12.0, 2.0], [1.0, 2.0, 1.0]]) / -16.0
        self.register_buffer("high_pass", kernel.expand(3, 1, 3, 3).clone(), persistent=False)
        features = 2 * config.overview_channels[-1] + 6 * config.crop_channels[-1]
        self.head = nn.Sequential(
            nn.Linear(features, config.hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, config.labels + 1),
        )

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels' logits, (N, labels), and the noise's sigma in 8-bit levels, (N,).

        Args:
            overview: (N, 3, S, S) RGB in [0, 1], S a multiple of 16.
            crops: (N, K, 3, C, C) RGB in [0, 1], C a multiple of 8.
        """
        count, places = crops.shape[:2]
        flat = crops.flatten(0, 1)
        padded = functional.pad(flat, (1, 1, 1, 1), mode="reflect")
        residual = functional.conv2d(padded, self.high_pass, groups=3)  # type: ignore[arg-type]
        seen = torch.cat([flat, torch.tanh(_RESIDUAL_GAIN * residual)], 1)
        local = _pool(self.crops(functional.pixel_unshuffle(seen, _CROP_BLOCK)))
        local = local.view(count, places, local.shape[1])
        whole = _pool(self.overview(functional.pixel_unshuffle(overview, _OVERVIEW_BLOCK)))
        joined = torch.cat([whole, local.mean(1), local.amax(1), local.amin(1)], 1)
        found = self.head(joined)
        log_sigma = found[:, -1].clamp(max=_LARGEST_LOG_SIGMA)
        return found[:, :-1], log_sigma.exp()


def _branch(channels_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2, the last of stride 1, and a 1x1, all normalized."""
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        stride = 1 if place == len(widths) - 1 else 2
        layers += [
            nn.Conv2d(channels_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels_in = width
    layers += [nn.Conv2d(channels_in, channels_in, 1, bias=False), nn.BatchNorm2d(channels_in)]
    layers += [nn.ReLU()]
    return nn.Sequential(*layers)


def _pool(features: Tensor) -> Tensor:
    """Return each channel's mean and largest value over the places, (N, 2 C)."""
    return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
