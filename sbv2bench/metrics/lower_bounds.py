"""Lower bounds of the distances between rows of two sets of features, block by block, on the CPU or on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64

if TYPE_CHECKING:
    import torch

BLOCK = 1024
_BLOCK_ELEMENTS = 2**22  # a block of rows holds at most this many numbers
_EXACT_ELEMENTS = 2**17  # pairs computed again go through the cache in pieces of this many numbers
_GROUPS = 64  # columns of a block are thinned to this many minima before anything is sorted
_PROBABILITY = 8.0  # width of the rounding bound in standard deviations

Floats = NDArray[np.floating]
Indices = NDArray[np.intp]


@contextmanager
def full_precision(device: str) -> Iterator[torch.device | None]:
    """The CUDA device of that name, its products not in TF32, which the bound on rounding does not hold for; None of others."""
    if not device.startswith("cuda"):
        yield None
        return
    import torch

    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        yield torch.device(device)
    finally:
        matmul.allow_tf32 = before


@dataclass(frozen=True)
class _Block:
    """Consecutive rows of a set: where they start, the centred rows [b, D], and the shrunk half squared norms [b]."""

    start: int
    rows: Any  # arrays, or tensors of a device
    low: Any

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + len(self.rows))


class Blocks:
    """A set of features cut into centred blocks, with the bound on the rounding of products of two of them.

    By Higham and Mary (2019, theorem 2.4) the product of two rows is off by at most about 8 sqrt(D) u |x| |y| (u: unit
    roundoff) but with negligible probability, and |x| |y| <= h_x + h_y, h being half squared norms. So, with one more term
    for underflow, (1 - slope) (h_x + h_y) - x.y - 2 least is a lower bound of the pair's half squared distance.
    """

    def __init__(self, features: Features, mean: Floats, device: torch.device | None = None) -> None:
        """features [N, D]; mean [D], in the dtype to compute in. device: where blocks lie once they were asked for."""
        self.features, self.mean, self.dtype, self.device = features, mean, mean.dtype, device
        n, dimension = features.shape
        limits = np.finfo(self.dtype)
        self.slope = _PROBABILITY * (np.sqrt(dimension) + 4) * float(limits.eps) / 2
        self.least = dimension * float(limits.tiny)
        self.step = max(1, min(BLOCK, _BLOCK_ELEMENTS // dimension))
        self.starts = range(0, n, self.step)
        self.half = np.zeros(n, dtype=self.dtype)
        self._there: dict[int, _Block] = {}

    def block(self, start: int) -> _Block:
        """The block that starts at row start; notes its rows' half squared norms."""
        if start in self._there:
            return self._there[start]
        span = slice(start, start + self.step)
        rows: Floats = np.subtract(self.features[span], self.mean, dtype=self.dtype)
        half = np.einsum("nd,nd->n", rows, rows) / 2
        if not half.max() < np.finfo(self.dtype).max / 8:
            raise InputError(f"features are too large: their squares overflow {self.dtype}", fix="scale them, or pass float64")
        self.half[span] = half
        low = half * self.dtype.type(1 - self.slope) - self.dtype.type(self.least)
        if self.device is None:  # a CPU makes them again sooner than it reads a copy of all
            return _Block(start, rows, low)
        import torch

        self._there[start] = _Block(start, *(torch.from_numpy(array).to(self.device) for array in (rows, low)))
        return self._there[start]

    def slack(self, index: Indices, other: Blocks, other_index: Indices) -> Float64:
        """Lower bound + slack is an upper bound; float64, of the shape that the two index arrays broadcast to."""
        norms: Float64 = self.half[index].astype(np.float64) + other.half[other_index]
        norms *= 2 * self.slope
        norms += 4 * self.least
        return norms

    def exact(self, index: Indices, other: Blocks, other_index: Indices) -> Float64:
        """Half squared distances of pairs, [P] float64, from the uncentred features: zero exactly for equal rows."""
        distances = np.empty(len(index))
        step = max(1, _EXACT_ELEMENTS // self.features.shape[1])
        for start in range(0, len(index), step):
            pairs = slice(start, start + step)
            gaps = self.features[index[pairs]].astype(np.float64)
            gaps -= other.features[other_index[pairs]]
            distances[pairs] = np.multiply(gaps, gaps, out=gaps).sum(axis=1) / 2
        return distances


class Bounds:
    """Lower bounds [b, c] of the half squared distances between the rows of two blocks."""

    def __init__(self, values: Floats) -> None:
        self.values = values

    def leave_out_diagonal(self) -> None:
        """Of a block with itself: no point is a neighbour of its own."""
        np.fill_diagonal(self.values, np.inf)

    def ceiling(self, keep: int, axis: int) -> Floats:
        """For each row (axis 1) or column (axis 0) a value that at least keep of its entries do not exceed.

        The minima of disjoint groups are keep entries or more, so the keep-th smallest minimum will do, at one cheap pass.
        """
        height, length = self.values.shape[1 - axis], self.values.shape[axis]
        groups = max(_GROUPS, 4 * keep)
        thinned = self._minima(groups, axis) if length >= 2 * groups else self._all()
        if thinned.shape[axis] < keep:
            return np.full(height, np.inf, dtype=thinned.dtype)
        columns = thinned if axis == 1 else np.ascontiguousarray(thinned.T)
        return np.partition(columns, keep - 1, axis=1)[:, keep - 1]

    def within(self, limits: Floats) -> tuple[Indices, Indices, Floats]:
        """(row, column, value) of the entries that are at most limits, which broadcast to [b, c]."""
        mask = self.values <= limits
        flat = np.flatnonzero(mask)
        rows, columns = np.divmod(flat, mask.shape[1])
        return rows, columns, self.values.ravel()[flat]

    def _minima(self, groups: int, axis: int) -> Floats:
        whole = self.values.shape[axis] // groups * groups
        if axis == 1:
            return self._least(self.values[:, :whole].reshape(len(self.values), -1, groups), axis)
        return self._least(self.values[:whole].reshape(-1, groups, self.values.shape[1]), axis)

    def _least(self, parts: Any, axis: int) -> Floats:
        found: Floats = parts.min(axis=axis)
        return found

    def _all(self) -> Floats:
        return self.values


class _DeviceBounds(Bounds):
    """The same of a tensor on its device; what few values are asked for come back."""

    values: Any

    def leave_out_diagonal(self) -> None:
        self.values.fill_diagonal_(float("inf"))

    def within(self, limits: Floats) -> tuple[Indices, Indices, Floats]:
        import torch

        mask = self.values <= torch.from_numpy(np.ascontiguousarray(limits)).to(self.values.device)
        rows, columns = (index.cpu().numpy() for index in mask.nonzero(as_tuple=True))
        found: Floats = self.values[mask].cpu().numpy()
        return rows, columns, found

    def _least(self, parts: Any, axis: int) -> Floats:
        found: Floats = parts.amin(axis).cpu().numpy()
        return found

    def _all(self) -> Floats:
        found: Floats = self.values.cpu().numpy()
        return found


def pair_bounds(block: _Block, other: _Block) -> Bounds:
    """Lower bounds of the half squared distances between the rows of two blocks, where they lie."""
    bounds = block.rows @ other.rows.T
    if isinstance(bounds, np.ndarray):
        np.subtract(other.low[None, :], bounds, out=bounds)
        bounds += block.low[:, None]
        return Bounds(bounds)
    return _DeviceBounds(other.low[None, :] - bounds + block.low[:, None])
