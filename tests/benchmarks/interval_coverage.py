"""How often do nominal 95 % intervals hold the truth? Known Gaussians and mixtures, many independent draws of both sets.

The whole table, leaderboards/coverage.csv and coverage.md, cheapest cells first; a cell that the CSV has is skipped, so the
command goes on where it was stopped:

    OMP_NUM_THREADS=1 PYTHONPATH=tests python -m benchmarks.interval_coverage --trials 1000 --output leaderboards/coverage.csv

--only fid,kid chooses metrics, --minutes 60 stops after the first cell that ends later than that.

The truth is the expectation of the metric at this N. In closed form for means and KID; of FID and of precision, recall,
density and coverage, and of CMMD, the mean of other, independent draws, as many as trials (its own error is in the table); of
FID-infinity the distance of the populations.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks.coverage_table import MANIFOLD, TRIALS, Row, belongs, read, to_csv, to_markdown
from benchmarks.populations import Array, Cell, gaussian_distance, pairs, populations, stream
from numpy.typing import NDArray

from sbv2bench.atomic import write_whole
from sbv2bench.evaluation.diversity_metrics import ratio_of_means
from sbv2bench.metrics import cmmd, frechet_distance
from sbv2bench.metrics.blocks import errors_by_blocks
from sbv2bench.metrics.cmmd import cmmd_statistics
from sbv2bench.metrics.frechet_infinity import frechet_infinity
from sbv2bench.metrics.kernel import kernel_statistics
from sbv2bench.metrics.precision_recall import precision_recall
from sbv2bench.metrics.uncertainty import (
    frechet_statistics,
    mean_and_std_err,
    normal_interval,
    wilson_interval,
)

Estimate = tuple[float, float, float, float]  # value, std_err, low, high

DIMENSIONS = (16, 64, 128)
SIZES = (1000, 5000)
SEPARATIONS = (0.0, 0.05, 0.3)  # squared Wasserstein distance of the Gaussians over the trace of the reference's covariance


def quick_kernel_statistics(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """kernel_statistics with float32 products, for equal N: several times faster, off by far less than the standard error."""
    n, dimension = generated.shape
    ones = np.ones(n, np.float32)

    def sums(left: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[Array, Array]:
        rows, columns = np.zeros(n), np.zeros(n)
        for start in range(0, n, 250):
            base = left[start : start + 250] @ right.T
            base *= np.float32(1 / dimension)
            base += np.float32(1)
            kernel = base * base
            kernel *= base
            rows[start : start + 250] = kernel @ ones
            columns += ones[: len(kernel)] @ kernel
        return rows, columns

    within = [
        (sums(rows, rows)[0] - (np.square(rows, dtype=np.float64).sum(axis=1) / dimension + 1) ** 3) / (n - 1)
        for rows in (generated, reference)
    ]
    to_reals, to_fakes = sums(generated, reference)
    first, second = within[0] - to_reals / n, within[1] - to_fakes / n
    return float(first.mean() + second.mean()), math.sqrt(4 * float(first.var(ddof=1) + second.var(ddof=1)) / n)


def _normal(value: float, std_err: float | None) -> Estimate:
    if std_err is None:
        raise ValueError("no standard error: the cell has too few rows for its dimension")
    return value, std_err, *normal_interval(value, std_err)


def simulate_fid(cell: Cell, trials: int) -> list[Row]:
    """frechet_statistics' interval against the mean of independent draws."""
    began = time.process_time()
    truth = mean_and_std_err([frechet_distance(*pair) for pair in pairs(cell, "truth", trials)])
    found = [_normal(*frechet_statistics(*pair)) for pair in pairs(cell, "trial", trials)]
    return [_row(cell, ("fid", "influence"), truth, found, began)]


def simulate_fid_infinity(cell: Cell, trials: int) -> list[Row]:
    """FID-infinity's interval against the distance of the populations."""
    began = time.process_time()
    generated, reference = populations(cell)
    truth = gaussian_distance(generated.moments(), reference.moments()), 0.0
    values = [frechet_infinity(*pair) for pair in pairs(cell, "trial", trials)]
    return [_row(cell, ("fid_infinity", "influence"), truth, [_normal(one.value, one.std_err) for one in values], began)]


def simulate_kid(cell: Cell, trials: int) -> list[Row]:
    """The U-statistic's interval against the closed form."""
    began = time.process_time()
    generated, reference = populations(cell)
    truth = generated.mean_kernel(generated) + reference.mean_kernel(reference) - 2 * generated.mean_kernel(reference)
    found = []
    for number, pair in enumerate(pairs(cell, "trial", trials)):
        value, std_err = quick_kernel_statistics(*pair)
        if number == 0:  # the quick form is the shipped one
            exact = kernel_statistics(*pair)
            assert abs(value - exact[0]) < 0.01 * exact[1], (value, exact)
            assert abs(std_err - exact[1]) < 0.01 * exact[1], (std_err, exact)
        found.append(_normal(value, std_err))
    return [_row(cell, ("kid", "U-statistic"), (truth, 0.0), found, began)]


def simulate_cmmd(cell: Cell, trials: int) -> list[Row]:
    """cmmd_statistics' interval against the mean of independent draws, its bias at this N counted as part of the truth."""
    began = time.process_time()
    truth = mean_and_std_err([cmmd(*pair) for pair in pairs(cell, "truth", trials)])
    found = [_normal(*cmmd_statistics(*pair)) for pair in pairs(cell, "trial", trials)]
    return [_row(cell, ("cmmd", "U-statistic"), truth, found, began)]


def _manifold(generated: NDArray[np.floating], reference: NDArray[np.floating]) -> list[float]:
    found = precision_recall(generated, reference)
    return [getattr(found, name) for name in MANIFOLD]


def simulate_pr(cell: Cell, trials: int) -> list[Row]:
    """Blocks, and for the three that are shares the binomial formula that looks only at one side, for comparison."""
    began = time.process_time()
    others = np.array([_manifold(*pair) for pair in pairs(cell, "truth", trials)])
    blocked: list[list[Estimate]] = [[] for _ in MANIFOLD]
    binomial: list[list[Estimate]] = [[] for _ in MANIFOLD]
    counts = [None if name == "density" else cell.n for name in MANIFOLD]
    for pair in pairs(cell, "trial", trials):
        values = _manifold(*pair)
        for place, (std_err, interval) in enumerate(errors_by_blocks(_manifold, *pair, values, counts)):
            blocked[place].append((values[place], std_err, *interval))
            binomial[place].append(_normal(values[place], math.sqrt(max(0.0, values[place] * (1 - values[place])) / cell.n)))
    rows = []
    for place, name in enumerate(MANIFOLD):
        truth = mean_and_std_err(others[:, place])
        rows.append(_row(cell, (name, "10 blocks"), truth, blocked[place], began))
        if name != "density":
            rows.append(_row(cell, (name, "binomial"), truth, binomial[place], began))
    return rows


SCORES: dict[str, tuple[Callable[[np.random.Generator, int], Array], float]] = {
    "normal": (lambda random, n: 0.3 + 0.05 * random.standard_normal(n), 0.3),
    "skewed": (lambda random, n: random.beta(8, 1, n), 8 / 9),
    "two kinds": (lambda random, n: np.where(random.random(n) < 0.05, 0.2, 0.9) + 0.05 * random.standard_normal(n), 0.865),
}


def simulate_mean(cell: Cell, trials: int) -> list[Row]:
    """CLIP score and HPS: a mean over prompts, of scores of three shapes."""
    began = time.process_time()
    draw, truth = SCORES[cell.scenario]
    random = stream(cell, "trial")
    found = [_normal(*mean_and_std_err(draw(random, cell.n))) for _ in range(trials)]
    return [_row(cell, ("mean", "over prompts"), (truth, 0.0), found, began)]


RATIOS = {"alike": (0.5, 0.5), "half": (0.25, 0.5)}  # mean distances of student and teacher, in [0, 1]


def simulate_ratio(cell: Cell, trials: int) -> list[Row]:
    """A student's mean distance over the teacher's, captions paired: both share what a caption leaves open."""
    began = time.process_time()
    student, teacher = RATIOS[cell.scenario]
    random, found = stream(cell, "trial"), []
    for _ in range(trials):
        common = random.random(cell.n)
        values, others = (random.beta(4 * mean, 4 * (1 - mean), cell.n) + mean * common for mean in (student, teacher))
        found.append(_normal(*ratio_of_means(values, others)))
    return [_row(cell, ("ratio", "over captions"), (student / teacher, 0.0), found, began)]


SHARES = {"half right": 0.5, "most right": 0.8, "nearly all right": 0.98}


def simulate_share(cell: Cell, trials: int) -> list[Row]:
    """Attribute accuracy: Wilson's interval for a share."""
    began = time.process_time()
    truth = SHARES[cell.scenario]
    shares = stream(cell, "trial").binomial(cell.n, truth, trials) / cell.n
    found = [(float(share), math.sqrt(share * (1 - share) / cell.n), *wilson_interval(float(share), cell.n)) for share in shares]
    return [_row(cell, ("share", "Wilson"), (truth, 0.0), found, began)]


def _row(cell: Cell, what: tuple[str, str], truth: tuple[float, float | None], found: list[Estimate], began: float) -> Row:
    """what: metric and method; truth: with its own error; began: process time at which the cell was begun."""
    values, errors, low, high = np.array(found).T
    deviation = float(values.std(ddof=1))
    inside = float(np.mean((low <= truth[0]) & (truth[0] <= high)))
    low_coverage, high_coverage = wilson_interval(inside, len(found))
    return Row(
        metric=what[0],
        method=what[1],
        scenario=cell.scenario,
        separation=cell.separation,
        dimension=cell.dimension,
        n=cell.n,
        trials=len(found),
        truth=truth[0],
        truth_std_err=truth[1] or 0.0,
        deviation=deviation,
        error_ratio=math.sqrt(float(np.square(errors).mean())) / deviation,
        coverage=inside,
        coverage_low=low_coverage,
        coverage_high=high_coverage,
        cpu_seconds=round(time.process_time() - began, 1),
    )


SIMULATIONS: dict[str, Callable[[Cell, int], list[Row]]] = {
    "mean": simulate_mean,
    "share": simulate_share,
    "ratio": simulate_ratio,
    "cmmd": simulate_cmmd,
    "fid": simulate_fid,
    "kid": simulate_kid,
    "fid_infinity": simulate_fid_infinity,
    "pr": simulate_pr,
}


def cells() -> list[Cell]:
    """Every cell, roughly by its cost; equal distributions only where Gaussian, since there all is second order."""
    found = [Cell("mean", name, 0.0, 0, n) for name in SCORES for n in SIZES]
    found += [Cell("share", name, 0.0, 0, n) for name in SHARES for n in SIZES]
    found += [Cell("ratio", name, 0.0, 0, n) for name in RATIOS for n in SIZES]
    scenarios = [(s, x) for s in ("gaussian", "mixture") for x in SEPARATIONS if s == "gaussian" or x > 0]
    over_features = [
        Cell(metric, *scenario, dimension, n)
        for metric in ("fid", "kid", "cmmd", "fid_infinity", "pr")
        for scenario in scenarios
        for dimension in DIMENSIONS
        for n in (SIZES[:1] if metric == "cmmd" else SIZES)  # two sets of draws, each of three whole kernels
    ]
    return found + sorted(over_features, key=_cost)


def _cost(cell: Cell) -> float:
    """CPU milliseconds of a trial, about."""
    thousands, width = cell.n / 1000, cell.dimension / 16
    by_metric = {
        "fid": 1.0 * thousands * width + 0.15 * width**2,
        "fid_infinity": 2.0 * thousands * width + 0.5 * width**2,
        "kid": (4 + 0.7 * width) * thousands**2,
        "cmmd": (60 + 0.7 * width) * thousands**2,
        "pr": (20 + 3 * width) * thousands**2,
    }
    return by_metric[cell.metric]


def run(output: Path, trials: int, only: tuple[str, ...], minutes: float) -> None:
    """Simulate what is missing; the CSV and the page beside it are whole after every cell."""
    began = time.monotonic()
    for cell in cells():
        if cell.metric not in only or any(belongs(row, cell) and row.trials >= trials for row in read(output)):
            continue
        if time.monotonic() - began > 60 * minutes:
            break
        found = SIMULATIONS[cell.metric](cell, trials)
        rows = [row for row in read(output) if not belongs(row, cell)] + found  # read again: others may be at other cells
        write_whole(output, to_csv(rows))
        write_whole(output.with_suffix(".md"), to_markdown(rows, cells()))
        for row in found:
            where = f"{row.scenario} {row.separation:g}, D {row.dimension}, N {row.n}"
            print(f"{row.metric} by {row.method}, {where}: {row.coverage:.3f}, error ratio {row.error_ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--output", type=Path, default=Path("leaderboards/coverage.csv"))
    parser.add_argument("--only", default=",".join(SIMULATIONS))
    parser.add_argument("--minutes", type=float, default=math.inf)
    arguments = parser.parse_args()
    run(arguments.output, arguments.trials, tuple(arguments.only.split(",")), arguments.minutes)


if __name__ == "__main__":
    main()
