"""A student against another model's measured settings: which count, which is best, and when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.compare.compare import compare_frontier
from sbv2bench.compare.differences import Contestant
from sbv2bench.compare.frontier import Frontier, frontier
from sbv2bench.compare.tables import FRONTIER_FORMATS
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult

# guidance: (FID, recall); FID is best where recall is too low, and the curve of FID over recall turns back
TEACHER = {1.0: (1.4, 0.70), 1.5: (0.6, 0.78), 2.0: (0.7, 0.88), 3.0: (0.9, 0.91), 4.5: (1.3, 0.88)}


def result(model: str, guidance: float, fid: float, recall: float, *, std_err: float | None = 0.01, **more: Any) -> EvalResult:
    made = sample_result(fid, model=model, guidance=guidance, **more)
    metrics = {
        "fid": metric(fid, "FID-mini", std_err=std_err, ci95=(fid - 0.02, fid + 0.02)),
        "recall": metric(recall, "recall-mini", "higher", std_err=std_err, ci95=(recall - 0.02, recall + 0.02)),
        "clip_score": made.metrics["clip_score"],
    }
    return with_protocols(made.model_copy(update={"metrics": metrics}))


def found(fid: float, recall: float, held: str = "recall", *, std_err: float | None = 0.01) -> Frontier:
    student = Contestant("student", result("mini/sbv2-merged", 1.0, fid, recall, std_err=std_err), {})
    others = [
        Contestant(f"guidance {scale:g}", result("mini/sd21", scale, *point, std_err=std_err), {})
        for scale, point in TEACHER.items()
    ]
    return frontier(student, others, held)


def test_the_best_of_those_that_have_as_much_recall() -> None:
    one = found(0.5, 0.87)
    assert one.best is not None and one.best.contestant.name == "guidance 2"
    assert one.difference is not None and one.difference.difference == pytest.approx(-0.2)
    assert one.difference.verdict == "better" and "with a recall-mini of at least 0.87" in one.verdict()
    assert [setting.reaches for setting in one.settings] == [False, True, True, True, False]  # by FID: 1.5, 2, 3, 4.5, 1


def test_nothing_between_two_settings_is_assumed() -> None:
    """Between guidance 3 (0.91) and 2 (0.88) a line would pass 0.89 at 0.77; what was measured there has 0.9."""
    one = found(0.8, 0.89)
    assert one.best is not None and one.best.contestant.name == "guidance 3"
    none = found(0.8, 0.95)
    assert none.best is None and none.difference is None and none.verdict().startswith("none reaches it: no measured setting")


def test_who_dominates_is_a_probability() -> None:
    shares = {setting.contestant.name: setting.dominates for setting in found(0.9, 0.91).settings}
    equal = shares["guidance 3"]
    assert equal is not None and 0.05 < equal < 0.2  # an eighth: three coins, of FID, recall and CLIP score
    assert shares["guidance 1"] == 0 and shares["guidance 1.5"] == 0
    sure = {setting.contestant.name: setting.dominates for setting in found(2.0, 0.5).settings}
    assert sure["guidance 2"] == pytest.approx(0.5, abs=0.02)  # surely in FID and recall, of equal CLIP score
    assert {setting.dominates for setting in found(2.0, 0.5, std_err=None).settings} == {None}


def test_every_format_has_the_settings() -> None:
    one = found(0.5, 0.87)
    for name, write in FRONTIER_FORMATS.items():
        text = write(one)
        assert all(f"guidance {scale:g}" in text for scale in TEACHER), name
    assert "| guidance 2 | 25 | 2.0 |" in FRONTIER_FORMATS["md"](one)


def test_what_cannot_be_held_is_refused() -> None:
    with pytest.raises(InputError, match="--at-least: found 'fid', expected one of recall, clip_score"):
        found(0.5, 0.8, "fid")


def test_settings_are_those_that_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same protocol and number of images; of a setting measured twice the one with more seeds."""
    monkeypatch.chdir(tmp_path)
    registry = Registry.load()
    for scale, point in TEACHER.items():
        store.write(result("mini/sd21", scale, *point), tmp_path / "results")
    other = result("mini/sd21", 5.0, 0.1, 0.99)
    fewer = other.model_copy(update={"suite": other.suite.model_copy(update={"num_generated": 100})})
    store.write(with_protocols(fewer), tmp_path / "results")
    store.write(result("mini/sbv2-merged", 1.0, 0.5, 0.87), tmp_path / "results")
    one = compare_frontier("sbv2-merged", "sd21", "recall", "mini-5k", results=tmp_path / "results", registry=registry)
    assert len(one.settings) == len(TEACHER) and one.best is not None
    assert one.best.contestant.result.model.guidance_scale == 2.0
    with pytest.raises(PrerequisiteError, match="no result of mini/swiftbrush on suite mini-5k that is comparable"):
        compare_frontier("sbv2-merged", "swiftbrush", "recall", "mini-5k", results=tmp_path / "results", registry=registry)


def test_a_setting_is_chosen_on_other_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the choosing captions guidance 3 is the best that has as much recall; what is reported is measured here."""
    monkeypatch.chdir(tmp_path)
    registry, folder = Registry.load(), tmp_path / "results"
    for scale, point in TEACHER.items():
        store.write(result("mini/sd21", scale, *point), folder)
        store.write(of_choosing(result("mini/sd21", scale, point[0], point[1] - 0.02)), folder)
    store.write(result("mini/sbv2-merged", 1.0, 0.5, 0.87), folder)
    with pytest.raises(PrerequisiteError, match="mini-choosing"):
        compare_frontier("sbv2-merged", "sd21", "recall", "mini-5k", results=folder, registry=registry, chosen_on="mini-choosing")
    student = store.write(of_choosing(result("mini/sbv2-merged", 1.0, 0.5, 0.87)), folder)

    def chosen(suite: str = "mini-choosing") -> Frontier:
        return compare_frontier("sbv2-merged", "sd21", "recall", "mini-5k", results=folder, registry=registry, chosen_on=suite)

    one = chosen()
    assert one.best is not None and one.best.contestant.result.model.guidance_scale == 3.0
    assert one.difference is not None and one.difference.difference == pytest.approx(0.5 - 0.9)
    assert "chosen on mini-choosing@v1" in one.verdict() and one.document()["chosen_on"] == "mini-choosing@v1"
    assert not any("very captions" in note for note in one.notes)
    student.unlink()
    store.write(of_choosing(result("mini/sbv2-merged", 1.0, 0.5, 0.80)), folder)
    assert chosen().best.contestant.result.model.guidance_scale == 2.0  # type: ignore[union-attr]
    for file in folder.rglob("mini/sd21/mini-5k@v1/*.json"):
        if store.load(file).model.guidance_scale == 2.0:
            file.unlink()
    with pytest.raises(PrerequisiteError, match="has no result on suite mini-5k") as caught:
        chosen()
    assert "--guidance-scale 2" in str(caught.value.fix)
    with pytest.raises(InputError, match="its captions are those of suite mini-5k"):
        chosen("mini-5k")


def test_none_may_reach_it_where_it_is_chosen_and_the_chosen_one_may_not_here() -> None:
    student = Contestant("student", result("mini/sbv2-merged", 1.0, 0.5, 0.87), {})
    others = [Contestant(f"{scale:g}", result("mini/sd21", scale, *point), {}) for scale, point in TEACHER.items()]
    none = frontier(student, others, "recall", None, "mini-choosing@v1")
    assert none.best is None and "no measured setting of mini/sd21 on mini-choosing@v1" in none.verdict()
    short = frontier(student, others, "recall", others[1], "mini-choosing@v1")
    assert short.best is not None and "recall-mini of 0.78, here less than the student's 0.87" in short.verdict()


def of_choosing(made: EvalResult) -> EvalResult:
    suite = made.suite.model_copy(update={"id": "mini-choosing", "prompts_sha256": "ef"})
    return with_protocols(made.model_copy(update={"suite": suite}))
