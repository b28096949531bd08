"""Which modes ask to be adopted, and the TensorRT plans of those that were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.dependencies import available
from mirnet_edge.engines.library import FLAVOURS, HOW_TO_GET_ONE
from mirnet_edge.engines.process import Order, build_apart
from mirnet_edge.engines.profiles import profiles_for
from mirnet_edge.export.gate import Candidate
from mirnet_edge.runtime import openvino_runner
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mirnet_edge.export.graphs import GraphFile
    from mirnet_edge.export.job import Target
    from mirnet_edge.manifest import EngineFacts, Graph, ImageContract, Mode, Precision


def candidates_for(
    files: Sequence[GraphFile],
    folder: Path,
    image: ImageContract,
    target: Target,
    weights: Path,
) -> list[Candidate]:
    """Return the modes to judge, the reference (ONNX Runtime in fp32) first.

    The fp32 modes of the CPU backends are always among them, so that every bundle runs anywhere.
    """
    found = list(_onnxruntime(files, folder, image))
    if available("openvino"):
        found += _openvino(files, folder, image)
    found.append(_torch(weights, image))
    if target in ("tensorrt", "all"):
        found += _tensorrt(files, folder, image)
    return found


def _onnxruntime(
    files: Sequence[GraphFile], folder: Path, image: ImageContract
) -> Iterator[Candidate]:
    for file in files:
        if "cpu" in file.targets:
            name = f"onnxruntime:{file.precision}"
            runner = OnnxRuntimeRunner(
                folder / file.file, image, name=name, precision=file.precision
            )
            yield Candidate("onnxruntime", file.precision, file.name, runner, timed=True)


def _openvino(
    files: Sequence[GraphFile], folder: Path, image: ImageContract
) -> Iterator[Candidate]:
    from mirnet_edge.runtime.openvino_runner import OpenVinoRunner

    for file in files:
        if "cpu" not in file.targets:
            continue
        precisions: list[Precision] = [file.precision]
        if file.precision == "fp32" and openvino_runner.supports("bf16"):
            precisions.append("bf16")
        for precision in precisions:
            runner = OpenVinoRunner(
                folder / file.file, image, name=f"openvino:{precision}", precision=precision
            )
            yield Candidate("openvino", precision, file.name, runner, timed=True)


def _torch(weights: Path, image: ImageContract) -> Candidate:
    from mirnet_edge.runtime.torch_runner import TorchRunner

    runner = TorchRunner(weights, image, name="torch:fp32", precision="fp32")
    return Candidate("torch", "fp32", "fp32", runner, timed=True)


def _tensorrt(
    files: Sequence[GraphFile], folder: Path, image: ImageContract
) -> Iterator[Candidate]:
    """Yield the TensorRT modes; ONNX Runtime stands in for their numbers, not for their time.

    Unoptimised: while fusing, ONNX Runtime multiplies fp16 scales and loses 17 dB that the graph
    does not lose.
    """
    for file in files:
        if "tensorrt" in file.targets:
            name = f"tensorrt:{file.precision}"
            runner = OnnxRuntimeRunner(
                folder / file.file, image, name=name, precision=file.precision, optimize=False
            )
            yield Candidate("tensorrt", file.precision, file.name, runner, timed=False)


def engines_for(
    graphs: Sequence[Graph],
    modes: Sequence[Mode],
    folder: Path,
    image: ImageContract,
    target: Target,
    on_stage: Callable[[str], None],
) -> list[EngineFacts]:
    """Build a plan of every adopted TensorRT mode, where a TensorRT is installed."""
    if target not in ("tensorrt", "all"):
        return []
    if not any(available(package) for package in FLAVOURS):
        on_stage(f"no TensorRT here, so no plan: {HOW_TO_GET_ONE}")
        return []
    adopted = {mode.graph for mode in modes if mode.backend == "tensorrt" and mode.adopted}
    engines = []
    for graph in graphs:
        if graph.name in adopted:
            on_stage(f"build the TensorRT plan of {graph.name}")
            source = folder / graph.onnx.file
            order = Order(
                onnx=source, plan=source.with_suffix(".plan"), profiles=profiles_for(image),
                graph=graph.name, precision=graph.precision,
            )  # fmt: skip
            engines.append(build_apart(order, on_stage))
    return engines
