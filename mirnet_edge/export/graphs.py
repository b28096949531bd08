"""The ONNX files of a bundle: one per precision and target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mirnet_edge.compression.inference_form import to_inference_form
from mirnet_edge.compression.quantize import (
    Quantizing,
    quantize_for_cpu,
    quantize_for_tensorrt,
)
from mirnet_edge.compression.ranges import RANGES_FILE, Binding, preprocessing_of, read_cache
from mirnet_edge.compression.tensorrt_rules import check_for_tensorrt
from mirnet_edge.errors import CalibrationError
from mirnet_edge.export.anchors import anchored_form
from mirnet_edge.export.onnx_graph import export_onnx, to_fp16
from mirnet_edge.export.parity import check_parity
from mirnet_edge.export.trial import Judge, trial_backend
from mirnet_edge.images import batch_from_frames, pad_to_multiple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from torch import nn

    from mirnet_edge.calibration.sets import CalibrationSet
    from mirnet_edge.compression.ranges import Method
    from mirnet_edge.export.job import ExportOptions
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import ImageContract, Precision, Quantization


@dataclass(frozen=True)
class GraphFile:
    """One ONNX file that was made."""

    name: str
    precision: Precision
    targets: tuple[Literal["cpu", "tensorrt"], ...]
    quantization: Quantization | None = None
    ranges: Method = "minmax"
    """How the ranges of activations were taken."""

    @property
    def file(self) -> str:
        """Return the file's name in the bundle."""
        return f"{self.name}.onnx"


_FP32 = GraphFile("fp32", "fp32", ("cpu", "tensorrt"))
_FP16 = GraphFile("fp16", "fp16", ("tensorrt",))
_INT8_CPU = GraphFile("int8-cpu", "int8", ("cpu",))
_INT8_TENSORRT = GraphFile("int8-tensorrt", "int8", ("tensorrt",))
_INT8_FP16_TENSORRT = GraphFile("int8-fp16-tensorrt", "int8+fp16", ("tensorrt",))


def make_graphs(
    network: nn.Module,
    folder: Path,
    image: ImageContract,
    pictures: CalibrationSet,
    options: ExportOptions,
    on_stage: Callable[[str], None],
    frame: Frames,
) -> tuple[list[GraphFile], float]:
    """Write the ONNX files that the options ask for.

    Args:
        network: The weights to export; left as it is.
        folder: Where the files go.
        image: What the graphs take and give.
        pictures: Those that calibrate and those that judge.
        options: Which precisions, for which targets, and whether blocks are chosen by measurement.
        on_stage: Told in a few words what is being done.
        frame: (1, H, W, 3) uint8; what a search for blocks is timed on.

    Returns:
        What was written, fp32 first, and the parity of fp32 with the network in dB.

    Raises:
        GraphError: A graph differs from the network, or TensorRT would misread it.
    """
    on_stage("export fp32")
    deployed = to_inference_form(network)
    export_onnx(
        anchored_form(deployed) if image.vectors else deployed,
        folder / _FP32.file,
        io=image.io,
        size=image.size,
        multiple=image.multiple,
    )
    parity_frames = pad_to_multiple(pictures.judging[0].frame[None], image.multiple)
    parity_db = check_parity(network, folder / _FP32.file, parity_frames, image)
    made = [_FP32]
    if options.fp16:
        on_stage("convert to fp16")
        to_fp16(folder / _FP32.file, folder / _FP16.file)
        made.append(_FP16)
    if options.int8:
        made += _quantized(folder, image, pictures, options, on_stage, frame)
    return made, parity_db


def _quantized(
    folder: Path,
    image: ImageContract,
    pictures: CalibrationSet,
    options: ExportOptions,
    on_stage: Callable[[str], None],
    frame: Frames,
) -> list[GraphFile]:
    fp32 = folder / _FP32.file
    samples = graph_inputs([sample.frame for sample in pictures.calibrating], image)
    made = []
    if options.target in ("cpu", "all"):
        on_stage(f"quantize for CPUs on {len(samples)} pictures")
        made.append(_INT8_CPU)
        if options.mixed:
            made[-1] = _searched(_INT8_CPU, folder, image, pictures, options, on_stage, frame)
        else:
            quantize_for_cpu(fp32, folder / _INT8_CPU.file, samples)
    if options.target in ("tensorrt", "all"):
        on_stage(f"quantize for TensorRT on {len(samples)} pictures")
        made.append(_INT8_TENSORRT)
        if options.mixed:
            made[-1] = _searched(_INT8_TENSORRT, folder, image, pictures, options, on_stage, frame)
        else:
            how = _estimated(fp32, image, pictures, options.calibration, on_stage)
            quantize_for_tensorrt(fp32, folder / _INT8_TENSORRT.file, samples, how)
            made[-1] = replace(_INT8_TENSORRT, ranges=how.method)
        if options.fp16:
            on_stage("convert the rest of the TensorRT INT8 graph to fp16")
            to_fp16(folder / _INT8_TENSORRT.file, folder / _INT8_FP16_TENSORRT.file)
            made.append(replace(_INT8_FP16_TENSORRT, ranges=made[-1].ranges))
    for file in made:
        if "tensorrt" in file.targets:
            _check(folder / file.file)
    return made


def _estimated(
    fp32: Path,
    image: ImageContract,
    pictures: CalibrationSet,
    folder: Path | None,
    on_stage: Callable[[str], None],
) -> Quantizing:
    """Return the ranges that mirnet-calibrate found best on this set; else the widest are seen."""
    file = None if folder is None else folder / RANGES_FILE
    if file is None or not file.is_file():
        return Quantizing()
    try:
        known = read_cache(file, Binding.of(fp32, pictures.sha256, preprocessing_of(image)))
    except CalibrationError as error:
        on_stage(f"the widest ranges are seen anew: {error}")
        return Quantizing()
    if known.best is None:
        return Quantizing()
    on_stage(f"use the {known.best} ranges of {file}")
    return Quantizing(method=known.best, ranges=known.ranges[known.best])


def _searched(
    file: GraphFile,
    folder: Path,
    image: ImageContract,
    pictures: CalibrationSet,
    options: ExportOptions,
    on_stage: Callable[[str], None],
    frame: Frames,
) -> GraphFile:
    from mirnet_edge.export.search import search_graph

    samples = graph_inputs([sample.frame for sample in pictures.calibrating], image)
    backend = trial_backend("auto" if "cpu" in file.targets else "tensorrt")
    judge = Judge(folder / _FP32.file, image, pictures.judging, frame, backend)
    facts = search_graph(
        folder / _FP32.file, folder / file.file, samples, judge,
        max_drop_db=options.max_drop_db, target_fps=options.target_fps, on_stage=on_stage,
    )  # fmt: skip
    return replace(file, quantization=facts)


def _check(path: Path) -> None:
    import onnx

    check_for_tensorrt(onnx.load(path), path.name)


def graph_inputs(frames: Sequence[np.ndarray], image: ImageContract) -> list[np.ndarray]:
    """Return frames as a graph takes them: padded, with a batch axis, in its type and layout."""
    padded = [pad_to_multiple(frame[None], image.multiple) for frame in frames]
    if image.io == "uint8":
        return padded
    return [batch_from_frames(frame) for frame in padded]
