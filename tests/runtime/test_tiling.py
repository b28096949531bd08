"""Tiles of runners without vectors, and what is refused; those with vectors: tests/export."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge import memory
from mirnet_edge.errors import OptionError
from mirnet_edge.manifest import ContextVector, ImageContract, ThumbnailFacts
from mirnet_edge.memory import MemoryGrowth
from mirnet_edge.runtime import tiling
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.tiling import tile_runner
from mirnet_edge.testing.null_runner import NullRunner


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (37, 61), (64, 32), (130, 50)], ids=str)
def test_odd_sizes_come_back_whole(size, scale, frames_of):
    inner = NullRunner(multiple=8, scale=scale)
    frames = frames_of(*size, 2)
    with tile_runner(inner, tile=(32, 32), overlap=8) as runner:
        found = runner.run(frames)
    assert found.dtype == np.uint8
    assert np.array_equal(found, frames.repeat(scale, 1).repeat(scale, 2))
    assert not inner.is_open
    assert (inner.calls > 2) == (max(size) > 32)


def test_a_graph_of_one_size_takes_larger_and_smaller_frames(make_graph, tmp_path, frames_of):
    image = ImageContract(io="uint8", multiple=8, size=(32, 48))
    path = make_graph(tmp_path / "g.onnx", size=(32, 48))
    with tile_runner(
        OnnxRuntimeRunner(path, image, name="x", precision="fp32"), overlap=8
    ) as runner:
        for size in ((75, 101), (9, 13), (20, 90)):
            frames = frames_of(*size)
            bright = np.rint(np.minimum(frames * 1.5, 255))
            assert np.abs(runner.run(frames) - bright).max() <= 1


class _Recorder(NullRunner):
    """Records the size of each frame."""

    def __init__(self, **options):
        super().__init__(**options)
        self.sizes = []

    def run(self, frames):
        self.sizes.append(frames.shape[:3])
        return super().run(frames)


def test_without_a_tile_frames_are_restored_whole(frames_of):
    inner = _Recorder(multiple=8)
    with tile_runner(inner) as runner:
        runner.run(frames_of(90, 200, 2))
    assert inner.sizes == [(1, 96, 200)] * 2


def test_each_side_of_a_tile_is_rounded_up_to_the_multiple(frames_of):
    inner = _Recorder(multiple=8)
    with tile_runner(inner, tile=(30, 60), overlap=8) as runner:
        runner.run(frames_of(64, 100))
    assert inner.sizes == [(1, 32, 64)] * 6


def _set_bytes_per_pixel(monkeypatch, value, runner):
    """Replace the measurement; return the list that grows with each one."""
    measured = []

    def bytes_per_pixel(given):
        assert given is runner
        measured.append(value)
        return value

    monkeypatch.setattr(tiling, "bytes_per_pixel", bytes_per_pixel)
    return measured


_MIB = 1 << 20


def test_a_memory_limit_sets_the_tile(monkeypatch, frames_of, caplog):
    inner = _Recorder(multiple=8)
    measured = _set_bytes_per_pixel(monkeypatch, _MIB, inner)
    caplog.set_level(logging.INFO, logger=tiling.__name__)
    # 4096 pixels: the least tile for this overlap
    with tile_runner(inner, overlap=56, max_memory_mib=4096) as runner:
        runner.run(frames_of(64, 72, 2))
    assert inner.sizes == [(1, 64, 64)] * 4
    assert len(measured) == 1
    assert caplog.messages == ["null: tiles of 64x64, 1024.0 KiB a pixel"]


_GREEDY = """
import ctypes
import numpy as np
from mirnet_edge.runtime import tiling
from mirnet_edge.testing.null_runner import NullRunner

class Greedy(NullRunner):
    def run(self, frames):
        self.held = np.ones(frames.shape[1] * frames.shape[2] * 512, np.uint8)
        return super().run(frames)

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
    assert ctypes.CDLL(None).mallopt(option, 1 << 30)
freed = np.ones(100 << 20, np.uint8)
del freed
with Greedy() as runner:
    print(tiling.bytes_per_pixel(runner), tiling.bytes_per_pixel(runner))
"""


def test_the_footprint_is_measured_where_much_memory_was_freed_before():
    # another process: threads of other tests free memory in this one
    printed = subprocess.run(
        [sys.executable, "-c", _GREEDY], capture_output=True, text=True, check=True
    ).stdout
    assert [float(one) for one in printed.split()] == pytest.approx([512, 512], rel=0.1)


def test_the_footprint_is_the_peak_over_the_pixels(monkeypatch):
    peak = []

    @contextmanager
    def watch_memory():
        growth = MemoryGrowth()
        yield growth
        growth.peak_bytes = peak[0]

    monkeypatch.setattr(tiling, "watch_memory", watch_memory)
    inner = _Recorder(multiple=100)
    with inner:
        for bytes_, expected in ((12 * 400 * 400, 12.0), (0, 1.0)):
            peak[:] = [bytes_]
            assert tiling.bytes_per_pixel(inner) == expected
    assert inner.sizes == [(1, 100, 100), (1, 400, 400)] * 2


def test_a_memory_limit_is_refused_where_memory_is_not_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS_FILE", tmp_path / "statm")
    with pytest.raises(OptionError, match=r"needs Linux.*give --tile WxH"):
        tiling.bytes_per_pixel(NullRunner())


@dataclass(frozen=True)
class Refusal:
    id: str
    options: dict
    says: str
    fixed: bool = False


@pytest.mark.parametrize(
    "case",
    [
        Refusal("no tile", {"tile": (0, 8)}, "--tile must be positive"),
        Refusal("overlap", {"overlap": -1}, "overlap must be 0 or more"),
        Refusal("memory", {"max_memory_mib": 0}, "--max-memory must be at least 1"),
        Refusal("both", {"tile": (8, 8), "max_memory_mib": 9}, "exclude each other"),
        Refusal("other tile", {"tile": (64, 64)}, "exported for 48x32", fixed=True),
        Refusal("fixed memory", {"max_memory_mib": 9}, "exported for 48x32", fixed=True),
    ],
    ids=lambda case: case.id,
)
def test_what_makes_no_sense_is_refused_in_one_line(case):
    inner = NullRunner(multiple=8)
    if case.fixed:
        inner.image = ImageContract(io="uint8", multiple=8, size=(32, 48))
    with pytest.raises(OptionError, match=case.says) as caught:
        tile_runner(inner, **case.options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"tile": (1, 1), "overlap": 0}, {"max_memory_mib": 1}])
def test_the_smallest_values_are_accepted(options):
    tile_runner(NullRunner(), **options)


def test_a_limit_too_small_for_the_overlap_states_a_limit_that_suffices(monkeypatch, frames_of):
    def restore(mebibytes):
        inner = NullRunner(multiple=8)
        _set_bytes_per_pixel(monkeypatch, _MIB, inner)
        with tile_runner(inner, overlap=64, max_memory_mib=mebibytes) as runner:
            runner.run(frames_of(80, 80))

    with pytest.raises(OptionError) as caught:
        restore(256)
    assert str(caught.value) == (
        "--max-memory 256 allows tiles of 16x16 at 1024.0 KiB a pixel; expected at least 72x72. "
        "Give 5184 MiB, or a smaller overlap"
    )
    with pytest.raises(OptionError, match="Give 5184 MiB"):
        restore(5183)
    restore(5184)


# --- context vectors ------------------------------------------------------------------------

_THUMBNAIL = ThumbnailFacts(factor=4, size=(2, 4))


class _ContextRunner(NullRunner):
    """Adds the last context vector, a frame's mean of red, to every level.

    With a thumbnail there is another vector before it: the thumbnail's last pixel.
    """

    def __init__(self, *, thumbnail=None, size=None, reach=8, scale=1):
        super().__init__(multiple=8, scale=scale)
        vectors = [ContextVector(name="pool", size=1)]
        if thumbnail:
            vectors.insert(0, ContextVector(name="exposure", size=1, thumbnail=thumbnail))
        self.thumbnail = thumbnail
        self.image = ImageContract(
            io="uint8", multiple=8, size=size, scale=scale, vectors=tuple(vectors), reach=reach
        )
        self.context_length = len(vectors)
        self.contexts = []
        """(shape, context_in, smoothing weight) of each call."""

    def own(self, frame):
        found = [frame[..., 0].mean(dtype=np.float64)]
        if self.thumbnail:
            found.insert(0, tiling.thumbnail_of(frame, self.thumbnail)[-1, -1, 1])
        return np.array([found], np.float32)

    def run_with_context(self, frames, context_in, smoothing_weight):
        (frame,) = frames
        given = None if context_in is None else context_in.ravel().tolist()
        self.contexts.append((frame.shape[:2], given, smoothing_weight))
        used = self.own(frame)
        if context_in is not None:
            used = (1 - smoothing_weight) * used + smoothing_weight * context_in
        return self.run(frames) + np.rint(used[0, -1]).astype(np.uint8), used.astype(np.float32)


def _halves():
    """Return two frames of 64x32; the mean of red is 75 and 35."""
    frames = np.zeros((2, 64, 32, 3), np.uint8)
    frames[0, :32], frames[0, 32:] = 100, 50
    frames[1, :32], frames[1, 32:] = 40, 30
    return frames


def test_a_frame_of_one_tile_is_one_run_with_the_context_given():
    inner, frames = _ContextRunner(), _halves()
    given = np.array([[25.0], [5.0]], np.float32)
    with tile_runner(inner, tile=(64, 64)) as runner:
        restored, vectors = runner.run_with_context(frames, given, 0.5)
        assert inner.contexts == [((64, 32), [25.0], 0.5), ((64, 32), [5.0], 0.5)]
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [[50.0], [20.0]]
        assert np.array_equal(restored, frames + np.array([50, 20], np.uint8).reshape(2, 1, 1, 1))
        inner.contexts.clear()
        runner.run(frames)
    assert inner.contexts == [((64, 32), None, 0.0)] * 2


@pytest.mark.parametrize(
    ("weight", "used", "measured"), [(0.0, 75.0, 2), (0.5, 50.0, 2), (1.0, 25.0, 0)]
)
def test_every_tile_is_run_with_the_context_of_the_frame(weight, used, measured):
    inner, frames = _ContextRunner(), _halves()[:1]
    given = np.array([[25.0]], np.float32) if weight else None
    with tile_runner(inner, tile=(32, 32)) as runner:
        restored, vectors = runner.run_with_context(frames, given, weight)
    # an overlap of 16 needs three tiles; the context is measured on two without overlap
    means = [((32, 32), None, 0.0)] * measured
    assert inner.contexts == [*means, *[((32, 32), [used], 1.0)] * 3]
    assert vectors.tolist() == [[used]]
    assert np.array_equal(restored, frames + np.uint8(used))


class _Counter(_ContextRunner):
    """Fills each tile with 0, then 100, then 200."""

    def run(self, frames):
        return np.full_like(super().run(frames), 100 * (self.calls - 1))

    def run_with_context(self, frames, context_in, smoothing_weight):
        return self.run(frames), context_in


def _row_of_two_tiles(inner, tile, width, overlap=None):
    """Return the levels along a row that two tiles share, the first 0 and the second 100."""
    context = np.zeros((1, 1), np.float32)
    frames = np.zeros((1, 8, width, 3), np.uint8)
    with tile_runner(inner, tile=(8, tile), overlap=overlap) as runner:
        if inner.context_length:
            return runner.run_with_context(frames, context, 1.0)[0][0, 0, :, 0].tolist()
        return runner.run(frames)[0, 0, :, 0].tolist()


def _ramp(begin, length, width):
    """Return 0 up to BEGIN, then a linear rise to 100 over LENGTH, then 100."""
    rise = (np.arange(width) + 0.5 - begin) / max(length, 1e-9)
    return np.rint(100 * rise.clip(0, 1)).astype(int).tolist()


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_that_agree_in_the_middle_of_the_overlap_are_not_blended(scale):
    # an overlap of 32, twice the reach: tiles at 0 and 32
    for overlap in (None, 32):
        row = _row_of_two_tiles(_Counter(reach=16, scale=scale), 64, 96, overlap)
        assert row == _ramp(scale * 48, 0, scale * 96)


def test_tiles_are_blended_where_the_overlap_is_less_than_twice_the_reach():
    assert _row_of_two_tiles(_Counter(reach=16), 64, 96, 24) == _ramp(36, 24, 96)


def test_tiles_are_blended_over_64_pixels_where_the_reach_is_unknown():
    assert _row_of_two_tiles(_Counter(reach=None), 96, 128) == _ramp(32, 64, 128)


def test_tiles_without_context_are_blended_whatever_the_reach():
    inner = _Counter(reach=16)
    inner.context_length = 0
    assert _row_of_two_tiles(inner, 64, 96) == _ramp(32, 32, 96)


def test_the_overlap_is_twice_the_reach_in_multiples():
    assert tile_runner(_ContextRunner(reach=9)).overlap == 24
    assert tile_runner(_ContextRunner(reach=None)).overlap == 64
    assert tile_runner(NullRunner(multiple=48)).overlap == 96
    assert tile_runner(_ContextRunner(reach=9), overlap=5).overlap == 5


# --- thumbnails -----------------------------------------------------------------------------


def test_a_thumbnail_is_the_means_of_boxes_sampled_between_their_centers():
    boxes = np.array([[0, 40], [80, 200]], np.uint8)
    frame = boxes.repeat(2, 0).repeat(2, 1)[..., None].repeat(3, 2)
    frame[0, 0], frame[1, 1] = (8, 4, 0), (0, 0, 2)  # means of the first box: 2, 1 and 0.5

    def sampled(*size):
        small = tiling.thumbnail_of(frame, ThumbnailFacts(factor=2, size=size))
        assert small.dtype == np.float32
        return small

    same = sampled(2, 2)
    assert same[0, 0].tolist() == [2, 1, 0.5]
    assert same[..., 0].tolist() == [[2, 40], [80, 200]]
    assert sampled(1, 1)[0, 0].tolist() == [80.5, 80.25, 80.125]
    np.testing.assert_allclose(
        sampled(3, 2)[..., 0], [[2, 40], [41, 120], [80, 200]], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(
        sampled(2, 3)[..., 0], [[2, 21, 40], [80, 140, 200]], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("fixed", [None, (16, 24), (32, 48)])
def test_a_frame_is_made_with_a_given_thumbnail(fixed):
    # sixteenths: exactly the means that boxes of 4x4 pixels can have
    small = np.random.default_rng(0).integers(0, 255 * 16, (2, 3, 3)).astype(np.float32) / 16
    small[0, 0], small[1, 2] = 0, 255
    thumbnail = ThumbnailFacts(factor=4, size=(2, 3))
    runner = _ContextRunner(thumbnail=thumbnail)
    made = tiling.frame_with_thumbnail(small, thumbnail, runner, fixed)
    assert made.dtype == np.uint8
    assert made.shape == (1, *(fixed or (8, 16)), 3)  # 8x12, padded to the multiple
    unpadded = made[0] if fixed else made[0, :, :12]
    found = tiling.thumbnail_of(unpadded, thumbnail)
    np.testing.assert_allclose(found, small, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fixed", [None, (32, 48)])
def test_context_by_tiles_is_that_of_the_frame(fixed):
    inner = _ContextRunner(thumbnail=_THUMBNAIL, size=fixed)
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 192, 3), np.uint8)
    exposure, pool = inner.own(frame[0])[0]
    with inner:
        found = tiling.context_by_tiles(inner, frame, (32, 48), inner.image.vectors, fixed)
    assert found.dtype == np.float32
    assert found[0, 0] == pytest.approx(exposure, abs=0.5 / 16)  # whole levels in boxes
    assert found[0, 1] == pytest.approx(pool, abs=1e-3)
    # the frame downscaled to a tile, a frame with its thumbnail, then the eight tiles
    sizes = [size for size, _, _ in inner.contexts]
    assert sizes == [fixed or (16, 48), fixed or (8, 16), *[(32, 48)] * 8]
    estimates = [given for _, given, _ in inner.contexts]
    assert estimates[:2] == [None, None]
    assert [weight for _, _, weight in inner.contexts] == [0.0, 0.0, *[0.9] * 8]
    for estimate in estimates[2:]:
        assert estimate[0] == found[0, 0]
        assert estimate[1] == pytest.approx(pool, abs=2)


def test_a_graph_of_one_size_computes_context_at_its_size():
    inner = _ContextRunner(thumbnail=_THUMBNAIL, size=(32, 48))
    with tile_runner(inner) as runner:
        runner.run(np.zeros((1, 64, 192, 3), np.uint8))
    assert {size for size, _, _ in inner.contexts} == {(32, 48)}


def test_a_runner_with_context_must_describe_it():
    inner = _ContextRunner()
    del inner.image
    with tile_runner(inner, tile=(32, 32)) as runner, pytest.raises(TypeError, match="layout"):
        runner.run(_halves())


@pytest.mark.parametrize(
    ("size", "fixed", "expected"),
    [
        ((64, 128), None, (16, 32)),
        ((128, 64), None, (32, 16)),
        ((32, 512), None, (8, 32)),
        ((64, 128), (32, 48), (32, 48)),
    ],
)
def test_a_frame_is_downscaled_to_a_tile_by_area(size, fixed, expected):
    frame = np.zeros((1, *size, 3), np.uint8)
    frame[:, size[0] // 2 :] = 200
    small = tiling._shrink(frame, (32, 32), 8, fixed)
    assert small.dtype == np.uint8
    assert small.shape == (1, *expected, 3)
    half = expected[0] // 2
    assert np.all(small[:, :half] == 0)
    assert np.all(small[:, half:] == 200)


def test_a_frame_is_downscaled_to_the_shorter_side_of_a_tile():
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    for tile in ((32, 64), (64, 32)):
        assert tiling._shrink(frame, tile, 8, None).shape == (1, 32, 32, 3)


def test_downscaling_counts_every_pixel():
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    frame[:, ::4], frame[:, 3::4] = 200, 200
    assert np.all(tiling._shrink(frame, (8, 8), 8, None) == 100)
