"""Export old-photo translation: uint8 frames in, restored frames and found damage out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mirnet_edge.errors import GraphError
from mirnet_edge.export.onnx_graph import OPSET, strip_metadata
from mirnet_edge.models.translation import MULTIPLE
from mirnet_edge.onnx_files import INPUT, OUTPUT, suppress_library_output, write_model
from mirnet_edge.onnx_sessions import OnnxSession

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.models.translation import OldPhotoTranslation

DAMAGE = "damage"
"""The graph's second output."""
_LARGEST_SIDE = 512
_LARGEST_BATCH = 16
_LARGEST_DIFFERENCE = 1e-4  # of pixels in [0, 1], before rounding


class TranslationInterface(nn.Module):
    """Old-photo translation that takes uint8 frames and gives floats in [0, 1]."""

    def __init__(self, network: OldPhotoTranslation) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return restored frames, (N, H, W, 3), and damage, (N, H, W), of (N, H, W, 3) uint8."""
        restored, damage = self.network(frames.permute(0, 3, 1, 2).float() / 255.0)
        return restored.clamp(0.0, 1.0).permute(0, 2, 3, 1), damage[:, 0]


def export_translation(network: OldPhotoTranslation, path: Path) -> float:
    """Write a network as an ONNX file for frames of up to 512x512, checked against the network.

    Returns:
        The largest difference of a restored pixel in [0, 1] from the network's.

    Raises:
        GraphError: It cannot be exported, or the file computes something else.
    """
    deployed = TranslationInterface(network).eval()
    generator = np.random.default_rng(0)
    example = generator.integers(0, 256, (2, 6 * MULTIPLE, 8 * MULTIPLE, 3), np.uint8)
    frames = torch.from_numpy(example)
    blocks = _LARGEST_SIDE // MULTIPLE
    height, width = (torch.export.Dim(name, min=2, max=blocks) for name in ("rows", "columns"))
    shape = {
        0: torch.export.Dim("frames", min=1, max=_LARGEST_BATCH),
        1: MULTIPLE * height,
        2: MULTIPLE * width,
    }
    with suppress_library_output(), torch.inference_mode():
        program = torch.onnx.export(
            deployed,
            (frames,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT, DAMAGE],
            dynamic_shapes=(shape,),
            verbose=False,
        )
    if program is None:
        raise GraphError("torch gave no ONNX program; please report it with torch's version")
    write_model(strip_metadata(program.model_proto), path)
    return check_translation(network, path)


def check_translation(network: OldPhotoTranslation, path: Path) -> float:
    """Return the largest difference of a graph's restored pixels, in [0, 1], from the network's.

    Raises:
        GraphError: It is more than 1e-4.
    """
    import onnxruntime

    shape = (1, 10 * MULTIPLE, 7 * MULTIPLE, 3)  # another one than the export's example
    frames = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    session = OnnxSession(str(path), onnxruntime.SessionOptions(), name=path.name)
    (found,) = session.run([OUTPUT], {INPUT: frames})
    with torch.inference_mode():
        expected, _ = TranslationInterface(network)(torch.from_numpy(frames))
    difference = float(np.abs(found - expected.numpy()).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise GraphError(
            f"{path.name} differs from the network by {difference:.2g} in a pixel, expected at "
            f"most {_LARGEST_DIFFERENCE:g}. This is a fault of the export; please report it"
        )
    return difference
