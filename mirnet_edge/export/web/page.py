"""Write a bundle as a page that restores in the browser: a folder of static files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mirnet_edge.errors import BundleError, GraphError, OptionError
from mirnet_edge.export.web.graph import graph_dimensions, unsupported_operators, web_graph
from mirnet_edge.export.web.runtime import PACKAGE, VERSION, copy_runtime
from mirnet_edge.files import replace_folder, write_atomically
from mirnet_edge.manifest import (
    BoundFile,
    ContextVector,
    Precision,
    StrictDocument,
    WebFormFacts,
    read_manifest,
    verify_graph,
)
from mirnet_edge.onnx_sessions import OnnxSession
from mirnet_edge.pages import BROWSER, RESTORE, SHARED, read_asset
from mirnet_edge.runtime.temporal_smoothing import DEFAULT_SMOOTHING_WEIGHT, SceneCutDetector
from mirnet_edge.runtime.tiling import DEFAULT_OVERLAP, ESTIMATE_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.manifest import GraphFacts, ImageContract, Manifest

FACTS = "page.json"
_NETWORK = "network.onnx"
_LARGEST_DIFFERENCE = 0.51
"""In 8-bit levels, before rounding; half a level is the rounding of the bundle's graph."""
_PROBE = (96, 128)
"""(height, width) of the frame that the graph is compared on."""


class SmoothingFacts(StrictDocument):
    """Temporal smoothing, as `runtime.temporal_smoothing` does it."""

    weight: float = DEFAULT_SMOOTHING_WEIGHT
    still: float = SceneCutDetector.still
    cut: float = SceneCutDetector.cut


class TilingFacts(StrictDocument):
    """Tiles, as `runtime.tiling` makes them."""

    overlap: int = DEFAULT_OVERLAP
    """Where `reach` is None."""
    estimate_weight: float = ESTIMATE_WEIGHT


class PageFacts(StrictDocument):
    """`page.json`: the network of a page, what it takes and gives, and where it can run."""

    schema_version: Literal[1] = 1
    source: str
    """The bundle as the user named it."""
    task: str
    precision: Precision
    network: BoundFile
    io: Literal["uint8", "float"]
    """As of the bundle; the page's graph takes and gives floats in any case."""
    multiple: int = Field(ge=1)
    size: tuple[int, int] | None
    scale: int = Field(ge=1)
    vectors: tuple[ContextVector, ...]
    reach: int | None
    dimensions: tuple[str | int, str | int, str | int]
    """Batch, height and width of the graph's input: names where any value is valid."""
    webgpu: bool
    """Whether WebGPU has all operators; the page offers it then."""
    missing_operators: tuple[str, ...]
    runtime: str = f"{PACKAGE} {VERSION}"
    smoothing: SmoothingFacts = SmoothingFacts()
    tiling: TilingFacts = TilingFacts()


@dataclass(frozen=True)
class WebPage:
    """A page that was written."""

    folder: Path
    facts: PageFacts
    size_bytes: int
    """Of all its files."""

    @property
    def summary(self) -> str:
        """Return in one line its size, and what it runs on."""
        where = "WASM and WebGPU"
        if not self.facts.webgpu:
            missing = ", ".join(self.facts.missing_operators)
            where = f"WASM alone, for WebGPU lacks {missing}"
        return (
            f"{self.folder}: {self.size_bytes / 1e6:.1f} MB, {self.facts.precision}, {where}; "
            f"mirnet web {self.folder} serves it"
        )


def write_page(
    bundle: Path,
    out: Path,
    *,
    name: str | None = None,
    precision: str = "fp32",
    runtime: Path | None = None,
) -> WebPage:
    """Write a bundle as a page.

    Args:
        bundle: Its folder.
        out: The page's folder; replaced as a whole, so it must be empty or a page.
        name: The bundle as the user named it; its folder by default.
        precision: fp32 or int8. INT8 is smaller, hardly faster, and runs on WASM alone.
        runtime: The archive of onnxruntime-web; None for the user's cache, or npm.

    Raises:
        OptionError: The folder holds something else, or no such precision.
        BundleError: The bundle has no such graph, or a file of it has changed.
        GraphError: The page's graph would give other values than the bundle's.
        MissingDependencyError: As `runtime.copy_runtime`.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS).is_file():
        raise OptionError(f"{out} holds files that are no page; choose another folder")
    network, facts = make_network(bundle, name or str(bundle), precision)
    with replace_folder(out) as folder:
        write_browser_files(folder, network, facts, runtime)
        for asset in (*SHARED, *RESTORE):
            (folder / asset.rpartition("/")[2]).write_bytes(read_asset(asset))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return WebPage(out, facts, size)


def make_network(bundle: Path, name: str, precision: str = "fp32") -> tuple[bytes, PageFacts]:
    """Return the ONNX file of a page, and what `page.json` says of it.

    Raises:
        MirnetEdgeError: As `write_page`.
    """
    manifest = read_manifest(bundle)
    graph = _graph_of(manifest, precision)
    content = verify_graph(bundle, graph.onnx).read_bytes()
    network = web_graph(content, manifest.image)
    check_parity(content, network, manifest.image)
    return network, _describe(name, manifest, graph, network)


def write_browser_files(
    folder: Path, network: bytes, facts: PageFacts, runtime: Path | None
) -> None:
    """Write what restores in the browser into a folder: network, scripts, ONNX Runtime Web."""
    copy_runtime(folder / "runtime", runtime, webgpu=facts.webgpu)
    (folder / _NETWORK).write_bytes(network)
    for asset in BROWSER:
        (folder / asset.rpartition("/")[2]).write_bytes(read_asset(asset))
    write_atomically(folder / FACTS, facts.model_dump_json(indent=1).encode())


def _graph_of(manifest: Manifest, precision: str) -> GraphFacts:
    """Return the bundle's graph for processors of a precision."""
    if precision not in ("fp32", "int8"):
        raise OptionError(f"--precision of a page is fp32 or int8, found {precision!r}")
    for graph in manifest.graphs:
        if graph.precision == precision and "cpu" in graph.targets and graph.kept:
            return graph
    raise BundleError(
        f"the bundle has no {precision} graph for processors; export it with --{precision}, or "
        "choose --precision fp32"
    )


def _describe(name: str, manifest: Manifest, graph: GraphFacts, network: bytes) -> PageFacts:
    image = manifest.image
    missing = unsupported_operators(network)
    return PageFacts(
        source=name,
        task=manifest.model.task,
        precision=graph.precision,
        network=BoundFile(
            file=_NETWORK, sha256=hashlib.sha256(network).hexdigest(), size_bytes=len(network)
        ),
        io=image.io,
        multiple=image.multiple,
        size=image.size,
        scale=image.scale,
        vectors=image.vectors,
        reach=image.reach,
        dimensions=graph_dimensions(network, image),
        webgpu=not missing,
        missing_operators=tuple(missing),
    )


def describe_web_form(model: bytes, image: ImageContract) -> WebFormFacts:
    """Return the verdict on a bundle's graph as a page's: its values, and where it can run.

    Args:
        model: The content of the bundle's fp32 file.
        image: Its inputs and outputs.
    """
    try:
        network = web_graph(model, image)
        difference = check_parity(model, network, image)
    except GraphError as error:
        return WebFormFacts(
            accepted=False, reason=str(error), difference_levels=None, size_bytes=None, webgpu=False
        )
    missing = unsupported_operators(network)
    lacking = f"; WebGPU lacks {', '.join(missing)}" if missing else " and WebGPU"
    return WebFormFacts(
        accepted=True,
        reason=f"runs on WASM{lacking}; speed is measured in the browser",
        difference_levels=difference,
        size_bytes=len(network),
        webgpu=not missing,
        missing_operators=tuple(missing),
    )


def check_parity(model: bytes, network: bytes, image: ImageContract) -> float:
    """Return by how many levels (99th percentile) a page's graph differs from the bundle's.

    Both run on the processor, on frames of random values of three brightnesses; the median counts.

    Raises:
        GraphError: By more than rounding.
    """
    height, width = image.size or tuple(
        -(-side // image.multiple) * image.multiple for side in _PROBE
    )
    bright = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    differences = []
    for levels in (bright, bright // 2, bright // 4):
        if image.io == "uint8":
            before, after = (
                _run(one, given, image)
                for one, given in ((model, levels), (network, levels.astype(np.float32)))
            )
        else:
            batch = levels.transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
            before, after = (255 * _run(one, batch, image) for one in (model, network))
        # not the largest: in INT8 a value beside a step may fall to its other side. After one tone
        # curve that can be all pixels of a level, after another one not
        differences.append(float(np.quantile(np.abs(before - after), 0.99)))
    difference = float(np.median(differences))
    if not difference <= _LARGEST_DIFFERENCE:
        raise GraphError(
            f"the page's graph differs from the bundle's by {difference:.2f} levels, expected at "
            f"most {_LARGEST_DIFFERENCE}; please report it with the bundle's manifest.json"
        )
    return difference


def _run(model: bytes, frames: NDArray[np.generic], image: ImageContract) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = OnnxSession(model, options, name="the page's graph")
    given: Sequence[NDArray[np.generic]] = (frames,)
    if image.vectors:
        given = (frames, np.zeros((1, image.context_length), np.float32), np.zeros(1, np.float32))
    names = [one.name for one in session.get_inputs()]
    return np.asarray(session.run(None, dict(zip(names, given, strict=True)))[0], np.float32)
