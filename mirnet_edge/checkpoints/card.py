"""What a weights file says of itself: the schema of the card in its metadata.

Schema history: 1 (2026-11) the first; parent and teacher came later, files without them read.
"""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

from pydantic import Field, FiniteFloat, JsonValue, ValidationError

from mirnet_edge.errors import CheckpointError
from mirnet_edge.manifest import Document

Architecture: TypeAlias = Literal["mirnet", "mirnet-v2", "edge"]


class Card(Document):
    """Where weights come from, what they are for and how good they are."""

    schema_version: Literal[1] = 1
    task: str = "unknown"
    """What the weights do: low-light, denoise, ...; `unknown` where nobody said."""
    architecture: Architecture | None = None
    """None only until the card is saved with its weights."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """The fields of the network's config; empty only until the card is saved."""
    trained_on: str = "unknown"
    figures: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Measured quality, units in the names: `psnr_db`, `ssim`."""
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    """How the weights were trained: steps, loss, crop sizes, seed."""
    data_sha256: str | None = None
    """Of the training set's list of files and their contents."""
    parent: str | None = None
    """SHA-256 of the weights they were trained from; None for a random start."""
    teacher: str | None = None
    """SHA-256 of the weights whose pictures they learned from, beside the references."""
    revision: str | None = None
    """Of the source tree that trained them."""
    licence: str | None = None
    note: str | None = None


def json_from_card(card: Card) -> str:
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


def card_from_json(text: str, origin: str) -> Card:
    """Return the card written in a file's metadata; ORIGIN names the file in messages.

    Raises:
        CheckpointError: Not JSON, another schema, an unknown key or a value of the wrong type.
    """
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(repr(part)[:60] for part in first["loc"]) or "the text"
        raise CheckpointError(
            f"{origin}: the card does not follow schema version 1: {where}: {first['msg'][:120]}. "
            "Save the weights again, or use the mirnet-edge that saved them"
        ) from error
