"""Plans from a real builder, which needs no GPU, and its refusals; the rest with a fake."""

from __future__ import annotations

import ast
import enum
import importlib
import json
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.errors import EngineError, MissingDependencyError, OptionError
from mirnet_edge.export.onnx_graph import export_onnx, to_context_anchored_form, to_fp16
from mirnet_edge.files import sha256_of
from mirnet_edge.quantization.ptq import quantize_for_tensorrt
from mirnet_edge.runtime.tensorrt import build as engine
from mirnet_edge.runtime.tensorrt import cuda, library, runner
from mirnet_edge.runtime.tensorrt import rtx as rtx_names
from mirnet_edge.runtime.tensorrt.build import (
    BuildSettings,
    OptimizationProfile,
    OutOfMemoryError,
    build_engine,
)
from mirnet_edge.runtime.tensorrt.library import FLAVORS, find_tensorrt
from mirnet_edge.testing.fake_tensorrt import FakeCudart

if TYPE_CHECKING:
    from collections.abc import Callable

_SUBSET = json.loads((Path(__file__).parent / "trt_common_subset.json").read_text())
_FIXED = OptimizationProfile((1, 32, 48, 3), (1, 32, 48, 3), (1, 32, 48, 3))
_SIGNED_ZERO = np.int8(0)
_ANY = OptimizationProfile((1, 16, 16, 3), (1, 64, 96, 3), (2, 128, 128, 3))


@pytest.fixture(scope="session")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="pip install mirnet-edge[tensorrt-rtx]")


# --- real engines -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def quantized_of(graph_of, smooth_frames, tmp_path_factory):
    """Return the INT8 file of a small network, by the recipe for TensorRT."""
    folder = tmp_path_factory.mktemp("quantized")

    def make(name, size):
        path = folder / f"{name}-{'fixed' if size else 'any'}.onnx"
        if not path.exists():
            samples = [frame[None] for frame in smooth_frames(32, 48, 3)]
            quantize_for_tensorrt(graph_of(name, size=size), path, samples)
        return path

    return make


@dataclass(frozen=True)
class Plan:
    network: str
    precision: str
    size: tuple | None = (32, 48)

    @property
    def id(self):
        return f"{self.network}-{self.precision}-{'fixed' if self.size else 'any size'}"


@pytest.mark.parametrize(
    "case",
    [
        *(Plan("edge", precision, None) for precision in ("fp32", "fp16", "int8", "int8+fp16")),
        *(Plan("mirnet", precision) for precision in ("fp32", "fp16", "int8", "int8+fp16")),
        *(Plan("mirnet-v2", precision) for precision in ("fp32", "fp16", "int8+fp16")),
        Plan("mirnet-v2", "int8", None),
    ],
    ids=lambda case: case.id,
)
def test_every_network_builds_in_every_precision(case, rtx, graph_of, quantized_of, tmp_path):
    source = (
        quantized_of(case.network, case.size)
        if "int8" in case.precision
        else graph_of(case.network, size=case.size)
    )
    if "fp16" in case.precision:
        to_fp16(source, tmp_path / "half.onnx")
        source = tmp_path / "half.onnx"
    plan = tmp_path / "net.plan"
    profile = _FIXED if case.size else _ANY
    facts = build_engine(
        source, plan, [profile], flavor="tensorrt_rtx", settings=BuildSettings(workspace_mib=512)
    )
    assert plan.stat().st_size > 10_000
    assert facts.plan.file == "net.plan"
    assert facts.plan.sha256 == sha256_of(plan)
    assert facts.graph == source.stem
    assert facts.flavor == "tensorrt_rtx"
    assert facts.version == rtx.__version__
    assert [OptimizationProfile.from_document(one) for one in facts.profiles] == [profile]
    assert facts.onnx_sha256 == sha256_of(source)
    assert facts.flags == {"workspace_mib": 512}
    assert (facts.device, facts.capabilities, facts.delivered) == (None, [], None)  # no GPU here


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("profile", [_FIXED, _ANY], ids=["one size", "any size"])
def test_an_anchored_graph_builds_for_chosen_cards(profile, network_of, tmp_path):
    network = network_of("edge")
    path = tmp_path / "anchored.onnx"
    export_onnx(
        to_context_anchored_form(network), path, io="uint8", size=None, multiple=network.multiple
    )
    facts = build_engine(
        path, tmp_path / "anchored.plan", [profile], flavor="tensorrt_rtx",
        settings=BuildSettings(workspace_mib=512, capabilities=("8.6",)),
    )  # fmt: skip
    assert facts.capabilities == ["8.6"]


# --- real refusals ----------------------------------------------------------------------------


def _quantized_convolution(path, *, zero=_SIGNED_ZERO, bias=np.float32, domain=""):
    """Write a quantized convolution; with the defaults, one that TensorRT builds."""
    zero = np.asarray(zero)
    pairs = [
        helper.make_node(
            f"{kind}Linear", [source, "scale", zero_name], [f"{tensor}.{end}"],
            name=f"{tensor}.{kind.lower()}",
        )
        for tensor, zero_name in (("x", "zero"), ("w", "w.zero"))
        for kind, source, end in (("Quantize", tensor, "q"), ("Dequantize", f"{tensor}.q", "dq"))
    ]  # fmt: skip
    constants = {
        "scale": np.array(1 / 127, np.float32), "zero": zero, "w.zero": np.array(0, np.int8),
        "w": np.full((4, 4, 3, 3), 0.1, np.float32), "bias": np.zeros(4, bias),
    }  # fmt: skip
    inputs = ["x.dq", "w.dq", "bias"]
    if bias is np.int32:
        constants["none"] = np.array(0, np.int32)
        made = helper.make_node(
            "DequantizeLinear", ["bias", "scale", "none"], ["bias.dq"], name="bias.dequantize"
        )
        pairs.append(made)
        inputs[2] = "bias.dq"
    nodes = [*pairs, helper.make_node("Conv", inputs, ["c"], name="conv", pads=[1, 1, 1, 1])]
    kind = "Relu" if not domain else "NhwcMaxPool"
    nodes.append(helper.make_node(kind, ["c"], ["y"], name="last", domain=domain))
    shape = [1, 4, 16, 16]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


@dataclass(frozen=True)
class Refused:
    id: str
    damage: dict
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("unsigned zero point", {"zero": np.uint8(0)}, r"would misread the graph.*UINT8"),
        Refused("int32 bias", {"bias": np.int32}, r"refuses the node 'bias\.dequantize'"),
        Refused("not symmetric", {"zero": np.int8(3)}, r"refuses the node 'x\.quantize'.*zero"),
        Refused("foreign", {"domain": "com.microsoft"}, r"refuses the node 'last' \(NhwcMaxPool\)"),
    ],
    ids=lambda case: case.id,
)
def test_what_tensorrt_refuses_or_misreads_is_named(case, rtx, tmp_path):
    path, plan = tmp_path / "bad.onnx", tmp_path / "bad.plan"
    _quantized_convolution(path, **case.damage)
    profile = OptimizationProfile(*[(1, 4, 16, 16)] * 3)
    with pytest.raises(EngineError, match=case.says) as caught:
        build_engine(path, plan, [profile], flavor="tensorrt_rtx")
    assert str(caught.value).startswith(f"bad.onnx: TensorRT {rtx.__version__}")
    assert "--target tensorrt" in str(caught.value)
    assert not list(tmp_path.glob("*.plan*"))


@pytest.mark.usefixtures("rtx")
def test_the_same_graph_without_the_fault_builds(tmp_path):
    path = tmp_path / "good.onnx"
    _quantized_convolution(path)
    profile = OptimizationProfile(*[(1, 4, 16, 16)] * 3)
    facts = build_engine(
        path, tmp_path / "good.plan", [profile], flavor="tensorrt_rtx", graph="int8"
    )
    assert facts.graph == "int8"


@pytest.mark.usefixtures("rtx")
def test_a_profile_that_does_not_fit_the_graph_is_an_error(tmp_path):
    path = tmp_path / "good.onnx"
    _quantized_convolution(path)
    profile = OptimizationProfile(*[(1, 4, 32, 32)] * 3)
    with pytest.raises(EngineError, match=r"good\.onnx: TensorRT"):
        build_engine(path, tmp_path / "good.plan", [profile], flavor="tensorrt_rtx")


@pytest.mark.usefixtures("rtx")
def test_a_file_that_is_no_graph_is_an_error(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x0a garbage")
    with pytest.raises(EngineError, match=r"broken\.onnx: TensorRT"):
        build_engine(path, tmp_path / "x.plan", [_FIXED], flavor="tensorrt_rtx")


# --- profiles ---------------------------------------------------------------------------------

_SIDE = st.integers(1, 4)


@given(st.lists(st.tuples(_SIDE, _SIDE, _SIDE), min_size=1, max_size=3))
def test_a_profile_rises_on_every_axis_or_is_refused(axes):
    minimum, usual, maximum = zip(*axes, strict=True)
    if all(list(sides) == sorted(sides) for sides in axes):
        assert OptimizationProfile(minimum, usual, maximum).usual == usual
    else:
        with pytest.raises(OptionError, match="profile shapes must rise") as caught:
            OptimizationProfile(minimum, usual, maximum)
        assert str(maximum) in str(caught.value)


@pytest.mark.parametrize("short", range(3))
def test_a_profile_of_unequal_lengths_is_refused(short):
    shapes = [(1, 8, 8, 3)] * 3
    shapes[short] = (1, 8, 8)
    with pytest.raises(OptionError, match="profile shapes must rise"):
        OptimizationProfile(*shapes)


# --- which TensorRT ---------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put modules in the place of every TensorRT: installed(tensorrt="raise OSError('no')")."""

    def put(**sources):
        folder = tmp_path / "site"
        folder.mkdir()
        for name in FLAVORS:
            source = sources.get(name, f"raise ModuleNotFoundError('No module named {name}')")
            (folder / f"{name}.py").write_text(source)
            monkeypatch.setitem(sys.modules, name, None)  # so that it is put back afterwards
            del sys.modules[name]
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()

    return put


_WORKS = "__version__ = '10.3.0'"
_NO_DRIVER = "raise OSError('libnvinfer.so.10: cannot open shared object file')"


@dataclass(frozen=True)
class Installed:
    id: str
    sources: dict
    asked: str | None
    found: str


@pytest.mark.parametrize(
    "case",
    [
        Installed("both", {"tensorrt": _WORKS, "tensorrt_rtx": _WORKS}, None, "tensorrt"),
        Installed("only rtx", {"tensorrt_rtx": _WORKS}, None, "tensorrt_rtx"),
        Installed(
            "no driver", {"tensorrt": _NO_DRIVER, "tensorrt_rtx": _WORKS}, None, "tensorrt_rtx"
        ),
        Installed(
            "asked for", {"tensorrt": _WORKS, "tensorrt_rtx": _WORKS}, "tensorrt_rtx",
            "tensorrt_rtx",
        ),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_the_first_that_can_be_loaded_is_taken(case, installed):
    installed(**case.sources)
    assert find_tensorrt(case.asked).__name__ == case.found


def test_without_any_the_message_says_why_and_how_to_get_one(installed):
    installed(tensorrt=_NO_DRIVER)
    with pytest.raises(MissingDependencyError) as caught:
        find_tensorrt()
    message = str(caught.value)
    assert "tensorrt: libnvinfer.so.10: cannot open shared object file" in message
    assert "tensorrt_rtx: No module named tensorrt_rtx" in message
    assert "JetPack" in message
    assert 'pip install "mirnet-edge[tensorrt-rtx]"' in message


def test_a_flavor_that_was_asked_for_has_no_substitute(installed):
    installed(tensorrt_rtx=_WORKS)
    with pytest.raises(MissingDependencyError, match=r"\(tensorrt: No module") as caught:
        build_engine(Path("a.onnx"), Path("a.plan"), [_FIXED], flavor="tensorrt")
    assert "tensorrt_rtx:" not in str(caught.value)


# --- a fake -----------------------------------------------------------------------------------


class _Config:
    def __init__(self, fake):
        self._fake = fake

    def set_memory_pool_limit(self, *limit):
        self._fake.asked["limit"] = limit

    def add_optimization_profile(self, shapes):
        return self._fake.profile_index

    def create_timing_cache(self, kept):
        return types.SimpleNamespace(serialize=lambda: kept)

    def set_timing_cache(self, cache, ignore_mismatch):
        self._fake.asked |= {"timings": cache.serialize(), "ignore": ignore_mismatch}

    def get_timing_cache(self):
        return types.SimpleNamespace(serialize=lambda: b"timed")


class _Fake(types.ModuleType):
    """A TensorRT that writes down what it is asked; attributes say how it answers."""

    def __init__(self):
        super().__init__("tensorrt")
        self.__version__ = "10.3.0"
        self.flags = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        self.says: list = []
        self.parses = True
        self.profile_index = 0
        self.plan: bytes | None = b"plan"
        self.asked: dict = {}
        self.inputs: dict = {"frames": (-1, -1, -1, 3)}
        self.shapes: dict = {}
        fake = self

        class ILogger:
            pass

        class Parser:
            def __init__(self, network, logger):
                self.logger = logger

            def parse_from_file(self, path):
                fake.asked["path"] = path
                for severity, message in fake.says:
                    self.logger.log(severity, message)
                return fake.parses

            def get_error(self, index):
                return [
                    types.SimpleNamespace(
                        node_name=lambda name=name: name, node_operator=lambda: "Conv",
                        desc=lambda name=name: f"{name} is bad",
                    )
                    for name in ("first", "second")
                ][index]  # fmt: skip

        class Builder:
            def __init__(self, logger):
                pass

            def create_network(self, flags):
                fake.asked["flags"] = flags
                entries = [
                    types.SimpleNamespace(name=name, shape=shape)
                    for name, shape in fake.inputs.items()
                ]
                return types.SimpleNamespace(get_input=entries.__getitem__, num_inputs=len(entries))

            def create_builder_config(self):
                return _Config(fake)

            def create_optimization_profile(self):
                return types.SimpleNamespace(
                    set_shape=lambda name, *shapes: fake.shapes.update({name: shapes})
                )

            def build_serialized_network(self, network, config):
                return fake.plan

        self.ILogger, self.OnnxParser, self.Builder = ILogger, Parser, Builder
        self.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
        self.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["DETAILED"])

    @property
    def NetworkDefinitionCreationFlag(self):  # noqa: N802  # TensorRT's name
        return enum.IntEnum("NetworkDefinitionCreationFlag", self.flags)


@pytest.fixture
def fake(monkeypatch):
    made = _Fake()
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made


@pytest.fixture
def build(fake, tmp_path):
    """Build with the fake: build(workspace_mib=64). The engine is tmp_path / "net.plan"."""

    (tmp_path / "net.onnx").write_bytes(b"graph")

    def make(**options):
        return build_engine(tmp_path / "net.onnx", tmp_path / "net.plan", [_ANY], **options)

    return make


@dataclass(frozen=True)
class Flags:
    id: str
    members: dict
    given: int


@pytest.mark.parametrize(
    "case",
    [
        Flags("10.3", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 2),
        Flags("11 and RTX", {"STRONGLY_TYPED": 0}, 1),
        Flags("another number", {"STRONGLY_TYPED": 3}, 8),
        Flags("no such flag", {"OTHER": 0}, 0),
    ],
    ids=lambda case: case.id,
)
def test_the_network_is_strongly_typed_where_that_can_be_said(case, fake, build):
    fake.flags = case.members
    build()
    assert fake.asked["flags"] == case.given


def test_an_engine_is_written_as_it_is(fake, build, tmp_path):
    facts = build()
    assert (tmp_path / "net.plan").read_bytes() == b"plan"
    assert fake.asked["path"] == str(tmp_path / "net.onnx")
    assert fake.shapes == {"frames": (_ANY.minimum, _ANY.usual, _ANY.maximum)}
    assert (facts.flavor, facts.version, facts.graph) == ("tensorrt", "10.3.0", "net")


def test_the_vectors_of_an_anchored_graph_have_a_row_for_each_frame(fake, build):
    fake.inputs |= {"globals_in": (-1, 242), "memory": (1,)}
    build()
    assert fake.shapes["globals_in"] == ((1, 242), (1, 242), (2, 242))
    assert "memory" not in fake.shapes  # its one shape is in the graph


@pytest.mark.parametrize("origin", [None, "TensorRT 10.13.2 on no GPU (unknown capability)"])
def test_timings_of_elsewhere_are_not_read_and_replaced(origin, fake, build, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of elsewhere")
    told = []
    build(timing_cache=cache, cache_origin=origin, on_progress=told.append)
    assert (fake.asked["timings"], fake.asked["ignore"]) == (b"", False)
    assert cache.read_bytes() == b"timed"
    (line,) = told
    assert line.startswith(f"timing again: timing.cache is of {origin or 'unknown origin'}")
    assert line.endswith("here is TensorRT 10.3.0 on no GPU (unknown capability)")


def test_timings_of_this_tensorrt_and_gpu_are_used(fake, build, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "_runtime", lambda: FakeCudart(name="Orin", capability="8.7"))
    monkeypatch.setattr(engine, "_inspect", lambda *given: None)
    cache, told = tmp_path / "timing.cache", []
    build(timing_cache=cache, on_progress=told.append)
    assert fake.asked["timings"] == b""
    origin = "TensorRT 10.3.0 on Orin (8.7)"
    build(timing_cache=cache, cache_origin=origin, on_progress=told.append)
    assert fake.asked["timings"] == b"timed"
    assert told == []


def test_a_workspace_is_given_in_bytes_and_only_if_asked_for(fake, build):
    build()
    assert "limit" not in fake.asked
    build(settings=BuildSettings(workspace_mib=64))
    assert fake.asked["limit"] == (fake.MemoryPoolType.WORKSPACE, 64 * 1024 * 1024)


@dataclass(frozen=True)
class Answer:
    id: str
    change: Callable
    says: str


def _saying(severity, message):
    return lambda fake: fake.says.append((severity, message))


def _without_plan(fake):
    fake.plan = None
    fake.says += [("Severity.WARNING", "odd"), ("Severity.ERROR", "cause"), ("ERROR", "follows")]


@pytest.mark.parametrize(
    "case",
    [
        Answer(
            "the parser refuses", lambda fake: setattr(fake, "parses", False),
            "refuses the node 'first' (Conv): first is bad",
        ),
        Answer(
            "the profile is refused", lambda fake: setattr(fake, "profile_index", -1),
            "that fit the graph's input (-1, -1, -1, 3)",
        ),
        Answer("no engine", _without_plan, "TensorRT 10.3.0 cannot build it: cause"),
        Answer(
            "no engine, no reason", lambda fake: setattr(fake, "plan", None), "no reason given"
        ),
        *(
            Answer(phrase, _saying("Severity.WARNING", f"node: {phrase} here"), "would misread")
            for phrase in engine._MISREADINGS
        ),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_every_refusal_is_an_error_and_leaves_no_engine(case, fake, build, tmp_path):
    case.change(fake)
    with pytest.raises(EngineError, match=re.escape(case.says)) as caught:
        build()
    assert str(caught.value).startswith("net.onnx: TensorRT")
    assert not list(tmp_path.glob("*.plan*"))


def test_a_lack_of_memory_is_told_apart(fake, build):
    fake.plan = None
    fake.says.append(
        ("Severity.ERROR", "Requested amount of GPU memory: cudaErrorMemoryAllocation")
    )
    with pytest.raises(OutOfMemoryError, match="cannot build it: Requested amount"):
        build()


def test_other_warnings_are_no_error(fake, build):
    fake.says.append(("Severity.WARNING", "Converting conv activation scales to fp32"))
    build()


def test_a_former_plan_survives_a_refusal(fake, build, tmp_path):
    (tmp_path / "net.plan").write_bytes(b"former")
    fake.parses = False
    with pytest.raises(EngineError):
        build()
    assert (tmp_path / "net.plan").read_bytes() == b"former"


# --- only names that all versions share -------------------------------------------------------

# what a call gives, by the name of what is called
_GIVES = {
    "Builder": "Builder", "OnnxParser": "OnnxParser", "create_network": "INetworkDefinition",
    "create_builder_config": "IBuilderConfig", "build_serialized_network": "IHostMemory",
    "create_optimization_profile": "IOptimizationProfile", "get_error": "ParserError",
    "get_input": "ITensor", "find_tensorrt": "trt", "Runtime": "Runtime",
    "deserialize_cuda_engine": "ICudaEngine", "create_engine_inspector": "EngineInspector",
    "create_execution_context": "IExecutionContext",
    "get_timing_cache": "ITimingCache", "create_timing_cache": "ITimingCache",
}  # fmt: skip
_PARAMETERS = {
    "trt": "trt", "network": "INetworkDefinition", "logger": None, "config": "IBuilderConfig",
    "shapes": "IOptimizationProfile", "engine": "ICudaEngine", "log": None,
    "context": "IExecutionContext",
}  # fmt: skip
# attributes that hold one of TensorRT's objects
_HELD = {"_trt": "trt", "_engine": "ICudaEngine", "_context": "IExecutionContext",
         "_runtime": "Runtime"}  # fmt: skip
_PYTHONS = {"__name__", "__version__", "__members__", "__init__"}


class _Names(ast.NodeVisitor):
    """Collects (class, attribute) for all that is TensorRT's in a source."""

    def __init__(self):
        self.kinds: dict = {}
        self.used: set = set()

    def visit_FunctionDef(self, node):
        outer = dict(self.kinds)  # a name means one thing within a function, not in the whole file
        for argument in node.args.args:
            if argument.annotation is None or ast.unparse(argument.annotation) in (
                "Any",
                "ModuleType",
            ):
                assert argument.arg in {*_PARAMETERS, "self", "cls", "document"}, (
                    f"what is {argument.arg}?"
                )
                self.kinds[argument.arg] = _PARAMETERS.get(argument.arg)
        self.generic_visit(node)
        self.kinds = outer

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.kinds[target.id] = self._kind(node.value)

    def visit_Attribute(self, node):
        kind = self._kind(node.value)
        if kind and node.attr not in _PYTHONS:
            self.used.add((kind, node.attr))
        self.generic_visit(node)

    def _kind(self, value):
        if isinstance(value, ast.Name):
            return self.kinds.get(value.id)
        if isinstance(value, ast.Attribute):
            if isinstance(value.value, ast.Name) and value.value.id == "self":
                return _HELD.get(value.attr)
            if self._kind(value.value) == "trt":
                return value.attr
        if isinstance(value, ast.Call):
            called = value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            return _GIVES.get(name)
        return None


def _not_shared(source):
    """Return what a source uses of TensorRT, and what of it not every version has."""
    names = _Names()
    names.visit(ast.parse(source))
    missing = {
        f"{kind}.{name}"
        for kind, name in names.used
        if name not in (_SUBSET if kind == "trt" else _SUBSET.get(kind, ()))
    }
    return names.used, missing


@dataclass(frozen=True)
class Source:
    module: types.ModuleType
    sees: set
    """Names that a scan which understands the source comes across."""


@pytest.mark.parametrize(
    "case",
    [
        Source(engine, {
            ("trt", "OnnxParser"), ("Builder", "create_network"),
            ("Builder", "build_serialized_network"), ("INetworkDefinition", "get_input"),
            ("ITensor", "shape"), ("IBuilderConfig", "add_optimization_profile"),
            ("IBuilderConfig", "progress_monitor"), ("IOptimizationProfile", "set_shape"),
            ("ITimingCache", "serialize"), ("MemoryPoolType", "WORKSPACE"),
            ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"), ("OnnxParser", "parse_from_file"),
            ("ParserError", "node_name"), ("EngineInspector", "get_engine_information"),
        }),
        Source(library, {("trt", "ILogger")}),
        Source(runner, {("Runtime", "deserialize_cuda_engine")}),
        Source(runner, {
            ("IExecutionContext", "execute_async_v3"), ("ICudaEngine", "get_tensor_dtype"),
            ("IExecutionContext", "set_tensor_address"), ("ICudaEngine", "num_io_tensors"),
            ("ICudaEngine", "get_tensor_mode"), ("IExecutionContext", "set_input_shape"),
            ("IExecutionContext", "set_optimization_profile_async"), ("TensorIOMode", "INPUT"),
            ("DataType", "UINT8"),
        }),
    ],
    ids=lambda case: case.module.__name__,
)  # fmt: skip
def test_only_names_that_every_version_has_are_used(case):
    used, missing = _not_shared(Path(case.module.__file__).read_text())
    assert not missing
    assert used >= case.sees


def test_what_only_rtx_has_stands_in_its_module_and_exists(rtx):
    names = {"create_runtime_config", "create_runtime_cache", "num_compute_capabilities"}
    source = Path(rtx_names.__file__).read_text()
    assert all(name in source for name in names)
    for name in ("create_runtime_config", "create_execution_context"):
        assert hasattr(rtx.ICudaEngine, name)
    for name in ("create_runtime_cache", "set_runtime_cache"):
        assert hasattr(rtx.IRuntimeConfig, name)
    for name in ("num_compute_capabilities", "set_compute_capability"):
        assert hasattr(rtx.IBuilderConfig, name)
    for capability in rtx_names.CAPABILITIES:
        assert f"SM{capability.replace('.', '')}" in rtx.ComputeCapability.__members__


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("builder = trt.Builder(log)\nbuilder.platform_has_fast_int8", "platform_has_fast_int8"),
        ("config = trt.Builder(log).create_builder_config()\nconfig.int8_calibrator", "calibrator"),
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("flags = trt.NetworkDefinitionCreationFlag\nflags.EXPLICIT_BATCH", "EXPLICIT_BATCH"),
        ("trt.init_libnvinfer_plugins(log, '')", "trt.init_libnvinfer_plugins"),
        ("network.get_input(0).dynamic_range", "ITensor.dynamic_range"),
        ("trt.Runtime(log).deserialize_cuda_engine(b'').device_memory_size", "device_memory_size"),
        ("self._context.all_shape_inputs_specified", "all_shape_inputs_specified"),
    ],
)
def test_the_scan_sees_names_that_are_gone(line, name):
    body = "\n".join(f"    {one}" for one in line.splitlines())
    _, missing = _not_shared(f"def build(trt: ModuleType, network: Any):\n{body}")
    assert len(missing) == 1
    assert name in missing.pop()


def test_the_installed_one_has_the_shared_names(rtx):
    for kind, names in _SUBSET.items():
        assert not [name for name in names if not hasattr(getattr(rtx, kind), name)], kind
