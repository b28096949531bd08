"""The ranges of activations: seen once, in histograms, estimated in three ways, kept in a file.

Two passes over the pictures: the largest value of each tensor, then a histogram up to it. What is
held is a few thousand counts per tensor, however many pictures there are and however large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError

from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.manifest import Document
from mirnet_edge.onnx_files import plain_feed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.manifest import ImageContract

RANGES_FILE = "ranges.json"
"""In a calibration set's folder."""
Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

PERCENTILE = 99.99
_BINS = 2048
_LEVELS = 128
_ENTROPY_STEP = 8
_SMALLEST_RANGE = 1e-6
# A tensor that is zero on all pictures still needs a scale: one that half precision can hold.
_UNSEEN_RANGE = 1.0 / 128.0


@dataclass(frozen=True)
class Histogram:
    """How often a tensor's magnitudes were seen."""

    largest: float
    counts: NDArray[np.int64]
    """Of |x| in equal bins from 0 to `largest`."""

    def range(self, method: Method) -> float:
        """Return the magnitude that is to be the largest INT8 step.

        `minmax` is the largest that was seen; `percentile` leaves one of 10000 values above it;
        `entropy` is the one at which the 8-bit histogram tells most of the float one
        (Kullback-Leibler, as Migacz, "8-bit Inference with TensorRT", GTC 2017, describes it).
        """
        edge = _BINS
        if method == "percentile":
            share = np.cumsum(self.counts) / max(1, self.counts.sum())
            edge = int(np.searchsorted(share, PERCENTILE / 100.0)) + 1
        elif method == "entropy":
            edge = _entropy_edge(self.counts)
        found = self.largest * min(edge, _BINS) / _BINS
        return found if found > _SMALLEST_RANGE else _UNSEEN_RANGE


def _entropy_edge(counts: NDArray[np.int64]) -> int:
    edges = range(_LEVELS, _BINS + 1, _ENTROPY_STEP)
    return min(edges, key=lambda edge: _divergence(counts, edge))


def _divergence(counts: NDArray[np.int64], edge: int) -> float:
    """Return how much less the levels of a range tell than the bins, outliers clipped into it."""
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


def collect_histograms(
    fp32: Path, samples: Sequence[np.ndarray], tensors: Sequence[str]
) -> dict[str, Histogram]:
    """Return the histograms of some of a graph's tensors over the samples.

    Args:
        fp32: The graph.
        samples: What the graph takes.
        tensors: Their names.

    Raises:
        CalibrationError: There are no samples, or a value is not a number.
    """
    if not samples:
        raise CalibrationError("no picture to set INT8 ranges on; give a set with at least one")
    names = list(tensors)
    largest = dict.fromkeys(names, 0.0)
    for values in _values(fp32, samples, names):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.abs(value).max(initial=0.0)))
    broken = [name for name, value in largest.items() if not np.isfinite(value)]
    if broken:
        raise CalibrationError(
            f"{broken[0]!r} is not a finite number on a calibration picture; expected weights that "
            "restore. Train them again"
        )
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for values in _values(fp32, samples, names):
        for name, value in values.items():
            scale = _BINS / max(largest[name], _SMALLEST_RANGE)
            bins = np.minimum((np.abs(value).ravel() * scale).astype(np.int64), _BINS - 1)
            counts[name] += np.bincount(bins, minlength=_BINS)
    return {name: Histogram(largest[name], counts[name]) for name in names}


def _values(
    fp32: Path, samples: Sequence[np.ndarray], names: list[str]
) -> Iterator[Mapping[str, np.ndarray]]:
    require("onnxruntime", "seeing the ranges of activations")
    import onnx
    import onnxruntime

    model = onnx.load(fp32)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for sample in samples:
        yield dict(zip(names, session.run(names, plain_feed(model, sample)), strict=True))


class RangeCache(Document):
    """Ranges on disk, bound to all that they depend on.

    Schema history: 1 (2026-11) the first.
    """

    schema_version: Literal[1] = 1
    data_sha256: str
    """Of the calibrating pictures' pixels."""
    preprocessing: str
    """What is done to a picture before the graph sees it."""
    model_sha256: str
    """Of the fp32 graph."""
    images: int = Field(ge=1)
    ranges: dict[Method, dict[str, float]]
    """The largest magnitude, by method and tensor."""
    best: Method | None = None
    """What came nearest to fp32 on the pictures that judge; None: not compared."""


@dataclass(frozen=True)
class Binding:
    """What ranges depend on."""

    data_sha256: str
    preprocessing: str
    model_sha256: str

    @classmethod
    def of(cls, fp32: Path, data_sha256: str, preprocessing: str) -> Binding:
        """Return the binding of a graph's file."""
        return cls(data_sha256, preprocessing, sha256_of(fp32))


def preprocessing_of(image: ImageContract) -> str:
    """Return in words what is done to a picture before a graph sees it."""
    size = "any size" if image.size is None else f"{image.size[1]}x{image.size[0]}"
    return f"{image.io} RGB, cut to {size}, padded by reflection to multiples of {image.multiple}"


def ranges_of(binding: Binding, images: int, histograms: Mapping[str, Histogram]) -> RangeCache:
    """Return the ranges of every method."""
    return RangeCache(
        data_sha256=binding.data_sha256,
        preprocessing=binding.preprocessing,
        model_sha256=binding.model_sha256,
        images=images,
        ranges={
            method: {name: histogram.range(method) for name, histogram in histograms.items()}
            for method in METHODS
        },
    )


def write_cache(path: Path, cache: RangeCache) -> None:
    """Write ranges, whole or not at all."""
    write_atomically(path, cache.model_dump_json(indent=1).encode() + b"\n")


def read_cache(path: Path, binding: Binding) -> RangeCache:
    """Return the ranges of a file after comparing what they were taken from.

    Raises:
        CalibrationError: Not such a file, or of other pictures, preprocessing or weights.
    """
    try:
        cache = RangeCache.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CalibrationError(
            f"{path} is not a file of calibrated ranges; delete it and run mirnet-calibrate again"
        ) from error
    for what, found, expected in (
        ("pictures", cache.data_sha256, binding.data_sha256),
        ("preprocessing", cache.preprocessing, binding.preprocessing),
        ("graph", cache.model_sha256, binding.model_sha256),
    ):
        if found != expected:
            raise CalibrationError(
                f"{path} was calibrated on other {what}: expected {expected[:40]}, found "
                f"{found[:40]}. Run mirnet-calibrate again, or delete it"
            )
    return cache
