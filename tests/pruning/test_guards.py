"""What does not fit into memory is refused before it is begun."""

from __future__ import annotations

import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.pruning import timing

_GIB = 2**30


@pytest.fixture(scope="module")
def network():
    return MIRNet(MIRNetConfig(channels=16, groups=1, blocks=2))


def test_a_step_that_does_not_fit_says_what_it_takes(network, monkeypatch):
    monkeypatch.setattr(timing, "available_memory", lambda: _GIB // 4)
    with pytest.raises(OptionError, match=r"64 crops of 256 takes about \d+\.\d GiB, 0\.2 GiB are"):
        timing.require_memory(network, backend="openvino", size=(64, 64), batch=64, crop=256)


def test_a_frame_that_does_not_fit_says_what_it_takes(network, monkeypatch):
    monkeypatch.setattr(timing, "available_memory", lambda: _GIB)
    with pytest.raises(OptionError, match=r"frames of 3840x2160 takes about \d+\.\d GiB"):
        timing.require_memory(network, backend="openvino", size=(2160, 3840), batch=1, crop=32)


def test_a_runtime_that_holds_more_is_refused_sooner(network, monkeypatch):
    monkeypatch.setattr(timing, "available_memory", lambda: 17 * _GIB)
    frame = {"size": (720, 1280), "batch": 1, "crop": 32}
    timing.require_memory(network, backend="openvino", **frame)
    with pytest.raises(OptionError, match="choose a smaller --size"):
        timing.require_memory(network, backend="onnxruntime", **frame)


def test_what_fits_passes_and_so_does_what_nobody_can_tell(network, monkeypatch):
    monkeypatch.setattr(timing, "available_memory", lambda: 8 * _GIB)
    timing.require_memory(network, backend="openvino", size=(256, 256), batch=4, crop=96)
    monkeypatch.setattr(timing, "available_memory", lambda: None)
    timing.require_memory(network, backend="openvino", size=(2160, 3840), batch=64, crop=256)
