"""Recipes: how to train, as values and as TOML files.

The package's own lie in `recipes/`: one for each task, which `mirnet-train` takes unless told
otherwise, and `paper`, the recipe of MIRNet's paper.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field

from mirnet_edge.errors import OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.manifest import StrictDocument, rename_keys
from mirnet_edge.metrics import SSIM_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable


Schedule = Literal["cosine", "constant"]
Distance = Literal["charbonnier", "l1"]

_FOLDER = Path(__file__).parent / "recipes"
_SUFFIX = ".toml"


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How to train.

    Raises:
        OptionError: A value makes no sense.
    """

    steps: int = 10000
    batch: int = 12
    crops: tuple[int, ...] = (192,)
    """Sides of the training crops in pixels, one after another for equal shares of the steps. A
    larger crop comes in a smaller batch: a step sees as many pixels as one of the first."""
    whole_share: float = 0.2
    """Share of the steps, at the end, that see whole frames: crops give the pools statistics
    that whole frames do not have (Chu et al., "Improving Image Restoration by Revisiting Global
    Information Aggregation", ECCV 2022)."""
    whole_batch: int = 2
    learning_rate: float = 1e-3
    warmup: int = 200
    schedule: Schedule = "cosine"
    weight_decay: float = 1e-4
    ema_decay: float = 0.999
    """Memory of the averaged weights, which are the ones that are kept; 0 for none."""
    gradient_clipping: float = 1.0
    distance: Distance = "charbonnier"
    structure_weight: float = 0.0
    """Weight of structural dissimilarity beside the distance."""
    scales_weight: float = 0.0
    """Weight of multi-scale structural dissimilarity (MS-SSIM)."""
    edge_weight: float = 0.0
    """Weight of the distance of the Laplacians."""
    frequency_weight: float = 0.0
    """Weight of the distance of the Fourier transforms."""
    teacher_weight: float = 0.5
    """Share of the teacher's images in what is aimed at, where there is a teacher."""
    l2_sp_weight: float = 0.0
    """Weight of the squared way from the first weights (Li et al., "Explicit Inductive Bias for
    Transfer Learning", ICML 2018): fine-tuning that does not forget."""
    monochrome_fraction: float = 0.0
    """Share of the clean images that are gray ones, and are to come out gray; pairs,
    which have bad images already, get none."""
    capture_noise_fraction: float = 0.0
    """Share of the images that are made bad in training which a camera or a scanner then took:
    its noise and JPEG come on top of what the task does. Pairs are left as they
    are, and validation is as the task says."""
    mixup: float = 0.0
    well_lit_fraction: float = 0.0
    exposure_jitter: float = 0.0
    noise_jitter: float = 0.0
    """These four: see `training.batches.Drawing`."""
    exposure_steps: int = 0
    """Steps of a first stage, in which the exposure branch alone learns from thumbnails; it is
    left as it is afterwards. 0 for none: the branch learns with the rest."""
    exposure_teachers: int = 0
    """How many branches are trained in the first stage before the one that is kept, which learns
    from their mean; see docs/decisions/005-exposure-first.md."""
    exposure_batch: int = 24
    exposure_copies: int = 4
    """How many bad thumbnails are made of each clean image for the first stage, every second
    one of a part of it."""
    exposure_mixup: float = 0.5
    """Up to such a share, two thumbnails of the first stage are mixed with each other."""
    exposure_learning_rate: float = 3e-3
    exposure_learns: bool = True
    """Whether the exposure branch, where it has no stage of its own, learns with the rest."""
    seed: int = 0
    validate_every: int = 500

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        object.__setattr__(self, "crops", tuple(self.crops))
        for names, expected, holds in _RULES:
            for name in names:
                value = getattr(self, name)
                if not holds(value):
                    found = list(value) if isinstance(value, tuple) else repr(value)
                    raise OptionError(f"{name} must {expected}, found {found}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then the schedule.

        The cosine ends at a thousandth.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.learning_rate * warm
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (0.001 + 0.999 * cosine)

    def crop(self, step: int) -> int | None:
        """Return the side of a step's crops; None for whole frames."""
        cropped = math.ceil(self.steps * (1.0 - self.whole_share))
        if step >= cropped:
            return None
        return self.crops[step * len(self.crops) // cropped]

    def batch_at(self, step: int, processes: int = 1) -> int:
        """Return how many pairs a step sees; a multiple of the number of processes."""
        crop = self.crop(step)
        wanted = self.whole_batch
        if crop is not None:
            wanted = round(self.batch * self.crops[0] ** 2 / crop**2)
        return max(1, round(wanted / processes)) * processes


_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (
        ("steps", "batch", "whole_batch", "validate_every", "exposure_batch", "exposure_copies"),
        "be at least 1",
        lambda value: value >= 1,
    ),
    (
        ("crops",),
        f"be at least {SSIM_WINDOW} pixels wide",
        lambda value: bool(value) and min(value) >= SSIM_WINDOW,
    ),
    (
        (
            "whole_share",
            "mixup",
            "well_lit_fraction",
            "teacher_weight",
            "exposure_mixup",
            "capture_noise_fraction",
        ),
        "lie in [0, 1]",
        lambda value: 0.0 <= value <= 1.0,
    ),
    (("ema_decay", "monochrome_fraction"), "lie in [0, 1)", lambda value: 0.0 <= value < 1.0),
    (
        ("learning_rate", "exposure_learning_rate"),
        "be above 0",
        lambda value: 0.0 < value < math.inf,
    ),
    (
        (
            "warmup",
            "weight_decay",
            "gradient_clipping",
            "structure_weight",
            "scales_weight",
            "edge_weight",
            "frequency_weight",
            "l2_sp_weight",
            "exposure_jitter",
            "noise_jitter",
            "exposure_steps",
            "exposure_teachers",
            "seed",
        ),
        "not be negative",
        lambda value: 0 <= value < math.inf,
    ),
    (
        ("schedule",),
        f"be {' or '.join(get_args(Schedule))}",
        lambda value: value in get_args(Schedule),
    ),
    (
        ("distance",),
        f"be {' or '.join(get_args(Distance))}",
        lambda value: value in get_args(Distance),
    ),
)


def require_crops(recipe: TrainingRecipe, multiple: int) -> None:
    """Refuse crops that a network of this multiple does not take.

    Raises:
        OptionError: One is no multiple.
    """
    unfit = [crop for crop in recipe.crops if crop % multiple]
    if unfit:
        raise OptionError(
            f"the crop is {unfit[0]} pixels wide; this network takes multiples of {multiple}. "
            f"Choose --crop {max(1, round(unfit[0] / multiple)) * multiple}"
        )


FORMER_FIELDS = {
    "anchor_weight": "l2_sp_weight",
    "capture_share": "capture_noise_fraction",
    "ema": "ema_decay",
    "exposure_range": "exposure_jitter",
    "extra_noise": "noise_jitter",
    "gradient_norm": "gradient_clipping",
    "lit_share": "well_lit_fraction",
    "monochrome_share": "monochrome_fraction",
}
"""Fields of `TrainingRecipe` as recipes and training states of schema 1 name them."""


class RecipeFile(StrictDocument):
    """A TOML file: the network, and how to train it. What it leaves out is as by default."""

    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2]
    architecture: Literal["edge", "mirnet", "mirnet-v2"] | None = None
    """None: as the task's own recipe says."""
    network: dict[str, Any] = Field(default_factory=dict)
    """Fields of the architecture's config."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of `TrainingRecipe`."""


def shipped_recipes() -> list[str]:
    """Return the names of the package's recipes."""
    return sorted(file.stem for file in _FOLDER.glob(f"*{_SUFFIX}"))


def read_recipe(name_or_path: str) -> RecipeFile:
    """Return one of the package's recipes, or a file of the user's.

    Raises:
        OptionError: There is no such recipe, or the file is not one.
    """
    path = Path(name_or_path)
    if name_or_path in shipped_recipes():
        path = _FOLDER / f"{name_or_path}{_SUFFIX}"
    absent = (
        f"there is no recipe {name_or_path}; expected a TOML file or one of "
        f"{', '.join(shipped_recipes())}"
    )
    found = read_toml(path, RecipeFile, absent=absent)
    found = found.model_copy(update={"training": rename_keys(found.training, FORMER_FIELDS)})
    known = {one.name for one in dataclasses.fields(TrainingRecipe)}
    unknown = sorted(set(found.training) - known)
    if unknown:
        raise OptionError(
            f"{path}: [training] knows no {', '.join(unknown)}; expected {', '.join(sorted(known))}"
        )
    return found


def recipe_from(values: dict[str, Any], origin: str) -> TrainingRecipe:
    """Return the recipe of these values.

    Raises:
        OptionError: One is of another type or makes no sense.
    """
    for one in dataclasses.fields(TrainingRecipe):
        if one.name in values and not _fits(values[one.name], one.default):
            kind = type(one.default).__name__
            raise OptionError(
                f"{origin}: {one.name} must be of type {kind}, found {values[one.name]!r}"
            )
    return TrainingRecipe(**values)


def _fits(value: object, default: object) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(item) is int for item in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)
