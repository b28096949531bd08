"""Degradations of clean images, reproducible by seed: low light, cameras, noise, size, old photos.

They make the degraded inputs of training, calibration and benchmarks, whose ground truth is the
clean image. Each is a function of a frame, a frozen dataclass with the strengths, and a random
generator, the only source of randomness. At strength zero, the default of every field, the frame
is returned unchanged.
"""

from mirnet_edge.degradations.camera import Camera, photograph
from mirnet_edge.degradations.downscaling import downscale
from mirnet_edge.degradations.low_light import LowLight, reduce_light
from mirnet_edge.degradations.noise import Noise, add_noise
from mirnet_edge.degradations.old_photo import OldPhoto, Overlay, age_photo, overlay_damage

__all__ = [
    "Camera",
    "LowLight",
    "Noise",
    "OldPhoto",
    "Overlay",
    "add_noise",
    "age_photo",
    "downscale",
    "overlay_damage",
    "photograph",
    "reduce_light",
]
