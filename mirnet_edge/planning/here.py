"""This machine's processor as a device: its rates measured in a second, not taken from a table."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.planning.devices import Device
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Callable

_SIDE, _COPIED_MIB, _ROUNDS = 768, 64, 7


def device_here(clock: Callable[[], float] = time.perf_counter) -> Device:
    """Return this machine: fp32 by a matrix product, bandwidth by a copy, medians of some rounds.

    INT8 and bf16 are put at the multiple of fp32 that the instruction sets allow.
    """
    probe = Probe(clock)
    for _ in range(_ROUNDS):
        probe.measure()
    return probe.device()


class Probe:
    """Measures the two rates, one round at a time, so that it can take turns with other work."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Make what is multiplied and copied."""
        generator = np.random.default_rng(0)
        self._clock = clock
        self._left, self._right = generator.random((2, _SIDE, _SIDE), np.float32)
        self._source = np.ones(_COPIED_MIB << 18, np.float32)
        self._target = np.empty_like(self._source)
        self.tflops: list[float] = []
        self.gigabytes: list[float] = []

    def measure(self) -> None:
        """Take one round."""
        begun = self._clock()
        np.matmul(self._left, self._right)
        middle = self._clock()
        np.copyto(self._target, self._source)
        done = self._clock()
        self.tflops.append(2e-12 * _SIDE**3 / (middle - begun))
        self.gigabytes.append(2e-9 * self._source.nbytes / (done - middle))

    def device(self) -> Device:
        """Return the machine by the medians so far."""
        facts = machine.describe()
        fp32 = float(np.median(self.tflops))
        known = set(facts.instructions)
        has_amx, has_vnni = "amx_int8" in known, bool({"avx512_vnni", "avx_vnni"} & known)
        return Device(
            name="here",
            title=f"{facts.processor}, {facts.cores} cores",
            fp32_tflops=fp32,
            fp16_tflops=fp32 * (16 if has_amx else 2 if "avx512_bf16" in known else 1),
            int8_tops=fp32 * (32 if has_amx else 4 if has_vnni or "asimddp" in known else 1.3),
            bandwidth_gbs=float(np.median(self.gigabytes)),
            memory_gib=_memory_gib(),
            is_gpu=False,
            is_measured=True,
        )


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, AttributeError, OSError):  # another system than Linux
        return 8.0
