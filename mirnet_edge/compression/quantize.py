"""Two INT8 recipes: what suits TensorRT is slower than fp32 on a CPU, and the other way round.

Both leave in float what decides about the whole frame (the exposure branch, channel attention,
stream fusion): it costs next to nothing, and one wrong step there changes every pixel. See
docs/decisions/002-int8-recipes.md for what was tried.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge.compression.legalize import check_for_tensorrt, legalize_for_tensorrt
from mirnet_edge.compression.whole_frame import whole_frame_convs
from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError, GraphError
from mirnet_edge.onnx_files import plain_feed, quiet, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import onnx

Method = Literal["minmax", "percentile", "entropy"]
_ORT_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
_PERCENTILE = 99.99
# Only convolutions are worth it; quantizers elsewhere cost more memory traffic than they spare,
# and near the picture they cost quality. NNCF refuses types that a graph does not have.
_NEVER_QUANTIZED = (
    "Add", "AveragePool", "Cast", "Clip", "Concat", "ConvTranspose", "DepthToSpace", "Div", "Exp",
    "Gather", "MatMul", "Mul", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceSum", "Resize",
    "Round", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sub", "Transpose",
)  # fmt: skip


def quantize_for_tensorrt(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    *,
    exclude: Sequence[str] = (),
    method: Method = "minmax",
) -> None:
    """Write an INT8 graph that TensorRT 10.3 to 11 and TensorRT-RTX read alike.

    Symmetric signed Q/DQ at the inputs of convolutions, weights per channel, biases in float.
    What else reads such an input reads it in 8 bits too: TensorRT then keeps one copy of it.

    Args:
        fp32: The graph to quantize.
        target: The file to write, whole or not at all.
        samples: What the graph takes: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        exclude: Names of further nodes to leave in float.
        method: How a range is taken from what was seen. The histogram methods keep every
            intermediate of every sample in memory.

    Raises:
        CalibrationError: There are no samples.
        GraphError: The result is not legal for TensorRT.
    """
    _need(samples)
    require("onnxruntime", "quantizing for TensorRT")
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    model = onnx.load(fp32)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.left, None)
            return None if sample is None else plain_feed(model, sample)

    with tempfile.TemporaryDirectory() as folder, quiet():
        quantized = Path(folder) / "quantized.onnx"
        quantize_static(
            fp32,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, _ORT_METHODS[method]),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[*whole_frame_convs(model), *exclude],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # an int32 bias is refused by every TensorRT
                "AddQDQPairToWeight": True,  # the form that torch exports and 10.3 documents
                "OpTypesToExcludeOutputQuantization": ["Conv"],
                "CalibPercentile": _PERCENTILE,
            },
        )
        found = onnx.load(quantized)
    _finish(legalize_for_tensorrt(found), target)


def quantize_for_cpu(
    fp32: Path, target: Path, samples: Sequence[np.ndarray], *, exclude: Sequence[str] = ()
) -> None:
    """Write an INT8 graph for OpenVINO and ONNX Runtime on CPUs.

    Weights use seven of their eight bits: processors without VNNI add pairs of products in 16
    bits, and full-range weights overflow there without a word.

    Args:
        fp32: The graph to quantize.
        target: The file to write, whole or not at all.
        samples: What the graph takes: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        exclude: Names of further nodes to leave in float.

    Raises:
        CalibrationError: There are no samples.
        MissingDependencyError: NNCF is not installed.
    """
    _need(samples)
    # NNCF reports usage to its makers unless this stands before it is imported. Nothing leaves
    # this machine.
    os.environ["NNCF_CI"] = "1"
    nncf = require("nncf", "quantizing for CPUs")
    import onnx
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = onnx.load(fp32)
    present = {node.op_type for node in model.graph.node}
    scope = nncf.IgnoredScope(
        names=[*whole_frame_convs(model), *exclude],
        types=[kind for kind in _NEVER_QUANTIZED if kind in present],
    )
    with quiet():
        quantized: Any = nncf.quantize(
            model,
            nncf.Dataset(list(samples), lambda sample: plain_feed(model, sample)),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=scope,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                # the widest range that was seen: NNCF's own mean of the maxima clips the brightest
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    _finish(quantized, target, for_tensorrt=False)


def _need(samples: Sequence[np.ndarray]) -> None:
    if not samples:
        raise CalibrationError("no picture to set INT8 ranges on; give a set with at least one")


def _finish(model: onnx.ModelProto, target: Path, *, for_tensorrt: bool = True) -> None:
    quantizers = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if not quantizers:
        raise GraphError(f"{target.name}: no convolution could be quantized; export without --int8")
    for part in (*model.graph.node, *model.graph.initializer):
        part.doc_string = ""
    del model.metadata_props[:]
    if for_tensorrt:
        check_for_tensorrt(model, target.name)
    write_model(model, target)
