"""Thumbnails: of whole images or parts, made once, the same at every call."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.training.pairs import Thumbnails, thumbnail_from_frame


def _noised(frame, generator):
    return frame // 2 + generator.integers(0, 100, frame.shape, "uint8")


def test_a_clean_image_has_differently_degraded_thumbnails(make_pairs):
    clean = make_pairs(2, (50, 70), degrade=_noised)
    found, again = Thumbnails(clean, 3), Thumbnails(clean, 3)
    assert len(found) == 6
    assert len({degraded.numpy().tobytes() for degraded, _ in found}) == 6
    for place, (degraded, target) in enumerate(found):
        assert found[place][0] is degraded
        assert degraded.shape == target.shape == (3, 24, 36)
        assert torch.equal(degraded, again[place][0])
        assert float(target.mean()) == pytest.approx(
            clean.targets[place // 3].mean() / 255, abs=0.02
        )


def test_every_second_thumbnail_is_of_a_part_of_the_image(make_pairs):
    found = Thumbnails(make_pairs(1, (48, 64), degrade=_noised), 6)
    whole = thumbnail_from_frame(make_pairs(1, (48, 64)).targets[0])
    shows_all = [torch.equal(found[place][1], whole) for place in range(6)]
    assert shows_all == [True, False] * 3
    assert len({found[place][1].numpy().tobytes() for place in (1, 3, 5)}) == 3


def test_degraded_and_target_thumbnails_show_the_same_part(make_pairs):
    seen = []

    def halved(frame, generator):
        seen.append(frame.shape)
        return frame[::2, ::2]

    found = Thumbnails(make_pairs(1, (48, 64), scale=2, degrade=halved), 8)
    for place in range(8):
        degraded, target = found[place]
        assert float(degraded.mean()) == pytest.approx(float(target.mean()), abs=0.05)
    assert all(height % 2 == width % 2 == 0 for height, width, _ in seen)
    assert all(24 <= height <= 48 for height, _, _ in seen)


def test_pairs_have_one_thumbnail_each_whatever_the_samples_per_image(make_pairs):
    pairs = make_pairs(2, (50, 70))
    found = Thumbnails(pairs, 3)
    assert [
        degraded is pairs.thumbnails(index)[0] for index, (degraded, _) in enumerate(found)
    ] == [True] * 2


def test_thumbnails_show_the_whole_images_and_are_made_once(make_pairs):
    pairs = make_pairs(2, (50, 70))
    degraded, target = pairs.thumbnails(1)
    assert degraded.shape == target.shape == (3, 24, 36)
    assert float(target.mean()) == pytest.approx(pairs.targets[1].mean() / 255.0, abs=0.02)
    assert float(degraded.mean()) == pytest.approx(pairs.degraded[1].mean() / 255.0, abs=0.02)
    assert pairs.thumbnails(1)[0] is degraded
