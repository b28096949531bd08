"""Classical baselines, which a network must beat to be worth its latency.

Each takes and returns a frame, (H, W, 3) uint8 RGB; parameters are those of the papers or of
OpenCV's documentation, not tuned to any image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.record import FORMER_VALUES
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.images.contract import Frame


@dataclass(frozen=True)
class Baseline:
    """A classical restoration method."""

    name: str
    tasks: tuple[str, ...]
    """Tasks in whose benchmarks it is a baseline."""
    restore: Callable[[Frame], Frame]


def baselines_for(task: str) -> list[Baseline]:
    """Return the baselines of a task.

    Raises:
        OptionError: There is none for this task.
    """
    found = [baseline for baseline in BASELINES if task in baseline.tasks]
    if not found:
        known = sorted({task for baseline in BASELINES for task in baseline.tasks})
        raise OptionError(f"no baseline for the task {task!r}; expected one of {', '.join(known)}")
    return found


def baseline_named(name: str) -> Baseline:
    """Return the baseline of that name, or of its former name.

    Raises:
        OptionError: There is none.
    """
    for baseline in BASELINES:
        if baseline.name == FORMER_VALUES.get(name, name):
            return baseline
    known = ", ".join(baseline.name for baseline in BASELINES)
    raise OptionError(f"no baseline {name!r}; expected one of {known}")


def gamma(frame: Frame) -> Frame:
    """Apply the gamma curve that brings the mean of the frame to the middle of the range."""
    unit = np.arange(256) / 255.0
    mean = float(np.clip(frame.mean() / 255.0, 1e-3, 1.0 - 1e-3))
    curve = np.rint(255.0 * unit ** (np.log(0.5) / np.log(mean))).astype(np.uint8)
    brightened: Frame = curve[frame]
    return brightened


def equalize_histogram(frame: Frame) -> Frame:
    """Equalize the histogram of the lightness, in YCrCb."""
    import cv2

    levels = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
    levels[..., 0] = cv2.equalizeHist(levels[..., 0])
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_YCrCb2RGB), np.uint8)


def clahe(frame: Frame) -> Frame:
    """Equalize the lightness by tiles with limited contrast, in Lab (Zuiderveld, 1994)."""
    import cv2

    levels = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
    levels[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(levels[..., 0])
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_LAB2RGB), np.uint8)


def single_scale_retinex(frame: Frame) -> Frame:
    """Retinex with one surround (Jobson et al., "Properties and performance", IEEE TIP 1997)."""
    return _retinex(frame, (80.0,))


def retinex(frame: Frame) -> Frame:
    """Multi-scale Retinex with color restoration left out (Jobson et al., IEEE TIP 1997)."""
    return _retinex(frame, (15.0, 80.0, 250.0))


def _retinex(frame: Frame, scales: tuple[float, ...]) -> Frame:
    """Return the logarithm of each channel over its surrounds, stretched to the range."""
    import cv2

    value = frame.astype(np.float32) + 1.0
    surrounds = [np.log(cv2.GaussianBlur(value, (0, 0), sigma)) for sigma in scales]
    detail = np.log(value) - np.mean(surrounds, axis=0)
    low, high = np.percentile(detail, (1.0, 99.0))
    stretched = np.clip((detail - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    restored: Frame = np.rint(255.0 * stretched).astype(np.uint8)
    return restored


def two_step_retinex(frame: Frame) -> Frame:
    """Divide by the illumination raised to a power, then denoise: Retinex in two steps.

    The illumination is the largest of the channels, smoothed along edges; what it leaves is
    brightened by illumination^0.8 (Guo et al., "LIME", IEEE TIP 2017), then denoised by non-local
    means, because the gain amplifies noise.
    """
    import cv2

    value = frame.astype(np.float32) / np.float32(255.0)
    brightest = value.max(axis=2)
    illumination = cv2.bilateralFilter(cv2.blur(brightest, (5, 5)), 9, 0.1, 5)
    gain = np.maximum(illumination, 1.0 / 255.0) ** np.float32(-0.8)
    bright = np.rint(255.0 * np.clip(value * gain[..., None], 0.0, 1.0)).astype(np.uint8)
    return non_local_means(bright)


def median(frame: Frame) -> Frame:
    """Return the median of each 3x3 neighborhood, by channel."""
    import cv2

    return np.asarray(cv2.medianBlur(np.ascontiguousarray(frame), 3), np.uint8)


def adaptive_wiener(frame: Frame) -> Frame:
    """Apply an adaptive Wiener filter over 5x5 neighborhoods (Lee, IEEE TPAMI 1980).

    The local mean, plus the deviation from it times the fraction of the local variance that is not
    noise; the noise is estimated from the whole frame.
    """
    import cv2

    value = frame.astype(np.float32)
    mean = cv2.blur(value, (5, 5))
    variance = np.maximum(cv2.blur(value * value, (5, 5)) - mean * mean, 1e-3)
    fraction = np.maximum(variance - noise_level(frame) ** 2, 0.0) / variance
    return np.asarray(np.rint(np.clip(mean + fraction * (value - mean), 0, 255)), np.uint8)


def fuzzy_impulse(frame: Frame) -> Frame:
    """Replace impulse noise by the median, weighted by a fuzzy membership.

    The membership "impulse" rises from 0 to 1 over the distance to the median of 3x3, as in
    Toh and Isa, "Noise adaptive fuzzy switching median filter", IEEE SPL 2010 (T1 10, T2 30).
    """
    import cv2

    middle = cv2.medianBlur(np.ascontiguousarray(frame), 3).astype(np.float32)
    value = frame.astype(np.float32)
    impulse = np.clip((np.abs(value - middle) - 10.0) / 20.0, 0.0, 1.0)
    return np.asarray(np.rint(value + impulse * (middle - value)), np.uint8)


def underwater(frame: Frame) -> Frame:
    """Balance the channels, brighten by a sine, sharpen by a Gaussian, then CLAHE.

    The usual steps of underwater enhancement; the constants are ours, of no one paper: gray-world
    gains up to 4, sin(pi/2 x), an unsharp mask of sigma 3 at half strength.
    """
    import cv2

    value = frame.astype(np.float32) / np.float32(255.0)
    means = value.mean((0, 1))
    gains = np.clip(means.mean() / np.maximum(means, 1e-3), 0.25, 4.0)
    bright = np.sin(0.5 * np.pi * np.clip(value * gains, 0.0, 1.0)).astype(np.float32)
    sharp = bright + 0.5 * (bright - cv2.GaussianBlur(bright, (0, 0), 3.0))
    return clahe(np.asarray(np.rint(255.0 * np.clip(sharp, 0.0, 1.0)), np.uint8))


def bilateral(frame: Frame) -> Frame:
    """Apply a bilateral filter (Tomasi and Manduchi, ICCV 1998)."""
    import cv2

    return np.asarray(cv2.bilateralFilter(np.ascontiguousarray(frame), 7, 50, 3), np.uint8)


def non_local_means(frame: Frame) -> Frame:
    """Average similar patches (Buades et al., IPOL 2011), with a strength from the noise level."""
    import cv2

    strength = float(np.clip(0.8 * noise_level(frame), 1.0, 40.0))
    restored = cv2.fastNlMeansDenoisingColored(frame, None, strength, strength, 7, 21)
    return np.asarray(restored, np.uint8)


def bicubic(frame: Frame) -> Frame:
    """Return the frame twice as high and wide, by bicubic interpolation."""
    from PIL import Image

    height, width = frame.shape[:2]
    enlarged = Image.fromarray(frame).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged)


def lanczos(frame: Frame) -> Frame:
    """Return the frame twice as high and wide, by Lanczos interpolation."""
    from PIL import Image

    height, width = frame.shape[:2]
    enlarged = Image.fromarray(frame).resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    return np.asarray(enlarged)


def noise_level(frame: Frame) -> float:
    """Return the estimated standard deviation of a frame's white noise, in 8-bit levels.

    Immerkaer, "Fast Noise Variance Estimation", CVIU 1996: a mask that is zero on flat areas and
    straight edges.
    """
    import cv2

    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(frame.astype(np.float32), -1, mask)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2.0) * np.abs(response).mean() / 6.0) if response.size else 0.0


BASELINES = (
    Baseline("gamma", ("low-light",), gamma),
    Baseline("histogram equalization", ("low-light",), equalize_histogram),
    Baseline("CLAHE", ("low-light", "old-photo"), clahe),
    Baseline("single-scale Retinex", ("low-light",), single_scale_retinex),
    Baseline("multi-scale Retinex", ("low-light",), retinex),
    Baseline("two-step Retinex", ("low-light",), two_step_retinex),
    Baseline("median 3x3", ("denoise", "old-photo"), median),
    Baseline("adaptive Wiener", ("denoise",), adaptive_wiener),
    Baseline("fuzzy impulse filter", ("denoise", "old-photo"), fuzzy_impulse),
    Baseline("bilateral", ("denoise",), bilateral),
    Baseline("non-local means", ("denoise", "old-photo"), non_local_means),
    Baseline("trigonometric-Gaussian + CLAHE", ("underwater",), underwater),
    Baseline("bicubic", ("super-resolution",), bicubic),
    Baseline("Lanczos", ("super-resolution",), lanczos),
)
