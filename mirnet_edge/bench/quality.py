"""Measure quality: PSNR, SSIM and flicker of benchmark entries on image pairs and clips."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.record import (
    ClipFacts,
    ClipFlicker,
    ImageCrop,
    ImageQuality,
    PairSet,
    PairSetQuality,
)
from mirnet_edge.calibration.sets import builtin_set
from mirnet_edge.degradations import Noise, add_noise
from mirnet_edge.errors import DataError, ImageError, MirnetEdgeError
from mirnet_edge.images.contract import LUMA, size_text
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.images.kinds import FORMAT_OF_SUFFIX
from mirnet_edge.metrics import SSIM_WINDOW, flicker, mae, psnr, psnr_gtmean, ssim
from mirnet_edge.training.listing import PairFiles, list_pairs, match_pairs, read_pair_table
from mirnet_edge.training.tasks import find_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mirnet_edge.images.contract import Frame, Frames
    from mirnet_edge.runtime.runner import Runner

BUILT_IN = "built-in"
_TABLE = "pairs.csv"


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Image pairs to measure quality on."""

    name: str
    task: str
    pairs: tuple[PairFiles, ...] = ()
    """Empty for the built-in pairs of the task."""
    sigma: float | None = None
    """Degrade clean images by white noise of this strength, in 8-bit levels; None: by the task."""

    def __len__(self) -> int:
        """Return the number of pairs, readable or not."""
        return len(self.pairs) or len(builtin_set(self.task).evaluation)

    def images(self) -> Iterator[tuple[str, Frame, Frame] | ImageError]:
        """Yield each image's name, degraded input and ground truth, or why it cannot be read."""
        if not self.pairs:
            for sample in builtin_set(self.task).evaluation:
                if sample.reference is not None:
                    yield sample.name, sample.frame, sample.reference
            return
        for place, pair in enumerate(self.pairs):
            try:
                yield self._read(pair, place)
            except ImageError as error:
                yield error

    def _read(self, pair: PairFiles, place: int) -> tuple[str, Frame, Frame]:
        task = find_task(self.task)
        high = read_image(pair.target).frame
        if pair.degraded is None:
            height, width = (side // task.scale * task.scale for side in high.shape[:2])
            high = high[:height, :width]
            return pair.target.stem, self._degrade(high, np.random.default_rng(place)), high
        low = read_image(pair.degraded).frame
        expected = (low.shape[0] * task.scale, low.shape[1] * task.scale)
        if high.shape[:2] != expected:
            raise ImageError(
                f"{pair.degraded} is {size_text(*low.shape[:2])} and {pair.target} "
                f"{size_text(*high.shape[:2])}; expected {size_text(*expected)}. Remove the pair"
            )
        return pair.degraded.stem, low, high

    def _degrade(self, clean: Frame, generator: np.random.Generator) -> Frame:
        if self.sigma is None:
            return find_task(self.task).degrade(clean, generator)
        return add_noise(clean, Noise(sigma=self.sigma), generator)


def find_pair_sources(
    places: str,
    task: str,
    *,
    suffixes: tuple[str, str] | None = None,
    sigmas: tuple[float, ...] = (),
) -> list[PairSource]:
    """Return the pair sets that a --pairs value names.

    Args:
        places: LOW:HIGH (two folders whose files match by name), a folder (with a pairs.csv, of
            which the `val` and `test` splits are used; with low/ and high/; or of clean images,
            which the task's degradation degrades), or `built-in`.
        task: The task of the bundles.
        suffixes: How the names of degraded and clean images end, where one folder holds both.
        sigmas: Degrade clean images by white noise of these strengths, a pair set for each.

    Raises:
        DataError: The folder is missing, or has images without a partner.
    """
    if places == BUILT_IN:
        return [PairSource(name=f"{BUILT_IN} {task}", task=task)]
    low, colon, high = places.partition(":")
    if colon:
        name = f"{Path(low).name}:{Path(high).name}"
        return [PairSource(name=name, task=task, pairs=tuple(match_pairs(Path(low), Path(high))))]
    folder = Path(places)
    name = folder.resolve().name
    if suffixes is not None:
        return [PairSource(name=name, task=task, pairs=_pairs_by_suffixes(folder, *suffixes))]
    pairs = _pairs_of_folder(folder)
    if not sigmas:
        return [PairSource(name=name, task=task, pairs=pairs)]
    clean = tuple(PairFiles(None, pair.target, pair.scene) for pair in pairs)
    return [
        PairSource(name=f"{name} sigma {sigma:g}", task=task, pairs=clean, sigma=sigma)
        for sigma in sigmas
    ]


def _pairs_of_folder(folder: Path) -> tuple[PairFiles, ...]:
    if (folder / _TABLE).is_file():
        splits = read_pair_table(folder)
        pairs = splits["val"] + splits["test"]
        if not pairs:
            raise DataError(
                f"{folder / _TABLE} has no row whose split is val or test; expected some, because "
                "images of the training split do not measure quality"
            )
        return pairs
    if (folder / "low").is_dir() and (folder / "high").is_dir():
        return tuple(match_pairs(folder / "low", folder / "high"))
    # clean images: every tenth, which training leaves out
    return list_pairs(folder).val


def _pairs_by_suffixes(folder: Path, degraded: str, clean: str) -> tuple[PairFiles, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one of images")
    known = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMAT_OF_SUFFIX]
    low = [path for path in known if path.stem.endswith(degraded)]
    pairs = [(path, path.with_stem(path.stem.removesuffix(degraded) + clean)) for path in low]
    missing = [high.name for _, high in pairs if not high.is_file()]
    if missing or not pairs:
        raise DataError(
            f"{folder} holds {len(low)} images whose names end in {degraded}, {len(missing)} of "
            f"them without one that ends in {clean} ({', '.join(missing[:3])}); correct --suffixes"
        )
    return tuple(PairFiles(one, two, one.stem) for one, two in pairs)


BEFORE, REFERENCE = "before", "reference"
_SHOWN_IMAGES = 3
_CROP = (300, 400)  # height, width


@dataclass
class QualityMeasurement:
    """Quality of all entries on one pair set so far."""

    source: PairSource
    by_entry: dict[str, list[ImageQuality]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why an entry was not measured any further, by its name."""
    unreadable: list[str] = field(default_factory=list)
    crops: list[ImageCrop] = field(default_factory=list)
    images: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def pair_set(self) -> PairSet:
        """The report's part about the set."""
        return PairSet(
            name=self.source.name,
            task=self.source.task,
            images=self.images,
            unreadable=self.unreadable,
            sha256=self.digest.hexdigest(),
        )

    def of_entry(self, name: str) -> PairSetQuality | None:
        """Return an entry's quality, None where it was not measured."""
        found = self.by_entry.get(name)
        return PairSetQuality(pairs=self.source.name, images=found) if found else None


def measure_quality(
    runners: Mapping[str, Runner],
    measured: QualityMeasurement,
    folder: Path,
    on_image: Callable[[int], None] = lambda done: None,
) -> None:
    """Restore every image of a pair set with every open runner and compare it to the ground truth.

    An image that cannot be read is listed and left out; a runner that fails is left out of the
    following images. After an interruption, `measured` holds the results until then.

    Args:
        runners: By entry, all open.
        measured: Filled in.
        folder: Crops are written to its `crops` folder.
        on_image: Called with the number of images done.
    """
    shown = _select_shown(len(measured.source))
    for index, image in enumerate(measured.source.images()):
        if isinstance(image, ImageError):
            measured.unreadable.append(" ".join(str(image).split()))
        else:
            _measure_image(runners, measured, image, folder if index in shown else None)
        on_image(index + 1)


def measure_image(name: str, low: Frame, output: Frame, high: Frame) -> ImageQuality:
    """Return the quality metrics of one restored image.

    Args:
        name: Of the image.
        low: The degraded input.
        output: The restored image.
        high: The ground truth, of the size of the output.
    """
    one, two = output[None], high[None]
    large = min(high.shape[:2]) >= SSIM_WINDOW
    return ImageQuality(
        name=name,
        brightness=round(float(np.mean(low @ LUMA)) / 255.0, 5),
        psnr_db=_finite(float(psnr(one, two)[0])),
        psnr_gtmean_db=_finite(float(psnr_gtmean(one, two)[0])),
        ssim=round(float(ssim(one, two)[0]), 5) if large else None,
        mae=round(float(mae(one, two)[0]), 5),
    )


def _measure_image(
    runners: Mapping[str, Runner],
    measured: QualityMeasurement,
    image: tuple[str, Frame, Frame],
    folder: Path | None,
) -> None:
    name, low, high = image
    measured.images += 1
    for frame in (low, high):
        measured.digest.update(np.ascontiguousarray(frame).tobytes())
    outputs: dict[str, Frame] = {}
    for entry, runner in runners.items():
        if entry in measured.failures:
            continue
        try:
            output = runner.run(low[None])[0]
            quality = measure_image(name, low, output, high)
        except MirnetEdgeError as error:
            measured.failures[entry] = " ".join(str(error).split())
            continue
        measured.by_entry.setdefault(entry, []).append(quality)
        outputs[entry] = output
    if folder is not None:
        _write_crops(measured, name, {BEFORE: low, **outputs, REFERENCE: high}, folder)


def _write_crops(
    measured: QualityMeasurement, name: str, frames: dict[str, Frame], folder: Path
) -> None:
    pairs, size = measured.source.name, frames[REFERENCE].shape[:2]
    safe = "".join(one if one.isalnum() else "-" for one in f"{pairs}-{name}")
    for number, (row, frame) in enumerate(frames.items()):
        file = f"crops/{safe}-{number:02d}.jpg"
        crop = _crop_center(_enlarge(frame, size))
        write_image(folder / file, ImageFile(frame=crop, format="JPEG"))
        measured.crops.append(ImageCrop(pairs=pairs, image=name, row=row, file=file))


def _enlarge(frame: Frame, size: tuple[int, ...]) -> Frame:
    """Return an input of super-resolution at the size of its ground truth; others as they are."""
    if frame.shape[:2] == size:
        return frame
    import cv2

    large = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large, np.uint8)


def _crop_center(frame: Frame) -> Frame:
    top, left = (
        max(0, (side - wanted) // 2) for side, wanted in zip(frame.shape, _CROP, strict=False)
    )
    return np.ascontiguousarray(frame[top : top + _CROP[0], left : left + _CROP[1]])


def _select_shown(count: int) -> set[int]:
    """Return the indices of the images whose crops are kept: a few, evenly spread."""
    return {round((count - 1) * index / (_SHOWN_IMAGES - 1)) for index in range(_SHOWN_IMAGES)}


def _finite(psnr_db: float) -> float | None:
    return None if math.isinf(psnr_db) else round(psnr_db, 4)


STILL = "still"
CLIP_FRAMES = 24  # a second of film
_WIDTH = 512
_NOISE = Noise(photons=300, sigma=2)
"""Of a small sensor at night."""


@dataclass(frozen=True)
class BenchmarkClip:
    """A short video in memory."""

    name: str
    frames: Frames
    """(N, H, W, 3) uint8 RGB, in order."""


def still_clip(image: Frame, count: int = CLIP_FRAMES) -> Frames:
    """Return COUNT frames of a static scene with sensor noise, (N, H, W, 3) uint8."""
    import cv2

    height = round(_WIDTH * image.shape[0] / image.shape[1])
    small = np.asarray(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    generator = np.random.default_rng(0)
    return np.stack([add_noise(small, _NOISE, generator) for _ in range(count)])


def built_in_clip(task: str) -> BenchmarkClip:
    """Return a still clip of the task's first built-in image."""
    return BenchmarkClip(STILL, still_clip(builtin_set(task).evaluation[0].frame))


@dataclass
class FlickerMeasurement:
    """Flicker of all entries on one clip so far."""

    clip: BenchmarkClip
    flicker: dict[str, ClipFlicker] = field(default_factory=dict)
    """By entry."""
    note: str = ""
    """Why flicker is not defined on the clip, or empty."""

    @property
    def facts(self) -> ClipFacts:
        """The report's part about the clip."""
        count, height, width = self.clip.frames.shape[:3]
        return ClipFacts(
            name=self.clip.name,
            frames=count,
            width=width,
            height=height,
            note=self.note,
            sha256=hashlib.sha256(np.ascontiguousarray(self.clip.frames).tobytes()).hexdigest(),
        )


def measure_flicker(
    runners: Mapping[str, Runner],
    measured: FlickerMeasurement,
    row_seconds: float,
    on_entry: Callable[[str], None] = lambda name: None,
) -> None:
    """Restore a clip frame by frame with every open runner and measure its flicker.

    Args:
        runners: By entry, all open.
        measured: Filled in.
        row_seconds: Time limit of an entry; a slower one gets a note instead.
        on_entry: Called with the name of the entry that starts.
    """
    clip = measured.clip
    try:
        flicker(clip.frames, clip.frames)
    except ImageError as error:
        measured.note = " ".join(str(error).split())
        return
    for name, runner in runners.items():
        on_entry(name)
        ratio, note = None, ""
        try:
            restored = _restore_clip(runner, clip.frames, row_seconds)
        except MirnetEdgeError as error:
            note = " ".join(str(error).split())
        else:
            if restored is None:
                note = f"takes longer than {row_seconds:g} s"
            elif math.isfinite(found := flicker(restored, clip.frames)):
                ratio = round(found, 4)
        measured.flicker[name] = ClipFlicker(clip=clip.name, ratio=ratio, note=note)


def _restore_clip(runner: Runner, frames: Frames, seconds: float) -> Frames | None:
    """Return the restored frames, None where they take longer than SECONDS."""
    started = time.monotonic()
    restored = []
    for frame in frames:
        if time.monotonic() - started > seconds:
            return None
        restored.append(runner.run(frame[None])[0])
    return np.stack(restored)
