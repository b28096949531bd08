"""Animations are restored to animations of the same kind: frames, times, loops, alpha."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from mirnet_edge.images.animation import Animation, AnimationFrame
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.runtime.restore import restore_file
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.recognition import is_video

DURATIONS = [100, 50, 200, 30]
SUFFIXES = [
    ".png",
    ".webp",
    pytest.param(
        ".avif", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow < 11.3")
    ),
]


class Brightener(NullRunner):
    """Doubles every level."""

    def run(self, frames):
        return np.minimum(2 * super().run(frames).astype(int), 255).astype(np.uint8)


def levels(number, mode="RGB"):
    """A frame of one color, which a block moves over; half of it transparent with RGBA."""
    pixels = np.full((24, 32, 4), (20 + 20 * number, 60, 100 - 20 * number, 255), np.uint8)
    pixels[8:16, 4 * number : 4 * number + 8, :3] = 5
    pixels[:12, :, 3] = 0 if mode == "RGBA" else 255
    if mode == "L":
        return pixels[..., 0]
    return pixels[..., : len(mode)]


def write_animation(path, mode="RGB", **options):
    first, *later = (Image.fromarray(levels(number, mode)) for number in range(4))
    loop = {} if path.suffix == ".avif" else {"loop": 3}
    first.save(
        path, save_all=True, append_images=later, duration=DURATIONS, **loop, **options
    )  # fmt: skip
    return path


def shown(path):
    """Return the frames of an animation as RGBA, their durations and the loops."""
    frames, durations = [], []
    with Image.open(path) as image:
        loops = image.info.get("loop")
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(round(image.info.get("duration", 0)))
            frames.append(np.asarray(image.convert("RGBA")).astype(int))
    return frames, durations, loops


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_frame_is_restored_and_shown_as_long_as_before(suffix, mode, tmp_path, caplog):
    options = {"lossless": True} if suffix == ".webp" else {}
    source = write_animation(tmp_path / f"a{suffix}", mode, **options)
    assert not is_video(source)
    output = tmp_path / f"out{suffix}"
    with Brightener() as runner:
        restore_file(source, runner, output)
    frames, durations, loops = shown(output)
    assert durations == DURATIONS
    assert loops == (None if suffix == ".avif" else 3)
    tolerance = 8 if suffix == ".avif" else 0
    for number, frame in enumerate(frames):
        expected = levels(number, mode).astype(int)
        visible = frame[..., 3] > 0
        assert (visible == (levels(number, "RGBA")[..., 3] > 0 if mode == "RGBA" else True)).all()
        differs = np.abs(frame[..., :3] - 2 * expected[..., :3])[visible]
        assert differs.mean() <= tolerance
    assert caplog.text == ""


def test_gray_and_what_lies_beside_the_frames_are_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    source = write_animation(tmp_path / "a.webp", exif=exif, icc_profile=profile)
    gray = write_animation(tmp_path / "gray.png", "L")
    with NullRunner() as runner:
        for path in (source, gray):
            restore_file(path, runner, tmp_path / "out" / path.name)
    with Image.open(tmp_path / "out/a.webp") as image:
        assert image.getexif()[0x010F] == "Maker"
        assert image.info["icc_profile"] == profile
    with Image.open(tmp_path / "out/gray.png") as image:
        assert (image.mode, image.n_frames) == ("L", 4)


def test_an_image_for_programs_without_animations_is_passed_over(tmp_path):
    source = write_animation(tmp_path / "a.png", default_image=True)
    before = shown(source)[0]
    assert len(before) == 4
    with NullRunner() as runner:
        restore_file(source, runner, tmp_path / "out.png")
    after = shown(tmp_path / "out.png")[0]
    assert len(after) == 3
    for one, other in zip(after, before[1:], strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("lossless", [True, False])
def test_a_later_frame_may_be_the_first_with_transparency(lossless, tmp_path):
    clear = AnimationFrame(frame=levels(1), alpha=levels(1, "RGBA")[..., 3])
    image = ImageFile(
        frame=levels(0), is_lossless=lossless,
        animation=Animation(frames=(clear,), durations_ms=(40.0, 40.0)),
    )  # fmt: skip
    write_image(tmp_path / "out.webp", image)
    alphas = [frame[..., 3] for frame in shown(tmp_path / "out.webp")[0]]
    assert alphas[0].min() == 255
    assert (alphas[1][:12] == 0).all()


def test_a_format_of_single_images_gets_the_first_frame_with_a_line(tmp_path, caplog):
    source = write_animation(tmp_path / "a.png")
    write_image(tmp_path / "a.jpg", read_image(source))
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - levels(0)).mean() < 6
    assert "has 4 frames, JPEG holds one: the first is written" in caplog.text
