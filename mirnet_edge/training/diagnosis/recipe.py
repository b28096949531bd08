"""The recipe of a diagnosis training: its image sources, their split, its hyperparameters."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mirnet_edge.diagnosis.labels import Label  # noqa: TC001  # pydantic reads it
from mirnet_edge.errors import DataError, OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.images.kinds import FORMAT_OF_SUFFIX
from mirnet_edge.manifest import StrictDocument

DIAGNOSIS = "diagnosis"
"""Name of the task, and of the package's recipe for it."""

Split = Literal["train", "validation", "held-out"]

_FOLDER = Path(__file__).parents[1] / "recipes"
_TABLE = "pairs.csv"
# of the scenes that are not held out: thresholds are chosen on them, nothing is trained on them
_VALIDATION_FRACTION = 0.2


class ImageSource(StrictDocument):
    """A folder of real images that share their labels."""

    name: str
    """In reports."""
    folder: str
    """Relative to the data folder, or absolute."""
    pattern: str = "*"
    """Of file names."""
    turns: PositiveInt = 1
    """Sources are taken in turn, this one so often as one with a single turn."""
    leave_out: tuple[str, ...] = ()
    """Stems of files that are not used."""
    table: Literal["low", "high"] | None = None
    """The column of the folder's pairs.csv that names the files; its scenes and splits are used:
    `train` is trained on, the others are held out."""
    scene: str | None = None
    """Regular expression; its first group in a file's stem is the scene. None: the stem."""
    labels: tuple[Label, ...] = ()
    """Labels of every image; the top label must be one of them. None of them: fine."""
    unknown: tuple[Label, ...] = ()
    """Labels that some images have and others do not; neither is trained."""
    reference: tuple[str, str] | None = None
    """(text, replacement) in the file's stem that gives its noise-free image, for sigma."""
    clean: bool = False
    """Whether the images are also degraded for the other labels."""
    held_out: float = Field(default=0.0, ge=0.0, le=1.0)
    """Fraction of the scenes that are held out."""
    optional: bool = False
    """Whether the folder may be missing."""

    @field_validator("scene")
    @classmethod
    def _check_scene(cls, scene: str | None) -> str | None:
        if scene is not None and re.compile(scene).groups < 1:
            raise ValueError("expected a group in the expression")
        return scene

    @model_validator(mode="after")
    def _check_clean(self) -> ImageSource:
        if self.clean and self.labels:
            raise ValueError("clean images have no labels")
        return self


class OverlaySource(StrictDocument):
    """A folder of damage with transparency."""

    folder: str
    held_out: float = Field(default=0.3, ge=0.0, le=1.0)
    optional: bool = False


class DiagnosisRecipe(StrictDocument):
    """Hyperparameters and image sources of a diagnosis training. Schema 1 (2026-11)."""

    schema_version: Literal[1]
    samples: PositiveInt = 14400
    """Degraded and real samples made once, a sixth for each label and for fine."""
    validation_samples: PositiveInt = 900
    """The same, of validation scenes and of held-out scenes each."""
    steps: PositiveInt = 4200
    """The learning rate's cosine reaches zero at the last."""
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=1e-3, ge=0.0)
    ema_decay: float = Field(default=0.995, ge=0.0, lt=1.0)
    fine_weight: PositiveFloat = 2.0
    """Weight in the loss of the images that are fine."""
    validate_every: PositiveInt = 100
    seed: int = Field(default=0, ge=0)
    overlays: OverlaySource | None = None
    sources: tuple[ImageSource, ...]


@dataclass(frozen=True)
class SourceImage:
    """One real image file of a source."""

    path: Path
    source: ImageSource
    scene: str
    split: Split


def read_diagnosis_recipe(name_or_path: str | None) -> DiagnosisRecipe:
    """Return the package's recipe, or that of a TOML file.

    Raises:
        OptionError: There is no such file, or it is no such recipe.
    """
    own = _FOLDER / f"{DIAGNOSIS}.toml"
    path = own if name_or_path in (None, DIAGNOSIS) else Path(str(name_or_path))
    return read_toml(path, DiagnosisRecipe, absent=f"there is no recipe {path}; give a TOML file")


def list_sources(recipe: DiagnosisRecipe, data: Path) -> list[SourceImage]:
    """Return the image files of all sources, with their splits.

    A folder that holds images, and none of the recipe's folders, is a source of clean images.

    Raises:
        DataError: A folder is missing or empty.
        OptionError: No source of clean images is left.
    """
    present = [one for one in recipe.sources if (data / one.folder).is_dir()]
    if not present and data.is_dir():
        own = ImageSource(name=data.name, folder=".", clean=True, held_out=0.2)
        return _require_clean(_list_source(own, data))
    found: list[SourceImage] = []
    for source in recipe.sources:
        if source in present:
            found += _list_source(source, data)
        elif not source.optional:
            raise DataError(
                f"{data / source.folder} is not a folder; the recipe's source {source.name!r} "
                "needs it. Add it, or give --recipe with other sources"
            )
    return _require_clean(found)


def split_scene(scene: str, held_out: float) -> Split:
    """Return the split of a scene, which follows from its name alone."""
    number = int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") / 2.0**64
    if number < held_out:
        return "held-out"
    rest = (number - held_out) / max(1.0 - held_out, 1e-9)
    return "validation" if rest < _VALIDATION_FRACTION else "train"


def list_overlays(recipe: DiagnosisRecipe, data: Path, split: Split) -> list[Path]:
    """Return the overlay files of a split; those not held out serve training and validation.

    Raises:
        DataError: The folder is missing.
    """
    source = recipe.overlays
    if source is None:
        return []
    folder = data / source.folder
    if not folder.is_dir():
        if source.optional or not any((data / one.folder).is_dir() for one in recipe.sources):
            return []
        raise DataError(f"{folder} is not a folder; the recipe's overlays need it. Add it")
    return [
        path
        for path in _image_files(folder, "*")
        if (split_scene(path.stem, source.held_out) == "held-out") == (split == "held-out")
    ]


def _list_source(source: ImageSource, data: Path) -> list[SourceImage]:
    folder = data / source.folder
    if source.table is not None:
        return _read_table(source, folder)
    files = [
        path for path in _image_files(folder, source.pattern) if path.stem not in source.leave_out
    ]
    if not files:
        raise DataError(
            f"{folder} holds no images {source.pattern}; expected some for {source.name!r}"
        )
    found = []
    for path in files:
        match = re.match(source.scene, path.stem) if source.scene else None
        scene = path.stem if match is None else match[1]
        found.append(SourceImage(path, source, scene, split_scene(scene, source.held_out)))
    return found


def _read_table(source: ImageSource, folder: Path) -> list[SourceImage]:
    table = folder / _TABLE
    if not table.is_file():
        raise DataError(f"{table} does not exist; the recipe's source {source.name!r} reads it")
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files: dict[Path, SourceImage] = {}
    for row in rows:
        path = folder / row[str(source.table)]
        split = split_scene(row["scene"], 0.0) if row["split"] == "train" else "held-out"
        files[path] = SourceImage(path, source, row["scene"], split)
    return list(files.values())


def _image_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in FORMAT_OF_SUFFIX and not path.name.startswith(".")
    )


def _require_clean(images: list[SourceImage]) -> list[SourceImage]:
    for split in ("train", "validation", "held-out"):
        if not any(one.source.clean and one.split == split for one in images):
            raise OptionError(
                f"there is no clean image with the split {split}; expected some of every split. "
                "Add images, or change held_out in the recipe"
            )
    return images
