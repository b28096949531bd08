"""Interpolated weights (WiSE-FT): the fraction that an allowed accuracy drop permits."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.training import job
from mirnet_edge.training.job import interpolate_within_drop


@pytest.fixture
def ends(network_of):
    """Return two networks of one shape."""
    return network_of("edge", 0), network_of("edge", 1)


@pytest.fixture
def set_drop(ends, monkeypatch):
    """Set the accuracy drop along the line: set_drop(lambda fraction: 2.0 * fraction)."""
    initial, fine_tuned = (one.head.weight for one in ends)

    def use(drop_db):
        def validate(network, images):
            assert images == "replay"
            fraction = float((network.head.weight - initial).norm() / (fine_tuned - initial).norm())
            return 30.0 - drop_db(fraction), 30.0, 0.9, 0.1

        monkeypatch.setattr(job, "validate", validate)

    return use


def test_the_fraction_is_the_largest_within_the_drop_and_tried_ones_are_reported(ends, set_drop):
    set_drop(lambda fraction: 2.0 * fraction**2)  # a drop of 0.3 dB at 0.387
    tried = []
    found = interpolate_within_drop(*ends, "replay", 0.3, lambda *values: tried.append(values))
    assert found.fraction == 6 / 16
    assert found.accuracy_drop_db == pytest.approx(2.0 * (6 / 16) ** 2, abs=1e-4)
    expected = torch.lerp(ends[0].head.weight, ends[1].head.weight, found.fraction)
    torch.testing.assert_close(found.network.head.weight, expected)
    assert (found.fraction, found.accuracy_drop_db) in tried
    assert len(tried) <= 5


@pytest.mark.parametrize(
    ("drop_db", "fraction"),
    [
        (lambda fraction: 0.1 * fraction, 1.0),
        (lambda fraction: -fraction, 1.0),
        (lambda fraction: 9 * fraction, 0),
    ],
    ids=["small drop", "improvement", "large drop"],
)
def test_the_fraction_is_all_or_nothing(ends, set_drop, drop_db, fraction):
    set_drop(drop_db)
    found = interpolate_within_drop(*ends, "replay", 0.3)
    assert found.fraction == fraction
    assert torch.equal(found.network.head.weight, ends[int(fraction)].head.weight)
