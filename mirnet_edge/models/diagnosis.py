"""The diagnosis network: what is wrong with a frame, from its overview and crops at 1:1.

Two branches, joined by a perceptron. Of each crop a fixed first layer takes the spectrum, the
energy of each coefficient of its 8x8 cosine transforms, which tells noise from blur and texture:
noise is the same at all frequencies and everywhere in a crop, blur has no high frequencies, and
texture is in some places only, so that its mean logarithm lies far below the logarithm of its mean.
A third statistic looks at the flattest blocks alone, which show weak noise best. The overview gets
a small CNN, for damage, and statistics of its tones, for light and fading: histograms, quantiles of
each channel, which show gray blacks and dull whites, and the colors of each brightness, as an old
print has one color for each.

The fixed layers have no weights, so that training computes them once for each sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_BLOCK = 8  # side of the cosine transforms, in pixels; of chroma at half the size
_LUMA_STEP, _CHROMA_STEP = 8, 4  # between them: luma's are the blocks of a JPEG file
_DARKEST, _BRIGHTEST = 15.0, 235.0  # levels of a block beyond which its noise may be clipped
_CLIPPED_WEIGHT = 3.0  # levels that make a clipped block e times less likely to be the flattest
_LEAST_ENERGY = 0.02  # levels^2: below rounding to 8 bits
_LUMA_BINS, _CHROMA_BINS = 16, 8
_TONE_BINS = 8  # of luma, for the mean color of each
_LEAST_TONE = 0.02  # fraction of the pixels below which the color of a bin says little
_QUANTILES = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
_BORDER = 6  # pixels of the overview at each side, which may be a print's paper: not in quantiles
_LARGEST_CHROMA = 0.25
_RESIDUAL_GAIN = 4.0
_OVERVIEW_BLOCK = 2  # pixels each way that become channels
_OVERVIEW_PLANES = 8  # colors, their high frequencies, damage
_LARGEST_LOG_SIGMA = 5.0  # sigma 148
# luma and two differences, orthogonal enough for statistics
_COLORS = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))

SPECTRUM = 7 * _BLOCK**2 + 7
"""Features of a crop that the fixed layer gives."""
TONES = _LUMA_BINS + 2 * _CHROMA_BINS + 3 * len(_QUANTILES) + 2 * 2 * 3 + 2 * _TONE_BINS + 4
"""Features of the overview that the fixed layer gives."""


@dataclass(frozen=True)
class DiagnosisConfig:
    """Shape of a diagnosis network."""

    overview_channels: tuple[int, ...] = (24, 32, 64, 96)
    """Of the overview's 3x3 convolutions, of stride 2 but the first."""
    crop_channels: int = 96
    """Of the layers that see one crop's spectrum."""
    hidden: int = 128
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
        self.overview = _convolutions(
            _OVERVIEW_PLANES * _OVERVIEW_BLOCK**2, config.overview_channels
        )
        width = config.crop_channels
        self.crops = nn.Sequential(
            nn.BatchNorm1d(SPECTRUM),
            nn.Linear(SPECTRUM, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        features = TONES + 2 * config.overview_channels[-1] + 4 * width
        self.head = nn.Sequential(
            nn.BatchNorm1d(features),
            nn.Linear(features, config.hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(config.hidden, config.labels + 1),
        )

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels' logits, (N, labels), and the noise's sigma in 8-bit levels, (N,).

        Args:
            overview: (N, 5, S, S) in [0, 1], S a multiple of 16: RGB, bright and dark damage.
            crops: (N, K, 3, C, C) RGB in [0, 1], K even: those with the most detail first.
        """
        return self.score_statistics(overview, *self.statistics(overview, crops))

    def score_statistics(
        self, overview: Tensor, spectrum: Tensor, tones: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` returns, from what `FrameStatistics` gives for the frames."""
        seen = functional.pixel_unshuffle(self.statistics.add_residual(overview), _OVERVIEW_BLOCK)
        whole = self.overview(seen)
        count, places = spectrum.shape[:2]
        local = self.crops(spectrum.flatten(0, 1)).view(count, places, -1)
        detailed, flat = local[:, : places // 2], local[:, places // 2 :]
        joined = torch.cat(
            [
                tones,
                whole.mean((2, 3)),
                whole.amax((2, 3)),
                detailed.mean(1),
                flat.mean(1),
                local.amax(1),
                local.amin(1),
            ],
            1,
        )
        found = self.head(joined)
        return found[:, :-1], found[:, -1].clamp(max=_LARGEST_LOG_SIGMA).exp()


class FrameStatistics(nn.Module):
    """The fixed layers: spectra of crops, the overview's tones and its high frequencies."""

    def __init__(self) -> None:
        """Compute the filters."""
        super().__init__()
        blur = torch.tensor([[1.0, 2.0, 1.0], [2.0, -12.0, 2.0], [1.0, 2.0, 1.0]]) / -16.0
        for name, value in (
            ("colors", torch.tensor(_COLORS)[:, :, None, None]),
            ("filters", _cosine_filters(_BLOCK)),
            ("high_pass", blur.expand(3, 1, 3, 3).clone()),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return the crops' spectra, (N, K, SPECTRUM), and the tones, (N, TONES)."""
        count, places = crops.shape[:2]
        spectrum = self._spectrum(crops.flatten(0, 1)).view(count, places, -1)
        return spectrum, self._tones(overview[:, :3, ::2, ::2])  # a quarter of the pixels is enough

    def add_residual(self, overview: Tensor) -> Tensor:
        """Return the overview and its colors' amplified high frequencies, (N, 8, S, S)."""
        padded = functional.pad(overview[:, :3], (1, 1, 1, 1), mode="reflect")
        residual = functional.conv2d(padded, self.high_pass, groups=3)  # type: ignore[arg-type]
        return torch.cat([overview, torch.tanh(_RESIDUAL_GAIN * residual)], 1)

    def _spectrum(self, crops: Tensor) -> Tensor:
        colors = 255.0 * functional.conv2d(crops, self.colors)  # type: ignore[arg-type]
        blocks = functional.conv2d(colors[:, :1], self.filters, stride=_LUMA_STEP)  # type: ignore[arg-type]
        energy = blocks.square() + _LEAST_ENERGY
        level = blocks[:, :1] / _BLOCK
        weight = self._flatness(energy, level)
        parts = [
            (crops.mean((2, 3)) - 0.5) * 4.0,
            torch.log(crops.var((2, 3)) + 1e-4),
            *_energies(energy),
            (energy * weight).sum((2, 3)).log(),
            (level * weight).sum((2, 3)) / 64.0,
        ]
        for channel in (1, 2):
            plane = functional.avg_pool2d(colors[:, channel : channel + 1], 2)
            chroma = functional.conv2d(plane, self.filters, stride=_CHROMA_STEP)  # type: ignore[arg-type]
            parts += _energies(chroma.square() + _LEAST_ENERGY)
        return torch.cat(parts, 1)

    @staticmethod
    def _flatness(energy: Tensor, level: Tensor) -> Tensor:
        """Return weights of blocks, (N, 1, H, W) with a sum of 1: most for flat, unclipped ones."""
        clipped = torch.relu(level - _BRIGHTEST) + torch.relu(_DARKEST - level)
        activity = energy[:, 1:].mean(1, keepdim=True).log() + clipped / _CLIPPED_WEIGHT
        return torch.softmax(-activity.flatten(1), 1).view(level.shape)

    def _tones(self, overview: Tensor) -> Tensor:
        """Return histograms, quantiles, and the colors of each brightness, (N, TONES)."""
        luma, *chroma = functional.conv2d(overview, self.colors).flatten(2).unbind(1)  # type: ignore[arg-type]
        parts = [_soft_bins(luma, 0.0, 1.0, _LUMA_BINS).mean(2).sqrt()]
        parts += [
            _soft_bins(plane, -_LARGEST_CHROMA, _LARGEST_CHROMA, _CHROMA_BINS).mean(2).sqrt()
            for plane in chroma
        ]
        border = _BORDER // 2
        inner = overview[:, :, border:-border, border:-border].flatten(2)
        ordered = inner.sort(2).values
        last = ordered.shape[2] - 1
        for quantile in _QUANTILES:
            level = ordered[:, :, round(quantile * last)]
            parts.append(level)
            if quantile < 0.1 or quantile > 0.9:  # a little gray in black is much
                parts.append(torch.log((level if quantile < 0.5 else 1.0 - level) + 0.02))
        weights = _soft_bins(luma, 0.0, 1.0, _TONE_BINS)
        share = weights.mean(2)
        for plane in chroma:
            center = (weights * plane[:, None]).mean(2)
            tone = center / (share + _LEAST_TONE)
            mean = plane.mean(1, keepdim=True)
            within = (plane.square().mean(1) - (center.square() / (share + 1e-6)).sum(1)).clamp(
                min=0.0
            )
            around = (plane - mean).square().mean(1)
            parts += [tone, *(torch.log(one + 1e-5)[:, None] for one in (within, around))]
        return torch.cat(parts, 1)


def _soft_bins(values: Tensor, first: float, last: float, count: int) -> Tensor:
    """Return how much each of (N, P) values belongs to each evenly spaced center, (N, COUNT, P)."""
    width = (last - first) / (count - 1)
    inside = values.clamp(first, last)
    parts = [(inside - (first + place * width)).abs() for place in range(count)]
    return torch.relu(1.0 - torch.stack(parts, 1) / width)


def _energies(energy: Tensor) -> list[Tensor]:
    """Return the logarithm of each frequency's mean energy, and the mean of its logarithm."""
    return [energy.mean((2, 3)).log(), energy.log().mean((2, 3))]


def _cosine_filters(side: int) -> Tensor:
    """Return the orthonormal basis of the cosine transform (DCT-II), (side^2, 1, side, side)."""
    place, frequency = torch.arange(side) + 0.5, torch.arange(side)
    basis = torch.cos(math.pi / side * frequency[:, None] * place[None]) * math.sqrt(2.0 / side)
    basis[0] = math.sqrt(1.0 / side)
    filters = basis[:, None, :, None] * basis[None, :, None, :]
    return filters.reshape(side**2, 1, side, side)


def _convolutions(channels_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return 3x3 convolutions, all but the first of stride 2, and a 1x1, all normalized."""
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        layers += [
            nn.Conv2d(channels_in, width, 3, 2 if place else 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels_in = width
    layers += [nn.Conv2d(channels_in, channels_in, 1, bias=False), nn.BatchNorm2d(channels_in)]
    return nn.Sequential(*layers, nn.ReLU())
