"""Ranges from histograms, and the file that keeps them for the same data, way and graph alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

from mirnet_edge.errors import CalibrationError
from mirnet_edge.quantization.ptq import (
    QuantizationScheme,
    list_quantized_inputs,
    quantize_for_tensorrt,
)
from mirnet_edge.quantization.ranges import (
    RANGE_ESTIMATORS,
    Histogram,
    RangeKey,
    collect_histograms,
    estimate_ranges,
    read_ranges,
    write_ranges,
)


def _histogram(values):
    largest = float(np.abs(values).max())
    counts, _ = np.histogram(np.abs(values), 2048, (0.0, largest))
    return Histogram(largest, counts)


def test_estimators_differ_by_what_they_clip():
    values = np.random.default_rng(0).normal(0, 1, 1_000_000)
    values[0] = 50.0
    found = _histogram(values)
    assert found.range("minmax") == pytest.approx(50.0)
    assert found.range("percentile") == pytest.approx(
        np.percentile(np.abs(values), 99.99), abs=0.05
    )
    assert 3.0 < found.range("entropy") < 10.0


@pytest.mark.parametrize("method", RANGE_ESTIMATORS)
def test_a_tensor_that_is_always_zero_has_a_scale_that_half_precision_holds(method):
    silent = Histogram(0.0, np.zeros(2048, np.int64))
    assert silent.range(method) / 127.0 >= np.finfo(np.float16).tiny


@pytest.fixture(scope="module")
def seen(graph_of, images):
    names = list_quantized_inputs(onnx.load(graph_of("edge")))
    return collect_histograms(graph_of("edge"), images(3), names)


def test_every_value_is_counted_once(seen, graph_of):
    assert set(seen) == set(list_quantized_inputs(onnx.load(graph_of("edge"))))
    for one in seen.values():
        assert one.counts.sum() > 0
        assert one.counts[-1] > 0, "the largest is in the last bin"
    assert len({int(one.counts.sum()) % 3 for one in seen.values()}) == 1  # of three images


def test_kept_ranges_give_the_same_graph(seen, graph_of, images, tmp_path):
    binding = RangeKey.of(graph_of("edge"), "data", "way")
    write_ranges(tmp_path / "ranges.json", estimate_ranges(binding, 3, seen))
    kept = read_ranges(tmp_path / "ranges.json", binding).ranges["minmax"]
    for name, how in (("a", QuantizationScheme()), ("b", QuantizationScheme(ranges=kept))):
        quantize_for_tensorrt(graph_of("edge"), tmp_path / name, images(3), how)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@dataclass(frozen=True)
class Other:
    id: str
    field: str
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Other("data", "data_sha256", "other images: expected other, found data"),
        Other("preprocessing", "preprocessing", "other preprocessing"),
        Other("model", "model_sha256", "other graph"),
    ],
    ids=lambda case: case.id,
)
def test_ranges_of_something_else_are_refused(case, tmp_path):
    binding = RangeKey("data", "way", "model")
    write_ranges(
        tmp_path / "r.json", estimate_ranges(binding, 1, {"x": _histogram(np.arange(9.0))})
    )
    assert read_ranges(tmp_path / "r.json", binding).images == 1
    with pytest.raises(CalibrationError, match=case.says):
        read_ranges(tmp_path / "r.json", replace(binding, **{case.field: "other"}))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(CalibrationError, match="delete it"):
        read_ranges(tmp_path / "r.json", RangeKey("data", "way", "model"))


_CHAIN = """
import re, sys
from pathlib import Path
import numpy as np, onnx
from onnx import TensorProto, helper
from mirnet_edge.quantization.ranges import collect_magnitudes

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

COUNT, SIDE = 30, 1024
names = ["frames"]
nodes = []
one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
for place in range(COUNT):
    nodes.append(helper.make_node("Relu", [names[-1]], [f"relu{place}"], f"relu{place}"))
    nodes.append(helper.make_node("Add", [f"relu{place}", "one"], [f"sum{place}"], f"sum{place}"))
    names += [f"relu{place}", f"sum{place}"]
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, SIDE, SIDE])
graph = helper.make_graph(nodes, "chain", [value("frames")], [value(names[-1])], [one])
opset = [helper.make_opsetid("", 20)]
onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), sys.argv[1])
before = peak()
samples = [np.full((1, 1, SIDE, SIDE), number, np.float32) for number in (2, 1)]
found = collect_magnitudes(Path(sys.argv[1]), samples, names)
assert list(found.values()) == [2.0 + place // 2 for place in range(2 * COUNT + 1)], found
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_pass_holds_few_of_the_tensors_that_it_sees(tmp_path):
    command = [sys.executable, "-c", _CHAIN, str(tmp_path / "chain.onnx")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(run.stdout) < 120  # MiB; all 60 at once are 240, and twice that was held
