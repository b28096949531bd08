"""ONNX Runtime Web: where it comes from, and that nothing else is taken for it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile

import pytest

from mirnet_edge.errors import MirnetEdgeError, MissingDependencyError, OptionError
from mirnet_edge.export.web.runtime import ARCHIVE, copy_runtime, find_archive
from mirnet_edge.files import user_cache


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """Move the user's cache to an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return user_cache()


@pytest.fixture
def fake_npm(monkeypatch, tmp_path):
    """Put a shell script in npm's place: fake_npm("exit 1")."""

    def put(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    return put


def test_the_files_are_those_of_the_package_with_their_license(runtime_archive, tmp_path):
    copy_runtime(tmp_path / "runtime", runtime_archive)
    names = {path.name for path in (tmp_path / "runtime").iterdir()}
    assert {"LICENSE", "ThirdPartyNotices.txt", "package.json"} <= names
    assert json.loads((tmp_path / "runtime/package.json").read_text())["license"] == "MIT"
    assert "MIT License" in (tmp_path / "runtime/LICENSE").read_text(encoding="utf-8")
    name = "ort-wasm-simd-threaded.wasm"
    with tarfile.open(runtime_archive) as package:
        wanted = package.extractfile(f"package/dist/{name}").read()
    assert gzip.decompress((tmp_path / f"runtime/{name}.gz").read_bytes()) == wanted


def test_without_webgpu_its_build_is_left_out(runtime_archive, tmp_path):
    copy_runtime(tmp_path / "runtime", runtime_archive, webgpu=False)
    names = {path.name for path in (tmp_path / "runtime").iterdir()}
    assert "ort.wasm.min.mjs" in names
    assert not [name for name in names if "webgpu" in name or "asyncify" in name]


def test_a_file_that_changed_in_the_cache_is_made_again(runtime_archive, tmp_path, request):
    copy_runtime(tmp_path / "one", runtime_archive)
    (prepared,) = user_cache().glob("onnxruntime-web-*/")
    cache = request.getfixturevalue("empty_cache")
    shutil.copytree(prepared, cache / prepared.name)
    (cache / prepared.name / "ort.wasm.min.mjs").write_text("another")
    copy_runtime(tmp_path / "two", runtime_archive)
    one, two = (tmp_path / name / "ort.wasm.min.mjs" for name in ("one", "two"))
    assert two.read_bytes() == one.read_bytes()


def test_another_archive_is_refused(tmp_path, empty_cache):
    (tmp_path / ARCHIVE).write_bytes(b"another")
    with pytest.raises(OptionError, match=r"has SHA-256 \w{12}, expected d2228df7e461"):
        find_archive(tmp_path / ARCHIVE)
    with pytest.raises(OptionError, match="does not exist; expected onnxruntime-web-1"):
        copy_runtime(tmp_path / "runtime", tmp_path / "absent.tgz")


@pytest.mark.skipif(os.name != "posix", reason="npm is a shell script here")
def test_without_npm_the_way_to_bring_the_file_is_told(monkeypatch, empty_cache):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match=r"npm pack onnxruntime-web@1\.30\.0") as told:
        find_archive()
    assert "--runtime onnxruntime-web-1.30.0.tgz" in str(told.value)


@pytest.mark.skipif(os.name != "posix", reason="npm is a shell script here")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo no such registry >&2; exit 1", r"\(no such registry\); where it can be reached"),
        ("exit 0", r"\(exit code 0\)"),
        (f"echo another > {ARCHIVE}", "what npm gave as onnxruntime-web.* has SHA-256"),
    ],
    ids=["fails", "brings nothing", "brings another"],
)
def test_what_npm_fails_at_is_told_and_nothing_is_kept(script, says, fake_npm, empty_cache):
    fake_npm(script)
    with pytest.raises(MirnetEdgeError, match=says):
        find_archive()
    assert not list(empty_cache.iterdir())
