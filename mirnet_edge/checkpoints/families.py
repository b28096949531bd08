"""Identify the network family and configuration of a state dict, and check its tensors.

The tensors may come from an untrusted checkpoint: their shapes give a config, which refuses values
without a network.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from mirnet_edge.checkpoints.stored import printable
from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.models import edge, keras_mirnet, mirnet, mirnet_v2
from mirnet_edge.models.edge import MIRNetEdgeConfig
from mirnet_edge.models.keras_mirnet import KerasMIRNetConfig
from mirnet_edge.models.mirnet import MIRNetConfig
from mirnet_edge.models.mirnet_v2 import DEFOCUS_TASK, MIRNetV2Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from mirnet_edge.checkpoints.cards import Architecture, ModelCard


def mirnet_config_from_tensors(tensors: Mapping[str, Tensor]) -> MIRNetConfig:
    """Return the shape of the MIRNet whose state dict this is.

    Where a file stores shared tensors once, the columns cannot be counted: it then needs a card.

    Raises:
        KeyError: A tensor that every MIRNet has is missing.
        OptionError: The tensors' shapes make no MIRNet.
    """
    channels, in_channels = tensors["conv_in.weight"].shape[:2]
    block = "body.0.body.0.blocks."
    streams = _count_indices(tensors, block)
    # the second convolution: what is inside a unit may have been pruned
    factor = tensors[f"{block}1.0.body.2.weight"].shape[0] // channels if streams > 1 else 2
    first = "body.0.body.0."
    ways = {
        "down": [f"down.{channels * factor**stream}_2" for stream in range(streams - 1)],
        "up": [f"last_up.{stream}" for stream in range(1, streams)],
    }
    return MIRNetConfig(
        in_channels=in_channels,
        out_channels=tensors["conv_out.weight"].shape[0],
        channels=channels,
        groups=_count_indices(tensors, "body."),
        blocks=_count_indices([key for key in tensors if ".blocks." in key], "body.0.body."),
        streams=streams,
        columns=_count_indices(tensors, f"{block}0."),
        factor=factor,
        unit_widths=tuple(
            tensors[f"{block}{stream}.0.body.0.weight"].shape[0] for stream in range(streams)
        ),
        **{
            f"{way}_widths": tuple(
                tensors[f"{first}{name}.body.0.top.0.weight"].shape[0] for name in names
            )
            for way, names in ways.items()
        },
    )


def mirnet_v2_config_from_tensors(tensors: Mapping[str, Tensor]) -> MIRNetV2Config:
    """Return the shape of the MIRNet-v2 whose state dict this is.

    The task is known where it changes the network. The channel factor is the shortest decimal
    number that gives the channels found.

    Raises:
        KeyError: A tensor that every MIRNet-v2 has is missing.
        OptionError: The tensors' shapes make no MIRNet-v2.
    """
    channels, in_channels = tensors["conv_in.weight"].shape[:2]
    out_channels = tensors["conv_out.weight"].shape[0]
    streams = [f"body.0.body.0.dau_{stream}.body." for stream in ("top", "mid", "bot")]
    # the second convolution: what is inside a block may have been pruned
    middle, bottom = (tensors[f"{stream}2.weight"].shape[0] for stream in streams[1:])
    groups = _count_indices(tensors, "body.")
    first = [tensors[f"body.{group}.body.0.dau_top.body.0.weight"] for group in range(groups)]
    return MIRNetV2Config(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        channel_factor=_channel_factor(channels, middle, bottom),
        groups=groups,
        blocks=_count_indices([key for key in tensors if ".dau_top." in key], "body.0.body."),
        conv_groups=tuple(channels // max(weight.shape[1], 1) for weight in first),
        task=None if in_channels == out_channels else DEFOCUS_TASK,
        unit_widths=tuple(tensors[f"{stream}0.weight"].shape[0] for stream in streams),
    )


def keras_mirnet_config_from_tensors(tensors: Mapping[str, Tensor]) -> KerasMIRNetConfig:
    """Return the shape of the Keras MIRNet whose state dict this is.

    The variant of 2021 has no second half of the middle stream.

    Raises:
        KeyError: A tensor that every Keras MIRNet has is missing.
        OptionError: The tensors' shapes make no Keras MIRNet.
    """
    first = "body.0.body.0."
    units = [f"{first}first_{stream}.body.0.weight" for stream in ("top", "middle", "bottom")]
    downs = [f"{first}{name}.top.0.weight" for name in ("down_top", "down_middle")]
    ups = [f"{first}{name}.top.0.weight" for name in ("middle_to_top", "bottom_to_top.0")]
    return KerasMIRNetConfig(
        variant="2023" if any(".fuse_middle." in key for key in tensors) else "2021",
        channels=tensors["conv_in.weight"].shape[0],
        groups=_count_indices(tensors, "body."),
        blocks=_count_indices([key for key in tensors if ".fuse_last." in key], "body.0.body."),
        **{
            f"{name}_widths": tuple(tensors[key].shape[0] for key in keys)
            for name, keys in (("unit", units), ("down", downs), ("up", ups))
        },
    )


def edge_config_from_tensors(tensors: Mapping[str, Tensor]) -> MIRNetEdgeConfig:
    """Return the shape of the MIRNetEdge whose state dict this is.

    Raises:
        KeyError: A tensor that every MIRNetEdge has is missing.
    """
    indices = [int(found[1]) for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))]
    damage = tensors.get("damage.enter.weight")
    inputs, side = tensors["stem.weight"].shape[1:3]
    inputs -= damage is not None  # the mask
    light = "blocks.0.top.spatial.weight" not in tensors
    # a stem's kernel has 3x3 cells, or the pixels of one
    stem = side if light and inputs == 3 and side != 3 else round((inputs / 3) ** 0.5)
    outputs = tensors["head.weight"].shape[0]
    # of a pixel: three values and a gate, or three alone; no square is three quarters of another
    has_gate = round((outputs / 4) ** 0.5) ** 2 * 4 == outputs
    pixels = outputs // 4 if has_gate else outputs // 3
    exposure = tensors.get("exposure.features.0.weight")
    if exposure is None and any(key.startswith("exposure.") for key in tensors):
        raise KeyError("exposure.features.0.weight")
    members = 1
    if exposure is not None:
        # a member reads its own channels alone
        read = tensors["exposure.features.2.weight"].shape[1]
        members = max(1, exposure.shape[0] // max(1, read))
    coarser = [tensors.get(f"blocks.0.down_{one}.weight") for one in ("middle", "bottom")]
    middle, bottom = (0 if one is None else one.shape[0] for one in coarser)
    return MIRNetEdgeConfig(
        channels=(tensors["stem.weight"].shape[0], middle, bottom),
        depth=_count_indices(tensors, "blocks.0.top.body."),
        blocks=max(indices) + 1,
        stem=stem,
        exposure_channels=0 if exposure is None else exposure.shape[0] // members,
        exposure_members=members,
        scale=round(pixels**0.5) // max(1, stem),
        light=light,
        full_convolutions=light and not has_gate,
        damage_channels=0 if damage is None else damage.shape[0],
    )


def _count_indices(keys: Iterable[str], prefix: str) -> int:
    """Return how many different numbers follow PREFIX in the keys of a state dict.

    Counted, not read as "largest plus one": a key such as `body.999999999.x` in an untrusted
    checkpoint must not make a network of that depth.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({found[1] for key in keys if (found := pattern.match(key))})


def _channel_factor(top: int, middle: int, bottom: int) -> float:
    """Return the shortest decimal f with int(top f) = middle and int(top f²) = bottom.

    Raises:
        OptionError: There is none.
    """
    for factor in _decimals_from(max(middle / top, math.sqrt(bottom / top))):
        if (int(top * factor), int(top * factor**2)) == (middle, bottom):
            return factor
    raise OptionError(f"no channel_factor makes streams of {top}, {middle} and {bottom} channels")


def _decimals_from(low: float) -> Iterator[float]:
    """Yield, digit by digit, the decimals next to the smallest factor that could do."""
    for digits in range(1, 10):
        # both neighbors: rounding can put `low` itself on the wrong side of a short decimal
        for numerator in (math.floor(low * 10**digits), math.ceil(low * 10**digits)):
            yield numerator / 10**digits


_FIXED = ".filt"  # the blur kernels of MIRNet, which are no weights
_NAMED = 3  # how many keys a message names


@dataclass(frozen=True, kw_only=True)
class NetworkFamily:
    """A network family, and how its state dict is identified."""

    name: Architecture
    title: str
    network: type[nn.Module]
    """Is built from its config, and has it as `.config`."""
    config: type[Any]
    """A frozen dataclass that refuses values without a network."""
    config_from_tensors: Callable[[Mapping[str, Tensor]], Any]
    markers: tuple[str, ...]
    """Parts of keys; in this family's state dicts each occurs, in others not all."""
    unseen: tuple[str, ...]
    """Fields of the config that do not always follow from the tensors; the card decides them."""
    published: bool
    """Whether there are weights by the paper's authors in this layout."""


FAMILIES = (
    NetworkFamily(
        name="mirnet",
        title="MIRNet",
        network=mirnet.MIRNet,
        config=mirnet.MIRNetConfig,
        config_from_tensors=mirnet_config_from_tensors,
        markers=(".blocks.0.0.SA.spatial.conv.", ".selective_kernel.0."),
        unseen=("columns",),
        published=True,
    ),
    NetworkFamily(
        name="mirnet-v2",
        title="MIRNet-v2",
        network=mirnet_v2.MIRNetV2,
        config=mirnet_v2.MIRNetV2Config,
        config_from_tensors=mirnet_v2_config_from_tensors,
        markers=(".dau_top.gcnet.conv_mask.", ".skff_top."),
        unseen=("channel_factor", "task"),
        published=True,
    ),
    NetworkFamily(
        name="keras-mirnet",
        title="Keras MIRNet",
        network=keras_mirnet.KerasMIRNet,
        config=keras_mirnet.KerasMIRNetConfig,
        config_from_tensors=keras_mirnet_config_from_tensors,
        markers=(".fuse_last.fcs.", ".first_top.channel."),
        unseen=(),
        published=False,
    ),
    NetworkFamily(
        name="edge",
        title="MIRNetEdge",
        network=edge.MIRNetEdge,
        config=edge.MIRNetEdgeConfig,
        config_from_tensors=edge_config_from_tensors,
        markers=("blocks.0.top.channel.", "stem.", "head."),
        unseen=(),
        published=False,
    ),
)


def identify(tensors: Mapping[str, Tensor], origin: str) -> NetworkFamily:
    """Return the family of a state dict; ORIGIN names the file in messages.

    Raises:
        CheckpointError: It is of no known family.
    """
    for family in FAMILIES:
        if all(any(marker in key for key in tensors) for marker in family.markers):
            return family
    raise CheckpointError(
        f"{origin} is not a MIRNet, MIRNet-v2, Keras MIRNet or MIRNetEdge checkpoint: expected "
        "keys with "
        f"{' or '.join(repr(family.markers[0]) for family in FAMILIES)} in them, found "
        f"{len(tensors)} tensors: {_list_names(list(tensors))}{_beginning_text(tensors)}. Give "
        "weights of one of these networks"
    )


def _beginning_text(tensors: Mapping[str, Tensor]) -> str:
    """Return what all keys begin with, in words; empty where they have nothing in common."""
    # of texts that are sorted, what the first and the last have in common all have
    first, last = min(tensors, default=""), max(tensors, default="")
    pairs = zip(first, last, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    beginning, dot, _ = first[:same].rpartition(".")
    return f"; keys begin with {printable(beginning + dot)}" if dot else ""


def family_of(model: nn.Module) -> NetworkFamily:
    """Return the family of a network.

    Raises:
        CheckpointError: Another kind of module.
    """
    for family in FAMILIES:
        if isinstance(model, family.network):
            return family
    raise CheckpointError(
        f"expected a MIRNet, MIRNetV2, KerasMIRNet or MIRNetEdge, found a {type(model).__name__}. "
        "Take the network out of its wrapper, for example with .module"
    )


def config_of(  # the families' configs have no type in common, hence Any
    family: NetworkFamily, tensors: Mapping[str, Tensor], card: ModelCard | None, origin: str
) -> Any:  # noqa: ANN401
    """Return the config that follows from the tensors and, for `unseen` fields, from the card.

    Raises:
        CheckpointError: There is no such network, or the card contradicts the tensors.
    """
    config = _identify_by_tensors(family, tensors, origin)
    if card is not None:
        config = _identify_by_card(family, config, card.config, origin)
    # before anything is built: a file of so few tensors cannot have such depths
    for name in ("groups", "blocks", "streams", "columns"):
        if getattr(config, name, 0) > len(tensors):
            raise CheckpointError(
                f"{origin}: {name} would be {getattr(config, name)}, but there are only "
                f"{len(tensors)} tensors. Copy or download the file again"
            )
    return config


def _identify_by_tensors(family: NetworkFamily, tensors: Mapping[str, Tensor], origin: str) -> Any:  # noqa: ANN401
    try:
        return family.config_from_tensors(tensors)
    except KeyError as error:
        raise CheckpointError(
            f"{origin} looks like a {family.title} checkpoint, but the tensor {error.args[0]!r} is "
            "missing. Copy or download it again"
        ) from error
    except (OptionError, ValueError, IndexError, ArithmeticError) as error:
        raise CheckpointError(
            f"{origin} looks like a {family.title} checkpoint, but its tensors' shapes make no "
            f"such network: {error}. Copy or download it again"
        ) from error


def _identify_by_card(
    family: NetworkFamily,
    config: Any,  # noqa: ANN401
    stated: Mapping[str, Any],
    origin: str,
) -> Any:  # noqa: ANN401
    identified = plain_config(config)
    identified |= {name: stated[name] for name in family.unseen if name in stated}
    for name, value in stated.items():
        if name not in identified or identified[name] != value:
            found = repr(identified[name]) if name in identified else "there is no such setting"
            raise CheckpointError(
                f"{origin}: the card says {printable(name)} is {printable(str(value))}, "
                f"its {family.title} tensors say {found}. Save the weights again with the "
                "card of their own network"
            )
    try:
        return TypeAdapter(type(config)).validate_python(identified)
    except (OptionError, ValidationError, ArithmeticError) as error:
        reason = str(error).replace("\n", " ")[:160]
        raise CheckpointError(
            f"{origin}: the card's config makes no network: {reason}. "
            "Save the weights again with the card of their own network"
        ) from error


def plain_config(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a config's fields as JSON reads them back: lists for tuples."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return fields


@dataclass(frozen=True, kw_only=True)
class StateDictLayout:
    """The state dict that a network has, without values."""

    shapes: dict[str, tuple[int, ...]]
    first_key: dict[str, str]
    """For every key the first one that shares its tensor; itself where it comes first."""

    @property
    def stored(self) -> list[str]:
        """The keys of a file that stores shared tensors once."""
        return [key for key, first in self.first_key.items() if key == first]


def layout_of(family: NetworkFamily, config: Any, origin: str) -> StateDictLayout:  # noqa: ANN401
    """Return the layout that a config makes. Nothing is allocated, however large it is.

    Raises:
        CheckpointError: It is larger than any tensor can be.
    """
    try:
        with torch.device("meta"):
            blank = family.network(config)
    except (RuntimeError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{origin}: no {family.title} can be built as {config}; expected the config of a "
            "network that was trained. Copy or download the file again"
        ) from error
    tensors = blank.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    return StateDictLayout(
        shapes={key: tuple(tensor.shape) for key, tensor in tensors.items()},
        first_key={key: first.setdefault(id(tensor), key) for key, tensor in tensors.items()},
    )


def complete_tensors(
    tensors: Mapping[str, Tensor], layout: StateDictLayout, origin: str
) -> dict[str, Tensor]:
    """Return the tensors with those filled in that the file stores under a sharing key.

    Raises:
        CheckpointError: The file has two values for one shared tensor.
    """
    complete = dict(tensors)
    holder: dict[str, str] = {}
    for key, first in layout.first_key.items():
        if key not in tensors:
            continue
        other = holder.setdefault(first, key)
        if other != key and not torch.equal(tensors[key], tensors[other]):
            raise CheckpointError(
                f"{origin}: {printable(other)} and {printable(key)} differ; expected equal values, "
                "because the network has one tensor for both. The file was changed key by key "
                "(averaged, pruned or patched): go back to the file it was made from"
            )
    for key, first in layout.first_key.items():
        if first in holder:
            complete.setdefault(key, tensors[holder[first]])
    return complete


def require_fit(
    tensors: Mapping[str, Tensor], layout: StateDictLayout, title: str, origin: str
) -> None:
    """Refuse tensors that are not exactly those of the layout; blur kernels may be absent.

    Raises:
        CheckpointError: Keys are missing, unexpected, or of another shape; the first are named.
    """
    missing = [key for key in layout.shapes if key not in tensors and not key.endswith(_FIXED)]
    unexpected = [key for key in tensors if key not in layout.shapes]
    misshapen = [
        f"{printable(key)} (expected {shape}, found {tuple(tensors[key].shape)})"
        for key, shape in layout.shapes.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing: {_list_names(missing)}")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected: {_list_names(unexpected)}")
    if misshapen:
        listed = ", ".join(misshapen[:_NAMED]) + (", ..." if len(misshapen) > _NAMED else "")
        faults.append(f"{len(misshapen)} of another shape: {listed}")
    if faults:
        raise CheckpointError(
            f"{origin} does not fit {title}: expected {len(layout.shapes)} tensors, found "
            f"{len(tensors)}; {'; '.join(faults)}. Give a complete, unchanged checkpoint"
        )


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Return the model with the tensors as its weights, for inference.

    Raises:
        CheckpointError: The file holds a blur kernel other than the fixed one.
    """
    values = model.state_dict()
    for key, tensor in tensors.items():
        if key.endswith(_FIXED) and not torch.equal(tensor, values[key]):
            raise CheckpointError(
                f"{origin}: {printable(key)} is not the blur kernel [1, 2, 1] x [1, 2, 1] / 16; "
                "expected exactly that, or no such key. Leave the '.filt' entries out of the file"
            )
    model.load_state_dict({**values, **tensors})
    return model.eval()


def _list_names(keys: list[str]) -> str:
    listed = ", ".join(printable(key) for key in keys[:_NAMED])
    return listed + (", ..." if len(keys) > _NAMED else "")
