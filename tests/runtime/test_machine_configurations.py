"""Devices of this machine that a bundle's export did not know: added, compared, timed, chosen."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mirnet_edge.errors import BundleError, EngineError, OptionError
from mirnet_edge.manifest import RejectionReason, read_manifest
from mirnet_edge.runtime import machine_latency
from mirnet_edge.runtime.backends import Backend, temporary_backends
from mirnet_edge.runtime.bundle import open_bundle, read_manifest_here
from mirnet_edge.runtime.machine_configurations import (
    add_configurations,
    compare_here,
    is_untried,
    make_scene,
)
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner


class DeviceRunner(OnnxRuntimeRunner):
    """ONNX Runtime, said to be a device of its own."""

    error = 0
    fails = False
    opened = 0

    def _load(self):
        type(self).opened += 1
        if self.fails:
            raise EngineError("the driver is gone")
        super()._load()

    def _infer(self, inputs):
        return super()._infer(inputs) + np.uint8(self.error)


def device(**changes):
    runner = type("Runner", (DeviceRunner,), changes)
    return Backend(
        name="toy-gpu", title="Toy GPU", packages=("numpy",), extra=None, device="gpu",
        provider="toy", precisions=("fp32", "int8"), auto_reason="where it is measured fastest",
        runner=runner, added_here="always",
    )  # fmt: skip


@pytest.fixture
def bundle(make_bundle, make_mode, make_graph):
    """Return a bundle of a real graph, exported where no device was."""
    return make_bundle(modes=[make_mode("onnxruntime:fp32", p50_ms=1.0)])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_latency, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(machine_latency, "_measured", {})
    return tmp_path / "cache"


def names_of(manifest):
    return [one.name for one in manifest.configurations]


def test_a_device_that_is_here_is_added_with_the_graphs_it_takes(bundle):
    manifest = read_manifest(bundle)
    assert names_of(add_configurations(manifest)) == ["onnxruntime:fp32"]
    with temporary_backends(device()):
        added = add_configurations(manifest)
        assert names_of(added) == ["onnxruntime:fp32", "toy-gpu:fp32"]
        assert is_untried(added.configuration("toy-gpu:fp32"))
        assert not is_untried(added.configuration("onnxruntime:fp32"))
    with temporary_backends(replace(device(), added_here="never")):
        assert names_of(add_configurations(manifest)) == ["onnxruntime:fp32"]
        assert names_of(add_configurations(manifest, "toy-gpu")) == ["onnxruntime:fp32"]
    with temporary_backends(replace(device(), added_here="named")):
        assert names_of(add_configurations(manifest)) == ["onnxruntime:fp32"]
        assert names_of(add_configurations(manifest, "toy-gpu"))[1:] == ["toy-gpu:fp32"]


def test_a_device_that_is_not_here_is_added_where_it_is_named_to_tell_what_it_lacks(bundle):
    absent = replace(device(), find_machine_obstacle=lambda: "no such GPU: plug one in")
    with temporary_backends(absent):
        assert names_of(read_manifest_here(bundle)) == ["onnxruntime:fp32"]
        with pytest.raises(BundleError, match=r"toy-gpu:fp32: no such GPU: plug one in"):
            open_bundle(bundle, "toy-gpu")


def test_auto_times_a_device_and_takes_it_where_it_is_faster(bundle, monkeypatch):
    times = {"toy-gpu:fp32": [2.0, 2.0], "onnxruntime:fp32": [9.0, 9.0]}

    def measure(runners, frame, budget_s, *, must_open):
        return {name: times[name] for name in runners}

    monkeypatch.setattr(machine_latency, "measure_within", measure)
    with temporary_backends(device()):
        manifest = read_manifest_here(bundle)
        chosen = manifest.configuration("toy-gpu:fp32")
        assert chosen.latency.p50_ms == 2.0
        assert chosen.estimated_drop_db == 0.0
        assert "compared with onnxruntime on this machine" in chosen.reason
        assert open_bundle(bundle).name == "toy-gpu:fp32"
        times["toy-gpu:fp32"] = [90.0, 90.0]
        monkeypatch.setattr(machine_latency, "_measured", {})
        for file in machine_latency.user_cache().rglob("*.json"):
            file.unlink()
        assert open_bundle(bundle).name == "onnxruntime:fp32"


@dataclass(frozen=True)
class Refused:
    id: str
    changes: dict
    reason: RejectionReason
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("inexact", {"error": 9}, RejectionReason.QUALITY, "differs from onnxruntime"),
        Refused("broken", {"fails": True}, RejectionReason.UNSUPPORTED, "the driver is gone"),
    ],
    ids=lambda case: case.id,
)
def test_a_device_that_computes_something_else_or_nothing_is_rejected(case, bundle, cache):
    with temporary_backends(device(**case.changes)):
        manifest = read_manifest_here(bundle)
        refused = manifest.configuration("toy-gpu:fp32")
        assert not refused.accepted
        assert refused.rejection.reason is case.reason
        assert case.says in refused.reason
        assert open_bundle(bundle).name == "onnxruntime:fp32"
        with pytest.raises(BundleError, match="not accepted"):
            open_bundle(bundle, "toy-gpu")
        # asked for with its precision, it is opened all the same
        assert open_bundle(bundle, "toy-gpu", "fp32").name == "toy-gpu:fp32"


def test_what_was_compared_is_kept_for_the_next_process(bundle, cache, monkeypatch):
    row = device()
    with temporary_backends(row):
        open_bundle(bundle, "toy-gpu")
        before = row.runner.opened
        (file,) = cache.rglob("*.json")
        assert json.loads(file.read_text())["comparisons"] == {"toy-gpu:fp32": [0.0, None]}
        monkeypatch.setattr(machine_latency, "_measured", {})  # as another process
        with open_bundle(bundle, "toy-gpu") as runner:
            assert runner.name == "toy-gpu:fp32"
        assert row.runner.opened == before + 1


def test_what_the_graph_itself_drops_is_counted_too(bundle):
    manifest = read_manifest(bundle)
    graphs = [one.model_copy(update={"truth_drop_db": 0.25}) for one in manifest.graphs]
    manifest = manifest.model_copy(update={"graphs": graphs})
    row = device()
    with temporary_backends(row):
        added = add_configurations(manifest)
        (untried,) = [one for one in added.configurations if is_untried(one)]

        def make_runner(one):
            make = OnnxRuntimeRunner if one.backend == "onnxruntime" else row.runner
            path = bundle / added.graph(one.graph).onnx.file
            return make(path, added.image, name=one.name, precision=one.precision)

        found = compare_here([untried], added, make_runner, (32, 48))
    assert found["toy-gpu:fp32"].drop_db == pytest.approx(0.25)


# Several backends, with commas


def test_the_first_backend_that_opens_is_taken_and_the_others_are_told(
    bundle, caplog, monkeypatch, cache
):
    with temporary_backends(device(fails=True)):
        with caplog.at_level(logging.WARNING, logger="mirnet_edge"):
            runner = open_bundle(bundle, "toy-gpu,onnxruntime")
        assert runner.name == "onnxruntime:fp32"
        assert "toy-gpu is not used: " in caplog.text
    assert not list(cache.rglob("*.json"))  # another time it may open
    monkeypatch.setattr(machine_latency, "_measured", {})
    with temporary_backends(device()):
        assert open_bundle(bundle, "toy-gpu,onnxruntime").name == "toy-gpu:fp32"


def test_a_name_among_several_that_is_none_is_refused_before_anything_opens(bundle):
    with pytest.raises(OptionError, match="found 'cuda'"):
        open_bundle(bundle, "onnxruntime,cuda")


def test_the_scene_is_dark_and_of_many_colors():
    scene = make_scene((33, 47))
    assert (scene.shape, scene.dtype) == ((1, 33, 47, 3), np.uint8)
    assert scene.mean() < 80
    assert len(np.unique(scene.reshape(-1, 3), axis=0)) > 500
