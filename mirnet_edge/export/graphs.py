"""Make the ONNX graphs of a bundle: one for each precision and target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mirnet_edge.calibration.sets import CalibrationSet, fit_sample
from mirnet_edge.errors import CalibrationError, OptionError
from mirnet_edge.export.onnx_graph import check_parity, context_anchored_form, export_onnx, to_fp16
from mirnet_edge.export.sensitivity import GraphEvaluator, trial_backend
from mirnet_edge.images.contract import batch_from_frames, pad_to_multiple
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.quantization.legalizer import check_for_tensorrt
from mirnet_edge.quantization.ptq import (
    RANGES_FILE,
    QuantizationScheme,
    RangeKey,
    preprocessing_of,
    quantize_for_cpu,
    quantize_for_tensorrt,
    read_cache,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from torch import nn

    from mirnet_edge.calibration.sets import CalibrationSet
    from mirnet_edge.checkpoints import LoadedCheckpoint
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import ImageContract, Precision, QuantizationFacts
    from mirnet_edge.quantization.ptq import Method

Target = Literal["cpu", "tensorrt", "all"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export and how to judge it.

    Raises:
        OptionError: A value makes no sense, or INT8 has nothing to calibrate on.
    """

    weights: str = "shipped:low-light"
    out: Path
    fp16: bool = False
    int8: bool = False
    size: tuple[int, int] | None = None
    """(height, width) of a graph with fixed shape; None for any size."""
    io: Literal["uint8", "float"] = "uint8"
    calibration: Path | None = None
    max_drop_db: float = 0.1
    target: Target = "all"
    anchored: bool = False
    """Graphs with global context vectors as inputs and outputs: `models.global_context`."""
    mixed: bool = False
    """Choose by measurement which blocks INT8 graphs quantize."""
    target_fps: float | None = None
    """With `mixed`: the least lossy choice that is so fast, not the fastest that may pass."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.size is not None and min(self.size) < 1:
            height, width = self.size
            raise OptionError(f"--size must be positive, found {width}x{height}; try 640x480")
        if not self.max_drop_db >= 0.0:
            raise OptionError(f"--max-drop must be 0 dB or more, found {self.max_drop_db:g}")
        if self.target not in ("cpu", "tensorrt", "all"):
            raise OptionError(f"--target must be cpu, tensorrt or all, found {self.target!r}")
        if self.io not in ("uint8", "float"):
            raise OptionError(f"--io must be uint8 or float, found {self.io!r}")
        if self.mixed and not self.int8:
            raise OptionError("--mixed chooses what INT8 graphs quantize; add --int8")
        if self.target_fps is not None and not (self.mixed and self.target_fps > 0.0):
            raise OptionError(
                f"--target-fps is a number above 0 and goes with --mixed, found {self.target_fps:g}"
            )
        if self.int8 and self.calibration is None and not self.weights.startswith("shipped:"):
            raise OptionError(
                f"--int8 needs images to set its ranges on, and {self.weights} has none: "
                "give --calibration DIR with images as the camera takes them"
            )


_TIMING_SIZE = (480, 640)
_LARGEST_SAMPLE = (960, 1280)
# Images are judged and timed by a dozen modes. One of the full MIRNet costs 2.2 TMACs at
# 640x480, half a minute on two cores: it is judged on smaller cuts, and the manifest says so.
_AFFORDABLE_MACS = 128e9
_SMALLEST_CUT = 128


def fit_calibration_set(
    images: CalibrationSet, image: ImageContract, loaded: LoadedCheckpoint
) -> CalibrationSet:
    """Bring the images to the graphs' fixed size, or to one that is not too large."""
    largest = _largest_affordable_size(_LARGEST_SAMPLE, loaded)
    return replace(
        images,
        calibrating=tuple(fit_sample(one, image.size, largest) for one in images.calibrating),
        judging=tuple(fit_sample(one, image.size, largest) for one in images.judging),
    )


def timing_frame(images: CalibrationSet, image: ImageContract, loaded: LoadedCheckpoint) -> Frames:
    """Return the frame that modes are timed on, (1, H, W, 3), padded."""
    size = image.size or _largest_affordable_size(_TIMING_SIZE, loaded)
    sample = fit_sample(images.judging[0], size, None)
    return pad_to_multiple(sample.frame[None], image.multiple)


def _largest_affordable_size(size: tuple[int, int], loaded: LoadedCheckpoint) -> tuple[int, int]:
    """Return the largest (height, width) of the same shape that the network can be judged on."""
    from mirnet_edge.models.macs import count_macs

    multiple = int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    probe = 8 * multiple
    macs_per_pixel = count_macs(loaded.model, probe, probe) / probe**2
    height, width = size
    scale = min(1.0, (_AFFORDABLE_MACS / (macs_per_pixel * height * width)) ** 0.5)
    if scale == 1.0:
        return size
    height, width = (max(_SMALLEST_CUT, int(scale * side)) for side in size)
    return height // multiple * multiple, width // multiple * multiple


@dataclass(frozen=True)
class GraphFile:
    """One ONNX file that was made."""

    name: str
    precision: Precision
    targets: tuple[Literal["cpu", "tensorrt"], ...]
    quantization: QuantizationFacts | None = None
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
    images: CalibrationSet,
    options: ExportOptions,
    on_stage: Callable[[str], None],
    frame: Frames,
) -> tuple[list[GraphFile], float]:
    """Write the ONNX files that the options ask for.

    Args:
        network: The weights to export; left as it is.
        folder: Where the files go.
        image: What the graphs take and give.
        images: Those that calibrate and those that judge.
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
        context_anchored_form(deployed) if image.vectors else deployed,
        folder / _FP32.file,
        io=image.io,
        size=image.size,
        multiple=image.multiple,
    )
    parity_frames = pad_to_multiple(images.judging[0].frame[None], image.multiple)
    parity_db = check_parity(network, folder / _FP32.file, parity_frames, image)
    made = [_FP32]
    if options.fp16:
        on_stage("convert to fp16")
        to_fp16(folder / _FP32.file, folder / _FP16.file)
        made.append(_FP16)
    if options.int8:
        made += _quantize(folder, image, images, options, on_stage, frame)
    return made, parity_db


def _quantize(
    folder: Path,
    image: ImageContract,
    images: CalibrationSet,
    options: ExportOptions,
    on_stage: Callable[[str], None],
    frame: Frames,
) -> list[GraphFile]:
    fp32 = folder / _FP32.file
    samples = graph_inputs([sample.frame for sample in images.calibrating], image)
    made = []
    if options.target in ("cpu", "all"):
        on_stage(f"quantize for CPUs on {len(samples)} images")
        made.append(_INT8_CPU)
        if options.mixed:
            made[-1] = _search_mixed(_INT8_CPU, folder, image, images, options, on_stage, frame)
        else:
            quantize_for_cpu(fp32, folder / _INT8_CPU.file, samples)
    if options.target in ("tensorrt", "all"):
        on_stage(f"quantize for TensorRT on {len(samples)} images")
        made.append(_INT8_TENSORRT)
        if options.mixed:
            made[-1] = _search_mixed(
                _INT8_TENSORRT, folder, image, images, options, on_stage, frame
            )
        else:
            how = _estimate_ranges(fp32, image, images, options.calibration, on_stage)
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


def _estimate_ranges(
    fp32: Path,
    image: ImageContract,
    images: CalibrationSet,
    folder: Path | None,
    on_stage: Callable[[str], None],
) -> QuantizationScheme:
    """Return the ranges that mirnet-calibrate found best on this set; else the widest are seen."""
    file = None if folder is None else folder / RANGES_FILE
    if file is None or not file.is_file():
        return QuantizationScheme()
    try:
        known = read_cache(file, RangeKey.of(fp32, images.sha256, preprocessing_of(image)))
    except CalibrationError as error:
        on_stage(f"the widest ranges are seen anew: {error}")
        return QuantizationScheme()
    if known.best is None:
        return QuantizationScheme()
    on_stage(f"use the {known.best} ranges of {file}")
    return QuantizationScheme(method=known.best, ranges=known.ranges[known.best])


def _search_mixed(
    file: GraphFile,
    folder: Path,
    image: ImageContract,
    images: CalibrationSet,
    options: ExportOptions,
    on_stage: Callable[[str], None],
    frame: Frames,
) -> GraphFile:
    from mirnet_edge.export.sensitivity import search_graph

    samples = graph_inputs([sample.frame for sample in images.calibrating], image)
    backend = trial_backend("auto" if "cpu" in file.targets else "tensorrt")
    judge = GraphEvaluator(folder / _FP32.file, image, images.judging, frame, backend)
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
