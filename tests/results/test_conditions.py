"""Two dtypes are two rows; versions of libraries are shown where they differ, and are no identity."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.boards import claims
from sbv2bench.boards import page as board_page
from sbv2bench.boards import text as leaderboard
from sbv2bench.boards.boards import Board, boards, grouped, joined
from sbv2bench.boards.claims import Claim, Side
from sbv2bench.boards.tables import to_csv, to_markdown
from sbv2bench.compare.compare import compare
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.conditions import differing_versions, dtype_of, usual_dtype
from sbv2bench.results.records import Conditions, EvalResult
from sbv2bench.specs import WeightsFile

VERSIONS = {"torch": "2.14.1", "diffusers": "0.42.1", "numpy": "2.4.6"}


def made(fid: float, dtype: str | None = "float32", model: str = "mini/a", **libraries: str) -> EvalResult:
    result = sample_result(fid, model=model)
    conditions = Conditions(dtype=dtype, device="cpu", libraries={**VERSIONS, **libraries})
    own = result.model.model_copy(update={"weights": (WeightsFile(path="w", sha256=model),)})
    return result.model_copy(update={"conditions": conditions, "model": own})


def board(*results: EvalResult) -> Board:
    (found,) = grouped((f"{number}.json", result) for number, result in enumerate(results))
    return found


def rows(found: Board) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(found))))


def test_two_dtypes_of_a_model_are_two_rows_and_both_are_shown() -> None:
    """A newer float16 does not hide float32, whichever is better."""
    found = board(made(8.0), made(8.26, "bfloat16"))
    assert [(row["fid"], row["dtype"]) for row in rows(found)] == [("8.0", "float32"), ("8.26", "bfloat16")]
    text = to_markdown(found)
    assert "| dtype |" in text and "| bfloat16 |" in text
    assert "dtype differs (float32 / bfloat16)" in text
    assert len(board(made(8.0), made(8.1)).rows) == 1


def test_boards_of_one_dtype_and_one_set_of_versions_are_as_they_were() -> None:
    found = board(made(8.0), made(9.0, model="mini/b"))
    assert not {"dtype", "libraries"} & set(rows(found)[0])
    assert not any(word in to_markdown(found) for word in ("dtype", "libraries", "float32"))


def test_versions_that_differ_are_shown_and_are_no_identity() -> None:
    found = board(made(8.0), made(9.0, model="mini/b", torch="2.13.0", numpy="1.0"), made(8.5, torch="2.12.0"))
    assert len(found.rows) == 2  # the newer of a's two, whatever its torch
    assert [row["libraries"] for row in rows(found)] == ["torch 2.12.0", "torch 2.13.0"]
    assert "library versions differ (torch 2.12.0 / 2.13.0)" in to_markdown(found)
    silent = made(7.0, model="mini/c")
    silent = silent.model_copy(update={"conditions": Conditions(dtype=None, device=None, libraries={})})
    assert differing_versions([made(8.0), silent, made(8.0, peft="0.21")]) == {}


def test_images_that_exist_have_no_dtype() -> None:
    result = made(8.0, "float16")
    folder = result.model_copy(update={"model": result.model.model_copy(update={"sampler": "image_folder", "images": "files"})})
    assert (dtype_of(result), dtype_of(folder)) == ("float16", "")


def test_the_page_tells_the_rows_apart(tmp_path: Path) -> None:
    for result in (made(8.0), made(8.26, "bfloat16")):
        store.write(result, tmp_path / "results")
    content = board_page.gathered(tmp_path)
    settings = [row.settings for row in content.boards[0].rows]
    assert len(set(settings)) == 2 and settings[1].endswith("bfloat16")
    assert any("Dtype differs" in line for line in content.boards[0].about)
    assert {len(found.rows) for found in boards(tmp_path) if found.name == "mini-5k"} == {2}
    assert "bfloat16" in leaderboard.rendered(tmp_path)["mini-5k.md"]


def test_a_group_is_joined_within_a_dtype() -> None:
    """Half a row in float32 and half in float16 is none."""
    first, second = Registry.built_in().groups["paper"].suites

    def part(suite: str, dtype: str) -> Board:
        result = made(8.0, dtype, model="full/a")
        own = result.suite.model_copy(update={"id": suite})
        return Board(suite, f"{suite}@v1", ((f"{suite}.json", result.model_copy(update={"suite": own})),))

    assert joined([part(first, "float32"), part(second, "float16")]) == []
    assert len(joined([part(first, "float16"), part(second, "float16")])) == 1


def test_a_claim_mixes_no_dtypes() -> None:
    """A training seed that was sampled in another dtype is no training seed of these."""
    claim = Claim(says="", metric="fid", better=Side(model="mini/a", nfe=25), worse=Side(model="mini/b", nfe=25))
    results = [made(fid, "float32", f"mini/{name}") for name, fid in (("a", 1.0), ("a-seed1", 1.1), ("b", 2.0), ("b-seed1", 2.1))]
    expected = claims.measure(claim, results)
    assert expected.verdict == "agrees"
    others = [made(50.0, "bfloat16", "mini/a"), made(90.0, "bfloat16", "mini/a-seed1")]
    assert claims.measure(claim, [*results, *others]) == expected
    assert usual_dtype([*results, *others]) == "float32"


def test_compare_says_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = metric(8.0, "FID-mini", n_reference=5000, std_err=0.1)
    results = [made(8.0), made(8.26, "bfloat16", torch="2.13.0")]
    paths = [
        store.write(with_protocols(one.model_copy(update={"metrics": {"fid": value}})), tmp_path / "results") for one in results
    ]
    for names in (paths, [tmp_path / "results"]):
        found = compare(names, "mini-5k")
        assert "dtype differs (float32 / bfloat16), which changes numbers by itself" in found.notes
        assert any(note.startswith("library versions differ (torch 2.13.0 / 2.14.1)") for note in found.notes)
        assert {row["dtype"] for row in found.document()["models"]} == {"float32", "bfloat16"}
        assert sorted(one.name.rpartition(", ")[2] for one in found.contestants) == ["bfloat16)", "float32)"]
