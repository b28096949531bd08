"""Compare the latency that mirnet plan predicts for this processor to measurements, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [--precision int8] [--size 320x240] [--rounds 9]
    OMP_NUM_THREADS=2 python benchmarks/plan.py --threads 2

Each round measures the machine's compute and memory rates (a matrix product, a copy) and every
network once, in turn, so that a load of the machine slows all of them alike. One thread is timed by
CPU time, so that waiting for a core does not count; several by the clock. Networks marked
"calibrated" were used to fit mirnet_edge/planning.py, in fp32 with one thread; the others were not.
OpenVINO, random or shipped weights; INT8 by NNCF on four built-in images.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge import checkpoints
from mirnet_edge.calibration.sets import builtin_set
from mirnet_edge.cli.arguments import parse_size
from mirnet_edge.devices import SpeedProbe
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.manifest import ImageContract
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config
from mirnet_edge.planning import cost_of, predict
from mirnet_edge.quantization.ptq import quantize_for_cpu
from mirnet_edge.runtime.openvino_runner import OpenVinoRunner

if TYPE_CHECKING:
    from torch import nn

CALIBRATED = {
    "edge 24,32,48 x2": lambda: MIRNetEdge(MIRNetEdgeConfig(channels=(24, 32, 48), blocks=2)),
    "edge 48,64,96 stem 2": lambda: MIRNetEdge(MIRNetEdgeConfig(channels=(48, 64, 96), stem=2)),
    "mirnet 24, 1 group": lambda: MIRNet(MIRNetConfig(channels=24, groups=1, blocks=1)),
}
OTHERS = {
    "shipped:low-light": lambda: checkpoints.load("shipped:low-light").model,
    "shipped:denoise": lambda: checkpoints.load("shipped:denoise").model,
    "shipped:super-resolution": lambda: checkpoints.load("shipped:super-resolution").model,
    "shipped:old-photo": lambda: checkpoints.load("shipped:old-photo").model,
    "mirnet 16, 1 group": lambda: MIRNet(MIRNetConfig(channels=16, groups=1, blocks=1)),
    "mirnet-v2 16, 1 group": lambda: MIRNetV2(
        MIRNetV2Config(channels=16, groups=1, blocks=1, conv_groups=(1,))
    ),
}


def main() -> None:
    """Print a table row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    arguments = parser.parse_args()
    height, width = parse_size(arguments.size, "--size")
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    networks = {name: make().eval() for name, make in {**CALIBRATED, **OTHERS}.items()}
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    probe, samples = SpeedProbe(clock), {name: [] for name in networks}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        runners = {
            name: opened.enter_context(
                _export_runner(
                    network, Path(folder) / f"{place}.onnx", frame,
                    arguments.precision, arguments.threads,
                )
            )
            for place, (name, network) in enumerate(networks.items())
        }  # fmt: skip
        for turn in range(2 + arguments.rounds):
            probe.measure()
            for name, runner in runners.items():
                started = clock()
                runner.run(frame)
                if turn >= 2:
                    samples[name].append(1e3 * (clock() - started))
    device = probe.device()
    print(
        f"{width}x{height}, {device.title}, {arguments.precision}, threads: {arguments.threads}; "
        f"{1e3 * device.fp32_tflops:.0f} GFLOP/s in a matrix product, "
        f"{device.bandwidth_gbs:.1f} GB/s in a copy; medians of {arguments.rounds}\n"
    )
    print(
        "| network | GMACs | predicted (ms) | middle (ms) | measured p50 (ms) "
        "| measured / middle | |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, network in networks.items():
        cost = cost_of(network, height, width)
        found = predict(cost, device, arguments.precision, 25.0)
        measured_ms = float(np.median(samples[name]))
        print(
            f"| {name} | {cost.macs / 1e9:.2f} | {found.best_ms:.1f} to {found.worst_ms:.1f} | "
            f"{found.middle_ms:.1f} | {measured_ms:.1f} | {measured_ms / found.middle_ms:.2f} | "
            f"{'calibrated' if name in CALIBRATED else ''} |"
        )


def _export_runner(
    network: nn.Module, path: Path, frame: np.ndarray, precision: str, threads: int
) -> OpenVinoRunner:
    size = (int(frame.shape[1]), int(frame.shape[2]))
    multiple = int(network.multiple)
    export_onnx(to_inference_form(network), path, io="uint8", size=size, multiple=multiple)
    if precision == "int8":
        images = builtin_set("low-light").calibration[:4]
        fp32, path = path, path.with_suffix(".int8.onnx")
        quantize_for_cpu(fp32, path, [one.frame[None, : size[0], : size[1]] for one in images])
    scale = int(getattr(network.config, "scale", 1))
    image = ImageContract(io="uint8", multiple=multiple, size=size, scale=scale)
    return OpenVinoRunner(path, image, name=path.stem, precision=precision, threads=threads)


if __name__ == "__main__":
    main()
