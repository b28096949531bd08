"""How clean images are made bad, seeded, so that what comes back has a known reference.

Each is a function of a frame, a frozen dataclass that says how strong, and a generator that is
the only source of chance. At strength zero, the default of every field, the frame comes back as
it was.
"""

from mirnet_edge.degradations.downscaling import downscale
from mirnet_edge.degradations.low_light import LowLight, reduce_light
from mirnet_edge.degradations.noise import Noise, add_noise
from mirnet_edge.degradations.old_photo import OldPhoto, Overlay, age_photo, overlay_damage

__all__ = [
    "LowLight",
    "Noise",
    "OldPhoto",
    "Overlay",
    "add_noise",
    "age_photo",
    "downscale",
    "overlay_damage",
    "reduce_light",
]
