"""mirnet restore on many files: where results go, what is left out; one fault stops none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.cli.restore import main
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.runtime.task_choice import TaskChoice
from mirnet_edge.testing.null_runner import NullRunner


@pytest.fixture
def make_image(tmp_path, monkeypatch):
    """Write a gray image below the present folder: make_image("in/a.png", level=60)."""
    monkeypatch.chdir(tmp_path)

    def make(name, level=60):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, ImageFile(frame=np.full((6, 8, 3), level, np.uint8)))
        return path

    return make


@pytest.fixture
def bundle(make_bundle):
    return make_bundle()


def _outcomes(result):
    return {one["input"]: one["outcome"] for one in json.loads(result.out)["files"]}


def _level(path):
    return read_image(Path(path)).frame.mean()


def _files(folder="."):
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [path.as_posix() for path in found if "bundle" not in path.parts]


def test_a_result_is_written_beside_its_input_and_nothing_is_replaced(ran, bundle, make_image):
    image = make_image("photo.jpg")
    assert ran(main, image, "--bundle", bundle).code == 0
    assert _files() == ["photo.jpg", "photo.restored.jpg"]
    assert _level("photo.restored.jpg") == pytest.approx(90, abs=1)
    Path("photo.restored.jpg").write_bytes(b"mine")
    again = ran(main, image, "--bundle", bundle)
    assert again.code == 2
    assert again.line == (
        "mirnet-restore: photo.restored.jpg exists already, so photo.jpg was not restored; "
        "--overwrite replaces it, --skip-existing leaves it"
    )
    assert Path("photo.restored.jpg").read_bytes() == b"mine"
    assert ran(main, image, "--bundle", bundle, "--overwrite").code == 0
    assert _level("photo.restored.jpg") == pytest.approx(90, abs=1)


def test_out_names_a_file_or_a_folder(ran, bundle, make_image):
    image = make_image("photo.jpg")
    for out in ("new.png", "folder", f"name.png{os.sep}"):
        assert ran(main, image, "--bundle", bundle, "--out", out).code == 0
    assert _files() == ["folder/photo.jpg", "name.png/photo.jpg", "new.png", "photo.jpg"]
    assert read_image(Path("new.png")).format == "PNG"
    result = ran(main, image, make_image("b.jpg"), "--bundle", bundle, "--out", "x.jpg")
    assert result.code == 2
    assert "--out x.jpg is the name of one file" in result.line


def test_a_tree_is_kept_and_what_is_left_out_is_said(ran, bundle, make_image):
    make_image("in/a.png")
    make_image("in/sub/b.png")
    for name in ("notes.txt", "letter.txt", ".hidden.png"):
        Path("in", name).write_text("text")
    result = ran(main, "in", "--bundle", bundle, "--out", "out", "--json")
    assert result.code == 0
    assert _files("out") == ["out/a.png"]
    left_out, restored = result.err.splitlines()
    assert left_out == (
        "mirnet-restore: in: left out letter.txt, notes.txt (no image); sub (a folder; "
        "--recursive restores what is in it)"
    )
    assert restored.startswith("out/a.png  8x6")
    assert _outcomes(result) == {
        "in/a.png": "restored", "in/letter.txt": "left out", "in/notes.txt": "left out",
        "in/sub": "left out",
    }  # fmt: skip
    reasons = {one["input"]: one.get("reason") for one in json.loads(result.out)["files"]}
    assert reasons["in/notes.txt"] == "no image"
    assert ran(main, "in", "-r", "--bundle", bundle, "--out", "all").code == 0
    assert _files("all") == ["all/a.png", "all/sub/b.png"]


def test_a_folder_is_restored_twice_without_restoring_results(ran, bundle, make_image):
    make_image("in/a.png")
    make_image("in/b.png")
    options = ["in", "--bundle", bundle, "--compare", "--json"]
    assert ran(main, *options).code == 0
    make_image("in/c.png")
    result = ran(main, *options, "--skip-existing")
    assert result.code == 0
    outcomes = _outcomes(result)
    assert [name for name, outcome in outcomes.items() if outcome == "restored"] == ["in/c.png"]
    assert {outcomes[f"in/{name}.png"] for name in "ab"} == {"skipped"}
    assert {outcomes[f"in/{name}.restored.png"] for name in "ab"} == {"left out"}
    assert "b.restored.png (a result of this command)" in result.err
    assert not [name for name in _files() if "restored.restored" in name]


def test_a_folder_with_nothing_to_restore_is_said(ran, bundle, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("text")
    result = ran(main, tmp_path / "in", "--bundle", bundle)
    assert result.code == 2
    left_out, nothing = result.err.splitlines()
    assert "notes.txt (no image)" in left_out
    assert nothing == "mirnet-restore: nothing to restore was found"


class Failing(NullRunner):
    """Fails on the second image, with any error."""

    def __init__(self, failure):
        super().__init__()
        self._second_failure = failure

    def run(self, frames):
        restored = super().run(frames)
        if self.calls == 2:
            raise self._second_failure
        return restored


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (MemoryError(), "the memory does not suffice. Restore it in tiles: --tile 512x512"),
        (OSError(5, "Input/output error"), "was not restored: Input/output error"),
        (ValueError("decoder broke"), "ValueError: decoder broke. This is a fault of mirnet-edge"),
        (KeyError("x"), "KeyError: 'x'. This is a fault of mirnet-edge; -vv prints where"),
        (RecursionError(), "RecursionError"),
        (AssertionError(), "AssertionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_any_type_names_its_file_and_the_others_are_restored(
    failure, says, ran, bundle, make_image, monkeypatch
):
    runner = Failing(failure)
    monkeypatch.setattr("mirnet_edge.runtime.bundle.open_bundle", lambda *_, **__: runner)
    images = [make_image(f"{name}.png") for name in "abc"]
    result = ran(main, *images, "--bundle", bundle, "--json")
    assert result.code == 2
    assert _outcomes(result) == {"a.png": "restored", "b.png": "failed", "c.png": "restored"}
    _, failed, _, summary = result.err.splitlines()
    assert failed.startswith("mirnet-restore: b.png was not restored: ")
    assert says in failed
    assert summary == "mirnet-restore: 2 restored, 1 failed"
    assert _files() == ["a.png", "a.restored.png", "b.png", "c.png", "c.restored.png"]
    (reason,) = [one["reason"] for one in json.loads(result.out)["files"] if "reason" in one]
    assert says in reason


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such files")
@pytest.mark.timeout(60)
def test_pipes_and_devices_are_never_read(ran, bundle, make_image):
    make_image("in/a.png")
    os.mkfifo("in/b.png")
    os.mkfifo("in/c.mp4")
    Path("in/d.png").symlink_to("/dev/zero")
    Path("in/e.png").symlink_to("nowhere.png")
    result = ran(main, "in", "--bundle", bundle, "--out", "out")
    assert result.code == 0
    assert "left out b.png, c.mp4 (a pipe, no file); d.png (a device, no file); e.png" in result.err
    result = ran(main, "in/b.png", "in/a.png", "--bundle", bundle)
    assert result.code == 2
    assert "in/b.png is a pipe; expected a file. Give - for what is piped in" in result.err
    assert Path("in/a.restored.png").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take fewer names")
def test_a_name_does_nothing_to_the_terminal(ran, bundle, make_image):
    make_image("one\x1b[31mtwo\nthree\u202e.png")
    result = ran(main, "one\x1b[31mtwo\nthree\u202e.png", "--bundle", bundle)
    (line,) = result.err.splitlines()
    assert line.startswith(r"one\x1b[31mtwo\nthree\u202e.restored.png  8x6")


NAMES = {
    "a colon": "12:30.png",
    "246 characters": "n" * 242 + ".png",
    "246 bytes of others": "夜" * 80 + "nn.png",
    "a leading dash": "-photo.png",
    "markup": "[bold]100%.png",
    "a line break": "one\ntwo.png",
    "Latin-1": os.fsdecode(b"caf\xe9.png"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take fewer names")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_files_of_any_name_are_restored(name, ran, bundle, make_image):
    make_image(name)
    result = ran(main, "--bundle", bundle, "--json", "--compare", "--", name)
    assert result.code == 0, result.err
    (one,) = json.loads(result.out)["files"]
    assert one["input"] == name
    assert _level(one["output"]) == pytest.approx(90, abs=1)
    assert Path(one["output"]).name == f"{name.removesuffix('.png')}.restored.png"


def test_the_result_of_a_very_long_name_has_a_shorter_one(ran, bundle, make_image):
    name = "n" * 247 + ".png"
    make_image(name)
    result = ran(main, name, "--bundle", bundle, "--json")
    assert result.code == 0, result.err
    (one,) = json.loads(result.out)["files"]
    output = Path(one["output"])
    assert output.is_file()
    assert len(output.name) == 255
    assert output.name.endswith(".restored.png")
    assert ran(main, name, "--bundle", bundle, "--out", "short.png").code == 0


# tasks and strength

CPU = ("--backend", "onnxruntime", "--precision", "fp32")


def test_tasks_follow_each_other_in_memory(ran, make_image):
    image = make_image("scan.png", 80)
    result = ran(main, image, "--task", "old-photo,super-resolution", *CPU, "--json")
    assert result.code == 0, result.err
    (one,) = json.loads(result.out)["files"]
    assert one["tasks"] == ["old-photo", "super-resolution"]
    assert one["configuration"] == "onnxruntime:fp32 + onnxruntime:fp32"
    assert read_image(Path("scan.restored.png")).frame.shape == (12, 16, 3)
    assert _files() == ["scan.png", "scan.restored.png"]


def test_strength_blends_with_the_input(ran, bundle, make_image):
    image = make_image("a.png", 100)  # the bundle makes it 150
    for strength, level in ((0, 100), (0.5, 125), (1, 150)):
        options = ["--bundle", bundle, "--strength", strength, "--out", f"{strength}.png"]
        assert ran(main, image, *options).code == 0
        assert _level(f"{strength}.png") == pytest.approx(level, abs=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--task", "denoise", "--bundle", "shipped:denoise"), "give one of the two"),
        (("--task", "dehaze"), "--task must be auto or of low-light, denoise"),
        (("--task", "denoise,"), "found ''"),
        (("--strength", "1.5"), "--strength must lie from 0, the input, to 1"),
        (("--bundle", "shipped:lowlight"), "Did you mean shipped:low-light?"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options, says, ran, make_image):
    result = ran(main, make_image("a.png"), *options)
    assert result.code == 2
    assert says in result.line
    assert _files() == ["a.png"]


def test_the_tasks_of_each_input_are_chosen_from_its_frame(ran, make_image, monkeypatch):
    def choose(named, frames):
        dark = [frame.mean() < 128 for frame in frames]
        if not dark or dark[0]:
            return TaskChoice(tasks=("low-light",), line="dark: low-light")
        return TaskChoice(tasks=(), line="good as it is")

    monkeypatch.setattr("mirnet_edge.runtime.task_choice.choose_tasks", choose)
    images = make_image("dark.png", 30), make_image("bright.png", 200)
    result = ran(main, *images, *CPU, "--json")
    assert result.code == 0, result.err
    assert _outcomes(result) == {"dark.png": "restored", "bright.png": "unchanged"}
    assert not Path("bright.restored.png").exists()
    assert _level("dark.restored.png") > 35
    lines = result.err.splitlines()
    assert lines[0] == "dark.png: dark: low-light"
    assert lines[2] == "bright.png: good as it is"
    assert lines[-2] == "mirnet-restore: 1 restored, 1 unchanged"
    assert lines[-1].startswith("mirnet-restore: --task NAME restores what is left unchanged: low-")
    dark, bright = json.loads(result.out)["files"]
    assert (dark["tasks"], dark["found"]) == (["low-light"], "dark: low-light")
    assert bright["tasks"] == []
    assert "output" not in bright
    result = ran(main, images[1], *CPU, "--out", "copies/", "--json")
    assert Path("copies/bright.png").read_bytes() == Path("bright.png").read_bytes()
    assert json.loads(result.out)["files"][0]["configuration"] == "unchanged"
