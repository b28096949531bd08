"""Build the TensorRT engines of a bundle, and report what a DLA could run of it.

Each transition between DLA and GPU costs time, so their number decides, not the number of
operations that fit. Sources, read on 2026-11-25: the support matrix of ONNX operators in
github.com/NVIDIA/Deep-Learning-Accelerator-SW (operators/README.md), and the table of "DLA
Supported Layers and Restrictions" in the TensorRT documentation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mirnet_edge.dependencies import require
from mirnet_edge.errors import BundleError
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import FILE_NAME, TimingCache, bind, read_manifest, to_json, verify_graph
from mirnet_edge.onnx_files import constants_of
from mirnet_edge.runtime.tensorrt.build import BuildSettings, OptimizationProfile, profiles_for
from mirnet_edge.runtime.tensorrt.build_process import BuildRequest, build_apart
from mirnet_edge.runtime.tensorrt.cuda import Cuda
from mirnet_edge.runtime.tensorrt.library import (
    describe_host,
    find_differences,
    find_tensorrt,
    timing_origin,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import onnx

    from mirnet_edge.manifest import EngineFacts, GraphFacts, Manifest

_Constants: TypeAlias = "dict[str, Any]"
"""The values that are constant while TensorRT builds, by name."""

# "Native" in the matrix, or in the later table of layers
_NATIVE = frozenset((
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose",
    "Div", "Gemm", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min", "Mul", "PRelu", "Pow", "Relu",
    "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Sub", "Sum", "Tanh", "Transpose",
))  # fmt: skip
# "Reconstruction": supported after a rewrite, which this package does not do
_REWRITTEN = frozenset(("DepthToSpace", "Gather", "Neg", "SpaceToDepth", "Where"))
_QUANTIZERS = frozenset(("QuantizeLinear", "DequantizeLinear"))
_FLOAT = 1  # TensorProto.FLOAT
_LARGEST_KERNEL, _LARGEST_STRIDE = 32, 8
# To the DLA and back.
_FEW_TRANSITIONS = 2


@dataclass(frozen=True)
class DlaReport:
    """What a DLA could run of one graph, predicted."""

    graph: str
    operations: int
    """Without those that TensorRT folds while it builds."""
    fitting: int
    convolutions: int
    fitting_convolutions: int
    on_gpu: dict[str, int]
    """How many operations fall back to the GPU, by reason."""
    transitions: int
    """Between GPU and DLA, at least, from the input to the output."""
    obstacles: tuple[str, ...]
    """Why the DLA runs nothing of this graph as it is, whatever its operations."""

    @property
    def is_suited(self) -> bool:
        """Return whether it is worth a try."""
        return not self.obstacles and self.fitting > 0 and self.transitions <= _FEW_TRANSITIONS

    @property
    def text(self) -> str:
        """Return the report as text."""
        why = ", ".join(f"{count} x {reason}" for reason, count in self.on_gpu.items())
        lines = [
            f"predicted: DLA of Orin, {self.graph}: {'worth a try' if self.is_suited else 'no'}",
            f"  {self.fitting} of {self.operations} operations fit, {self.fitting_convolutions} of "
            f"{self.convolutions} convolutions; at least {self.transitions} transitions",
        ]
        if why:
            lines.append(f"  on the GPU: {why}")
        return "\n".join([*lines, *(f"  {obstacle}" for obstacle in self.obstacles)])


def dla_report(model: onnx.ModelProto, graph: str) -> DlaReport:
    """Return a prediction of what the DLA could run of a graph.

    Args:
        model: The graph; of one size, because the DLA takes no other.
        graph: Its name in the report.
    """
    known: _Constants = dict(constants_of(model))
    work = [node for node in model.graph.node if not _is_folded(node, known)]
    reasons = {id(node): _reason(node, known) for node in work}
    fits = [node for node in work if not reasons[id(node)]]
    counted = Counter(reason for reason in reasons.values() if reason)
    return DlaReport(
        graph=graph,
        operations=len(work),
        fitting=len(fits),
        convolutions=sum(node.op_type in _CONVOLUTIONS for node in work),
        fitting_convolutions=sum(node.op_type in _CONVOLUTIONS for node in fits),
        on_gpu=dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))),
        transitions=_transitions(model, work, {id(node) for node in fits}),
        obstacles=tuple(_obstacles(model, {node.op_type for node in work})),
    )


def _is_folded(node: onnx.NodeProto, known: _Constants) -> bool:
    """Return whether TensorRT folds it while it builds; its outputs are then constants."""
    folded = node.op_type in ("Constant", "Shape") or all(
        name in known for name in node.input if name
    )
    if folded:
        known.update(dict.fromkeys(node.output))
    return folded


def _transitions(model: onnx.ModelProto, work: list[onnx.NodeProto], fitting: set[int]) -> int:
    """Return the largest number of transitions on a path from an input to an output on the GPU."""
    reached: dict[str, tuple[int, bool]] = {}
    for node in work:
        is_dla = id(node) in fitting
        # the inputs of the graph and the constants are on the GPU
        sources = [reached.get(name, (0, False)) for name in node.input if name] or [(0, False)]
        changes = max(count + (was_dla != is_dla) for count, was_dla in sources)
        reached.update(dict.fromkeys(node.output, (changes, is_dla)))
    ends = [reached.get(one.name, (0, False)) for one in model.graph.output]
    return max((count + is_dla for count, is_dla in ends), default=0)


def _obstacles(model: onnx.ModelProto, kinds: set[str]) -> list[str]:
    found = []
    open_sides = [
        one.name
        for one in model.graph.input
        if any(not side.HasField("dim_value") for side in one.type.tensor_type.shape.dim)
    ]
    if open_sides:
        found.append("its size is dynamic, the DLA takes one size: export with --size")
    if kinds & _QUANTIZERS:
        found.append(
            "it has Q/DQ nodes, which the DLA of TensorRT 10 does not take: export with --fp16"
        )
    elif any(one.data_type == _FLOAT and len(one.dims) > 1 for one in model.graph.initializer):
        found.append("it computes in fp32, the DLA in fp16 and INT8: export with --fp16")
    return found


def _reason(node: onnx.NodeProto, known: _Constants) -> str:
    """Return why an operation falls back to the GPU; empty where it does not."""
    kind = node.op_type
    if kind in _QUANTIZERS:
        return "Q/DQ"
    if kind in _REWRITTEN:
        return f"{kind} only rewritten by hand"
    if kind not in _NATIVE:
        return f"no {kind} on the DLA"
    limit = _LIMITS.get(kind)
    return limit(node, known) if limit is not None else ""


def _numbers(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(one.ints) for one in node.attribute if one.name == name), [])


def _number(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((one.i for one in node.attribute if one.name == name), default)


def _convolution(node: onnx.NodeProto, known: _Constants) -> str:
    del known
    if max(_numbers(node, "kernel_shape"), default=1) > _LARGEST_KERNEL:
        return f"Conv with a kernel above {_LARGEST_KERNEL}"
    if max(_numbers(node, "strides"), default=1) > _LARGEST_STRIDE:
        return f"Conv with a stride above {_LARGEST_STRIDE}"
    return ""


def _deconvolution(node: onnx.NodeProto, known: _Constants) -> str:
    del known
    is_plain = _number(node, "group", 1) == 1 and max(_numbers(node, "dilations"), default=1) == 1
    is_unpadded = not any(_numbers(node, "pads"))
    return "" if is_plain and is_unpadded else "ConvTranspose with padding, groups or dilation"


def _concatenation(node: onnx.NodeProto, known: _Constants) -> str:
    del known
    return "" if _number(node, "axis", 1) == 1 else "Concat along another axis than the channels"


def _product(node: onnx.NodeProto, known: _Constants) -> str:
    return "" if node.input[1] in known else f"{node.op_type} of two computed tensors"


_CONVOLUTIONS = frozenset(("Conv", "ConvTranspose"))
_LIMITS: dict[str, Callable[[onnx.NodeProto, _Constants], str]] = {
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "Concat": _concatenation,
    "MatMul": _product,
    "Gemm": _product,
}


TIMING_CACHE = "timing.tensorrt.cache"
"""The timing cache's file in the bundle. On another GPU than the manifest states it is replaced."""


def build_engines(
    bundle: Path,
    *,
    graphs: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] | None = None,
    settings: BuildSettings | None = None,
    flavor: str | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> list[EngineFacts]:
    """Build the engines of a bundle on this machine, and write them into its manifest.

    Each engine is in the manifest as soon as it is built: an interruption keeps it.

    Args:
        bundle: Its folder.
        graphs: Names of the graphs; where empty, all of accepted TensorRT configurations.
        sizes: (height, width) of static profiles; those of the former engine where None.
        settings: How to build.
        flavor: Which TensorRT.
        on_stage: Told what is being done.

    Raises:
        BundleError: No such graph, or its file has changed.
        EngineError: TensorRT cannot build one.
        MissingDependencyError: There is no TensorRT.
    """
    manifest = read_manifest(bundle)
    built = []
    for graph in _select_graphs(manifest, graphs):
        former = next((one for one in manifest.engines if one.graph == graph.name), None)
        profiles = (
            tuple(OptimizationProfile.from_document(one) for one in former.profiles)
            if sizes is None and former is not None and former.profiles
            else profiles_for(manifest.image, sizes)
        )
        onnx = verify_graph(bundle, graph.onnx)
        request = BuildRequest(
            onnx=onnx, plan=onnx.with_suffix(".plan"), profiles=profiles, graph=graph.name,
            precision=graph.precision, settings=settings or BuildSettings(), flavor=flavor,
            timing_cache=bundle / TIMING_CACHE, cache_origin=_cache_origin(bundle, manifest),
        )  # fmt: skip
        on_stage(f"build the TensorRT engine of {graph.name}")
        facts = build_apart(request, on_stage)
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
    """Return a prediction of what Orin's DLA could run of a bundle's graphs for TensorRT.

    Args:
        bundle: Its folder.
        graphs: Names of the graphs; all that are for TensorRT where empty.

    Raises:
        BundleError: No such graph, none for TensorRT, or its file has changed.
        MissingDependencyError: onnx is not installed.
    """
    require("onnx", "reading a graph's operations")
    import onnx

    manifest = read_manifest(bundle)
    candidates = [one.name for one in manifest.graphs if one.kept and "tensorrt" in one.targets]
    return [
        dla_report(onnx.load(verify_graph(bundle, graph.onnx)), graph.name)
        for graph in _select_graphs(manifest, graphs or candidates)
    ]


def rebuild_misfits(
    bundle: Path, on_stage: Callable[[str], None] = lambda what: None
) -> list[EngineFacts]:
    """Build again the engines of a bundle that do not fit this machine; report what differs.

    Raises:
        EngineError: There is no GPU, or TensorRT cannot build one.
        MissingDependencyError: There is no TensorRT or no cuda-python.
    """
    manifest = read_manifest(bundle)
    trt = find_tensorrt()
    host = describe_host(trt, Cuda().gpu())
    misfits = []
    for engine in manifest.engines:
        differing = find_differences(engine, manifest.graph(engine.graph), host)
        if differing:
            on_stage(f"{engine.plan.file} does not fit: {'; '.join(differing)}")
            misfits.append(engine.graph)
    if not misfits:
        return []
    return build_engines(bundle, graphs=misfits, flavor=host.flavor, on_stage=on_stage)


def _cache_origin(bundle: Path, manifest: Manifest) -> str | None:
    """Return the timing cache's origin; None where the file is not the one in the manifest."""
    kept = manifest.timing_cache
    path = bundle / TIMING_CACHE
    if kept is None or not path.is_file() or bind(path) != kept.cache:
        return None
    return kept.origin


def _timing_cache(bundle: Path, facts: EngineFacts) -> TimingCache | None:
    """Return the manifest's entry of a build's timing cache; TensorRT-RTX has none."""
    path = bundle / TIMING_CACHE
    if facts.flavor != "tensorrt" or not path.is_file():
        return None
    capability = facts.capabilities[0] if facts.capabilities else None
    origin = timing_origin(facts.version, facts.device, capability)
    return TimingCache(cache=bind(path), origin=origin)


def _select_graphs(manifest: Manifest, names: Sequence[str]) -> list[GraphFacts]:
    if names:
        found = [manifest.graph(name) for name in names]
    else:
        accepted = {
            one.graph
            for one in manifest.configurations
            if one.backend == "tensorrt" and one.accepted
        }
        found = [graph for graph in manifest.graphs if graph.name in accepted and graph.kept]
    unsuitable = [
        graph.name for graph in found if "tensorrt" not in graph.targets or not graph.kept
    ]
    if unsuitable or not found:
        raise BundleError(
            f"expected graphs for TensorRT, found {', '.join(unsuitable) or 'none'} in the bundle: "
            "export again with --target tensorrt or all"
        )
    return found
