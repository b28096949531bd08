"""CRC-32C (Castagnoli), the checksum of TensorFlow's and LevelDB's files.

Large data is cut into lanes whose checksums NumPy computes side by side. The checksum is linear,
so that two lanes become one by advancing the first over the length of the second.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78  # bits in reverse order
_MASK_DELTA = 0xA282EAD8
_LANE_BYTES = 512
_MOST_LANES = 4096


def masked_crc32c(data: bytes) -> int:
    """Return the checksum as these files hold it: rotated and shifted by a constant."""
    checksum = crc32c(data)
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of DATA."""
    if len(data) < 4:
        # the first four bytes carry the start value, and there are none to carry it
        state = 0xFFFFFFFF
        for byte in data:
            state = int(_table()[(state ^ byte) & 0xFF]) ^ (state >> 8)
        return state ^ 0xFFFFFFFF
    lanes = 1
    while lanes < _MOST_LANES and lanes * _LANE_BYTES < len(data):
        lanes *= 2
    length = -(-len(data) // (2 * lanes)) * 2
    # zeros in front change nothing while the state is zero
    padded = np.zeros(lanes * length, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    start = padded.size - len(data)
    padded[start : start + 4] ^= 0xFF
    table, states = _table_of_pairs(), np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T):
        states = table[(states ^ column) & 0xFFFF] ^ (states >> 16)
    advance = _advance_by(length)
    while states.size > 1:
        states = _apply(advance, states[0::2]) ^ states[1::2]
        advance = _apply(advance, advance)
    return int(states[0]) ^ 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    """Return what each byte does to the checksum, (256,)."""
    states: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = np.where(states & 1, (states >> 1) ^ np.uint32(_POLYNOMIAL), states >> 1)
    return states


@cache
def _table_of_pairs() -> np.ndarray:
    """Return what each two bytes do to the checksum, (65536,)."""
    pairs = np.arange(65536, dtype=np.uint32)
    for _ in range(2):
        pairs = _table()[pairs & 0xFF] ^ (pairs >> 8)
    return pairs


@cache
def _advance_by(length: int) -> np.ndarray:
    """Return the operator that appends LENGTH zeros: what each of 32 bits becomes."""
    advance: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    step = _table()[advance & 0xFF] ^ (advance >> 8)
    while length:
        if length & 1:
            advance = _apply(step, advance)
        step = _apply(step, step)
        length >>= 1
    return advance


def _apply(operator: np.ndarray, states: np.ndarray) -> np.ndarray:
    changed = np.zeros_like(states)
    for bit, image in enumerate(operator):
        changed ^= np.where((states >> np.uint32(bit)) & 1, image, np.uint32(0))
    return changed
