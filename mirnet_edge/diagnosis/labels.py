"""The labels of the diagnosis, in the order of the network's outputs."""

from __future__ import annotations

from typing import Literal, get_args

Label = Literal["dark", "noisy", "low-resolution", "faded", "scratched"]
TopLabel = Literal["dark", "noisy", "low-resolution", "faded", "scratched", "fine"]

LABELS: tuple[Label, ...] = get_args(Label)
"""dark: too little light. noisy: sensor noise. low-resolution: small, enlarged or out of focus.
faded: lost contrast, or brown as an old print. scratched: scratches, cracks, dust, stains."""
FINE: TopLabel = "fine"
"""The top label where no score reaches the threshold."""
THRESHOLD = 0.5
"""A label holds from this score on; training shifts the scores so that it is the same for all."""
