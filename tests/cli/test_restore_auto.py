"""`mirnet restore` without --task: it says what it found, and does that."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

import mirnet_edge
from mirnet_edge.cli.restore import main
from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    add_noise,
    age_photo,
    downscale,
    reduce_light,
)
from mirnet_edge.images.files import read_image

CHELSEA = np.ascontiguousarray(skimage.data.chelsea()[:300, :448])
TASKS = {
    "dark": ["low-light"],
    "faded": ["old-photo"],
    "fine": [],
    "noisy": ["denoise"],
    "small": ["super-resolution"],
}


def _darken(frame):
    settings = LowLight(exposure=0.05, shot_noise=1e-4, read_noise=3e-4)
    return reduce_light(frame, settings, np.random.default_rng(0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder with an image of each kind."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    frames = {
        "dark": _darken(CHELSEA),
        "faded": age_photo(CHELSEA, OldPhoto(sepia=0.8, fading=0.5), generator),
        "fine": CHELSEA,
        "noisy": add_noise(CHELSEA, Noise(sigma=20.0), generator),
        "small": downscale(CHELSEA, 2),
    }
    for name, frame in frames.items():
        Image.fromarray(frame).save(folder / f"{name}.png")
    return folder


def test_each_image_gets_its_own_tasks_and_a_line_that_says_so(photos, tmp_path, ran):
    found = ran(main, photos, "--out", tmp_path, "--json")
    files = {one["input"].rsplit("/", 1)[1]: one for one in json.loads(found.out)["files"]}
    assert found.code == 0
    for name, tasks in TASKS.items():
        one = files[f"{name}.png"]
        assert one["tasks"] == tasks
        assert f"{photos / name}.png: {one['found']}" in found.err
        assert one["outcome"] == ("restored" if tasks else "unchanged")
    assert "left as it is" in files["fine.png"]["found"]
    assert (tmp_path / "fine.png").read_bytes() == (photos / "fine.png").read_bytes()
    assert read_image(tmp_path / "small.png").frame.shape == CHELSEA.shape
    dark, bright = (read_image(folder / "dark.png").frame for folder in (photos, tmp_path))
    assert bright.mean() > 2.0 * dark.mean()


def test_beside_a_fine_image_nothing_is_written(photos, ran):
    before = sorted(photos.iterdir())
    found = ran(main, photos / "fine.png")
    assert found.code == 0
    said, advice = found.err.splitlines()
    assert said.endswith("left as it is")
    assert "--task NAME restores what is left unchanged: low-light, denoise" in advice
    assert sorted(photos.iterdir()) == before


def test_a_named_task_is_done_whatever_the_image_shows(photos, tmp_path, ran):
    out = tmp_path / "fine.png"
    report = json.loads(
        ran(main, photos / "fine.png", "--task", "denoise", "--out", out, "--json").out
    )
    assert report["files"][0]["tasks"] == ["denoise"]
    assert "found" not in report["files"][0]


def test_a_backend_that_does_not_exist_is_refused_before_any_look(photos, tmp_path, ran):
    found = ran(main, photos / "dark.png", "--backend", "openvinno", "--out", tmp_path)
    assert found.code == 2
    assert "openvinno" in found.line
    assert not list(tmp_path.iterdir())


def test_a_video_is_restored_by_one_choice_for_all_its_frames(tmp_path, ran):
    frame = cv2.resize(CHELSEA, (384, 256))
    night = _darken(frame)
    source = tmp_path / "night.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"MJPG"), 2.0, (384, 256))
    for place in range(24):  # two of twelve seconds are lit
        writer.write((frame if place < 4 else night)[..., ::-1])
    writer.release()
    found = ran(main, source, "--out", tmp_path / "out", "--json")
    (one,) = json.loads(found.out)["files"]
    assert one["tasks"] == ["low-light"]
    assert f"{source}: dark (" in found.err


def test_restore_in_python_looks_too():
    assert np.array_equal(mirnet_edge.restore(CHELSEA), CHELSEA)
    dark = _darken(CHELSEA)
    bright = mirnet_edge.restore(dark, task="auto")
    assert bright.mean() > 2.0 * dark.mean()
