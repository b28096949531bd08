"""Training recipes: the hyperparameters of a run, as values and as TOML files.

The package's recipes lie in `recipes/`: one for each task, which `mirnet-train` takes by default,
`fine-tune` for `--init`, `qat` for quantization-aware training, `prune` for distillation after
pruning, and `PRESETS`: `seed`, the Keras example, and `mirnet` and `mirnet-v2`, what the authors
published with their papers.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from mirnet_edge.errors import OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.manifest import StrictDocument, rename_keys
from mirnet_edge.metrics import FLICKER_BLOCK, SSIM_WINDOW
from mirnet_edge.quantization import QatTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


Schedule = Literal["cosine", "constant", "plateau"]
PixelLoss = Literal["charbonnier", "l1"]
OptimizerName = Literal["adamw", "muon"]

_FOLDER = Path(__file__).parent / "recipes"
_SUFFIX = ".toml"
PRESETS = ("seed", "mirnet", "mirnet-v2")
"""Recipes that train a full network as it was published; each also names the network."""
FORMER_RECIPES = {"paper": "mirnet"}
"""Names of recipes in older versions, which are still read."""
# of other forms: training/diagnosis/recipe.py, training/translation/recipe.py
_OTHER_RECIPES = {"diagnosis", "old-photo-translation"}


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Hyperparameters of one training run.

    Raises:
        OptionError: A value lies outside its range.
    """

    steps: int = 10000
    """Optimizer steps, at least 1."""
    batch: int = 12
    """Image pairs per step, at least 1, at the first crop size."""
    crops: tuple[int, ...] = (192,)
    """Sides of the square training crops in pixels, at least 11, each for an equal fraction of the
    steps (progressive learning). Larger crops come in smaller batches, so that every step sees
    about as many pixels."""
    crop_weights: tuple[int, ...] = ()
    """How the steps are divided among `crops`, in proportion; empty for equal parts."""
    whole_frame_fraction: float = 0.2
    """Fraction of the steps, 0 to 1, at the end, that see whole frames instead of crops. Global
    pooling has other statistics on crops than on whole frames (Chu et al., "Improving Image
    Restoration by Revisiting Global Information Aggregation", ECCV 2022)."""
    whole_frame_batch: int = 2
    """Image pairs per step on whole frames, at least 1."""
    optimizer: OptimizerName = "adamw"
    """AdamW for all weights, or Muon (orthogonalized momentum) for the kernels that read and write
    more than three channels, at the same learning rate (docs/decisions/042-muon.md)."""
    learning_rate: float = 1e-3
    """Peak learning rate, above 0; reached after the warm-up."""
    warmup_steps: int = 200
    """Steps of linear learning rate warm-up, from 0."""
    schedule: Schedule = "cosine"
    """Learning rate after the warm-up: cosine decay to a thousandth of the peak, constant, or
    reduced when the validation PSNR stops rising (plateau)."""
    plateau_factor: float = 0.5
    """What the learning rate is multiplied by at each plateau, above 0 and below 1."""
    plateau_validations: int = 5
    """Validations without a new best PSNR that make a plateau, at least 1."""
    weight_decay: float = 1e-4
    """Decoupled weight decay, from 0; biases and scalars have none."""
    ema_decay: float = 0.999
    """Decay per step of the exponential moving average (EMA) of the weights, 0 to below 1. The EMA
    weights are validated and saved; 0 saves the last weights themselves."""
    gradient_clipping: float = 1.0
    """Largest L2 norm of the gradients, from 0; 0 for no clipping."""
    pixel_loss: PixelLoss = "charbonnier"
    """The loss per pixel, with weight 1."""
    ssim_weight: float = 0.0
    """Weight of the SSIM loss, from 0."""
    ms_ssim_weight: float = 0.0
    """Weight of the multi-scale SSIM loss (MS-SSIM), from 0."""
    edge_weight: float = 0.0
    """Weight of the edge loss (Laplacian), from 0."""
    frequency_weight: float = 0.0
    """Weight of the frequency loss (FFT), from 0."""
    color_weight: float = 0.0
    """Weight of the color loss (contrast and colorfulness), from 0."""
    color_region: int = 0
    """Side of the square regions that the color loss compares, in pixels, at most a crop's; 0 for
    whole images. Regions keep the color of an object that is small in its image."""
    equal_brightness_fraction: float = 0.0
    """Fraction of the pixel loss, 0 to 1, that is measured after giving each result its target's
    mean luma, so that it does not see a wrong exposure; above 0 the other losses are measured so
    altogether."""
    residual_weight: float = 0.0
    """Weight of the penalty on residuals beyond `residual_limit`, from 0. For networks whose head
    has a gate: a residual that carries the image content has a wide range, of which INT8 keeps
    256 steps (docs/decisions/035-dead-channels.md)."""
    residual_limit: float = 0.5
    """Largest residual without a penalty, above 0; 1 is the range of an image."""
    flicker_weight: float = 0.0
    """Weight of the flicker penalty, from 0, for video: every degraded image is in the batch twice,
    with other noise, and the difference of the two results is penalized (as in Zhang et al.,
    "Learning Temporal Consistency for Low Light Video Enhancement From Single Images", CVPR 2021,
    of blocks' colors and without motion). The noise also differs in strength."""
    teacher_weight: float = 0.5
    """Weight of the teacher's output in the target, 0 to 1, where there is a teacher: 0 is the
    ground truth alone, 1 is distillation alone."""
    l2_sp_weight: float = 0.0
    """Weight of L2-SP regularization, from 0: the squared distance to the initial weights (Li et
    al., "Explicit Inductive Bias for Transfer Learning", ICML 2018), so that fine-tuning forgets
    less."""
    monochrome_fraction: float = 0.0
    """Fraction of the clean images, 0 to below 1, that are gray copies and are to come out gray.
    No effect on image pairs."""
    capture_noise_fraction: float = 0.0
    """Fraction of the degraded training images, 0 to 1, that also get the noise and JPEG artifacts
    of a camera or scanner. No effect on image pairs or on validation."""
    mixup: float = 0.0
    """Data augmentation: fraction of the batches, 0 to 1, whose pairs are blended with each other
    (Zhang et al., "mixup", ICLR 2018; in MIRNet-v2's training: Zamir et al., TPAMI 2022)."""
    well_lit_fraction: float = 0.0
    """Data augmentation: fraction of the pairs, 0 to 1, whose degraded image moves towards its
    target, half of them all the way, so that the network leaves well-lit images alone."""
    exposure_jitter: float = 0.0
    """Data augmentation: largest exposure change in stops, from 0, of half of the other degraded
    images."""
    noise_jitter: float = 0.0
    """Data augmentation: largest standard deviation, in 8-bit levels, from 0, of Gaussian noise
    added to half of the degraded images that are not well lit."""
    exposure_steps: int = 0
    """Steps of the first stage, from 0, which trains the exposure branch alone, on thumbnails, and
    then freezes it. 0: no such stage, the branch trains with the rest."""
    exposure_teachers: int = 0
    """Teachers in the first stage, from 0: branches trained from other initial weights, whose mean
    output is the target of the branch that is kept (docs/decisions/005-exposure-first.md)."""
    exposure_batch: int = 24
    """Thumbnails per step of the first stage, at least 1."""
    exposure_samples_per_image: int = 4
    """Degraded thumbnails made of each clean image for the first stage, at least 1; every second
    one shows a part of the image."""
    exposure_mixup: float = 0.5
    """Data augmentation of the first stage: largest weight, 0 to 1, of another thumbnail of the
    batch that is blended in."""
    exposure_equal_brightness_fraction: float = 0.0
    """Fraction of the loss of the first stage, 0 to 1, that is measured after giving each result
    its target's mean luma: which exposure is right cannot always be known, colors and contrast
    can (docs/decisions/039-exposure-ensemble.md)."""
    exposure_learning_rate: float = 3e-3
    """Peak learning rate of the first stage, above 0."""
    damage_steps: int = 0
    """Steps of the stage after that, from 0, which trains the damage branch alone, on masks of
    synthetic damage; it then trains with the rest. For clean photos of the old-photo task."""
    damage_learning_rate: float = 2e-3
    """Peak learning rate of that stage, above 0."""
    damage_trainable: bool = True
    """Whether the damage branch trains with the rest after its stage; false freezes it, and its
    mask stays one of damage, instead of also smoothing what is flat."""
    exposure_trainable: bool = True
    """Whether the exposure branch trains with the rest where it has no stage of its own; false
    freezes it."""
    recycle_every: int = 0
    """Steps between recyclings of dead channels, from 0, in the first three quarters of the steps:
    channels whose ReLU gave 0 on recent batches get new random weights
    (docs/decisions/035-dead-channels.md); 0 for none."""
    branch_expansion: float = 0.0
    """Structural re-parameterization: convolutions are trained as several branches, the widest this
    many times as wide as the layer, and folded to one at the end; 0 trains them as they are."""
    qat_target: QatTarget = "tensorrt"
    """What quantization-aware training simulates: the INT8 of TensorRT, or of graphs for
    processors, whose weights have seven bits and whose activations after a ReLU have 256 steps."""
    seed: int = 0
    """Random seed, from 0, of the initial weights, batch sampling and data augmentation."""
    validate_every: int = 500
    """Steps between validations, at least 1; each saves the training state."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        object.__setattr__(self, "crops", tuple(self.crops))
        object.__setattr__(self, "crop_weights", tuple(self.crop_weights))
        if self.crop_weights and len(self.crop_weights) != len(self.crops):
            raise OptionError(
                f"crop_weights must be as many as crops, found {len(self.crop_weights)} and "
                f"{len(self.crops)}"
            )
        if self.flicker_weight and min(self.crops) < FLICKER_BLOCK:
            raise OptionError(
                f"flicker_weight compares blocks of {FLICKER_BLOCK} pixels; found crops of "
                f"{min(self.crops)}. Choose larger ones"
            )
        if self.color_region and min(self.crops) < self.color_region:
            raise OptionError(
                f"color_region must be at most a crop's side, found {self.color_region} and crops "
                f"of {min(self.crops)}. Choose smaller regions"
            )
        for names, expected, holds in _RULES:
            for name in names:
                value = getattr(self, name)
                if not holds(value):
                    found = list(value) if isinstance(value, tuple) else repr(value)
                    raise OptionError(f"{name} must {expected}, found {found}")

    def learning_rate_at(self, step: int, psnr_db: Sequence[float] = ()) -> float:
        """Return the learning rate of a step: linear warm-up, then the schedule.

        Cosine decay ends at a thousandth of the peak.

        Args:
            step: The step, from 0.
            psnr_db: The PSNR of each validation so far, for `plateau`.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return self.learning_rate * warm
        if self.schedule == "plateau":
            plateaus = count_plateaus(psnr_db, self.plateau_validations)
            return self.learning_rate * warm * self.plateau_factor**plateaus
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (0.001 + 0.999 * cosine)

    def crop_at(self, step: int) -> int | None:
        """Return the side of a step's crops in pixels; None for whole frames."""
        cropped = math.ceil(self.steps * (1.0 - self.whole_frame_fraction))
        if step >= cropped:
            return None
        weights = self.crop_weights or (1,) * len(self.crops)
        place = step * sum(weights) / cropped
        return next(
            crop for crop, end in zip(self.crops, accumulate(weights), strict=True) if place < end
        )

    def batch_size_at(self, step: int, processes: int = 1) -> int:
        """Return the image pairs of a step, a multiple of the number of processes."""
        crop = self.crop_at(step)
        wanted = self.whole_frame_batch
        if crop is not None:
            wanted = round(self.batch * self.crops[0] ** 2 / crop**2)
        own = max(1, round(wanted / processes))
        if self.flicker_weight:
            own += own % 2  # both of a pair in one process
        return own * processes


def count_plateaus(psnr_db: Sequence[float], validations: int) -> int:
    """Return how often PSNR stopped rising for so many validations, each counted once.

    Args:
        psnr_db: The PSNR of each validation, in order.
        validations: Validations without a new best that make a plateau.
    """
    plateaus, stale, best = 0, 0, -math.inf
    for value in psnr_db:
        if value > best:
            best, stale = value, 0
            continue
        stale += 1
        if stale == validations:
            plateaus, stale = plateaus + 1, 0
    return plateaus


_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (
        (
            "steps",
            "batch",
            "whole_frame_batch",
            "validate_every",
            "exposure_batch",
            "exposure_samples_per_image",
            "plateau_validations",
        ),
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
            "whole_frame_fraction",
            "mixup",
            "well_lit_fraction",
            "teacher_weight",
            "equal_brightness_fraction",
            "exposure_mixup",
            "exposure_equal_brightness_fraction",
            "capture_noise_fraction",
        ),
        "lie in [0, 1]",
        lambda value: 0.0 <= value <= 1.0,
    ),
    (("plateau_factor",), "lie between 0 and 1", lambda value: 0.0 < value < 1.0),
    (
        ("crop_weights",),
        "be positive",
        lambda value: all(weight >= 1 for weight in value),
    ),
    (("ema_decay", "monochrome_fraction"), "lie in [0, 1)", lambda value: 0.0 <= value < 1.0),
    (
        ("learning_rate", "exposure_learning_rate", "damage_learning_rate", "residual_limit"),
        "be above 0",
        lambda value: 0.0 < value < math.inf,
    ),
    (
        (
            "warmup_steps",
            "weight_decay",
            "gradient_clipping",
            "ssim_weight",
            "ms_ssim_weight",
            "edge_weight",
            "frequency_weight",
            "color_weight",
            "color_region",
            "branch_expansion",
            "l2_sp_weight",
            "residual_weight",
            "flicker_weight",
            "exposure_jitter",
            "noise_jitter",
            "exposure_steps",
            "exposure_teachers",
            "damage_steps",
            "recycle_every",
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
        ("pixel_loss",),
        f"be {' or '.join(get_args(PixelLoss))}",
        lambda value: value in get_args(PixelLoss),
    ),
    (
        ("optimizer",),
        f"be {' or '.join(get_args(OptimizerName))}",
        lambda value: value in get_args(OptimizerName),
    ),
    (
        ("qat_target",),
        f"be {' or '.join(get_args(QatTarget))}",
        lambda value: value in get_args(QatTarget),
    ),
)


def require_crops(recipe: TrainingRecipe, multiple: int) -> None:
    """Refuse crops that are no multiple of the network's.

    Raises:
        OptionError: One is not.
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
    "distance": "pixel_loss",
    "ema": "ema_decay",
    "exposure_copies": "exposure_samples_per_image",
    "exposure_learns": "exposure_trainable",
    "exposure_range": "exposure_jitter",
    "extra_noise": "noise_jitter",
    "gradient_norm": "gradient_clipping",
    "lit_share": "well_lit_fraction",
    "monochrome_share": "monochrome_fraction",
    "scales_weight": "ms_ssim_weight",
    "structure_weight": "ssim_weight",
    "warmup": "warmup_steps",
    "whole_batch": "whole_frame_batch",
    "whole_share": "whole_frame_fraction",
}
"""Fields of `TrainingRecipe` by their names in recipes, training states and cards of schema 1."""


class TrainingRun(StrictDocument):
    """One of several runs of a recipe, each from the weights of the one before."""

    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of `TrainingRecipe` that differ from the recipe's `training`."""
    data: str = ""
    """Folder within the training set's; empty for that itself."""
    qat: bool = False
    """Whether this is quantization-aware training."""
    interpolation: float = Field(default=1.0, gt=0.0, le=1.0)
    """How far the run's weights are interpolated from those it began with to those it ended with
    (WiSE-FT); less than 1 for float weights alone."""
    silence_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """After training, the channels of each layer that contribute least, together at most this
    fraction, are set to zero, for the next run to make up for it
    (`models.dead_channels.silence_dead_channels`); 0 for none."""

    @model_validator(mode="after")
    def _check_float_weights(self) -> TrainingRun:
        if self.qat and self.interpolation < 1.0:
            raise ValueError("qat and interpolation exclude each other")
        if self.qat and self.silence_fraction:
            raise ValueError("qat and silence_fraction exclude each other")
        return self


class RecipeFile(StrictDocument):
    """A recipe as a TOML file: the network and its training. What it leaves out has its default.

    Schema history: 1 (2026-11) the first; 2 (2026-11) other names for `FORMER_FIELDS`, `runs`,
    `network_of`, `silence_fraction`.
    Version 1 is still read.
    """

    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2]
    architecture: Literal["edge", "mirnet", "mirnet-v2", "keras-mirnet"] | None = None
    """None: that of the task's recipe."""
    network: dict[str, Any] = Field(default_factory=dict)
    """Fields of the architecture's config."""
    network_of: str = ""
    """A recipe of this package that states the architecture and the network for this one too."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of `TrainingRecipe`."""
    runs: tuple[TrainingRun, ...] = ()
    """Several runs, one after the other; empty for one."""

    @model_validator(mode="after")
    def _check_network(self) -> RecipeFile:
        if self.network_of and (self.network or self.architecture):
            raise ValueError("network_of excludes network and architecture")
        return self

    def training_of(self, run: int | None) -> dict[str, Any]:
        """Return the fields of `TrainingRecipe` of a run, from 1; None without several runs."""
        return self.training | ({} if run is None else self.runs[run - 1].training)


def list_recipes() -> list[str]:
    """Return the names of the package's recipes for restoration networks."""
    return sorted({file.stem for file in _FOLDER.glob(f"*{_SUFFIX}")} - _OTHER_RECIPES)


def read_recipe(name_or_path: str) -> RecipeFile:
    """Return one of the package's recipes, or that of a TOML file.

    Raises:
        OptionError: There is no such recipe, or the file is not one.
    """
    path = Path(name_or_path)
    name_or_path = FORMER_RECIPES.get(name_or_path, name_or_path)
    if name_or_path in list_recipes():
        path = _FOLDER / f"{name_or_path}{_SUFFIX}"
    absent = (
        f"there is no recipe {name_or_path}; expected a TOML file or one of "
        f"{', '.join(list_recipes())}"
    )
    found = read_toml(path, RecipeFile, absent=absent)
    found = found.model_copy(update={"training": rename_keys(found.training, FORMER_FIELDS)})
    if found.network_of:
        found = found.model_copy(update=_network_of(found.network_of, path))
    known = {one.name for one in dataclasses.fields(TrainingRecipe)}
    stated = set(found.training).union(*(run.training for run in found.runs))
    if unknown := sorted(stated - known):
        raise OptionError(
            f"{path}: [training] has unknown fields {', '.join(unknown)}; expected some of "
            f"{', '.join(sorted(known))}"
        )
    return found


def _network_of(name: str, path: Path) -> dict[str, Any]:
    """Return the fields of a recipe that state the network of the package's recipe NAME.

    Raises:
        OptionError: There is none of that name.
    """
    if name not in list_recipes():
        raise OptionError(
            f"{path}: network_of is {name!r}; expected one of {', '.join(list_recipes())}"
        )
    other = read_recipe(name)
    return {"architecture": other.architecture, "network": other.network, "network_of": ""}


def recipe_from_values(values: dict[str, Any], origin: str) -> TrainingRecipe:
    """Return the recipe with these field values; ORIGIN names their source in messages.

    Raises:
        OptionError: A value has another type or lies outside its range.
    """
    for one in dataclasses.fields(TrainingRecipe):
        if one.name in values and not _has_type_of(values[one.name], one.default):
            kind = type(one.default).__name__
            raise OptionError(
                f"{origin}: {one.name} must be of type {kind}, found {values[one.name]!r}"
            )
    return TrainingRecipe(**values)


def _has_type_of(value: object, default: object) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(item) is int for item in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)
