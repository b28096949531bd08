"""Calibration presets: every shipped one is read and does what it says, and errors are named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mirnet_edge.calibration import presets
from mirnet_edge.calibration.presets import (
    choose_sampling,
    list_presets,
    open_set,
    read_preset,
)
from mirnet_edge.calibration.sampling import SamplingOptions, describe_frame, sample_set
from mirnet_edge.calibration.sets import MINIMUM_IMAGES, builtin_set, list_image_files, read_set
from mirnet_edge.errors import CalibrationError
from mirnet_edge.images.files import read_image

_FOLDER = Path(__file__).parents[2] / "calibration" / "sets"
_SHIPPED = sorted(path.stem for path in _FOLDER.glob("*.toml"))
_every_preset = pytest.mark.parametrize("name", _SHIPPED)


def _view(number, light=1.0, size=(48, 64)):
    """Return a smooth image that differs from those of other numbers."""
    coarse = np.random.default_rng(number).uniform(0, 255, (6, 8, 3))
    large = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return (large * light).clip(0, 255).astype(np.uint8)


def _write_folder(path, frames):
    path.mkdir()
    for place, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{place:03}.png")
    return path


def _write_video(path, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def _luma(folder):
    return [describe_frame(read_image(path).frame).light for path in list_image_files(folder)]


def _sample(name, source, out):
    source, sampling, preset = choose_sampling(name, str(source), None)
    return sample_set(source, out, sampling=sampling, preset=preset)


# --- every shipped preset ---------------------------------------------------------------------


def test_the_package_holds_the_presets_of_the_top_folder():
    assert list_presets() == _SHIPPED
    assert {"night", "indoor-camera", "video", "old-prints"} <= set(_SHIPPED)


@_every_preset
def test_a_shipped_preset_is_read_by_name_and_by_file(name):
    preset = read_preset(name)
    assert preset == read_preset(_FOLDER / f"{name}.toml")
    assert preset.name == name
    assert preset.description
    assert preset.sampling.frames >= MINIMUM_IMAGES


@_every_preset
def test_a_shipped_preset_opens_as_many_images_as_it_says(name):
    preset = read_preset(name)
    found = open_set(name, task="denoise")
    assert len(found.calibration) == preset.images.calibration
    assert len(found.evaluation) == preset.images.evaluation
    assert found.note.startswith(f"preset {name}: ")
    assert found.folder is None
    for condition in preset.images.conditions:
        assert condition in found.note
    task = preset.images.source.partition(":")[2] or "denoise"
    assert found.source == f"built-in: scikit-image photos, {task}"


@_every_preset
def test_an_example_in_a_shipped_preset_names_it(name):
    lines = (_FOLDER / f"{name}.toml").read_text().splitlines()
    assert any("mirnet-export" in line and f"--calibration {name}" in line for line in lines)
    assert any("mirnet-calibrate" in line and f"--set {name}" in line for line in lines)


# --- what they sample -------------------------------------------------------------------------


def test_night_leaves_out_frames_of_the_day(tmp_path):
    frames = [_view(number, light) for number in range(12) for light in (1.0, 0.3)]
    done = _sample("night", _write_folder(tmp_path / "in", frames), tmp_path / "set")
    assert done.described.preset == "night"
    assert done.described.outside_luma == 12
    lights = _luma(done.folder)
    assert len(lights) == 12
    assert max(lights) <= 0.3


def test_an_indoor_camera_is_sampled_once_a_second(tmp_path):
    seconds = [_view(number, 0.5) for number in range(10)]
    video = _write_video(tmp_path / "room.avi", [one for one in seconds for _ in range(30)])
    done = _sample("indoor-camera", video, tmp_path / "set")
    assert done.described.seen == 10
    assert len(done.described.files) == 10
    dark = _write_folder(tmp_path / "dark", [_view(number, 0.01) for number in range(10)])
    with pytest.raises(CalibrationError, match=r"10 outside the mean luma of 0\.02 to 0\.6"):
        _sample("indoor-camera", dark, tmp_path / "none")


def test_a_video_gives_a_few_frames_of_every_scene(tmp_path):
    scenes = [_view(number) for number in range(10)]
    video = _write_video(tmp_path / "clip.avi", [one for one in scenes for _ in range(24)])
    done = _sample("video", video, tmp_path / "set")
    assert done.described.seen == 20
    assert done.described.near_duplicates == 10
    assert len(done.described.files) == 10


def test_old_prints_of_any_size_are_cut_not_scaled(tmp_path):
    sizes = [(600, 800), (500, 700), (480, 640)]
    frames = [_view(number, size=sizes[number % 3]) for number in range(9)]
    done = _sample("old-prints", _write_folder(tmp_path / "in", frames), tmp_path / "set")
    kept = [read_image(path).frame for path in list_image_files(done.folder)]
    assert {one.shape for one in kept} == {(480, 640, 3)}
    assert len(kept) == 9
    assert any(np.array_equal(one, frames[0][60:540, 80:720]) for one in kept)


# --- presets of one's own ---------------------------------------------------------------------


def _preset(path, text):
    path.write_text(f'description = "test"\n{text}')
    return path


def test_a_folder_is_taken_relative_to_the_presets_file(tmp_path, monkeypatch):
    _write_folder(tmp_path / "images", [_view(number) for number in range(16)])
    file = _preset(
        tmp_path / "mine.toml", '[images]\nsource = "images"\ncalibration = 5\nevaluation = 3\n'
    )
    monkeypatch.chdir("/")
    found = open_set(str(file), task="low-light")
    assert (len(found.calibration), len(found.evaluation)) == (5, 3)
    assert found.source == "images"
    assert found.note.startswith("preset mine: ")
    assert found.folder == tmp_path / "images"


def test_a_video_is_sampled_for_an_export(tmp_path):
    _write_video(tmp_path / "clip.avi", [_view(number) for number in range(12) for _ in range(2)])
    file = _preset(
        tmp_path / "clip.toml",
        '[images]\nsource = "clip.avi"\n[sampling]\nevery = 2\nframes = 10\n',
    )
    found = open_set(file, task="low-light")
    assert len(found.calibration) + len(found.evaluation) == 10
    assert found.source == "clip.avi"
    assert found.folder is None
    source, sampling, name = choose_sampling(file, None, None)
    assert source == str(tmp_path / "clip.avi")
    assert (sampling.every, sampling.frames, name) == (2, 10, "clip")


def test_a_folder_that_exists_goes_before_a_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write_folder(tmp_path / "night", [_view(number) for number in range(8)])
    assert open_set("night", task="low-light").sha256 == read_set(tmp_path / "night").sha256


def test_chosen_conditions_give_the_images_of_the_whole_set():
    whole = builtin_set("low-light")
    some = builtin_set("low-light", conditions=["0.02"])
    by_name = {sample.name: sample.frame for sample in whole.calibration}
    assert len(some.calibration) == len(whole.calibration) // 4
    for sample in some.calibration:
        assert np.array_equal(sample.frame, by_name[sample.name])


def test_what_is_typed_goes_before_the_preset():
    source, sampling, name = choose_sampling("night", "0", 12)
    assert (source, sampling.frames, name) == ("0", 12, "night")
    assert sampling.luma == (0.0, 0.3)
    assert choose_sampling(None, "0", None) == ("0", SamplingOptions(), None)


def test_nothing_to_sample_is_refused():
    with pytest.raises(CalibrationError, match=r"nothing to sample.*--source 0"):
        choose_sampling("night", None, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sampling]\nframe = 3", "sampling.frame"),
        ("[images]\ncalibration = 0", "images.calibration"),
        ("[sampling]\nnear_bits = 65", "sampling.near_bits"),
        ("[sampling", "is not TOML"),
        ("schema_version = 9", "schema_version"),
    ],
)
def test_what_is_no_preset_is_named(tmp_path, text, says):
    with pytest.raises(CalibrationError, match=says):
        read_preset(_preset(tmp_path / "mine.toml", text))


def test_an_unknown_name_is_answered_with_those_that_exist():
    with pytest.raises(CalibrationError) as raised:
        read_preset("nihgt")
    message = str(raised.value)
    assert "no calibration set 'nihgt'" in message
    assert all(name in message for name in list_presets())


def test_an_unknown_condition_is_answered_with_those_of_the_task(tmp_path):
    file = _preset(tmp_path / "mine.toml", '[images]\nconditions = ["0.5"]\n')
    with pytest.raises(CalibrationError, match=r"no condition '0\.5'; expected some of 0\.12"):
        open_set(file, task="low-light")


def test_the_link_in_the_package_leads_to_the_top_folder():
    assert presets._SHIPPED.resolve() == _FOLDER.resolve()
