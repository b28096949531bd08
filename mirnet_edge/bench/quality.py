"""What each row makes of pictures whose good version is known."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.record import Crop, PairSet, PictureFigures, Quality
from mirnet_edge.errors import ImageError, MirnetEdgeError
from mirnet_edge.images import LUMA
from mirnet_edge.metrics import SSIM_WINDOW, mae, psnr, psnr_gtmean, ssim
from mirnet_edge.pictures import Picture, write_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mirnet_edge.bench.pairs import Source
    from mirnet_edge.images import Frame
    from mirnet_edge.runtime.runner import Runner

BEFORE, REFERENCE = "before", "reference"
_SHOWN_PICTURES = 3
_CROP = (300, 400)  # height, width


@dataclass
class Findings:
    """What was measured so far on one set; complete or not."""

    source: Source
    figures: dict[str, list[PictureFigures]] = field(default_factory=dict)
    """By row."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a row has no figures, by row."""
    unreadable: list[str] = field(default_factory=list)
    crops: list[Crop] = field(default_factory=list)
    pictures: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def pair_set(self) -> PairSet:
        """Return what the report says of the set."""
        return PairSet(
            name=self.source.name,
            task=self.source.task,
            pictures=self.pictures,
            unreadable=self.unreadable,
            sha256=self.digest.hexdigest(),
        )

    def quality(self, row: str) -> Quality | None:
        """Return a row's figures, None where it has none."""
        found = self.figures.get(row)
        return Quality(pairs=self.source.name, pictures=found) if found else None


def measure_quality(
    runners: Mapping[str, Runner],
    findings: Findings,
    folder: Path,
    on_picture: Callable[[int], None] = lambda done: None,
) -> None:
    """Let every open runner restore every picture of a set, and hold the results to the good ones.

    A picture that cannot be read is named and left out; a row that fails is left out of what
    follows. When this is interrupted, `findings` holds what had been measured.

    Args:
        runners: By row, all open.
        findings: Filled in.
        folder: Where crops are written to, in its own `crops` folder.
        on_picture: Told how many pictures are done.
    """
    shown = _shown(len(findings.source))
    for place, picture in enumerate(findings.source.pictures()):
        if isinstance(picture, ImageError):
            findings.unreadable.append(" ".join(str(picture).split()))
        else:
            _measure_picture(runners, findings, picture, folder if place in shown else None)
        on_picture(place + 1)


def figures_of(name: str, low: Frame, output: Frame, high: Frame) -> PictureFigures:
    """Return the figures of one restored picture.

    Args:
        name: Of the picture.
        low: What went in.
        output: What came out.
        high: What was to come out, of the same size.
    """
    one, two = output[None], high[None]
    large = min(high.shape[:2]) >= SSIM_WINDOW
    return PictureFigures(
        name=name,
        brightness=round(float(np.mean(low @ LUMA)) / 255.0, 5),
        psnr_db=_finite(float(psnr(one, two)[0])),
        psnr_gtmean_db=_finite(float(psnr_gtmean(one, two)[0])),
        ssim=round(float(ssim(one, two)[0]), 5) if large else None,
        mae=round(float(mae(one, two)[0]), 5),
    )


def _measure_picture(
    runners: Mapping[str, Runner],
    findings: Findings,
    picture: tuple[str, Frame, Frame],
    folder: Path | None,
) -> None:
    name, low, high = picture
    findings.pictures += 1
    for frame in (low, high):
        findings.digest.update(np.ascontiguousarray(frame).tobytes())
    outputs: dict[str, Frame] = {}
    for row, runner in runners.items():
        if row in findings.failures:
            continue
        try:
            output = runner.run(low[None])[0]
            figures = figures_of(name, low, output, high)
        except MirnetEdgeError as error:
            findings.failures[row] = " ".join(str(error).split())
            continue
        findings.figures.setdefault(row, []).append(figures)
        outputs[row] = output
    if folder is not None:
        _write_crops(findings, name, {BEFORE: low, **outputs, REFERENCE: high}, folder)


def _write_crops(findings: Findings, name: str, frames: dict[str, Frame], folder: Path) -> None:
    target = frames[REFERENCE].shape[:2]
    for number, (row, frame) in enumerate(frames.items()):
        enlarged = _enlarged(frame, target)
        safe = "".join(one if one.isalnum() else "-" for one in f"{findings.source.name}-{name}")
        file = f"crops/{safe}-{number:02d}.jpg"
        write_picture(folder / file, Picture(frame=_middle(enlarged), format="JPEG"))
        findings.crops.append(Crop(pairs=findings.source.name, picture=name, row=row, file=file))


def _enlarged(frame: Frame, size: tuple[int, ...]) -> Frame:
    """Return a small picture, what super-resolution takes, at the size of its reference."""
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
    """Return which pictures are shown: a few, evenly spread."""
    return {
        round((count - 1) * place / max(1, _SHOWN_PICTURES - 1)) for place in range(_SHOWN_PICTURES)
    }


def _finite(decibel: float) -> float | None:
    return None if math.isinf(decibel) else round(decibel, 4)
