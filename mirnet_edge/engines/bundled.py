"""The plans of a bundle: built from its graphs on this machine, and written into its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require
from mirnet_edge.engines.build import Settings
from mirnet_edge.engines.cuda import Cuda
from mirnet_edge.engines.identity import differences, host_of, timing_origin
from mirnet_edge.engines.library import find_tensorrt
from mirnet_edge.engines.process import Order, build_apart
from mirnet_edge.engines.profiles import Profile, profiles_for
from mirnet_edge.errors import BundleError
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import (
    FILE_NAME,
    TimingCache,
    bind,
    checked_path,
    read_manifest,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirnet_edge.engines.dla import DlaReport
    from mirnet_edge.manifest import EngineFacts, Graph, Manifest

TIMING_CACHE = "timing.tensorrt.cache"
"""Kept in the bundle. The manifest says what it is of; elsewhere it is not read, and replaced."""


def build_engines(
    bundle: Path,
    *,
    graphs: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] | None = None,
    settings: Settings | None = None,
    flavour: str | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> list[EngineFacts]:
    """Build the plans of a bundle anew, here, and write them into its manifest.

    Each plan is in the manifest as soon as it is built: an interruption keeps the others.

    Args:
        bundle: Its folder.
        graphs: Names of the graphs; all that TensorRT modes were adopted for where empty.
        sizes: (height, width) of static profiles; those of the former plan where None.
        settings: How to build.
        flavour: Which TensorRT.
        on_stage: Told what is being done.

    Raises:
        BundleError: No such graph, or its file has changed.
        EngineError: TensorRT cannot build one.
        MissingDependencyError: There is no TensorRT.
    """
    manifest = read_manifest(bundle)
    built = []
    for graph in _wanted(manifest, graphs):
        former = next((one for one in manifest.engines if one.graph == graph.name), None)
        profiles = (
            tuple(Profile.from_document(one) for one in former.profiles)
            if sizes is None and former is not None and former.profiles
            else profiles_for(manifest.image, sizes)
        )
        onnx = checked_path(bundle, graph.onnx)
        order = Order(
            onnx=onnx, plan=onnx.with_suffix(".plan"), profiles=profiles, graph=graph.name,
            precision=graph.precision, settings=settings or Settings(), flavour=flavour,
            timing_cache=bundle / TIMING_CACHE, cache_origin=_cache_origin(bundle, manifest),
        )  # fmt: skip
        on_stage(f"build the TensorRT plan of {graph.name}")
        facts = build_apart(order, on_stage)
        built.append(facts)
        others = [one for one in manifest.engines if one.graph != graph.name]
        manifest = manifest.model_copy(
            update={
                "engines": [*others, facts],
                "timing_cache": _timing_cache(bundle, facts) or manifest.timing_cache,
            }
        )
        write_atomically(bundle / FILE_NAME, to_json(manifest))
    return built


def dla_reports(bundle: Path, graphs: Sequence[str] = ()) -> list[DlaReport]:
    """Return what of a bundle's graphs for TensorRT Orin's DLA could run: predicted.

    Args:
        bundle: Its folder.
        graphs: Names of the graphs; all that are for TensorRT where empty.

    Raises:
        BundleError: No such graph, none for TensorRT, or its file has changed.
        MissingDependencyError: onnx is not installed.
    """
    require("onnx", "reading a graph's operations")
    import onnx

    from mirnet_edge.engines.dla import dla_report

    manifest = read_manifest(bundle)
    suited = [one.name for one in manifest.graphs if one.kept and "tensorrt" in one.targets]
    return [
        dla_report(onnx.load(checked_path(bundle, graph.onnx)), graph.name)
        for graph in _wanted(manifest, graphs or suited)
    ]


def rebuild_misfits(
    bundle: Path, on_stage: Callable[[str], None] = lambda what: None
) -> list[EngineFacts]:
    """Build anew the plans of a bundle that do not fit this machine; tell what differs.

    Raises:
        EngineError: There is no GPU, or TensorRT cannot build one.
        MissingDependencyError: There is no TensorRT or no cuda-python.
    """
    manifest = read_manifest(bundle)
    trt = find_tensorrt()
    host = host_of(trt, Cuda().gpu())
    misfits = []
    for engine in manifest.engines:
        differing = differences(engine, manifest.graph(engine.graph), host)
        if differing:
            on_stage(f"{engine.plan.file} does not fit: {'; '.join(differing)}")
            misfits.append(engine.graph)
    if not misfits:
        return []
    return build_engines(bundle, graphs=misfits, flavour=host.flavour, on_stage=on_stage)


def _cache_origin(bundle: Path, manifest: Manifest) -> str | None:
    """Return what the timing cache is of; None where it is not the one that the manifest means."""
    kept = manifest.timing_cache
    path = bundle / TIMING_CACHE
    if kept is None or not path.is_file() or bind(path) != kept.cache:
        return None
    return kept.origin


def _timing_cache(bundle: Path, facts: EngineFacts) -> TimingCache | None:
    """Return what to say of the cache that a build left; TensorRT-RTX leaves none."""
    path = bundle / TIMING_CACHE
    if facts.flavour != "tensorrt" or not path.is_file():
        return None
    capability = facts.capabilities[0] if facts.capabilities else None
    origin = timing_origin(facts.version, facts.device, capability)
    return TimingCache(cache=bind(path), origin=origin)


def _wanted(manifest: Manifest, names: Sequence[str]) -> list[Graph]:
    if names:
        found = [manifest.graph(name) for name in names]
    else:
        adopted = {one.graph for one in manifest.modes if one.backend == "tensorrt" and one.adopted}
        found = [graph for graph in manifest.graphs if graph.name in adopted and graph.kept]
    unsuited = [graph.name for graph in found if "tensorrt" not in graph.targets or not graph.kept]
    if unsuited or not found:
        raise BundleError(
            f"expected graphs for TensorRT, found {', '.join(unsuited) or 'none'} in the bundle: "
            "export again with --target tensorrt or all"
        )
    return found
