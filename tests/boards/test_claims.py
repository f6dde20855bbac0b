"""The paper's claims on a board: intervals as SciPy has them, verdicts by the side of 0, nothing left out in silence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.boards import claims
from sbv2bench.boards import text as leaderboard
from sbv2bench.boards.claims import Claim, Row, Side
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.published import published_numbers
from sbv2bench.results.records import EvalResult

LOWER = Claim(says="a is better", metric="fid", better=Side(model="mini/a"), worse=Side(model="mini/b"))
HIGHER = Claim(says="a is better", metric="clip_score", better=Side(model="mini/a"), worse=Side(model="mini/b"))


def result(model: str, values: Sequence[float], nfe: int = 1, guidance: float = 1.0) -> EvalResult:
    """A row whose FID and CLIP score are the mean of repeats."""
    made = sample_result(model=model, guidance=guidance)
    mean = sum(values) / len(values)
    metrics = {
        "fid": metric(mean, "FID-mini", repeats=tuple(values)),
        "clip_score": metric(mean, "CLIP-mini", "higher", repeats=tuple(values)),
    }
    return with_protocols(
        made.model_copy(update={"metrics": metrics, "model": made.model.model_copy(update={"nfe": nfe, "steps": nfe})})
    )


def test_the_interval_is_welchs() -> None:
    from scipy.stats import ttest_ind

    a, b = [1.0, 1.3, 0.9], [2.0, 2.9, 1.7]
    found = claims.measure(LOWER, [result("mini/a", a), result("mini/b", b)])
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval()
    assert found.difference is not None
    assert found.difference.interval == pytest.approx((low, high))
    assert found.difference.value == pytest.approx(sum(a) / 3 - sum(b) / 3)


@pytest.mark.parametrize(
    ("claim", "a", "b", "verdict"),
    [
        (LOWER, [1.0, 1.01, 1.02], [2.0, 2.01, 2.02], "agrees"),
        (LOWER, [2.0, 2.01, 2.02], [1.0, 1.01, 1.02], "disagrees"),
        (HIGHER, [1.0, 1.01, 1.02], [2.0, 2.01, 2.02], "disagrees"),
        (HIGHER, [2.0, 2.01, 2.02], [1.0, 1.01, 1.02], "agrees"),
        (LOWER, [1.0, 2.0, 3.0], [1.5, 2.5, 3.5], "not separated"),
        (LOWER, [1.0], [2.0, 2.1, 2.2], "not run"),
        (LOWER, [1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "not separated"),
        (LOWER, [1.0, 1.0, 1.0], [2.0, 2.1, 2.2], "not separated"),
    ],
)
def test_verdicts(claim: Claim, a: list[float], b: list[float], verdict: str) -> None:
    assert claims.measure(claim, [result("mini/a", a), result("mini/b", b)]).verdict == verdict


def test_what_is_missing_is_not_run() -> None:
    assert claims.measure(LOWER, [result("mini/b", [1.0, 2.0])]).verdict == "not run"


def test_several_trainings_replace_generation_seeds() -> None:
    """A model that was trained three times scatters as its trainings do, not as its noise does; other models do not join it."""
    rows = [result("mini/a", [1.0, 1.1]), result("mini/a-seed1", [2.0, 2.1]), result("mini/a-seed2", [3.0, 3.1])]
    rows += [result("mini/a-reg", [100.0, 101.0]), result("mini/aa", [100.0, 101.0])]
    found = claims.estimate(Side(model="mini/a"), "fid", rows)
    assert found is not None
    assert (found.over, found.mean.freedom) == ("3 training seeds", 2)
    assert found.mean.value == pytest.approx(2.05)
    assert found.mean.std_err == pytest.approx(1 / 3**0.5)
    one = claims.estimate(Side(model="mini/a"), "fid", rows[:1])
    assert one is not None and one.over == "2 generation seeds"
    assert claims.estimate(Side(model="mini/a"), "fid", rows[1:]) is None  # only repetitions: the shipped one is missing


def test_verdicts_hold_for_all_claims_of_a_page_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that its own interval separates is one of 20 here, and Holm's correction does not."""
    from scipy.stats import ttest_ind

    a, b, far = [1.0, 1.1, 1.2], [1.3, 1.4, 1.5], [9.0, 9.1, 9.2]
    weak = [Claim(says=f"{n}", metric="fid", better=LOWER.better, worse=LOWER.worse) for n in range(18)]
    absent = Claim(says="not run", metric="fid", better=LOWER.better, worse=Side(model="mini/none"))
    strong = Claim(says="far", metric="fid", better=LOWER.better, worse=Side(model="mini/far"))
    declared = claims.Claims(suite="mini-5k", ladder=(), claims=(*weak, absent, strong))
    monkeypatch.setattr(claims, "declared", lambda: declared)
    rows = [result("mini/a", a), result("mini/b", b), result("mini/far", far)]
    found = claims.measured(rows)
    alone = ttest_ind(a, b, equal_var=False)
    assert found[0].difference is not None and claims.measure(weak[0], rows).verdict == "agrees"
    assert (found[0].difference.p_value, found[0].difference.freedom) == pytest.approx((alone.pvalue, alone.df))
    assert found[0].corrected_p == pytest.approx(min(1.0, 18 * alone.pvalue))  # the far one is first of the 19 that were run
    assert [one.verdict for one in found] == ["not separated"] * 18 + ["not run", "agrees"]
    cells = {column.heading: column.read(found[0]) for column in claims.columns(rows)}
    assert f"df {alone.df:.1f}" in cells["difference"] and cells["over"] == "one training, 3 generation seeds"
    trained = [*rows, result("mini/a-seed1", b)]
    assert claims.measured(trained)[0].better.words == "2 training seeds"  # type: ignore[union-attr]


def test_a_side_is_one_way_of_sampling() -> None:
    rows = [result("mini/t", [1.0, 1.1], nfe=25, guidance=2.0), result("mini/t", [5.0, 5.1], nfe=1, guidance=2.0)]
    rows += [result("mini/t", [9.0, 9.1], nfe=25, guidance=3.0)]
    found = claims.estimate(Side(model="mini/t", nfe=25, guidance_scale=2.0), "fid", rows)
    assert found is not None and found.mean.value == pytest.approx(1.05)


def test_the_claims_are_the_papers() -> None:
    """Every declared order is the one that the paper prints, in numbers that it prints; so is every row of the ladder."""
    printed = published_numbers()
    lower = {"fid": True, "recall": False, "clip_score": False, "precision": False}
    for claim in claims.declared().claims:
        if claim.published is None:
            continue
        better, worse = (
            printed[claim.published.table, method, claim.metric] for method in (claim.published.better, claim.published.worse)
        )
        assert better < worse if lower[claim.metric] else better > worse, claim.says
    for row in claims.declared().ladder:
        assert (row.table, row.method, "fid") in printed, row.method


def test_the_page_shows_what_was_and_what_was_not_run(tmp_path: Path) -> None:
    """The board has the page as soon as it has both sides of one claim, and `--check` guards it."""
    first = claims.declared().claims[0]
    store.write(result(first.better.model, [1.0, 1.01, 1.02]), tmp_path / "results")
    leaderboard.build(tmp_path)
    assert not (tmp_path / "mini-5k-claims.md").exists()
    store.write(result(first.worse.model, [2.0, 2.01, 2.02], guidance=2.0), tmp_path / "results")
    built = leaderboard.build(tmp_path)
    assert {"mini-5k-claims.md", "mini-5k-claims.csv"} <= {path.name for path in built}
    page = (tmp_path / "mini-5k-claims.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| {first.says} |"))
    assert "-1.000 [" in row and row.endswith("| **agrees** |")
    assert page.count("**not run**") >= len(claims.declared().claims) // 2
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 2  # two tables, every row as wide as its head
    (tmp_path / "mini-5k-claims.csv").write_text("edited")
    with pytest.raises(leaderboard.IntegrityError, match=r"mini-5k-claims\.csv"):
        leaderboard.check(tmp_path)


def test_a_row_of_the_ladder_keeps_the_papers_numbers_beside_its_own() -> None:
    row = Row(model="mini/a", table="5", method="SBv2")
    cells = [column.read(row) for column in claims.ladder_columns([result("mini/a", [1.0, 1.2, 1.1])])]
    assert cells[0] == "mini/a" and cells[3].startswith("1.100 ± 0.058")
    assert cells[-5:] == ["Table 5, SBv2", "8.77", "0.55", "0.53", "0.32"]


def test_every_model_of_a_claim_is_in_the_catalog() -> None:
    """So every row of the ladder runs from an installed package."""
    models, declared = Registry.load().models, claims.declared()
    named = {row.model for row in declared.ladder}
    named |= {side.model for claim in declared.claims for side in (claim.better, claim.worse)}
    assert named <= models.keys()
