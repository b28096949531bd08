"""Time low light on this processor beside Zero-DCE and MobileIE, each in its best runtime.

    python benchmarks/cpu.py --peers FOLDER --size 640x480
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/cpu.py --peers FOLDER --size 640x480

FOLDER holds `zero_dce.onnx` and `mobileie_lolv1.onnx`. All run on one thread, in interleaved
rounds, by processor time, which holds on a busy machine too. In the same rounds a 3x3 convolution
of 64 channels is timed in OpenVINO, fp32 and INT8: the peak that each network's multiplications are
compared with. `ONEDNN_MAX_CPU_ISA` limits OpenVINO alone, so the rows of ONNX Runtime then keep the
processor's full instruction set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.bench.entries import count_macs
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

COMPETITORS = {"Zero-DCE": "zero_dce.onnx", "MobileIE": "mobileie_lolv1.onnx"}
CHANNELS, SIDE = 64, 160


def resize_graph(path: Path, size: tuple[int, int]) -> onnx.ModelProto:
    """Return a competitor's graph for (1, 3, H, W) frames of SIZE."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for axis, side in zip(value.type.tensor_type.shape.dim[2:], size, strict=True):
            axis.dim_value = side
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def peak_graph(*, int8: bool) -> onnx.ModelProto:
    """Return a 3x3 convolution whose multiplications, not its memory, take the time."""
    generator = np.random.default_rng(0)
    weights = generator.normal(0.0, 0.05, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    names, nodes, constants = ("x", "weights"), [], {"weights": weights}
    if int8:
        levels = np.clip(np.rint(weights / 0.002), -63, 63).astype(np.int8)
        constants = {
            "levels": levels, "weight_scale": np.full(CHANNELS, 0.002, np.float32),
            "weight_zero": np.zeros(CHANNELS, np.int8), "scale": np.float32(1 / 255),
            "zero": np.uint8(0),
        }  # fmt: skip
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
            helper.make_node(
                "DequantizeLinear", ["levels", "weight_scale", "weight_zero"], ["dw"], axis=0
            ),
        ]
        names = ("dq", "dw")
    # eight of them, so that the conversion of the input does not count
    for place in range(8):
        made = f"y{place}"
        nodes.append(helper.make_node("Conv", list(names), [made], pads=[1, 1, 1, 1]))
        if int8 and place < 7:
            nodes += [
                helper.make_node("QuantizeLinear", [made, "scale", "zero"], [f"q{place}"]),
                helper.make_node("DequantizeLinear", [f"q{place}", "scale", "zero"], [f"d{place}"]),
            ]
            made = f"d{place}"
        names = (made, names[1])
    shape = [1, CHANNELS, SIDE, SIDE]
    values = [helper.make_tensor_value_info(one, TensorProto.FLOAT, shape) for one in ("x", "y7")]
    tensors = [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()]
    graph = helper.make_graph(nodes, "peak", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def open_with_openvino(model: onnx.ModelProto, batch: np.ndarray) -> Callable[[], object]:
    """Return what runs a graph once in OpenVINO, in fp32 where it is not INT8."""
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer([batch], share_inputs=True, share_outputs=True)


def open_with_onnxruntime(model: onnx.ModelProto, batch: np.ndarray) -> Callable[[], object]:
    """Return what runs a graph once in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: batch}
    return lambda: session.run(None, feed)


def time_all(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of processor time of each, in interleaved rounds after one."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if turn > 0:
                samples[name].append(1e3 * (time.process_time() - started))
    return samples


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    frame = np.random.default_rng(0).integers(0, 60, (1, height, width, 3), np.uint8)
    batch = np.ascontiguousarray(frame.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    square = np.random.default_rng(0).random((1, CHANNELS, SIDE, SIDE), np.float32)
    runs = {
        "peak fp32": open_with_openvino(peak_graph(int8=False), square),
        "peak int8": open_with_openvino(peak_graph(int8=True), square),
    }
    macs = dict.fromkeys(runs, 8 * CHANNELS**2 * 9 * SIDE**2)
    for title, file in COMPETITORS.items():
        model = resize_graph(args.peers / file, (height, width))
        counted = count_macs(args.peers / file, height, width)
        for backend, opened in (
            ("openvino", open_with_openvino),
            ("onnxruntime", open_with_onnxruntime),
        ):
            name = f"{title}, {backend}:fp32"
            runs[name], macs[name] = opened(model, batch), counted or 0
    bundle = find_bundle("shipped:low-light")
    per_pixel = read_manifest(bundle).model.macs_640x480 / (640 * 480)
    for backend, precision in (
        ("openvino", "int8"),
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
    ):
        runner = open_bundle(bundle, backend, precision, threads=1)
        runner.__enter__()
        name = f"ours, {backend}:{precision}"
        runs[name] = lambda runner=runner: runner.run(frame)
        macs[name] = int(per_pixel * height * width)
    samples = time_all(runs, args.rounds)
    median = {name: statistics.median(values) for name, values in samples.items()}
    ours = samples["ours, openvino:int8"]
    print(
        f"{machine.describe().processor}, OpenVINO {os.environ.get('ONEDNN_MAX_CPU_ISA', 'full')}"
    )
    print(f"| {args.size} | CPU ms | x ours INT8 | GMACs | GMACs/s | share of the peak |")
    print("|---|---|---|---|---|---|")
    for name, values in samples.items():
        ratio = statistics.median(one / two for one, two in zip(values, ours, strict=True))
        speed = macs[name] / median[name] / 1e6
        peak = "peak int8" if "int8" in name else "peak fp32"
        share = speed / (macs[peak] / median[peak] / 1e6)
        print(
            f"| {name} | {median[name]:.1f} | {ratio:.2f} | {macs[name] / 1e9:.2f} "
            f"| {speed:.1f} | {share:.0%} |"
        )


if __name__ == "__main__":
    main()
