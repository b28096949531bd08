"""Keeping what weights could do: how far towards the fine-tuned ones a loss allows to go."""

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
def losing(ends, monkeypatch):
    """Make validation lose dB along the line: losing(lambda share: 2.0 * share)."""
    former, tuned = (one.head.weight for one in ends)

    def use(drop_db):
        def validate(network, images):
            assert images == "former"
            share = float((network.head.weight - former).norm() / (tuned - former).norm())
            return 30.0 - drop_db(share), 30.0, 0.9, 0.1

        monkeypatch.setattr(job, "validate", validate)

    return use


def test_it_goes_as_far_as_the_loss_allows_and_tells_what_it_tried(ends, losing):
    losing(lambda share: 2.0 * share**2)  # 0.3 dB are lost at 0.387
    tried = []
    found = interpolate_within_drop(*ends, "former", 0.3, lambda *values: tried.append(values))
    assert found.share == 6 / 16
    assert found.accuracy_drop_db == pytest.approx(2.0 * (6 / 16) ** 2, abs=1e-4)
    expected = torch.lerp(ends[0].head.weight, ends[1].head.weight, found.share)
    torch.testing.assert_close(found.network.head.weight, expected)
    assert (found.share, found.accuracy_drop_db) in tried
    assert len(tried) <= 5


@pytest.mark.parametrize(
    ("drop_db", "share"),
    [(lambda share: 0.1 * share, 1.0), (lambda share: -share, 1.0), (lambda share: 9 * share, 0)],
    ids=["little is lost", "something is won", "everything would be lost"],
)
def test_all_or_nothing(ends, losing, drop_db, share):
    losing(drop_db)
    found = interpolate_within_drop(*ends, "former", 0.3)
    assert found.share == share
    assert torch.equal(found.network.head.weight, ends[int(share)].head.weight)
