"""The manifest: what is written is read again, and nothing in it is taken on trust."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mirnet_edge import manifest
from mirnet_edge.errors import BundleError
from mirnet_edge.files import sha256_of
from mirnet_edge.manifest import FILE_NAME, BoundFile, bind, read_manifest, to_json, verify_path
from mirnet_edge.runtime.bundle import open_bundle


@pytest.fixture
def change(make_bundle):
    """Write a bundle whose manifest was edited by hand: change(lambda document: ...)."""

    def write(edit):
        folder = make_bundle(size=(8, 12))
        document = json.loads((folder / FILE_NAME).read_text())
        edit(document)
        (folder / FILE_NAME).write_text(json.dumps(document))
        return folder

    return write


# there and back


def test_what_is_written_is_read_again(make_bundle, make_mode):
    modes = [
        make_mode("openvino:int8", p50_ms=1.25),
        make_mode("torch:bf16", accepted=False, reason='lost "0.3" dB · naïve'),
    ]
    folder = make_bundle(modes=modes, size=(8, 12))
    read = read_manifest(folder)
    assert read.configurations == modes
    assert read.image.size == (8, 12)
    assert to_json(read) == (folder / FILE_NAME).read_bytes()


def test_the_same_manifest_gives_the_same_text_with_one_end(make_bundle):
    text = to_json(read_manifest(make_bundle())).decode()
    assert text.endswith("}\n")
    assert json.loads(text)["schema_version"] == manifest.SCHEMA_VERSION


def test_a_manifest_is_not_changed_in_memory(make_bundle):
    read = read_manifest(make_bundle())
    with pytest.raises(ValidationError, match="frozen"):
        read.default_configuration = "another"


def test_graphs_and_modes_are_found_by_name(make_bundle, make_mode):
    read = read_manifest(make_bundle(modes=[make_mode("openvino:int8"), make_mode("torch:fp32")]))
    assert read.graph("fp32") is read.graphs[0]
    assert read.configuration("torch:fp32") is read.configurations[1]
    with pytest.raises(BundleError, match=r"no graph 'int8'; it has fp32\. Export again with it"):
        read.graph("int8")
    says = (
        r"no configuration 'openvino:fp16'; it has openvino:int8, torch:fp32\. Export again with it"
    )
    with pytest.raises(BundleError, match=says):
        read.configuration("openvino:fp16")


# reading


def test_a_folder_without_manifest_is_told_how_to_get_one(tmp_path):
    says = r"is not a bundle: expected a folder with manifest\.json\. Make one with mirnet-export"
    with pytest.raises(BundleError, match=says):
        read_manifest(tmp_path)
    (tmp_path / "graph.onnx").touch()
    for other in (tmp_path / "graph.onnx", tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=rf"{other.name} is not a bundle"):
            read_manifest(other)


def test_what_a_killed_export_moved_aside_is_put_back(make_bundle):
    folder = make_bundle()
    folder.rename(folder.with_name(".bundle.former"))
    assert read_manifest(folder).default_configuration == "onnxruntime:fp32"


@dataclass(frozen=True)
class NoJson:
    id: str
    content: bytes


@pytest.mark.parametrize(
    "case",
    [
        NoJson("empty", b""),
        NoJson("cut off", b'{"schema_version": 1,'),
        NoJson("text", b"a bundle"),
        NoJson("bytes", b"\xff\xfe\x00"),
        NoJson("too deep", b"[" * 100_000),
    ],
    ids=lambda case: case.id,
)
def test_what_is_no_json_is_refused(case, tmp_path):
    (tmp_path / FILE_NAME).write_bytes(case.content)
    with pytest.raises(BundleError, match=r"manifest\.json is not readable JSON .*export .* again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "1", '"text"', "{}"])
def test_json_that_is_no_manifest_has_no_version(content, tmp_path):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(BundleError, match="schema version None; this program reads 1"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("version", [0, 3, "1", True, None, [1]])
def test_another_schema_is_refused_before_its_content_is_judged(version, change):
    def edit(document):
        document["schema_version"] = version
        document["of_the_future"] = True

    with pytest.raises(BundleError) as raised:
        read_manifest(change(edit))
    assert f"has schema version {version!r}; this program reads 1 and 2. Export" in str(
        raised.value
    )
    assert "or use the mirnet-edge that made it" in str(raised.value)


def test_a_manifest_of_schema_1_is_read_as_one_of_today(change):
    present = {}

    def edit(document):
        present.update(json.loads(json.dumps(document)))
        document["schema_version"] = 1
        document["modes"] = document.pop("configurations")
        document["default_mode"] = document.pop("default_configuration")
        for mode in document["modes"]:
            mode["adopted"] = mode.pop("accepted")

    read = read_manifest(change(edit))
    assert json.loads(to_json(read)) == present


def test_a_key_and_its_former_name_are_not_both_taken(change):
    def edit(document):
        document["modes"] = document["configurations"]

    with pytest.raises(BundleError, match="modes: Extra inputs are not permitted"):
        read_manifest(change(edit))


@dataclass(frozen=True)
class Edited:
    id: str
    path: list[str | int]
    value: Any
    says: str


_GONE = object()


@pytest.mark.parametrize(
    "case",
    [
        Edited("unknown key", ["color"], "red", "color: Extra inputs are not permitted"),
        Edited(
            "unknown key inside",
            ["configurations", 0, "speed"],
            1,
            r"configurations\.0\.speed: Extra inputs",
        ),
        Edited("missing", ["model", "task"], _GONE, r"model\.task: Field required"),
        Edited(
            "backend",
            ["configurations", 0, "backend"],
            "no name",
            r"configurations\.0\.backend: String should match",
        ),
        Edited("precision", ["graphs", 0, "precision"], "int4", r"graphs\.0\.precision: .*'fp32'"),
        Edited("multiple", ["image", "multiple"], 0, r"image\.multiple: .*greater than or equal"),
        Edited("size", ["image", "size"], [8], r"image\.size"),
        Edited("io", ["image", "io"], "bgr", r"image\.io: .*'uint8'"),
        Edited("bytes", ["model", "weights", "size_bytes"], -1, r"model\.weights\.size_bytes"),
        Edited("no list", ["configurations"], None, "configurations: Input should be a valid list"),
    ],
    ids=lambda case: case.id,
)
def test_what_does_not_belong_is_named_by_its_place(case, change):
    def edit(document):
        *parents, last = case.path
        for parent in parents:
            document = document[parent]
        if case.value is _GONE:
            del document[last]
        else:
            document[last] = case.value

    with pytest.raises(BundleError, match=rf"manifest\.json: {case.says}") as raised:
        read_manifest(change(edit))
    assert str(raised.value).endswith("export the bundle again")
    assert "\n" not in str(raised.value)


# files bound by their content


def test_a_bound_file_is_found_again(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph")
    entry = bind(path)
    assert entry == BoundFile(file="graph.onnx", sha256=sha256_of(path), size_bytes=5)
    assert verify_path(tmp_path, entry) == path


@pytest.mark.parametrize("content", [b"Graph", b"graph\0", b"grap", b""])
def test_every_change_of_a_bound_file_is_seen(content, tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph")
    entry = bind(path)
    path.write_bytes(content)
    with pytest.raises(BundleError) as raised:
        verify_path(tmp_path, entry)
    assert str(raised.value) == (
        f"{path} has changed since the export: sha256 {sha256_of(path)[:12]} instead of "
        f"{entry.sha256[:12]}. Export the bundle again"
    )


def test_a_bound_file_that_is_gone_is_named(tmp_path):
    (tmp_path / "graph.onnx").write_bytes(b"graph")
    entry = bind(tmp_path / "graph.onnx")
    (tmp_path / "graph.onnx").unlink()
    says = r"graph\.onnx is missing though the manifest names it; export the bundle again"
    with pytest.raises(BundleError, match=says):
        verify_path(tmp_path, entry)
    (tmp_path / "graph.onnx").mkdir()
    with pytest.raises(BundleError, match=says):
        verify_path(tmp_path, entry)


@pytest.mark.parametrize(
    "name", ["../secret", "{outside}/secret", "inner/../../secret", "inner/file", "", ".", "link"]
)
def test_a_manifest_cannot_name_files_outside_its_folder(name, tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "inner").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (bundle / "inner" / "file").write_bytes(b"secret")
    (bundle / "link").symlink_to(secret)
    entry = BoundFile(
        file=name.format(outside=tmp_path), sha256=sha256_of(secret), size_bytes=6
    )  # fmt: skip
    with pytest.raises(BundleError, match=r"lies outside .*bundle; export the bundle again"):
        verify_path(bundle, entry)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    entry = BoundFile(file="graph\0.onnx", sha256="0" * 64, size_bytes=0)
    with pytest.raises(BundleError, match=r"graph.*onnx' lies outside .*; export the bundle again"):
        verify_path(tmp_path, entry)


def test_a_bundle_may_be_reached_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "graph.onnx").write_bytes(b"graph")
    entry = bind(tmp_path / "real" / "graph.onnx")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert verify_path(tmp_path / "link", entry).read_bytes() == b"graph"
    monkeypatch.chdir(tmp_path / "real")
    assert verify_path(Path(), entry).read_bytes() == b"graph"


def test_a_graph_that_loads_other_files_is_refused_whatever_its_name(make_bundle):
    import onnx
    from onnx import numpy_helper

    folder = make_bundle()
    for name in ("fp32.onnx", "graph.bin"):
        model = onnx.load(folder / "fp32.onnx")
        for tensor in model.graph.initializer:  # only raw data is moved
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        onnx.save(
            model, folder / name, save_as_external_data=True, location="beside", size_threshold=0
        )
        assert (folder / "beside").is_file()
        document = json.loads((folder / FILE_NAME).read_text())
        document["graphs"][0]["onnx"] = bind(folder / name).model_dump()
        (folder / FILE_NAME).write_text(json.dumps(document))
        with pytest.raises(BundleError, match=r"keeps tensors in other files \('beside'\)"):
            open_bundle(folder)


def test_a_graph_that_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(BundleError, match=r"a\.onnx is no ONNX file"):
        manifest.verify_graph(tmp_path, bind(tmp_path / "a.onnx"))
