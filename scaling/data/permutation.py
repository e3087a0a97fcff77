"""A seeded shuffle of 0..size-1 that answers for any index at once and keeps nothing in memory."""

import hashlib

import numpy as np

_ROUNDS = 8


def permute(index: np.ndarray, size: int, *key: object) -> np.ndarray:
    """Where a permutation of `range(size)` drawn by `key` sends each of `index` (int64, any shape) -> int64.

    A Feistel network of 8 rounds over the next even number of bits, applied again to whatever falls outside
    the range (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), on average at
    most four times. The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    assert size > 0, f"size={size} should be positive"
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    digest = hashlib.sha512(repr(key).encode()).digest()
    round_keys = np.frombuffer(digest, dtype="<u8")[:_ROUNDS]
    values = _feistel(np.atleast_1d(np.asarray(index)).astype(np.uint64), half_bits, round_keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, round_keys)
    return values.astype(np.int64).reshape(np.shape(index))


def _feistel(values: np.ndarray, half_bits: np.uint64, round_keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    mixed: np.ndarray = (left << half_bits) | right
    return mixed


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
