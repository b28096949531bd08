"""Make the ONNX graphs of a bundle: one for each precision and target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirnet_edge.errors import CalibrationError
from mirnet_edge.export.onnx_graph import (
    check_parity,
    export_onnx,
    to_context_anchored_form,
    to_fp16,
)
from mirnet_edge.export.sensitivity import (
    GraphEvaluator,
    choose_trial_backend,
    keep_form,
    search_graph,
)
from mirnet_edge.images.contract import pad_to_multiple
from mirnet_edge.manifest import (
    LITERT_SUFFIX,
    Precision,
    QuantizationFacts,
    Target,
)
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.onnx_files import write_model
from mirnet_edge.quantization.cell_form import to_cell_form
from mirnet_edge.quantization.legalizer import check_for_tensorrt
from mirnet_edge.quantization.ptq import (
    QuantizationScheme,
    correct_output_bias,
    list_color_convs,
    quantize_for_cpu,
    quantize_for_tensorrt,
    scheme_for_cpu,
)
from mirnet_edge.quantization.ranges import (
    RANGES_FILE,
    RangeEstimator,
    RangeKey,
    collect_magnitudes,
    describe_preprocessing,
    read_ranges,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import onnx

    from mirnet_edge.export.sensitivity import Deliver
    from mirnet_edge.export.workspace import Workspace


@dataclass(frozen=True)
class GraphFile:
    """One ONNX file or LiteRT model of the bundle."""

    name: str
    precision: Precision
    targets: tuple[Target, ...]
    quantization: QuantizationFacts | None = None
    ranges: RangeEstimator = "minmax"
    """How the ranges of activations were estimated."""
    size: tuple[int, int] | None = None
    """(height, width) of a graph of one size in a bundle for any size; None for the bundle's."""

    @property
    def file(self) -> str:
        """Return the file's name in the bundle."""
        return f"{self.name}{LITERT_SUFFIX if 'litert' in self.targets else '.onnx'}"


_FP32 = GraphFile("fp32", "fp32", ("cpu", "tensorrt"))
_FP16 = GraphFile("fp16", "fp16", ("tensorrt",))
_INT8_CPU = GraphFile("int8-cpu", "int8", ("cpu",))
_INT8_TENSORRT = GraphFile("int8-tensorrt", "int8", ("tensorrt",))
_INT8_FP16_TENSORRT = GraphFile("int8-fp16-tensorrt", "int8+fp16", ("tensorrt",))
_FP8_TENSORRT = GraphFile("fp8-tensorrt", "fp8", ("tensorrt",))
_FP8_FP16_TENSORRT = GraphFile("fp8-fp16-tensorrt", "fp8+fp16", ("tensorrt",))


def make_graphs(workspace: Workspace) -> tuple[list[GraphFile], float]:
    """Write the ONNX graphs that the options name; the network is left as it is.

    Returns:
        The files, fp32 first, and the parity of fp32 with the network in dB.

    Raises:
        GraphError: A graph differs from the network, or TensorRT would misread it.
    """
    options = workspace.options
    parity_db: float = workspace.recall(
        "fp32", float, lambda: _export_fp32(workspace), [_FP32.file]
    )
    files = [_FP32]
    if options.fp16 and options.target != "cpu":
        files.append(_make(workspace, _FP16, _to_fp16))
    if options.int8 and options.target in ("cpu", "all"):
        files.append(_make(workspace, _INT8_CPU, _quantize_for_cpu))
    if options.int8 and options.target in ("tensorrt", "all"):
        files.append(_make(workspace, _INT8_TENSORRT, _quantize))
        if options.fp16:
            half = replace(_INT8_FP16_TENSORRT, ranges=files[-1].ranges)
            files.append(_make(workspace, half, _rest_to_fp16))
    if options.fp8:
        files += workspace.recall(
            "fp8", list[GraphFile], lambda: _make_fp8(workspace, files), _fp8_files(options.fp16)
        )
    for file in files:
        if file.precision.startswith(("int8", "fp8")) and "tensorrt" in file.targets:
            _check(workspace.path(file.file))
    return files, parity_db


def _make(
    workspace: Workspace, file: GraphFile, make: Callable[[Workspace, GraphFile], GraphFile]
) -> GraphFile:
    made: GraphFile = workspace.recall(
        file.name, GraphFile, lambda: make(workspace, file), [file.file]
    )
    return made


def _fp8_files(with_fp16: bool) -> list[str]:
    return [_FP8_TENSORRT.file, *([_FP8_FP16_TENSORRT.file] if with_fp16 else [])]


def _quantize_for_cpu(workspace: Workspace, file: GraphFile) -> GraphFile:
    made = _quantize(workspace, file)
    if workspace.image.io == "uint8":
        _finish_for_cpu(workspace, made)
    return made


def _to_fp16(workspace: Workspace, file: GraphFile) -> GraphFile:
    workspace.on_stage("convert to fp16")
    to_fp16(workspace.path(_FP32.file), workspace.path(file.file))
    return file


def _rest_to_fp16(workspace: Workspace, file: GraphFile) -> GraphFile:
    workspace.on_stage("convert the rest of the TensorRT INT8 graph to fp16")
    to_fp16(workspace.path(_INT8_TENSORRT.file), workspace.path(file.file))
    return file


def _export_fp32(workspace: Workspace) -> float:
    """Write the fp32 graph and return its parity with the network in dB."""
    workspace.on_stage("export fp32")
    network, image = workspace.loaded.model, workspace.image
    deployed = to_inference_form(network)
    graph = workspace.path(_FP32.file)
    export_onnx(
        to_context_anchored_form(deployed) if image.vectors else deployed,
        graph,
        io=image.io,
        size=image.size,
        multiple=image.multiple,
    )
    frames = pad_to_multiple(workspace.images.evaluation[0].frame[None], image.multiple)
    return check_parity(network, graph, frames, image)


def _quantize(workspace: Workspace, file: GraphFile) -> GraphFile:
    """Write an INT8 graph: all blocks, or those that a mixed-precision search chooses."""
    samples, on_cpu = workspace.samples, "cpu" in file.targets
    target = "CPUs" if on_cpu else "TensorRT"
    workspace.on_stage(f"quantize for {target} on {workspace.calibration_text}")
    fp32, graph = workspace.path(_FP32.file), workspace.path(file.file)
    if workspace.options.mixed:
        return _search_mixed_precision(workspace, file)
    exclude = _list_excluded(workspace)
    if on_cpu:
        scheme = replace(_cpu_scheme(workspace), exclude=exclude)
        quantize_for_cpu(fp32, graph, samples, scheme, workspace.on_step)
        return file
    scheme = replace(_calibrated_scheme(workspace), exclude=exclude)
    quantize_for_tensorrt(fp32, graph, samples, scheme, workspace.on_step)
    return replace(file, ranges=scheme.estimator)


def _cpu_scheme(workspace: Workspace) -> QuantizationScheme:
    return scheme_for_cpu(workspace.loaded.model, workspace.loaded.card)


def _list_excluded(workspace: Workspace) -> tuple[str, ...]:
    """Return the convolutions that an enlarging network leaves in float: those of colors."""
    if workspace.image.scale == 1:
        return ()
    import onnx

    return tuple(list_color_convs(onnx.load(workspace.path(_FP32.file))))


def _make_fp8(workspace: Workspace, files: list[GraphFile]) -> list[GraphFile]:
    """Write the FP8 graphs: of TensorRT's INT8 graph, which is made for them where it is absent."""
    import onnx

    from mirnet_edge.quantization.fp8 import to_fp8

    int8 = workspace.path(_INT8_TENSORRT.file)
    made = next((one for one in files if one.name == _INT8_TENSORRT.name), None)
    source = made or _quantize(workspace, _INT8_TENSORRT)
    workspace.on_stage("convert the TensorRT INT8 graph to FP8")
    graph = to_fp8(onnx.load(int8), onnx.load(workspace.path(_FP32.file)))
    write_model(graph, workspace.path(_FP8_TENSORRT.file))
    found = [_FP8_TENSORRT]
    if workspace.options.fp16:
        to_fp16(workspace.path(_FP8_TENSORRT.file), workspace.path(_FP8_FP16_TENSORRT.file))
        found.append(_FP8_FP16_TENSORRT)
    if made is None:
        int8.unlink()
    return [replace(one, ranges=source.ranges, quantization=source.quantization) for one in found]


def _finish_for_cpu(workspace: Workspace, file: GraphFile) -> None:
    """Correct the mean colors of an INT8 graph of 8-bit frames; give a light one the cell form."""
    import onnx

    graph, deliver = workspace.path(file.file), _make_delivered_form(workspace)
    model = onnx.load(graph)
    if not workspace.options.mixed:  # a search has measured the graph as it is
        fp32, samples = workspace.path(_FP32.file), workspace.samples
        correct_output_bias(model, fp32, samples, deliver)
    write_model(deliver(model), graph)


def _calibrated_scheme(workspace: Workspace) -> QuantizationScheme:
    """Return the ranges that mirnet-calibrate found best on this set; else minmax, to be seen."""
    folder = workspace.images.folder
    file = None if folder is None else folder / RANGES_FILE
    if file is None or not file.is_file():
        return QuantizationScheme()
    key = RangeKey.of(
        workspace.path(_FP32.file),
        workspace.images.sha256,
        describe_preprocessing(workspace.image),
    )
    try:
        known = read_ranges(file, key)
    except CalibrationError as error:
        workspace.on_stage(f"estimate minmax ranges anew: {error}")
        return QuantizationScheme()
    if known.best is None:
        return QuantizationScheme()
    workspace.on_stage(f"use the {known.best} ranges of {file}")
    return QuantizationScheme(estimator=known.best, ranges=known.ranges[known.best])


def _make_delivered_form(workspace: Workspace) -> Deliver:
    """Return what gives INT8 graphs for processors the form that `_finish_for_cpu` does."""
    fp32, samples = workspace.path(_FP32.file), workspace.samples
    known: dict[str, float] = {}

    def measure(
        fp32: Path, samples: Sequence[np.ndarray], tensors: Sequence[str]
    ) -> dict[str, float]:
        missing = [one for one in tensors if one not in known]
        if missing:
            known.update(collect_magnitudes(fp32, samples, missing))
        return known

    def deliver(model: onnx.ModelProto) -> onnx.ModelProto:
        return to_cell_form(model, fp32, samples, measure) or model

    return deliver


def _search_mixed_precision(workspace: Workspace, file: GraphFile) -> GraphFile:
    options, fp32 = workspace.options, workspace.path(_FP32.file)
    is_rewritten = "cpu" in file.targets and workspace.image.io == "uint8"
    evaluator = GraphEvaluator(
        fp32, workspace.image, workspace.images.evaluation, workspace.timing_frame,
        choose_trial_backend("auto" if "cpu" in file.targets else "tensorrt"),
        rounds=workspace.rounds,
    )  # fmt: skip
    facts = search_graph(
        fp32, workspace.path(file.file), workspace.samples, evaluator,
        max_drop_db=options.max_drop_db, target_fps=options.target_fps,
        scheme=_cpu_scheme(workspace),
        deliver=_make_delivered_form(workspace) if is_rewritten else keep_form,
        on_stage=workspace.on_stage,
    )  # fmt: skip
    return replace(file, quantization=facts)


def _check(path: Path) -> None:
    import onnx

    check_for_tensorrt(onnx.load(path), path.name)
