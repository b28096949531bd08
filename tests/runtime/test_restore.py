"""Restoring files: names that cannot clash, inputs that are not touched, failures that are told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, ImageError, MirnetEdgeError, OptionError
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.runtime.restore import (
    check_outputs,
    restore_file,
    restore_files,
    restore_image,
    side_by_side,
)
from mirnet_edge.testing.null_runner import NullRunner

_TURN_RIGHT = 6


def _exif(orientation):
    from PIL import Image

    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes().removeprefix(b"Exif\0\0")


class _Negative(NullRunner):
    """Gives the negative of what it takes."""

    def run(self, frames):
        return 255 - super().run(frames)


@pytest.fixture
def make_image(tmp_path, frames_of):
    """Write an image of noise: make_image("in/a.png", height=6, width=8, exif=None)."""

    def make(name, *, height=6, width=8, **rest):
        path = tmp_path / name
        write_image(path, ImageFile(frame=frames_of(height, width)[0], **rest))
        return path

    return make


def _names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_everything_but_the_colors_stays(frames_of):
    image = ImageFile(
        frame=frames_of(4, 5)[0],
        alpha=np.full((4, 5), 7, np.uint8),
        icc=b"profile",
        exif=b"tags",
        format="TIFF",
        source_bits=16,
    )
    with _Negative() as runner:
        restored = restore_image(runner, image)
    np.testing.assert_array_equal(restored.frame, 255 - image.frame)
    for name in ("alpha", "icc", "exif", "format", "source_bits"):
        assert getattr(restored, name) is getattr(image, name)


def test_transparency_grows_with_the_colors(frames_of):
    # a plane, which bicubic interpolation keeps wherever it sees both sides
    down, across = np.mgrid[0:10, 0:12]
    alpha = (40 + 4 * across + 8 * down).astype(np.uint8)
    image = ImageFile(frame=frames_of(10, 12)[0], alpha=alpha, icc=b"profile")
    with NullRunner(scale=2) as runner:
        restored = restore_image(runner, image)
    assert restored.frame.shape == (20, 24, 3)
    assert restored.alpha.shape == (20, 24)
    assert restored.alpha.dtype == np.uint8
    assert restored.icc == b"profile"
    down, across = (np.mgrid[0:20, 0:24] + 0.5) / 2 - 0.5
    plane = 40 + 4 * across + 8 * down
    assert np.abs(restored.alpha - plane)[4:-4, 4:-4].max() <= 0.5
    np.testing.assert_array_equal(image.alpha, alpha)
    assert image.frame.shape == (10, 12, 3)


@pytest.mark.parametrize("level", [0, 7, 255])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)], ids=str)
def test_even_transparency_stays_even_where_it_grows(level, size, frames_of):
    image = ImageFile(frame=frames_of(*size)[0], alpha=np.full(size, level, np.uint8))
    with NullRunner(scale=2) as runner:
        alpha = restore_image(runner, image).alpha
    assert alpha.shape == (2 * size[0], 2 * size[1])
    assert (alpha == level).all()


def test_a_runner_that_is_not_open_is_an_error(frames_of):
    with pytest.raises(EngineError, match="null is not open"):
        restore_image(NullRunner(), ImageFile(frame=frames_of(4, 5)[0]))


def test_files_are_restored_under_their_names_and_told_in_their_order(make_image, tmp_path):
    images = [make_image("in/b.png"), make_image("in/a.tif", height=3, width=5)]
    before = [image.read_bytes() for image in images]
    out = tmp_path / "deep" / "out"
    told = []
    runner = _Negative()
    done = restore_files(images, runner, out, on_done=told.append)
    assert told == done
    assert [one.source for one in done] == images
    assert [one.output for one in done] == [out / "b.png", out / "a.tif"]
    assert [(one.width, one.height) for one in done] == [(8, 6), (5, 3)]
    assert all(one.comparison is None and one.latency_ms >= 0 for one in done)
    assert _names_in(out) == ["a.tif", "b.png"]
    for image, one in zip(images, done, strict=True):
        restored, source = read_image(one.output), read_image(image)
        np.testing.assert_array_equal(restored.frame, 255 - source.frame)
        assert restored.format == source.format
    assert [image.read_bytes() for image in images] == before
    assert (runner.opened, runner.is_open) == (1, False)


def test_each_image_is_told_once_it_is_written(make_image, tmp_path):
    images = [make_image("in/a.png"), make_image("in/b.png")]
    written = []
    restore_files(
        images,
        NullRunner(),
        tmp_path / "out",
        on_done=lambda one: written.append(_names_in(one.output.parent)),
    )
    assert written == [["a.png"], ["a.png", "b.png"]]


def test_transparency_profile_and_tags_come_through(make_image, tmp_path):
    alpha = np.arange(48, dtype=np.uint8).reshape(6, 8)
    image = make_image("in/a.png", alpha=alpha, exif=_exif(_TURN_RIGHT))
    (one,) = restore_files([image], _Negative(), tmp_path / "out")
    restored = read_image(one.output)
    np.testing.assert_array_equal(restored.alpha, alpha)
    assert restored.exif == _exif(_TURN_RIGHT)


def test_a_runner_that_is_open_stays_open(make_image, tmp_path):
    with NullRunner() as runner:
        restore_files([make_image("in/a.png")], runner, tmp_path / "out")
        assert runner.is_open
        assert runner.opened == 1


# before and after


def test_side_by_side_shows_both_frames_and_a_white_line(frames_of):
    before, after = frames_of(4, 5, 2)
    both = side_by_side(before, after)
    np.testing.assert_array_equal(both[:, :5], before)
    np.testing.assert_array_equal(both[:, -5:], after)
    assert (both[:, 5:-5] == 255).all()
    assert both.shape[1] > 10


def test_side_by_side_enlarges_the_smaller_frame(frames_of):
    down, across = np.mgrid[0:10, 0:12]
    before = np.stack([20 + 4 * across + 8 * down] * 3, -1).astype(np.uint8)
    (after,) = frames_of(20, 24)
    both = side_by_side(before, after)
    np.testing.assert_array_equal(both[:, -24:], after)
    assert (both[:, 24:-24] == 255).all()
    assert both.shape[0] == 20
    enlarged = both[:, :24]
    down, across = (np.mgrid[0:20, 0:24] + 0.5) / 2 - 0.5
    plane = (20 + 4 * across + 8 * down)[..., None]
    assert np.abs(enlarged - plane)[4:-4, 4:-4].max() <= 0.5


def test_a_result_that_is_larger_is_written_and_compared_at_its_size(make_image, tmp_path):
    alpha = np.full((6, 8), 90, np.uint8)
    image = make_image("in/a.png", alpha=alpha, exif=_exif(_TURN_RIGHT))
    (one,) = restore_files([image], NullRunner(scale=2), tmp_path / "out", compare=True)
    source, restored = read_image(image), read_image(one.output)
    np.testing.assert_array_equal(restored.frame, source.frame.repeat(2, 0).repeat(2, 1))
    assert (restored.alpha == 90).all()
    assert restored.alpha.shape == (12, 16)
    comparison = read_image(one.comparison).frame
    turned = np.rot90(source.frame, -1)
    after = np.rot90(restored.frame, -1)
    np.testing.assert_array_equal(comparison, side_by_side(turned, after))
    np.testing.assert_array_equal(comparison[:, -12:], after)
    assert comparison.shape[0] == 16
    assert (one.width, one.height) == (16, 12)  # of the result


def test_the_comparison_is_beside_the_result(make_image, tmp_path):
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = make_image("in/a.jpg", icc=icc)
    out = tmp_path / "out"
    (one,) = restore_files([image], _Negative(), out, compare=True)
    assert one.comparison == out / "a.compare.png"
    assert _names_in(out) == ["a.compare.png", "a.jpg"]
    source = read_image(image).frame
    comparison = read_image(one.comparison)
    assert comparison.icc == icc
    np.testing.assert_array_equal(comparison.frame, side_by_side(source, 255 - source))


def test_the_comparison_is_turned_as_a_viewer_turns_it(make_image, tmp_path):
    image = make_image("in/a.png", exif=_exif(_TURN_RIGHT))
    (one,) = restore_files([image], NullRunner(), tmp_path / "out", compare=True)
    comparison = read_image(one.comparison)
    turned = np.rot90(read_image(image).frame, -1)  # clockwise
    np.testing.assert_array_equal(comparison.frame, side_by_side(turned, turned))
    assert comparison.exif is None
    assert (one.width, one.height) == (8, 6)  # as stored


# outputs that would do harm


@dataclass(frozen=True)
class Clash:
    id: str
    images: list[str]
    out: str
    says: list[str]
    compare: bool = False


@pytest.mark.parametrize(
    "case",
    [
        Clash("its own folder", ["in/a.png"], "in", ["would replace the input", "choose another"]),
        Clash("by a detour", ["in/a.png"], "in/../in", ["a.png would replace the input"]),
        Clash(
            "another input",
            ["in/a.png", "other/a.png"],
            "other",
            ["other/a.png would replace the input", "choose another --out folder"],
        ),
        Clash(
            "one name twice",
            ["in/a.png", "other/a.png"],
            "out",
            ["in/a.png and ", "other/a.png would both be written to", "different folders"],
        ),
        Clash(
            "one comparison twice",
            ["in/a.png", "in/a.jpg"],
            "out",
            ["in/a.png and ", "in/a.jpg would both be written to", "a.compare.png"],
            compare=True,
        ),
        Clash(
            "a comparison and a result",
            ["in/a.png", "in/a.compare.png"],
            "out",
            ["would both be written to", "a.compare.png"],
            compare=True,
        ),
        Clash(
            "a comparison and an input",
            ["in/a.png", "out/a.compare.png"],
            "out",
            ["a.compare.png would replace the input"],
            compare=True,
        ),
    ],
    ids=lambda case: case.id,
)
def test_outputs_that_would_replace_something_are_refused_before_the_work(
    case, make_image, tmp_path
):
    images = [make_image(name) for name in case.images]
    before = {image: image.read_bytes() for image in images}
    runner = NullRunner()
    with pytest.raises(OptionError) as raised:
        restore_files(images, runner, tmp_path / case.out, compare=case.compare)
    for part in case.says:
        assert part in str(raised.value)
    assert runner.opened == 0
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: path.read_bytes() for path in files} == before


def test_a_link_to_the_inputs_folder_is_seen_through(make_image, tmp_path):
    image = make_image("in/a.png")
    (tmp_path / "out").symlink_to(tmp_path / "in")
    with pytest.raises(OptionError, match="would replace the input"):
        check_outputs([image], tmp_path / "out", compare=False)


def test_names_that_differ_in_their_suffix_do_not_clash_without_comparison(make_image, tmp_path):
    images = [make_image("in/a.png"), make_image("in/a.jpg")]
    check_outputs(images, tmp_path / "out", compare=False)
    assert len(restore_files(images, NullRunner(), tmp_path / "out")) == 2


def test_an_output_folder_that_is_a_file_is_refused(make_image, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OptionError, match=r"--out must be a folder, .*out is a file; choose"):
        restore_files([make_image("in/a.png")], NullRunner(), tmp_path / "out")


def test_a_former_result_is_replaced(make_image, tmp_path):
    image = make_image("in/a.png")
    restore_files([image], NullRunner(), tmp_path / "out")
    restore_files([image], _Negative(), tmp_path / "out")
    restored = read_image(tmp_path / "out" / "a.png").frame
    np.testing.assert_array_equal(restored, 255 - read_image(image).frame)


# images that cannot be restored


@dataclass(frozen=True)
class Broken:
    id: str
    name: str
    content: bytes | None
    says: str


_BROKEN = [
    Broken("text", "in/broken.png", b"no image", "broken.png is damaged or another kind of file"),
    Broken("empty", "in/broken.jpg", b"", "broken.jpg is empty"),
    Broken("missing", "in/broken.png", None, "broken.png cannot be read (No such file"),
    Broken("other suffix", "in/broken.bmp", b"BM", "broken.bmp has the suffix '.bmp'"),
]


@pytest.fixture
def break_image(tmp_path):
    def make(case):
        path = tmp_path / case.name
        if case.content is not None:
            path.write_bytes(case.content)
        return path

    return make


@pytest.mark.parametrize("case", _BROKEN, ids=lambda case: case.id)
def test_one_that_cannot_be_read_is_told_and_the_others_go_on(
    case, make_image, break_image, tmp_path
):
    good = [make_image("in/a.png"), make_image("in/z.png")]
    broken = break_image(case)
    failed = []
    done = restore_files(
        [good[0], broken, good[1]],
        NullRunner(),
        tmp_path / "out",
        on_failed=lambda path, error: failed.append((path, error)),
    )
    assert [one.source for one in done] == good
    ((path, error),) = failed
    assert path == broken
    assert isinstance(error, ImageError)
    assert case.says in str(error)
    assert _names_in(tmp_path / "out") == ["a.png", "z.png"]


@pytest.mark.parametrize("case", _BROKEN, ids=lambda case: case.id)
def test_nobody_to_tell_makes_the_first_failure_an_error(case, make_image, break_image, tmp_path):
    images = [make_image("in/a.png"), break_image(case), make_image("in/z.png")]
    runner = NullRunner()
    with pytest.raises(ImageError) as raised:
        restore_files(images, runner, tmp_path / "out")
    assert case.says in str(raised.value)
    assert not runner.is_open
    assert _names_in(tmp_path / "out") == ["a.png"]


def test_a_image_that_does_not_fit_is_named(make_image, tmp_path):
    image = make_image("in/a.png")
    runner = NullRunner(failure=ImageError("frame is 8x6; fp32.onnx was exported for 9x9"))
    with pytest.raises(ImageError, match=r"a\.png: frame is 8x6; fp32.onnx was exported for 9x9"):
        restore_files([image], runner, tmp_path / "out")
    assert _names_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    "failure", [EngineError("the device is gone"), MemoryError(), OSError(5, "I/O"), KeyError("x")]
)
def test_a_failure_of_any_type_is_told_and_the_others_go_on(failure, make_image, tmp_path):
    images = [make_image("in/a.png"), make_image("in/b.png"), make_image("in/c.png")]

    class Failing(NullRunner):
        def run(self, frames):
            restored = super().run(frames)
            if self.calls == 2:
                raise failure
            return restored

    runner, failed = Failing(), []
    restore_files(
        images, runner, tmp_path / "out", on_failed=lambda *failure: failed.append(failure)
    )
    assert failed == [(images[1], failure)]
    assert not runner.is_open
    assert _names_in(tmp_path / "out") == ["a.png", "c.png"]


def test_without_a_runner_the_bytes_are_the_same_where_the_format_is(make_image, tmp_path):
    image = make_image("in/a.png")
    restore_file(image, None, tmp_path / "b.png", comparison=tmp_path / "b.compare.png")
    assert (tmp_path / "b.png").read_bytes() == image.read_bytes()
    shown = read_image(tmp_path / "b.compare.png").frame
    np.testing.assert_array_equal(shown[:, :8], shown[:, -8:])
    restore_file(image, None, tmp_path / "b.webp")
    assert read_image(tmp_path / "b.webp").format == "WEBP"


def test_a_folder_that_cannot_be_made_is_named(make_image, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MirnetEdgeError, match=r"out cannot be written .*choose another"):
        restore_files([make_image("in/a.png")], NullRunner(), tmp_path / "file" / "out")
