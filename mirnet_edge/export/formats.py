"""Write a bundle's graphs for other runtimes: OpenVINO IR, ORT format, Triton model repository.

IR and ORT files come with an `identity.json`: source graph, its sha256 and the tool's version.
`check_identity` refuses files that are older than the bundle's graphs.

A Triton repository has one model per backend: NAME_onnxruntime and NAME_openvino from the fp32 or
INT8 graph for CPUs, NAME_tensorrt from each TensorRT engine. Inputs and outputs are those of the
bundle: uint8 frames, NHWC, RGB. Sides are multiples of `parameters.multiple`: the server does not
pad.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from mirnet_edge.dependencies import available, require
from mirnet_edge.errors import BundleError, OptionError
from mirnet_edge.files import replace_folder, sha256_of, write_atomically
from mirnet_edge.manifest import read_manifest, verify_graph, verify_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mirnet_edge.manifest import GraphFacts, Manifest

IDENTITY = "identity.json"


def write_openvino_ir(bundle: Path, out: Path) -> list[Path]:
    """Write the graphs for CPUs as OpenVINO IR, NAME.xml and NAME.bin, in their own precision.

    Raises:
        BundleError: A graph of the bundle has changed.
        MissingDependencyError: OpenVINO is not installed.
        MirnetEdgeError: The folder cannot be written.
    """
    openvino = require("openvino", "writing OpenVINO IR")

    def convert(onnx: Path, folder: Path) -> None:
        model = openvino.Core().read_model(str(onnx))
        # fp16 weights would halve the size, and change the precision that the name states
        openvino.save_model(model, str(folder / f"{onnx.stem}.xml"), compress_to_fp16=False)

    return _convert_graphs(bundle, out, convert, f"openvino {openvino.__version__}", ".xml")


def write_ort(bundle: Path, out: Path) -> list[Path]:
    """Write the graphs for CPUs in ONNX Runtime's own format, NAME.ort, for its small builds.

    Only optimizations that hold on every processor are applied in advance.

    Raises:
        BundleError: A graph of the bundle has changed.
        MirnetEdgeError: The folder cannot be written.
    """
    import onnxruntime

    def convert(onnx: Path, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folder / f"{onnx.stem}.ort")
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])

    return _convert_graphs(bundle, out, convert, f"onnxruntime {onnxruntime.__version__}", ".ort")


def check_identity(folder: Path, bundle: Path) -> None:
    """Refuse files that were made of other graphs than the bundle's, or that have changed.

    Raises:
        BundleError: A file does not fit; names it.
    """
    path = folder / IDENTITY
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not readable ({error}); write the folder again") from error
    manifest = read_manifest(bundle)
    for entry in document["graphs"]:
        now = manifest.graph(entry["graph"]).onnx.sha256
        if entry["onnx_sha256"] != now:
            raise BundleError(
                f"{folder} was made of {entry['graph']} {entry['onnx_sha256'][:12]}, and the "
                f"bundle has {now[:12]}: write the folder again"
            )
        for name, expected in entry["files"].items():
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                raise BundleError(f"{folder / name} is missing or changed: write the folder again")


def _convert_graphs(
    bundle: Path, out: Path, convert: Callable[[Path, Path], None], tool: str, suffix: str
) -> list[Path]:
    manifest = read_manifest(bundle)
    graphs = [one for one in manifest.graphs if "cpu" in one.targets and one.kept]
    with replace_folder(out) as folder:
        entries = []
        for graph in graphs:
            convert(verify_graph(bundle, graph.onnx), folder)
            entries.append(_entry(graph, folder, tool))
        write_atomically(folder / IDENTITY, json.dumps({"graphs": entries}, indent=1).encode())
    return [out / f"{graph.onnx.file.removesuffix('.onnx')}{suffix}" for graph in graphs]


def _entry(graph: GraphFacts, folder: Path, tool: str) -> dict[str, Any]:
    stem = graph.onnx.file.removesuffix(".onnx")
    files = {one.name: sha256_of(one) for one in sorted(folder.glob(f"{stem}.*"))}
    return {
        "graph": graph.name, "precision": graph.precision, "onnx_sha256": graph.onnx.sha256,
        "tool": tool, "files": files,
    }  # fmt: skip


_BATCH = 8
"""The server's largest batch; graphs for any size take 16 frames."""
_DELAY_US = 2000


def write_repository(bundle: Path, out: Path, name: str | None = None) -> list[str]:
    """Write a Triton model repository of a bundle.

    Args:
        bundle: Its folder.
        out: The repository; replaced as a whole, so it must be empty or a model repository.
        name: The start of the models' names; the task, with underscores, by default.

    Returns:
        The models' names.

    Raises:
        OptionError: The folder holds something else.
        BundleError: A file of the bundle has changed.
    """
    manifest = read_manifest(bundle)
    if out.is_dir() and any(out.iterdir()) and not list(out.glob("*/config.pbtxt")):
        raise OptionError(
            f"--triton {out} holds files that are no model repository; choose another"
        )
    stem = name or manifest.model.task.replace("-", "_")
    names = []
    with replace_folder(out) as folder:
        graph = _fastest_for_cpu(manifest)
        onnx = verify_graph(bundle, graph.onnx)
        names.append(_model(folder, f"{stem}_onnxruntime", "onnxruntime", manifest, graph))
        shutil.copyfile(onnx, folder / names[-1] / "1" / "model.onnx")
        if available("openvino"):
            names.append(_model(folder, f"{stem}_openvino", "openvino", manifest, graph))
            write_openvino_ir(bundle, folder / "ir")
            for kind in ("xml", "bin"):
                source = folder / "ir" / f"{onnx.stem}.{kind}"
                shutil.move(source, folder / names[-1] / "1" / f"model.{kind}")
            shutil.rmtree(folder / "ir")
        for engine in manifest.engines:
            if engine.flavor == "tensorrt":  # the server's backend opens no engines of TensorRT-RTX
                plain = engine.graph.replace("-", "_")
                source_graph = manifest.graph(engine.graph)
                title = f"{stem}_tensorrt_{plain}"
                names.append(_model(folder, title, "tensorrt", manifest, source_graph))
                plan = verify_path(bundle, engine.plan)
                shutil.copyfile(plan, folder / title / "1" / "model.plan")
    return names


def _fastest_for_cpu(manifest: Manifest) -> GraphFacts:
    timed = [
        one for one in manifest.configurations
        if one.accepted and one.backend in ("onnxruntime", "openvino") and one.latency
    ]  # fmt: skip
    if not timed:
        return manifest.graph("fp32")
    return manifest.graph(
        min(timed, key=lambda one: one.latency.p50_ms if one.latency else 0).graph
    )


def _model(folder: Path, name: str, backend: str, manifest: Manifest, graph: GraphFacts) -> str:
    (folder / name / "1").mkdir(parents=True)
    lines = "\n".join(_config(name, backend, manifest, graph)) + "\n"
    write_atomically(folder / name / "config.pbtxt", lines.encode())
    return name


def _config(name: str, backend: str, manifest: Manifest, graph: GraphFacts) -> Iterator[str]:
    """Yield the lines of config.pbtxt."""
    image = manifest.image
    # engines take one frame, and graphs of one size too: their batch is part of the shape
    batches = image.size is None and backend != "tensorrt"
    yield f"name: {json.dumps(name)}"
    yield f"backend: {json.dumps(backend)}"
    yield f"max_batch_size: {_BATCH if batches else 0}"
    kind = "TYPE_UINT8" if image.io == "uint8" else "TYPE_FP32"
    for place, tensor, scale in (("input", "frames", 1), ("output", "restored", image.scale)):
        height, width = (scale * side for side in image.size) if image.size else (-1, -1)
        sides = [height, width, 3] if image.io == "uint8" else [3, height, width]
        dims = ", ".join(map(str, sides if batches else [1, *sides]))
        yield f"{place} [ {{ name: {json.dumps(tensor)} data_type: {kind} dims: [ {dims} ] }} ]"
    if batches:
        yield f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY_US} }}"
    processor = "KIND_GPU" if backend == "tensorrt" else "KIND_CPU"
    yield f"instance_group [ {{ count: 1 kind: {processor} }} ]"
    yield from _parameters({
        "onnx_sha256": graph.onnx.sha256, "precision": graph.precision,
        "multiple": str(image.multiple), "scale": str(image.scale),
    })  # fmt: skip


def _parameters(values: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        text = f"{{ string_value: {json.dumps(value)} }}"
        yield f"parameters {{ key: {json.dumps(key)} value: {text} }}"
