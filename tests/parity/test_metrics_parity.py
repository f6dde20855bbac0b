"""The same features through other people's libraries: torch-fidelity, torchmetrics, clean-fid, prdc."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.populations import gaussian_distance

from sbv2bench.metrics import frechet_distance, kernel_distance, precision_recall
from sbv2bench.metrics.frechet import Moments
from sbv2bench.metrics.kernel import kernel_distance_subsets

Sets = tuple[np.ndarray, np.ndarray]


def _golden() -> Sets:
    rng = np.random.default_rng(20240827)
    reference = rng.standard_normal((500, 16))
    return 0.9 * rng.standard_normal((400, 16)) + 0.25, reference


def _rectified() -> Sets:
    """Like pooled Inception features: non-negative, correlated, mean far from zero; float32, precision unlike recall."""
    rng = np.random.default_rng(31)
    mixing = rng.standard_normal((12, 64)) * np.arange(1, 13)[:, None] ** -0.5
    return tuple(
        np.maximum(scale * rng.standard_normal((n, 12)) @ mixing + 0.1 * rng.standard_normal((n, 64)) + 0.4, 0).astype(np.float32)
        for n, scale in ((300, 0.6), (420, 0.9))
    )


@pytest.fixture(params=[_golden, _rectified], ids=["golden", "rectified"])
def sets(request: pytest.FixtureRequest) -> Sets:
    return request.param()


def _gaussians(sets: Sets) -> list[np.ndarray]:
    wide = [rows.astype(np.float64) for rows in sets]
    return [part for rows in wide for part in (rows.mean(axis=0), np.cov(rows, rowvar=False))]


def test_frechet_torch_fidelity(sets: Sets) -> None:
    module = pytest.importorskip("torch_fidelity.metric_fid")
    mean_g, covariance_g, mean_r, covariance_r = _gaussians(sets)
    statistics = {"mu": mean_g, "sigma": covariance_g}, {"mu": mean_r, "sigma": covariance_r}
    theirs = module.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(*sets) == pytest.approx(theirs, rel=1e-9)
    assert gaussian_distance(Moments.of(sets[0]), Moments.of(sets[1])) == pytest.approx(theirs, rel=1e-9)


def test_frechet_torchmetrics(sets: Sets) -> None:
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Given(torch.nn.Module):
        """Takes features for images, so that the whole class is compared, its streaming too."""

        num_features = sets[0].shape[1]

        def forward(self, features: object) -> object:
            return features

    metric = fid.FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    for rows, real in zip(sets, (False, True), strict=True):
        for block in np.array_split(rows.astype(np.float64), 3):
            metric.update(torch.from_numpy(block), real=real)
    assert frechet_distance(*sets) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_frechet_clean_fid(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """clean-fid asks scipy.linalg.sqrtm for its error estimate by `disp=False`, which SciPy 1.18 no longer takes."""
    clean = pytest.importorskip("cleanfid.fid")
    square_root = clean.linalg.sqrtm
    monkeypatch.setattr(clean.linalg, "sqrtm", lambda matrix, disp: (square_root(matrix), 0.0))
    mean_g, covariance_g, mean_r, covariance_r = _gaussians(sets)
    theirs = clean.frechet_distance(mean_g, covariance_g, mean_r, covariance_r)
    assert frechet_distance(*sets) == pytest.approx(theirs, rel=1e-8)


def test_kernel_torch_fidelity(sets: Sets) -> None:
    """Same subsets by the same seed; features in float64, as torch-fidelity computes in the features' own dtype."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.metric_kid")
    generated, reference = (torch.from_numpy(rows.astype(np.float64)) for rows in sets)
    settings = {"kid_subsets": 10, "kid_subset_size": 200, "rng_seed": 2020, "verbose": False}
    theirs = module.kid_features_to_metric(generated, reference, **settings)
    mean, deviation = kernel_distance_subsets(*sets, subsets=10, subset_size=200)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_kernel_torchmetrics(sets: Sets) -> None:
    torch = pytest.importorskip("torch")
    kid = pytest.importorskip("torchmetrics.image.kid")
    equal = [rows[: len(sets[0])].astype(np.float64) for rows in sets]  # theirs needs equal sizes
    theirs = float(kid.poly_mmd(torch.from_numpy(equal[0]), torch.from_numpy(equal[1])))
    assert kernel_distance(*equal) == pytest.approx(theirs, rel=1e-9)


def test_kernel_clean_fid(sets: Sets) -> None:
    """With a subset size no smaller than the sets, its one subset is a permutation of everything."""
    clean = pytest.importorskip("cleanfid.fid")
    equal = [rows[: len(sets[0])].astype(np.float64) for rows in sets]
    assert kernel_distance(*equal) == pytest.approx(clean.kernel_distance(*equal, num_subsets=1, max_subset_size=10**6), rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("function", ["calculate_precision_recall_full", "calculate_precision_recall_part"])
def test_precision_recall_torch_fidelity(sets: Sets, k: int, function: str) -> None:
    """Generated first: before 0.4.0, which is our lower bound, it returned the two numbers exchanged (its issue 58)."""
    torch = pytest.importorskip("torch")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    ours = precision_recall(*sets, k)
    theirs = getattr(prc, function)(*(torch.from_numpy(rows.astype(np.float64)) for rows in sets), k)
    assert theirs == pytest.approx((ours.precision, ours.recall), abs=1e-7)  # its mean is float32
    assert ours.precision != ours.recall


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_prdc(sets: Sets, k: int) -> None:
    """prdc takes the real set first and compares with a strict <, which differs on ties only; there are none here."""
    prdc = pytest.importorskip("prdc")
    generated, reference = (rows.astype(np.float64) for rows in sets)
    theirs = prdc.compute_prdc(reference, generated, nearest_k=k)
    ours = precision_recall(*sets, k)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name) == pytest.approx(theirs[name], rel=1e-12), name
