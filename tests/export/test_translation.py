"""The graph of old-photo translation computes what the network does, for frames of other sizes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from mirnet_edge.errors import GraphError
from mirnet_edge.export.translation import (
    DAMAGE,
    TranslationInterface,
    check_translation,
    export_translation,
)
from mirnet_edge.models.translation import OldPhotoTranslation, TranslationConfig
from mirnet_edge.onnx_files import INPUT, OUTPUT

CONFIG = TranslationConfig(
    stem_channels=4, channels=8, latent_channels=6, vae_blocks=1, mapping_blocks=1,
    attention_channels=4, detector_channels=4,
)  # fmt: skip


def _network(seed):
    torch.manual_seed(seed)
    network = OldPhotoTranslation(CONFIG).eval()
    leave = network.detector.leave  # without training it finds nothing
    torch.nn.init.normal_(leave.weight)
    torch.nn.init.zeros_(leave.bias)
    return network


def test_the_graph_equals_the_network_at_other_sizes_and_no_other_network(tmp_path):
    network, file = _network(0), tmp_path / "translation.onnx"
    assert export_translation(network, file) <= 1e-4
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for shape in ((1, 16, 24, 3), (3, 72, 40, 3)):
        frames = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        restored, damage = session.run([OUTPUT, DAMAGE], {INPUT: frames})
        with torch.inference_mode():
            expected = TranslationInterface(network)(torch.from_numpy(frames))
        assert np.abs(restored - expected[0].numpy()).max() <= 1e-4
        assert np.array_equal(damage, expected[1].numpy())
        assert 0.0 < damage.mean() < 1.0
    with pytest.raises(GraphError, match="differs from the network"):
        check_translation(_network(1), file)
