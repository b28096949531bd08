"""Read an untrusted checkpoint file: tensors and a model card, nothing is ever executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mirnet_edge.checkpoints.archives import read_layout
from mirnet_edge.checkpoints.cards import CARD_KEY, ModelCard, card_from_json
from mirnet_edge.checkpoints.keras_paths import is_keras
from mirnet_edge.checkpoints.stored import (
    BYTES_OF_TYPE,
    OtherTensor,
    StoredTensor,
    printable,
)
from mirnet_edge.checkpoints.weight_sets import choose_set
from mirnet_edge.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mirnet_edge.checkpoints.stored import StoredCheckpoint


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """What a weights file holds."""

    tensors: dict[str, Tensor]
    """float32, finite, under the keys of the network's own state dict."""
    card: ModelCard | None
    """None in files that are not ours."""
    notes: tuple[str, ...]
    """What was found and left out, for the user: other sets of weights, prefixes, counters."""


def read_checkpoint(path: Path, key: str | None = None) -> CheckpointContents:
    """Return a weights file's tensors and card. Nothing in the file is executed.

    Args:
        path: The file; its content says which format it has.
        key: Which of several sets of weights to take; see `weight_sets.choose_set`.

    Raises:
        CheckpointError: No such file, not a weights file, damaged, holding more than tensors and
            plain values, claiming more than it holds, or tensors that are no finite floats.
    """
    if is_keras(path):
        return _read_keras(path, key)
    checkpoint = read_layout(path)
    found = choose_set(checkpoint, key)
    stored = {name: _dense(tensor, name, path) for name, tensor in found.tensors.items()}
    tensors = _load_tensors(checkpoint, stored)
    # safetensors.torch.save_model stores shared tensors once and names the others here
    for name, kept in checkpoint.metadata.items():
        if kept in tensors and name != CARD_KEY:
            tensors.setdefault(name.removeprefix(found.prefix), tensors[kept])
    text = checkpoint.metadata.get(CARD_KEY)
    return CheckpointContents(
        tensors=tensors,
        card=None if text is None else card_from_json(text, str(path)),
        notes=found.notes,
    )


def _read_keras(path: Path, key: str | None) -> CheckpointContents:
    """Return the contents of a weights file of Keras, which holds one set of weights."""
    from mirnet_edge.checkpoints.keras_files import read_keras

    if key is not None:
        raise CheckpointError(
            f"{path} is of Keras and holds one set of weights, found --weights-key "
            f"{printable(key)}. Leave it out"
        )
    tensors = {name: finite_float(one, name, str(path)) for name, one in read_keras(path).items()}
    return CheckpointContents(tensors=tensors, card=None, notes=())


def _dense(tensor: StoredTensor | OtherTensor, key: str, path: Path) -> StoredTensor:
    """Return a tensor that is dense and of floats."""
    if isinstance(tensor, OtherTensor):
        raise _not_float(f"{path}", key, f"{tensor.kind} tensor")
    if not tensor.is_floating:
        raise _not_float(f"{path}", key, f"torch.{tensor.dtype}")
    return tensor


def _not_float(origin: str, key: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{origin}: {printable(key)} is {found}; expected a dense tensor of floats. Save the "
        "float weights, before any quantization"
    )


def _load_tensors(
    checkpoint: StoredCheckpoint, stored: dict[str, StoredTensor]
) -> dict[str, Tensor]:
    """Return the tensors' values; equal claims become one tensor."""
    loaded: dict[StoredTensor, Tensor] = {}
    with checkpoint.path.open("rb") as file:
        for key, one in stored.items():
            if one not in loaded:
                size = BYTES_OF_TYPE[one.dtype]
                file.seek(checkpoint.places[one.storage.key] + one.offset * size)
                content = bytearray(file.read(one.extent * size))
                if len(content) != one.extent * size:
                    raise CheckpointError(f"{checkpoint.path} became shorter. Copy it again")
                values = torch.frombuffer(content, dtype=getattr(torch, one.dtype))
                tensor = values.as_strided(one.shape, one.stride)
                loaded[one] = finite_float(tensor, key, str(checkpoint.path))
    return {key: loaded[one] for key, one in stored.items()}


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
        raise _not_float(origin, key, f"{tensor.dtype} ({tensor.layout}, {tensor.device})")
    values = tensor.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise CheckpointError(
            f"{origin}: {printable(key)} holds {count} values that are NaN or "
            "infinite; expected finite weights. Training diverged or the file is damaged: take an "
            "earlier checkpoint"
        )
    return values
