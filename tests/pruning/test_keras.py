"""A Keras file is pruned as other weights are, and teaches the narrower network."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))
import keras_layouts as layouts

from mirnet_edge import checkpoints
from mirnet_edge.files import sha256_of
from mirnet_edge.pruning.job import PruningRequest, load_pruning, prune_weights
from mirnet_edge.pruning.record import WEIGHTS_FILE


@pytest.mark.parametrize("variant", ["2021", "2023"])
def test_a_keras_file_is_pruned(variant, pairs, tmp_path, made_up_times):
    network = layouts.make_network(variant=variant, channels=16, groups=1, blocks=1)
    weights = layouts.write_legacy(tmp_path / "wide.h5", network)
    request = PruningRequest(
        weights=str(weights), data=pairs, out=tmp_path / "out", speedup=1.2, task="low-light",
        backend="onnxruntime", size=(16, 16), device="cpu", workers=0, importance="magnitude",
        training={"steps": 2, "batch": 1, "crops": (16,)},
    )  # fmt: skip
    record = prune_weights(load_pruning(request), Mock())
    narrow = checkpoints.load(request.out / WEIGHTS_FILE)
    assert narrow.architecture == "keras-mirnet"
    assert narrow.model.config.variant == variant
    assert (record.finished, record.rounds[-1].distilled.steps) == (True, 2)
    assert narrow.card.teacher == narrow.card.parent == sha256_of(weights)
    assert record.pruned_size.parameters < record.unpruned_size.parameters
