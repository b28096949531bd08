"""The model card of weights: what they are, what they were trained on, what was measured.

Schema history: 1 (2026-11) the first; parent, teacher and INT8 ranges came later, files without
them read.
"""

from __future__ import annotations

import json
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field, FiniteFloat, JsonValue, ValidationError

from mirnet_edge.errors import CheckpointError
from mirnet_edge.manifest import StrictDocument

Architecture: TypeAlias = Literal["mirnet", "mirnet-v2", "keras-mirnet", "edge"]


class ModelCard(StrictDocument):
    """The model card of weights: task, network, training data, training recipe and metrics."""

    former_keys: ClassVar[dict[str, str]] = {"licence": "license"}
    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2] = 2
    task: str = "unknown"
    """The task: low-light, denoise, ...; `unknown` without a card."""
    architecture: Architecture | None = None
    """None only until the card is saved with its weights."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """The fields of the network's config; empty only until the card is saved."""
    trained_on: str = "unknown"
    figures: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Measured quality, units in the names: `psnr_db`, `ssim`."""
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    """The training recipe: steps, losses, crops, random seed."""
    data_sha256: str | None = None
    """Of the training set's list of files and their contents."""
    parent: str | None = None
    """SHA-256 of the initial (pretrained) weights; None for random ones."""
    teacher: str | None = None
    """SHA-256 of the teacher's weights; None without distillation."""
    int8_ranges: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Largest inputs of convolutions, by module, that quantization-aware training for processors
    learned; empty without it."""
    revision: str | None = None
    """Of the source tree that trained them."""
    license: str | None = None
    note: str | None = None


def assumed_task(task: str) -> str:
    """Return a card's task; low-light, which MIRNet is best known for, where it is unknown."""
    return "low-light" if task == "unknown" else task


def json_from_card(card: ModelCard) -> str:
    """Return the card's text; the same card always gives the same.

    Raises:
        CheckpointError: A number in it is infinite or not a number.
    """
    try:
        return json.dumps(card.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(
            "the card's config or recipe holds a number that is not finite, which JSON cannot "
            "say; leave that entry out or write it as text"
        ) from error


def card_from_json(text: str, origin: str) -> ModelCard:
    """Return the card written in a file's metadata; ORIGIN names the file in messages.

    Raises:
        CheckpointError: Not JSON, another schema, an unknown key or a value of the wrong type.
    """
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(repr(part)[:60] for part in first["loc"]) or "the text"
        raise CheckpointError(
            f"{origin}: the card does not follow schema version 2: {where}: {first['msg'][:120]}. "
            "Save the weights again, or use the mirnet-edge that saved them"
        ) from error


CARD_KEY = "card"
"""Where the card lies in a safetensors file's metadata. The only key there: the library writes
several in random order, and the same weights are to give the same bytes."""
