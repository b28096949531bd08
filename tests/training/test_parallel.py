"""Distributed training (DDP): two processes train as one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.cli.train import main
from mirnet_edge.errors import OptionError
from mirnet_edge.training import record
from mirnet_edge.training.loop import DistributedProcess, join_processes

RECIPE = """
schema_version = 2
architecture = "edge"
[network]
channels = [8, 8, 8]
exposure_channels = 4
[training]
steps = 6
batch = 4
crops = [32]
whole_frame_fraction = 0.3
whole_frame_batch = 4
validate_every = 3
learning_rate = 1e-3
warmup_steps = 2
ssim_weight = 0.1
exposure_steps = 2
exposure_batch = 2
well_lit_fraction = 0.3
noise_jitter = 4.0
mixup = 0.5
recycle_every = 2
flicker_weight = 0.5
"""


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _run_with_torchrun(arguments, processes):
    """Run as many processes as torchrun starts on this machine; return what they printed."""
    launched = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
        "--master-addr", "127.0.0.1", "--master-port", str(_free_port()), "--module",
        "mirnet_edge.cli.train", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(
        launched, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path, write_pairs, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    recipe = tmp_path / "own.toml"
    recipe.write_text(RECIPE)
    data = write_pairs(tmp_path / "pairs", 6)
    arguments = ["--data", str(data), "--recipe", str(recipe), "--device", "cpu", "--json", "--out"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, str(tmp_path / "alone")])
    printed = _run_with_torchrun([*arguments, str(tmp_path / "together")], processes=2)
    assert printed.count("psnr_db") == 1  # the first process alone prints

    runs = [tmp_path / "alone", tmp_path / "together"]
    alone, together = (record.read_history(run) for run in runs)
    assert [score.step for score in alone] == [score.step for score in together] == [3, 6]
    for one, two in zip(alone, together, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert two.psnr_db == pytest.approx(one.psnr_db, abs=1e-2)
    alone, together = (
        checkpoints.load(run / "low-light.safetensors").model.state_dict() for run in runs
    )
    for name, weight in alone.items():
        assert torch.allclose(weight, together[name], rtol=0.0, atol=1e-5), name


def test_a_single_process_shares_nothing(monkeypatch, make_network):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model = make_network()
    with join_processes(torch.device("cpu")) as process:
        assert process == DistributedProcess()
        assert process.is_leader
        assert list(range(6))[process.rows] == list(range(6))
        assert process.wrap(model) is model
        assert process.average(3.0) == 3.0
        assert (process.any(flag=True), process.any(flag=False)) == (True, False)
        process.wait()


def test_the_rows_of_all_processes_are_the_batch():
    parts = [list(range(12))[DistributedProcess(rank, 3).rows] for rank in range(3)]
    assert sorted(row for part in parts for row in part) == list(range(12))
    assert {len(part) for part in parts} == {4}
    assert [DistributedProcess(rank, 3).is_leader for rank in range(3)] == [True, False, False]


def test_a_group_that_cannot_be_formed_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(OptionError, match=r"cannot form the process group .* with torchrun"),
        join_processes(torch.device("cpu")),
    ):
        pass
