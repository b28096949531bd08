"""Does the exported graph compute what the network computed?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import plain_feed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import ImageContract

MINIMUM_DB = 80.0


def check_parity(network: nn.Module, graph: Path, frames: Frames, image: ImageContract) -> float:
    """Return the PSNR of the graph's output against the network's, in dB, before rounding.

    Args:
        network: The network before any rewrite, in eval mode.
        graph: Its fp32 ONNX file.
        frames: (1, H, W, 3) uint8 RGB, H and W multiples of the network's multiple.
        image: What the graph takes.

    Raises:
        GraphError: Less than `MINIMUM_DB`: the export changed what the network computes.
    """
    import torch

    from mirnet_edge.images import batch_from_frames

    batch = batch_from_frames(frames)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).clamp(0.0, 1.0).numpy()
    found = _unrounded(graph, frames if image.io == "uint8" else batch, image)
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    parity_db = math.inf if error == 0.0 else -10.0 * math.log10(error)
    if not parity_db >= MINIMUM_DB:
        raise GraphError(
            f"{graph.name} differs from the network: {parity_db:.1f} dB, expected at least "
            f"{MINIMUM_DB:g}. This is a fault of the export; please report it with the card"
        )
    return parity_db


def _unrounded(graph: Path, fed: np.ndarray, image: ImageContract) -> np.ndarray:
    """Return (N, 3, H, W) float32 in [0, 1]: the graph's output before it is made 8 bits."""
    import onnx
    import onnxruntime

    model = onnx.load(graph)
    name = model.graph.output[0].name
    if image.io == "uint8":
        rounds = [node for node in model.graph.node if node.op_type == "Round"]
        if len(rounds) != 1:
            raise GraphError(f"{graph.name} has {len(rounds)} Round nodes, expected one at its end")
        name = rounds[0].input[0]
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: np.ndarray
    (found,) = session.run([name], plain_feed(model, fed))
    if image.io == "uint8":
        found = found / np.float32(255.0)
        if found.shape[-1] == 3 and found.shape[1] != 3:
            found = found.transpose(0, 3, 1, 2)
    return found
