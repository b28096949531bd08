"""A stage is made once: what a killed export finished is found again, and nothing else is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mirnet_edge.calibration.sets import CalibrationSample, CalibrationSet
from mirnet_edge.export import stages
from mirnet_edge.export.graphs import GraphFile
from mirnet_edge.export.stages import StageLog, StageRecord, key_of, resume_stages
from mirnet_edge.export.workspace import ExportOptions, SamplePlan


@pytest.fixture
def log(tmp_path):
    (tmp_path / stages.FOLDER).mkdir()
    return StageLog(tmp_path, StageRecord(key="key"))


def _never():
    raise AssertionError("the stage was finished")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (float, math.inf),
        (type(None), None),
        (dict[str, list[float]], {"openvino:fp32": [1.5, 2.5]}),
        (SamplePlan, SamplePlan(largest=(160, 160), reach=40)),
        (GraphFile, GraphFile("int8-cpu", "int8", ("cpu",))),
    ],
    ids=["infinite", "nothing", "times", "plan", "graph"],
)
def test_a_finished_stage_has_its_value_in_the_next_run(log, kind, value):
    assert log.run("stage", kind, lambda: value) == value
    with_record = StageLog(log.folder, stages._read_record(log.folder))
    assert with_record.run("stage", kind, _never) == value
    assert with_record.resumed == ("stage",)


def test_a_stage_whose_file_changed_or_is_gone_is_made_again(log):
    file = log.folder / "graph.onnx"
    log.run("graph", int, lambda: file.write_bytes(b"whole"), ["graph.onnx"])
    assert log.run("graph", int, _never, ["graph.onnx"]) == 5
    file.write_bytes(b"half")
    assert log.run("graph", int, lambda: file.write_bytes(b"whole again"), ["graph.onnx"]) == 11
    file.unlink()
    assert log.run("graph", int, lambda: file.write_bytes(b"whole"), ["graph.onnx"]) == 5


KILLED = """
import os, signal, sys
from pathlib import Path
from mirnet_edge.export.stages import resume_stages
with resume_stages(Path(sys.argv[1]), "key") as log:
    log.run("first", int, lambda: (log.folder / "a").write_bytes(b"made"), ["a"])
    print(*log.resumed, flush=True)
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    log.run("second", int, int)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_the_folder_of_a_killed_run_is_taken_over(tmp_path, how):
    out = tmp_path / "bundle"
    ended = subprocess.run([sys.executable, "-c", KILLED, out, how], capture_output=True)
    assert ended.stdout == b"first\n"
    assert ended.returncode != 0
    assert not out.exists()
    with resume_stages(out, "key") as log:
        assert log.resumed == ("first",)
        log.run("first", int, _never, ["a"])
    assert [one.name for one in out.iterdir()] == ["a"]
    assert [one.name for one in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("change", ["key", "damaged"])
def test_a_folder_of_another_export_is_removed(tmp_path, change):
    out = tmp_path / "bundle"
    subprocess.run([sys.executable, "-c", KILLED, out, "SIGKILL"], capture_output=True, check=False)
    (left,) = tmp_path.iterdir()
    if change == "damaged":
        (left / stages.FOLDER / "stages.json").write_text("{")
    with resume_stages(out, "other" if change == "key" else "key") as log:
        assert log.resumed == ()
        assert not left.exists()
        (log.folder / "b").touch()
    assert [one.name for one in out.iterdir()] == ["b"]


def _fail_in(out):
    with resume_stages(out, "key") as log:
        log.run("first", int, int)
        raise ValueError("broken")


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="broken"):
        _fail_in(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_that_of_options_weights_and_images(tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    images = CalibrationSet(
        (CalibrationSample("a", frame, None),), (CalibrationSample("b", frame, None),), "", "s", ""
    )
    options = ExportOptions(out=tmp_path, int8=True)
    usual = key_of(options, "w", images)
    assert key_of(ExportOptions(out=tmp_path, int8=True), "w", images) == usual
    brighter = (CalibrationSample("b", frame + np.uint8(1), None),)
    others = [
        key_of(replace(options, max_drop_db=0.2), "w", images),
        key_of(options, "v", images),
        key_of(options, "w", replace(images, sha256="t")),
        key_of(options, "w", replace(images, evaluation=brighter)),
    ]
    assert len({usual, *others}) == 5
    (tmp_path / "ranges.json").write_text(json.dumps({}))
    assert key_of(options, "w", replace(images, folder=tmp_path)) != usual
