"""Compare latency by mirnet-bench to a few lines of plain ONNX Runtime, interleaved in one run.

    python benchmarks/plain_onnxruntime.py build/lowlight [--size 640x480] [--rounds 40]

Both run the same graph on the same frame. Exit code 1: the medians differ by more than 5 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from mirnet_edge.bench.measure import (
    LatencyMeasurement,
    TimingMethod,
    time_interleaved,
    timing_frame,
)
from mirnet_edge.cli.arguments import parse_size
from mirnet_edge.manifest import read_manifest, verify_path
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.machine import usable_cores

LIMIT = 0.05


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    frame = timing_frame(*parse_size(arguments.size, "--size"))
    graph = verify_path(arguments.bundle, read_manifest(arguments.bundle).graph("fp32").onnx)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(str(graph), options)
    name = session.get_inputs()[0].name
    plain_ms: list[float] = []

    def plain(done: int, rounds: int) -> None:
        """Time one run without mirnet-bench's code, after each of its rounds."""
        time.sleep(0.01)
        started = time.perf_counter()
        session.run(None, {name: frame})
        plain_ms.append(1e3 * (time.perf_counter() - started))

    progress: dict[str, LatencyMeasurement] = {}
    with open_bundle(arguments.bundle, "onnxruntime", "fp32", threads=usable_cores()) as runner:
        session.run(None, {name: frame})
        method = TimingMethod(rounds=arguments.rounds, row_seconds=600.0)
        time_interleaved({"ours": runner}, frame, method, progress, plain)
    ours, theirs = np.median(progress["ours"].samples_ms), np.median(plain_ms)
    print(f"mirnet-bench {ours:.2f} ms, plain ONNX Runtime {theirs:.2f} ms: {ours / theirs:.3f}")
    sys.exit(int(abs(ours / theirs - 1.0) > LIMIT))


if __name__ == "__main__":
    main()
