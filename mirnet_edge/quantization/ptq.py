"""Post-training quantization (PTQ): the schemes for TensorRT and for processors.

Both quantization schemes leave the computation of global context in float (the exposure branch,
channel attention, stream fusion): it takes next to no time, and one wrong step there changes every
pixel. docs/decisions/002-int8-recipes.md compares the alternatives.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import plain_feed, suppress_library_output, write_model
from mirnet_edge.quantization.legalizer import (
    check_for_tensorrt,
    legalize_for_tensorrt,
    list_whole_frame_convs,
)
from mirnet_edge.quantization.mixed_precision import module_of
from mirnet_edge.quantization.ranges import (
    collect_histograms,
    collect_magnitudes,
    ignore_progress,
    require_samples,
    run_on_samples,
    usable_range,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx
    from nncf.quantization.range_estimator import RangeEstimatorParameters
    from torch import nn

    from mirnet_edge.checkpoints import ModelCard
    from mirnet_edge.quantization.ranges import OnSample, RangeEstimator

Quantizer = Literal["onnxruntime", "nncf"]
QUANTIZERS: tuple[Quantizer, ...] = get_args(Quantizer)
# Only convolutions gain; quantizers elsewhere cause more memory traffic than they save, and near
# the image they lower accuracy. NNCF refuses types that a graph does not have.
_NEVER_QUANTIZED = (
    "Add", "AveragePool", "Cast", "Clip", "Concat", "ConvTranspose", "DepthToSpace", "Div", "Exp",
    "Gather", "LeakyRelu", "MatMul", "Mul", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceSum",
    "Resize", "Round", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sub", "Transpose",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QuantizationScheme:
    """How a graph is quantized; the defaults suit the target."""

    exclude: tuple[str, ...] = ()
    """Names of further nodes to leave in float."""
    estimator: RangeEstimator = "minmax"
    """How a range is estimated from a histogram."""
    quantizer: Quantizer | None = None
    """The quantizer's library; None for ONNX Runtime's on TensorRT and NNCF's on CPUs."""
    ranges: Mapping[str, float] | None = None
    """Calibrated magnitudes by tensor, for ONNX Runtime's quantizer."""
    outliers: float = 0.0
    """Fraction of an image's activations that lie outside of the ranges of NNCF's quantizer."""
    learned_ranges: Mapping[str, float] = field(default_factory=dict)
    """Largest inputs of convolutions, by module, that quantization-aware training learned, for
    NNCF's quantizer; it estimates those of others."""
    whole_frame: bool = False
    """Whether global context is quantized too, to measure its sensitivity."""

    def list_excluded(self, model: onnx.ModelProto) -> list[str]:
        """Return the names of the convolutions to leave in float."""
        return [*(() if self.whole_frame else list_whole_frame_convs(model)), *self.exclude]


def list_color_convs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions of three channels that keep the resolution: of colors.

    They have so little to multiply that INT8 saves 2 % of a super-resolution network's time, and
    they cause a third of its accuracy drop (docs/decisions/030-super-resolution.md).

    Args:
        model: As `export_onnx` writes it.
    """
    shapes = {one.name: tuple(one.dims) for one in model.graph.initializer}
    found = []
    for node in model.graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
        strides = next((list(one.ints) for one in node.attribute if one.name == "strides"), [1])
        groups = next((one.i for one in node.attribute if one.name == "group"), 1)
        if len(shape) == 4 and shape[1] == _COLORS and max(strides) == 1 and groups == 1:
            found.append(node.name)
    return found


_COLORS = 3
# for networks that only add a residual to the frame: the largest residuals, of strong noise, would
# widen the ranges of all others (docs/decisions/041-denoising-shape.md)
_RESIDUAL_OUTLIERS = 1e-4
_DEFAULT_SCHEME = QuantizationScheme()


def outliers_of(network: nn.Module) -> float:
    """Return the fraction of activations that an INT8 graph for processors clips, in [0, 1]."""
    from mirnet_edge.models import MIRNetEdge

    is_residual = isinstance(network, MIRNetEdge) and network.config.full_convolutions
    # low light loses 4 dB with it: docs/decisions/041-denoising-shape.md
    return _RESIDUAL_OUTLIERS if is_residual and network.exposure is None else 0.0


def scheme_for_cpu(network: nn.Module, card: ModelCard) -> QuantizationScheme:
    """Return how graphs for processors quantize a network: the ranges of its activations."""
    return QuantizationScheme(outliers=outliers_of(network), learned_ranges=card.int8_ranges)


def quantize_for_tensorrt(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    scheme: QuantizationScheme = _DEFAULT_SCHEME,
    on_sample: OnSample = ignore_progress,
) -> None:
    """Write an INT8 graph that TensorRT 10.3 to 11 and TensorRT-RTX read alike.

    Symmetric signed Q/DQ at the inputs of convolutions, weights per channel, biases in float.
    Other nodes on such an input read it in 8 bits too: TensorRT then keeps one copy of it.

    Args:
        fp32: The graph to quantize.
        target: The file to write, whole or not at all.
        samples: The graph's inputs: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        scheme: Its `whole_frame` is not for TensorRT: the legalizer undoes it.
        on_sample: Called with the number of passes done and that of all, after each.

    Raises:
        CalibrationError: There are no samples.
        GraphError: The result is not legal for TensorRT.
    """
    require_samples(samples)
    if scheme.quantizer == "nncf":
        model = _quantize_with_nncf(fp32, samples, scheme, on_sample, seven_bits=False)
    else:
        model = _quantize_with_onnxruntime(fp32, samples, scheme, on_sample, seven_bits=False)
    _finish(legalize_for_tensorrt(model), target)


def quantize_for_cpu(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    scheme: QuantizationScheme = _DEFAULT_SCHEME,
    on_sample: OnSample = ignore_progress,
) -> None:
    """Write an INT8 graph for OpenVINO and ONNX Runtime on CPUs.

    Weights use seven of their eight bits: processors without VNNI add pairs of products in 16
    bits, and full-range weights silently overflow there.

    Args:
        fp32: The graph to quantize.
        target: The file to write, whole or not at all.
        samples: The graph's inputs: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        scheme: Its estimator is for ONNX Runtime's quantizer; NNCF takes minmax.
        on_sample: Called with the number of passes done and that of all, after each.

    Raises:
        CalibrationError: There are no samples.
        MissingDependencyError: NNCF is not installed.
    """
    require_samples(samples)
    if scheme.quantizer == "onnxruntime":
        model = _quantize_with_onnxruntime(fp32, samples, scheme, on_sample, seven_bits=True)
    else:
        model = _quantize_with_nncf(fp32, samples, scheme, on_sample, seven_bits=True)
    _finish(model, target, for_tensorrt=False)


_BIAS_SAMPLES = 24  # of the calibration samples


def correct_output_bias(
    model: onnx.ModelProto,
    fp32: Path,
    samples: Sequence[np.ndarray],
    deliver: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model,
) -> None:
    """Shift the biases of the last convolution so that mean colors are those of fp32.

    Bias correction (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, section 4.2) of what all layers before add up to: low light came out up
    to two levels brighter or darker. By color, of the median image: images with lamps clip
    (docs/decisions/002-int8-recipes.md). Nothing is changed where the last convolution has no bias
    or other outputs than colors.

    Args:
        model: The quantized graph, of 8-bit frames; changed in place.
        fp32: The graph that it was made of.
        samples: The graph's inputs, one image each.
        deliver: Returns the form of the graph whose colors count.
    """
    import onnx

    biases = {one.name: one for one in model.graph.initializer}
    colors = [
        biases[node.input[2]]
        for node in _list_last_convolutions(model)
        if len(node.input) > 2 and node.input[2] in biases and not biases[node.input[2]].dims[0] % 3
    ]
    if len(colors) != 1:
        return
    plain = onnx.load(fp32)
    every = math.ceil(len(samples) / _BIAS_SAMPLES)
    expected, found = (
        _mean_colors(graph, fp32.name, samples[::every]) for graph in (plain, deliver(model))
    )
    shift = np.median(expected - found, 0)
    values = onnx.numpy_helper.to_array(colors[0])
    # a pixel shuffle reads the values of one color in a row
    values = values + np.repeat(shift, len(values) // 3).astype(values.dtype)
    colors[0].CopyFrom(onnx.numpy_helper.from_array(values, colors[0].name))


def _list_last_convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions whose outputs no other convolution depends on."""
    last, read = [], set[str]()  # what a convolution depends on
    for node in reversed(model.graph.node):
        leads = not read.isdisjoint(node.output)
        if node.op_type == "Conv" and not leads:
            last.append(node)
        if leads or node.op_type == "Conv":
            read.update(node.input)
    return last


def _mean_colors(model: onnx.ModelProto, name: str, samples: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean color of a graph's 8-bit result for each sample, (N, 3), on [0, 1]."""
    results = run_on_samples(model, name, samples, [model.graph.output[0].name])
    return np.array([frames.mean((0, 1, 2), dtype=np.float64) / 255.0 for (frames,) in results])


def list_quantized_inputs(
    model: onnx.ModelProto, scheme: QuantizationScheme = _DEFAULT_SCHEME
) -> list[str]:
    """Return the names of the activations that are quantized, whose ranges are needed."""
    alone = set(scheme.list_excluded(model))
    inputs = {
        node.input[0]: None
        for node in model.graph.node
        if node.op_type == "Conv" and node.name not in alone
    }
    return list(inputs)


def _quantize_with_onnxruntime(
    fp32: Path,
    samples: Sequence[np.ndarray],
    scheme: QuantizationScheme,
    on_sample: OnSample,
    *,
    seven_bits: bool,
) -> onnx.ModelProto:
    """Quantize with ONNX Runtime; the ranges are our own, which need less memory."""
    require("onnxruntime", "quantizing")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    names = list_quantized_inputs(onnx.load(fp32), scheme)
    if not names:
        return onnx.load(fp32)
    found = scheme.ranges
    if found is None and scheme.estimator == "minmax":
        largest = collect_magnitudes(fp32, samples, names, on_sample)
        found = {name: usable_range(one) for name, one in largest.items()}
    elif found is None:
        histograms = collect_histograms(fp32, samples, names, on_sample)
        found = {name: one.range(scheme.estimator) for name, one in histograms.items()}
    sides = {name: (np.float32(-found[name]), np.float32(found[name])) for name in names}
    # a tensor without a type is silently left in float
    model = onnx.shape_inference.infer_shapes(onnx.load(fp32))
    with suppress_library_output():
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
            nodes_to_exclude=scheme.list_excluded(model),
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


def _quantize_with_nncf(
    fp32: Path,
    samples: Sequence[np.ndarray],
    scheme: QuantizationScheme,
    on_sample: OnSample,
    *,
    seven_bits: bool,
) -> onnx.ModelProto:
    # NNCF reports usage to its makers unless this stands before it is imported. Nothing leaves
    # this machine.
    os.environ["NNCF_CI"] = "1"
    nncf = require("nncf", "quantizing for CPUs")
    import onnx

    model = onnx.load(fp32)
    present = {node.op_type for node in model.graph.node}
    scope = nncf.IgnoredScope(
        names=scheme.list_excluded(model),
        types=[kind for kind in _NEVER_QUANTIZED if kind in present],
    )
    fed = 0

    def feed(sample: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal fed
        on_sample(min(fed, len(samples)), len(samples))  # it may ask for one more than once
        fed += 1
        return plain_feed(model, sample)

    overflow = nncf.OverflowFix.ENABLE if seven_bits else nncf.OverflowFix.DISABLE
    with suppress_library_output():
        quantized: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset(list(samples), feed),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=scope,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=overflow,
                activations_range_estimator_params=_activation_ranges(scheme.outliers),
            ),
        )
    _set_ranges(quantized, model, scheme.learned_ranges)
    return quantized


def _set_ranges(
    quantized: onnx.ModelProto, fp32: onnx.ModelProto, ranges: Mapping[str, float]
) -> None:
    """Give the inputs of convolutions other ranges, by module, in place; a shared one the widest.

    Args:
        quantized: The graph that NNCF made of the other.
        fp32: As `export_onnx` writes it, its weights named by the module tree.
        ranges: Largest values by module.
    """
    if not ranges:
        return
    import onnx
    from onnx import numpy_helper

    modules = {one.name: module_of(one) for one in fp32.graph.node if one.op_type == "Conv"}
    makers = {name: node for node in quantized.graph.node for name in node.output}
    constants = {one.name: one for one in quantized.graph.initializer}
    steps: dict[str, float] = {}
    for node in quantized.graph.node:
        magnitude = ranges.get(modules.get(node.name) or "")
        read = makers.get(node.input[0])
        if magnitude is None or read is None or read.op_type != "DequantizeLinear":
            continue
        if constants[read.input[1]].dims:  # one per channel, of a depthwise convolution
            continue
        is_unsigned = constants[read.input[2]].data_type == onnx.TensorProto.UINT8
        step = magnitude / (255.0 if is_unsigned else 127.0)
        for name in (read.input[1], makers[read.input[0]].input[1]):
            steps[name] = max(step, steps.get(name, 0.0))
    for name, step in steps.items():
        constants[name].CopyFrom(numpy_helper.from_array(np.array(step, np.float32), name))


def _activation_ranges(outliers: float) -> RangeEstimatorParameters:
    """Return how NNCF sets the ranges of activations: by the widest of the images' ranges.

    NNCF's own mean of them clips the brightest.
    """
    from nncf.quantization import range_estimator as nncf_ranges

    if not outliers:
        return nncf_ranges.RangeEstimatorParametersSet.MINMAX

    low, high = (
        nncf_ranges.StatisticsCollectorParameters(
            statistics_type=nncf_ranges.StatisticsType.QUANTILE,
            aggregator_type=aggregator,
            quantile_outlier_prob=outliers,
        )
        for aggregator in (nncf_ranges.AggregatorType.MIN, nncf_ranges.AggregatorType.MAX)
    )
    return nncf_ranges.RangeEstimatorParameters(min=low, max=high)


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
