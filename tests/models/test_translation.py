"""Old-photo translation: damaged positions have no part in what fills them; shapes; the whole."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models.translation import (
    LatentMapping,
    OldPhotoTranslation,
    PartialNonLocal,
    PhotoAutoencoder,
    TranslationConfig,
    latent_damage,
)

TINY = TranslationConfig(
    stem_channels=4, channels=8, latent_channels=6, vae_blocks=1, mapping_blocks=1,
    attention_channels=4, detector_channels=4,
)  # fmt: skip


@pytest.fixture
def block():
    torch.manual_seed(0)
    return PartialNonLocal(8, 4)


def _damage(*places, size=(8, 8)):
    damage = torch.zeros(1, 1, *size)
    for row, column in places:
        damage[..., row, column] = 1.0
    return damage


def test_what_is_under_damage_changes_nothing_elsewhere(block):
    features = torch.randn(1, 8, 8, 8)
    damage = _damage((2, 3), (2, 4), (3, 3))
    changed = features + 100.0 * torch.randn_like(features) * damage
    before, after = (block(one, damage) for one in (features, changed))
    intact = damage.expand_as(before) == 0.0
    assert torch.equal(before[intact], after[intact])
    # without the mask it does
    assert not torch.allclose(
        block(features, 0 * damage)[intact], block(changed, 0 * damage)[intact], atol=1e-3
    )


def test_a_position_gets_the_weighted_mean_of_the_undamaged_ones(block):
    features = torch.randn(1, 8, 4, 4)
    damage = _damage((0, 0), (0, 1), (1, 0), (1, 1), (2, 2), size=(4, 4))
    query = block.query(features)[0].flatten(1).T
    tokens, shares = [], []
    for row in (0, 2):
        for column in (0, 2):
            cells = [
                features[0, :, r, c]
                for r in (row, row + 1)
                for c in (column, column + 1)
                if damage[0, 0, r, c] == 0
            ]
            if cells:
                tokens.append(torch.stack(cells).mean(0))
                shares.append(len(cells) / 4.0)
    assert len(tokens) == 3  # the first four positions are all damaged
    pooled = torch.stack(tokens).T[None, :, :, None]
    key, value = (layer(pooled)[0, :, :, 0] for layer in (block.key, block.value))
    affinity = torch.tensor(shares) * (query @ key / 4**0.5).exp()
    affinity = affinity / affinity.sum(1, keepdim=True)
    expected = block.output((value @ affinity.T).view(1, 4, 4, 4))
    assert torch.allclose(block(features, damage), expected, atol=1e-5)


def test_a_photo_that_is_damaged_all_over_gives_the_bias_alone(block):
    filled = block(torch.randn(1, 8, 8, 8), torch.ones(1, 1, 8, 8))
    assert torch.equal(filled, block.output.bias[None, :, None, None].expand_as(filled))


def test_undamaged_positions_keep_the_local_branch_and_damaged_ones_take_the_global():
    torch.manual_seed(0)
    mapping = LatentMapping(TINY)
    features, damage = torch.randn(1, 8, 8, 8), _damage((2, 3), (5, 5))
    fused = mapping.fuse(features, damage)
    is_damaged = damage.expand_as(fused) == 1.0
    assert torch.equal(fused[~is_damaged], mapping.local_branch(features)[~is_damaged])
    context = mapping.global_branch(mapping.non_local(features, damage))
    assert torch.equal(fused[is_damaged], context[is_damaged])


def test_the_mapping_does_not_see_latents_under_damage():
    torch.manual_seed(0)
    mapping = LatentMapping(TINY)
    latents, damage = torch.randn(1, 6, 8, 8), _damage((2, 3), (5, 5))
    assert torch.equal(mapping(latents, damage), mapping(latents + 9.0 * damage, damage))


def test_latent_damage_has_every_damaged_pixel():
    damage = torch.zeros(1, 1, 16, 24)
    damage[..., 7, 12] = 1.0
    small = latent_damage(damage)
    assert small.shape == (1, 1, 4, 6)
    assert small.sum() == small[0, 0, 1, 3] == 1.0


def test_an_autoencoder_without_noise_decodes_the_mean():
    torch.manual_seed(0)
    vae = PhotoAutoencoder(TINY)
    photos = torch.rand(2, 3, 32, 48)
    decoded, latents, mean, log_variance = vae(photos, torch.zeros(2, 6, 8, 12))
    assert decoded.shape == photos.shape
    assert latents.shape == log_variance.shape == (2, 6, 8, 12)
    assert torch.equal(latents, mean)
    noise = torch.randn(2, 6, 8, 12)
    _, moved, _, _ = vae(photos, noise)
    assert torch.allclose(moved - mean, noise * (0.5 * log_variance).exp(), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (32, 40)])
def test_the_whole_network_restores_frames_of_any_multiple(size):
    torch.manual_seed(0)
    network = OldPhotoTranslation(TINY).eval()
    with torch.inference_mode():
        photos = torch.rand(2, 3, *size)
        restored, damage = network(photos)
        assert restored.shape == photos.shape
        assert damage.shape == (2, 1, *size)
        assert set(damage.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(restored, network.translate(photos, damage))


def test_other_sizes_are_refused():
    with pytest.raises(ImageError, match="multiples of 8"):
        OldPhotoTranslation(TINY)(torch.rand(1, 3, 12, 16))
    with pytest.raises(OptionError, match="channels must be at least 1"):
        TranslationConfig(channels=0)
