"""Sampling a set from a camera, a video or a folder: what is kept, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from mirnet_edge.calibration.sampling import (
    SamplingOptions,
    describe_frame,
    sample_set,
    sample_stratified,
)
from mirnet_edge.calibration.sets import read_set
from mirnet_edge.errors import CalibrationError

SIZE = (48, 64)


def _view(number, light=1.0, size=SIZE):
    """Return a smooth image that differs from those of other numbers."""
    coarse = np.random.default_rng(number).uniform(0, 255, (6, 8, 3))
    large = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return (large * light).clip(0, 255).astype(np.uint8)


def _folder(path, frames):
    path.mkdir()
    for place, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{place:03}.png")
    return path


def _noisy(frame, seed):
    noise = np.random.default_rng(seed).normal(0, 2, frame.shape)
    return (frame + noise).clip(0, 255).astype(np.uint8)


def test_near_duplicates_are_dropped_and_others_kept(tmp_path):
    views = [_view(number) for number in range(10)]
    frames = [_noisy(view, seed) for seed in range(3) for view in views]
    done = sample_set(str(_folder(tmp_path / "in", frames)), tmp_path / "set")
    assert done.described.seen == 30
    assert len(done.described.files) == 10
    assert done.described.near_duplicates == 20


def test_the_same_view_in_other_light_is_kept(tmp_path):
    frames = [_view(number, light) for number in range(5) for light in (1.0, 0.5)]
    done = sample_set(str(_folder(tmp_path / "in", frames)), tmp_path / "set")
    assert len(done.described.files) == 10


def test_what_is_rare_in_the_source_is_not_rare_in_the_set():
    bright = [describe_frame(_view(number)) for number in range(60)]
    dark = [describe_frame(_view(100 + number, 0.1)) for number in range(20)]
    kept = sample_stratified([*bright, *dark], 16)
    assert len(kept) == 16
    assert sum(one.light < 0.1 for one in kept) >= 4
    detail = sorted(one.detail for one in bright)
    assert max(one.detail for one in kept) >= detail[40]
    assert len({id(one) for one in kept}) == 16


def test_a_set_is_accepted_by_the_export_and_bound_to_its_images(tmp_path):
    source = _folder(tmp_path / "in", [_view(number) for number in range(12)])
    sample_set(str(source), tmp_path / "set")
    by_file, by_folder = read_set(tmp_path / "set" / "set.toml"), read_set(tmp_path / "set")
    assert by_file.sha256 == by_folder.sha256
    assert len(by_file.calibration) + len(by_file.evaluation) == 12
    Image.fromarray(_view(99)).save(tmp_path / "set" / "0003.png")
    with pytest.raises(CalibrationError, match=r"0003\.png is not as set\.toml lists it"):
        read_set(tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "says"),
    [("files = [", "is not TOML"), ("seen = 3", "files: Field required"), ("files = 3", "files: ")],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path, text, says):
    source = _folder(tmp_path / "in", [_view(number) for number in range(12)])
    sample_set(str(source), tmp_path / "set")
    (tmp_path / "set" / "set.toml").write_text(text)
    with pytest.raises(CalibrationError, match=rf"set\.toml.*{says}.*Sample the set again") as told:
        read_set(tmp_path / "set")
    assert "\n" not in str(told.value)


def test_the_same_source_and_seed_give_the_same_set(tmp_path):
    source = str(_folder(tmp_path / "in", [_view(number) for number in range(20)]))
    sets = [
        sample_set(source, tmp_path / name, sampling=SamplingOptions(frames=9), seed=3)
        for name in ("a", "b")
    ]
    assert sets[0].described == sets[1].described
    assert len(sets[0].described.files) == 9


def test_a_video_is_sampled(tmp_path):
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, SIZE[::-1])
    for number in range(10):
        for _ in range(3):
            writer.write(_view(number)[..., ::-1])
    writer.release()
    done = sample_set(path, tmp_path / "set")
    assert done.described.seen == 30
    assert len(done.described.files) == 10
    first = read_set(tmp_path / "set").calibration[0].frame
    errors = [np.abs(first.astype(int) - _view(number)).mean() for number in range(10)]
    assert min(errors) < 8, "the colors are those that went in"


def test_frames_of_mixed_sizes_are_refused(tmp_path):
    source = _folder(tmp_path / "in", [_view(0), _view(1), _view(2, size=(32, 32))])
    with pytest.raises(CalibrationError, match="frame 3 is 32x32, those before it 64x48"):
        sample_set(str(source), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(CalibrationError, match="gave 0 frames, 0 of them different"):
        sample_set(str(tmp_path / "in"), tmp_path / "set")


def test_one_view_again_and_again_is_refused(tmp_path):
    source = _folder(tmp_path / "in", [_noisy(_view(0), seed) for seed in range(12)])
    with pytest.raises(CalibrationError, match="gave 12 frames, 1 of them different"):
        sample_set(str(source), tmp_path / "set")


def test_a_camera_that_is_absent_is_one_line(tmp_path, capfd):
    with pytest.raises(CalibrationError, match="camera 93 cannot be opened: is it plugged in"):
        sample_set("93", tmp_path / "set")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "says"), [("nowhere", "no source nowhere"), ("text.avi", "is it a video")]
)
def test_what_is_no_source_is_refused(tmp_path, monkeypatch, source, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(CalibrationError, match=says):
        sample_set(source, tmp_path / "set")


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "letter.txt").write_text("dear")
    source = _folder(tmp_path / "in", [_view(number) for number in range(10)])
    with pytest.raises(CalibrationError, match="holds files that are no set"):
        sample_set(str(source), tmp_path / "set")
    assert (tmp_path / "set" / "letter.txt").read_text() == "dear"
