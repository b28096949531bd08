"""Which files are restored, what is left out of a folder and why, and the names of results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.inputs import (
    Destination,
    InputFile,
    check_absent,
    check_output,
    find_inputs,
    normalized,
)

SUFFIXES = (".jpg", ".png", ".mp4")


def why_left_out(path):
    return None if path.suffix.lower() in (".png", ".jpeg", ".jpg", ".tif") else "no image"


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _found(places, **options):
    """Return the names of what is found, and of what is left out with its reason."""
    found = find_inputs(places, why_left_out, **options)
    return [one.path.name for one in found.files], {
        one.path.name: one.reason for one in found.left_out
    }


def test_a_folder_stands_for_its_images_and_the_rest_is_left_out_with_a_reason(tmp_path):
    names = ["b.PNG", "a.jpeg", "e.tif", "f.jpg"]
    _touch(tmp_path, *names, "notes.txt", "._b.png", "g.bmp", "folder.png/inner.png")
    files, left_out = _found([tmp_path])
    assert files == sorted(names)
    assert left_out == {
        "notes.txt": "no image",
        "g.bmp": "no image",
        "folder.png": "a folder; --recursive restores what is in it",
    }


def test_the_tree_of_a_folder_is_walked_where_that_is_asked(tmp_path):
    _touch(tmp_path, "a.png", "sub/b.png", "sub/deep/c.png", ".hidden/d.png", "out/sub/b.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    found = find_inputs([tmp_path], why_left_out, recursive=True, out=tmp_path / "out")
    assert [one.path.relative_to(tmp_path).as_posix() for one in found.files] == [
        "a.png", "sub/b.png", "sub/deep/c.png",
    ]  # fmt: skip
    assert {one.folder for one in found.files} == {tmp_path}
    assert found.folders == (tmp_path,)


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    _touch(tmp_path, "a.png", "locked/b.png", "z/c.png")
    listing = Path.iterdir

    def refuse(folder):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    reason = "a folder that cannot be read: Permission denied"
    assert _found([tmp_path], recursive=True) == (["a.png", "c.png"], {"locked": reason})
    assert _found([tmp_path / "locked"]) == ([], {"locked": reason})


def test_results_are_not_restored_again(tmp_path):
    results = ["a.restored.png", "a.compare.png", "a.compare.mp4", "b.restored.jpg"]
    _touch(tmp_path, "a.png", *results)
    files, left_out = _found([tmp_path])
    assert files == ["a.png"]
    assert left_out == dict.fromkeys(results, "a result of this command")
    # *.png, which the shell expands
    files, left_out = _found([tmp_path / name for name in ("a.png", "a.restored.png")])
    assert (files, list(left_out)) == (["a.png"], ["a.restored.png"])
    # a result that is named alone is meant
    assert _found([tmp_path / "a.restored.png"]) == (["a.restored.png"], {})


def test_files_named_stay_in_their_order_whatever_they_are(tmp_path):
    _touch(tmp_path, "folder/b.png")
    places = [tmp_path / "z.bmp", tmp_path / "folder", tmp_path / "missing.png"]
    assert _found(places) == (["z.bmp", "b.png", "missing.png"], {})


def test_a_file_named_twice_comes_once(tmp_path, monkeypatch):
    _touch(tmp_path, "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    places = [Path("a.png"), tmp_path / "a.png", tmp_path, tmp_path / "link.png"]
    assert [one.path for one in find_inputs(places, why_left_out).files] == [Path("a.png")]


@dataclass(frozen=True)
class Named:
    id: str
    source: str
    out: str | None
    expected: str
    folder: str | None = None


@pytest.mark.parametrize(
    "case",
    [
        Named("beside it", "in/photo.jpg", None, "in/photo.restored.jpg"),
        Named("beside it, two dots", "in/my.photo.jpg", None, "in/my.photo.restored.jpg"),
        Named("a file", "in/photo.jpg", "new.png", "new.png"),
        Named("a file in capitals", "in/photo.jpg", "NEW.PNG", "NEW.PNG"),
        Named("a file elsewhere", "in/film.mp4", "in/bright.mp4", "in/bright.mp4"),
        Named("a new folder", "in/photo.jpg", "results", "results/photo.jpg"),
        Named("a folder with a dot", "in/photo.jpg", "v1.2", "v1.2/photo.jpg"),
        Named("a folder there", "in/photo.jpg", "there.jpg", "there.jpg/photo.jpg"),
        Named("a separator", "in/photo.jpg", f"new.png{os.sep}", "new.png/photo.jpg"),
        Named("the tree", "in/sub/photo.jpg", "results", "results/sub/photo.jpg", "in"),
        Named("the tree beside", "in/sub/photo.jpg", None, "in/sub/photo.restored.jpg", "in"),
    ],
    ids=lambda case: case.id,
)
def test_where_a_result_goes(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _touch(Path(), case.source)
    Path("there.jpg").mkdir()
    folder = Path(case.folder) if case.folder else None
    destination = Destination.parse(case.out, [folder or Path(case.source)], SUFFIXES)
    source = InputFile(path=Path(case.source), folder=folder)
    assert destination.path_of(source) == Path(case.expected)


def test_a_result_has_a_suffix_that_can_be_written(tmp_path):
    raw = InputFile(path=tmp_path / "a.cr2")
    assert Destination().path_of(raw, "a.tif") == tmp_path / "a.restored.tif"
    folder = Destination(folder=tmp_path / "out")
    assert folder.path_of(raw, "a.tif") == tmp_path / "out" / "a.tif"
    deep = InputFile(path=tmp_path / "in/sub/scan", folder=tmp_path / "in")
    assert folder.path_of(deep, "scan.png") == tmp_path / "out/sub/scan.png"


@pytest.mark.parametrize(
    ("out", "inputs", "says"),
    [
        ("x.jpg", ["a.jpg", "b.jpg"], "found 2 inputs. Name a folder"),
        ("x.jpg", ["."], "found a folder. Name a folder"),
        ("file", ["a.jpg"], "file cannot be written: file is a file"),
        ("file/deeper/x.jpg", ["a.jpg"], "deeper cannot be written: file is a file"),
        ("file/deeper", ["a.jpg"], "deeper cannot be written: file is a file"),
    ],
)
def test_an_out_that_cannot_be_is_refused(out, inputs, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _touch(Path(), "file", "a.jpg", "b.jpg")
    with pytest.raises(OptionError, match=says):
        Destination.parse(out, [Path(one) for one in inputs], SUFFIXES)


def test_what_an_output_would_replace_is_named(tmp_path):
    source, other, there = (tmp_path / name for name in ("a.jpg", "b.jpg", "there.jpg"))
    _touch(tmp_path, source.name, other.name, there.name)
    owners = {normalized(one): one for one in (source, other)}
    owners[normalized(tmp_path / "taken.jpg")] = other
    for output, says in (
        (other, "would replace the input .*b.jpg"),
        (tmp_path / "in" / ".." / "a.jpg", "would replace the input .*a.jpg"),
        (tmp_path / "taken.jpg", "would replace the result of .*b.jpg"),
        (tmp_path / ("x" * 252 + ".jpg"), "a name of 256 bytes, expected at most 255"),
        (tmp_path / ("夜" * 84 + ".jpg"), "a name of 256 bytes"),
    ):
        with pytest.raises(OptionError, match=says):
            check_output(output, source, owners)
    check_output(there, source, owners)
    says = "there.jpg exists already, so .*a.jpg was not restored; --overwrite replaces it"
    with pytest.raises(OptionError, match=says):
        check_absent(there, source)
    check_absent(tmp_path / "new.jpg", source)
