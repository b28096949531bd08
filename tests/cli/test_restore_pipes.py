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
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.runtime.bundle import RunnerChoice
from mirnet_edge.runtime.inputs import Destination, find_inputs
from mirnet_edge.runtime.task_choice import TaskChoice
from mirnet_edge.testing.films import Film, read_film, write_film
from mirnet_edge.testing.null_runner import NullRunner

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
    found = expand_sequences([tmp_path / "frame_%03d.png"]).paths
    assert [one.name for one in found] == ["frame_001.png", "frame_002.png", "frame_010.png"]
    out = tmp_path / "out"
    result = ran(main, tmp_path / "frame_%03d.png", "--bundle", make_bundle(), "--out", out)
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == [one.name for one in found]


class _Flickering(NullRunner):
    """Brightens every other frame more."""

    def __init__(self):
        super().__init__()
        self.frames = 0

    def run(self, frames):
        self.frames += 1
        factor = 1.9 if self.frames % 2 else 1.5
        return (super().run(frames) * factor).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["frame_%03d.png", "frame_%03d.tif"])
def test_numbered_images_are_smoothed_over_time_and_others_are_not(
    name, ran, make_bundle, tmp_path, monkeypatch
):
    levels = np.random.default_rng(0).integers(40, 90, (48, 64, 3), dtype=np.uint8)
    for number in range(8):
        write_image(tmp_path / (name % number), ImageFile(frame=levels))
    monkeypatch.setattr(RunnerChoice, "runner", lambda self: _Flickering())
    bundle = make_bundle()

    def flicker(*inputs):
        out = tmp_path / str(len(inputs))
        assert ran(main, *inputs, "--bundle", bundle, "--out", f"{out}/").code == 0
        means = [read_image(out / (name % number)).frame.mean() for number in range(8)]
        return float(np.abs(np.diff(means[2:])).max())

    as_sequence = flicker(tmp_path / name)
    apart = flicker(*(tmp_path / (name % number) for number in range(8)))
    assert apart > 15
    assert as_sequence < apart / 2


def test_the_task_of_numbered_images_is_chosen_once_for_all(ran, tmp_path, monkeypatch):
    for number in range(30):
        write_image(
            tmp_path / f"{number:02}.png", ImageFile(frame=np.full((8, 8, 3), number, np.uint8))
        )
    (tmp_path / "00.png").write_bytes(b"damaged")
    seen = []

    def choose(task, frames):
        seen.append([int(frame[0, 0, 0]) for frame in frames])
        return TaskChoice(tasks=(), line="fine")

    monkeypatch.setattr("mirnet_edge.runtime.task_choice.choose_tasks", choose)
    result = ran(main, tmp_path / "%02d.png", "--task", "auto", "--out", tmp_path / "out")
    assert result.code == 2, result.err  # one is damaged
    assert seen[1:] == [[3, 6, 9, 12, 15, 18, 21, 24, 27]]
    assert len(list((tmp_path / "out").iterdir())) == 29


def test_names_with_a_percent_sign_that_are_there_are_files(tmp_path):
    path = tmp_path / "100%d.png"
    path.write_text("")
    expanded = expand_sequences([path, Path("a.png")])
    assert expanded.paths == (path, Path("a.png"))
    assert expanded.sequences == {}


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
