"""Old photos by triplet-domain translation: two VAEs, a latent mapping, a scratch detector.

After Wan et al., "Bringing Old Photos Back to Life", CVPR 2020. Real old photos, synthetic old ones
and clean ones are three domains. One VAE encodes both kinds of old photos into one latent space,
where they are made alike; another encodes clean photos. A mapping translates the latents of the
first space to those of the second, and the clean VAE's decoder makes the photo. Scratches are found
by a detector; inside the mapping a partial non-local block fills what they hide from the rest of
the photo.

All of it is much smaller than in the paper, and deterministic in use: latents are posterior means.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mirnet_edge.errors import OptionError
from mirnet_edge.models.blocks import require_batch
from mirnet_edge.models.damage import DamageBranch

LATENT_STRIDE = 4
"""Pixels per latent position, each way."""
MULTIPLE = 8
"""What the sides of a batch are multiples of: the non-local block halves the latent once more."""
MOST_PIXELS = 512 * 512
"""Largest frame in one piece: the affinities of the non-local block are then 256 MiB."""

_LEAST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE = -12.0, 4.0
_POOL = 2  # latent positions each way that share a key
_HIDDEN_AFFINITY = -1e4


@dataclass(frozen=True, kw_only=True)
class TranslationConfig:
    """Sizes of the networks.

    Raises:
        OptionError: One is below 1.
    """

    stem_channels: int = 32
    """At half the resolution, in encoders and decoders."""
    channels: int = 64
    """At a quarter of the resolution, there and in the mapping."""
    latent_channels: int = 48
    vae_blocks: int = 2
    """Residual blocks of each encoder and of each decoder."""
    mapping_blocks: int = 2
    """Residual blocks of the mapping before, in each branch of, and behind the non-local block."""
    attention_channels: int = 32
    """Of queries, keys and values of the non-local block."""
    detector_channels: int = 24
    """Of the scratch detector, a `DamageBranch`, at half the resolution."""

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        for name, value in asdict(self).items():
            if value < 1:
                raise OptionError(f"{name} must be at least 1, found {value}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input; at first they add nothing.

    There is no normalization: statistics of a tile are not those of the photo. Stacks of blocks
    that begin at random die at learning rates at which these learn.
    """

    def __init__(self, channels: int) -> None:
        """Build with random weights, those of the second convolution zero."""
        super().__init__()
        last = _convolution(channels, channels)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(_convolution(channels, channels), nn.SiLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H, W) for features of that shape."""
        added: Tensor = self.body(features)
        return features + added


class Encoder(nn.Module):
    """Gives the latent's distribution of photos."""

    def __init__(self, config: TranslationConfig) -> None:
        """Build with random weights."""
        super().__init__()
        stem, wide = config.stem_channels, config.channels
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            _convolution(12, stem),
            nn.SiLU(),
            nn.Conv2d(stem, wide, 4, 2, 1),
            nn.SiLU(),
            *(ResidualBlock(wide) for _ in range(config.vae_blocks)),
            nn.SiLU(),
            nn.Conv2d(wide, 2 * config.latent_channels, 1),
        )

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each (N, latent channels, H/4, W/4).

        Args:
            photos: (N, 3, H, W) RGB in [0, 1], H and W multiples of 4.
        """
        mean, log_variance = self.body(photos - 0.5).chunk(2, 1)
        return mean, log_variance.clamp(_LEAST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)


class Decoder(nn.Module):
    """Makes photos of latents."""

    def __init__(self, config: TranslationConfig) -> None:
        """Build with random weights."""
        super().__init__()
        stem, wide = config.stem_channels, config.channels
        self.body = nn.Sequential(
            nn.Conv2d(config.latent_channels, wide, 1),
            *(ResidualBlock(wide) for _ in range(config.vae_blocks)),
            nn.SiLU(),
            _convolution(wide, 4 * stem),
            nn.PixelShuffle(2),
            nn.SiLU(),
            _convolution(stem, stem),
            nn.SiLU(),
            _convolution(stem, 12),
            nn.PixelShuffle(2),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Return (N, 3, 4 h, 4 w) RGB, about [0, 1], of latents (N, C, h, w)."""
        photos: Tensor = self.body(latents)
        return photos + 0.5


class PhotoAutoencoder(nn.Module):
    """A variational autoencoder (VAE) of photos, fully convolutional."""

    def __init__(self, config: TranslationConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, photos: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the decoded photos, the sampled latents, and their mean and log variance.

        Args:
            photos: (N, 3, H, W) RGB in [0, 1], H and W multiples of 4.
            noise: (N, latent channels, H/4, W/4), standard normal; zero for the mean.
        """
        mean, log_variance = self.encoder(photos)
        latents = mean + noise * (0.5 * log_variance).exp()
        return self.decoder(latents), latents, mean, log_variance


class PartialNonLocal(nn.Module):
    """Gives each position a weighted mean of the undamaged ones ("partial nonlocal block").

    The affinity of position i to j is exp(query_i . key_j), times how much of j is undamaged, and
    the affinities of i add up to one: damaged positions have no part in it, neither by their values
    nor by their weights. Two by two positions share a key, the mean of the undamaged ones of them.
    """

    def __init__(self, channels: int, inner: int) -> None:
        """Build with random weights; queries, keys and values have INNER channels."""
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.output = nn.Conv2d(inner, channels, 1)

    def forward(self, features: Tensor, damage: Tensor) -> Tensor:
        """Return (N, C, h, w): what the undamaged positions say about each.

        Args:
            features: (N, C, h, w), h and w even.
            damage: (N, 1, h, w), 1 where a position is damaged, else 0.
        """
        intact = 1.0 - damage
        weight = functional.avg_pool2d(intact, _POOL)
        pooled = functional.avg_pool2d(features * intact, _POOL) / weight.clamp_min(1e-6)
        query = self.query(features).flatten(2).transpose(1, 2)  # (N, h w, inner)
        key, value = (layer(pooled).flatten(2) for layer in (self.key, self.value))
        shares = weight.flatten(2)  # (N, 1, tokens)
        is_intact = (shares > 0.0).to(features.dtype)
        # a share of the softmax is its logarithm in the exponent
        bias = shares.clamp_min(1e-6).log() * is_intact + _HIDDEN_AFFINITY * (1.0 - is_intact)
        affinity = (query @ key / math.sqrt(key.shape[1]) + bias).softmax(2) * is_intact
        seen = (affinity @ value.transpose(1, 2)).transpose(1, 2)
        context: Tensor = self.output(seen.reshape(*query.shape[:1], -1, *features.shape[2:]))
        return context


class LatentMapping(nn.Module):
    """Translates latents of old photos to those of clean ones.

    Two branches behind a few residual blocks: a local one, and a global one through the partial
    non-local block. Undamaged positions take the local branch, damaged ones the global one.
    """

    def __init__(self, config: TranslationConfig) -> None:
        """Build with random weights."""
        super().__init__()
        latent, wide = config.latent_channels, config.channels

        def blocks() -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(wide) for _ in range(config.mapping_blocks)))

        self.first = nn.Sequential(_convolution(latent, wide), blocks())
        self.non_local = PartialNonLocal(wide, config.attention_channels)
        self.local_branch, self.global_branch = blocks(), blocks()
        self.last = nn.Sequential(blocks(), nn.SiLU(), _convolution(wide, latent))

    def forward(self, latents: Tensor, damage: Tensor) -> Tensor:
        """Return the translated latents, (N, C, h, w).

        Args:
            latents: (N, C, h, w), h and w even.
            damage: (N, 1, h, w), 1 where a position is damaged, else 0.
        """
        intact = 1.0 - damage
        features = self.first(latents * intact)
        fused = self.fuse(features, damage)
        mapped: Tensor = self.last(fused)
        # the two spaces are near each other: the clean VAE begins with the old one's weights
        return latents * intact + mapped

    def fuse(self, features: Tensor, damage: Tensor) -> Tensor:
        """Return the local branch where undamaged, the global one where damaged."""
        context = self.global_branch(self.non_local(features, damage))
        kept = self.local_branch(features)
        fused: Tensor = kept * (1.0 - damage) + context * damage
        return fused


class LatentDiscriminator(nn.Module):
    """Tells latents of real old photos from those of synthetic ones, position by position."""

    def __init__(self, config: TranslationConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(config.latent_channels, config.channels, 4, 2, 1),
            nn.LeakyReLU(0.2),
            _convolution(config.channels, config.channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(config.channels, 1, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Return (N, 1, h/2, w/2): towards 1 for real, 0 for synthetic (least squares)."""
        scores: Tensor = self.body(latents)
        return scores


class OldPhotoTranslation(nn.Module):
    """All networks: what training trains, and what restores a photo."""

    multiple = MULTIPLE

    def __init__(self, config: TranslationConfig | None = None) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config = config or TranslationConfig()
        self.old, self.clean = PhotoAutoencoder(config), PhotoAutoencoder(config)
        self.mapping = LatentMapping(config)
        self.detector = DamageBranch(config.detector_channels)

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Return restored photos, (N, 3, H, W), and the damage found, (N, 1, H, W), 0 or 1.

        Args:
            photos: (N, 3, H, W) RGB in [0, 1], H and W multiples of 8.

        Raises:
            ImageError: Another shape.
        """
        require_batch(photos, type(self).__name__, 3, self.multiple)
        damage = (self.detector(photos) > 0.5).to(photos.dtype)
        return self.translate(photos, damage), damage

    def translate(self, photos: Tensor, damage: Tensor) -> Tensor:
        """Return restored photos, (N, 3, H, W), whose damage (N, 1, H, W) is known."""
        mean, _ = self.old.encoder(photos)
        restored: Tensor = self.clean.decoder(self.mapping(mean, latent_damage(damage)))
        return restored


def latent_damage(damage: Tensor) -> Tensor:
    """Return which latent positions hold damage: (N, 1, H/4, W/4) for (N, 1, H, W), 0 or 1."""
    return functional.max_pool2d(damage, LATENT_STRIDE)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
