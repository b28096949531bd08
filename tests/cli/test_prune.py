"""mirnet-prune as it is typed: a tiny network, timed for real and trained for three steps."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.cli import progress
from mirnet_edge.cli.prune import main
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

QUICK = [
    "--backend", "onnxruntime", "--size", "64x64", "--steps", "3", "--batch", "1", "--crop", "16",
    "--device", "cpu", "--workers", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for kind in ("low", "high"):
        (folder / kind).mkdir()
    for number in range(3):
        high = np.random.default_rng(number).integers(0, 256, (32, 40, 3), np.uint8)
        Image.fromarray(high // 5).save(folder / f"low/{number}.png")
        Image.fromarray(high).save(folder / f"high/{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    network = MIRNet(MIRNetConfig(channels=16, groups=1, blocks=1, streams=1, columns=1))
    path = tmp_path_factory.mktemp("weights") / "wide.safetensors"
    checkpoints.save(network, path, checkpoints.ModelCard(task="low-light"))
    return path


@pytest.mark.slow
def test_a_run_is_interrupted_gone_on_with_and_told_again(
    pairs, weights, tmp_path, ran, monkeypatch
):
    def interrupt(self, step, loss):
        raise KeyboardInterrupt

    for number in range(3):  # on a busy machine no pruned network may be measured as faster
        out = tmp_path / f"out{number}"
        typed = ["--weights", weights, "--data", pairs, "--out", out, "--speedup", 1.1, *QUICK]
        with monkeypatch.context() as patched:
            patched.setattr(progress.TrainingProgress, "on_step", interrupt)
            stopped = ran(main, *typed)
        if stopped.code == 130:
            break
    assert stopped.code == 130
    assert "measure the latency table latency.json" in stopped.err
    kept = "the latency table, the pruned networks and the last training state"
    assert stopped.err.splitlines()[-1].startswith(f"mirnet-prune: interrupted; {kept} in {out} ")

    found = ran(main, *typed, "--json")
    assert found.code == 0, found.err
    assert "latency table" not in found.err
    assert "distill from the unpruned network (round 1 of 1)" in found.err
    told = json.loads(found.out)
    assert told == json.loads((out / "prune.json").read_text())
    loaded = checkpoints.load(out / "pruned.safetensors")
    (only,) = told["rounds"]
    attempt = only["attempts"][only["best"]]
    assert loaded.card.parent == told["options"]["weights_sha256"]
    assert attempt["config"]["channels"] == loaded.model.config.channels
    # how much is pruned for the speedup is this machine's, not the command's
    parameters = sum(one.numel() for one in loaded.model.parameters())
    assert told["pruned_size"]["parameters"] == parameters
    assert parameters <= told["unpruned_size"]["parameters"]
    assert only["reached"] == (attempt["pruned_ms"] <= attempt["unpruned_ms"] / 1.1)
    assert (told["finished"], only["distilled"]["steps"]) == (True, 3)

    again = ran(main, *typed)
    assert (again.code, again.err.strip()) == (0, "")  # nothing is measured or trained again
    assert "onnxruntime, 64x64; " in again.out
    for row in ("unpruned", "pruned", "distilled", f"Weights and record: {out}"):
        assert row in again.out

    told["rounds"][0]["reached"] = told["finished"] = False
    told["rounds"][0]["distilled"]["steps"] = 1
    (out / "prune.json").write_text(json.dumps(told))
    late = ran(main, *typed, "--max-minutes", 1e-6)
    assert late.code == 0
    assert "NOT reached: the goal was 1.1x; the fastest pruned network is " in late.out


@dataclass(frozen=True)
class Refused:
    id: str
    arguments: list[str]
    says: str


REFUSED = [
    Refused("neither", [], "one of --speedup, --target-latency and --like, found none"),
    Refused("both", ["--speedup", "2", "--target-latency", "5"], "found 2"),
    Refused("no faster", ["--speedup", "1"], "--speedup must be above 1, found 1"),
    Refused("size", ["--speedup", "2", "--size", "wide"], "--size must be WIDTHxHEIGHT"),
    Refused("minutes", ["--speedup", "2", "--max-minutes", "-1"], "above 0, found -1"),
    Refused("no weights", ["--speedup", "2", "--weights", "absent.pt"], "does not exist"),
    Refused("task", ["--speedup", "2", "--task", "fog"], "expected the task low-light"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_bad_options_are_one_line_and_nothing_is_written(pairs, weights, tmp_path, ran, case):
    typed = ["--weights", weights, "--data", pairs, "--out", tmp_path / "new", *QUICK]
    found = ran(main, *typed, *case.arguments)
    assert (found.code, found.out) == (2, "")
    assert found.line.startswith("mirnet-prune: ")
    assert case.says in found.line
    assert not (tmp_path / "new").exists()


def test_weights_of_no_family_are_one_line(pairs, tmp_path, ran):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    typed = ["--weights", tmp_path / "other.pt", "--data", pairs, "--out", tmp_path / "new"]
    found = ran(main, *typed, "--speedup", 2)
    assert (found.code, found.out) == (2, "")
    assert "is not a MIRNet, MIRNet-v2, Keras MIRNet or MIRNetEdge checkpoint" in found.line


def test_a_backend_that_is_absent_is_one_line(pairs, weights, tmp_path, ran, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    typed = ["--weights", weights, "--data", pairs, "--out", tmp_path / "new", "--speedup", 2]
    found = ran(main, *typed, "--size", "64x64")
    assert (found.code, found.out) == (2, "")
    assert "openvino" in found.line
    assert not (tmp_path / "new").exists()
