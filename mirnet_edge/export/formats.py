"""A bundle's graphs in the formats of other servers and runtimes, each bound to its ONNX file.

Beside what is written lies `identity.json`: which graph, of which sha256, by which tool's version.
`check_identity` refuses files that a later export left behind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirnet_edge.dependencies import require
from mirnet_edge.errors import BundleError
from mirnet_edge.files import replaced_folder, sha256_of, write_atomically
from mirnet_edge.manifest import checked_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirnet_edge.manifest import Graph

IDENTITY = "identity.json"


def write_openvino_ir(bundle: Path, out: Path) -> list[Path]:
    """Write the graphs for CPUs as OpenVINO IR, NAME.xml and NAME.bin, as precise as they are.

    Raises:
        BundleError: A graph of the bundle has changed.
        MissingDependencyError: OpenVINO is not installed.
        MirnetEdgeError: The folder cannot be written.
    """
    openvino = require("openvino", "writing OpenVINO IR")

    def convert(onnx: Path, folder: Path) -> None:
        model = openvino.Core().read_model(str(onnx))
        # half the size, and what the graph says is no longer what runs
        openvino.save_model(model, str(folder / f"{onnx.stem}.xml"), compress_to_fp16=False)

    return _written(bundle, out, convert, f"openvino {openvino.__version__}", ".xml")


def write_ort(bundle: Path, out: Path) -> list[Path]:
    """Write the graphs for CPUs in ONNX Runtime's own format, NAME.ort, for its small builds.

    Only what holds on every processor is optimized in advance.

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

    return _written(bundle, out, convert, f"onnxruntime {onnxruntime.__version__}", ".ort")


def check_identity(folder: Path, bundle: Path) -> None:
    """Refuse files that were not made of the graphs that the bundle has now, or have changed.

    Raises:
        BundleError: They were not, or they have; says which.
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


def _written(
    bundle: Path, out: Path, convert: Callable[[Path, Path], None], tool: str, suffix: str
) -> list[Path]:
    manifest = read_manifest(bundle)
    graphs = [one for one in manifest.graphs if "cpu" in one.targets and one.kept]
    with replaced_folder(out) as folder:
        entries = []
        for graph in graphs:
            convert(checked_path(bundle, graph.onnx), folder)
            entries.append(_entry(graph, folder, tool))
        write_atomically(folder / IDENTITY, json.dumps({"graphs": entries}, indent=1).encode())
    return [out / f"{graph.onnx.file.removesuffix('.onnx')}{suffix}" for graph in graphs]


def _entry(graph: Graph, folder: Path, tool: str) -> dict[str, Any]:
    stem = graph.onnx.file.removesuffix(".onnx")
    files = {one.name: sha256_of(one) for one in sorted(folder.glob(f"{stem}.*"))}
    return {
        "graph": graph.name, "precision": graph.precision, "onnx_sha256": graph.onnx.sha256,
        "tool": tool, "files": files,
    }  # fmt: skip
