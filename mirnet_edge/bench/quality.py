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
from mirnet_edge.images.files import FORMAT_OF_SUFFIX, ImageFile, read_image, write_image
from mirnet_edge.metrics import SSIM_WINDOW, flicker, mae, psnr, psnr_gtmean, ssim
from mirnet_edge.training.listing import PairFiles, list_pairs, pairs_between, read_table
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mirnet_edge.images.contract import Frame, Frames
    from mirnet_edge.runtime.runner import Runner

BUILT_IN = "built-in"
_TABLE = "pairs.csv"


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """A set of pairs."""

    name: str
    task: str
    pairs: tuple[PairFiles, ...] = ()
    """None where the set is the built-in one."""
    sigma: float | None = None
    """White noise, in 8-bit levels, that makes the good images bad; None: as the task does."""

    def __len__(self) -> int:
        """Return how many images there are, readable or not."""
        return len(self.pairs) or len(builtin_set(self.task).evaluation)

    def images(self) -> Iterator[tuple[str, Frame, Frame] | ImageError]:
        """Yield each image's name, what goes in and what is to come out, or why it cannot."""
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
        task = task_of(self.task)
        high = read_image(pair.high).frame
        if pair.low is None:
            height, width = (side // task.scale * task.scale for side in high.shape[:2])
            high = high[:height, :width]
            return pair.high.stem, self._made_bad(high, np.random.default_rng(place)), high
        low = read_image(pair.low).frame
        expected = (low.shape[0] * task.scale, low.shape[1] * task.scale)
        if high.shape[:2] != expected:
            raise ImageError(
                f"{pair.low} is {size_text(*low.shape[:2])} and {pair.high} "
                f"{size_text(*high.shape[:2])}; expected {size_text(*expected)}. Leave the pair out"
            )
        return pair.low.stem, low, high

    def _made_bad(self, clean: Frame, generator: np.random.Generator) -> Frame:
        if self.sigma is None:
            return task_of(self.task).degrade(clean, generator)
        return add_noise(clean, Noise(sigma=self.sigma), generator)


def find_pair_sources(
    places: str,
    task: str,
    *,
    suffixes: tuple[str, str] | None = None,
    sigmas: tuple[float, ...] = (),
) -> list[PairSource]:
    """Return the sets that a --pairs value names.

    Args:
        places: LOW:HIGH (two folders whose files match by name), a folder (with a pairs.csv, of
            which the `val` and `test` splits count; with low/ and high/; or of clean images,
            made bad the task's way), or `built-in`.
        task: What the networks do.
        suffixes: How the names of bad and good images end, where one folder holds both.
        sigmas: Clean images are made bad by white noise of these strengths, a set for each.

    Raises:
        DataError: Nothing there, or images without a partner.
    """
    if places == BUILT_IN:
        return [PairSource(name=f"{BUILT_IN} {task}", task=task)]
    low, colon, high = places.partition(":")
    if colon:
        name = f"{Path(low).name}:{Path(high).name}"
        return [PairSource(name=name, task=task, pairs=tuple(pairs_between(Path(low), Path(high))))]
    folder = Path(places)
    name = folder.resolve().name
    if suffixes is not None:
        return [PairSource(name=name, task=task, pairs=_by_suffixes(folder, *suffixes))]
    pairs = _of_folder(folder)
    if not sigmas:
        return [PairSource(name=name, task=task, pairs=pairs)]
    clean = tuple(PairFiles(None, pair.high, pair.scene) for pair in pairs)
    return [
        PairSource(name=f"{name} sigma {sigma:g}", task=task, pairs=clean, sigma=sigma)
        for sigma in sigmas
    ]


def _of_folder(folder: Path) -> tuple[PairFiles, ...]:
    if (folder / _TABLE).is_file():
        splits = read_table(folder)
        pairs = splits["val"] + splits["test"]
        if not pairs:
            raise DataError(
                f"{folder / _TABLE} has no row whose split is val or test; images that were "
                "trained on prove nothing. Give some that were not"
            )
        return pairs
    if (folder / "low").is_dir() and (folder / "high").is_dir():
        return tuple(pairs_between(folder / "low", folder / "high"))
    # clean images: every tenth, those that training leaves out too
    return list_pairs(folder).val


def _by_suffixes(folder: Path, bad: str, good: str) -> tuple[PairFiles, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one of images")
    known = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMAT_OF_SUFFIX]
    low = [path for path in known if path.stem.endswith(bad)]
    pairs = [(path, path.with_stem(path.stem.removesuffix(bad) + good)) for path in low]
    missing = [high.name for _, high in pairs if not high.is_file()]
    if missing or not pairs:
        raise DataError(
            f"{folder} holds {len(low)} images whose names end in {bad}, {len(missing)} of them "
            f"without one that ends in {good} ({', '.join(missing[:3])}); mend the suffixes"
        )
    return tuple(PairFiles(one, two, one.stem) for one, two in pairs)


BEFORE, REFERENCE = "before", "reference"
_SHOWN_IMAGES = 3
_CROP = (300, 400)  # height, width


@dataclass
class QualityMeasurement:
    """What was measured so far on one set; complete or not."""

    source: PairSource
    figures: dict[str, list[ImageQuality]] = field(default_factory=dict)
    """By row."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a row has no figures, by row."""
    unreadable: list[str] = field(default_factory=list)
    crops: list[ImageCrop] = field(default_factory=list)
    images: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def pair_set(self) -> PairSet:
        """Return what the report says of the set."""
        return PairSet(
            name=self.source.name,
            task=self.source.task,
            images=self.images,
            unreadable=self.unreadable,
            sha256=self.digest.hexdigest(),
        )

    def quality(self, row: str) -> PairSetQuality | None:
        """Return a row's figures, None where it has none."""
        found = self.figures.get(row)
        return PairSetQuality(pairs=self.source.name, images=found) if found else None


def measure_quality(
    runners: Mapping[str, Runner],
    findings: QualityMeasurement,
    folder: Path,
    on_image: Callable[[int], None] = lambda done: None,
) -> None:
    """Let every open runner restore every image of a set, and hold the results to the good ones.

    An image that cannot be read is named and left out; a row that fails is left out of what
    follows. When this is interrupted, `findings` holds what had been measured.

    Args:
        runners: By row, all open.
        findings: Filled in.
        folder: Where crops are written to, in its own `crops` folder.
        on_image: Told how many images are done.
    """
    shown = _shown(len(findings.source))
    for place, image in enumerate(findings.source.images()):
        if isinstance(image, ImageError):
            findings.unreadable.append(" ".join(str(image).split()))
        else:
            _measure_image(runners, findings, image, folder if place in shown else None)
        on_image(place + 1)


def measure_image(name: str, low: Frame, output: Frame, high: Frame) -> ImageQuality:
    """Return the figures of one restored image.

    Args:
        name: Of the image.
        low: What went in.
        output: What came out.
        high: What was to come out, of the same size.
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
    findings: QualityMeasurement,
    image: tuple[str, Frame, Frame],
    folder: Path | None,
) -> None:
    name, low, high = image
    findings.images += 1
    for frame in (low, high):
        findings.digest.update(np.ascontiguousarray(frame).tobytes())
    outputs: dict[str, Frame] = {}
    for row, runner in runners.items():
        if row in findings.failures:
            continue
        try:
            output = runner.run(low[None])[0]
            figures = measure_image(name, low, output, high)
        except MirnetEdgeError as error:
            findings.failures[row] = " ".join(str(error).split())
            continue
        findings.figures.setdefault(row, []).append(figures)
        outputs[row] = output
    if folder is not None:
        _write_crops(findings, name, {BEFORE: low, **outputs, REFERENCE: high}, folder)


def _write_crops(
    findings: QualityMeasurement, name: str, frames: dict[str, Frame], folder: Path
) -> None:
    target = frames[REFERENCE].shape[:2]
    for number, (row, frame) in enumerate(frames.items()):
        enlarged = _enlarged(frame, target)
        safe = "".join(one if one.isalnum() else "-" for one in f"{findings.source.name}-{name}")
        file = f"crops/{safe}-{number:02d}.jpg"
        write_image(folder / file, ImageFile(frame=_middle(enlarged), format="JPEG"))
        findings.crops.append(ImageCrop(pairs=findings.source.name, image=name, row=row, file=file))


def _enlarged(frame: Frame, size: tuple[int, ...]) -> Frame:
    """Return a small image, what super-resolution takes, at the size of its reference."""
    if frame.shape[:2] == size:
        return frame
    import cv2

    large = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large, np.uint8)


def _middle(frame: Frame) -> Frame:
    top, left = (
        max(0, (side - wanted) // 2) for side, wanted in zip(frame.shape, _CROP, strict=False)
    )
    return np.ascontiguousarray(frame[top : top + _CROP[0], left : left + _CROP[1]])


def _shown(count: int) -> set[int]:
    """Return which images are shown: a few, evenly spread."""
    return {
        round((count - 1) * place / max(1, _SHOWN_IMAGES - 1)) for place in range(_SHOWN_IMAGES)
    }


def _finite(decibel: float) -> float | None:
    return None if math.isinf(decibel) else round(decibel, 4)


STILL = "still"
FRAMES = 24  # a second of film
_WIDTH = 512
_NOISE = Noise(photons=300, sigma=2)
"""Of a small sensor at night."""


@dataclass(frozen=True)
class BenchmarkClip:
    """A short video in memory."""

    name: str
    frames: Frames
    """(N, H, W, 3) uint8 RGB, in order."""


def still_clip(image: Frame, count: int = FRAMES) -> Frames:
    """Return what a camera at rest sees of an image, (N, H, W, 3): its noise alone moves."""
    import cv2

    height = round(_WIDTH * image.shape[0] / image.shape[1])
    small = np.asarray(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    generator = np.random.default_rng(0)
    return np.stack([add_noise(small, _NOISE, generator) for _ in range(count)])


def built_in_clip(task: str) -> BenchmarkClip:
    """Return a clip that stands still, of the built-in images of a task."""
    return BenchmarkClip(STILL, still_clip(builtin_set(task).evaluation[0].frame))


@dataclass
class FlickerMeasurement:
    """What was measured so far on one clip."""

    clip: BenchmarkClip
    flicker: dict[str, ClipFlicker] = field(default_factory=dict)
    """By row."""
    note: str = ""
    """Why no row has a figure, where that is so."""

    @property
    def facts(self) -> ClipFacts:
        """Return what the report says of the clip."""
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
    seen: FlickerMeasurement,
    row_seconds: float,
    on_row: Callable[[str], None] = lambda name: None,
) -> None:
    """Let every open runner restore a clip, one frame after the other; fill in `seen`.

    A row that takes longer than ROW_SECONDS is left out and says so.
    """
    frames = seen.clip.frames
    try:
        flicker(frames, frames)
    except ImageError as error:
        seen.note = " ".join(str(error).split())
        return
    for row, runner in runners.items():
        on_row(row)
        try:
            restored = _restored(runner, frames, row_seconds)
        except MirnetEdgeError as error:
            seen.flicker[row] = _without(seen.clip, " ".join(str(error).split()))
            continue
        if restored is None:
            seen.flicker[row] = _without(seen.clip, f"takes longer than {row_seconds:g} s")
            continue
        ratio = flicker(restored, frames)
        seen.flicker[row] = ClipFlicker(
            clip=seen.clip.name, ratio=round(ratio, 4) if math.isfinite(ratio) else None
        )


def _restored(runner: Runner, frames: Frames, row_seconds: float) -> Frames | None:
    started = time.monotonic()
    restored = []
    for frame in frames:
        if time.monotonic() - started > row_seconds:
            return None
        restored.append(runner.run(frame[None])[0])
    return np.stack(restored)


def _without(clip: BenchmarkClip, note: str) -> ClipFlicker:
    return ClipFlicker(clip=clip.name, ratio=None, note=note)
