"""Write a network that was trained for INT8 as the graph that it was trained to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.compression.legalize import legalize_for_tensorrt
from mirnet_edge.compression.qat import deployable
from mirnet_edge.compression.tensorrt_rules import check_for_tensorrt
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.onnx_files import write_model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def write_int8(network: nn.Module, path: Path, *, size: tuple[int, int] | None = None) -> Path:
    """Write the int8 Q/DQ graph of a fake-quantized network, uint8 frames in and out.

    Args:
        network: As `prepare_qat` and training left it.
        path: The file to write, whole or not at all.
        size: (height, width) of a graph of fixed size; None for any.

    Returns:
        The path.

    Raises:
        GraphError: It cannot be exported, or TensorRT would refuse or misread it.
    """
    import onnx

    multiple = int(network.multiple)  # type: ignore[arg-type]  # every network states it
    export_onnx(deployable(network), path, io="uint8", size=size, multiple=multiple)
    model = legalize_for_tensorrt(onnx.load(path))
    check_for_tensorrt(model, path.name)
    write_model(model, path)
    return path
