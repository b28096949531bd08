"""The diagnosis network: what is wrong with a frame, from its overview and crops at 1:1.

Two branches, joined by a perceptron. Of each crop a fixed first layer takes the spectrum, the
energy of each coefficient of its 8x8 cosine transforms, which tells noise from blur and texture:
noise is the same at all frequencies and everywhere in a crop, blur has no high frequencies, and
texture is in some places only, so that its mean logarithm lies far below the logarithm of its mean.
The overview gets a small CNN, for damage, and a histogram, for light and fading.

The fixed layers have no weights, so that training computes them once for each sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_LUMA_BLOCK, _CHROMA_BLOCK = 8, 4  # sides of the cosine transforms
_STEP = 4  # pixels between them
_LEAST_ENERGY = 0.02  # levels^2: below rounding to 8 bits
_LUMA_BINS, _CHROMA_BINS = 16, 8
_LARGEST_CHROMA = 0.25
_RESIDUAL_GAIN = 4.0
_OVERVIEW_BLOCK = 2  # pixels each way that become channels
_LARGEST_LOG_SIGMA = 5.0  # sigma 148
# luma and two differences, orthogonal enough for statistics
_COLORS = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))

SPECTRUM = 2 * (_LUMA_BLOCK**2 + 2 * _CHROMA_BLOCK**2) + 6
"""Features of a crop that the fixed layer gives."""
HISTOGRAM = _LUMA_BINS + 2 * _CHROMA_BINS
"""Features of the overview that the fixed layer gives."""


@dataclass(frozen=True)
class DiagnosisConfig:
    """Shape of a diagnosis network."""

    overview_channels: tuple[int, ...] = (32, 48, 64)
    """Of the overview's 3x3 convolutions of stride 2."""
    crop_channels: int = 64
    """Of the layers that see one crop's spectrum."""
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
        self.statistics = FrameStatistics()
        self.overview = _convolutions(6 * _OVERVIEW_BLOCK**2, config.overview_channels)
        width = config.crop_channels
        self.crops = nn.Sequential(
            nn.BatchNorm1d(SPECTRUM),
            nn.Linear(SPECTRUM, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        features = HISTOGRAM + 2 * config.overview_channels[-1] + 4 * width
        self.head = nn.Sequential(
            nn.BatchNorm1d(features),
            nn.Linear(features, config.hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, config.labels + 1),
        )

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels' logits, (N, labels), and the noise's sigma in 8-bit levels, (N,).

        Args:
            overview: (N, 3, S, S) RGB in [0, 1], S a multiple of 16.
            crops: (N, K, 3, C, C) RGB in [0, 1], K even: those with the most detail first.
        """
        return self.score_statistics(overview, *self.statistics(overview, crops))

    def score_statistics(
        self, overview: Tensor, spectrum: Tensor, histogram: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` returns, from what `FrameStatistics` gives for the frames."""
        return self.score_features(self.overview_features(overview), spectrum, histogram)

    def overview_features(self, overview: Tensor) -> Tensor:
        """Return the CNN's features of overviews, (N, 2 C): means and largest values."""
        seen = functional.pixel_unshuffle(self.statistics.add_residual(overview), _OVERVIEW_BLOCK)
        whole = self.overview(seen)
        return torch.cat([whole.mean((2, 3)), whole.amax((2, 3))], 1)

    def score_features(
        self, whole: Tensor, spectrum: Tensor, histogram: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` returns, from the features of `overview_features`."""
        count, places = spectrum.shape[:2]
        local = self.crops(spectrum.flatten(0, 1)).view(count, places, -1)
        detailed, flat = local[:, : places // 2], local[:, places // 2 :]
        joined = torch.cat(
            [histogram, whole, detailed.mean(1), flat.mean(1), local.amax(1), local.amin(1)], 1
        )
        found = self.head(joined)
        return found[:, :-1], found[:, -1].clamp(max=_LARGEST_LOG_SIGMA).exp()


class FrameStatistics(nn.Module):
    """The fixed layers: spectra of crops, the overview's histogram and its high frequencies."""

    def __init__(self) -> None:
        """Compute the filters."""
        super().__init__()
        blur = torch.tensor([[1.0, 2.0, 1.0], [2.0, -12.0, 2.0], [1.0, 2.0, 1.0]]) / -16.0
        for name, value in (
            ("colors", torch.tensor(_COLORS)[:, :, None, None]),
            ("luma_filters", _cosine_filters(_LUMA_BLOCK)),
            ("chroma_filters", _cosine_filters(_CHROMA_BLOCK)),
            ("high_pass", blur.expand(3, 1, 3, 3).clone()),
            ("luma_bins", torch.linspace(0.0, 1.0, _LUMA_BINS)),
            ("chroma_bins", torch.linspace(-_LARGEST_CHROMA, _LARGEST_CHROMA, _CHROMA_BINS)),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return the crops' spectra, (N, K, SPECTRUM), and the histogram, (N, HISTOGRAM)."""
        count, places = crops.shape[:2]
        return self._spectrum(crops.flatten(0, 1)).view(count, places, -1), self._bins(overview)

    def add_residual(self, overview: Tensor) -> Tensor:
        """Return the overview and its amplified high frequencies, (N, 6, S, S)."""
        padded = functional.pad(overview, (1, 1, 1, 1), mode="reflect")
        residual = functional.conv2d(padded, self.high_pass, groups=3)  # type: ignore[arg-type]
        return torch.cat([overview, torch.tanh(_RESIDUAL_GAIN * residual)], 1)

    def _spectrum(self, crops: Tensor) -> Tensor:
        colors = 255.0 * functional.conv2d(crops, self.colors)  # type: ignore[arg-type]
        parts = [(crops.mean((2, 3)) - 0.5) * 4.0, torch.log(crops.var((2, 3)) + 1e-4)]
        for channel, filters in (
            (0, self.luma_filters),
            (1, self.chroma_filters),
            (2, self.chroma_filters),
        ):
            plane = colors[:, channel : channel + 1]
            energy = functional.conv2d(plane, filters, stride=_STEP).square()  # type: ignore[arg-type]
            energy = energy + _LEAST_ENERGY
            parts += [energy.mean((2, 3)).log(), energy.log().mean((2, 3))]
        return torch.cat(parts, 1)

    def _bins(self, overview: Tensor) -> Tensor:
        """Return soft histograms of luma and of the two color differences."""
        # a quarter of the pixels has the same histogram
        colors = functional.conv2d(overview[:, :, ::2, ::2], self.colors)  # type: ignore[arg-type]
        parts = []
        for channel, bins in ((0, self.luma_bins), (1, self.chroma_bins), (2, self.chroma_bins)):
            edges: Tensor = bins  # type: ignore[assignment]
            plane = colors[:, channel].flatten(1).clamp(float(edges[0]), float(edges[-1]))
            width = float(edges[1] - edges[0])
            distance = (plane[:, None] - edges[None, :, None]).abs() / width
            parts.append(torch.relu(1.0 - distance).mean(2).sqrt())
        return torch.cat(parts, 1)


def _cosine_filters(side: int) -> Tensor:
    """Return the orthonormal basis of the cosine transform (DCT-II), (side^2, 1, side, side)."""
    place, frequency = torch.arange(side) + 0.5, torch.arange(side)
    basis = torch.cos(math.pi / side * frequency[:, None] * place[None]) * math.sqrt(2.0 / side)
    basis[0] = math.sqrt(1.0 / side)
    filters = basis[:, None, :, None] * basis[None, :, None, :]
    return filters.reshape(side**2, 1, side, side)


def _convolutions(channels_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2 and a 1x1, all normalized."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            nn.Conv2d(channels_in, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels_in = width
    layers += [nn.Conv2d(channels_in, channels_in, 1, bias=False), nn.BatchNorm2d(channels_in)]
    return nn.Sequential(*layers, nn.ReLU())
