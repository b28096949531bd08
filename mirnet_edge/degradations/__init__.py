"""How clean pictures are made bad, seeded, so that what comes back has a known reference.

Each is a function of a frame, a frozen dataclass that says how strong, and a generator that is
the only source of chance. At strength zero, the default of every field, the frame comes back as
it was.
"""

from mirnet_edge.degradations.film import OldPhoto, old_photo
from mirnet_edge.degradations.light import LowLight, low_light
from mirnet_edge.degradations.noise import Noise, noisy
from mirnet_edge.degradations.overlay import Overlay, overlaid
from mirnet_edge.degradations.size import downscaled

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
