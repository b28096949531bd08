"""mirnet-sensitivity as it is typed, on a tiny network."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.cli.sensitivity import main
from mirnet_edge.export import analysis


@pytest.fixture(scope="module")
def given(tmp_path_factory, network_of, smooth_frames):
    """Return the options that name tiny weights and a few images."""
    folder = tmp_path_factory.mktemp("sensitivity")
    weights = folder / "tiny.safetensors"
    checkpoints.save(network_of("edge"), weights, ModelCard(task="low-light"))
    (folder / "night").mkdir()
    for number, frame in enumerate(smooth_frames(32, 48, count=8)):
        Image.fromarray(frame // 4).save(folder / "night" / f"{number}.png")
    # TensorRT's form is judged without times: those of so small a network are noise
    return (
        "--weights", weights, "--calibration", folder / "night", "--size", "48x32", "--backend",
        "tensorrt",
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(given, tmp_path_factory):
    """Return the folder of a finished run; it takes seconds."""
    out = tmp_path_factory.mktemp("measured") / "out"
    with pytest.raises(SystemExit) as left:
        main([str(one) for one in (*given, "--out", out)])
    assert left.value.code in (0, None)
    return out


def test_every_block_has_a_row_and_a_second_run_measures_nothing_again(
    given, measured, ran, monkeypatch
):
    monkeypatch.setattr(analysis, "quantize_all_blocks", None)
    shown = ran(main, *given, "--out", measured)
    found = json.loads(ran(main, *given, "--out", measured, "--json").out)
    assert len(found["blocks"]) > 3
    for cost in found["blocks"]:
        assert cost["block"] in shown.out
        assert cost["saved_ms"] is None
        assert np.isfinite(cost["drop_db"])
    assert str(measured) in shown.out
    assert (measured / "sensitivity.svg").read_text().startswith("<svg")


@dataclass(frozen=True)
class Refused:
    id: str
    arguments: tuple
    says: str


REFUSED = [
    Refused("backend", ("--backend", "tpu"), "'tpu'"),
    Refused("size", ("--size", "wide"), "--size must be WIDTHxHEIGHT"),
    Refused("weights", ("--weights", "absent.safetensors"), "absent.safetensors"),
    Refused("images", ("--calibration", "absent"), "absent"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_makes_no_sense_is_one_line_and_writes_nothing(case, given, ran, tmp_path):
    refused = ran(main, *given, *case.arguments, "--out", tmp_path / "out")
    assert refused.code == 2
    assert case.says in refused.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_figures_of_other_weights_are_refused_and_kept(given, measured, ran, tmp_path, network_of):
    before = {path.name: path.read_bytes() for path in measured.iterdir()}
    other = tmp_path / "other.safetensors"
    checkpoints.save(network_of("edge", 1), other, ModelCard(task="low-light"))
    refused = ran(main, *given, "--weights", other, "--out", measured)
    assert refused.code == 2
    assert "was measured with other weights" in refused.err.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in measured.iterdir()} == before
