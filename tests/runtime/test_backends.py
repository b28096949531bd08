"""The registry of backends: every user of it reads the same rows, and one row adds a backend."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.bench.entries import bundle_entries
from mirnet_edge.devices import choose_devices
from mirnet_edge.doctor import examine
from mirnet_edge.errors import BundleError, MissingDependencyError, OptionError
from mirnet_edge.manifest import ImageContract, RejectionReason, read_manifest
from mirnet_edge.planning import plan_network
from mirnet_edge.runtime import onnxruntime_runner, openvino_runner
from mirnet_edge.runtime.backends import (
    Backend,
    all_backends,
    backend_names,
    find_backend,
    markdown_table,
    preferred_backend,
    register_backend,
    temporary_backends,
)
from mirnet_edge.runtime.bundle import choose_configuration, fitting_configurations, open_bundle
from mirnet_edge.runtime.runner import GraphRunner
from mirnet_edge.runtime.tensorrt import runner as tensorrt_runner

ROOT = Path(__file__).parents[2]
_BUILT_IN = (
    "onnxruntime", "openvino", "torch", "tensorrt", "litert", "openvino-gpu",
    "openvino-npu", "openvino-auto", "onnxruntime-cuda", "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx", "onnxruntime-openvino", "onnxruntime-directml",
    "onnxruntime-webgpu", "onnxruntime-coreml", "onnxruntime-migraphx", "onnxruntime-rocm",
    "onnxruntime-xnnpack",
)  # fmt: skip


class ToyRunner(GraphRunner):
    """A graph that is not run: numpy gives back what goes in."""

    def _load(self):
        self.path.read_bytes()

    def _infer(self, fed):
        return fed.copy()

    def _close(self):
        """Free nothing."""


TOY = Backend(
    name="toy",
    title="Toy",
    packages=("numpy",),
    extra=None,
    device="cpu",
    provider="numpy",
    precisions=("fp32", "int8"),
    auto_reason="never",
    auto_rank=-1,
    runner=ToyRunner,
)


@pytest.fixture
def toy():
    with temporary_backends(TOY):
        yield TOY


# One row is enough


def test_one_row_takes_a_backend_from_export_to_doctor(toy, network_of, smooth_frames, tmp_path):
    from mirnet_edge import checkpoints
    from mirnet_edge.checkpoints import ModelCard
    from mirnet_edge.export.job import export_bundle
    from mirnet_edge.export.workspace import ExportOptions

    weights, images = tmp_path / "small.safetensors", tmp_path / "images"
    images.mkdir()
    checkpoints.save(network_of("edge"), weights, ModelCard(task="low-light"))
    for place, frame in enumerate(smooth_frames(32, 48, 8)):
        Image.fromarray(frame).save(images / f"{place}.png")
    options = ExportOptions(
        weights=str(weights), out=tmp_path / "bundle", int8=True, target="cpu", size=(32, 48),
        calibration=images,
    )  # fmt: skip
    exported = export_bundle(options)

    # the quality gate measured it
    found = {one.name: one for one in exported.manifest.configurations}
    assert found["toy:fp32"].rejection.reason is RejectionReason.QUALITY  # it restores nothing
    assert found["toy:fp32"].latency.ratio_to_fp32 == pytest.approx(1.0)
    assert found["toy:int8"].latency is not None
    assert found["toy:int8"].against_fp32.mean_db == found["toy:fp32"].against_fp32.mean_db < 60.0
    assert not {"toy:bf16", "toy:int8+bf16"} & set(found)

    frame = np.arange(32 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 32, 48, 3)
    with open_bundle(exported.bundle, "toy", "fp32") as runner:
        assert isinstance(runner, ToyRunner)
        np.testing.assert_array_equal(runner.run(frame), frame)

    (entry, row), *_ = bundle_entries([exported.bundle], backends=["toy"])
    assert (row.backend, row.state) == ("toy", "measured")
    with entry.runner() as runner:
        np.testing.assert_array_equal(runner.run(frame), frame)

    (finding,) = [one for one in examine() if one.subject == "Toy"]
    assert (finding.state, finding.found) == ("ok", f"{np.__version__}, fp32, int8")
    assert "| `toy` | Toy | CPU (`numpy`) | fp32, int8 |" in markdown_table()


def test_a_backend_of_the_highest_rank_is_chosen_before_the_default(make_bundle, make_mode):
    modes = [
        make_mode("onnxruntime:fp32", p50_ms=1.0),
        make_mode("toy:int8"),
        make_mode("toy:fp32"),
    ]
    manifest = read_manifest(make_bundle(modes=modes))
    with temporary_backends(TOY):
        assert choose_configuration(manifest).name == "onnxruntime:fp32"
    with temporary_backends(replace(TOY, auto_rank=2)):
        assert choose_configuration(manifest).name == "toy:fp32"  # its preferred precision
    with temporary_backends(replace(TOY, auto_rank=2, precisions=("int8", "fp32"))):
        assert choose_configuration(manifest).name == "toy:int8"


def test_why_a_backend_of_a_higher_rank_is_not_chosen_is_logged(make_bundle, make_mode, caplog):
    modes = [make_mode("onnxruntime:fp32", p50_ms=1.0), make_mode("toy:fp32", p50_ms=1.0)]
    manifest = read_manifest(make_bundle(modes=modes))
    absent = replace(TOY, auto_rank=2, packages=("mirnet_test_nowhere",))
    with temporary_backends(absent), caplog.at_level(logging.INFO, logger="mirnet_edge"):
        assert choose_configuration(manifest).name == "onnxruntime:fp32"
    (record,) = caplog.records
    assert record.getMessage() == (
        "toy:fp32 is not chosen: toy is not installed: pip install mirnet_test_nowhere"
    )


# Manifests that name a backend without a row


def test_a_bundle_that_names_an_unknown_backend_opens_with_those_that_are_known(
    make_bundle, make_mode
):
    folder = make_bundle(modes=[make_mode("toy:fp32", p50_ms=0.1), make_mode("onnxruntime:fp32")])
    assert open_bundle(folder).name == "onnxruntime:fp32"
    manifest = read_manifest(folder)
    assert [one.name for one in fitting_configurations(manifest)] == ["onnxruntime:fp32"]


def test_a_bundle_of_unknown_backends_says_which_are_known_and_what_to_install(
    make_bundle, make_mode
):
    folder = make_bundle(modes=[make_mode("toy:fp32")])
    says = (
        rf"toy:fp32: expected one of the backends {', '.join(_BUILT_IN)}, found "
        r"'toy': install the mirnet-edge that made the bundle \(pip install mirnet-edge\), or add "
        r"the backend with mirnet_edge\.runtime\.backends\.register_backend"
    )
    with pytest.raises(BundleError, match=says):
        open_bundle(folder)
    (_, row), *_ = bundle_entries([folder])
    assert row.backend == "toy"


def test_a_backend_that_is_no_name_is_refused_with_the_manifest(make_bundle):
    folder = make_bundle()
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"backend": "onnxruntime"', '"backend": "a b"'))
    with pytest.raises(BundleError, match=r"configurations\.0\.backend: String should match"):
        read_manifest(folder)


def test_an_unknown_backend_option_is_answered_with_the_nearest_name(make_bundle):
    says = re.escape(
        f"--backend must be auto or one of {', '.join(_BUILT_IN)}, found "
        "'onnxruntme'; did you mean onnxruntime?"
    )
    folder = make_bundle()
    with pytest.raises(OptionError, match=says):
        open_bundle(folder, "onnxruntme")
    with pytest.raises(OptionError, match=says):
        bundle_entries([folder], backends=["onnxruntme"])


# The rows


@pytest.mark.parametrize("name", _BUILT_IN)
def test_a_row_stands_under_its_own_name(name):
    assert find_backend(name).name == name


def test_names_and_rows_are_in_one_order_and_onnxruntime_is_the_reference():
    assert backend_names() == _BUILT_IN
    assert [one.name for one in all_backends()] == list(_BUILT_IN)
    assert all_backends()[0] is onnxruntime_runner.BACKEND


@pytest.mark.parametrize("name", _BUILT_IN)
def test_the_extra_of_a_row_exists(name):
    backend = find_backend(name)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = rf"^{backend.extra} = \[" if backend.extra else rf'^  "{backend.packages[0]}>='
    assert re.search(line, project, re.MULTILINE)


@pytest.mark.parametrize("name", ["restore", "live"])
def test_the_help_of_a_command_names_every_backend(name, capsys, monkeypatch):
    from importlib import import_module

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        import_module(f"mirnet_edge.cli.{name}").main(["--help"])
    assert "auto, onnxruntime, openvino, torch, tensorrt" in capsys.readouterr().out


def test_the_readme_shows_the_registry():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- backends -->\n(.*?)\n<!-- /backends -->", readme, re.DOTALL)
    assert shown == markdown_table()


def test_a_row_without_fp32_is_refused():
    with pytest.raises(OptionError, match=r"toy must compute fp32.*found int8; add it"):
        replace(TOY, precisions=("int8",))


def test_rows_of_a_with_block_are_gone_after_it_and_replace_those_of_their_name():
    bare = replace(openvino_runner.BACKEND, precisions=("fp32",), supports_here=lambda _: True)
    with temporary_backends(TOY, bare):
        assert backend_names() == (*_BUILT_IN, "toy")
        assert find_backend("openvino") is bare
        register_backend(replace(TOY, name="other"))
        assert "other" in backend_names()
    assert backend_names() == _BUILT_IN
    assert find_backend("openvino") is openvino_runner.BACKEND


def test_a_row_tells_what_it_supports():
    row = replace(TOY, supports_here=lambda precision: precision != "int8")
    assert row.supports("fp32")
    assert not row.supports("int8")  # not on this machine
    assert not row.supports("bf16")  # on none


# mirnet-doctor and mirnet-plan


def test_doctor_tells_every_backend():
    subjects = [one.subject for one in examine()]
    assert [one for one in subjects if one in {row.title for row in all_backends()}] == [
        row.title for row in all_backends() if row.exists_here
    ]


@pytest.mark.parametrize(
    ("name", "state", "says"),
    [
        ("openvino", "note", 'not installed: pip install "mirnet-edge[cpu]"'),
        ("onnxruntime", "missing", "not installed: pip install onnxruntime"),
    ],
)
def test_doctor_says_how_to_install_a_backend(name, state, says, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    check = find_backend(name).check()
    assert check.state == state
    assert says in check.found


def test_doctor_tells_a_package_that_is_there_and_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "mirnet_test_broken.py").write_text("raise OSError('libcuda.so.1: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    row = replace(TOY, packages=("mirnet_test_broken",), extra="cpu")
    check = row.check()
    assert check.state == "missing"
    assert "installed but cannot be loaded: libcuda.so.1" in check.found
    with pytest.raises(MissingDependencyError):
        row.require()


def test_plan_predicts_first_in_the_precision_that_the_preferred_backend_prefers(monkeypatch):
    assert preferred_backend("gpu") is tensorrt_runner.BACKEND
    devices = choose_devices(["l4", "x86-avx2"])
    (plan,) = plan_network("shipped:low-light", devices, [(64, 64)], 1.0)
    gpu, cpu = plan.devices
    assert (gpu.best.precision, cpu.best.precision) == ("fp16", "fp32")
    with temporary_backends(replace(TOY, device="gpu", auto_rank=2)):
        (plan,) = plan_network("shipped:low-light", devices[:1], [(64, 64)], 1.0)
        (gpu,) = plan.devices
    assert gpu.best.precision == "fp32"


def test_a_toy_takes_what_graphs_take(frames_of, tmp_path):
    file = tmp_path / "any"
    file.write_bytes(b"")
    image = ImageContract(io="float", multiple=4, size=None)
    frames = frames_of(5, 7)
    with ToyRunner(file, image, name="toy:fp32", precision="fp32") as runner:
        np.testing.assert_array_equal(runner.run(frames), frames)
