"""Small networks and their graphs, exported once for all tests of the export."""

from __future__ import annotations

import numpy as np
import pytest

SIZE = (32, 48)
"""Of the graphs with a fixed size."""


@pytest.fixture(scope="session")
def graph_of(tmp_path_factory, network_of):
    """Return the fp32 file of a small network: graph_of("edge", io="uint8", size=SIZE)."""
    from mirnet_edge.export.onnx_graph import export_onnx

    folder = tmp_path_factory.mktemp("graphs")

    def make(name, io="uint8", size=SIZE):
        path = folder / f"{name}-{io}-{'fixed' if size else 'any'}.onnx"
        if not path.exists():
            network = network_of(name)
            export_onnx(network, path, io=io, size=size, multiple=network.multiple)
        return path

    return make


@pytest.fixture(scope="session")
def smooth_frames():
    """Return frames with a plane and waves in them: smooth_frames(height, width, count=1)."""

    def make(height, width, count=1):
        rng = np.random.default_rng([height, width, count])
        across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        across, down = across[None, ..., None], down[None, ..., None]
        slopes, waves = rng.uniform(-1, 1, (2, 2, count, 1, 1, 3))
        plane = across * slopes[0] + down * slopes[1]
        wave = np.sin(8 * (across * waves[0] + down * waves[1]))
        return (127 + 70 * plane + 50 * wave).clip(0, 255).astype(np.uint8)

    return make
