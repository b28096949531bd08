"""Sample a calibration set from the user's own camera, video or folder.

source ─frames─► candidates ─near-duplicates dropped─► ─stratified─► folder with set.toml
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mirnet_edge.calibration.sets import MINIMUM_IMAGES, SET_FILE, image_files
from mirnet_edge.errors import CalibrationError
from mirnet_edge.files import replaced_folder, write_atomically
from mirnet_edge.images.contract import LUMA, size_text
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.manifest import StrictDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame

# Two images whose 64-bit hashes differ in fewer bits show the same view. Six left only 6 of
# the 468 frames of a slow flight over a bridge.
NEAR_BITS = 3
_HASH_SIDE = 8
# Two frames of one scene in other light are both wanted: the ranges differ.
_SAME_LIGHT = 0.02
# Candidates held in memory at once, for every frame that is asked for.
_CANDIDATES = 4
# A camera gives nearly the same frame thirty times a second.
_CAMERA_STRIDE = 15
_STRATA = 4


class CalibrationSetFile(StrictDocument):
    """`set.toml`: what a sampled set holds.

    Schema history: 1 (2026-11) the first.
    """

    schema_version: Literal[1] = 1
    source: str
    """A camera's number, or a file's or folder's name without its path."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    seen: int
    """Frames that the source gave."""
    near_duplicates: int
    """Of those that were looked at, how many were dropped."""
    files: dict[str, str]
    """The SHA-256 of every image's bytes, by name."""


@dataclass(frozen=True)
class CandidateFrame:
    """A frame that may be sampled."""

    frame: Frame
    light: float
    """Mean luma, in [0, 1]."""
    detail: float
    """Mean absolute difference of neighboring lumas."""
    bits: NDArray[np.bool_]
    """The perceptual hash."""


@dataclass(frozen=True)
class SamplingResult:
    """A set that was written."""

    folder: Path
    described: CalibrationSetFile


def sample_set(
    source: str,
    out: Path,
    *,
    frames: int = 200,
    seed: int = 0,
    on_stage: Callable[[str], None] = lambda what: None,
) -> SamplingResult:
    """Write a set of a source's frames: as many, as different as it has.

    Args:
        source: A camera's number, a video or a folder of images.
        out: The set's folder; a former set is replaced as a whole.
        frames: How many to keep at most.
        seed: Of what is drawn within a stratum.
        on_stage: Told what is being done.

    Raises:
        CalibrationError: No such source, frames of several sizes, too few of them, or a folder
            that holds something else.
    """
    if frames < MINIMUM_IMAGES:
        raise CalibrationError(
            f"--frames must be at least {MINIMUM_IMAGES}, found {frames}: some set the ranges, "
            "others judge"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / SET_FILE).is_file():
        raise CalibrationError(
            f"--out {out} holds files that are no set; expected a set to replace, or an empty or "
            "new folder. Choose another"
        )
    on_stage(f"look at {source}")
    candidates, seen, near = _drop_near_duplicates(
        _open_source(source, frames), frames * _CANDIDATES, seed
    )
    kept = stratified(candidates, frames, seed)
    if len(kept) < MINIMUM_IMAGES:
        raise CalibrationError(
            f"{source} gave {seen} frames, {len(kept)} of them different; expected at least "
            f"{MINIMUM_IMAGES}. Let the camera see more, or take a longer video"
        )
    on_stage(f"write {len(kept)} images")
    height, width = kept[0].frame.shape[:2]
    with replaced_folder(out) as folder:
        files = {}
        for place, one in enumerate(kept):
            name = f"{place:04}.png"
            write_image(folder / name, ImageFile(frame=one.frame))
            files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        described = CalibrationSetFile(
            source=source if source.isdigit() else Path(source).name,
            width=width,
            height=height,
            seen=seen,
            near_duplicates=near,
            files=files,
        )
        write_atomically(folder / SET_FILE, _toml(described).encode())
    return SamplingResult(out, described)


def _toml(described: CalibrationSetFile) -> str:
    import json

    lines = [
        "# A calibration set, written by mirnet-calibrate: mirnet-export --calibration takes it."
    ]
    plain = described.model_dump(exclude={"files"})
    # JSON's strings and numbers are TOML's
    lines += [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    lines += ["", "[files]"]
    lines += [
        f"{json.dumps(name)} = {json.dumps(digest)}" for name, digest in described.files.items()
    ]
    return "\n".join(lines) + "\n"


def _open_source(source: str, wanted: int) -> Iterator[Frame]:
    path = Path(source)
    if source.isdigit():
        return _read_capture(
            int(source), f"camera {source}", _CAMERA_STRIDE, wanted * _CAMERA_STRIDE
        )
    if path.is_dir():
        return (read_image(file).frame for file in image_files(path))
    if not path.is_file():
        raise CalibrationError(
            f"there is no source {source}; expected a camera's number, a video or a folder"
        )
    return _read_capture(source, path.name, 1, None)


def _read_capture(source: int | str, name: str, stride: int, most: int | None) -> Iterator[Frame]:
    """Yield every STRIDE-th frame of a camera or video, RGB."""
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
                given, bgr = capture.read()
                if not given:
                    return
                if place % stride == 0:
                    frame: Frame = np.ascontiguousarray(bgr[..., ::-1])
                    yield frame
                place += 1
        finally:
            capture.release()


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own complaints off the terminal: ours say what to do."""
    import cv2

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _drop_near_duplicates(
    frames: Iterator[Frame], most: int, seed: int
) -> tuple[list[CandidateFrame], int, int]:
    """Return candidates that differ, drawn evenly from all; how many were seen and dropped.

    A reservoir (Vitter, 1985): a video of an hour needs no more memory than one of a minute.
    """
    chance = random.Random(seed)
    kept: list[CandidateFrame] = []
    seen = near = different = 0
    size: tuple[int, ...] | None = None
    for frame in frames:
        seen += 1
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            raise CalibrationError(
                f"frame {seen} is {size_text(*frame.shape[:2])}, those before it "
                f"{size_text(*size)}; expected frames of one size, as a camera gives them. Part "
                "the folder by size"
            )
        one = describe_frame(frame)
        if any(_is_near(one, other) for other in kept):
            near += 1
            continue
        different += 1
        if len(kept) < most:
            kept.append(one)
        elif (place := chance.randrange(different)) < most:
            kept[place] = one
    return kept, seen, near


def describe_frame(frame: Frame) -> CandidateFrame:
    """Return a frame with what it is sorted by."""
    luma = frame @ LUMA / 255.0
    detail = float(np.abs(np.diff(luma, axis=1)).mean()) if frame.shape[1] > 1 else 0.0
    return CandidateFrame(frame, float(luma.mean()), detail, perceptual_hash(luma))


def perceptual_hash(luma: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return 64 bits: where the image, made 9x8, grows brighter to the right ("dHash")."""
    import cv2

    small = cv2.resize(luma, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    bits: NDArray[np.bool_] = (np.diff(small, axis=1) > 0.0).ravel()
    return bits


def _is_near(one: CandidateFrame, two: CandidateFrame) -> bool:
    return (
        abs(one.light - two.light) < _SAME_LIGHT and int((one.bits != two.bits).sum()) < NEAR_BITS
    )


def stratified(
    candidates: Sequence[CandidateFrame], count: int, seed: int = 0
) -> list[CandidateFrame]:
    """Return COUNT candidates, as many of each stratum of light and detail as there are.

    Four strata of light, each with as many candidates, and in each four of detail: sixteen cells
    that are drawn from in turn, so that what is rare in the source is not rare in the set.
    """
    chance = random.Random(seed)
    cells: list[list[CandidateFrame]] = []
    for rung in _quarters(sorted(candidates, key=lambda one: one.light)):
        cells += _quarters(sorted(rung, key=lambda one: one.detail))
    for cell in cells:
        chance.shuffle(cell)
    kept: list[CandidateFrame] = []
    while len(kept) < count and any(cells):
        for cell in cells:
            if cell and len(kept) < count:
                kept.append(cell.pop())
    return kept


def _quarters(ordered: list[CandidateFrame]) -> list[list[CandidateFrame]]:
    """Cut a list into four parts of equal length, but for one."""
    ends = [round(len(ordered) * part / _STRATA) for part in range(_STRATA + 1)]
    return [ordered[low:high] for low, high in itertools.pairwise(ends)]
