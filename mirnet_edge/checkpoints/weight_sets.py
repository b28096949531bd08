"""Find the weights in what a training program saved: wrappers, prefixes, several sets in one file.

A set is found by what is in it: tensors whose names, freed of a common prefix, are those of a
network family. So the names of wrappers and prefixes need not be known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.checkpoints.families import FAMILIES
from mirnet_edge.checkpoints.stored import (
    MOST_TENSORS,
    OtherTensor,
    StoredTensor,
    describe,
    printable,
)
from mirnet_edge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirnet_edge.checkpoints.stored import StoredCheckpoint

_DEEPEST = 8
_MOST_ENTRIES = 200_000
_MOST_PREFIXES = 16
_NAMED = 3
_CONTAINERS = (Mapping, list, tuple)
# the first tensor of each family, whose name ends what a prefix begins
_ANCHORS = ("conv_in.weight", "stem.weight")
# what data-parallel and compiled training put before each key: too usual to tell
_USUAL_PREFIXES = re.compile(r"(?:module\.|_orig_mod\.)*")
_AVERAGED = re.compile(
    r"(?:^|[._])(?:\w*ema|ema\w*|averaged?|avg\w*|swa\w*|shadow)(?:[._]|$)", re.IGNORECASE
)
# counters that profilers and normalization keep beside the weights
_COUNTERS = ("total_ops", "total_params", "num_batches_tracked", "n_averaged")


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """The tensors of one network in a file."""

    label: str
    """Where they are: names of the dictionaries around them and the prefix; empty for neither."""
    prefix: str
    """What was taken from the beginning of each key."""
    tensors: dict[str, StoredTensor | OtherTensor]
    notes: tuple[str, ...]
    """What was left out, for the user."""


def choose_set(checkpoint: StoredCheckpoint, key: str | None = None) -> WeightSet:
    """Return the weights of a file, and in its notes what else was found.

    Of several sets the averaged one is taken (EMA, SWA), else the first.

    Args:
        checkpoint: The file's content.
        key: The label of the set to take, or the end of one; None for the choice above.

    Raises:
        CheckpointError: There is no tensor, or no set of that label.
    """
    sets = find_sets(checkpoint)
    path = checkpoint.path
    labels = ", ".join(repr(one.label) for one in sets)
    if key is not None:
        chosen = [one for one in sets if one.label == key] or [
            one for one in sets if one.label.endswith("." + key)
        ]
        if len(chosen) != 1:
            raise CheckpointError(
                f"{path} has {'no' if not chosen else len(chosen)} sets of weights under "
                f"{printable(key)}; it holds {labels}. Give one of these to --weights-key"
            )
        return _with_notes(chosen[0], ())
    averaged = [one for one in sets if _AVERAGED.search(one.label)]
    taken = (averaged or sets)[0]
    notes = []
    if len(sets) > 1:
        notes.append(
            f"{path} holds {len(sets)} sets of weights: {labels}; {taken.label!r} is taken. "
            "--weights-key takes another"
        )
    if not _USUAL_PREFIXES.fullmatch(taken.prefix):
        notes.append(f"{path}: keys begin with {printable(taken.prefix)}, which is left out")
    return _with_notes(taken, tuple(notes))


def _with_notes(taken: WeightSet, notes: tuple[str, ...]) -> WeightSet:
    return WeightSet(
        label=taken.label,
        prefix=taken.prefix,
        tensors=taken.tensors,
        notes=(*notes, *taken.notes),
    )


def find_sets(checkpoint: StoredCheckpoint) -> list[WeightSet]:
    """Return the sets of weights in a file; of a file without any, what may be a damaged one.

    Raises:
        CheckpointError: It has no tensor under a name.
    """
    sets: list[WeightSet] = []
    first: tuple[str, dict[str, StoredTensor | OtherTensor]] | None = None
    for label, tensors in _dictionaries(checkpoint.document):
        if first is None:
            first = label, tensors
        for prefix in _prefixes(tensors):
            sets.append(_set_of(label, prefix, tensors, checkpoint))
    if sets:
        return sets
    if first is None:
        raise CheckpointError(
            f"{checkpoint.path} holds {describe(checkpoint.document)}; expected a state dict "
            "(names with tensors), bare or inside dictionaries. Save model.state_dict()"
        )
    return [_set_of(first[0], "", first[1], checkpoint)]


def _dictionaries(
    document: object,
) -> Iterator[tuple[str, dict[str, StoredTensor | OtherTensor]]]:
    """Yield the dictionaries that have tensors in them, with the names that lead there.

    What lies in a list, or under a number, has its number as a name. Bounded, because a pickle can
    hold a dictionary that contains itself.
    """
    entries = 0
    level: list[tuple[str, Any]] = [("", document)] if isinstance(document, _CONTAINERS) else []
    for _ in range(_DEEPEST):
        deeper: list[tuple[str, Any]] = []
        for label, one in level:
            entries += 1 + len(one)
            if entries > _MOST_ENTRIES:
                break
            tensors = {
                name: value
                for name, value in _named(one)
                if isinstance(value, (StoredTensor, OtherTensor))
            }
            if len(tensors) > MOST_TENSORS:
                raise CheckpointError(
                    f"{len(tensors)} tensors; expected at most {MOST_TENSORS} of one network"
                )
            if tensors:
                yield label, tensors
            deeper += [
                (f"{label}.{name}" if label else name, value)
                for name, value in _named(one)
                if isinstance(value, _CONTAINERS)
            ]
        level = deeper


def _named(container: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  # of untrusted content
    """Yield what a container holds, with names; a number is one where it leads to a container."""
    pairs = container.items() if isinstance(container, Mapping) else enumerate(container)
    for name, value in pairs:
        if isinstance(name, str):
            yield name, value
        elif type(name) is int and isinstance(value, _CONTAINERS):
            yield str(name), value


def _prefixes(tensors: Mapping[str, object]) -> list[str]:
    """Return the prefixes without which the keys are those of a network family."""
    candidates = {
        key.removesuffix(anchor) for key in tensors for anchor in _ANCHORS if key.endswith(anchor)
    }
    found: list[str] = []
    # the longest first: what lies behind one of them is no part of a shorter one's network
    for prefix in sorted(candidates, key=len, reverse=True)[:_MOST_PREFIXES]:
        keys = [key for key in _behind(prefix, tensors) if not key.startswith(tuple(found))]
        if any(_has_all(keys, family.markers) for family in FAMILIES):
            found.append(prefix)
    order = [key for key in tensors if key.endswith(_ANCHORS)]
    return sorted(found, key=lambda one: order.index(next(iter(_behind(one, order)))))


def _has_all(keys: list[str], parts: tuple[str, ...]) -> bool:
    return all(any(part in key for key in keys) for part in parts)


def _behind(prefix: str, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key.startswith(prefix)]


def _set_of(
    label: str,
    prefix: str,
    tensors: Mapping[str, StoredTensor | OtherTensor],
    checkpoint: StoredCheckpoint,
) -> WeightSet:
    """Return the tensors of a prefix under their own names, and what is left out in words."""
    others = [one for one in _prefixes(tensors) if one.startswith(prefix) and one != prefix]
    mine: dict[str, StoredTensor | OtherTensor] = {}
    counters: list[str] = []
    beside: list[str] = []
    for key, tensor in tensors.items():
        if not key.startswith(prefix) or any(key.startswith(other) for other in others):
            beside.append(key)
        elif _is_counter(key, tensor):
            counters.append(key)
        else:
            mine[key[len(prefix) :]] = tensor
    path = checkpoint.path
    notes = []
    if counters:
        notes.append(
            f"{path}: {len(counters)} counters or empty tensors are ignored: {_listed(counters)}"
        )
    if beside and not others:
        notes.append(
            f"{path}: {len(beside)} tensors beside the network are ignored: {_listed(beside)}"
        )
    parts = [part for part in (label, _USUAL_PREFIXES.sub("", prefix).rstrip("._")) if part]
    return WeightSet(label=".".join(parts), prefix=prefix, tensors=mine, notes=tuple(notes))


def _is_counter(key: str, tensor: StoredTensor | OtherTensor) -> bool:
    """Return whether a tensor is no weight: empty, one whole number, or a profiler's counter."""
    if isinstance(tensor, OtherTensor):
        return False
    is_number = tensor.count == 1 and not tensor.is_floating
    return not tensor.count or is_number or key.rpartition(".")[2] in _COUNTERS


def _listed(keys: list[str]) -> str:
    names = ", ".join(printable(key) for key in keys[:_NAMED])
    return names + (", ..." if len(keys) > _NAMED else "")
