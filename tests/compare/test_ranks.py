"""Ranks with ties: what is told apart, what is not, and what has no place."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.compare.differences import Contestant
from sbv2bench.compare.ranks import verdicts
from sbv2bench.report.page import rank
from sbv2bench.results.prompt_values import Values
from sbv2bench.results.records import EvalResult, MetricValue


@cache
def _sample() -> EvalResult:
    return sample_result()


def contestant(name: str, values: Values | None = None, seeds: tuple[int, ...] = (0,), **metrics: MetricValue) -> Contestant:
    sample = _sample()
    sample = sample.model_copy(update={"model": sample.model.model_copy(update={"id": f"mini/{name}"})})
    suite = sample.suite.model_copy(update={"seeds": seeds})
    return Contestant(name, with_protocols(sample.model_copy(update={"metrics": metrics, "suite": suite})), values or {})


def fid(value: float, **more: Any) -> MetricValue:
    return metric(value, "FID-mini", n_reference=5000, **more)


def ranks(contestants: list[Contestant], key: str = "fid") -> list[tuple[int, int]]:
    return [rank(line, len(contestants) - 1) for line in verdicts(contestants, key)]


def test_rows_that_cannot_be_told_apart_share_a_range() -> None:
    four = [contestant(name, fid=fid(value, std_err=0.05)) for name, value in (("a", 1.0), ("b", 1.05), ("c", 2.0), ("d", 1.1))]
    assert ranks(four) == [(1, 3), (1, 3), (4, 4), (1, 3)]
    assert verdicts(four, "fid") == [" =+=", "= +=", "-- -", "==+ "]


def test_the_correction_is_for_all_tests_of_a_row() -> None:
    """z is 2.12 for the first two: p 0.034, enough for a pair alone and too little among ten others."""
    pair = [contestant("a", fid=fid(1.0, std_err=0.1)), contestant("b", fid=fid(1.3, std_err=0.1))]
    assert ranks(pair) == [(1, 1), (2, 2)]
    many = [contestant(f"m{place}", fid=fid(50.0 + 10 * place, std_err=0.1)) for place in range(9)]
    assert ranks([*pair, *many])[:2] == [(1, 1), (2, 2)]  # the others are sure, so the last test is not corrected
    near = [contestant(f"n{place}", fid=fid(1.15, std_err=0.1)) for place in range(9)]
    assert ranks([*pair, *near])[:2] == [(1, 11), (1, 11)]


def test_captions_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((1, 500))
    value = {name: common + shift + 0.01 * rng.standard_normal((1, 500)) for name, shift in (("a", 0.0), ("b", 0.01))}
    two = [
        contestant(name, {"hps": values}, hps=metric(float(values.mean()), "HPS-mini", "higher", std_err=0.04))
        for name, values in value.items()
    ]
    assert ranks(two, "hps") == [(2, 2), (1, 1)]
    assert ranks([Contestant(one.name, one.result, {}) for one in two], "hps") == [(1, 2), (1, 2)]


def test_a_row_whose_seeds_agree_by_chance_is_told_from_one_whose_do_not() -> None:
    """Welch's test on three seeds has two degrees of freedom where one side does not scatter; single runs' errors see more."""
    details = {"one_run_std_err": 0.1, "one_run_method": "influence function over images of both sets"}
    for known, expected in ((details, (11, 11)), (None, (1, 11))):
        calm = fid(1.0, repeats=(0.999, 1.0, 1.001), std_err=0.0006, details=known)
        loud = fid(2.0, repeats=(1.8, 2.0, 2.2), std_err=0.115, details=known)
        rows = [contestant(f"m{place}", seeds=(0, 1, 2), fid=calm) for place in range(10)]
        assert ranks([*rows, contestant("b", seeds=(0, 1, 2), fid=loud)])[10] == expected


def test_without_a_test_the_values_decide_and_without_a_value_there_is_no_place() -> None:
    three = [contestant("a", fid=fid(1.0)), contestant("b", fid=fid(2.0)), contestant("c", hps=metric(1.0, "HPS-mini", "higher"))]
    assert verdicts(three, "fid") == [" + ", "-  ", "   "]
    assert verdicts(three, "kid") == ["   "] * 3


@pytest.mark.parametrize(("line", "expected"), [(" ++", (1, 1)), ("- =", (2, 3)), ("== ", (1, 3))])
def test_a_line_is_a_range(line: str, expected: tuple[int, int]) -> None:
    assert rank(line, 2) == expected
