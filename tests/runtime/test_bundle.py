"""Opening a bundle: which mode is taken, and what is said where none can be."""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from mirnet_edge.errors import BundleError, ImageError, OptionError
from mirnet_edge.manifest import FILE_NAME, read_manifest
from mirnet_edge.runtime import openvino_runner
from mirnet_edge.runtime.backends import temporary_backends
from mirnet_edge.runtime.bundle import choose_configuration, open_bundle


@dataclass(frozen=True)
class M:
    """A mode of a bundle, as the cases below write it."""

    name: str
    p50_ms: float | None = None
    accepted: bool = True


@pytest.fixture
def manifest_of(make_bundle, make_mode):
    def make(modes, **options):
        modes = [
            make_mode(mode.name, p50_ms=mode.p50_ms, accepted=mode.accepted, reason="0.3 dB lost")
            for mode in modes
        ]
        return read_manifest(make_bundle(modes=modes, **options))

    return make


@pytest.fixture
def without(monkeypatch):
    """Make a package look as if it were not installed."""

    def hide(name):
        monkeypatch.setitem(sys.modules, name, None)

    return hide


@dataclass(frozen=True)
class Chosen:
    id: str
    modes: list[M]
    takes: str
    asked: dict = field(default_factory=dict)
    default: str = "onnxruntime:fp32"


@pytest.mark.parametrize(
    "case",
    [
        Chosen(
            "the default, even where another is faster",
            [M("openvino:fp32", 1.0), M("onnxruntime:fp32", 5.0)],
            "onnxruntime:fp32",
        ),
        Chosen(
            "the fastest where the default is not there",
            [M("openvino:fp32", 2.0), M("onnxruntime:fp32", 5.0), M("onnxruntime:int8", 1.0)],
            "onnxruntime:int8",
            default="tensorrt:fp16",
        ),
        Chosen(
            "the fastest where the default was not accepted",
            [M("onnxruntime:int8", 1.0, accepted=False), M("onnxruntime:fp32", 5.0)],
            "onnxruntime:fp32",
            default="onnxruntime:int8",
        ),
        Chosen(
            "the fastest of a backend, not the default",
            [M("onnxruntime:fp32", 5.0), M("onnxruntime:int8", 2.0), M("openvino:fp32", 1.0)],
            "onnxruntime:int8",
            asked={"backend": "onnxruntime"},
        ),
        Chosen(
            "the fastest of a precision",
            [M("onnxruntime:fp32", 5.0), M("onnxruntime:int8", 2.0), M("openvino:int8", 1.0)],
            "openvino:int8",
            asked={"precision": "int8"},
        ),
        Chosen(
            "an accepted one before a faster one that was not",
            [M("openvino:int8", 1.0, accepted=False), M("onnxruntime:int8", 2.0)],
            "onnxruntime:int8",
            asked={"precision": "int8"},
        ),
        Chosen(
            "one that was timed before one that was not",
            [M("openvino:int8"), M("onnxruntime:int8", 9.0)],
            "onnxruntime:int8",
            asked={"precision": "int8"},
        ),
        Chosen(
            "one that was not timed, if it is the only one",
            [M("onnxruntime:fp32", 5.0), M("openvino:int8")],
            "openvino:int8",
            asked={"precision": "int8"},
        ),
        Chosen(
            "a rejected one by name",
            [M("onnxruntime:fp32", 5.0), M("onnxruntime:int8", 2.0, accepted=False)],
            "onnxruntime:int8",
            asked={"precision": "int8"},
        ),
        Chosen(
            "never a rejected one by its backend alone",
            [M("onnxruntime:fp32", 5.0), M("onnxruntime:int8", 2.0, accepted=False)],
            "onnxruntime:fp32",
            asked={"backend": "onnxruntime"},
        ),
        Chosen(
            "never tensorrt",
            [M("tensorrt:fp16", 0.1), M("onnxruntime:fp16", 9.0)],
            "onnxruntime:fp16",
            asked={"precision": "fp16"},
        ),
    ],
    ids=lambda case: case.id,
)
def test_the_mode_taken_is(case, manifest_of):
    manifest = manifest_of(case.modes, default=case.default)
    assert choose_configuration(manifest, **case.asked).name == case.takes


def test_a_backend_that_is_not_installed_is_passed_over(manifest_of, without):
    manifest = manifest_of(
        [M("openvino:fp32", 1.0), M("onnxruntime:fp32", 5.0)], default="openvino:fp32"
    )
    assert choose_configuration(manifest).name == "openvino:fp32"
    without("openvino")
    assert choose_configuration(manifest).name == "onnxruntime:fp32"


def test_a_precision_this_processor_lacks_is_passed_over(manifest_of):
    manifest = manifest_of(
        [M("openvino:bf16", 1.0), M("openvino:fp32", 5.0)], default="openvino:bf16"
    )
    row = replace(openvino_runner.BACKEND, supports_here=lambda precision: precision != "bf16")
    with temporary_backends(row):
        assert choose_configuration(manifest).name == "openvino:fp32"
        with pytest.raises(BundleError, match="this processor has no bf16 in openvino"):
            choose_configuration(manifest, precision="bf16")


@dataclass(frozen=True)
class Refused:
    id: str
    modes: list[M]
    asked: dict
    says: list[str]
    kind: type[Exception] = BundleError
    kept: bool = True
    hidden: str | None = None


@pytest.mark.parametrize(
    "case",
    [
        Refused(
            "no such backend",
            [M("onnxruntime:fp32")],
            {"backend": "onnx"},
            ["--backend must be auto or one of onnxruntime, openvino, torch", "found 'onnx'"],
            kind=OptionError,
        ),
        Refused(
            "no such precision",
            [M("onnxruntime:fp32")],
            {"precision": "int4"},
            ["--precision must be auto or one of fp32, bf16", "found 'int4'"],
            kind=OptionError,
        ),
        Refused(
            "tensorrt",
            [M("tensorrt:fp16")],
            {"backend": "tensorrt"},
            ["tensorrt:fp16: the bundle has no engine of fp32", "mirnet-engine BUNDLE"],
        ),
        Refused(
            "tensorrt alone",
            [M("tensorrt:fp16")],
            {},
            ["tensorrt:fp16: the bundle has no engine of fp32", "export again"],
        ),
        Refused(
            "a pair that was never made",
            [M("onnxruntime:fp32"), M("openvino:int8")],
            {"backend": "onnxruntime", "precision": "int8"},
            [
                "no configuration for backend onnxruntime, precision int8",
                "it has onnxruntime:fp32, openvino:int8",
                "Choose one, or export again",
            ],
        ),
        Refused(
            "nothing accepted",
            [M("onnxruntime:int8", 1.0, accepted=False)],
            {},
            [
                "no configuration of the bundle runs here for backend auto, precision auto",
                "onnxruntime:int8: not accepted (0.3 dB lost)",
                "ask for it with --precision int8",
            ],
        ),
        Refused(
            "graph not kept",
            [M("onnxruntime:int8", 1.0, accepted=False)],
            {"precision": "int8"},
            ["onnxruntime:int8: its graph was not kept (0.3 dB lost)", "export again"],
            kept=False,
        ),
        Refused(
            "not installed",
            [M("onnxruntime:fp32"), M("openvino:fp32")],
            {"backend": "openvino"},
            ["openvino is not installed", 'pip install "mirnet-edge[cpu]"'],
            hidden="openvino",
        ),
        Refused(
            "torch not installed",
            [M("torch:fp32")],
            {"backend": "torch"},
            ["torch is not installed", 'pip install "mirnet-edge[export]"'],
            hidden="torch",
        ),
        Refused(
            "torch in int8",
            [M("torch:int8")],
            {},
            ["torch:int8: this processor has no int8 in torch"],
        ),
        Refused(
            "every one for its own reason",
            [M("openvino:int8"), M("onnxruntime:int8", accepted=False)],
            {},
            ["openvino:int8: openvino is not installed", "; onnxruntime:int8: not accepted"],
            hidden="openvino",
        ),
    ],
    ids=lambda case: case.id,
)
def test_where_nothing_fits_every_reason_is_told(case, manifest_of, without):
    manifest = manifest_of(case.modes, kept=case.kept)
    if case.hidden:
        without(case.hidden)
    with pytest.raises(case.kind) as raised:
        choose_configuration(manifest, **case.asked)
    for part in case.says:
        assert part in str(raised.value)


def test_torch_needs_no_graph(manifest_of):
    manifest = manifest_of([M("onnxruntime:fp32", 1.0), M("torch:fp32", 9.0)], kept=False)
    assert choose_configuration(manifest).name == "torch:fp32"


def test_a_mode_of_a_graph_that_is_not_there_is_an_error(make_bundle, make_mode):
    folder = make_bundle(modes=[make_mode("onnxruntime:int8", graph="int8-cpu")])
    with pytest.raises(BundleError, match=r"no graph 'int8-cpu'; it has fp32\. Export again"):
        open_bundle(folder)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("io", ["uint8", "float"])
def test_what_is_opened_restores_frames(backend, io, make_bundle, make_mode, frames_of):
    folder = make_bundle(modes=[make_mode(f"{backend}:fp32")], io=io)
    frames = frames_of(6, 9)  # sides that need padding
    with open_bundle(folder, threads=1) as runner:
        restored = runner.run(frames)
    assert runner.name == f"{backend}:fp32"
    assert runner.multiple == 4
    brighter = np.rint(np.minimum(frames * 1.5, 255))
    assert np.abs(restored - brighter).max() <= 1


def test_a_path_may_be_text_and_nothing_is_loaded_before_it_is_entered(make_bundle, make_mode):
    # its weights are none, which only opening would find
    folder = make_bundle(modes=[make_mode("torch:fp32")])
    runner = open_bundle(str(folder))
    assert runner.name == "torch:fp32"
    assert runner.path == folder / "weights.safetensors"


@pytest.mark.parametrize("name", ["onnxruntime:int8", "openvino:bf16", "torch:fp16"])
def test_the_runner_computes_as_its_mode_says_with_the_threads_asked_for(
    name, make_bundle, make_mode
):
    backend, _, precision = name.partition(":")
    with temporary_backends(replace(openvino_runner.BACKEND, supports_here=lambda _: True)):
        runner = open_bundle(make_bundle(modes=[make_mode(name)]), backend, precision, threads=3)
    assert (runner.name, runner.precision, runner.threads) == (name, precision, 3)


def test_a_rejected_mode_is_taken_by_name_with_a_warning(make_bundle, make_mode, caplog):
    rejected = make_mode("onnxruntime:int8", accepted=False, reason="rejected: 0.3 dB lost")
    folder = make_bundle(modes=[make_mode("onnxruntime:fp32"), rejected])
    with caplog.at_level(logging.WARNING, logger="mirnet_edge"):
        assert open_bundle(folder).name == "onnxruntime:fp32"
        assert not caplog.records
        assert open_bundle(folder, precision="int8").name == "onnxruntime:int8"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "onnxruntime:int8 was not accepted by the quality gate: rejected: 0.3 dB lost"
    )


def test_a_changed_graph_is_refused_before_any_backend_sees_it(make_bundle):
    folder = make_bundle()
    graph = folder / "fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError) as raised:
        open_bundle(folder)
    says = r"fp32\.onnx has changed since the export: sha256 (\w{12}) instead of (\w{12})\. Export"
    found, expected = re.search(says, str(raised.value)).groups()
    assert found != expected


def test_changed_weights_matter_to_torch_alone(make_bundle, make_mode):
    folder = make_bundle(modes=[make_mode("onnxruntime:fp32"), make_mode("torch:fp32")])
    (folder / "weights.safetensors").write_bytes(b"other weights")
    open_bundle(folder)
    with pytest.raises(BundleError, match=r"weights\.safetensors has changed since the export"):
        open_bundle(folder, "torch")


def test_a_missing_graph_is_named(make_bundle):
    folder = make_bundle()
    (folder / "fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"fp32\.onnx is missing though the manifest names it"):
        open_bundle(folder)


def test_a_newer_schema_says_both_versions(make_bundle):
    folder = make_bundle()
    text = (folder / FILE_NAME).read_text()
    (folder / FILE_NAME).write_text(text.replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(BundleError, match=r"schema version 3; this program reads 1 and 2\. Export"):
        open_bundle(folder)


def test_what_is_no_bundle_is_told_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match=r"not a bundle: expected a folder with manifest\.json"):
        open_bundle(tmp_path / "nowhere")


def test_no_thread_is_refused(make_bundle):
    with pytest.raises(OptionError, match="--threads must be at least 1, found 0; leave it out"):
        open_bundle(make_bundle(), threads=0)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_fixed_size_takes_what_pads_to_it_and_no_other(
    backend, make_bundle, make_mode, frames_of
):
    folder = make_bundle(modes=[make_mode(f"{backend}:fp32")], size=(8, 12))
    with open_bundle(folder) as runner:
        for height, width in ((8, 12), (5, 9)):
            assert runner.run(frames_of(height, width)).shape == (1, height, width, 3)
        for height, width in ((4, 12), (9, 12), (12, 8)):
            says = f"frame is {width}x{height}; fp32.onnx was exported for 12x8: export again"
            with pytest.raises(ImageError, match=f"{says} with --size {width}x{height}, or with"):
                runner.run(frames_of(height, width))


# what comes out is larger


@pytest.mark.parametrize("io", ["uint8", "float"])
def test_a_bundle_that_enlarges_opens_with_its_scale(io, make_bundle, frames_of):
    frames = frames_of(5, 7, 2)
    with open_bundle(make_bundle(io=io, scale=2)) as runner:
        assert runner.scale == 2
        restored = runner.run(frames)
    bright = np.rint(np.minimum(frames * 1.5, 255)).repeat(2, 1).repeat(2, 2)
    assert np.abs(restored - bright).max() <= 1


def test_a_bundle_from_before_there_was_a_scale_keeps_sizes(make_bundle, frames_of):
    folder = make_bundle()
    document = json.loads((folder / FILE_NAME).read_text())
    assert document["image"].pop("scale") == 1
    (folder / FILE_NAME).write_text(json.dumps(document))
    with open_bundle(folder) as runner:
        assert runner.scale == 1
        assert runner.run(frames_of(5, 7)).shape == (1, 5, 7, 3)


@pytest.mark.parametrize("scale", [0, -2, 1.5, "twice"])
def test_a_scale_that_is_none_is_refused(scale, make_bundle):
    folder = make_bundle()
    document = json.loads((folder / FILE_NAME).read_text())
    document["image"]["scale"] = scale
    (folder / FILE_NAME).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"image\.scale: .*export the bundle again"):
        open_bundle(folder)
