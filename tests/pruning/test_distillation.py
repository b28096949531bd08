"""A teacher is distilled and pruned in one run, and compared with its students."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))
import keras_layouts as layouts

from mirnet_edge import checkpoints
from mirnet_edge.cli.distill import main
from mirnet_edge.errors import OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.models.macs import count_macs
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.pruning import distillation
from mirnet_edge.pruning.distillation import (
    CHART_FILE,
    RECORD_FILE,
    TEACHER,
    DistillationRecord,
    DistillationRequest,
    distill_teacher,
)
from mirnet_edge.training.recipe import read_recipe

_GUIDE = Path(__file__).parents[2] / "docs/guides/distillation.md"
_STUDENT = """schema_version = 2
architecture = "edge"
[network]
stem = 4
channels = [8, 12, 16]
exposure_channels = 4
"""


@pytest.fixture
def macs_as_times(monkeypatch, made_up_times):
    """Whole networks, too, take as long as they have MACs."""

    def time_networks(networks, conditions, rounds):
        return {
            name: [1e-6 * count_macs(one, *conditions.size)] * rounds
            for name, one in networks.items()
        }

    monkeypatch.setattr(distillation, "time_networks", time_networks)


@pytest.fixture
def authors(tmp_path):
    """Weights in the authors' layout, of a small width."""
    torch.manual_seed(0)
    network = MIRNet(MIRNetConfig(channels=16, groups=1, blocks=1, streams=2, columns=1))
    path = tmp_path / "mirnet.pth"
    torch.save({"state_dict": network.state_dict()}, path)
    return path


def _request(teacher, pairs, tmp_path, **options):
    recipe = tmp_path / "student.toml"
    recipe.write_text(_STUDENT)
    given = {
        "teacher": str(teacher), "data": pairs, "out": tmp_path / "out", "backend": "onnxruntime",
        "size": (32, 32), "device": "cpu", "workers": 0, "recipes": (str(recipe),),
        "training": {"steps": 2, "batch": 1, "crops": (32,)},
    }  # fmt: skip
    return DistillationRequest(**(given | options))


def test_a_teacher_is_distilled_and_pruned(weights, pairs, tmp_path, macs_as_times):
    request = _request(weights, pairs, tmp_path, speedups=(1.3,))
    observer = Mock()
    record = distill_teacher(request, observer)
    stages = [call.args[0] for call in observer.on_stage.call_args_list]
    assert stages[0] == "student"
    assert "pruned-1.3x" in stages
    assert stages[-1] == "validate and time all networks"
    teacher, student, pruned = record.networks
    assert (teacher.name, student.name, pruned.name) == (TEACHER, "student", "pruned-1.3x")
    assert record.finished
    assert teacher.latency_ms > pruned.latency_ms > student.latency_ms
    assert [one.quality.steps for one in record.networks] == [0, 2, 2]
    assert student.is_on_front
    for one, architecture in ((student, "edge"), (pruned, "mirnet")):
        made = checkpoints.load(one.weights)
        assert made.architecture == architecture
        assert made.card.teacher == record.teacher_sha256 == sha256_of(weights)
    assert DistillationRecord.model_validate_json((request.out / RECORD_FILE).read_text()) == record
    chart = (request.out / CHART_FILE).read_text()
    assert all(f">{one.name}<" in chart for one in record.networks)


def test_what_there_was_no_time_for_is_made_by_the_same_command(
    authors, pairs, tmp_path, macs_as_times
):
    request = _request(authors, pairs, tmp_path, speedups=(1.3,), max_seconds=50.0)
    ticks = iter((0.0, 0.0, 100.0))
    record = distill_teacher(request, Mock(), clock=lambda: next(ticks))
    assert [one.name for one in record.networks] == [TEACHER, "student"]
    assert not record.finished


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recipes": ()}, "found neither"),
        ({"recipes": ("a/x.toml", "b/x.toml")}, "x is named twice"),
    ],
)
def test_a_run_without_a_result_is_refused(options, says, tmp_path):
    with pytest.raises(OptionError, match=says):
        _request("absent", tmp_path, tmp_path, **options)


def _commands():
    text = _GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "mirnet distill" in line]


def test_the_guides_commands_run_from_both_layouts(
    authors, pairs, tmp_path, macs_as_times, monkeypatch, capsys
):
    """Shortened, on small networks: what is typed is the guide's."""
    keras = layouts.make_network(variant="2021", channels=16, groups=1, blocks=1)
    layouts.write_legacy(tmp_path / "mirnet.h5", keras)
    (tmp_path / "student.toml").write_text(_STUDENT)
    (tmp_path / "lol").symlink_to(pairs)
    monkeypatch.chdir(tmp_path)
    lines = _commands()
    assert [line.split()[2] for line in lines] == ["mirnet.pth", "mirnet.h5"]
    for line in lines:
        words = shlex.split(line)
        for recipe in words[words.index("--recipe") + 1].split(","):
            read_recipe(recipe)  # one of this package
    short = ["--steps", "1", "--batch", "1", "--crop", "32", "--workers", "0", "--device", "cpu",
             "--size", "32x32", "--backend", "onnxruntime"]  # fmt: skip
    for line in lines:
        typed = ["student.toml" if "low-light" in word else word for word in shlex.split(line)[2:]]
        with pytest.raises(SystemExit) as raised:
            main([*typed, *short])
        assert not raised.value.code
        out = Path(typed[typed.index("--out") + 1])
        assert (out / CHART_FILE).is_file()
        assert "teacher" in capsys.readouterr().out
