"""Analyze quantization of weights: sensitivity by block, and range estimators compared."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.calibration.sets import read_set
from mirnet_edge.dependencies import available
from mirnet_edge.export.graphs import ExportOptions, fit_calibration_set, graph_inputs, timing_frame
from mirnet_edge.export.job import calibration_set_for, image_contract
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.export.sensitivity import (
    FILE_NAME,
    IMAGE_NAME,
    GraphEvaluator,
    Sensitivity,
    draw_sensitivity,
    measure_sensitivity,
    new_analysis,
    quantize_all_blocks,
    resume_analysis,
    trial_backend,
)
from mirnet_edge.images.contract import size_text
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.quantization.ptq import (
    METHODS,
    RANGES_FILE,
    Method,
    QuantizationScheme,
    RangeKey,
    collect_histograms,
    preprocessing_of,
    quantize_for_tensorrt,
    quantized_inputs,
    ranges_of,
    read_cache,
    write_cache,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.export.sensitivity import GraphTrial


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest:
    """What to measure."""

    weights: str
    out: Path
    """Folder for the figures and their image."""
    calibration: Path | None = None
    size: tuple[int, int] | None = None
    """(height, width) of the frame that is timed."""
    backend: str = "auto"


def analyze_sensitivity(
    request: SensitivityRequest, on_stage: Callable[[str], None] = lambda what: None
) -> Sensitivity:
    """Measure every block of some weights, or go on measuring, and write figures and image.

    Raises:
        MirnetEdgeError: The weights or images are not usable, or the folder holds figures of
            others.
    """
    from mirnet_edge import checkpoints

    backend = trial_backend(request.backend)
    options = ExportOptions(
        weights=request.weights, out=request.out, int8=True, calibration=request.calibration
    )
    on_stage(f"open {request.weights}")
    loaded = checkpoints.load(request.weights)
    image = image_contract(loaded, options)
    images = fit_calibration_set(calibration_set_for(options, loaded, image), image, loaded)
    sized = image.model_copy(update={"size": request.size})
    frame = timing_frame(images, sized, loaded)
    recipe = f"{backend}, all blocks minmax, {size_text(*frame.shape[1:3])}"
    file = request.out / FILE_NAME
    known = resume_analysis(file, new_analysis(loaded.sha256, images.sha256, recipe))
    found = known
    if not known.complete:
        with tempfile.TemporaryDirectory() as folder:
            fp32 = Path(folder) / "fp32.onnx"
            on_stage("export fp32")
            network = to_inference_form(loaded.model)
            export_onnx(network, fp32, io=image.io, size=None, multiple=image.multiple)
            samples = graph_inputs([one.frame for one in images.calibrating], image)
            on_stage(f"quantize on {len(samples)} images")
            # TensorRT's form has no whole-frame convolution in INT8: the legalizer undoes it
            how = QuantizationScheme(whole_frame=backend != "tensorrt")
            graphs = quantize_all_blocks(fp32, samples, backend, how)
            on_stage(f"fp32: {len(images.judging)} images")
            judge = GraphEvaluator(fp32, image, images.judging, frame, backend)
            found = measure_sensitivity(graphs, judge, known, file, on_stage)
    if available("matplotlib"):
        draw_sensitivity(found, request.out / IMAGE_NAME)
    return found


@dataclass(frozen=True)
class EstimatorComparison:
    """What each way loses on the images that judge."""

    trials: dict[Method, GraphTrial]

    @property
    def best(self) -> Method:
        """Return the way that comes nearest to fp32."""
        return max(self.trials, key=lambda method: self.trials[method].against_fp32_db)


def compare_estimators(
    weights: str, folder: Path, on_stage: Callable[[str], None] = lambda what: None
) -> EstimatorComparison:
    """Compare the estimators on a set, and keep the ranges and the best in its `ranges.json`.

    Ranges that are there already are used where images, preprocessing and graph are the same.
    An export that calibrates with the set takes the best of them.

    Raises:
        CalibrationError: The set is not usable, or its ranges are of something else.
    """
    import onnx

    from mirnet_edge import checkpoints

    loaded = checkpoints.load(weights)
    options = ExportOptions(weights=weights, out=folder, calibration=folder, int8=True)
    image = image_contract(loaded, options)
    images = fit_calibration_set(read_set(folder, scale=image.scale), image, loaded)
    samples = graph_inputs([one.frame for one in images.calibrating], image)
    with tempfile.TemporaryDirectory() as name:
        fp32 = Path(name) / "fp32.onnx"
        on_stage("export fp32")
        network = to_inference_form(loaded.model)
        export_onnx(network, fp32, io=image.io, size=image.size, multiple=image.multiple)
        binding = RangeKey.of(fp32, images.sha256, preprocessing_of(image))
        cache = folder / RANGES_FILE
        if cache.is_file():
            on_stage(f"use the ranges of {cache}")
            known = read_cache(cache, binding)
        else:
            on_stage(f"see the ranges on {len(samples)} images")
            seen = collect_histograms(fp32, samples, quantized_inputs(onnx.load(fp32)))
            known = ranges_of(binding, len(samples), seen)
            write_cache(cache, known)
        frame = timing_frame(images, image, loaded)
        judge = GraphEvaluator(fp32, image, images.judging, frame, "tensorrt")
        trials = {}
        for method in METHODS:
            on_stage(f"judge {method}")
            graph = Path(name) / f"{method}.onnx"
            how = QuantizationScheme(engine="onnxruntime", ranges=known.ranges[method])
            quantize_for_tensorrt(fp32, graph, samples, how)
            trials[method] = judge.tried(graph)
    compared = EstimatorComparison(trials)
    write_cache(cache, known.model_copy(update={"best": compared.best}))
    return compared
