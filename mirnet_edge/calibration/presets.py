"""Read calibration presets: which images, how many, and how they are sampled, in a TOML file.

    description = "Low light at night"
    [images]
    source = "built-in:low-light"
    conditions = ["0.05", "0.02"]
    [sampling]
    frames = 200
    luma = [0.0, 0.3]

`mirnet-export --calibration` takes the images, `mirnet-calibrate --set` the sampling. The shipped
presets lie in calibration/sets, which this package holds a link to.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mirnet_edge.calibration.sampling import SamplingOptions, sample_set
from mirnet_edge.calibration.sets import MINIMUM_IMAGES, SET_FILE, builtin_set, read_set
from mirnet_edge.errors import CalibrationError, OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.manifest import StrictDocument

if TYPE_CHECKING:
    from mirnet_edge.calibration.sets import CalibrationSet

_SHIPPED = Path(__file__).parent / "shipped"
BUILT_IN = "built-in"


class ImageSelection(StrictDocument):
    """Which images calibrate and evaluate an export."""

    source: str = BUILT_IN
    """`built-in` for the set of the weights' task, `built-in:TASK` for that of another; or a
    folder, whose images are taken as they are, or a video, which is sampled. Paths are relative to
    the preset's file."""
    conditions: tuple[str, ...] = ()
    """Names of built-in degradations; all of the task by default."""
    calibration: int = Field(default=32, ge=1)
    """The largest number of images that set the ranges."""
    evaluation: int = Field(default=24, ge=1)
    """The largest number of images that the quality gate measures on."""

    @property
    def path(self) -> Path | None:
        """Return the path of the folder or video, None for a built-in set."""
        return None if self.source.partition(":")[0] == BUILT_IN else Path(self.source)


class CalibrationPreset(StrictDocument):
    """A calibration preset's file.

    Schema history: 1 (2026-11) the first.
    """

    schema_version: Literal[1] = 1
    name: str = ""
    """The file's stem by default."""
    description: str
    images: ImageSelection = ImageSelection()
    sampling: SamplingOptions = SamplingOptions()


def list_presets() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def read_preset(source: Path | str) -> CalibrationPreset:
    """Read a preset by its shipped name or its file.

    Raises:
        CalibrationError: No such preset or file, not TOML, or a key that no preset has; named.
    """
    path = Path(source)
    if not path.is_file() and str(source) in list_presets():
        path = _SHIPPED / f"{source}.toml"
    if not path.is_file():
        raise CalibrationError(
            f"there is no calibration set {str(source)!r}; expected a folder with at least "
            f"{MINIMUM_IMAGES} images, a preset's file, or one of {', '.join(list_presets())}"
        )
    try:
        preset = read_toml(path, CalibrationPreset)
    except OptionError as error:
        raise CalibrationError(str(error)) from error
    images = preset.images
    if images.path is not None:
        images = images.model_copy(update={"source": str(path.parent / images.path)})
    return preset.model_copy(update={"name": preset.name or path.stem, "images": images})


def choose_sampling(
    preset: Path | str | None, source: str | None, frames: int | None
) -> tuple[str, SamplingOptions, str | None]:
    """Return source, options and preset name of a sampling; what is typed goes before the preset.

    Args:
        preset: A preset's file or name; None for the defaults.
        source: A camera's number, a video or a folder; None for the preset's.
        frames: The largest number of images; None for the preset's.

    Raises:
        CalibrationError: No such preset, or no source in either.
    """
    found = CalibrationPreset(description="") if preset is None else read_preset(preset)
    if source is None:
        if found.images.path is None:
            raise CalibrationError(
                "there is nothing to sample; expected a camera's number, a video or a folder: "
                "--source 0"
            )
        source = str(found.images.path)
    sampling = found.sampling
    if frames is not None:
        sampling = sampling.model_copy(update={"frames": frames})
    return source, sampling, found.name or None


def open_set(source: Path | str, *, task: str, scale: int = 1) -> CalibrationSet:
    """Return the calibration set that `--calibration` names.

    Args:
        source: A folder of images, a sampled set's `set.toml`, a preset's file or its name. A
            folder that exists goes before a preset of that name.
        task: The weights' task, whose built-in set a preset may take.
        scale: How many times higher and wider the references are.

    Raises:
        CalibrationError: There is no such set, or it is not usable.
    """
    path = Path(source)
    if path.is_dir() or path.name == SET_FILE:
        return read_set(path, scale=scale)
    preset = read_preset(source)
    found = _open_images(preset, task, scale)
    return replace(found, note=f"preset {preset.name}: {found.note}")


def _open_images(preset: CalibrationPreset, task: str, scale: int) -> CalibrationSet:
    images = preset.images
    counts = {"calibration": images.calibration, "evaluation": images.evaluation}
    if images.path is None:
        task = images.source.partition(":")[2] or task
        return builtin_set(task, conditions=images.conditions, **counts)
    if not images.path.is_file() or images.path.name == SET_FILE:
        return read_set(images.path, scale=scale, **counts)
    with tempfile.TemporaryDirectory() as folder:
        sampled = sample_set(
            str(images.path), Path(folder) / "set", sampling=preset.sampling, preset=preset.name
        )
        found = read_set(sampled.folder, scale=scale, **counts)
    return replace(found, source=images.path.name, folder=None)
