"""Write a network as ONNX: one file, opset 20, the same bytes for the same input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge.compression.frame_shapes import read_shapes_after_cast
from mirnet_edge.compression.half_precision import to_half
from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import (
    GIVEN_VECTORS,
    INPUT,
    MEMORY,
    OUTPUT,
    USED_VECTORS,
    quiet,
    write_model,
)

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from torch import nn

OPSET = 20
_LARGEST_SIDE = 8192
_LARGEST_BATCH = 16


def export_onnx(
    network: nn.Module,
    path: Path,
    *,
    io: Literal["uint8", "float"],
    size: tuple[int, int] | None,
    multiple: int,
    channels: int = 3,
) -> None:
    """Write a network, with the image contract around it, as an fp32 ONNX file.

    Args:
        network: Takes and gives (N, 3, H, W) float32 RGB in [0, 1]. One that is `Anchored` makes
            a graph with `globals_in`, `memory` and `globals_out`.
        path: The file to write, whole or not at all.
        io: What the graph takes and gives; see `FrameInterface`.
        size: (height, width) of a graph for one frame of one size; None for up to 16 frames of
            any size that is a multiple.
        multiple: Height and width are multiples of this.
        channels: What a part of a network takes instead of colours, with `io="float"`.

    Raises:
        GraphError: The network cannot be exported.
    """
    import torch

    from mirnet_edge.models.anchoring import Anchored
    from mirnet_edge.models.deployment import AnchoredFrameInterface, FrameInterface

    # two frames of different sides: torch.export would take an example of one for a constant
    count, (height, width) = (2, (4 * multiple, 6 * multiple)) if size is None else (1, size)
    example = (
        torch.zeros((count, height, width, 3), dtype=torch.uint8)
        if io == "uint8"
        else torch.zeros((count, channels, height, width))
    )
    deployed: nn.Module = FrameInterface(network, io)
    examples, inputs, outputs = [example], [INPUT], [OUTPUT]
    if isinstance(network, Anchored):
        deployed = AnchoredFrameInterface(network, io)
        examples += [torch.zeros(count, network.vector_length), torch.zeros(1)]
        inputs, outputs = [INPUT, GIVEN_VECTORS, MEMORY], [OUTPUT, USED_VECTORS]
    with quiet(), torch.inference_mode():
        try:
            program = torch.onnx.export(
                deployed.eval(),
                tuple(examples),
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=_dynamic_shapes(io, multiple, inputs) if size is None else None,
                verbose=False,
            )
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise GraphError(
                f"{type(network).__name__} cannot be exported: {reason}. "
                "Please report it with the weights' config"
            ) from error
    if program is None:
        raise GraphError("torch gave no ONNX program; please report it with torch's version")
    model = _stripped(program.model_proto)
    read_shapes_after_cast(model)
    write_model(model, path)


def _dynamic_shapes(
    io: Literal["uint8", "float"], multiple: int, inputs: list[str]
) -> tuple[dict[int, Any], ...]:
    """Return what may change of each input."""
    from torch.export import Dim

    most = _LARGEST_SIDE // multiple
    first = 1 if io == "uint8" else 2
    count = Dim("n", min=1, max=_LARGEST_BATCH)
    shapes: dict[str, dict[int, Any]] = {
        INPUT: {
            0: count,
            first: multiple * Dim("h", min=1, max=most),
            first + 1: multiple * Dim("w", min=1, max=most),
        },
        GIVEN_VECTORS: {0: count},
        MEMORY: {},
    }
    return tuple(shapes[name] for name in inputs)


def to_fp16(source: Path, target: Path) -> None:
    """Write an fp16 copy of an fp32 or INT8 graph; what it takes and gives stays as it is.

    Raises:
        GraphError: The result is not a valid graph.
    """
    import onnx

    write_model(to_half(onnx.load(source)), target)


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what torch adds for debugging: it holds paths of this machine and changes each run."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]
    del graph.value_info[:]
    return model
