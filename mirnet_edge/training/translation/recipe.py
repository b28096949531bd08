"""The recipe of a training of old-photo translation: folders, network, stages, loss weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from mirnet_edge.errors import OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.manifest import StrictDocument

if TYPE_CHECKING:
    from mirnet_edge.models.translation import TranslationConfig

TRANSLATION = "old-photo-translation"
"""Name of the package's recipe."""

StageName = Literal["detector", "old", "clean", "mapping"]

_FOLDER = Path(__file__).parents[1] / "recipes"
_STAGES = re.compile(r"^\s*(\[\[stages\]\]|stages\s*=)", re.MULTILINE)


class TranslationStage(StrictDocument):
    """One stage of a training."""

    name: StageName
    """What is trained: the scratch detector, the VAE of old photos, that of clean ones, or the
    mapping between the two, which are then frozen."""
    steps: PositiveInt
    batch: PositiveInt
    """Crops per step, of each domain that the stage sees."""
    crop: int = Field(ge=32, le=512)
    """Side of the square crops in pixels, a multiple of 8."""
    learning_rate: PositiveFloat
    """Peak learning rate of AdamW; a cosine ends at a hundredth of it."""

    @field_validator("crop")
    @classmethod
    def _check_crop(cls, crop: int) -> int:
        # torch is loaded late: the command looks at recipes before it knows what to train
        from mirnet_edge.models.translation import MULTIPLE

        if crop % MULTIPLE:
            raise ValueError(f"expected a multiple of {MULTIPLE}")
        return crop


class TranslationRecipe(StrictDocument):
    """Data and hyperparameters of a training of old-photo translation. Schema 1 (2026-11)."""

    schema_version: Literal[1]
    clean: tuple[str, ...] = Field(min_length=1)
    """Folders as `mirnet train --data` takes them, whose targets are the clean photos."""
    real: str
    """Folder of scans of real old photos, which need no ground truth."""
    real_held_out: tuple[str, ...] = ()
    """Stems of scans that are never trained on."""
    overlays: str | None = None
    """Folder of damage with transparency; may be missing."""
    network: dict[str, int] = Field(default_factory=dict)
    """Fields of `TranslationConfig`."""
    stages: tuple[TranslationStage, ...] = Field(min_length=1)
    monochrome_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Fraction of the clean photos that are gray."""
    capture_noise_fraction: float = Field(default=0.4, ge=0.0, le=1.0)
    """Fraction of the synthetic old photos that get the noise and JPEG artifacts of a scanner."""
    damage_only_fraction: float = Field(default=0.4, ge=0.0, le=1.0)
    """Fraction of the synthetic old photos that are damaged, but have not aged: as another network
    leaves them that has restored the rest."""
    kl_weight: float = Field(default=1e-3, ge=0.0)
    """Weight of the Kullback-Leibler divergence, per number of the latent."""
    adversarial_weight: float = Field(default=0.02, ge=0.0)
    """Weight of the latent adversarial loss."""
    latent_weight: float = Field(default=0.1, ge=0.0)
    """Weight of the distance of mapped latents to those of the clean photo."""
    damage_weight: float = Field(default=4.0, ge=0.0)
    """How much more a damaged pixel of a mapped photo counts than another."""
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    validate_every: PositiveInt = 250
    seed: int = Field(default=0, ge=0)

    @field_validator("network")
    @classmethod
    def _check_network(cls, network: dict[str, int]) -> dict[str, int]:
        from mirnet_edge.models.translation import TranslationConfig

        try:
            TranslationConfig(**network)
        except (TypeError, OptionError) as error:
            raise ValueError(str(error)) from error
        return network

    @property
    def config(self) -> TranslationConfig:
        """Return the sizes of the networks."""
        from mirnet_edge.models.translation import TranslationConfig

        return TranslationConfig(**self.network)

    @property
    def steps(self) -> int:
        """Return the steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[TranslationStage, int]:
        """Return the stage of a step, from 0, and its own step in that stage."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise ValueError(f"expected a step below {self.steps}")


def is_translation_recipe(name_or_path: str | None) -> bool:
    """Return whether a recipe is the package's for translation, or a file with its fields."""
    if name_or_path is None:
        return False
    if name_or_path == TRANSLATION:
        return True
    path = Path(name_or_path)
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return _STAGES.search(text) is not None


def read_translation_recipe(
    name_or_path: str, overrides: dict[str, Any] | None = None
) -> TranslationRecipe:
    """Return the package's recipe, or that of a TOML file, with some fields overridden.

    Raises:
        OptionError: There is no such file, or it is no such recipe.
    """
    own = _FOLDER / f"{TRANSLATION}.toml"
    path = own if name_or_path == TRANSLATION else Path(name_or_path)
    recipe = read_toml(path, TranslationRecipe, absent=f"there is no recipe {path}")
    return TranslationRecipe.model_validate({**recipe.model_dump(), **(overrides or {})})
