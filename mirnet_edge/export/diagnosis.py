"""Export a trained diagnosis network: views as uint8 in, scores and sigma out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mirnet_edge.diagnosis.network import CROPS, OVERVIEW, SCORES, SIGMA, open_session
from mirnet_edge.diagnosis.views import CROP_SIDE, OVERVIEW_CHANNELS, OVERVIEW_SIDE
from mirnet_edge.diagnosis.views import CROPS as CROP_COUNT
from mirnet_edge.errors import GraphError
from mirnet_edge.export.onnx_graph import OPSET, strip_metadata
from mirnet_edge.onnx_files import suppress_library_output, write_model

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.models.diagnosis import DiagnosisNetwork

_LARGEST_BATCH = 64
_LARGEST_DIFFERENCE = 1e-4  # of scores


class ViewsInterface(nn.Module):
    """A diagnosis network that takes uint8 views and gives scores in [0, 1]."""

    def __init__(self, network: DiagnosisNetwork) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores, (N, labels), and sigma, (N,), of (N, S, S, 5) and (N, K, C, C, 3)."""
        logits, sigma = self.network(
            overview.permute(0, 3, 1, 2).float() / 255.0,
            crops.permute(0, 1, 4, 2, 3).float() / 255.0,
        )
        return torch.sigmoid(logits), sigma


def export_diagnosis(network: DiagnosisNetwork, path: Path) -> None:
    """Write a network as an ONNX file for up to 64 frames, checked against the network.

    Raises:
        GraphError: It cannot be exported, or the file computes something else.
    """
    deployed = ViewsInterface(network).eval()
    generator = np.random.default_rng(0)
    overview, crops = (
        torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
        for shape in (
            (2, OVERVIEW_SIDE, OVERVIEW_SIDE, OVERVIEW_CHANNELS),
            (2, CROP_COUNT, CROP_SIDE, CROP_SIDE, 3),
        )
    )
    frames = torch.export.Dim("frames", min=1, max=_LARGEST_BATCH)
    with suppress_library_output(), torch.inference_mode():
        program = torch.onnx.export(
            deployed,
            (overview, crops),
            dynamo=True,
            opset_version=OPSET,
            input_names=[OVERVIEW, CROPS],
            output_names=[SCORES, SIGMA],
            dynamic_shapes=({0: frames}, {0: frames}),
            verbose=False,
        )
        expected = deployed(overview, crops)
    if program is None:
        raise GraphError("torch gave no ONNX program; please report it with torch's version")
    write_model(strip_metadata(program.model_proto), path)
    feed = {OVERVIEW: overview.numpy(), CROPS: crops.numpy()}
    open_session.cache_clear()  # a file of that name may have been another one
    found = open_session(path).run([SCORES, SIGMA], feed)
    difference = float(np.abs(found[0] - expected[0].numpy()).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise GraphError(
            f"{path.name} differs from the network by {difference:.2g} in a score, expected at "
            f"most {_LARGEST_DIFFERENCE:g}. This is a fault of the export; please report it"
        )
