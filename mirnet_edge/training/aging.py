"""Synthetic old photos with the mask of their damage, which only those who make them know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.degradations import age_photo, overlay_damage
from mirnet_edge.training.tasks import add_capture_noise, sample_aging_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mirnet_edge.degradations import OldPhoto, Overlay
    from mirnet_edge.images.contract import Frame

SEEN_LEVELS = 6
"""Damage is what changes a pixel of the aged photo by so many levels or more in one channel."""
_ON_DAMAGE_FRACTION = 0.6  # of the crops that are cut around a damaged pixel


@dataclass(frozen=True)
class AgedPhoto:
    """A synthetic old photo with its truth."""

    clean: Frame
    """(H, W, 3) uint8 RGB."""
    aged: Frame
    """The same size: aged and damaged."""
    damage: NDArray[np.bool_]
    """(H, W): where the damage shows."""

    def damage_db(self, restored: Frame) -> float:
        """Return PSNR in dB of the damaged pixels of a restored photo; there must be one."""
        error = (restored.astype(np.float64) - self.clean)[self.damage]
        return float(10.0 * np.log10(255.0**2 / max(float(np.mean(error**2)), 1e-6)))


def age_with_damage(
    frame: Frame,
    generator: np.random.Generator,
    overlays: Sequence[Overlay] = (),
    *,
    aging: OldPhoto | None = None,
    overlay_fraction: float = 0.4,
    capture_noise_fraction: float = 0.0,
) -> AgedPhoto:
    """Return a clean photo aged and damaged at random, with the mask of its damage.

    Args:
        frame: (H, W, 3) uint8 RGB.
        generator: The only source of randomness.
        overlays: Damage with transparency.
        aging: The strengths of aging and of drawn damage; None for random ones.
        overlay_fraction: Fraction of the photos with one or two of the overlays.
        capture_noise_fraction: Fraction of the photos with a scanner's noise, over all.
    """
    settings = sample_aging_of(frame, generator) if aging is None else aging
    whole = age_photo(frame, settings.without_damage(), generator)
    damaged = age_photo(whole, settings.damage_alone(), generator)
    if overlays and generator.random() < overlay_fraction:
        for _ in range(int(generator.integers(1, 3))):
            overlay = overlays[int(generator.integers(len(overlays)))]
            strength = generator.uniform(0.5, 1.0)
            damaged = overlay_damage(damaged, overlay, generator, strength=strength)
    difference = np.abs(damaged.astype(np.int16) - whole).max(2)
    if capture_noise_fraction:
        capture = add_capture_noise(lambda given, _: given, capture_noise_fraction)
        damaged = capture(damaged, generator)
    return AgedPhoto(frame, damaged, difference >= SEEN_LEVELS)


def choose_window(
    damage: NDArray[np.bool_], crop: int, generator: np.random.Generator
) -> tuple[slice, slice]:
    """Return a window of CROP x CROP pixels: often around damage, (H, W), else anywhere."""
    y, x = (int(generator.integers(side - crop + 1)) for side in damage.shape)
    places = np.argwhere(damage)
    if len(places) and generator.random() < _ON_DAMAGE_FRACTION:
        center = places[int(generator.integers(len(places)))]
        shift = generator.integers(-crop // 3, crop // 3 + 1, 2)
        y, x = np.clip(center + shift - crop // 2, 0, np.array(damage.shape) - crop).tolist()
    return slice(y, y + crop), slice(x, x + crop)


def cut_square(frame: Frame, side: int, generator: np.random.Generator) -> Frame:
    """Return a random square of SIDE pixels; of smaller photos, enlarged by reflection."""
    lacking = [max(0, side - own) for own in frame.shape[:2]]
    if any(lacking):
        frame = np.pad(frame, ((0, lacking[0]), (0, lacking[1]), (0, 0)), mode="symmetric")
    y, x = (int(generator.integers(own - side + 1)) for own in frame.shape[:2])
    return np.ascontiguousarray(frame[y : y + side, x : x + side])


def flip_at_random(frame: Frame, generator: np.random.Generator) -> Frame:
    """Return the frame flipped at random, along each axis."""
    if generator.integers(2):
        frame = frame[:, ::-1]
    if generator.integers(2):
        frame = frame[::-1]
    return np.ascontiguousarray(frame)
