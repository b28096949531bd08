"""How clean pictures are made bad, seeded, so that what comes back has a known reference.

Each is a function of a frame, a frozen dataclass that says how strong, and a generator that is
the only source of chance. At strength zero, the default of every field, the frame comes back as
it was.
"""

from mirnet_edge.degradations.downscaling import downscaled
from mirnet_edge.degradations.low_light import LowLight, low_light
from mirnet_edge.degradations.noise import Noise, noisy
from mirnet_edge.degradations.old_photo import OldPhoto, Overlay, old_photo, overlaid

__all__ = [
    "LowLight",
    "Noise",
    "OldPhoto",
    "Overlay",
    "downscaled",
    "low_light",
    "noisy",
    "old_photo",
    "overlaid",
]
