"""Degraded samples for the diagnosis: what was done to a clean frame, and the labels it then has.

Strengths between "has it" and "has it not" are unknown to the loss, so that the network is not
taught a border that people would not agree on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.degradations import (
    Camera,
    LowLight,
    Noise,
    OldPhoto,
    add_noise,
    age_photo,
    overlay_damage,
    photograph,
    reduce_light,
)
from mirnet_edge.diagnosis.labels import LABELS
from mirnet_edge.images.contract import LUMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.degradations import Overlay
    from mirnet_edge.diagnosis.labels import Label, TopLabel
    from mirnet_edge.images.contract import Frame

# sigma in 8-bit levels: below the first a frame counts as free of noise, from the second as noisy
_LEAST_SIGMA, _NOISY_SIGMA = 1.2, 2.5
DARK_LUMA = 45.0
"""Mean luma below which a frame that was darkened is dark."""
_LIT_LUMA = 60.0  # above it a frame is not dark
_SEEN_DAMAGE = 0.003  # fraction of the pixels that damage must change by 20 levels to count
# fading of a faded frame without a brown tone, which leaves at most 0.75 of the contrast (see
# `OldPhoto`), and the contrast that haze takes from fine ones: between the two there is nothing
_LEAST_FADING, _MOST_HAZE = 0.55, 0.12


@dataclass
class LabeledFrame:
    """A frame with what is known of it."""

    frame: Frame
    present: set[Label] = field(default_factory=set)
    unknown: set[Label] = field(default_factory=set)
    """Labels that are neither present nor absent."""
    sigma: float | None = None
    """Standard deviation of the noise in 8-bit levels; None where it is unknown."""

    def set_noise(self, sigma: float, *, measured: bool = True) -> None:
        """Set sigma, and the label noisy by it."""
        self.present.discard("noisy")
        self.unknown.discard("noisy")
        if sigma >= _NOISY_SIGMA:
            self.present.add("noisy")
        elif sigma > _LEAST_SIGMA:
            self.unknown.add("noisy")
        self.sigma = sigma if measured and sigma > 0.0 else None


def degrade_for_label(
    frame: Frame,
    label: TopLabel,
    generator: np.random.Generator,
    overlays: Sequence[Overlay] = (),
) -> LabeledFrame:
    """Return a clean frame degraded so that it has a label; several others may come with it.

    Args:
        frame: (H, W, 3) uint8 RGB.
        label: What is to be wrong with it; "fine" changes it as good cameras and editors do.
        generator: The only source of randomness.
        overlays: Damage with transparency; without some, damage is drawn.
    """
    made = _degrade(_vary(frame, generator), label, generator, overlays)
    if "dark" not in made.present and float(made.frame.mean((0, 1)) @ LUMA) < _LIT_LUMA:
        made.unknown.add("dark")
    return made


def _degrade(
    varied: Frame, label: TopLabel, generator: np.random.Generator, overlays: Sequence[Overlay]
) -> LabeledFrame:
    if label == "dark":
        made = _darken(varied, generator)
    elif label == "noisy":
        made = _add_noise(varied, generator)
    elif label == "low-resolution":
        made = _blur(varied, generator)
    elif label == "faded":
        made = _fade(varied, generator, overlays)
    elif label == "scratched":
        made = _scratch(varied, generator, overlays)
    else:
        return _keep_fine(varied, generator)
    if label not in ("noisy", "low-resolution") and generator.random() < 0.3:
        quality = int(generator.integers(80, 100))
        made.frame = add_noise(made.frame, Noise(jpeg_quality=quality), generator)
    return made


def _keep_fine(frame: Frame, generator: np.random.Generator) -> LabeledFrame:
    """Return a fine frame, sometimes with a little haze, or compressed."""
    made = LabeledFrame(frame)
    if generator.random() < 0.2:
        kept, level = generator.uniform(1.0 - _MOST_HAZE, 1.0), generator.uniform(80.0, 230.0)
        made.frame = np.rint(kept * frame + (1.0 - kept) * level).astype(np.uint8)
    if generator.random() < 0.5:
        quality = Noise(jpeg_quality=int(generator.integers(75, 100)))
        made.frame = add_noise(made.frame, quality, generator)
    return made


def _vary(frame: Frame, generator: np.random.Generator) -> Frame:
    """Return a frame as good as before: other brightness, contrast, colors, black and white."""
    pixels = frame.astype(np.float32) / 255.0
    if generator.random() < 0.5:
        pixels = pixels ** np.float32(2.0 ** generator.uniform(-0.4, 0.4))
    if generator.random() < 0.15:
        pixels = np.repeat((pixels @ LUMA.astype(np.float32))[..., None], 3, axis=2)
    elif generator.random() < 0.4:
        gray = (pixels @ LUMA.astype(np.float32))[..., None]
        pixels = gray + np.float32(generator.uniform(0.75, 1.4)) * (pixels - gray)
        pixels = pixels * (2.0 ** generator.uniform(-0.1, 0.1, 3)).astype(np.float32)
    varied: Frame = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    return varied


def _deviation(one: Frame, two: Frame) -> float:
    return float(np.std(one.astype(np.float32) - two.astype(np.float32)))


def _darken(frame: Frame, generator: np.random.Generator) -> LabeledFrame:
    """Take light away with sensor noise; lamps and windows may stay bright."""
    noise = 2.0 ** generator.uniform(-2.5, 2.0)
    exposure = 2.0 ** generator.uniform(-6.0, -1.8)
    red, blue = 2.0 ** generator.uniform(-0.4, 0.4, 2)
    balance = (float(red), 1.0, float(blue))
    noisy = reduce_light(
        frame,
        LowLight(
            exposure=exposure,
            shot_noise=3e-4 * noise**2,
            read_noise=8e-4 * noise,
            white_balance=balance,
        ),
        generator,
    )
    quiet = reduce_light(frame, LowLight(exposure=exposure, white_balance=balance), generator)
    made = LabeledFrame(noisy)
    luma = float(noisy.mean((0, 1)) @ LUMA)
    if luma < DARK_LUMA:
        made.present.add("dark")
    elif luma < _LIT_LUMA:
        made.unknown.add("dark")
    made.set_noise(_deviation(noisy, quiet))
    if generator.random() < 0.4:
        made.frame = _leave_lamps(noisy, frame, generator)
    return made


def _leave_lamps(dark: Frame, lit: Frame, generator: np.random.Generator) -> Frame:
    """Return a dark frame in which some small places keep their light."""
    height, width = dark.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    weight = np.zeros((height, width), np.float32)
    for _ in range(int(generator.integers(1, 7))):
        y, x = generator.uniform(0, height), generator.uniform(0, width)
        tall, wide = generator.uniform(0.01, 0.09, 2) * (height, width)
        distance = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2
        sharp = generator.uniform(1.0, 4.0)
        weight = np.maximum(weight, np.exp(-(distance**sharp)).astype(np.float32))
    blended = dark + weight[..., None] * (lit.astype(np.float32) - dark)
    return np.rint(blended).astype(np.uint8)


def _add_noise(frame: Frame, generator: np.random.Generator) -> LabeledFrame:
    """Add Gaussian noise, or a camera's: correlated between pixels and channels, then JPEG."""
    if generator.random() < 0.35:
        return _photograph(frame, generator)
    # half of it weak: cameras leave that much, and it is the harder half
    strongest = 10.0 if generator.random() < 0.5 else 50.0
    sigma = math.exp(generator.uniform(math.log(2.5), math.log(strongest)))
    if generator.random() < 0.3:
        settings = Noise(sigma=sigma)
    else:
        settings = Noise(
            sigma=sigma if generator.random() < 0.6 else 2.5 * sigma**0.5,
            photons=math.exp(generator.uniform(math.log(300.0), math.log(2e4))),
            blur_sigma=generator.uniform(0.3, 1.6),
            channel_correlation=generator.uniform(0.0, 0.9),
        )
    noisy, quiet = add_noise(frame, settings, generator), frame
    if generator.random() < 0.6:
        compression = Noise(jpeg_quality=int(generator.integers(75, 100)))
        noisy, quiet = (add_noise(one, compression, generator) for one in (noisy, quiet))
    made = LabeledFrame(noisy)
    made.set_noise(_deviation(noisy, quiet))
    return made


def _photograph(frame: Frame, generator: np.random.Generator) -> LabeledFrame:
    """Take the frame with a camera in good light: sensor noise, demosaiced and smoothed by it."""

    def log_uniform(low: float, high: float) -> float:
        return math.exp(generator.uniform(math.log(low), math.log(high)))

    red, blue = 2.0 ** generator.uniform(0.0, 1.2, 2)
    camera = Camera(
        white_balance=(float(red), 1.0, float(blue)),
        crosstalk=generator.uniform(0.0, 0.3),
        shot_noise=log_uniform(1e-4, 4e-3),
        read_noise=log_uniform(3e-4, 6e-3),
        is_mosaic=generator.random() < 0.9,
        denoise=generator.uniform(0.0, 1.0) if generator.random() < 0.7 else 0.0,
        contrast=generator.uniform(0.0, 0.5),
        jpeg_quality=int(generator.integers(75, 100)) if generator.random() < 0.7 else None,
    )
    one, other = (photograph(frame, camera, generator) for _ in range(2))
    made = LabeledFrame(one)
    # of two exposures of one scene: what the camera smoothed away of it is no noise
    made.set_noise(_deviation(one, other) / math.sqrt(2.0))
    return made


def _blur(frame: Frame, generator: np.random.Generator) -> LabeledFrame:
    """Blur the frame, or enlarge a small one to its size, as web pages and old cameras do."""
    import cv2

    height, width = frame.shape[:2]
    kind = generator.random()
    if kind < 0.45:
        factor = generator.uniform(2.5, 5.0)
        size = (max(8, round(width / factor)), max(8, round(height / factor)))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        filters = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
        chosen = filters[int(generator.integers(3))]
        blurred = cv2.resize(small, (width, height), interpolation=chosen)
    elif kind < 0.8:
        blurred = cv2.GaussianBlur(frame, (0, 0), generator.uniform(2.0, 5.0))
    else:  # a camera that moved
        length = int(generator.integers(7, 20))
        kernel = np.zeros((length, length), np.float32)
        angle = generator.uniform(0, math.pi)
        along = np.array([math.cos(angle), math.sin(angle)]) * (length - 1) / 2
        ends = [tuple(round(v) for v in (length - 1) / 2 + sign * along) for sign in (1, -1)]
        cv2.line(kernel, ends[0], ends[1], 1.0, 1)
        blurred = cv2.filter2D(frame, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    made = LabeledFrame(np.asarray(blurred, np.uint8), {"low-resolution"})
    if generator.random() < 0.15:
        sigma = generator.uniform(3.0, 12.0)
        made.frame = add_noise(made.frame, Noise(sigma=sigma), generator)
        made.set_noise(sigma)
    if generator.random() < 0.5:
        quality = int(generator.integers(50, 98))
        made.frame = add_noise(made.frame, Noise(jpeg_quality=quality), generator)
        if "noisy" in made.present:
            made.sigma = None
    return made


def _fade(
    frame: Frame,
    generator: np.random.Generator,
    overlays: Sequence[Overlay],
    *,
    damage: bool = True,
) -> LabeledFrame:
    """Fade or tone a print, mostly with grain, sometimes with damage."""
    is_toned = generator.random() < 0.5
    settings = _sample_tone(generator) if is_toned else OldPhoto()
    # a tone is enough to see the age of a print
    least = _LEAST_FADING if not is_toned or generator.random() < 0.3 else 0.0
    fading = generator.uniform(least, 1.0 if least or generator.random() < 0.3 else 0.4)
    settings = replace(
        settings,
        fading=fading,
        blur=generator.uniform(0.0, 1.0) if generator.random() < 0.4 else 0.0,
        gamma=generator.uniform(1.0, 1.8) if generator.random() < 0.3 else 1.0,
    )
    if not is_toned and generator.random() < 0.6:
        settings = replace(settings, color_loss=generator.uniform(0.0, 1.0))
    if not is_toned and generator.random() < 0.3:  # each dye fades by itself
        red, green, blue = generator.uniform(0.0, 0.5, 3)
        settings = replace(settings, dye_fading=(red, green, blue))
    if generator.random() < 0.6:  # yellow, red or green casts of paper and of dyes
        cast = 2.0 ** generator.uniform(-0.8, 0.1, 3)
        red, green, blue = cast / cast.max()
        settings = replace(settings, paper=(red, green, blue))
    aged = age_photo(frame, settings, generator)
    if generator.random() < 0.2:
        aged = _add_border(aged, generator)
    made = LabeledFrame(aged, {"faded"}, {"low-resolution"})
    if generator.random() < 0.5:
        _add_grain(made, generator)
    if damage and generator.random() < 0.35:
        _damage(made, generator, overlays)
    return made


def _sample_tone(generator: np.random.Generator) -> OldPhoto:
    """Return a brown tone that is seen at once: as image editors make it, or as of real prints."""
    if generator.random() < 0.5:
        return OldPhoto(sepia=generator.uniform(0.5, 1.0))
    strength = generator.uniform(30.0, 70.0)
    red, green, blue = strength * generator.uniform((0.2, -0.1, -1.0), (0.6, 0.15, -0.4))
    return OldPhoto(color_loss=1.0, toning=(red, green, blue))


def _add_border(frame: Frame, generator: np.random.Generator) -> Frame:
    """Lay the uneven edge of a print's paper, or of the scanner's lid, over the frame."""
    import cv2

    height, width = frame.shape[:2]
    corners, steps = [], 12
    margins = generator.uniform(0.0, 0.06, 4) * min(height, width)
    for side, (start, stop) in enumerate((
        ((0, 0), (width, 0)), ((width, 0), (width, height)),
        ((width, height), (0, height)), ((0, height), (0, 0)),
    )):  # fmt: skip
        inward = ((0, 1), (-1, 0), (0, -1), (1, 0))[side]
        for step in range(steps):
            along = np.array(start) + (np.array(stop) - start) * (step / steps)
            depth = margins[side] * generator.uniform(0.8, 1.2)
            corners.append(along + depth * np.array(inward))
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], 255)
    level = generator.uniform(200, 250) if generator.random() < 0.7 else generator.uniform(5, 60)
    paper = np.clip(level + generator.normal(0.0, 4.0, (height, width, 1)), 0, 255)
    tint = (2.0 ** generator.uniform(-0.2, 0.0, 3)).astype(np.float32)
    return np.where(inside[..., None] > 0, frame, np.rint(paper * tint)).astype(np.uint8)


def _add_grain(made: LabeledFrame, generator: np.random.Generator) -> None:
    sigma = generator.uniform(2.0, 18.0)
    settings = Noise(
        sigma=sigma, blur_sigma=generator.uniform(0.0, 1.0),
        channel_correlation=generator.uniform(0.5, 1.0),
    )  # fmt: skip
    noisy = add_noise(made.frame, settings, generator)
    made.set_noise(_deviation(noisy, made.frame))
    made.frame = noisy


def _scratch(
    frame: Frame, generator: np.random.Generator, overlays: Sequence[Overlay]
) -> LabeledFrame:
    """Damage a print or a film; half of them are also faded."""
    if generator.random() < 0.45:
        made = _fade(frame, generator, (), damage=False)
    else:
        made = LabeledFrame(frame)
        if generator.random() < 0.25:  # black and white
            gray = OldPhoto(color_loss=1.0)
            made.frame = age_photo(frame, gray, generator)
        if generator.random() < 0.3:
            _add_grain(made, generator)
    _damage(made, generator, overlays)
    return made


def _damage(
    made: LabeledFrame, generator: np.random.Generator, overlays: Sequence[Overlay]
) -> None:
    """Lay damage over the frame, and label it by how much of the frame it changes."""
    before = made.frame
    frame = before
    if overlays and generator.random() < 0.65:
        for _ in range(int(generator.integers(1, 4))):
            overlay = overlays[int(generator.integers(len(overlays)))]
            strength = generator.uniform(0.6, 1.0)
            frame = overlay_damage(frame, overlay, generator, strength=strength)
    if frame is before or generator.random() < 0.6:
        frame = age_photo(frame, _sample_damage(generator), generator)
    made.frame = frame
    difference = np.abs(frame.astype(np.int16) - before).max(2)
    seen = float((difference > 20).mean())
    if seen >= _SEEN_DAMAGE:
        made.present.add("scratched")
    elif frame is not before:
        made.unknown.add("scratched")


def _sample_damage(generator: np.random.Generator) -> OldPhoto:
    """Return strengths of drawn damage, of one to six kinds."""

    def count(largest: int) -> int:
        return int(generator.integers(1, largest + 1)) if generator.random() < 0.5 else 0

    damage = OldPhoto(
        dust=generator.uniform(0.0, 4.0) if generator.random() < 0.5 else 0.0,
        scratches=count(4),
        creases=count(2),
        cracks=count(12 if generator.random() < 0.2 else 3),
        hairs=count(6),
        patches=count(5),
    )
    return damage if damage != OldPhoto() else OldPhoto(cracks=2)


def targets_of(made: LabeledFrame) -> tuple[list[float], list[float]]:
    """Return each label's target, 0 or 1, and its weight: 0 where it is unknown."""
    target = [1.0 if label in made.present else 0.0 for label in LABELS]
    weight = [0.0 if label in made.unknown else 1.0 for label in LABELS]
    return target, weight
