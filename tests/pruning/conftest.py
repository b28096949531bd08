"""A run of mirnet-prune that costs seconds: three steps, and times that are made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.models.macs import count_macs
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.pruning import job, timing


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Five pairs of random images; one validates."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["low,high,scene,split"]
    for number in range(5):
        high = np.random.default_rng(number).integers(0, 256, (32, 40, 3), np.uint8)
        for kind, pixels in (("low", high // 5), ("high", high)):
            Image.fromarray(pixels).save(folder / f"{kind}{number}.png")
        split = "train" if number else "val"
        rows.append(f"low{number}.png,high{number}.png,{number},{split}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A MIRNet of two blocks whose second one does nothing."""
    torch.manual_seed(0)
    network = MIRNet(MIRNetConfig(channels=16, groups=1, blocks=2, streams=1, columns=1))
    with torch.no_grad():
        network.body[0].body[1].conv_out.weight.zero_()
    path = tmp_path_factory.mktemp("weights") / "wide.safetensors"
    checkpoints.save(network, path, checkpoints.ModelCard(task="low-light", license="ours"))
    return path


@pytest.fixture
def made_up_times(monkeypatch):
    """A machine whose times are MACs; counts the tables and the timings it is asked for."""
    asked = {"tables": 0, "timings": 0, "slower": 1.0, "load": 1.0}

    def graphs_timed(graphs, conditions, rounds):
        asked["tables"] += 1
        asked["load"] *= 3.0  # another program begins
        return {
            name: [asked["load"] * _macs(module, shape[1:], shape[0])] * 3
            for name, (module, shape) in graphs.items()
        }

    def networks_timed(networks, conditions, rounds=15):
        asked["timings"] += 1
        times = {name: _macs(one, conditions.size, 3) for name, one in networks.items()}
        times["pruned"] *= asked["slower"]
        return {name: [value] * 3 for name, value in times.items()}

    monkeypatch.setattr(timing, "_timed", graphs_timed)
    monkeypatch.setattr(job, "time_networks", networks_timed)
    return asked


def _macs(module, size, channels):
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module
            self.config = type("Config", (), {"in_channels": channels})

        def forward(self, batch):
            return self.module(batch)

    return 1e-6 * count_macs(Bare(), *size)
