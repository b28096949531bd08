"""mirnet restore --weights: a photo, a folder, a video, and what is said about them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mirnet_edge.cli import progress as progress_module
from mirnet_edge.cli.restore import main
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.runtime import torch_runner


@pytest.fixture
def weights(tmp_path, network_of):
    path = tmp_path / "mirnet.pth"
    import torch

    torch.save(network_of("mirnet").state_dict(), path)
    return path


@pytest.fixture
def photo(tmp_path, smooth_frames):
    path = tmp_path / "photo.png"
    write_image(path, ImageFile(frame=smooth_frames(60, 90)[0]))
    return path


def test_a_photo_is_restored_with_weights_of_the_authors(ran, weights, photo, network_of):
    import torch

    from mirnet_edge.models.inference_form import FrameInterface

    result = ran(main, photo, "--weights", weights, "--compare", "--json")
    assert result.code == 0
    notice, plan, done = result.err.splitlines()
    assert "authors' published checkpoints" in notice
    assert plan.startswith(f"{photo}: 90x60 as a whole; predicted memory ")
    assert " MiB in all; about " in plan
    assert done.endswith("torch:fp32")
    (entry,) = json.loads(result.out)["files"]
    assert entry["tiles"] == 1
    assert 50 < entry["predicted_memory_mib"] < 20_000
    frame = np.array(read_image(photo).frame)
    with torch.inference_mode():
        network = FrameInterface(network_of("mirnet"), "uint8")
        expected = network(torch.from_numpy(frame[None])).numpy()[0]
    restored = read_image(photo.with_name("photo.restored.png")).frame
    assert np.abs(restored.astype(int) - expected).max() <= 1
    assert photo.with_name("photo.compare.png").is_file()


def test_tiles_and_strength_and_what_is_left(ran, weights, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module.PassProgress, "_QUIET_S", 0.0)
    folder = tmp_path / "in"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    out = tmp_path / "out"
    result = ran(
        main, folder, "--weights", weights, "--tile", "64x60", "--strength", "0.5", "--out", out
    )
    assert result.code == 0
    lines = result.err.splitlines()
    assert "in 2 tiles of 64x60, overlap" in lines[1]
    assert any(" %, about " in line for line in lines[2:-1])
    assert (out / "photo.png").is_file()


def test_an_interruption_leaves_nothing(ran, weights, photo, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress_module.PassProgress, "on_pixels", interrupt)
    result = ran(main, photo, "--weights", weights, "--tile", "64x60", "--out", tmp_path / "out")
    assert result.code == 130
    assert result.err.splitlines()[-1].endswith("interrupted; what was finished is kept")
    assert not list((tmp_path / "out").glob("*"))


def test_a_video_is_restored_with_weights(ran, weights, write_video, smooth_frames, tmp_path):
    video = write_video("night.mp4", smooth_frames(32, 48, 3))
    result = ran(main, video, "--weights", weights, "--out", tmp_path / "out.mp4")
    assert result.code == 0
    assert (tmp_path / "out.mp4").is_file()
    assert sum("as a whole" in line for line in result.err.splitlines()) == 1


@pytest.mark.parametrize("other", [("--task", "low-light"), ("--bundle", "shipped:low-light")])
def test_weights_beside_a_task_or_bundle_are_refused(other, ran, weights, photo):
    result = ran(main, photo, "--weights", weights, *other)
    assert result.code == 2
    assert f"mirnet.pth and {other[0][2:]} {other[1]}; give one of them" in result.line


def test_a_bundle_is_not_compiled(ran, photo):
    result = ran(main, photo, "--task", "denoise", "--compile")
    assert result.code == 2
    assert "--compile is for --weights" in result.line


def test_what_is_no_weights_file_is_one_line(ran, photo, tmp_path):
    assert "expected a weights file" in ran(main, photo, "--weights", tmp_path / "a.pth").line
    (tmp_path / "b.pth").write_bytes(b"nothing")
    result = ran(main, photo, "--weights", tmp_path / "b.pth")
    assert (result.code, len(result.err.splitlines())) == (2, 1)


def test_without_torch_one_line_says_how_to_get_it(ran, weights, photo, monkeypatch):
    from mirnet_edge.errors import MissingDependencyError

    def require(self):
        raise MissingDependencyError(f"torch is not installed: {self.install}")

    monkeypatch.setattr(type(torch_runner.BACKEND), "require", require)
    assert 'pip install "mirnet-edge[export]"' in ran(main, photo, "--weights", weights).line


def test_the_python_function_takes_weights(weights, photo):
    import mirnet_edge

    restored = mirnet_edge.restore(photo, weights=weights)
    again = mirnet_edge.restore(read_image(photo).frame, weights=str(weights), tile=(60, 64))
    assert restored.shape == (60, 90, 3)
    assert np.abs(restored.astype(int) - again).max() <= 2
