"""Optional packages: found without importing them, named with the command that installs them."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirnet_edge import dependencies
from mirnet_edge.dependencies import advice, available, require
from mirnet_edge.errors import MissingDependencyError

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# where the package's name on the index is not that of the module
_DISTRIBUTION_OF = {
    "ai_edge_litert": "ai-edge-litert",
    "litert_torch": "litert-torch",
    "skimage": "scikit-image",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "cuda": "cuda-bindings",
    "pillow_heif": "pillow-heif",
    "onnxruntime_ep_webgpu": "onnxruntime-ep-webgpu",
    "onnxruntime_ep_openvino": "onnxruntime-ep-openvino",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx-cu13",
}


@pytest.fixture
def make_module(tmp_path, monkeypatch):
    """Make an importable module: make_module("name", "its source")."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name, source=""):
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_available_does_not_import(make_module):
    name = make_module("mirnet_test_loud", "raise SystemExit('imported')")
    assert available(name)
    assert name not in sys.modules
    assert available("json")
    assert not available("mirnet_test_nowhere")


def test_require_gives_the_module(make_module):
    assert require("json", "the test") is json
    assert require(make_module("mirnet_test_good", "answer = 42"), "the test").answer == 42


@dataclass(frozen=True)
class Missing:
    name: str
    advice: str


@pytest.mark.parametrize(
    "case",
    [
        Missing("torch", 'pip install "mirnet-edge[export]"'),
        Missing("openvino", 'pip install "mirnet-edge[cpu]"'),
        Missing("tensorrt_rtx", 'pip install "mirnet-edge[tensorrt-rtx]"'),
        Missing("onnxruntime", "pip install onnxruntime"),
    ],
    ids=lambda case: case.name,
)
def test_what_is_missing_is_named_with_who_needs_it_and_how_to_get_it(case, monkeypatch):
    monkeypatch.setitem(sys.modules, case.name, None)
    assert not available(case.name)
    with pytest.raises(MissingDependencyError) as raised:
        require(case.name, "calibrating INT8")
    assert str(raised.value) == (
        f"calibrating INT8 needs the package {case.name}, which is not installed: {case.advice}"
    )
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)
    assert advice(case.name) == case.advice


@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_what_is_installed_and_cannot_be_loaded_says_why(kind, make_module):
    name = make_module("mirnet_test_broken", f"raise {kind}('libcuda.so.1: no such file')")
    says = (
        f"the test needs the package {name}, which is installed but cannot be loaded: "
        "libcuda.so.1: no such file"
    )
    with pytest.raises(MissingDependencyError, match=re.escape(says)):
        require(name, "the test")


def test_a_package_that_lacks_one_of_its_own_keeps_its_error(make_module):
    name = make_module("mirnet_test_half", "import mirnet_test_nowhere")
    with pytest.raises(ModuleNotFoundError, match="mirnet_test_nowhere"):
        require(name, "the test")


def test_other_faults_of_a_package_keep_their_traceback(make_module):
    name = make_module("mirnet_test_faulty", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        require(name, "the test")


@pytest.mark.parametrize("name", sorted(dependencies.EXTRAS))
def test_the_extra_that_is_advised_brings_the_package(name):
    extra = dependencies.EXTRAS[name]
    text = _PROJECT.read_text()
    listed = re.search(rf"^{re.escape(extra)} = (\[.*?\])(?:\s*#.*)?$", text, re.M | re.S)
    assert listed, f"pyproject.toml has no extra {extra}"
    wanted = re.escape(_DISTRIBUTION_OF.get(name, name))
    assert re.search(rf'"{wanted}[">=<~\[]', listed[1])
