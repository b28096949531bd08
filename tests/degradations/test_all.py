"""What every degradation promises, and what each of them is by its formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirnet_edge.degradations import (
    LowLight,
    Noise,
    OldPhoto,
    add_noise,
    age_photo,
    downscale,
    old_photo,
    reduce_light,
)
from mirnet_edge.errors import ImageError, OptionError

FRAME = np.random.default_rng(1).integers(0, 256, (36, 48, 3), dtype=np.uint8)
GRAY = np.full((300, 300, 3), 128, np.uint8)


@dataclass(frozen=True)
class Kind:
    id: str
    apply: Any
    none: Any
    strong: Any


KINDS = [
    Kind("low light", reduce_light, LowLight(), LowLight(exposure=0.1, shot_noise=1e-3)),
    Kind("gaussian", add_noise, Noise(), Noise(sigma=25)),
    Kind("photons", add_noise, Noise(), Noise(photons=20)),
    Kind(
        "camera noise",
        add_noise,
        Noise(blur_sigma=1.0, channel_correlation=0.5),
        Noise(sigma=10, photons=400, blur_sigma=1.3, channel_correlation=0.5, jpeg_quality=90),
    ),
    Kind(
        "old photo",
        age_photo,
        OldPhoto(),
        OldPhoto(
            blur=1,
            fading=0.5,
            color_loss=0.5,
            sepia=0.5,
            grain=12,
            dust=20,
            scratches=2,
            creases=2,
            toning=(20.0, 5.0, -30.0),
            dye_fading=(0.2, 0.0, 0.1),
            paper=(1.0, 0.9, 0.8),
            gamma=1.3,
            cracks=2,
            hairs=2,
            patches=2,
        ),
    ),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)


def _applied(kind, frame, seed=0):
    return kind.apply(frame, kind.strong, np.random.default_rng(seed))


@every_kind
def test_strength_zero_is_the_identity(kind):
    assert np.array_equal(kind.apply(FRAME, kind.none, np.random.default_rng(0)), FRAME)


@every_kind
def test_a_seed_repeats_and_another_does_not(kind):
    assert np.array_equal(_applied(kind, FRAME), _applied(kind, FRAME))
    assert not np.array_equal(_applied(kind, FRAME), _applied(kind, FRAME, seed=1))


@every_kind
def test_shape_type_and_input_are_kept(kind):
    before = FRAME.copy()
    bad = _applied(kind, FRAME)
    assert bad.shape == FRAME.shape
    assert bad.dtype == np.uint8
    assert np.array_equal(FRAME, before)


@every_kind
@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), level=st.integers(0, 255))
def test_any_size_and_level_stays_in_range(kind, height, width, level):
    bad = _applied(kind, np.full((height, width, 3), level, np.uint8))
    assert bad.shape == (height, width, 3)


def test_gaussian_noise_has_the_stated_mean_and_deviation():
    values = add_noise(GRAY, Noise(sigma=20), np.random.default_rng(0)).astype(float)
    assert values.mean() == pytest.approx(128, abs=0.2)
    # rounding to whole levels adds a twelfth
    assert values.var() == pytest.approx(20**2 + 1 / 12, rel=0.02)


def _added(settings, seed=0):
    """Return the noise on a gray frame, in levels, where no border is near."""
    frame = add_noise(GRAY, settings, np.random.default_rng(seed)).astype(float)
    return (frame - 128)[16:-16, 16:-16]


def _correlation(one, two):
    return np.corrcoef(one.ravel(), two.ravel())[0, 1]


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("alike", [0.0, 0.4, 1.0])
def test_noise_is_as_strong_as_stated_however_it_is_shared(spread, alike):
    noise = _added(Noise(sigma=20, blur_sigma=spread, channel_correlation=alike))
    for channel in range(3):
        # neighbors that share their noise are fewer independent draws
        assert noise[..., channel].std() == pytest.approx(20, rel=0.03)


def test_photon_noise_is_as_strong_as_stated_however_it_is_spread():
    alone, spread = (_added(Noise(photons=400, blur_sigma=radius)) for radius in (0.0, 1.0))
    assert spread.std() == pytest.approx(alone.std(), rel=0.03)


@pytest.mark.parametrize("spread", [0.7, 1.0, 1.5])
def test_neighbors_share_noise_as_a_gaussian_blur_spreads_it(spread):
    noise = _added(Noise(sigma=20, blur_sigma=spread))
    expected = np.exp(-1.0 / (4.0 * spread**2))
    assert _correlation(noise[1:], noise[:-1]) == pytest.approx(expected, abs=0.03)
    assert _correlation(noise[:, 1:], noise[:, :-1]) == pytest.approx(expected, abs=0.03)
    assert _correlation(noise[..., 0], noise[..., 1]) == pytest.approx(0.0, abs=0.04)


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("alike", [0.0, 0.3, 0.8, 1.0])
def test_channels_share_as_much_noise_as_stated(spread, alike):
    noise = _added(Noise(sigma=20, blur_sigma=spread, channel_correlation=alike))
    for one, two in ((0, 1), (1, 2), (0, 2)):
        assert _correlation(noise[..., one], noise[..., two]) == pytest.approx(alike, abs=0.04)
    if not spread:
        assert _correlation(noise[1:], noise[:-1]) == pytest.approx(0.0, abs=0.02)


def test_without_noise_there_is_nothing_to_spread():
    for noise in (
        Noise(blur_sigma=2.0),
        Noise(channel_correlation=1.0),
        Noise(blur_sigma=10.0, channel_correlation=0.5),
    ):
        assert np.array_equal(add_noise(FRAME, noise, np.random.default_rng(0)), FRAME)


def test_spread_and_alike_of_zero_are_plain_noise():
    plain, stated = (
        add_noise(FRAME, settings, np.random.default_rng(0))
        for settings in (Noise(sigma=9), Noise(sigma=9, blur_sigma=0.0, channel_correlation=0.0))
    )
    assert np.array_equal(plain, stated)


def test_photon_noise_grows_with_the_signal_as_poisson_does():
    photons = 400.0
    for level in (32, 128, 200):
        frame = np.full((300, 300, 3), level, np.uint8)
        values = add_noise(frame, Noise(photons=photons), np.random.default_rng(0)) / 255.0
        assert values.mean() == pytest.approx(level / 255.0, rel=0.01)
        assert values.var() == pytest.approx(level / 255.0 / photons, rel=0.03)


def test_less_quality_is_a_larger_error():
    errors = [
        np.abs(
            add_noise(FRAME, Noise(jpeg_quality=quality), np.random.default_rng(0)).astype(int)
            - FRAME
        ).mean()
        for quality in (95, 60, 10)
    ]
    assert errors == sorted(errors)
    assert errors[0] > 0.0


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_downscaling_divides_the_sides_and_keeps_a_flat_image_flat(factor):
    assert downscale(FRAME, factor).shape == (36 // factor, 48 // factor, 3)
    assert np.all(downscale(GRAY, factor) == 128)


def test_downscaling_lets_no_alias_in():
    # one-pixel stripes lie beyond what half the pixels can show: gray, not stripes
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = downscale(stripes, 2)[4:-4, 4:-4].astype(int)
    assert np.ptp(inner) <= 4
    assert abs(inner.mean() - 127.5) < 3


def test_fading_brings_black_and_white_together():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(3, 2)
    spans = [
        int(np.ptp(age_photo(ramp, OldPhoto(fading=fading), np.random.default_rng(0))))
        for fading in (0.0, 0.5, 1.0)
    ]
    assert spans == sorted(spans, reverse=True)
    assert spans[-1] < 160


def test_color_loss_leaves_gray_and_sepia_leaves_brown():
    generator = np.random.default_rng(0)
    gray = age_photo(FRAME, OldPhoto(color_loss=1.0), generator).astype(int)
    assert np.ptp(gray, axis=2).max() <= 1
    red, green, blue = age_photo(GRAY, OldPhoto(sepia=1.0), generator)[0, 0].astype(int)
    assert red > green > blue


def test_toning_colors_middle_tones_and_leaves_black_and_white():
    ramp = np.array([0, 128, 255], np.uint8)[None, :, None].repeat(3, 2)
    toned = age_photo(ramp, OldPhoto(toning=(20.0, 0.0, -40.0)), np.random.default_rng(0))
    assert toned[0].tolist() == [[0, 0, 0], [148, 128, 88], [255, 255, 255]]


def test_toning_gamma_takes_blue_from_shadows_and_leaves_black_and_white():
    ramp = np.array([0, 64, 128, 255], np.uint8)[None, :, None].repeat(3, 2)
    toned = age_photo(ramp, OldPhoto(toning_gamma=(1.0, 1.0, 2.0)), np.random.default_rng(0))
    assert toned[0].tolist() == [[0, 0, 0], [64, 64, 16], [128, 128, 64], [255, 255, 255]]


def test_wide_cracks_have_ragged_edges(monkeypatch):
    def edges(frame):
        changed = np.any(frame != GRAY, axis=2)
        return (changed[:, 1:] != changed[:, :-1]).sum() + (changed[1:] != changed[:-1]).sum()

    found = {}
    for smooth in (2.0, 1e9):
        monkeypatch.setattr(old_photo, "_SMOOTH_CRACK", smooth)
        aged = [
            age_photo(GRAY, OldPhoto(cracks=1), np.random.default_rng(seed)) for seed in range(12)
        ]
        found[smooth] = sum(map(edges, aged))
    assert found[2.0] > 1.1 * found[1e9]


def test_faded_dyes_lighten_their_colors_and_white_stays():
    ramp = np.array([0, 155, 255], np.uint8)[None, :, None].repeat(3, 2)
    faded = age_photo(ramp, OldPhoto(dye_fading=(0.5, 0.0, 0.2)), np.random.default_rng(0))
    assert faded[0].tolist() == [[128, 0, 51], [205, 155, 175], [255, 255, 255]]


def test_paper_colors_white_and_gamma_darkens_middle_tones():
    ramp = np.array([0, 128, 255], np.uint8)[None, :, None].repeat(3, 2)
    generator = np.random.default_rng(0)
    assert age_photo(ramp, OldPhoto(paper=(1.0, 0.8, 0.6)), generator)[0, 2].tolist() == [
        255,
        204,
        153,
    ]
    assert age_photo(ramp, OldPhoto(gamma=2.0), generator)[0, :, 0].tolist() == [0, 64, 255]


def test_aging_and_damage_are_parts_of_the_settings():
    settings = OldPhoto(fading=0.5, toning=(9.0, 0.0, -9.0), dust=3.0, cracks=2, patches=1)
    assert settings.without_damage() == OldPhoto(fading=0.5, toning=(9.0, 0.0, -9.0))
    assert settings.damage_alone() == OldPhoto(dust=3.0, cracks=2, patches=1)


def test_grain_is_the_same_in_all_channels_and_as_strong_as_stated():
    grain = age_photo(GRAY, OldPhoto(grain=10), np.random.default_rng(0)).astype(float) - 128
    assert np.array_equal(grain[..., 0], grain[..., 2])
    assert grain.std() == pytest.approx(10, rel=0.02)


@dataclass(frozen=True)
class Damage:
    id: str
    settings: OldPhoto
    least: float
    most: float


DAMAGES = [
    Damage("dust", OldPhoto(dust=5), 1e-3, 0.03),
    Damage("scratch", OldPhoto(scratches=1), 0.5 / 300, 5 / 300),
    Damage("crease", OldPhoto(creases=1), 0.5 / 300, 15 / 300),
    Damage("crack", OldPhoto(cracks=1), 2e-4, 0.1),
    Damage("hair", OldPhoto(hairs=1), 1e-4, 0.03),
    Damage("patch", OldPhoto(patches=1), 1e-5, 0.1),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_damage_touches_a_small_share_of_the_print_and_no_more(damage):
    aged = age_photo(GRAY, damage.settings, np.random.default_rng(3))
    share = np.mean(np.any(aged != GRAY, axis=2))
    assert damage.least < share < damage.most


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Noise(sigma=-1), "sigma must lie in"),
        (lambda: Noise(photons=0.0), "photons must be above 0"),
        (lambda: Noise(jpeg_quality=0), r"jpeg_quality must lie in \[1, 100\], found 0"),
        (
            lambda: Noise(blur_sigma=-0.1),
            r"blur_sigma must lie in \[0, 10\] pixels .*, found -0.1 and 0",
        ),
        (lambda: Noise(blur_sigma=11.0), r"blur_sigma must lie in \[0, 10\]"),
        (lambda: Noise(blur_sigma=float("nan")), r"blur_sigma must lie in \[0, 10\]"),
        (
            lambda: Noise(channel_correlation=-0.1),
            r"channel_correlation in \[0, 1\], found 0.0 and -0.1",
        ),
        (
            lambda: Noise(channel_correlation=1.1),
            r"channel_correlation in \[0, 1\], found 0.0 and 1.1",
        ),
        (lambda: OldPhoto(fading=1.5), r"fading must lie in \[0, 1\], found 1.5"),
        (lambda: OldPhoto(cracks=-1), "cracks must not be negative, found -1"),
        (lambda: OldPhoto(paper=(1.0, 1.2, 1.0)), r"paper must be three values in \[0, 1\]"),
        (lambda: OldPhoto(dye_fading=(-0.1, 0.0, 0.0)), r"dye_fading must be three values in"),
        (lambda: OldPhoto(toning=(300.0, 0.0, 0.0)), r"toning must be three values in \[-255"),
        (lambda: OldPhoto(gamma=0.0), r"gamma must lie in \[0.1, 10\], found 0.0"),
        (
            lambda: OldPhoto(toning_gamma=(1.0, 0.0, 1.0)),
            r"toning_gamma must lie in \[0.1, 10\], found \(1.0, 0.0, 1.0\)",
        ),
        (lambda: OldPhoto(scratches=-1), "scratches must not be negative, found -1"),
        (lambda: downscale(FRAME, 5), "factor must be one of"),
    ],
)
def test_values_outside_their_range_are_refused(make, says):
    with pytest.raises(OptionError, match=says):
        make()


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ImageError, match="48x35; expected multiples of 2"):
        downscale(FRAME[:35], 2)
