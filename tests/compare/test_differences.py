"""Differences between results: closed cases, what is refused, and how the verdicts turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.compare.differences import (
    BY_CAPTION,
    NO_SEEDS,
    NO_SPREAD,
    NONE,
    ONE_RUN,
    OVER_SEEDS,
    Comparison,
    Contestant,
    compare_results,
    differing,
)
from sbv2bench.errors import InputError
from sbv2bench.results.prompt_values import Values
from sbv2bench.results.records import EvalResult, MetricValue


def contestant(name: str, values: Values | None = None, *, seeds: Sequence[int] = (0,), **metrics: MetricValue) -> Contestant:
    sample = sample_result(model=f"mini/{name}")
    suite = sample.suite.model_copy(update={"seeds": tuple(seeds)})
    return Contestant(name, with_protocols(sample.model_copy(update={"metrics": metrics, "suite": suite})), values or {})


def fid(value: float, **more: Any) -> MetricValue:
    return metric(value, "FID-mini", n_reference=5000, **more)


def only(comparison: Comparison) -> Any:
    (row,) = comparison.differences
    return row


def test_metrics_of_sets_are_independent_numbers() -> None:
    found = only(compare_results([contestant("a", fid=fid(3.0, std_err=0.3)), contestant("b", fid=fid(2.0, std_err=0.4))]))
    assert found.method == ONE_RUN and found.difference == -1.0 and found.verdict == "better"
    np.testing.assert_allclose(found.ci95, (-1 - 1.959964 * 0.5, -1 + 1.959964 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(found.p_value, 0.0455002639, rtol=1e-6)


def test_an_error_of_few_blocks_has_few_degrees_of_freedom() -> None:
    values = [
        metric(value, "recall-mini", "higher", std_err=0.01, uncertainty="10 disjoint blocks of both sets")
        for value in (0.5, 0.6)
    ]
    found = only(compare_results([contestant("a", recall=values[0]), contestant("b", recall=values[1])]))
    reach = found.ci95[1] - found.difference
    np.testing.assert_allclose(reach, 2.1009220 * 0.01 * np.sqrt(2), rtol=1e-6)  # t, 18 degrees


@pytest.mark.parametrize(("value", "verdict"), [(2.0, "better"), (4.0, "worse"), (3.1, "within noise")])
def test_the_verdict_turns_with_the_difference(value: float, verdict: str) -> None:
    pair = contestant("a", fid=fid(3.0, std_err=0.1)), contestant("b", fid=fid(value, std_err=0.1))
    assert only(compare_results(pair)).verdict == verdict


def test_the_verdict_turns_with_the_metrics_direction() -> None:
    higher = [metric(value, "CLIP-mini", "higher", std_err=0.01) for value in (0.5, 0.6)]
    pair = contestant("a", clip_score=higher[0]), contestant("b", clip_score=higher[1])
    assert only(compare_results(pair)).verdict == "better"


def test_single_captions_are_compared_in_pairs() -> None:
    """What the captions have in common drops out: a shift of 0.01 shows under a spread of 1."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(1, 5000)), rng.normal(scale=0.1, size=(2, 5000))
    values = [common + own[:1], common + own[1:] + 0.01]
    pair = [
        contestant(name, {"clip_score": array}, clip_score=metric(float(array.mean()), "CLIP-mini", "higher", std_err=1 / 70))
        for name, array in zip("ab", values, strict=True)
    ]
    found = only(compare_results(pair))
    assert found.method == BY_CAPTION and found.verdict == "better"
    difference = values[1][0] - values[0][0]
    np.testing.assert_allclose(found.difference, difference.mean())
    reach = found.ci95[1] - found.difference
    np.testing.assert_allclose(reach, 1.9604 * difference.std(ddof=1) / np.sqrt(5000), rtol=1e-3)
    apart = only(compare_results([Contestant(c.name, c.result, {}) for c in pair]))
    assert apart.method == ONE_RUN and apart.verdict == "within noise"


def test_other_seeds_are_not_paired_and_it_is_said() -> None:
    value = metric(0.5, "CLIP-mini", "higher", std_err=0.01)
    arrays = {"clip_score": np.full((1, 5000), 0.5)}
    found = compare_results([contestant("a", arrays, clip_score=value), contestant("b", arrays, seeds=(1,), clip_score=value)])
    assert only(found).method == ONE_RUN
    assert any("generation seeds differ (a: 0; b: 1)" in note for note in found.notes)


def test_repeats_are_compared_over_seeds() -> None:
    pair = [
        contestant(name, seeds=(0, 1, 2), fid=fid(float(np.mean(repeats)), std_err=0.1, repeats=repeats))
        for name, repeats in (("a", (3.0, 3.1, 2.9)), ("b", (2.0, 2.1, 1.9)))
    ]
    found = only(compare_results(pair))
    assert found.method == OVER_SEEDS and found.verdict == "better"
    error = 0.1 * np.sqrt(2 / 3)
    np.testing.assert_allclose(found.ci95, (-1 - 2.7764451 * error, -1 + 2.7764451 * error), rtol=1e-6)  # t, 4 degrees


def test_a_model_against_itself_is_within_noise() -> None:
    one = contestant("a", fid=fid(3.0), clip_score=metric(0.5, "CLIP-mini", "higher"))
    found = compare_results([one, one])
    assert {row.verdict for row in found.differences} == {"within noise"}
    assert {row.difference for row in found.differences} == {0.0}


def test_without_an_error_there_is_no_verdict() -> None:
    found = only(compare_results([contestant("a", fid=fid(3.0)), contestant("b", fid=fid(2.0))]))
    assert (found.verdict, found.ci95, found.method) == ("no interval", None, NONE)


def test_repeats_that_are_all_the_same_are_one_run() -> None:
    """As files have them that counted a folder of images three times: its one run's error is what there is, if any."""
    alike = {"repeats": (3.0, 3.0, 3.0), "std_err": 0.0, "ci95": (3.0, 3.0)}
    a, b = (
        contestant(name, seeds=(0, 1, 2), fid=fid(value, **alike | {"repeats": (value,) * 3}))
        for name, value in (("a", 3.0), ("b", 2.0))
    )
    found = only(compare_results([a, b]))
    assert (found.verdict, found.p_value, found.ci95, found.method) == ("no interval", None, None, NONE)
    details = {"one_run_std_err": 0.3, "one_run_method": "influence function over images of both sets"}
    a, b = (
        contestant(name, seeds=(0, 1, 2), fid=fid(value, repeats=(value,) * 3, std_err=0.0, details=details))
        for name, value in (("a", 3.0), ("b", 2.0))
    )
    found = only(compare_results([a, b]))
    assert found.method == ONE_RUN and found.p_value == pytest.approx(0.0184, abs=1e-4)
    scattered = contestant("c", seeds=(0, 1, 2), fid=fid(2.0, repeats=(1.9, 2.0, 2.1), std_err=0.06))
    assert only(compare_results([a, scattered])).method == ONE_RUN


def test_images_that_exist_are_not_advised_to_be_repeated() -> None:
    a, b = contestant("a", fid=fid(3.0)), contestant("b", fid=fid(2.0))
    model = b.result.model.model_copy(update={"sampler": "image_folder", "images": "files"})
    found = only(compare_results([a, Contestant("b", b.result.model_copy(update={"model": model}), {})]))
    assert (found.verdict, found.method) == ("no interval", NO_SEEDS)
    assert "--repeats" not in found.method


def test_a_shift_that_all_captions_share_has_no_interval() -> None:
    values = [{"clip_score": np.full((1, 5000), level, np.float32)} for level in (0.5, 0.6)]
    pair = [
        contestant(name, own, clip_score=metric(0.5, "CLIP-mini", "higher", std_err=0.0))
        for name, own in zip("ab", values, strict=True)
    ]
    found = only(compare_results(pair))
    assert (found.verdict, found.p_value, found.method) == ("no interval", None, NO_SPREAD)


def test_many_comparisons_are_corrected() -> None:
    """p = 0.0455 is below 0.05 by itself; among two it is not, by Holm."""
    a = contestant("a", fid=fid(3.0, std_err=0.3))
    others = [contestant(name, fid=fid(2.0, std_err=0.4)) for name in "bc"]
    assert [row.verdict for row in compare_results([a, *others]).differences] == ["within noise"] * 2
    found = compare_results([a, *others], all_pairs=True)
    assert [(row.model, row.against) for row in found.differences] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert "Holm over 3 comparisons" in found.document()["correction"]


def changed(result: EvalResult, **suite: Any) -> EvalResult:
    return result.model_copy(update={"suite": result.suite.model_copy(update=suite)})


def test_other_protocols_are_refused_with_the_fields_that_differ() -> None:
    a, b = contestant("a", fid=fid(3.0)), contestant("b", fid=fid(2.0))
    with pytest.raises(InputError, match=r"different protocols: prompts_sha256 \('ab' / 'other'\)"):
        compare_results([a, Contestant("b", with_protocols(b.result, prompts_sha256="other"), {})])


def test_a_metric_of_another_protocol_is_left_out_and_it_is_said() -> None:
    clip = metric(0.5, "CLIP-mini", "higher")
    a, b = contestant("a", fid=fid(3.0), clip_score=clip), contestant("b", fid=fid(2.0), clip_score=clip)
    other = with_protocols(b.result, preparation="other")
    mixed = b.result.model_copy(
        update={
            "metrics": {**b.result.metrics, "fid": other.metrics["fid"]},
            "provenance": {**b.result.provenance, "protocols": b.result.provenance["protocols"] | other.provenance["protocols"]},
        }
    )
    found = compare_results([a, Contestant("b", mixed, {})])
    assert [row.metric for row in found.differences] == ["clip_score"]
    assert "fid is not compared with b's: preparation (None / 'other')" in found.notes


def test_other_numbers_of_images_are_refused() -> None:
    a, b = contestant("a", fid=fid(3.0)), contestant("b", fid=fid(2.0))
    with pytest.raises(InputError, match="a has 5000 images, b 200"):
        compare_results([a, Contestant("b", changed(b.result, num_generated=200), {})])


def test_too_little_is_refused() -> None:
    a = contestant("a", fid=fid(3.0))
    with pytest.raises(InputError, match="at least two"):
        compare_results([a])
    with pytest.raises(InputError, match="no metric is in every result"):
        compare_results([a, contestant("b", clip_score=metric(0.5, "CLIP-mini", "higher"))])


def test_differing_fields_have_dotted_names() -> None:
    first, second = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert differing(first, second) == [("b.c", 2, 4), ("e", None, 5)]
