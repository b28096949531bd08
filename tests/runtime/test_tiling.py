"""Tiles of runners without vectors, and what is refused; those with vectors: tests/export."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.manifest import ImageContract
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


def test_a_memory_limit_sets_the_tile(monkeypatch, frames_of):
    monkeypatch.setattr(tiling, "bytes_per_pixel", lambda runner: 1024.0)
    inner = NullRunner(multiple=8)
    with tile_runner(inner, overlap=16, max_memory_mib=4) as runner:  # 4096 pixels, 64x64
        runner.run(frames_of(112, 112))
    assert inner.calls == 4


def test_the_footprint_is_measured_on_the_runner():
    class Greedy(NullRunner):
        def run(self, frames):
            self.held = np.ones(frames.shape[1] * frames.shape[2] * 512, np.uint8)
            return super().run(frames)

    with Greedy() as runner:
        assert 400 < tiling.bytes_per_pixel(runner) < 1500


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


def test_a_limit_too_small_for_the_overlap_says_what_would_do(monkeypatch, frames_of):
    monkeypatch.setattr(tiling, "bytes_per_pixel", lambda runner: 65536.0)
    with (
        tile_runner(NullRunner(multiple=8), overlap=64, max_memory_mib=16) as runner,
        pytest.raises(OptionError, match="Give 324 MiB"),
    ):
        runner.run(frames_of(256, 256))
