"""Load, save and interpolate weights: the public functions of `mirnet_edge.checkpoints`."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import nn

from mirnet_edge.checkpoints import families
from mirnet_edge.checkpoints.cards import CARD_KEY, Architecture, ModelCard, json_from_card
from mirnet_edge.checkpoints.keras_paths import values_file
from mirnet_edge.checkpoints.reading import finite_float, read_checkpoint
from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.models.reparameterization import fold_tensors, is_widened

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

SHIPPED_PREFIX = "shipped:"
"""Names weights of this package wherever a weights file is taken."""

_SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "weights"
_SUFFIX = ".safetensors"
_AUTHORS_LICENSE = (
    "unknown; if published by the authors of MIRNet: academic and other non-commercial use only"
)


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A loaded network with its weights, model card and identity."""

    model: nn.Module
    """In evaluation mode, float32, on the processor."""
    card: ModelCard
    """The file's, or one made from the tensors."""
    architecture: Architecture
    sha256: str
    """Of the file; of a SavedModel's data file."""
    notice: str | None
    """Terms to tell the user; None for weights saved by us."""


def load(path: str | Path, key: str | None = None) -> LoadedCheckpoint:
    """Load weights of a MIRNet, MIRNet-v2, Keras MIRNet or MIRNetEdge; nothing is executed.

    Convolutions that were trained as several branches are folded. Wrappers and prefixes around the
    weights are found by what is in them; what was left out is logged.

    Args:
        path: A .safetensors, .pth or .pt file, weights of Keras (.h5, .weights.h5, .keras, a
            SavedModel's folder), or `shipped:NAME`.
        key: Which set of weights of several in the file, by the names around it; None for the
            averaged one (EMA), else the first.

    Raises:
        CheckpointError: The file is missing, damaged, of another network, holds more than
            tensors, or its weights are incomplete, contradictory or not finite.
    """
    file = resolve(str(path))
    origin = str(file)
    contents = read_checkpoint(file, key)
    for note in contents.notes:
        logger.warning("%s", note)
    try:
        given = fold_tensors(contents.tensors)
    except ValueError as error:
        raise CheckpointError(
            f"{origin}: the branches of a convolution do not fit each other; expected those that "
            "training wrote. Copy or download the file again"
        ) from error
    family = families.identify(given, origin)
    card = contents.card
    if card is not None and card.architecture not in (None, family.name):
        raise CheckpointError(
            f"{origin}: the card says {card.architecture}, the tensors are those of "
            f"{family.title}. Save the weights again with the card of their own network"
        )
    config = families.config_of(family, given, card, origin)
    layout = families.layout_of(family, config, origin)
    tensors = families.complete_tensors(given, layout, origin)
    families.require_fit(tensors, layout, family.title, origin)
    # the random weights that are about to be replaced must not move the caller's random numbers
    with torch.random.fork_rng(devices=[]):
        blank = family.network(config)
    borrowed = card is None and family.published
    return LoadedCheckpoint(
        model=families.load_tensors(blank, tensors, origin),
        card=_card_without_metadata(family.name, config, _AUTHORS_LICENSE if borrowed else None)
        if card is None
        else _complete_card(card, family.name, config),
        architecture=family.name,
        sha256=sha256_of(values_file(file)),
        notice=_notice(family.title) if borrowed else None,
    )


def save(model: nn.Module, path: str | Path, card: ModelCard) -> None:
    """Write a network's weights and card to a .safetensors file, whole or not at all.

    Shared tensors are stored once. The same weights and card give the same bytes.

    Args:
        model: A network of a known family, of any floating type; with branches or folded.
        path: Ends in .safetensors; a file there is replaced.
        card: Its architecture and config may be left out: they are the model's.

    Raises:
        CheckpointError: Another kind of module, weights that `load` would refuse, a card that
            contradicts the model, or another suffix.
        MirnetEdgeError: The folder cannot be written.
    """
    target = Path(path)
    if target.suffix != _SUFFIX:
        raise CheckpointError(f"{target} must end in {_SUFFIX}, found {target.suffix!r}. Rename it")
    family = families.family_of(model)
    config = model.config
    completed = _complete_card(card, family.name, config)
    for name in ("architecture", "config"):
        stated, own = getattr(card, name), getattr(completed, name)
        if stated and stated != own:
            raise CheckpointError(
                f"the card says {name} {stated}, the network is {own}. Leave {name} out of the card"
            )
    origin = f"this {type(model).__name__}"
    layout = families.layout_of(family, config, origin)
    tensors = model.state_dict()
    families.require_fit(fold_tensors(tensors), layout, family.title, origin)
    # one key for each shared tensor; with branches, all keys and a copy of each tensor
    keys = list(tensors) if is_widened(model) else layout.stored
    for key in keys:
        finite_float(tensors[key], key, origin)
    stored = {key: tensors[key].detach().cpu().contiguous() for key in keys}
    if is_widened(model):
        stored = {key: tensor.clone() for key, tensor in stored.items()}
    payload = safetensors.torch.save(stored, metadata={CARD_KEY: json_from_card(completed)})
    write_atomically(target, payload)


def resolve(name_or_path: str) -> Path:
    """Return the file that a name the user typed stands for; it need not exist.

    Args:
        name_or_path: `shipped:low-light` and the like for the package's weights, else a path.

    Raises:
        CheckpointError: The package ships no weights of that name.
    """
    if not name_or_path.startswith(SHIPPED_PREFIX):
        return Path(name_or_path)
    name = name_or_path.removeprefix(SHIPPED_PREFIX)
    names = list_shipped_weights()
    if name not in names:
        listed = ", ".join(SHIPPED_PREFIX + known for known in names) or "none"
        raise CheckpointError(
            f"the package ships no weights {name_or_path!r}; it ships: {listed}. "
            "Choose one of these or give a file"
        )
    return _SHIPPED_FOLDER / f"{name}{_SUFFIX}"


def list_shipped_weights() -> list[str]:
    """Return the names, without prefix, of the weights the package ships."""
    return sorted(file.stem for file in _SHIPPED_FOLDER.glob(f"*{_SUFFIX}"))


def _complete_card(card: ModelCard, architecture: Architecture, config: object) -> ModelCard:
    own = {"architecture": architecture, "config": families.plain_config(config)}
    return card.model_copy(update=own)


def _card_without_metadata(
    architecture: Architecture, config: object, license: str | None
) -> ModelCard:
    """Return the card of a file that has none."""
    task = getattr(config, "task", None) or "unknown"
    return _complete_card(ModelCard(task=task, license=license), architecture, config)


def _notice(title: str) -> str:
    return (
        f"These weights have the layout of the {title} authors' published checkpoints and no card. "
        "The authors' weights are for academic and other non-commercial use only; "
        "ask them before any other use."
    )


def interpolate_weights(initial: nn.Module, fine_tuned: nn.Module, fraction: float) -> nn.Module:
    """Return a network with weights interpolated between initial and fine-tuned ones (WiSE-FT).

    Networks on the line between the two weights do both tasks (Wortsman et al., "Robust fine-tuning
    of zero-shot models", CVPR 2022).

    Args:
        initial: The network before fine-tuning.
        fine_tuned: The network after it, of the same config.
        fraction: From 0, the initial weights, to 1, the fine-tuned ones.

    Raises:
        CheckpointError: The two have other configs.
        OptionError: The fraction lies outside [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise OptionError(f"the fraction must lie in [0, 1], found {fraction}")
    if initial.config != fine_tuned.config:  # configs of two architectures differ
        raise CheckpointError(
            f"expected two networks of one config, found {initial.config} and {fine_tuned.config}; "
            "interpolate weights with those they were fine-tuned from"
        )
    model = copy.deepcopy(initial)
    others = fine_tuned.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.lerp_(others[name], fraction)
    return model
