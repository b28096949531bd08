"""`mirnet diagnose`: one line per file, or JSON; bad files do not stop the others."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

import mirnet_edge
from mirnet_edge.cli.diagnose import main
from mirnet_edge.degradations import LowLight, Noise, add_noise, reduce_light
from mirnet_edge.runtime.task_choice import choose_tasks

CHELSEA = np.ascontiguousarray(skimage.data.chelsea())


def _darken(frame):
    return reduce_light(frame, LowLight(exposure=0.05), np.random.default_rng(0))


@pytest.fixture
def files(tmp_path):
    noisy = add_noise(CHELSEA, Noise(sigma=20.0), np.random.default_rng(0))
    for name, frame in (("fine", CHELSEA), ("dark", _darken(CHELSEA)), ("noisy", noisy)):
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_each_file_of_a_folder_gets_a_line_and_bad_ones_do_not_stop_it(files, ran):
    found = ran(main, files)
    lines = dict(line.rsplit("/", 1)[1].split(": ", 1) for line in found.out.splitlines())
    assert found.code == 2
    assert lines["fine.png"].startswith("fine (")
    assert lines["dark.png"].startswith("dark (")
    assert lines["dark.png"].endswith(": low-light")
    assert lines["noisy.png"].startswith("noisy sigma ")
    assert lines["noisy.png"].endswith(": denoise")
    assert "damaged.png" not in lines
    assert "damaged.png" in found.err
    assert "left out notes.txt" in found.err


def test_json_holds_the_scores_of_every_file_and_the_errors(files, ran):
    found = ran(main, files / "noisy.png", files / "damaged.png", "--json")
    report = json.loads(found.out)
    (noisy,) = report["diagnosed"]
    assert found.code == 2
    assert noisy["top_label"] == "noisy"
    assert noisy["tasks"] == ["denoise"]
    assert noisy["sigma"] == pytest.approx(20.0, rel=0.3)
    assert noisy["scores"]["noisy"] > 0.5 > noisy["scores"]["fine"]
    assert [one["input"] for one in report["failed"]] == [str(files / "damaged.png")]


def test_a_fine_image_alone_leaves_with_0(files, ran):
    assert ran(main, files / "fine.png").code == 0


def test_inputs_that_are_not_there_are_refused(tmp_path, ran):
    found = ran(main, tmp_path / "absent.jpg")
    assert found.code == 2
    assert "does not exist" in found.line


def _write_video(path, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 1.0, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def test_a_video_gets_one_diagnosis_of_several_frames(tmp_path, ran):
    frame = cv2.resize(CHELSEA, (448, 304))
    black = np.zeros_like(frame)
    _write_video(tmp_path / "day.avi", [black, black] + [frame] * 28)
    report = json.loads(ran(main, tmp_path / "day.avi", "--json").out)
    (found,) = report["diagnosed"]
    assert found["frames"] >= 5
    assert found["scores"]["dark"] < 0.5


def test_auto_chooses_the_tasks_of_the_frames_and_names_what_was_found():
    choice = choose_tasks("auto", iter([_darken(CHELSEA)]))
    assert choice.tasks == ("low-light",)
    assert choice.line.startswith("dark (")
    fine = choose_tasks("auto", iter([CHELSEA]))
    assert fine.tasks == ()
    assert fine.line.endswith("left as it is")
    assert choose_tasks("auto", iter(())).tasks == ()


def test_diagnose_takes_arrays_and_files(files):
    found = mirnet_edge.diagnose(files / "dark.png")
    assert isinstance(found, mirnet_edge.Diagnosis)
    assert found.top_label == "dark"
    assert mirnet_edge.diagnose(CHELSEA).top_label == "fine"
