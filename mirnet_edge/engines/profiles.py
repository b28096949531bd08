"""The input shapes a plan is built for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.manifest import ImageContract

# A portable default where the user gave no size: one profile from thumbnails to full HD.
_MINIMUM, _USUAL, _MAXIMUM = (64, 64), (480, 640), (1088, 1920)
LADDER = ((360, 640), (480, 640), (720, 1280))
"""(height, width) of what cameras give most; each its own static profile."""


@dataclass(frozen=True)
class Profile:
    """The input shapes an engine is built for.

    Raises:
        OptionError: The shapes are not in order.
    """

    minimum: tuple[int, ...]
    usual: tuple[int, ...]
    """The one it is made fastest for."""
    maximum: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse shapes that are not in order."""
        if not len(self.minimum) == len(self.usual) == len(self.maximum) or any(
            not low <= middle <= high
            for low, middle, high in zip(self.minimum, self.usual, self.maximum, strict=True)
        ):
            raise OptionError(
                f"profile shapes must rise from {self.minimum} over {self.usual} to {self.maximum} "
                "on every axis; give them in that order"
            )

    @property
    def is_static(self) -> bool:
        """Say whether it takes one shape only; such a profile can be recorded as a CUDA graph."""
        return self.minimum == self.maximum

    def holds(self, shape: Sequence[int]) -> bool:
        """Say whether an input of this shape is within it."""
        return len(shape) == len(self.minimum) and all(
            low <= side <= high
            for low, side, high in zip(self.minimum, shape, self.maximum, strict=True)
        )

    def to_document(self) -> dict[str, list[int]]:
        """Return what the manifest says of it."""
        return {"min": list(self.minimum), "opt": list(self.usual), "max": list(self.maximum)}

    @classmethod
    def from_document(cls, document: dict[str, list[int]]) -> Profile:
        """Return the profile that a manifest describes."""
        return cls(*(tuple(document[name]) for name in ("min", "opt", "max")))


def profiles_for(
    image: ImageContract, sizes: Sequence[tuple[int, int]] | None = None
) -> tuple[Profile, ...]:
    """Return the profiles of a bundle's plan: static ones for sizes, else a dynamic one.

    Args:
        image: What the graph takes.
        sizes: (height, width) of the frames to come; padded to the multiple here.

    Raises:
        OptionError: The graph has one fixed size, and another is asked for.
    """
    if image.size is not None:
        wanted = {_padded(size, image.multiple) for size in sizes or (image.size,)}
        if wanted != {tuple(image.size)}:
            height, width = image.size
            raise OptionError(
                f"the graph takes {width}x{height} only, and a plan for other sizes was asked "
                "for: export again with --dynamic"
            )
        return (_profile(image, image.size, image.size, image.size),)
    if sizes:
        unique = dict.fromkeys(_padded(size, image.multiple) for size in sizes)
        return tuple(_profile(image, size, size, size) for size in unique)
    return (_profile(image, _MINIMUM, _USUAL, _MAXIMUM),)


def sizes_from_text(text: str) -> tuple[tuple[int, int], ...]:
    """Return (height, width) of sizes written `640x360,1280x720`; `ladder` for the usual ones.

    Raises:
        OptionError: Not written so.
    """
    if text == "ladder":
        return LADDER
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d*)[x×]([1-9]\d*)\s*", part)
        if not found:
            raise OptionError(
                f"profiles are sizes WIDTHxHEIGHT like 640x360,1280x720, or ladder; found {part!r}"
            )
        sizes.append((int(found[2]), int(found[1])))
    return tuple(sizes)


def _padded(size: Sequence[int], multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def _profile(image: ImageContract, *sizes: Sequence[int]) -> Profile:
    padded = [_padded(size, image.multiple) for size in sizes]
    return Profile(*((1, *size, 3) if image.io == "uint8" else (1, 3, *size) for size in padded))
