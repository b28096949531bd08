"""Pictures without references, which a teacher labels: what no camera can be asked for.

Nobody can take a bright picture of a street at night to train on, but what a large network makes of
it can be aimed at (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from mirnet_edge.errors import DataError
from mirnet_edge.training.validation import restored

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.training.pairs import Pairs


def labelled(
    pictures: Pairs, teacher: nn.Module, scale: int, on_labelled: Callable[[], None]
) -> Pairs:
    """Return pairs of the pictures and of what the teacher makes of them, whole and in 8 bits.

    Args:
        pictures: Their good side is what is to be restored.
        teacher: It sees each picture once, whole: its pools are those of the frame.
        scale: How many times higher and wider the teacher makes them.
        on_labelled: Told when one more is done.
    """
    made = []
    teacher.eval()
    for frame in pictures.high:
        made.append(restored(teacher, frame[None], scale)[0])
        on_labelled()
    return replace(pictures, low=pictures.high, high=tuple(made), degrade=None, scale=scale)


def require_pairs(pairs: Pairs) -> None:
    """Refuse what labelled pictures cannot be put to.

    Raises:
        DataError: These are clean pictures, which have no bad ones yet.
    """
    if pairs.degrade is not None:
        raise DataError(
            "--unlabelled goes with pairs; found clean pictures in --data. Put pictures in its "
            "folders low/ and high/"
        )


def together(pairs: Pairs, others: Pairs) -> Pairs:
    """Return the pairs of both, each as often as it is there."""
    digest = hashlib.sha256((pairs.sha256 + others.sha256).encode()).hexdigest()
    return replace(
        pairs,
        names=pairs.names + others.names,
        low=pairs.low + others.low,
        high=pairs.high + others.high,
        sha256=digest,
    )
