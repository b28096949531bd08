"""The three ways to take a range from what was seen, compared on a set; and the cache of ranges."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.calibration.sets import read_set
from mirnet_edge.compression.inference_form import to_inference_form
from mirnet_edge.compression.quantize import Quantizing, quantize_for_tensorrt, quantized_inputs
from mirnet_edge.compression.ranges import (
    METHODS,
    RANGES_FILE,
    Binding,
    Method,
    collect_histograms,
    preprocessing_of,
    ranges_of,
    read_cache,
    write_cache,
)
from mirnet_edge.export.graphs import graph_inputs
from mirnet_edge.export.job import ExportOptions, image_contract
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.export.samples import prepared, timing_frame
from mirnet_edge.export.trial import Judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.export.trial import Trial


@dataclass(frozen=True)
class Compared:
    """What each way loses on the pictures that judge."""

    trials: dict[Method, Trial]

    @property
    def best(self) -> Method:
        """Return the way that comes nearest to fp32."""
        return max(self.trials, key=lambda method: self.trials[method].against_fp32_db)


def compare_estimators(
    weights: str, folder: Path, on_stage: Callable[[str], None] = lambda what: None
) -> Compared:
    """Compare the estimators on a set, and keep the ranges and the best in its `ranges.json`.

    Ranges that are there already are used where pictures, preprocessing and graph are the same.
    An export that calibrates with the set takes the best of them.

    Raises:
        CalibrationError: The set is not usable, or its ranges are of something else.
    """
    import onnx

    from mirnet_edge import checkpoints

    loaded = checkpoints.load(weights)
    options = ExportOptions(weights=weights, out=folder, calibration=folder, int8=True)
    image = image_contract(loaded, options)
    pictures = prepared(read_set(folder, scale=image.scale), image, loaded)
    samples = graph_inputs([one.frame for one in pictures.calibrating], image)
    with tempfile.TemporaryDirectory() as name:
        fp32 = Path(name) / "fp32.onnx"
        on_stage("export fp32")
        network = to_inference_form(loaded.model)
        export_onnx(network, fp32, io=image.io, size=image.size, multiple=image.multiple)
        binding = Binding.of(fp32, pictures.sha256, preprocessing_of(image))
        cache = folder / RANGES_FILE
        if cache.is_file():
            on_stage(f"use the ranges of {cache}")
            known = read_cache(cache, binding)
        else:
            on_stage(f"see the ranges on {len(samples)} pictures")
            seen = collect_histograms(fp32, samples, quantized_inputs(onnx.load(fp32)))
            known = ranges_of(binding, len(samples), seen)
            write_cache(cache, known)
        frame = timing_frame(pictures, image, loaded)
        judge = Judge(fp32, image, pictures.judging, frame, "tensorrt")
        trials = {}
        for method in METHODS:
            on_stage(f"judge {method}")
            graph = Path(name) / f"{method}.onnx"
            how = Quantizing(engine="onnxruntime", ranges=known.ranges[method])
            quantize_for_tensorrt(fp32, graph, samples, how)
            trials[method] = judge.tried(graph)
    compared = Compared(trials)
    write_cache(cache, known.model_copy(update={"best": compared.best}))
    return compared
