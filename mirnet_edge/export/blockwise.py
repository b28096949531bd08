"""From weights to what each of their blocks costs in INT8: the job of `mirnet-sensitivity`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.compression.inference_form import to_inference_form
from mirnet_edge.compression.quantize import Quantizing
from mirnet_edge.dependencies import available
from mirnet_edge.export.graphs import graph_inputs
from mirnet_edge.export.job import ExportOptions, image_contract, pictures_for
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.export.samples import prepared, timing_frame
from mirnet_edge.export.sensitivity import (
    FILE_NAME,
    PICTURE_NAME,
    Sensitivity,
    draw,
    measure_sensitivity,
    quantized_whole,
    resumed,
    started,
)
from mirnet_edge.export.trial import Judge, trial_backend
from mirnet_edge.images import size_text

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure."""

    weights: str
    out: Path
    """Folder for the figures and their picture."""
    calibration: Path | None = None
    size: tuple[int, int] | None = None
    """(height, width) of the frame that is timed."""
    backend: str = "auto"


def sensitivity_of(
    request: Request, on_stage: Callable[[str], None] = lambda what: None
) -> Sensitivity:
    """Measure every block of some weights, or go on measuring, and write figures and picture.

    Raises:
        MirnetEdgeError: The weights or pictures are not usable, or the folder holds figures of
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
    pictures = prepared(pictures_for(options, loaded, image), image, loaded)
    sized = image.model_copy(update={"size": request.size})
    frame = timing_frame(pictures, sized, loaded)
    recipe = f"{backend}, all blocks minmax, {size_text(*frame.shape[1:3])}"
    file = request.out / FILE_NAME
    known = resumed(file, started(loaded.sha256, pictures.sha256, recipe))
    found = known
    if not known.complete:
        with tempfile.TemporaryDirectory() as folder:
            fp32 = Path(folder) / "fp32.onnx"
            on_stage("export fp32")
            network = to_inference_form(loaded.model)
            export_onnx(network, fp32, io=image.io, size=None, multiple=image.multiple)
            samples = graph_inputs([one.frame for one in pictures.calibrating], image)
            on_stage(f"quantize on {len(samples)} pictures")
            # TensorRT's form has no whole-frame convolution in INT8: the legalizer undoes it
            how = Quantizing(whole_frame=backend != "tensorrt")
            graphs = quantized_whole(fp32, samples, backend, how)
            on_stage(f"fp32: {len(pictures.judging)} pictures")
            judge = Judge(fp32, image, pictures.judging, frame, backend)
            found = measure_sensitivity(graphs, judge, known, file, on_stage)
    if available("matplotlib"):
        draw(found, request.out / PICTURE_NAME)
    return found
