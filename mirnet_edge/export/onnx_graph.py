"""Export a network to ONNX: fp32, fp16, QAT and context-anchored graphs, with a parity check."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.images.contract import batch_from_frames
from mirnet_edge.onnx_files import (
    CONTEXT_IN,
    CONTEXT_OUT,
    INPUT,
    OUTPUT,
    SMOOTHING_WEIGHT,
    plain_feed,
    suppress_library_output,
    write_model,
)
from mirnet_edge.onnx_sessions import OnnxSession
from mirnet_edge.quantization.half_precision import to_half_precision
from mirnet_edge.quantization.legalizer import (
    check_for_tensorrt,
    legalize_for_tensorrt,
    read_shapes_after_cast,
)
from mirnet_edge.quantization.qat import make_deployable_network, qat_target_of

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from torch import nn

    from mirnet_edge.calibration.sets import CalibrationSet
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import ImageContract
    from mirnet_edge.models.global_context import ContextAnchoredNetwork

MINIMUM_DB = 80.0


def check_parity(network: nn.Module, graph: Path, frames: Frames, image: ImageContract) -> float:
    """Return the PSNR of the graph's output against the network's, in dB, before rounding.

    Args:
        network: The network before any rewrite, in eval mode.
        graph: Its fp32 ONNX file.
        frames: (1, H, W, 3) uint8 RGB, H and W multiples of the network's multiple.
        image: The graph's image contract.

    Raises:
        GraphError: Less than `MINIMUM_DB`: the export changed what the network computes.
    """
    import torch

    batch = batch_from_frames(frames)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).clamp(0.0, 1.0).numpy()
    found = _without_rounding(graph, frames if image.io == "uint8" else batch, image)
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    parity_db = math.inf if error == 0.0 else -10.0 * math.log10(error)
    if not parity_db >= MINIMUM_DB:
        raise GraphError(
            f"{graph.name} differs from the network: {parity_db:.1f} dB, expected at least "
            f"{MINIMUM_DB:g}. This is a fault of the export; please report it with the card"
        )
    return parity_db


def _without_rounding(graph: Path, fed: np.ndarray, image: ImageContract) -> np.ndarray:
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
    session = OnnxSession(model.SerializeToString(), options, name=graph.name)
    found: np.ndarray
    (found,) = session.run([name], plain_feed(model, fed))
    if image.io == "uint8":
        found = found / np.float32(255.0)
        if found.shape[-1] == 3 and found.shape[1] != 3:
            found = found.transpose(0, 3, 1, 2)
    return found


def write_int8(network: nn.Module, path: Path, *, size: tuple[int, int] | None = None) -> Path:
    """Write the INT8 Q/DQ graph of a fake-quantized network, uint8 frames in and out.

    Args:
        network: As `prepare_qat` and training left it.
        path: The file to write, whole or not at all.
        size: (height, width) of a graph of fixed size; None for any.

    Returns:
        The path.

    Raises:
        GraphError: It cannot be exported, or it is for TensorRT, which would refuse or misread it.
    """
    import onnx

    multiple = int(network.multiple)  # type: ignore[arg-type]  # every network states it
    export_onnx(make_deployable_network(network), path, io="uint8", size=size, multiple=multiple)
    if qat_target_of(network) == "tensorrt":
        model = legalize_for_tensorrt(onnx.load(path))
        check_for_tensorrt(model, path.name)
        write_model(model, path)
    return path


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
        network: Takes and gives (N, 3, H, W) float32 RGB in [0, 1]. A `ContextAnchoredNetwork`
            makes a graph with `globals_in`, `memory` and `globals_out`.
        path: The file to write, whole or not at all.
        io: Type and layout of input and output; see `FrameInterface`.
        size: (height, width) of a graph for one frame of one size; None for up to 16 frames of
            any size that is a multiple.
        multiple: Height and width are multiples of this.
        channels: Input channels of a part of a network, with `io="float"`.

    Raises:
        GraphError: The network cannot be exported.
    """
    import torch

    from mirnet_edge.models.global_context import ContextAnchoredNetwork
    from mirnet_edge.models.inference_form import ContextFrameInterface, FrameInterface

    # two frames of different sides: torch.export would take an example of one for a constant
    count, (height, width) = (2, (4 * multiple, 6 * multiple)) if size is None else (1, size)
    example = (
        torch.zeros((count, height, width, 3), dtype=torch.uint8)
        if io == "uint8"
        else torch.zeros((count, channels, height, width))
    )
    deployed: nn.Module = FrameInterface(network, io)
    examples, inputs, outputs = [example], [INPUT], [OUTPUT]
    if isinstance(network, ContextAnchoredNetwork):
        deployed = ContextFrameInterface(network, io)
        examples += [torch.zeros(count, network.context_length), torch.zeros(1)]
        inputs, outputs = [INPUT, CONTEXT_IN, SMOOTHING_WEIGHT], [OUTPUT, CONTEXT_OUT]
    with suppress_library_output(), torch.inference_mode():
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
    model = strip_metadata(program.model_proto)
    read_shapes_after_cast(model)
    write_model(model, path)


def _dynamic_shapes(
    io: Literal["uint8", "float"], multiple: int, inputs: list[str]
) -> tuple[dict[int, Any], ...]:
    """Return the dynamic dimensions of each input."""
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
        CONTEXT_IN: {0: count},
        SMOOTHING_WEIGHT: {},
    }
    return tuple(shapes[name] for name in inputs)


def to_fp16(source: Path, target: Path) -> None:
    """Write an fp16 copy of an fp32 or INT8 graph; inputs and outputs keep their types.

    Raises:
        GraphError: The result is not a valid graph.
    """
    import onnx

    write_model(to_half_precision(onnx.load(source)), target)


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove torch's debug information: it holds paths of this machine and changes each run."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]
    del graph.value_info[:]
    return model


_IMAGES = 4  # that the reach is measured on


def to_context_anchored_form(network: nn.Module) -> ContextAnchoredNetwork:
    """Return the anchored form of a network, in eval mode."""
    from mirnet_edge.models.global_context import ContextAnchoredNetwork

    return ContextAnchoredNetwork(network).eval()


def make_context_anchored_contract(
    image: ImageContract, network: nn.Module, images: CalibrationSet
) -> ImageContract:
    """Return the contract of the network's anchored graphs."""
    from mirnet_edge.models.reach import measure_reach

    anchored = to_context_anchored_form(network)
    frames = [sample.frame[None] for sample in images.evaluation[:_IMAGES]]
    return image.model_copy(
        update={"vectors": anchored.layout, "reach": measure_reach(anchored, frames)}
    )
