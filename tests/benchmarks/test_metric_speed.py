"""Speed gates of the metrics: ratios of one-thread CPU time, medians of alternated rounds, never absolute seconds.

Run with: pytest -m benchmark_gate --benchmark-enable tests/benchmarks/test_metric_speed.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from alternated import cpu_seconds
from benchmarks.populations import gaussian_distance

from sbv2bench.metrics import frechet_distance, precision_recall
from sbv2bench.metrics.frechet import Moments
from sbv2bench.metrics.precision_recall import radii

pytestmark = pytest.mark.benchmark_gate


def features(seed: int, n: int, d: int, scale: float = 1.0) -> np.ndarray:
    """Non-negative float32 features [n, d] of a falling spectrum, as pooled Inception gives."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((64, d)) * np.arange(1, 65)[:, None] ** -0.5
    noise = 0.1 * rng.standard_normal((n, d))
    return np.maximum(0.3 * scale * rng.standard_normal((n, 64)) @ mixing + noise + 0.2, 0).astype(np.float32)


@pytest.mark.benchmark(timer=time.process_time)
def test_frechet_against_eigenvalues_and_a_square_root_of_the_product(benchmark: Any) -> None:
    """D = 2048, full rank: torch-fidelity's and torchmetrics' way takes at least 2.2 times as long, scipy's sqrtm 5 times."""
    generated, reference = Moments.of(features(1, 6000, 2048, 0.9)), Moments.of(features(2, 8000, 2048))
    shift = generated.mean - reference.mean
    both = float(shift @ shift + np.trace(generated.covariance) + np.trace(reference.covariance))
    values: dict[str, float] = {}

    def eigenvalues() -> None:
        values["eigenvalues"] = (
            both - 2 * np.sqrt(np.linalg.eigvals(generated.covariance @ reference.covariance).astype(complex)).real.sum()
        )

    def square_root() -> None:
        values["square root"] = both - 2 * np.trace(scipy.linalg.sqrtm(generated.covariance @ reference.covariance)).real

    def ours() -> None:
        values["ours"] = gaussian_distance(generated, reference)

    seconds = cpu_seconds(benchmark, {"square root": square_root, "eigenvalues": eigenvalues, "ours": ours}, 2)
    assert values["ours"] == pytest.approx(values["eigenvalues"], rel=1e-8)
    assert values["ours"] == pytest.approx(values["square root"], rel=1e-6)
    assert seconds["eigenvalues"] / seconds["ours"] >= 2.2
    assert seconds["square root"] / seconds["ours"] >= 5


@pytest.mark.benchmark(timer=time.process_time)
def test_frechet_of_few_images(benchmark: Any) -> None:
    """N < D, covariances included: at least 6 times less than eigenvalues of the product, and exact where that is not."""
    generated, reference = features(1, 256, 768, 0.9), features(2, 307, 768)

    def peer() -> None:
        np.linalg.eigvals(np.cov(generated, rowvar=False) @ np.cov(reference, rowvar=False))

    seconds = cpu_seconds(benchmark, {"peer": peer, "ours": lambda: frechet_distance(generated, reference)})
    assert seconds["peer"] / seconds["ours"] >= 6


@pytest.mark.benchmark(timer=time.process_time)
def test_precision_recall_against_its_matrix_products(benchmark: Any) -> None:
    """All four numbers at 2,000 x 2,700 x 2,048 take at most 1.35 times the bare symmetric float32 matrix products."""
    generated, reference = features(1, 2000, 2048, 0.9), features(2, 2700, 2048)
    cached = radii(reference)

    def floor() -> None:
        # numpy turns X @ X.T of one buffer into a symmetric rank-k update: half the work
        for left, right in ((generated, generated), (reference, reference), (generated, reference)):
            _ = left @ right.T

    seconds = cpu_seconds(
        benchmark,
        {
            "floor": floor,
            "cached": lambda: precision_recall(generated, reference, reference_radii=cached),
            "ours": lambda: precision_recall(generated, reference),
        },
    )
    assert seconds["ours"] / seconds["floor"] <= 1.35
    assert seconds["ours"] / seconds["cached"] >= 1.25  # the reference's own third of the work is saved
