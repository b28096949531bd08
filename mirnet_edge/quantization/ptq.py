"""Post-training quantization (PTQ): calibration ranges, quantization schemes, mixed precision.

Calibration passes over the images once for the largest magnitude of each tensor, which the graph
itself computes, so that no activation leaves the runtime. The estimators that need a histogram pass
a second time; they hold a few thousand counts per tensor, whatever the number of images.

Ranges are estimated on the fp32 graph, so those of one convolution do not depend on whether another
is quantized. A graph with fewer quantized convolutions is therefore made from the one with all of
them, in milliseconds, and equals that of the quantizer.

Both quantization schemes leave the computation of global context in float (the exposure branch,
channel attention, stream fusion): it takes next to no time, and one wrong step there changes every
pixel. docs/decisions/002-int8-recipes.md compares the alternatives.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError

from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError, GraphError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.manifest import StrictDocument
from mirnet_edge.onnx_files import copy_model, plain_feed, suppress_library_output, write_model
from mirnet_edge.onnx_sessions import OnnxSession
from mirnet_edge.quantization.legalizer import (
    QDQ_OPERATORS,
    check_for_tensorrt,
    legalize_for_tensorrt,
    list_whole_frame_convs,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from mirnet_edge.manifest import ImageContract

# `network.` is the deployed wrapper's; then lists and their places, then the block's own name.
_BLOCK = re.compile(r"(?:network\.)?((?:\w+\.\d+\.)*\w+)\.(?:.*\.)?(?:weight|filt)")


@dataclass(frozen=True)
class GraphBlock:
    """The convolutions of a graph that belong to one module: the unit of mixed precision."""

    name: str
    """In the module tree: stem, blocks.0.top, head."""
    convolutions: tuple[str, ...]
    """The names of its nodes: those over pixels, or, where it has none, all."""
    decides_frame: bool
    """Whether all of them compute global context, and so stay in float in every bundle."""


def list_blocks(fp32: onnx.ModelProto) -> tuple[GraphBlock, ...]:
    """Return a graph's blocks, in the order of the graph.

    A module that is used in many places is one block: its weights are stored once.

    Args:
        fp32: As `export_onnx` writes it, its weights named by the module tree.

    Raises:
        GraphError: A convolution's weight has another name.
    """
    whole_frame = set(list_whole_frame_convs(fp32))
    found: dict[str, list[str]] = {}
    for node in fp32.graph.node:
        if node.op_type == "Conv":
            found.setdefault(_block_name(node), []).append(node.name)
    blocks = []
    for name, nodes in found.items():
        pixelwise = tuple(node for node in nodes if node not in whole_frame)
        blocks.append(GraphBlock(name, pixelwise or tuple(nodes), not pixelwise))
    return tuple(blocks)


def _block_name(node: onnx.NodeProto) -> str:
    found = _BLOCK.fullmatch(node.input[1])
    if not found:
        raise GraphError(
            f"node {node.name!r} has the weight {node.input[1]!r}; expected one named by the "
            "module tree, as blocks.0.top.body.0.weight. Give a graph that mirnet-export wrote"
        )
    return found[1]


RANGES_FILE = "ranges.json"
"""In a calibration set's folder."""
RangeEstimator = Literal["minmax", "percentile", "entropy"]
RANGE_ESTIMATORS: tuple[RangeEstimator, ...] = get_args(RangeEstimator)

OnSample = Callable[[int, int], None]
"""Takes the number of passes done and that of all."""


def _ignore(done: int, total: int) -> None: ...


PERCENTILE = 99.99
_BINS = 2048
_LEVELS = 128
_ENTROPY_STEP = 8
_SMALLEST_RANGE = 1e-6
# A tensor that is zero on all images still needs a scale: one that half precision can hold.
_UNSEEN_RANGE = 1.0 / 128.0


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's magnitudes over the calibration images."""

    largest: float
    counts: NDArray[np.int64]
    """Of |x| in equal bins from 0 to `largest`."""

    def range(self, estimator: RangeEstimator) -> float:
        """Return the magnitude of the largest INT8 step, by a range estimator.

        `minmax` takes the largest magnitude; `percentile` leaves one of 10000 values above it;
        `entropy` minimizes the Kullback-Leibler divergence of the 8-bit histogram from the float
        one (Migacz, "8-bit Inference with TensorRT", GTC 2017).
        """
        edge = _BINS
        if estimator == "percentile":
            share = np.cumsum(self.counts) / max(1, self.counts.sum())
            edge = int(np.searchsorted(share, PERCENTILE / 100.0)) + 1
        elif estimator == "entropy":
            edge = _entropy_edge(self.counts)
        return _usable_range(self.largest * min(edge, _BINS) / _BINS)


def _usable_range(largest: float) -> float:
    return largest if largest > _SMALLEST_RANGE else _UNSEEN_RANGE


def _entropy_edge(counts: NDArray[np.int64]) -> int:
    edges = range(_LEVELS, _BINS + 1, _ENTROPY_STEP)
    return min(edges, key=lambda edge: _divergence(counts, edge))


def _divergence(counts: NDArray[np.int64], edge: int) -> float:
    """Return the Kullback-Leibler divergence of a clipped range's levels from the bins."""
    kept = counts[:edge].astype(np.float64)
    clipped = kept.copy()
    clipped[-1] += counts[edge:].sum()
    if not clipped.any():
        return 0.0
    level = np.arange(edge) * _LEVELS // edge
    filled = kept > 0
    sums = np.bincount(level, kept, _LEVELS)
    places = np.maximum(np.bincount(level, filled, _LEVELS), 1)
    coarse = np.where(filled, (sums / places)[level], 0.0)
    one, two = clipped / clipped.sum(), coarse / max(coarse.sum(), 1.0)
    seen = one > 0
    return float(np.sum(one[seen] * np.log(one[seen] / np.maximum(two[seen], 1e-10))))


def collect_magnitudes(
    fp32: Path,
    samples: Sequence[np.ndarray],
    tensors: Sequence[str],
    on_sample: OnSample = _ignore,
) -> dict[str, float]:
    """Return the largest magnitude of each of a graph's tensors over the calibration samples.

    The graph reduces every tensor to three numbers, so that none has to be kept as an output.

    Args:
        fp32: The graph.
        samples: Its inputs, one image each.
        tensors: Names of the tensors.
        on_sample: Called with the number of samples done and that of all, after each.

    Raises:
        CalibrationError: There are no samples, or a value is not a number.
    """
    _check_samples(samples)
    import onnx

    names = list(tensors)
    if not names:
        return {}
    model = onnx.load(fp32)
    outputs = _add_reductions(model, names)
    largest = dict.fromkeys(names, 0.0)
    for done, values in enumerate(_run_all(model, fp32.name, samples, outputs), 1):
        for name, numbers in zip(names, np.reshape(values, (len(names), -1)), strict=True):
            magnitude = float(np.abs(numbers[:2]).max())
            largest[name] = max(largest[name], magnitude if np.isfinite(numbers).all() else np.inf)
        on_sample(done, len(samples))
    broken = [name for name, value in largest.items() if not np.isfinite(value)]
    if broken:
        raise CalibrationError(
            f"{broken[0]!r} is not a finite number on a calibration image; expected weights that "
            "restore. Train them again"
        )
    return largest


_BIAS_SAMPLES = 24  # of the calibration samples, for the correction of biases
_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceSum")  # the last for NaN, which the others skip


def _add_reductions(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Add reductions of tensors as outputs, three for each, and return the outputs' names.

    Each stands after the node that gives its tensor: ONNX Runtime keeps a tensor until its last
    reader has run, and at the end of the graph that is all of them at once.
    """
    import onnx

    outputs, added = [], {}
    for number, name in enumerate(names):
        own = [f"calibration.{number}.{operator}" for operator in _REDUCTIONS]
        added[name] = [
            onnx.helper.make_node(operator, [name], [output], output, keepdims=0)
            for operator, output in zip(_REDUCTIONS, own, strict=True)
        ]
        outputs += own
    given = {one.name for one in (*model.graph.input, *model.graph.initializer)}
    nodes = [node for name in names if name in given for node in added[name]]
    for node in model.graph.node:
        nodes.append(node)
        nodes += (one for output in node.output for one in added.get(output, ()))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return outputs


def collect_histograms(
    fp32: Path,
    samples: Sequence[np.ndarray],
    tensors: Sequence[str],
    on_sample: OnSample = _ignore,
) -> dict[str, Histogram]:
    """Return histograms of a graph's tensors over the calibration samples.

    Args:
        fp32: The graph.
        samples: Its inputs, one image each.
        tensors: Names of the tensors.
        on_sample: As of `collect_magnitudes`, whose passes count too.

    Raises:
        CalibrationError: There are no samples, or a value is not a number.
    """
    names, count = list(tensors), len(samples)
    largest = collect_magnitudes(
        fp32, samples, names, lambda done, total: on_sample(done, 2 * total)
    )
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for done, values in enumerate(_values(fp32, samples, names), 1):
        for name, value in values.items():
            scale = _BINS / max(largest[name], _SMALLEST_RANGE)
            bins = np.minimum((np.abs(value).ravel() * scale).astype(np.int64), _BINS - 1)
            counts[name] += np.bincount(bins, minlength=_BINS)
        on_sample(count + done, 2 * count)
    return {name: Histogram(largest[name], counts[name]) for name in names}


def _values(
    fp32: Path, samples: Sequence[np.ndarray], names: list[str]
) -> Iterator[Mapping[str, np.ndarray]]:
    import onnx

    model = onnx.load(fp32)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    for values in _run_all(model, fp32.name, samples, names):
        yield dict(zip(names, values, strict=True))


def _run_all(
    model: onnx.ModelProto, name: str, samples: Sequence[np.ndarray], outputs: list[str]
) -> Iterator[list[np.ndarray]]:
    """Yield the outputs of a graph for each sample; NAME is the graph's in messages."""
    require("onnxruntime", "seeing the ranges of activations")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # in the order of the nodes: by default reductions wait, and their tensors with them
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    session = OnnxSession(model.SerializeToString(), options, name=name)
    for sample in samples:
        yield session.run(outputs, plain_feed(model, sample))


class RangeCache(StrictDocument):
    """Calibrated ranges on disk (`ranges.json`), bound to images, preprocessing and graph.

    Schema history: 1 (2026-11) the first.
    """

    schema_version: Literal[1] = 1
    data_sha256: str
    """Of the calibration images' pixels."""
    preprocessing: str
    """How an image becomes the graph's input."""
    model_sha256: str
    """Of the fp32 graph."""
    images: int = Field(ge=1)
    ranges: dict[RangeEstimator, dict[str, float]]
    """The largest magnitude, by estimator and tensor."""
    best: RangeEstimator | None = None
    """The estimator that came nearest to fp32 on the evaluation images; None: not compared."""


@dataclass(frozen=True)
class RangeKey:
    """The images, preprocessing and graph that ranges depend on."""

    data_sha256: str
    preprocessing: str
    model_sha256: str

    @classmethod
    def of(cls, fp32: Path, data_sha256: str, preprocessing: str) -> RangeKey:
        """Return the key of a graph's file."""
        return cls(data_sha256, preprocessing, sha256_of(fp32))


def describe_preprocessing(image: ImageContract) -> str:
    """Return in words how an image becomes a graph's input."""
    size = "any size" if image.size is None else f"{image.size[1]}x{image.size[0]}"
    return f"{image.io} RGB, cut to {size}, padded by reflection to multiples of {image.multiple}"


def estimate_ranges(key: RangeKey, images: int, histograms: Mapping[str, Histogram]) -> RangeCache:
    """Return the ranges by every estimator."""
    return RangeCache(
        data_sha256=key.data_sha256,
        preprocessing=key.preprocessing,
        model_sha256=key.model_sha256,
        images=images,
        ranges={
            estimator: {name: one.range(estimator) for name, one in histograms.items()}
            for estimator in RANGE_ESTIMATORS
        },
    )


def write_ranges(path: Path, cache: RangeCache) -> None:
    """Write ranges, whole or not at all."""
    write_atomically(path, cache.model_dump_json(indent=1).encode() + b"\n")


def read_ranges(path: Path, key: RangeKey) -> RangeCache:
    """Return the ranges of a file after comparing images, preprocessing and graph.

    Raises:
        CalibrationError: Not such a file, or of other images, preprocessing or weights.
    """
    try:
        cache = RangeCache.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CalibrationError(
            f"{path} is not a file of calibrated ranges; delete it and run mirnet-calibrate again"
        ) from error
    for what, found, expected in (
        ("images", cache.data_sha256, key.data_sha256),
        ("preprocessing", cache.preprocessing, key.preprocessing),
        ("graph", cache.model_sha256, key.model_sha256),
    ):
        if found != expected:
            raise CalibrationError(
                f"{path} was calibrated on other {what}: expected {expected[:40]}, found "
                f"{found[:40]}. Run mirnet-calibrate again, or delete it"
            )
    return cache


def quantize_partly(
    int8: onnx.ModelProto, fp32: onnx.ModelProto, convolutions: Collection[str]
) -> onnx.ModelProto:
    """Return a copy in which only the named convolutions are quantized.

    The others get their own weights and biases back, not the rounded ones, and read what stands
    before the quantizer; so does whatever else read through it, unless a named one still does.

    Args:
        int8: What a quantizer made of `fp32`, with the same names.
        fp32: The graph in float.
        convolutions: Names of nodes that stay as they are in `int8`.

    Raises:
        GraphError: A name is not that of a quantized convolution.
    """
    partial = copy_model(int8)
    producers = {name: node for node in partial.graph.node for name in node.output}
    before = {node.name: node for node in fp32.graph.node if node.op_type == "Conv"}
    own = _own_constants(partial, fp32)
    kept_inputs: set[str] = set()
    quantized = set()
    for node in partial.graph.node:
        if node.op_type != "Conv" or not _is_dequantized(node.input[1], producers):
            continue
        quantized.add(node.name)
        if node.name in convolutions:
            kept_inputs.update(node.input[:1])
            continue
        for place in range(1, len(node.input)):
            name = before[node.name].input[place]
            node.input[place] = own.get(name, name)
    unknown = sorted(set(convolutions) - quantized)
    if unknown:
        raise GraphError(
            f"{unknown[0]!r} is not quantized in this graph; expected one of "
            f"{', '.join(sorted(quantized)) or 'none'}"
        )
    _read_float(partial, producers, kept_inputs)
    _complete(partial, fp32)
    return partial


def _own_constants(partial: onnx.ModelProto, fp32: onnx.ModelProto) -> dict[str, str]:
    """Add the constants that quantizing changed under new names; return those by the old ones.

    NNCF corrects biases for what rounding shifts, and keeps their names.
    """
    changed = {one.name: one.SerializeToString() for one in partial.graph.initializer}
    own = {}
    for one in fp32.graph.initializer:
        if changed.get(one.name, one.SerializeToString()) != one.SerializeToString():
            own[one.name] = f"{one.name}.float"
            partial.graph.initializer.append(one)
            partial.graph.initializer[-1].name = own[one.name]
    return own


def list_quantized_convolutions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the convolutions whose weight is dequantized."""
    producers = {name: node for node in model.graph.node for name in node.output}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and _is_dequantized(node.input[1], producers)
    )


def _is_dequantized(tensor: str, producers: dict[str, onnx.NodeProto]) -> bool:
    node = producers.get(tensor)
    return node is not None and node.op_type == "DequantizeLinear"


def _read_float(
    model: onnx.ModelProto, producers: dict[str, onnx.NodeProto], kept_inputs: set[str]
) -> None:
    """Make readers of a dequantized activation that no quantized convolution needs read float."""
    weights = {one.name for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in QDQ_OPERATORS:
            continue
        for place, name in enumerate(node.input):
            if name in kept_inputs or not _is_dequantized(name, producers):
                continue
            quantizer = producers.get(producers[name].input[0])
            if quantizer is not None and quantizer.input[0] not in weights:
                node.input[place] = quantizer.input[0]


def _complete(partial: onnx.ModelProto, fp32: onnx.ModelProto) -> None:
    """Drop unused quantizers and constants, and bring back float constants that are used."""
    wanted = {value.name for value in partial.graph.output}
    nodes = []
    for node in reversed(partial.graph.node):
        if node.op_type in QDQ_OPERATORS and not wanted.intersection(node.output):
            continue
        wanted.update(node.input)
        nodes.append(node)
    initializers = {one.name: one for one in fp32.graph.initializer}
    initializers |= {one.name: one for one in partial.graph.initializer}
    kept = [one for name, one in initializers.items() if name in wanted]
    # copies: clearing the lists below frees what they hold
    nodes = [type(node).FromString(node.SerializeToString()) for node in reversed(nodes)]
    kept = [type(one).FromString(one.SerializeToString()) for one in kept]
    del partial.graph.node[:]
    partial.graph.node.extend(nodes)
    del partial.graph.initializer[:]
    partial.graph.initializer.extend(kept)
    del partial.graph.value_info[:]  # it holds tensors that are gone


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
_DEFAULT_SCHEME = QuantizationScheme()


def quantize_for_tensorrt(
    fp32: Path,
    target: Path,
    samples: Sequence[np.ndarray],
    scheme: QuantizationScheme = _DEFAULT_SCHEME,
    on_sample: OnSample = _ignore,
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
    _check_samples(samples)
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
    on_sample: OnSample = _ignore,
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
    _check_samples(samples)
    if scheme.quantizer == "onnxruntime":
        model = _quantize_with_onnxruntime(fp32, samples, scheme, on_sample, seven_bits=True)
    else:
        model = _quantize_with_nncf(fp32, samples, scheme, on_sample, seven_bits=True)
    _finish(model, target, for_tensorrt=False)


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
    results = _run_all(model, name, samples, [model.graph.output[0].name])
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
        found = {name: _usable_range(one) for name, one in largest.items()}
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
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

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
                # minmax: NNCF's own mean of the maxima clips the brightest
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    return quantized


def _check_samples(samples: Sequence[np.ndarray]) -> None:
    if not samples:
        raise CalibrationError("no image to calibrate INT8 on; give a set with at least one")


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
