"""The engines of a bundle: built, told apart from those of elsewhere, taken when it is opened."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest

import mirnet_edge
from mirnet_edge.errors import BundleError, EngineError, OptionError
from mirnet_edge.manifest import FILE_NAME, EngineFacts, ImageContract, bind, read_manifest
from mirnet_edge.runtime.tensorrt import bundle_engines, cuda, library
from mirnet_edge.runtime.tensorrt.build import OptimizationProfile, profiles_for, sizes_from_text
from mirnet_edge.testing.fake_tensorrt import FakeCudart, FakeTensorRT, fake_engine

_PROFILE = OptimizationProfile((1, 4, 4, 3), (1, 16, 16, 3), (1, 64, 64, 3))


@pytest.fixture
def bundle(make_bundle, make_mode):
    """Return a bundle with a TensorRT mode, and no engine yet."""
    folder = make_bundle(
        modes=[make_mode("onnxruntime:fp32", p50_ms=1.0), make_mode("tensorrt:fp32")]
    )
    path = folder / FILE_NAME
    document = json.loads(path.read_text())
    document["graphs"][0]["targets"] = ["cpu", "tensorrt"]
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture
def built(bundle, monkeypatch):
    """Have engines of the fake built: built(version="10.3.0") → told lines; on `gpu`."""
    orders = []

    def build(order, on_stage, **facts):
        orders.append(order)
        documents = [profile.to_document() for profile in order.profiles]
        order.plan.write_bytes(fake_engine(documents))
        return EngineFacts(**{
            "plan": bind(order.plan), "graph": order.graph, "flavor": "tensorrt",
            "version": "10.3.0", "profiles": documents, "device": "Fake GPU",
            "capabilities": ["8.6"],
            "onnx_sha256": read_manifest(bundle).graph(order.graph).onnx.sha256, **facts,
        })  # fmt: skip

    def made(**facts):
        monkeypatch.setattr(bundle_engines, "build_apart", lambda *given: build(*given, **facts))
        bundle_engines.build_engines(bundle)
        monkeypatch.setattr(bundle_engines, "build_apart", build)
        return orders

    return made


@pytest.fixture
def gpu(monkeypatch):
    cudart = FakeCudart()
    trt = FakeTensorRT(cudart)
    monkeypatch.setattr(cuda, "_runtime", lambda: cudart)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return cudart


def test_an_engine_is_bound_in_the_manifest_and_replaces_the_former(bundle, built):
    built()
    first = read_manifest(bundle).engines
    built()
    assert [one.graph for one in first] == ["fp32"]
    assert read_manifest(bundle).engines == first


def test_sizes_become_static_profiles_and_stay_for_the_next_build(bundle, built):
    orders = built()
    bundle_engines.build_engines(bundle, sizes=[(30, 40), (31, 40), (60, 80)])
    assert [one.maximum for one in orders[-1].profiles] == [(1, 32, 40, 3), (1, 60, 80, 3)]
    assert all(one.is_static for one in orders[-1].profiles)
    bundle_engines.build_engines(bundle)
    assert orders[-1].profiles == orders[-2].profiles


def test_the_timing_cache_is_bound_to_where_it_was_made(bundle, built):
    cache = bundle / bundle_engines.TIMING_CACHE
    orders = built()
    assert read_manifest(bundle).timing_cache is None  # the build left none
    cache.write_bytes(b"timed")
    bundle_engines.build_engines(bundle)
    assert orders[-1].cache_origin is None  # and this one was nobody's
    kept = read_manifest(bundle).timing_cache
    assert kept.cache == bind(cache)
    assert kept.origin == "TensorRT 10.3.0 on Fake GPU (8.6)"
    bundle_engines.build_engines(bundle)
    assert orders[-1].timing_cache == cache
    assert orders[-1].cache_origin == kept.origin
    cache.write_bytes(b"changed")
    bundle_engines.build_engines(bundle)
    assert orders[-1].cache_origin is None


def test_a_build_by_rtx_leaves_the_cache_of_tensorrt_alone(bundle, built):
    (bundle / bundle_engines.TIMING_CACHE).write_bytes(b"timed")
    built()
    before = read_manifest(bundle).timing_cache
    built(flavor="tensorrt_rtx", version="1.7.1")
    assert read_manifest(bundle).timing_cache == before is not None


def test_a_changed_graph_is_not_built(bundle):
    (bundle / "fp32.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"fp32\.onnx has changed"):
        bundle_engines.build_engines(bundle)


def test_a_bundle_without_graphs_for_tensorrt_says_so(make_bundle):
    folder = make_bundle()
    with pytest.raises(BundleError, match="found none in the bundle"):
        bundle_engines.build_engines(folder)
    with pytest.raises(BundleError, match="found fp32 in the bundle"):
        bundle_engines.build_engines(folder, graphs=["fp32"])


def test_a_build_that_fails_leaves_the_bundle_usable_on_the_processor(
    bundle, built, monkeypatch, frames_of
):
    built()
    before = (bundle / FILE_NAME).read_bytes()

    def fail(*given):
        raise EngineError("no")

    monkeypatch.setattr(bundle_engines, "build_apart", fail)
    with pytest.raises(EngineError):
        bundle_engines.build_engines(bundle)
    assert (bundle / FILE_NAME).read_bytes() == before
    with mirnet_edge.open_bundle(bundle, "onnxruntime") as runner:
        assert runner.run(frames_of(8, 8)).shape == (1, 8, 8, 3)


@pytest.mark.usefixtures("gpu")
def test_a_bundle_takes_tensorrt_where_a_gpu_is(bundle, built, frames_of):
    built()
    frames = frames_of(64, 68)
    with mirnet_edge.open_bundle(bundle) as runner:
        assert runner.name == "tensorrt:fp32"
        assert np.array_equal(runner.run(frames), 255 - frames)


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_without_a_gpu_it_says_why_in_one_line(backend, bundle, built, monkeypatch, caplog):
    built()
    monkeypatch.setattr(cuda, "_runtime", lambda: FakeCudart(status=100))
    reason = "no CUDA-capable device is detected"
    if backend == "tensorrt":
        with pytest.raises(BundleError, match=reason):
            mirnet_edge.open_bundle(bundle, backend)
        return
    with caplog.at_level(logging.INFO, "mirnet_edge"):
        assert mirnet_edge.open_bundle(bundle).name == "onnxruntime:fp32"
    assert any(reason in record.getMessage() for record in caplog.records)


@pytest.mark.usefixtures("gpu")
def test_libraries_that_are_broken_are_named(bundle, built, monkeypatch, tmp_path):
    built()
    site = tmp_path / "site"
    site.mkdir()
    (site / "tensorrt.py").write_text("raise OSError('libnvdla_compiler.so: no such file')")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(BundleError, match=r"libnvdla_compiler\.so: no such file"):
        mirnet_edge.open_bundle(bundle, "tensorrt")


@pytest.mark.usefixtures("gpu")
def test_an_engine_from_elsewhere_is_named_and_the_processor_taken(bundle, built, caplog):
    built(version="8.6.1", device="Orin", capabilities=["8.7"])
    with caplog.at_level(logging.INFO, "mirnet_edge"):
        assert mirnet_edge.open_bundle(bundle).name == "onnxruntime:fp32"
    (line,) = [text for text in caplog.messages if text.startswith("tensorrt:fp32")]
    assert "tensorrt 8.6.1, here tensorrt 10.3.0" in line
    assert "8.7, here 8.6" in line
    assert "Orin, here Fake GPU" in line


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("asked", [True, None], ids=["when asked", "on a device"])
def test_an_engine_from_elsewhere_is_built_anew(
    asked, bundle, built, monkeypatch, tmp_path, caplog
):
    orders = built(version="8.6.1")
    board = tmp_path / "model"
    board.write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    monkeypatch.setattr(library, "_BOARD_FILE", board)
    with mirnet_edge.open_bundle(bundle, rebuild=asked) as runner:
        assert runner.name == "tensorrt:fp32"
    assert len(orders) == 2
    assert "8.6.1, here tensorrt 10.3.0" in caplog.text
    mirnet_edge.open_bundle(bundle, rebuild=asked)
    assert len(orders) == 2  # now it fits


@pytest.mark.usefixtures("gpu")
def test_a_rebuild_that_fails_leaves_the_processor(bundle, built, monkeypatch, caplog):
    built(version="8.6.1")

    def fail(*given):
        raise EngineError("out of memory")

    monkeypatch.setattr(bundle_engines, "build_apart", fail)
    assert mirnet_edge.open_bundle(bundle, rebuild=True).name == "onnxruntime:fp32"
    assert "the engines could not be built here: out of memory" in caplog.text
    with pytest.raises(EngineError, match="out of memory"):
        mirnet_edge.open_bundle(bundle, "tensorrt", rebuild=True)


def test_an_engine_of_a_former_manifest_is_read_and_is_a_misfit(bundle, built, gpu):
    built()
    path = bundle / FILE_NAME
    document = json.loads(path.read_text())
    engine = document["engines"][0]
    kept = {name: engine[name] for name in ("plan", "graph", "flavor", "version")}
    document["engines"] = [{**kept, "profile": engine["profiles"][0]}]
    path.write_text(json.dumps(document))
    (read,) = read_manifest(bundle).engines
    assert len(read.profiles) == 1
    host = library.describe_host(FakeTensorRT(gpu), cuda.Cuda().gpu())
    differing = library.find_differences(read, read_manifest(bundle).graph("fp32"), host)
    assert any("sha256: unknown" in one for one in differing)


@pytest.mark.parametrize("size", [None, (32, 48)])
def test_profiles_follow_the_graph(size):
    image = ImageContract(io="uint8", multiple=8, size=size)
    (profile,) = profiles_for(image)
    assert profile.is_static == (size is not None)
    assert profile.holds((1, *(size or (480, 640)), 3))
    if size:
        with pytest.raises(OptionError, match=r"takes 48x32 only.*--dynamic"):
            profiles_for(image, [(360, 640)])


def test_sizes_are_written_as_people_write_them():
    assert sizes_from_text("640x360, 1280x720") == ((360, 640), (720, 1280))
    assert len(sizes_from_text("ladder")) == 3
    for text in ("", "640", "0x4", "640x360,"):
        with pytest.raises(OptionError, match="WIDTHxHEIGHT"):
            sizes_from_text(text)
