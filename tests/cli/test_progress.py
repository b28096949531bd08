"""Each stage of a job shows what is done and the time that is left, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from mirnet_edge.cli import progress as progress_module
from mirnet_edge.cli.export import _describe_cuts
from mirnet_edge.cli.progress import StageProgress
from mirnet_edge.manifest import GateFacts


class _Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_long_stage_prints_what_is_left_now_and_then():
    text, clock = io.StringIO(), _Clock()
    console = Console(file=text, force_terminal=False, width=200)
    display = StageProgress(Progress(console=console, disable=True), clock)
    clock.now = 5.0
    display.on_stage("quantize for CPUs on 24 cuts of 6 images")
    for clock.now, done in ((15.0, 1), (45.0, 4), (50.0, 5), (75.0, 7)):
        display.on_step(done, 24)
    assert text.getvalue().splitlines() == [
        "   5.0 s  quantize for CPUs on 24 cuts of 6 images",
        # 4 in 40 s, and of 20 the time of 20 / 4
        "  45.0 s  quantize for CPUs on 24 cuts of 6 images: 4 of 24, about 200 s left",
        "  75.0 s  quantize for CPUs on 24 cuts of 6 images: 7 of 24, about 170 s left",
    ]


def test_a_terminal_has_one_bar_for_the_present_stage(monkeypatch):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    monkeypatch.setattr(progress_module, "stderr", lambda: console)
    with StageProgress.shown() as display:
        display.on_stage("export fp32")
        display.on_stage("latency")
        display.on_step(3, 12)
        (task,) = display._progress.tasks
        assert (task.description, task.completed, task.total) == ("latency", 3, 12)
    assert "left" in text.getvalue()


@pytest.mark.parametrize(
    ("crop", "reach", "says"),
    [
        (None, None, []),
        ((160, 160), 40, ["cut to 160x160: it sees 40 pixels far (measured), and the inner 80x80"]),
        ((128, 128), 90, ["sees 90 pixels far (measured), and every pixel sees the border"]),
    ],
    ids=["whole images", "large enough", "too small"],
)
def test_the_gate_says_whether_its_cuts_are_large_enough_for_what_the_network_sees(
    crop, reach, says
):
    gate = GateFacts(max_drop_db=0.1, images=4, source="DIR", references=0, crop=crop, reach=reach)
    lines = _describe_cuts(gate)
    assert len(lines) == len(says)
    assert all(part in line for part, line in zip(says, lines, strict=True))
