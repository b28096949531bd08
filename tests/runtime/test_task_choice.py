"""Which tasks restore an input."""

from __future__ import annotations

import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.task_choice import (
    AUTO,
    TASK_NAMES,
    choose_bundles,
    choose_tasks,
    parse_tasks,
)
from mirnet_edge.training.tasks import TASKS


def test_the_tasks_are_those_that_are_trained():
    assert {task.name for task in TASKS} == set(TASK_NAMES)


def test_named_tasks_are_taken_in_their_order_and_no_frame_is_decoded():
    def frames():
        raise AssertionError("a frame was decoded")
        yield

    choice = choose_tasks("old-photo, super-resolution", frames())
    assert choice.tasks == ("old-photo", "super-resolution")
    assert not choice.line


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("dehaze", "found 'dehaze'"),
        ("", "found ''"),
        ("denoise,", "found ''"),
        ("denoise,denoise", "names a task twice"),
        ("denoise,auto", "found 'auto'"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(named, says):
    with pytest.raises(OptionError, match=says):
        parse_tasks(named)


def test_bundles_are_those_of_the_tasks_or_the_one_that_is_given(tmp_path):
    bundles, choice = choose_bundles("old-photo,super-resolution", None, ())
    assert [one.name for one in bundles] == ["old-photo", "super-resolution"]
    assert choice.tasks == ("old-photo", "super-resolution")
    assert choose_bundles(None, None, ()) == choose_bundles(AUTO, None, ())
    assert choose_bundles(None, str(tmp_path), ()) == ((tmp_path,), None)
    with pytest.raises(OptionError, match="found task denoise and bundle shipped:denoise; give"):
        choose_bundles("denoise", "shipped:denoise", ())
