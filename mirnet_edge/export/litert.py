"""Write LiteRT models (.tflite) of a network: fp32, fp16 weights, and INT8 convolutions.

INT8 quantizes what the ONNX graphs quantize: convolutions over pixels, per channel, with ranges of
the calibration images. What computes global context stays in float, as do elementwise operations:
quantized too, they saved no time in XNNPACK (docs/decisions/025-mobile-runtimes.md).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.files import write_atomically
from mirnet_edge.models.channels_last import to_channels_last_form
from mirnet_edge.models.inference_form import FrameInterface, to_inference_form
from mirnet_edge.onnx_files import suppress_library_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from mirnet_edge.manifest import ImageContract

_HALF_BITS = 16
_COLORS = 3


def write_litert(network: nn.Module, path: Path, image: ImageContract) -> None:
    """Write a network as a LiteRT model in fp32.

    Args:
        network: In eval mode, before any rewrite.
        path: The file to write, whole or not at all.
        image: The bundle's contract, of fixed size.

    Raises:
        GraphError: It cannot convert the network.
    """
    import torch

    if image.size is None:
        raise GraphError("a LiteRT model has one size; expected an image contract with a size")
    deployed = to_inference_form(network)
    height, width = image.size
    if image.io == "uint8":
        wrapped = to_channels_last_form(deployed)
        example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    else:
        wrapped = FrameInterface(deployed, "float").eval()
        example = torch.zeros(1, 3, height, width)
    with tempfile.TemporaryDirectory() as folder, _quiet_libraries():
        import litert_torch

        written = Path(folder) / "model.tflite"
        try:
            litert_torch.convert(wrapped, (example,)).export(str(written))
        except Exception as error:  # the converter has its own and those of three compilers
            reason = " ".join(str(error).split())[:300]
            raise GraphError(
                f"LiteRT's converter does not take this network: {reason}; leave litert out"
            ) from error
        write_atomically(path, written.read_bytes())


def quantize_litert(
    source: Path, target: Path, samples: Sequence[np.ndarray], *, colors_in_float: bool = False
) -> None:
    """Write the INT8 form of an fp32 LiteRT model.

    Convolutions that read or give nothing but zeros on all samples stay in float: they have no
    range, and XNNPACK refuses the scale that would follow from it.

    Args:
        source: As `write_litert` wrote it.
        target: The file to write, whole or not at all.
        samples: The calibration images as the model takes them.
        colors_in_float: Whether convolutions of colors stay in float.

    Raises:
        GraphError: It cannot quantize the model.
    """
    from ai_edge_quantizer import quantizer

    content = bytearray(source.read_bytes())
    convolutions = list_pixel_convolutions(bytes(content))
    signature, feed = _signature_of(content)
    images = {signature: [{feed: sample} for sample in samples]}
    with _quiet_libraries():
        try:
            calibrating = quantizer.Quantizer(content)
            _choose_int8(calibrating, convolutions)
            ranges = calibrating.calibrate(images, num_threads=1)
            ranged = [
                one
                for one in convolutions
                if not (colors_in_float and one.is_of_colors)
                and not (_is_zero(ranges, one.input) or _is_zero(ranges, one.output))
            ]
            quantizing = quantizer.Quantizer(content)
            _choose_int8(quantizing, ranged)
            result = quantizing.quantize(ranges)
        except Exception as error:  # the quantizer has those of three libraries
            reason = " ".join(str(error).split())[:300]
            raise GraphError(
                f"LiteRT's quantizer does not take this network: {reason}; export without --int8, "
                "or the other formats alone"
            ) from error
    write_atomically(target, bytes(result.quantized_model))


def _choose_int8(quantizing: Any, convolutions: Sequence[PixelConvolution]) -> None:  # noqa: ANN401
    """Tell a quantizer which operators to quantize: per channel, with static ranges."""
    from ai_edge_quantizer import qtyping

    operators = {
        "CONV_2D": qtyping.TFLOperationName.CONV_2D,
        "DEPTHWISE_CONV_2D": qtyping.TFLOperationName.DEPTHWISE_CONV_2D,
    }
    for one in convolutions:
        quantizing.add_static_config(
            regex=f"^{re.escape(one.output)};?$",
            operation_name=operators[one.kind],
            activation_num_bits=8,
            weight_num_bits=8,
        )


def _is_zero(ranges: dict[str, Any], tensor: str) -> bool:
    """Return whether a tensor was zero everywhere, in all images that were calibrated on."""
    known = ranges.get(tensor)
    return known is not None and not any(np.any(known[bound]) for bound in ("min", "max"))


def halve_litert(source: Path, target: Path) -> None:
    """Write a LiteRT model with fp16 weights: half the size; processors with fp16 compute in it."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    quantizing = quantizer.Quantizer(bytearray(source.read_bytes()))
    for operator in (
        qtyping.TFLOperationName.CONV_2D,
        qtyping.TFLOperationName.DEPTHWISE_CONV_2D,
        qtyping.TFLOperationName.CONV_2D_TRANSPOSE,
    ):
        quantizing.update_quantization_recipe(
            regex=".*",
            operation_name=operator,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=_HALF_BITS, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
            ),
            algorithm_key=AlgorithmName.FLOAT_CASTING,
        )
    with _quiet_libraries():
        result = quantizing.quantize()
    write_atomically(target, bytes(result.quantized_model))


@dataclass(frozen=True)
class PixelConvolution:
    """A convolution over pixels, by the names of its tensors."""

    output: str
    input: str
    kind: str
    """As LiteRT calls the operator."""
    is_of_colors: bool
    """Whether it reads three channels and keeps the resolution; see `ptq.list_color_convs`."""


def list_pixel_convolutions(content: bytes) -> list[PixelConvolution]:
    """Return the convolutions over pixels, which INT8 quantizes.

    The others compute global context: the output depends on theirs by vectors alone.

    Args:
        content: Of a .tflite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = {
        schema.BuiltinOperator.CONV_2D: "CONV_2D",
        schema.BuiltinOperator.DEPTHWISE_CONV_2D: "DEPTHWISE_CONV_2D",
    }
    graph = model.subgraphs[0]
    reached = set(graph.outputs)
    found = []
    for operator in reversed(graph.operators):  # they stand in the order of their execution
        if reached.isdisjoint(operator.outputs):
            continue
        reached.update(one for one in operator.inputs if not _is_vector(graph.tensors[one].shape))
        kind = kinds.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if kind is not None:
            given, made = (graph.tensors[one[0]] for one in (operator.inputs, operator.outputs))
            is_of_colors = given.shape[-1] == _COLORS and operator.builtinOptions.strideH == 1
            names = (made.name.decode(), given.name.decode())
            found.append(PixelConvolution(*names, kind, is_of_colors))
    return found[::-1]


def _is_vector(shape: Sequence[int] | None) -> bool:
    """Return whether a tensor has one axis longer than 1 at most, its last."""
    return shape is None or math.prod(shape[:-1]) == 1


def _signature_of(content: bytearray) -> tuple[str, str]:
    """Return the names of the model's signature and of its input."""
    from ai_edge_litert import schema_py_generated as schema

    signature = schema.ModelT.InitFromPackedBuf(bytes(content), 0).signatureDefs[0]
    return signature.signatureKey.decode(), signature.inputs[0].name.decode()


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Suppress the progress, warnings and logs of the converter, and those of its C++ parts."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing, suppress_library_output():  # noqa: PTH123  # fileno
            os.dup2(nothing.fileno(), 2)
            with contextlib.redirect_stderr(_Nowhere()):
                yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Nowhere:
    """A text stream that forgets what is written."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # what a progress bar asks of a stream
        return getattr(sys.__stderr__, name)
