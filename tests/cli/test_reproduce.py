"""`reproduce` as a user meets it: names, exit codes, one JSON document, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands_in_process import Done, refused
from sample_results import metric, sample_result, with_protocols

from sbv2bench.registry import Registry
from sbv2bench.reproduce import search
from sbv2bench.results import store
from sbv2bench.results.records import ModelRecord


def measured(fid: float, folder: str = "results") -> Path:
    """A result of SBv2*, FID 8.14 in the paper, under some protocol of coco2014-30k."""
    spec, made = Registry.built_in().models["full/sbv2-merged-reg"], sample_result(suite="coco2014-30k")
    suite = made.suite.model_copy(update={"num_generated": 30_000})
    record, metrics = ModelRecord(**spec.model_dump(), nfe=1), {"fid": metric(fid, "FID-30k")}
    made = with_protocols(made.model_copy(update={"model": record, "suite": suite, "metrics": metrics}))
    return store.write(made, Path(folder))


def test_names_and_folders(run: Callable[..., Done]) -> None:
    refused(run("reproduce", "tabel3"), 2, "did you mean 'table3'", "fix: sbv2bench reproduce table3")
    refused(run("reproduce", "table3", "--suite", "papr"), 2, "did you mean 'paper'")
    refused(run("reproduce", "table4", "--suite", "coco2014-30k"), 2, "expected hpsv2", "--suite hpsv2")
    refused(run("reproduce", "table3", "--results", "nowhere"), 2, "nowhere is not a folder")


def test_without_results_it_says_what_to_run(run: Callable[..., Done], shipped: Path) -> None:
    refused(run("reproduce", "table3"), 3, "no result", "fix: sbv2bench eval --model full/")
    refused(run("reproduce", "table5", "--suite", "mini-5k"), 3, "fix: sbv2bench eval --model mini/swiftbrush --suite mini-5k")
    refused(
        run("reproduce", "fig3", "--suite", "mini-5k"), 3, "fix: python -m reference_trainer sweep mini/swiftbrush mini/sd-turbo"
    )
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("target", ["table3", "table8", "fig7"])
def test_a_plan_needs_no_result(target: str, run: Callable[..., Done]) -> None:
    done = run("reproduce", target, "--plan", "--json")
    plan = json.loads(done.out)
    assert (done.code, plan["target"]) == (0, target)
    assert all(method["lacking"] or method["at_hand"] for method in plan["methods"])
    assert list(Path().iterdir()) == []


def test_numbers_verdicts_and_exit_codes(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    measured(9.0)
    done = run("reproduce", "table3", "--json")  # outside, but by another protocol
    assert done.code == 0 and "is not the declared one" in done.err
    (row,) = [row for row in json.loads(done.out)["rows"] if row["method"] == "SBv2*"]
    cell = row["cells"][0]
    assert (cell["metric"], cell["published"], cell["measured"], cell["verdict"]) == ("fid", 8.14, 9.0, "outside")
    monkeypatch.setattr(search, "differing", lambda *asked: [])
    done = run("reproduce", "table3", "--json")
    assert done.code == 5 and json.loads(done.out)["target"] == "table3"
    assert "the first: SBv2*, fid: found 9, expected 8.14 within 0.155" in done.error()
    assert len(done.error().splitlines()) == 3


def test_a_spoilt_result_stops_it(run: Callable[..., Done]) -> None:
    path = measured(8.2)
    assert run("reproduce", "table3").code == 0
    whole = path.read_text("utf-8")
    path.write_text(whole[:300], "utf-8")
    refused(run("reproduce", "table3"), 4, "not JSON")
    path.write_text(whole.replace('"schema_version": 2', '"schema_version": 7'), "utf-8")
    refused(run("reproduce", "table3"), 2, "schema_version 7", "upgrade")
    path.write_text(whole.replace('"guidance_scale": 1.0', '"guidance_scale": 7.5'), "utf-8")
    refused(run("reproduce", "table3"), 4, "its name says")
    path.write_text(whole, "utf-8")
    path.with_name("again.json").write_text(whole, "utf-8")
    refused(run("reproduce", "table3"), 4, "the same result as")


def test_what_was_found_is_a_page_too(run: Callable[..., Done], tmp_path: Path) -> None:
    measured(8.2)
    page = tmp_path / "page.html"
    done = run("reproduce", "table3", "--html", str(page))
    assert done.code == 0 and f"written: {page}" in done.err and "SBv2*" in done.out
    text = page.read_text("utf-8")
    assert text.startswith("<!doctype html>") and "SBv2*" in text and "8.14" in text and "8.2" in text
    refused(run("reproduce", "table3", "--html", str(tmp_path)), 2, "--html")
