"""Two INT8 recipes: what suits TensorRT is slower than fp32 on a CPU, and the other way round.

Both leave in float what decides about the whole frame (the exposure branch, channel attention,
stream fusion): it costs next to nothing, and one wrong step there changes every pixel. See
docs/decisions/002-int8-recipes.md for what was tried.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from mirnet_edge.compression.legalize import legalize_for_tensorrt
from mirnet_edge.compression.ranges import Method, collect_histograms
from mirnet_edge.compression.tensorrt_rules import check_for_tensorrt
from mirnet_edge.compression.whole_frame import whole_frame_convs
from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError, GraphError
from mirnet_edge.onnx_files import plain_feed, quiet, write_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

Engine = Literal["onnxruntime", "nncf"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
# Only convolutions are worth it; quantizers elsewhere cost more memory traffic than they spare,
# and near the picture they cost quality. NNCF refuses types that a graph does not have.
_NEVER_QUANTIZED = (
    "Add", "AveragePool", "Cast", "Clip", "Concat", "ConvTranspose", "DepthToSpace", "Div", "Exp",
    "Gather", "LeakyRelu", "MatMul", "Mul", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceSum",
    "Resize", "Round", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sub", "Transpose",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Quantizing:
    """How a graph is quantized; what is left out suits the target."""

    exclude: tuple[str, ...] = ()
    """Names of further nodes to leave in float."""
    method: Method = "minmax"
    """How a range is taken from what was seen."""
    engine: Engine | None = None
    """Whose quantizer: ONNX Runtime's for TensorRT and NNCF for CPUs, unless told otherwise."""
    ranges: Mapping[str, float] | None = None
    """Magnitudes by tensor, from an earlier look at the same samples. For ONNX Runtime's."""
    whole_frame: bool = False
    """Whether what decides about the whole frame is quantized too: to measure what it costs."""

    def left_alone(self, model: onnx.ModelProto) -> list[str]:
        """Return the names of the convolutions to leave in float."""
        return [*(() if self.whole_frame else whole_frame_convs(model)), *self.exclude]


_AS_USUAL = Quantizing()


def quantize_for_tensorrt(
    fp32: Path, target: Path, samples: Sequence[np.ndarray], how: Quantizing = _AS_USUAL
) -> None:
    """Write an INT8 graph that TensorRT 10.3 to 11 and TensorRT-RTX read alike.

    Symmetric signed Q/DQ at the inputs of convolutions, weights per channel, biases in float.
    What else reads such an input reads it in 8 bits too: TensorRT then keeps one copy of it.

    Args:
        fp32: The graph to quantize.
        target: The file to write, whole or not at all.
        samples: What the graph takes: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        how: Its `whole_frame` is not for TensorRT: the legalizer undoes it.

    Raises:
        CalibrationError: There are no samples.
        GraphError: The result is not legal for TensorRT.
    """
    _need(samples)
    if how.engine == "nncf":
        model = _by_nncf(fp32, samples, how, seven_bits=False)
    else:
        model = _by_onnxruntime(fp32, samples, how, seven_bits=False)
    _finish(legalize_for_tensorrt(model), target)


def quantize_for_cpu(
    fp32: Path, target: Path, samples: Sequence[np.ndarray], how: Quantizing = _AS_USUAL
) -> None:
    """Write an INT8 graph for OpenVINO and ONNX Runtime on CPUs.

    Weights use seven of their eight bits: processors without VNNI add pairs of products in 16
    bits, and full-range weights overflow there without a word.

    Args:
        fp32: The graph to quantize.
        target: The file to write, whole or not at all.
        samples: What the graph takes: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        how: Its method is for ONNX Runtime's quantizer; NNCF takes the widest range.

    Raises:
        CalibrationError: There are no samples.
        MissingDependencyError: NNCF is not installed.
    """
    _need(samples)
    if how.engine == "onnxruntime":
        model = _by_onnxruntime(fp32, samples, how, seven_bits=True)
    else:
        model = _by_nncf(fp32, samples, how, seven_bits=True)
    _finish(model, target, for_tensorrt=False)


def quantized_inputs(model: onnx.ModelProto, how: Quantizing = _AS_USUAL) -> list[str]:
    """Return the names of the activations that are quantized, whose ranges are needed."""
    alone = set(how.left_alone(model))
    inputs = {
        node.input[0]: None
        for node in model.graph.node
        if node.op_type == "Conv" and node.name not in alone
    }
    return list(inputs)


def _by_onnxruntime(
    fp32: Path, samples: Sequence[np.ndarray], how: Quantizing, *, seven_bits: bool
) -> onnx.ModelProto:
    """Let ONNX Runtime place the quantizers; the ranges are our own, which need less memory."""
    require("onnxruntime", "quantizing")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    # a tensor whose type is not written down is passed over without a word
    model = onnx.shape_inference.infer_shapes(onnx.load(fp32))
    names = quantized_inputs(model, how)
    if not names:
        return model
    found = how.ranges
    if found is None:
        histograms = collect_histograms(fp32, samples, names)
        found = {name: one.range(how.method) for name, one in histograms.items()}
    sides = {name: (np.float32(-found[name]), np.float32(found[name])) for name in names}
    with quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=seven_bits,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax,
                {name: tuple(map(np.asarray, pair)) for name, pair in sides.items()},
            ),
            nodes_to_quantize=[],
            nodes_to_exclude=how.left_alone(model),
            op_types_to_quantize=["Conv"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # an int32 bias is refused by every TensorRT
                "AddQDQPairToWeight": True,  # the form that torch exports and 10.3 documents
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _by_nncf(
    fp32: Path, samples: Sequence[np.ndarray], how: Quantizing, *, seven_bits: bool
) -> onnx.ModelProto:
    # NNCF reports usage to its makers unless this stands before it is imported. Nothing leaves
    # this machine.
    os.environ["NNCF_CI"] = "1"
    nncf = require("nncf", "quantizing for CPUs")
    import onnx
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = onnx.load(fp32)
    present = {node.op_type for node in model.graph.node}
    scope = nncf.IgnoredScope(
        names=how.left_alone(model),
        types=[kind for kind in _NEVER_QUANTIZED if kind in present],
    )
    overflow = nncf.OverflowFix.ENABLE if seven_bits else nncf.OverflowFix.DISABLE
    with quiet():
        quantized: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset(list(samples), lambda sample: plain_feed(model, sample)),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=scope,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=overflow,
                # the widest range that was seen: NNCF's own mean of the maxima clips the brightest
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    return quantized


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
