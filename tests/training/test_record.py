"""The record of a run: lines that survive a kill, and curves that can be looked at."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from mirnet_edge.training import record
from mirnet_edge.training.record import ValidationScore


def _score(step, psnr_db=20.0):
    return ValidationScore(step, 0.1, psnr_db, psnr_db + 4.0, 0.7, 0.08)


def test_scores_come_back_as_they_were_written(tmp_path):
    scores = [_score(500), _score(1000, 21.123456789)]
    for score in scores:
        record.append_score(tmp_path, score)
    assert record.read_history(tmp_path) == scores


def test_lines_after_the_step_a_killed_run_went_on_from_are_replaced(tmp_path):
    for step in (500, 1000, 1500):
        record.append_score(tmp_path, _score(step))
    record.append_score(tmp_path, _score(1000, 22.0))
    assert [score.step for score in record.read_history(tmp_path)] == [500, 1000]
    assert record.read_history(tmp_path)[-1].psnr_db == 22.0


def test_no_history_is_no_score(tmp_path):
    assert record.read_history(tmp_path) == []


def test_the_curves_show_every_metric_of_every_score(tmp_path):
    for score in (_score(500), _score(1000, 22.0)):
        record.append_score(tmp_path, score)
    chart = ElementTree.parse(tmp_path / record.CURVES_FILE).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    panels = chart.findall(f"{svg}g")
    assert [len(list(panel.iter(f"{svg}circle"))) for panel in panels] == [2, 4, 2, 2]
    assert [next(panel.iter(f"{svg}text")).text for panel in panels] == [
        "training loss", "PSNR (dB)", "SSIM", "mean absolute error"
    ]  # fmt: skip


def test_tensorboard_shows_every_figure_of_every_score(tmp_path):
    pytest.importorskip("tensorboard", reason="events need tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for score in (_score(500), _score(1000, 22.0)):
        record.append_to_tensorboard(tmp_path, score)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "psnr_db", "psnr_gtmean_db", "ssim", "mae"}
    found = [(event.step, event.value) for event in events.Scalars("psnr_db")]
    assert found == [(500, 20.0), (1000, 22.0)]
