"""How samples are made: which source gives an image, and what stays unknown of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image

from mirnet_edge.diagnosis.labels import FINE, LABELS
from mirnet_edge.training.diagnosis.recipe import DiagnosisRecipe, list_sources
from mirnet_edge.training.diagnosis.samples import CLASSES, make_samples, view_fine_files


def _images(folder, level, count=24):
    folder.mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(-20, 20, (8, 8, 3))
    frame = np.clip(coarse + level, 0, 255).astype(np.uint8)
    for place in range(count):
        Image.fromarray(frame).resize((160, 120)).save(folder / f"{place}.png")


def _sources(tmp_path, *sources):
    return list_sources(DiagnosisRecipe(schema_version=1, sources=sources), tmp_path)


def test_a_source_with_more_turns_is_taken_more_often(tmp_path):
    _images(tmp_path / "bright", 200)
    _images(tmp_path / "gray", 110)
    clean = {"clean": True, "held_out": 0.3}
    images = _sources(
        tmp_path,
        {"name": "bright", "folder": "bright", **clean, "turns": 3},
        {"name": "gray", "folder": "gray", **clean},
    )
    made = make_samples(images, [], "train", 96, 0, tmp_path / "out")
    fine = made.overviews[made.classes == CLASSES.index(FINE)][..., :3].mean((1, 2, 3))
    assert Counter((fine > 155).tolist()) == {True: 12, False: 4}


def test_what_is_unknown_of_a_clean_image_stays_unknown_of_its_samples(tmp_path):
    _images(tmp_path / "snapshots", 140)
    _images(tmp_path / "photos", 140)
    snapshots = {
        "name": "snapshots", "folder": "snapshots", "clean": True, "held_out": 0.3,
        "unknown": ["noisy"],
    }  # fmt: skip
    photos = {"name": "photos", "folder": "photos", "clean": True, "held_out": 0.3}
    images = _sources(tmp_path, snapshots, photos)
    made = make_samples(images, [], "train", 96, 0, tmp_path / "out")
    place, count = LABELS.index("noisy"), len(LABELS)
    noisy = made.targets[made.classes == place]
    assert noisy[:, place].mean() > 0.5  # of the photos alone: noise is added to what has none
    fine = made.targets[made.classes == CLASSES.index(FINE)]
    assert sorted(fine[:, count + place].tolist()) == [0.0] * 8 + [1.0] * 8
    whole = view_fine_files(images, "validation")
    known = whole.targets[:, count + place]
    assert 0 < known.sum() < len(known)


def test_a_fine_file_with_the_light_of_a_dark_one_does_not_set_the_threshold_of_dark(tmp_path):
    _images(tmp_path / "lit", 90)
    _images(tmp_path / "forest", 30)
    clean = {"clean": True, "held_out": 0.3}
    images = _sources(
        tmp_path,
        {"name": "lit", "folder": "lit", **clean},
        {"name": "forest", "folder": "forest", **clean},
    )
    whole = view_fine_files(images, "validation")
    level = whole.overviews[..., :3].mean((1, 2, 3))
    known = whole.targets[:, len(LABELS) + LABELS.index("dark")] > 0.5
    assert np.array_equal(known, level > 60.0)
    assert 0 < known.sum() < len(known)
