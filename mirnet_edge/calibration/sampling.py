"""Sample a calibration set from the user's own camera, video or folder.

source ─frames─► candidates ─near-duplicates dropped─► ─stratified─► folder with set.toml
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mirnet_edge.calibration.sets import (
    MINIMUM_IMAGES,
    SET_FILE,
    cut_frame,
    list_image_files,
)
from mirnet_edge.errors import CalibrationError
from mirnet_edge.files import replace_folder, write_atomically
from mirnet_edge.images.contract import LUMA, size_text
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.manifest import StrictDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame

_HASH_SIDE = 8
# Two frames of one scene in other light are both kept: the ranges differ.
_SAME_LIGHT = 0.02
# Candidates held in memory at once, for every frame that is wanted.
_CANDIDATES = 4
# A camera gives nearly the same frame thirty times a second.
_CAMERA_STRIDE = 15
_STRATA = 4


class SamplingOptions(StrictDocument):
    """How frames of a camera, video or folder are sampled."""

    frames: int = Field(default=200, ge=1)
    """The largest number of images."""
    every: int | None = Field(default=None, ge=1)
    """Look at every n-th frame of a camera (15th by default) or video (each); not of a folder."""
    near_bits: int = Field(default=3, ge=0, le=_HASH_SIDE**2)
    """Two frames whose 64-bit perceptual hashes differ in fewer bits are near-duplicates. Six left
    only 6 of the 468 frames of a slow flight over a bridge."""
    luma: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest mean luma, in [0, 1]; frames outside are left out."""
    size: tuple[int, int] | None = None
    """(width, height) cut from the middle of every frame, smaller ones filled by reflection; None
    for whole frames, which must be of one size."""


class CalibrationSetFile(StrictDocument):
    """`set.toml`: images and origin of a sampled set.

    Schema history: 1 (2026-11) the first; 2 (2026-11) `preset`, `outside_luma`, `sampling`.
    """

    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
    source: str
    """A camera's number, or a file's or folder's name without its path."""
    preset: str | None = None
    """The calibration preset that named the sampling."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    seen: int
    """Frames that the source gave and that were looked at."""
    outside_luma: int = 0
    """How many of those were left out for their mean luma."""
    near_duplicates: int
    """How many of those were left out as near-duplicates."""
    sampling: SamplingOptions = SamplingOptions()
    files: dict[str, str]
    """The SHA-256 of every image's bytes, by name."""


@dataclass(frozen=True)
class CandidateFrame:
    """A frame with the properties that sampling looks at."""

    frame: Frame
    light: float
    """Mean luma, in [0, 1]."""
    detail: float
    """Mean absolute difference of neighboring lumas."""
    bits: NDArray[np.bool_]
    """The perceptual hash."""


@dataclass(frozen=True)
class SamplingResult:
    """The folder of a written set, and its `set.toml`."""

    folder: Path
    described: CalibrationSetFile


def sample_set(
    source: str,
    out: Path,
    *,
    sampling: SamplingOptions | None = None,
    seed: int = 0,
    preset: str | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
) -> SamplingResult:
    """Write a set of a source's frames, as different from each other as it has them.

    Args:
        source: A camera's number, a video or a folder of images.
        out: The set's folder; a former set is replaced as a whole.
        sampling: How many frames, and which; the defaults for None.
        seed: Random seed of the choice within a stratum.
        preset: The name of the preset that gave the options, for `set.toml`.
        on_stage: Called with a few words as each stage begins.

    Raises:
        CalibrationError: No such source, frames of several sizes, too few of them, or a folder
            that holds something else.
    """
    sampling = sampling or SamplingOptions()
    if sampling.frames < MINIMUM_IMAGES:
        raise CalibrationError(
            f"--frames must be at least {MINIMUM_IMAGES}, found {sampling.frames}: some set the "
            "ranges, others are for evaluation"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / SET_FILE).is_file():
        raise CalibrationError(
            f"--out {out} holds files that are no set; expected a set to replace, or an empty or "
            "new folder. Choose another"
        )
    on_stage(f"look at {source}")
    pool = _collect_candidates(_open_source(source, sampling), sampling, seed)
    kept = sample_stratified(pool.candidates, sampling.frames, seed)
    if len(kept) < MINIMUM_IMAGES:
        raise CalibrationError(_describe_shortage(source, pool, sampling, len(kept)))
    on_stage(f"write {len(kept)} images")
    height, width = kept[0].frame.shape[:2]
    with replace_folder(out) as folder:
        files = {}
        for place, one in enumerate(kept):
            name = f"{place:04}.png"
            write_image(folder / name, ImageFile(frame=one.frame))
            files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        described = CalibrationSetFile(
            source=source if source.isdigit() else Path(source).name,
            preset=preset,
            width=width,
            height=height,
            seen=pool.seen,
            outside_luma=pool.outside_luma,
            near_duplicates=pool.near_duplicates,
            sampling=sampling,
            files=files,
        )
        write_atomically(folder / SET_FILE, _to_toml(described).encode())
    return SamplingResult(out, described)


def _describe_shortage(
    source: str, pool: _CandidatePool, sampling: SamplingOptions, kept: int
) -> str:
    low, high = sampling.luma
    outside = (
        f", {pool.outside_luma} outside the mean luma of {low:g} to {high:g}"
        if pool.outside_luma
        else ""
    )
    return (
        f"{source} gave {pool.seen} frames, {kept} of them different{outside}; expected at least "
        f"{MINIMUM_IMAGES}. Let the camera see more, or take a longer video"
    )


def _to_toml(described: CalibrationSetFile) -> str:
    lines = [
        "# A calibration set, written by mirnet-calibrate: mirnet-export --calibration takes it."
    ]
    document = described.model_dump(mode="json", exclude_none=True)
    tables = {name: document.pop(name) for name in ("sampling", "files")}
    # JSON's strings, numbers and lists are TOML's
    lines += [f"{name} = {json.dumps(value)}" for name, value in document.items()]
    for title, table in tables.items():
        lines += ["", f"[{title}]"]
        lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in table.items()]
    return "\n".join(lines) + "\n"


def _open_source(source: str, sampling: SamplingOptions) -> Iterator[Frame]:
    path = Path(source)
    if source.isdigit():
        every = sampling.every or _CAMERA_STRIDE
        return _read_capture(int(source), f"camera {source}", every, sampling.frames * every)
    if path.is_dir():
        return (read_image(file).frame for file in list_image_files(path))
    if not path.is_file():
        raise CalibrationError(
            f"there is no source {source}; expected a camera's number, a video or a folder"
        )
    return _read_capture(source, path.name, sampling.every or 1, None)


def _read_capture(source: int | str, name: str, every: int, most: int | None) -> Iterator[Frame]:
    """Yield every n-th frame of a camera or video, RGB, until MOST were read."""
    import cv2

    with _quiet_opencv():
        capture = cv2.VideoCapture(source)
        try:
            if not capture.isOpened():
                advice = (
                    "is it plugged in, and free?" if isinstance(source, int) else "is it a video?"
                )
                raise CalibrationError(f"{name} cannot be opened: {advice} Give another --source")
            place = 0
            while most is None or place < most:
                read, bgr = capture.read()
                if not read:
                    return
                if place % every == 0:
                    frame: Frame = np.ascontiguousarray(bgr[..., ::-1])
                    yield frame
                place += 1
        finally:
            capture.release()


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own messages off the terminal: ours say what to do."""
    import cv2

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


@dataclass
class _CandidatePool:
    """Frames that differ from each other, and how many were left out."""

    candidates: list[CandidateFrame] = field(default_factory=list)
    seen: int = 0
    outside_luma: int = 0
    near_duplicates: int = 0


def _collect_candidates(
    frames: Iterator[Frame], sampling: SamplingOptions, seed: int
) -> _CandidatePool:
    """Return frames that differ, sampled evenly from all.

    Reservoir sampling (Vitter, 1985): a video of an hour needs no more memory than one of a
    minute.
    """
    generator = random.Random(seed)
    most = sampling.frames * _CANDIDATES
    pool, different = _CandidatePool(), 0
    for frame in _check_sizes(frames, sampling):
        pool.seen += 1
        one = describe_frame(frame)
        if not sampling.luma[0] <= one.light <= sampling.luma[1]:
            pool.outside_luma += 1
            continue
        if any(_is_near(one, other, sampling.near_bits) for other in pool.candidates):
            pool.near_duplicates += 1
            continue
        different += 1
        if len(pool.candidates) < most:
            pool.candidates.append(one)
        elif (place := generator.randrange(different)) < most:
            pool.candidates[place] = one
    return pool


def _check_sizes(frames: Iterator[Frame], sampling: SamplingOptions) -> Iterator[Frame]:
    """Yield the frames, cut to the option's size; without one, refuse a second size."""
    first: tuple[int, ...] | None = None
    for number, frame in enumerate(frames, 1):
        if sampling.size is not None:
            yield cut_frame(frame, sampling.size[::-1], 1)
            continue
        first = first or frame.shape[:2]
        if frame.shape[:2] != first:
            raise CalibrationError(
                f"frame {number} is {size_text(*frame.shape[:2])}, those before it "
                f"{size_text(*first)}; expected frames of one size, as a camera gives them. Part "
                "the folder by size, or give a preset with [sampling] size"
            )
        yield frame


def describe_frame(frame: Frame) -> CandidateFrame:
    """Return a frame with its mean luma, detail and perceptual hash."""
    luma = frame @ LUMA / 255.0
    detail = float(np.abs(np.diff(luma, axis=1)).mean()) if frame.shape[1] > 1 else 0.0
    return CandidateFrame(frame, float(luma.mean()), detail, compute_perceptual_hash(luma))


def compute_perceptual_hash(luma: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the 64-bit difference hash ("dHash"): where a 9x8 thumbnail grows brighter."""
    import cv2

    small = cv2.resize(luma, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    bits: NDArray[np.bool_] = (np.diff(small, axis=1) > 0.0).ravel()
    return bits


def _is_near(one: CandidateFrame, two: CandidateFrame, near_bits: int) -> bool:
    return (
        abs(one.light - two.light) < _SAME_LIGHT and int((one.bits != two.bits).sum()) < near_bits
    )


def sample_stratified(
    candidates: Sequence[CandidateFrame], count: int, seed: int = 0
) -> list[CandidateFrame]:
    """Return COUNT candidates, as evenly from all strata of light and detail as there are.

    Four strata of light, each with as many candidates, and in each four of detail: one is taken
    from each of the sixteen in turn, so that what is rare in the source is not rare in the set.
    """
    generator = random.Random(seed)
    cells: list[list[CandidateFrame]] = []
    for stratum in _split_quarters(sorted(candidates, key=lambda one: one.light)):
        cells += _split_quarters(sorted(stratum, key=lambda one: one.detail))
    for cell in cells:
        generator.shuffle(cell)
    kept: list[CandidateFrame] = []
    while len(kept) < count and any(cells):
        for cell in cells:
            if cell and len(kept) < count:
                kept.append(cell.pop())
    return kept


def _split_quarters(ordered: list[CandidateFrame]) -> list[list[CandidateFrame]]:
    """Split a list into four parts of equal length, but for one."""
    ends = [round(len(ordered) * part / _STRATA) for part in range(_STRATA + 1)]
    return [ordered[low:high] for low, high in itertools.pairwise(ends)]
