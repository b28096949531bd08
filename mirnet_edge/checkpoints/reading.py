"""Read an untrusted checkpoint file: tensors and a model card, nothing is ever executed.

Schema history: 1 (2026-11) the first; parent and teacher came later, files without them read.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, FiniteFloat, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mirnet_edge.errors import CheckpointError
from mirnet_edge.manifest import StrictDocument

if TYPE_CHECKING:
    from pathlib import Path

Architecture: TypeAlias = Literal["mirnet", "mirnet-v2", "edge"]


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
    revision: str | None = None
    """Of the source tree that trained them."""
    license: str | None = None
    note: str | None = None


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

_PICKLED = (".pth", ".pt")
# what training programs wrap a state dict in, the smoothed weights first
_WRAPPERS = ("params_ema", "params", "state_dict", "model")
# what data-parallel and compiled training put before each key
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
_DEEPEST = 4


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """What a weights file holds."""

    tensors: dict[str, Tensor]
    """float32, finite, under the keys of the network's own state dict."""
    card: ModelCard | None
    """None in files that are not ours."""


def read_checkpoint(path: Path) -> CheckpointContents:
    """Return a weights file's tensors and card. Nothing in the file is executed.

    Raises:
        CheckpointError: No such file, not a weights file, damaged, holding more than tensors, or
            tensors that are no finite floats.
    """
    _require_file(path)
    card = None
    if path.suffix.lower() in _PICKLED:
        tensors = _state_dict(path, _unwrap(_unpickle_tensors(path)))
    else:
        tensors, card = _read_safetensors(path)
    return CheckpointContents(
        tensors={key: finite_float(tensor, key, str(path)) for key, tensor in tensors.items()},
        card=card,
    )


def finite_float(tensor: Tensor, key: str, origin: str) -> Tensor:
    """Return a tensor as float32 on the processor, its own memory where that needs no copy.

    Args:
        tensor: A weight, of any floating type.
        key: Its name, for the message.
        origin: The file or network it is from, for the message.

    Raises:
        CheckpointError: It is no dense tensor of floats, or one of them is not finite.
    """
    if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
        raise CheckpointError(
            f"{origin}: {printable(key)} is {tensor.dtype} ({tensor.layout}, {tensor.device}); "
            "expected a dense tensor of floats. Save the float weights, before any quantization"
        )
    values = tensor.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise CheckpointError(
            f"{origin}: {printable(key)} holds {count} values that are NaN or "
            "infinite; expected finite weights. Training diverged or the file is damaged: take an "
            "earlier checkpoint"
        )
    return values


def printable(key: str) -> str:
    """Return a key from an untrusted file as it may stand in a one-line message."""
    return repr(key if len(key) <= 80 else key[:77] + "...")


def _require_file(path: Path) -> None:
    expected = "expected a weights file (.safetensors, .pth, .pt)"
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; {expected}. Name a file in it")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; {expected}. Check the path")
    if path.suffix.lower() not in (".safetensors", *_PICKLED):
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}; {expected}. Rename it if it is one of these"
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; {expected}. Copy or download it again")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelCard | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    # safetensors.torch.save_model stores shared tensors once and names the others here
    for key, kept in metadata.items():
        if kept in tensors:
            tensors.setdefault(key, tensors[kept])
    text = metadata.get(CARD_KEY)
    return tensors, None if text is None else card_from_json(text, str(path))


def _unpickle_tensors(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it did not write; the file opens, or it does not
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            raise _more_than_tensors(path, error) from error
        raise _damaged(path, error) from error


def _more_than_tensors(path: Path, error: Exception) -> CheckpointError:
    found = re.search(r"(?:GLOBAL|global:?|class) ([A-Za-z_][\w.]*\.\w+)", str(error))
    named = f" ({found[1][:80]})" if found else ""
    return CheckpointError(
        f"{path} contains objects beyond tensors{named}, or is no PyTorch file; such a file can "
        "run code when opened, so it was not. If you trust it, open it with the program that made "
        "it and keep the tensors: torch.save(model.state_dict(), 'weights.pth')"
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [""])[0][:120]
    return CheckpointError(
        f"{path} is damaged or no {path.suffix} file ({type(error).__name__}: {reason}); "
        "expected a complete weights file. Copy or download it again"
    )


def _unwrap(document: object) -> object:
    """Return the state dict inside what a training program saved.

    Bounded, because a pickle can hold a dictionary that contains itself.
    """
    for _ in range(_DEEPEST):
        if not isinstance(document, Mapping):
            break
        inner = [document[name] for name in _WRAPPERS if isinstance(document.get(name), Mapping)]
        if not inner:
            break
        document = inner[0]
    return document


def _state_dict(path: Path, document: object) -> dict[str, Tensor]:
    """Return names with tensors, freed of the prefixes that wrappers put before them."""
    if not isinstance(document, Mapping) or not document:
        kind = "nothing" if isinstance(document, Mapping) else f"a {type(document).__name__}"
        raise CheckpointError(
            f"{path} holds {kind}; expected a state dict (names with tensors), at most inside "
            f"{', '.join(_WRAPPERS)}. Save model.state_dict()"
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in document.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path}: entry {printable(str(name))} is a {type(tensor).__name__}; expected a "
                f"state dict (names with tensors), at most inside {', '.join(_WRAPPERS)}. "
                "Save model.state_dict()"
            )
        key = _PREFIXES.sub("", name)
        if key in tensors:
            raise CheckpointError(
                f"{path}: {printable(key)} is there with and without a prefix such as 'module.'; "
                "expected one of them. Save model.state_dict() of one network"
            )
        tensors[key] = tensor
    return tensors
