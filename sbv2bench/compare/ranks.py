"""Ranks with ties: which of several results are surely better than which, in one metric, by the tests of `differences`."""

from __future__ import annotations

from collections.abc import Sequence

from sbv2bench.compare.differences import LEVEL, OVER_SEEDS, Contestant, MetricDifference, compare_results, one_run
from sbv2bench.metrics.comparison import holm, welch

BETTER, WORSE, NOISE = "+", "-", "="


def verdicts(contestants: Sequence[Contestant], key: str) -> list[str]:
    """A line for each contestant, a letter for each other one: `+` it is better in the metric, `-` worse, `=` within noise.

    A space stands where one of the two has no such value, and at the contestant itself. Every pair is tested as in `compare`,
    by caption or by Welch, at 5 % after Holm's correction for all tests of a contestant, and two are told apart where those of
    both say so. Welch's test on three seeds is blind where only one of the two scatters; there the errors of single runs are a
    second test, and the smaller p-value counts twice. Where no test is possible the values decide.
    """
    having = [place for place, one in enumerate(contestants) if key in one.result.metrics]
    letters = [[" "] * len(contestants) for _ in contestants]
    if len(having) < 2:
        return ["".join(line) for line in letters]
    places = {str(place): place for place in having}
    named = [
        Contestant(name, contestants[place].result.model_copy(update={"metrics": {key: contestants[place].result.metrics[key]}}),
                   {key: contestants[place].values[key]} if key in contestants[place].values else {})
        for name, place in places.items()
    ]  # fmt: skip
    lower = contestants[having[0]].result.metrics[key].direction == "lower"
    tested: dict[tuple[int, int], tuple[float, float]] = {}  # difference in the contestant's favour, p-value
    for row in compare_results(named, all_pairs=True).differences:
        gain = -row.difference if lower else row.difference
        one, other = places[row.model], places[row.against]
        p_value = _p_value(row, contestants[one], contestants[other], gain == 0)
        tested[one, other], tested[other, one] = (gain, p_value), (-gain, p_value)
    sure: set[tuple[int, int]] = set()
    for one in having:
        others = [other for other in having if other != one]
        corrected = holm([tested[one, other][1] for other in others])
        sure |= {(one, other) for other, p_value in zip(others, corrected, strict=True) if p_value < 1 - LEVEL}
    for (one, other), (gain, _) in tested.items():
        apart = (one, other) in sure and (other, one) in sure
        letters[one][other] = NOISE if not apart else BETTER if gain > 0 else WORSE
    return ["".join(line) for line in letters]


def _p_value(row: MetricDifference, one: Contestant, other: Contestant, equal: bool) -> float:
    if row.p_value is None:
        return float(equal)
    if row.method != OVER_SEEDS:
        return row.p_value
    values = [contestant.result.metrics[row.metric] for contestant in (one, other)]
    errors = [one_run(value) if "one_run_std_err" in (value.details or {}) else None for value in values]
    single = None if errors[0] is None or errors[1] is None else welch(errors[0], errors[1], LEVEL)
    return row.p_value if single is None else min(1.0, 2 * min(row.p_value, single.p_value))
