"""Calibration ranges: the largest magnitude of each quantized tensor, by several estimators.

Calibration passes over the images once for the largest magnitude of each tensor, which the graph
itself computes, so that no activation leaves the runtime. The estimators that need a histogram pass
a second time; they hold a few thousand counts per tensor, whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError

from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.manifest import StrictDocument
from mirnet_edge.onnx_files import plain_feed
from mirnet_edge.onnx_sessions import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from mirnet_edge.manifest import ImageContract

RANGES_FILE = "ranges.json"
"""In a calibration set's folder."""
RangeEstimator = Literal["minmax", "percentile", "entropy"]
RANGE_ESTIMATORS: tuple[RangeEstimator, ...] = get_args(RangeEstimator)

OnSample = Callable[[int, int], None]
"""Takes the number of passes done and that of all."""


def ignore_progress(done: int, total: int) -> None:
    """Do nothing with the passes done."""


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
        return usable_range(self.largest * min(edge, _BINS) / _BINS)


def usable_range(largest: float) -> float:
    """Return a magnitude that a scale of half precision holds."""
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
    on_sample: OnSample = ignore_progress,
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
    require_samples(samples)
    import onnx

    names = list(tensors)
    if not names:
        return {}
    model = onnx.load(fp32)
    outputs = _add_reductions(model, names)
    largest = dict.fromkeys(names, 0.0)
    for done, values in enumerate(run_on_samples(model, fp32.name, samples, outputs), 1):
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
    on_sample: OnSample = ignore_progress,
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
    for values in run_on_samples(model, fp32.name, samples, names):
        yield dict(zip(names, values, strict=True))


def run_on_samples(
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


def require_samples(samples: Sequence[np.ndarray]) -> None:
    """Refuse an empty calibration set.

    Raises:
        CalibrationError: There are no samples.
    """
    if not samples:
        raise CalibrationError("no image to calibrate INT8 on; give a set with at least one")


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
