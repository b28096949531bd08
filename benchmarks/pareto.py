"""Measure accuracy drop and latency of INT8 block by block, and draw the Pareto front of both.

    python benchmarks/pareto.py shipped:low-light --data lol --out benchmarks/reports
    python benchmarks/pareto.py shipped:low-light --data lol --qat build/qat/low-light-int8.onnx

DATA is a folder as mirnet-export --calibration takes it. --qat also evaluates the INT8 graph that
mirnet-train --qat wrote beside what both quantizers make of the same weights for TensorRT, in
ONNX Runtime's simulation, and measures nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.charts import Chart, ChartAxis, ChartPoint, scatter_chart
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.export.sensitivity import (
    GraphEvaluator,
    MixedPrecisionChoice,
    begin_analysis,
    choose_trial_backend,
    find_pareto_front,
    measure_ladder,
    measure_sensitivity,
    quantize_all_blocks,
)
from mirnet_edge.export.workspace import ExportOptions, open_workspace
from mirnet_edge.files import write_atomically
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.quantization.ptq import QUANTIZERS, QuantizationScheme, quantize_for_tensorrt
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Sequence


def draw_front(choices: Sequence[MixedPrecisionChoice], title: str) -> Chart:
    """Return a chart of accuracy drop against latency, with the Pareto front."""
    points = [
        ChartPoint(
            str(len(one.blocks)) if one.blocks else one.precision,
            one.ratio or 0.0,
            one.drop_db,
            tooltip=f"{len(one.blocks)} blocks in INT8, others in {one.precision}",
        )
        for one in choices
    ]
    return scatter_chart(
        title,
        points,
        ChartAxis(label="latency, x fp32 (labels: number of blocks in INT8)", padding=0.02),
        ChartAxis(label="accuracy drop (dB), lower is better", format="{:.4g}".format),
        size=(880, 480),
        front=[choices.index(one) for one in find_pareto_front(choices)],
    )


def print_simulated(
    evaluator: GraphEvaluator, fp32: Path, samples: list, qat: Path, folder: Path
) -> None:
    """Print the accuracy drop of INT8 for TensorRT: after PTQ by each quantizer, and after QAT."""
    print("| graph | accuracy drop (dB) | PSNR to fp32 (dB) |")
    print("|---|---|---|")
    for quantizer in QUANTIZERS:
        path = folder / f"{quantizer}.onnx"
        quantize_for_tensorrt(fp32, path, samples, QuantizationScheme(quantizer=quantizer))
        trial = evaluator.evaluate(path)
        print(f"| PTQ, {quantizer} | {trial.drop_db:+.3f} | {trial.against_fp32_db:.1f} |")
    trial = evaluator.evaluate(qat)
    print(f"| QAT | {trial.drop_db:+.3f} | {trial.against_fp32_db:.1f} |")


def main() -> None:
    """Print the tables and write the chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("build/pareto"))
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--qat", type=Path)
    arguments = parser.parse_args()
    backend = "tensorrt" if arguments.qat else choose_trial_backend(arguments.backend)
    options = ExportOptions(
        weights=arguments.weights, out=arguments.out, int8=True, calibration=arguments.data
    )
    with tempfile.TemporaryDirectory() as name:
        workspace = open_workspace(options, Path(name))
        image, images, frame = workspace.image, workspace.images, workspace.timing_frame
        samples = workspace.samples
        fp32 = workspace.path("fp32.onnx")
        network = to_inference_form(workspace.loaded.model)
        export_onnx(network, fp32, io=image.io, size=None, multiple=image.multiple)
        evaluator = GraphEvaluator(fp32, image, images.evaluation, frame, backend)
        if arguments.qat:
            print_simulated(evaluator, fp32, samples, arguments.qat, Path(name))
            return
        graphs = quantize_all_blocks(fp32, samples, backend, QuantizationScheme(quantizer="nncf"))
        sensitivity = measure_sensitivity(graphs, evaluator, begin_analysis("", "", ""))
        print(
            "| block in INT8 | accuracy drop (dB) | latency saved (ms) | drop per ms (dB) "
            "| dark: PSNR to fp32 (dB) | middle | bright |"
        )
        print("|---|---|---|---|---|---|---|")
        for one in sensitivity.most_sensitive_first():
            bins = " | ".join(
                "-" if value is None else f"{value:.1f}" for value in one.darkness_db.values()
            )
            print(
                f"| {one.block} | {one.drop_db:+.4f} | {one.saved_ms or 0.0:+.1f} "
                f"| {one.db_per_ms:+.5f} | {bins} |"
            )
        points = measure_ladder(graphs, "nncf", sensitivity, evaluator)
    front = find_pareto_front(points)
    print(
        "\n| blocks in INT8 | others | accuracy drop (dB) | latency, x fp32 | Pareto front |\n"
        "|---|---|---|---|---|"
    )
    for one in points:
        rest = "bf16" if "bf16" in one.precision else "fp32"
        last = f" (+ {one.blocks[-1]})" if one.blocks else ""
        print(
            f"| {len(one.blocks)}{last} | {rest} | {one.drop_db:+.4f} | {one.ratio or 0.0:.2f} "
            f"| {'yes' if one in front else ''} |"
        )
    here = machine.describe()
    print(f"\n{backend}; {frame.shape[2]}x{frame.shape[1]}; {here.processor}, {here.cores} cores, "
          f"{', '.join(here.instructions)}; {len(images.evaluation)} images")  # fmt: skip
    short = arguments.weights.removeprefix("shipped:").rpartition("/")[2]
    file = arguments.out / f"pareto-{short}.svg"
    title = f"{arguments.weights}, {backend}, {here.processor}"
    write_atomically(file, draw_front(points, title).to_file())
    print(file)


if __name__ == "__main__":
    main()
