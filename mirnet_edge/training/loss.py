"""What training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def charbonnier(restored: Tensor, reference: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """Return the mean Charbonnier distance, a smooth L1.

    sqrt((x - y)^2 + epsilon^2), as in Zamir et al., MIRNet (ECCV 2020), equation 4, and
    Charbonnier et al., ICIP 1994.

    Args:
        restored: (N, C, H, W), any range.
        reference: The same shape.
        epsilon: Where the distance turns from quadratic to linear.

    Returns:
        A scalar.
    """
    return ((restored - reference).square() + epsilon**2).sqrt().mean()
