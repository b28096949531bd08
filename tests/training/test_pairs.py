"""Pairs: read from a table, refused when they do not fit, cut alike on both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.errors import DataError
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.pairs import Light, Pairs, draw_batch, draw_light, load_pairs


def _folder(tmp_path, sizes=((32, 32), (32, 32))):
    rows = ["low,high,scene,split"]
    for index, size in enumerate(sizes):
        for side in ("low", "high"):
            array = np.full((size[0], size[1], 3), 40 * index + (10 if side == "low" else 200))
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / f"{side}{index}.png")
        rows.append(f"low{index}.png,high{index}.png,{index},{'train' if index else 'val'}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def _noise_pair(size=(48, 64)):
    picture = torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(0)).byte()
    return Pairs(("a",), (picture,), (picture,), "sha")


def test_splits_are_kept_apart(tmp_path):
    folder = _folder(tmp_path)
    assert [pair.scene for pair in list_pairs(folder).val] == ["0"]
    loaded = load_pairs(list_pairs(folder).train)
    assert loaded.names == ("low1",)
    assert loaded.low[0][:, 0, 0].tolist() == [50, 50, 50]
    assert loaded.high[0].shape == (3, 32, 32)


def test_the_hash_follows_the_content(tmp_path):
    folder = _folder(tmp_path)
    before = load_pairs(list_pairs(folder).train).sha256
    assert load_pairs(list_pairs(folder).train).sha256 == before
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "low1.png")
    assert load_pairs(list_pairs(folder).train).sha256 != before


def test_pictures_that_do_not_fit_are_named(tmp_path):
    folder = _folder(tmp_path)
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(folder / "high1.png")
    with pytest.raises(DataError, match=r"low1.png is 32x32 and .*high1.png 32x16"):
        load_pairs(list_pairs(folder).train)
    (folder / "high1.png").write_text("no picture")
    with pytest.raises(DataError, match=r"high1\.png"):
        load_pairs(list_pairs(folder).train)


def test_a_state_of_chance_repeats_and_moves_on():
    pairs = _noise_pair()
    draws = [
        draw_batch(pairs, 2, 16, 16, torch.Generator().manual_seed(seed)).high for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("crop", [16, None])
def test_both_sides_are_cut_and_turned_alike(crop):
    pairs = _noise_pair()
    for seed in range(12):
        batch = draw_batch(pairs, 2, crop, 16, torch.Generator().manual_seed(seed))
        # low is high in another light, clamped, with a little noise; two differently cut
        # pictures of random pixels would have nothing in common
        for low, high in zip(batch.low, batch.high, strict=True):
            both = torch.stack((low.flatten(), high.flatten()))
            assert torch.corrcoef(both)[0, 1] > 0.98


def test_half_of_the_pictures_get_more_noise_and_not_too_much():
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    pairs = Pairs(("a",), (grey,), (grey,), "sha")
    found = [
        float(draw_batch(pairs, 1, 32, 16, torch.Generator().manual_seed(seed)).low.std())
        for seed in range(200)
    ]
    assert sum(deviation > 1e-5 for deviation in found) == pytest.approx(100, abs=25)
    assert max(found) < 1.1 * 6.0 / 255.0


def test_a_quarter_of_the_pictures_is_lit_and_half_of_these_wholly():
    generator = torch.Generator().manual_seed(0)
    lights = [draw_light(generator) for _ in range(4000)]
    shares = [light.towards_reference for light in lights]
    assert sum(share > 0 for share in shares) == pytest.approx(1000, abs=100)
    assert sum(share == 1.0 for share in shares) == pytest.approx(500, abs=70)
    assert all(0.79 < light.exposure < 1.26 for light in lights)
    assert all(light.exposure == 1.0 for light in lights if light.towards_reference)


def test_light_is_exposure_or_the_way_to_the_reference():
    low, high = torch.full((3, 4, 4), 0.6), torch.full((3, 4, 4), 0.8)
    assert torch.equal(Light().on(low, high), low)
    assert torch.equal(Light(towards_reference=1.0).on(low, high), high)
    assert torch.allclose(Light(towards_reference=0.5).on(low, high), torch.tensor(0.7))
    assert torch.equal(Light(exposure=2.0).on(low, high), torch.ones(3, 4, 4))


def test_the_thumbnail_shows_the_frame_and_not_the_crop():
    batch = draw_batch(_noise_pair(), 1, 16, 16, torch.Generator().manual_seed(0))
    assert batch.low.shape == (1, 3, 16, 16)
    assert batch.thumbnail_low.shape == (1, 3, 6, 8)


def test_whole_frames_are_cut_to_the_multiple():
    batch = draw_batch(_noise_pair((50, 70)), 1, None, 16, torch.Generator().manual_seed(0))
    assert batch.low.shape == (1, 3, 48, 64)


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(DataError, match=r"64x48, smaller than the crop of 64"):
        draw_batch(_noise_pair(), 1, 64, 16, torch.Generator().manual_seed(0))
