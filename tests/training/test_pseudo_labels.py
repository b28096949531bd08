"""Unlabeled images: their pseudo-labels are the teacher's outputs for whole images."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import DataError
from mirnet_edge.training.job import concatenate_pairs, make_pseudo_labels, require_pairs
from mirnet_edge.training.loop import restore_frames


@pytest.mark.parametrize(("name", "scale"), [("edge", 1), ("doubling edge", 2)])
def test_the_pseudo_label_is_the_teacher_s_output_for_the_whole_image(
    make_network, make_pairs, name, scale
):
    # no multiple of anything: padding is cropped again
    images = make_pairs(3, (37, 51), degrade=lambda frame, generator: frame // 2)
    teacher, calls = make_network(name).train(), []
    pairs = make_pseudo_labels(images, teacher, scale, lambda: calls.append(1))
    assert len(calls) == len(pairs) == 3
    assert pairs.degrade is None
    assert pairs.scale == scale
    for degraded, target, image in zip(pairs.degraded, pairs.targets, images.targets, strict=True):
        assert degraded is image
        assert target.shape == (37 * scale, 51 * scale, 3)
        assert np.array_equal(target, restore_frames(teacher, image[None], scale)[0])


def test_both_sets_are_concatenated(make_pairs):
    few, many = make_pairs(2, (32, 48)), make_pairs(5, (48, 32))
    both = concatenate_pairs(few, many)
    assert len(both) == len(both.degraded) == len(both.targets) == 7
    assert [target.shape[:2] for target in both.targets] == [(32, 48)] * 2 + [(48, 32)] * 5
    assert both.sha256 not in (few.sha256, many.sha256)


def test_clean_images_take_no_pseudo_labeled_ones(make_pairs):
    clean = make_pairs(2, degrade=lambda frame, generator: frame)
    with pytest.raises(DataError, match=r"found clean images in --data\. Put images in"):
        require_pairs(clean)
    require_pairs(make_pairs(2))
