"""Bundles of shipped weights: exported once, into the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirnet_edge.errors import MissingDependencyError
from mirnet_edge.export import shipped


@pytest.fixture
def exports(monkeypatch, make_bundle):
    """Return the requested exports; each writes a small bundle."""
    exports = []

    def export(options, on_stage):
        exports.append(options)
        on_stage("export")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        make_bundle().rename(options.out)

    monkeypatch.setattr("mirnet_edge.export.job.export_bundle", export)
    return exports


def test_a_shipped_bundle_is_exported_once(tmp_path, exports):
    stages = []
    first = shipped.shipped_bundle(cache=tmp_path / "cache", on_stage=stages.append)
    again = shipped.shipped_bundle(cache=tmp_path / "cache", on_stage=stages.append)
    assert first == again
    assert len(exports) == 1
    assert exports[0].weights == "shipped:low-light"
    assert exports[0].anchored
    assert stages == [f"exporting a bundle of shipped:low-light to {first}, once", "export"]


def test_a_shipped_bundle_has_int8_once_nncf_is_installed(tmp_path, monkeypatch, exports):
    installed = {"torch", "onnx"}
    monkeypatch.setattr(shipped, "available", lambda name: name in installed)
    without = shipped.shipped_bundle(cache=tmp_path)
    installed.add("nncf")
    assert shipped.shipped_bundle(cache=tmp_path) != without
    assert [options.int8 for options in exports] == [False, True]


def test_a_missing_export_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "available", lambda name: False)
    with pytest.raises(MissingDependencyError, match=r'--bundle DIR .* "mirnet-edge\[export\]"'):
        shipped.shipped_bundle(cache=tmp_path)


def test_a_bundle_is_a_folder_or_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(
        shipped, "shipped_bundle", lambda weights, on_stage: tmp_path / weights.partition(":")[2]
    )
    assert shipped.find_bundle("shipped:denoise") == tmp_path / "denoise"
    assert shipped.find_bundle(None) == tmp_path / "low-light"
    assert shipped.find_bundle("build/bundle") == Path("build/bundle")
