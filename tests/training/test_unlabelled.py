"""Pictures without references: what a teacher makes of them whole is what is aimed at."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import DataError
from mirnet_edge.training.job import labelled, require_pairs, together
from mirnet_edge.training.loop import restored


@pytest.mark.parametrize(("name", "scale"), [("edge", 1), ("doubling edge", 2)])
def test_the_reference_is_what_the_teacher_makes_of_the_whole_picture(
    make_network, make_pairs, name, scale
):
    # no multiple of anything: what is padded is cut off again
    pictures = make_pairs(3, (37, 51), degrade=lambda frame, generator: frame // 2)
    teacher, told = make_network(name).train(), []
    pairs = labelled(pictures, teacher, scale, lambda: told.append(1))
    assert len(told) == len(pairs) == 3
    assert pairs.degrade is None
    assert pairs.scale == scale
    for low, high, picture in zip(pairs.low, pairs.high, pictures.high, strict=True):
        assert low is picture
        assert high.shape == (37 * scale, 51 * scale, 3)
        assert np.array_equal(high, restored(teacher, picture[None], scale)[0])


def test_both_sets_are_drawn_from_as_often_as_they_are_there(make_pairs):
    few, many = make_pairs(2, (32, 48)), make_pairs(5, (48, 32))
    both = together(few, many)
    assert len(both) == len(both.low) == len(both.high) == 7
    assert [high.shape[:2] for high in both.high] == [(32, 48)] * 2 + [(48, 32)] * 5
    assert both.sha256 not in (few.sha256, many.sha256)


def test_clean_pictures_take_no_labelled_ones(make_pairs):
    clean = make_pairs(2, degrade=lambda frame, generator: frame)
    with pytest.raises(DataError, match=r"found clean pictures in --data\. Put pictures in"):
        require_pairs(clean)
    require_pairs(make_pairs(2))
