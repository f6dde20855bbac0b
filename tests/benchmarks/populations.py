"""Known Gaussians and mixtures to draw generated and reference features from, with what is known of them in closed form."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbv2bench.metrics.frechet import Moments, distance_of_roots, factor

Array = NDArray[np.float64]

COMPONENTS = 4
TILT = np.array([0.4, 0.3, 0.2, 0.1])  # weights of a generated mixture, where the reference's are equal


@dataclass(frozen=True)
class Cell:
    """What is simulated: a metric on draws of one scenario. dimension 0: the draws are scores, not features."""

    metric: str
    scenario: str
    separation: float
    dimension: int
    n: int


def gaussian_distance(first: Moments, second: Moments) -> float:
    """Fréchet distance of two Gaussians, by the roots of both covariances: as `frechet_distance` has it where N > D."""
    return distance_of_roots((first.mean, second.mean), (factor(first.covariance), factor(second.covariance)))


@dataclass(frozen=True)
class Population:
    """A mixture of Gaussians with covariance scale^2 I: weights [K], centres [K, D]; one component is a plain Gaussian."""

    weights: Array
    centres: Array
    scale: float

    def draw(self, random: np.random.Generator, n: int) -> NDArray[np.float32]:
        """[n, D] float32."""
        rows = random.standard_normal((n, self.centres.shape[1]), dtype=np.float32)
        rows *= np.float32(self.scale)
        component = random.choice(len(self.weights), n, p=self.weights)
        rows += self.centres.astype(np.float32)[component]
        return rows

    def moments(self) -> Moments:
        """Of the population."""
        mean = self.weights @ self.centres
        apart = self.centres - mean
        return Moments(mean, (apart.T * self.weights) @ apart + self.scale**2 * np.eye(len(mean)))

    def mean_kernel(self, other: Population) -> float:
        """E (x.y / D + 1)^3 of independent x and y of the two populations, in closed form.

        x.y given y is normal; by components, with p = a.b, and v, w the two variances:
        E x.y = p; E (x.y)^2 = p^2 + v|b|^2 + w|a|^2 + vwD; E (x.y)^3 = p^3 + 3p (v|b|^2 + w|a|^2 + vwD) + 6 vwp.
        """
        dimension = self.centres.shape[1]
        p = self.centres @ other.centres.T
        v, w = self.scale**2, other.scale**2
        own, others = (np.square(centres).sum(axis=1) for centres in (self.centres, other.centres))
        spread = v * others[None, :] + w * own[:, None] + v * w * dimension
        third = p**3 + 3 * p * spread + 6 * v * w * p
        kernel = 1 + 3 * p / dimension + 3 * (p**2 + spread) / dimension**2 + third / dimension**3
        return float(self.weights @ kernel @ other.weights)


def populations(cell: Cell) -> tuple[Population, Population]:
    """(generated, reference): half of the separation is in the means, half in the scales; mixtures differ in weights, too."""
    step = math.sqrt(cell.separation / 2)
    if cell.scenario == "gaussian":
        weights, centres = np.ones(1), np.zeros((1, cell.dimension))
    else:
        weights = np.full(COMPONENTS, 1 / COMPONENTS)
        centres = np.random.default_rng(7).standard_normal((COMPONENTS, cell.dimension))
    tilted = TILT if cell.separation > 0 and len(weights) > 1 else weights
    return Population(tilted, centres + step, 1 + step), Population(weights, centres, 1.0)


def stream(cell: Cell, purpose: str) -> np.random.Generator:
    """A generator of its own for each cell and purpose."""
    return np.random.default_rng(zlib.crc32(f"{purpose} {cell}".encode()))


def pairs(cell: Cell, purpose: str, count: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """count independent draws of (generated, reference)."""
    generated, reference = populations(cell)
    random = stream(cell, purpose)
    for _ in range(count):
        yield generated.draw(random, cell.n), reference.draw(random, cell.n)
