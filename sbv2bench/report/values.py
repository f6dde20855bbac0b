"""A metric's value as people read it: rounded to its uncertainty, and marked where it is not held out."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import ModelSpec

ARROWS = {"lower": "↓", "higher": "↑"}
LEADERS_MEAN = "the best of a column and what cannot be told from it (Holm, 5 %)"
NOT_HELD_OUT = "†"
NOT_HELD_OUT_MEANS = "HPS was a training loss of this model: its score is not held out"


def value_cell(result: EvalResult, key: str) -> str:
    """A metric's value, rounded, with its error; with NOT_HELD_OUT at the value where the model was trained on the like of it."""
    return with_mark(rounded(result.metrics[key]), mark(result.model, key))


def with_mark(text: str, sign: str) -> str:
    """A value and its error, with a sign at the value."""
    value, space, spread = text.partition(" ")
    return f"{value}{sign}{space}{spread}"


def mark(model: ModelSpec, key: str) -> str:
    """NOT_HELD_OUT at a human preference score of a model of which it is said that it was trained with one; else nothing."""
    seen = model.trained_with
    return NOT_HELD_OUT if key.startswith("hps") and seen is not None and seen.has_hps() else ""


def marked(results: Iterable[EvalResult]) -> bool:
    """Whether any value of them has a mark, so that a table says what it means."""
    return any(mark(result.model, key) for result in results for key in result.metrics)


def rounded(metric: MetricValue) -> str:
    """A value to the second digit of its standard error, with it; else four significant digits, with the interval if any."""
    if metric.std_err:
        return with_error(metric.value, metric.std_err)
    digits = 4 if metric.value == 0 else min(6, max(0, 3 - math.floor(math.log10(abs(metric.value)))))
    interval = "" if metric.ci95 is None else f" [{metric.ci95[0]:.{digits}f}, {metric.ci95[1]:.{digits}f}]"
    return f"{metric.value:.{digits}f}{interval}"


def with_error(value: float, error: float) -> str:
    """A value and its error, to the error's second digit; three decimals where the error is 0."""
    digits = digits_of(error)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def quantity(value: float, unit: str) -> str:
    """A number of bytes or operations to three digits, in the multiple of the unit that fits: "2.88 TFLOP", "9.01 MB"."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.3g}'):g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def p_cell(p_value: float | None) -> str:
    """A p-value to four decimals."""
    return "" if p_value is None else "< 0.0001" if p_value < 1e-4 else f"{p_value:.4f}"


def digits_of(error: float) -> int:
    """Decimals that show an error's two leading digits; three where it is 0."""
    return 3 if error <= 0 else min(6, max(0, 1 - math.floor(math.log10(error))))
