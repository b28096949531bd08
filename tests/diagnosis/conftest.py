"""Clean photographs of scikit-image, and what makes them worse."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    add_noise,
    age_photo,
    downscale,
    reduce_light,
)


@pytest.fixture(scope="session")
def photos():
    """Photographs that were in no training set."""
    found = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee")}
    return {name: np.ascontiguousarray(frame[..., :3]) for name, frame in found.items()}


@pytest.fixture(scope="session")
def degraded(photos):
    """Return a photograph degraded so that it has a label."""

    def degrade(name, label):
        frame, generator = photos[name], np.random.default_rng(0)
        if label == "dark":
            settings = LowLight(exposure=0.06, shot_noise=3e-4, read_noise=8e-4)
            return reduce_light(frame, settings, generator)
        if label == "noisy":
            return add_noise(frame, Noise(sigma=18.0), generator)
        if label == "faded":
            return age_photo(frame, OldPhoto(sepia=0.8, fading=0.5), generator)
        if label == "scratched":
            return age_photo(frame, OldPhoto(scratches=5, creases=3, dust=3.0), generator)
        if label == "sepia":
            return age_photo(frame, OldPhoto(sepia=0.8), generator)
        if label == "cracked":
            damage = OldPhoto(cracks=4, hairs=4, patches=4, dust=2.0)
            return age_photo(frame, damage, generator)
        if label == "blurred":
            return cv2.GaussianBlur(frame, (0, 0), 3.0)
        assert label == "small"
        return downscale(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2], 2)

    return degrade
