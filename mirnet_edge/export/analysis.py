"""Analyze quantization of weights: sensitivity by block, and range estimators compared."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.export.sensitivity import (
    FILE_NAME,
    IMAGE_NAME,
    GraphEvaluator,
    Sensitivity,
    begin_analysis,
    choose_trial_backend,
    draw_sensitivity,
    measure_sensitivity,
    quantize_all_blocks,
    resume_analysis,
)
from mirnet_edge.export.workspace import ExportOptions, make_timing_frame, open_workspace
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import size_text
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.quantization.ptq import (
    QuantizationScheme,
    list_quantized_inputs,
    quantize_for_tensorrt,
    scheme_for_cpu,
)
from mirnet_edge.quantization.ranges import (
    RANGE_ESTIMATORS,
    RANGES_FILE,
    RangeEstimator,
    RangeKey,
    collect_histograms,
    describe_preprocessing,
    estimate_ranges,
    read_ranges,
    write_ranges,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.checkpoints import LoadedCheckpoint
    from mirnet_edge.export.sensitivity import GraphTrial
    from mirnet_edge.export.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest:
    """Which weights to analyze, on which images and backend, and where the report goes."""

    weights: str
    weights_key: str | None = None
    """Which set of weights of several in the file; see `checkpoints.load`."""
    out: Path
    """Folder for the report and its chart."""
    calibration: Path | str | None = None
    """A folder of images, a preset's file or a preset's name; None for the built-in set."""
    size: tuple[int, int] | None = None
    """(height, width) of the frame that is timed."""
    backend: str = "auto"


def analyze_sensitivity(
    request: SensitivityRequest, on_stage: Callable[[str], None] = lambda what: None
) -> Sensitivity:
    """Measure accuracy drop and speedup of every block in INT8, and write report and chart.

    An analysis that was interrupted is resumed.

    Raises:
        MirnetEdgeError: The weights or images are not usable, or the folder holds the report of
            others.
    """
    backend = choose_trial_backend(request.backend)
    options = ExportOptions(
        weights=request.weights, weights_key=request.weights_key, out=request.out, int8=True,
        calibration=request.calibration,
    )  # fmt: skip
    file = request.out / FILE_NAME
    with tempfile.TemporaryDirectory() as name:
        workspace = _set_timing_size(open_workspace(options, Path(name), on_stage), request.size)
        images, frame = workspace.images, workspace.timing_frame
        scheme = choose_scheme(workspace.loaded, backend)
        setup = f"{backend}, all blocks {describe_ranges(scheme)}, {size_text(*frame.shape[1:3])}"
        fresh = begin_analysis(workspace.loaded.sha256, images.sha256, setup)
        found = resume_analysis(file, fresh)
        if not found.complete:
            fp32 = _export_fp32(workspace)
            on_stage(f"quantize on {len(images.calibration)} images")
            graphs = quantize_all_blocks(fp32, workspace.samples, backend, scheme)
            on_stage(f"fp32: {len(images.evaluation)} images")
            evaluator = GraphEvaluator(
                fp32, workspace.image, images.evaluation, frame, backend, rounds=workspace.rounds
            )
            found = measure_sensitivity(graphs, evaluator, found, file, on_stage)
    write_atomically(request.out / IMAGE_NAME, draw_sensitivity(found).to_file())
    return found


def choose_scheme(loaded: LoadedCheckpoint, backend: str) -> QuantizationScheme:
    """Return how the blocks of weights are quantized for a backend.

    TensorRT's form has no whole-frame convolution in INT8, because the legalizer undoes it, and
    its quantizer estimates all ranges.
    """
    if backend == "tensorrt":
        return QuantizationScheme()
    return replace(scheme_for_cpu(loaded.model, loaded.card), whole_frame=True)


def describe_ranges(scheme: QuantizationScheme) -> str:
    """Return which ranges of activations a scheme takes, for the report's setup."""
    if scheme.learned_ranges:
        return "learned ranges"
    return f"minmax without {scheme.outliers:g}" if scheme.outliers else "minmax"


def _set_timing_size(workspace: Workspace, size: tuple[int, int] | None) -> Workspace:
    sized = workspace.image.model_copy(update={"size": size})
    frame = make_timing_frame(workspace.images, sized, workspace.plan)
    return replace(workspace, timing_frame=frame)


def _export_fp32(workspace: Workspace) -> Path:
    workspace.on_stage("export fp32")
    path, image = workspace.path("fp32.onnx"), workspace.image
    network = to_inference_form(workspace.loaded.model)
    export_onnx(network, path, io=image.io, size=image.size, multiple=image.multiple)
    return path


@dataclass(frozen=True)
class EstimatorComparison:
    """Accuracy of the INT8 graph on the evaluation images, by range estimator."""

    trials: dict[RangeEstimator, GraphTrial]

    @property
    def best(self) -> RangeEstimator:
        """Return the estimator whose graph is nearest to fp32."""
        return max(self.trials, key=lambda estimator: self.trials[estimator].against_fp32_db)


def compare_estimators(
    weights: str, folder: Path, on_stage: Callable[[str], None] = lambda what: None
) -> EstimatorComparison:
    """Compare the range estimators on a set, and keep ranges and the best in its `ranges.json`.

    Ranges that are there already are used where images, preprocessing and graph are the same.
    An export that calibrates with the set takes the best of them.

    Raises:
        CalibrationError: The set is not usable, or its ranges are of something else.
    """
    import onnx

    options = ExportOptions(weights=weights, out=folder, calibration=folder, int8=True)
    with tempfile.TemporaryDirectory() as name:
        workspace = open_workspace(options, Path(name), on_stage)
        images, image, samples = workspace.images, workspace.image, workspace.samples
        fp32 = _export_fp32(workspace)
        key = RangeKey.of(fp32, images.sha256, describe_preprocessing(image))
        file = folder / RANGES_FILE
        if file.is_file():
            on_stage(f"use the ranges of {file}")
            known = read_ranges(file, key)
        else:
            on_stage(f"collect histograms on {len(samples)} images")
            histograms = collect_histograms(fp32, samples, list_quantized_inputs(onnx.load(fp32)))
            known = estimate_ranges(key, len(samples), histograms)
            write_ranges(file, known)
        evaluator = GraphEvaluator(
            fp32, image, images.evaluation, workspace.timing_frame, "tensorrt"
        )
        trials = {}
        for estimator in RANGE_ESTIMATORS:
            on_stage(f"evaluate {estimator}")
            graph = workspace.path(f"{estimator}.onnx")
            scheme = QuantizationScheme(quantizer="onnxruntime", ranges=known.ranges[estimator])
            quantize_for_tensorrt(fp32, graph, samples, scheme)
            trials[estimator] = evaluator.evaluate(graph)
    compared = EstimatorComparison(trials)
    write_ranges(file, known.model_copy(update={"best": compared.best}))
    return compared
