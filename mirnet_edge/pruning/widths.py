"""The widths of a network that are free, and the configs they make."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_INNER = ("unit_widths", "down_widths", "up_widths")
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)  # of a width; each costs one measurement


@dataclass(frozen=True)
class Knob:
    """One width that can be chosen on its own."""

    field: str
    index: int
    values: tuple[int, ...]
    """Falling; the first is the width as it is."""

    @property
    def name(self) -> str:
        """Return what tables call it."""
        return f"{self.field}.{self.index}"


def bases_of(config: Any, round_to: int) -> list[Any]:  # noqa: ANN401  # the families' configs have no type in common
    """Return the configs of every width of the trunk, the given one first.

    The three streams of a MIRNetEdge are free of each other and are knobs; there it is one.
    """
    bases = [config]
    if isinstance(config.channels, tuple):
        return bases
    for channels in range((config.channels - 1) // round_to * round_to, 0, -round_to):
        try:
            plain = dataclasses.replace(config, channels=channels, **dict.fromkeys(_fields(config)))
            bases.append(_as_narrow(plain, config))
        except OptionError:  # too narrow, or not to be divided by grouped convolutions
            continue
    return bases


def knobs_of(config: Any, round_to: int) -> list[Knob]:  # noqa: ANN401  # as above
    """Return the widths that are free in networks of that trunk."""
    named = {field: _inner(config, field) for field in _fields(config)}
    if isinstance(config.channels, tuple):
        named = {"channels": config.channels}
    knobs = []
    for field, widths in named.items():
        for index, width in enumerate(widths):
            rounded = {
                max(round_to, int(width * share) // round_to * round_to) for share in _SHARES
            }
            values = [value for value in rounded if value < width]
            kept = [value for value in values if _is_legal(config, Knob(field, index, ()), value)]
            knobs.append(Knob(field, index, (width, *sorted(kept, reverse=True))))
    return knobs


def with_widths(config: Any, chosen: Mapping[Knob, int]) -> Any:  # noqa: ANN401  # as above
    """Return the config with those widths instead of its own.

    Raises:
        OptionError: They make no network.
    """
    changes: dict[str, list[int]] = {}
    for knob, value in chosen.items():
        own = list(config.channels if knob.field == "channels" else _inner(config, knob.field))
        changes.setdefault(knob.field, own)[knob.index] = value
    return dataclasses.replace(
        config, **{field: tuple(widths) for field, widths in changes.items()}
    )


def _is_legal(config: Any, knob: Knob, value: int) -> bool:  # noqa: ANN401  # as above
    try:
        with_widths(config, {knob: value})
    except OptionError:
        return False
    return True


def _fields(config: Any) -> list[str]:  # noqa: ANN401  # as above
    return [field for field in _INNER if hasattr(config, field)]


def _inner(config: Any, field: str) -> tuple[int, ...]:  # noqa: ANN401  # as above
    widths: tuple[int, ...] = config.widths
    usual = {"unit_widths": widths, "down_widths": widths[:-1], "up_widths": widths[1:]}
    given: tuple[int, ...] | None = getattr(config, field)
    return given or usual[field]


def _as_narrow(plain: Any, config: Any) -> Any:  # noqa: ANN401  # as above
    """Return a narrower trunk whose inner widths are no wider than they are now."""
    return dataclasses.replace(
        plain,
        **{
            field: tuple(map(min, _inner(plain, field), _inner(config, field)))
            for field in _fields(plain)
        },
    )
