"""An order of an epoch that is a function of (seed, epoch) alone: a run resumes from its step, and no table is kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbv2bench.mini import world

_ROUNDS = 8  # with 4, orders of ten things are measurably uneven
_STREAM = 2**20  # far from the world's own streams

Ints = NDArray[np.int64]


def shuffled_index(seed: int, epoch: int | Ints, position: Ints, count: int) -> Ints:
    """Which of `count` things stands at a position of an epoch's order: int64 [N], for positions int64 [N] below count.

    A permutation of range(count) for each (seed, epoch), |epoch| < 2**31. It is a Feistel network on the smallest 4**k that
    holds count; what it puts outside goes through it again until it is inside (cycle walking: four times on average at most).
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    index = np.array(position, dtype=np.int64)
    key = np.broadcast_to(np.asarray(epoch, dtype=np.int64) << 32, index.shape)
    outside = np.arange(len(index))
    while len(outside):
        left, right = index[outside] >> half, index[outside] & (2**half - 1)
        for number in range(_ROUNDS):
            uniform = world.random_uniform(seed, _STREAM + number, key[outside] + right, 1)[:, 0]
            left, right = right, left ^ (uniform * 2**half).astype(np.int64)
        index[outside] = (left << half) | right
        outside = outside[index[outside] >= count]
    return index
