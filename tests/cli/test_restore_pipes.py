"""mirnet restore with pipes and numbered images."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.cli.restore import main
from mirnet_edge.cli.restore_pipes import PipedFiles, expand_sequences
from mirnet_edge.errors import OptionError
from mirnet_edge.files import NAME_BYTES
from mirnet_edge.images.files import ImageFile, write_image
from mirnet_edge.runtime.inputs import Destination, find_inputs
from mirnet_edge.testing.films import Film, read_film, write_film

av = pytest.importorskip("av")


class Pipe:
    """A standard stream whose bytes can be given and read."""

    def __init__(self, content=b""):
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_a_video_goes_from_standard_input_to_standard_output(
    name, ran, make_bundle, tmp_path, monkeypatch
):
    source = write_film(tmp_path / name, Film(name=name, sound="aac"))
    monkeypatch.setattr(sys, "stdin", Pipe(source.read_bytes()))
    out = Pipe()
    monkeypatch.setattr("mirnet_edge.cli.restore_pipes.sys.stdout", out, raising=False)
    with PipedFiles([Path("-")], "-") as pipes:
        folder = Path(pipes.out)
        folder.mkdir()
        (folder / "result").write_bytes(pipes.inputs[0].read_bytes())
    assert out.buffer.getvalue() == source.read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdin", Pipe(source.read_bytes()))
    target = tmp_path / "result.mkv"
    result = ran(main, "-", "--bundle", make_bundle(), "--out", target)
    assert result.code == 0, result.err
    content = read_film(target)
    assert len(content.times) == 12
    assert content.codecs == ("h264", "aac")


def test_numbered_images_are_restored_in_their_order(ran, make_bundle, tmp_path):
    for number in (2, 10, 1):
        image = ImageFile(frame=np.full((6, 8, 3), 10 * number, np.uint8))
        write_image(tmp_path / f"frame_{number:03}.png", image)
    (tmp_path / "frame_a.png").write_text("another")
    found = expand_sequences([tmp_path / "frame_%03d.png"])
    assert [one.name for one in found] == ["frame_001.png", "frame_002.png", "frame_010.png"]
    out = tmp_path / "out"
    result = ran(main, tmp_path / "frame_%03d.png", "--bundle", make_bundle(), "--out", out)
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == [one.name for one in found]


def test_names_with_a_percent_sign_that_are_there_are_files(tmp_path):
    path = tmp_path / "100%d.png"
    path.write_text("")
    assert expand_sequences([path, Path("a.png")]) == [path, Path("a.png")]


@pytest.mark.parametrize(
    ("inputs", "out", "prints_json", "says"),
    [
        (["-", "a.png"], "out", False, "as the only input"),
        (["-"], None, False, "with --out FILE"),
        (["a.png", "b.png"], "-", False, "one result to standard output"),
        (["a.png"], "-", True, "--json and --out -"),
    ],
)
def test_what_cannot_be_piped_is_refused(inputs, out, prints_json, says):
    with pytest.raises(OptionError, match=says):
        PipedFiles([Path(one) for one in inputs], out, prints_json)


def test_a_sequence_without_files_is_refused(tmp_path):
    with pytest.raises(OptionError, match="expected numbered images"):
        expand_sequences([tmp_path / "frame_%05d.png"])


def test_the_result_of_the_longest_name_has_a_name_that_can_be_written(tmp_path):
    path = tmp_path / f"{'x' * 246}.mp4"
    path.write_text("")
    (one,) = find_inputs([path], lambda file: None).files
    result = Destination().path_of(one)
    assert len(os.fsencode(result.name)) <= NAME_BYTES
    assert result.name.endswith(".restored.mp4")
    result.write_text("")
    other = tmp_path / f"{'x' * 245}y.mp4"
    other.write_text("")
    (two,) = find_inputs([other], lambda file: None).files
    assert Destination().path_of(two) != result
