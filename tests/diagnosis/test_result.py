"""From scores to labels, tasks and words."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from mirnet_edge.diagnosis import LABELS, Diagnosis
from mirnet_edge.diagnosis.network import diagnosis_from_scores


def _diagnosis(height=480, width=640, sigma=0.0, frames=1, **scores):
    named = {label: scores.pop(label.replace("-", "_"), 0.02) for label in LABELS}
    assert not scores
    return Diagnosis(scores=named, sigma=sigma, height=height, width=width, frames=frames)


@dataclass(frozen=True)
class Case:
    id: str
    scores: dict[str, float]
    tasks: tuple[str, ...]
    line: str
    size: dict[str, int] = field(default_factory=dict)


CASES = (
    Case("fine", {}, (), "fine (0.98): left as it is"),
    Case("dark", {"dark": 0.97}, ("low-light",), "dark (0.97): low-light"),
    Case(
        "dark and noisy",
        {"dark": 0.97, "noisy": 0.9},
        ("low-light",),
        "dark (0.97), noisy sigma 18: low-light",
    ),
    Case("noisy", {"noisy": 0.8}, ("denoise",), "noisy sigma 18: denoise"),
    Case(
        "old print",
        {"faded": 0.9, "scratched": 0.7, "noisy": 0.6},
        ("old-photo",),
        "faded (0.90), scratched (0.70), noisy sigma 18: old-photo",
    ),
    Case(
        "dark print",
        {"faded": 0.9, "dark": 0.6},
        ("old-photo",),
        "faded (0.90), dark (0.60): old-photo",
    ),
    Case(
        "stained night",
        {"scratched": 0.6, "dark": 0.9},
        ("low-light",),
        "dark (0.90), scratched (0.60): low-light",
    ),
    Case("blurred", {"low_resolution": 0.8}, (), "blurred (0.80): left as it is"),
    Case(
        "small",
        {"low_resolution": 1.0},
        ("super-resolution",),
        "small 320x200: super-resolution",
        {"height": 200, "width": 320},
    ),
    Case(
        "small old print",
        {"low_resolution": 1.0, "scratched": 0.9},
        ("old-photo", "super-resolution"),
        "scratched (0.90), small 256x256: old-photo, then super-resolution",
        {"height": 256, "width": 256},
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_labels_decide_the_tasks_and_their_order(case):
    found = _diagnosis(sigma=18.2, **case.size, **case.scores)
    assert found.tasks == case.tasks
    assert found.describe() == case.line


def test_the_top_label_is_the_highest_score_or_fine_and_small_comes_last():
    assert _diagnosis(noisy=0.6, dark=0.7).top_label == "dark"
    assert _diagnosis(noisy=0.49).top_label == "fine"
    blurred = {"noisy": 0.6, "low_resolution": 1.0}
    assert _diagnosis(**blurred).top_label == "low-resolution"
    assert _diagnosis(**blurred, height=200, width=320).top_label == "noisy"
    assert _diagnosis(noisy=0.49).fine_score == pytest.approx(0.51)


def test_the_json_form_holds_scores_labels_and_tasks():
    found = json.loads(json.dumps(_diagnosis(noisy=0.9, sigma=18.26, frames=3).to_json()))
    assert found["labels"] == ["noisy"]
    assert found["top_label"] == "noisy"
    assert found["scores"]["noisy"] == 0.9
    assert set(found["scores"]) == {*LABELS, "fine"}
    assert (found["sigma"], found["frames"], found["tasks"]) == (18.26, 3, ["denoise"])
    assert _diagnosis(sigma=1.2).to_json()["sigma"] is None


def test_several_frames_decide_by_their_median():
    dark = np.array([[0.9, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], [0.8, 0, 0, 0, 0]], np.float32)
    found = diagnosis_from_scores(dark, np.array([3.0, 9.0, 4.0], np.float32), (480, 640))
    assert found.scores["dark"] == pytest.approx(0.8)
    assert (found.sigma, found.frames) == (4.0, 3)
    assert diagnosis_from_scores(dark[:2], np.zeros(2, np.float32), (9, 9)).is_small
