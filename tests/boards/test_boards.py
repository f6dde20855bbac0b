"""What the boards of the paper's suites hold: every published number once, apart from what was measured; and what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench import catalog
from sbv2bench.boards import boards
from sbv2bench.boards import page as board_page
from sbv2bench.boards import text as leaderboard
from sbv2bench.boards.boards import Board
from sbv2bench.compare import tables as comparison_tables
from sbv2bench.compare.compare import compare
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.results import published, store
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import TrainedWith


def printed_lines() -> list[dict[str, str]]:
    text = (Path(catalog.__file__).parent / "published.csv").read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def test_every_published_number_is_on_a_board_without_any_result(tmp_path: Path) -> None:
    assert len(printed_lines()) == len(published.published_numbers()) == 219
    leaderboard.build(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"coco2014-30k.csv", "coco2014-30k.md", "hpsv2.csv", "hpsv2.md"}
    rows = {name: lines(tmp_path / f"{name}.csv") for name in ("coco2014-30k", "hpsv2")}
    of_column = {
        "precision": "precision_paper", "recall": "recall_paper", "hpsv2_anime": "hps_anime", "hpsv2_photo": "hps_photo",
        "hpsv2_concept_art": "hps_concept-art", "hpsv2_painting": "hps_paintings",
    }  # fmt: skip
    for line in printed_lines():
        suite = "hpsv2" if line["metric"].startswith("hpsv2") else "coco2014-30k"
        source = f"arXiv 2408.14176v2, Table {line['table']}"
        (row,) = [row for row in rows[suite] if (row["source"], row["method"]) == (source, line["method"])]
        assert float(row[of_column.get(line["metric"], line["metric"])]) == float(line["value"]), line
        assert (row["origin"], row["rank"], row["nfe"]) == ("published", "", line["nfe"])
    numbers = sum(
        bool(row[column])
        for name, found in rows.items()
        for row in found
        for column in row
        if column in {*of_column.values(), "fid", "clip_score", "inference_seconds", "training_gpu_days"}
    )
    assert numbers == 219
    page = (tmp_path / "coco2014-30k.md").read_text("utf-8")
    assert "Nothing has been measured" in page and "| 3 | SBv2* | full/sbv2-merged-reg | 1 | 8.14 | 0.32 |" in page
    assert "| 16.10 |" in page and "| 0.30 |" in page  # the digits that the paper prints
    (suspect,) = [row for row in rows["hpsv2"] if row["note"]]
    assert (suspect["method"], suspect["note"][:7]) == ("SDv2.1", "suspect")
    leaderboard.check(tmp_path)


def test_every_declaration_is_of_something_that_exists() -> None:
    declared = published.declared()
    assert set(declared.metrics) == {line["metric"] for line in printed_lines()}
    assert {name.removeprefix("table") for name in declared.tables} == {line["table"] for line in printed_lines()}
    methods = {(row.table, row.method) for row in published.printed_rows()}
    for name, table in declared.tables.items():
        assert {(name.removeprefix("table"), method) for method in table.suspect} <= methods
        assert set(table.decimals) <= set(declared.metrics)
    for row in published.printed_rows():  # no number has more digits than the declared ones
        for name, number in row.numbers.items():
            assert float(row.text(name)) == number, (row, name)
    assert {shape for figure in declared.figures.values() for shape in figure.shapes} <= set(declared.metrics)


def with_latency(fid: float, milliseconds: float | None, guidance: float, hardware: str = "Chip") -> EvalResult:
    result = sample_result(fid, suite="coco2014-30k", model="full/sd21", guidance=guidance)
    metrics = dict(result.metrics)
    if milliseconds is not None:
        metrics["latency_ms"] = metric(milliseconds, "latency (quick)", unit="ms")
    return result.model_copy(update={"metrics": metrics, "provenance": {**result.provenance, "device_name": hardware}})


def test_measured_rows_are_ranked_among_themselves_and_have_all_that_stands_behind_them(tmp_path: Path) -> None:
    result = sample_result(9.0, suite="coco2014-30k", model="full/sd21")
    values = {"fid": metric(9.0, "FID-30k", repeats=(8.5, 9.5)), "hps": metric(1.0, "HPS", styles={"photo": {"value": 27.5}})}
    result = with_protocols(result.model_copy(update={"metrics": values}))
    store.write(result, tmp_path / "results")
    leaderboard.build(tmp_path)
    rows = lines(tmp_path / "coco2014-30k.csv")
    first = rows[0]
    assert [row["origin"] for row in rows] == ["measured"] + ["published"] * (len(rows) - 1)
    assert [row["rank"] for row in rows] == ["1"] + [""] * (len(rows) - 1)
    assert (first["fid_repeats"], first["hps_photo"], first["seeds"]) == ("8.5 9.5", "27.5", "0 1 2")
    assert first["fid_protocol"] == result.metrics["fid"].fingerprint[:16]
    assert all(first[name] for name in ("commit", "date", "hardware", "licence", "file", "n"))
    assert (first["source"], first["method"]) == ("", "")


def test_pareto_is_among_rows_with_both_on_the_same_hardware() -> None:
    rows = [
        with_latency(9.0, 100.0, 1.0),
        with_latency(8.0, 200.0, 2.0),
        with_latency(9.5, 150.0, 3.0),  # worse than the first in both
        with_latency(7.0, None, 4.0),
        with_latency(9.9, 300.0, 5.0, "Another chip"),
    ]
    board = Board("b", "b@v1", tuple((str(place), row) for place, row in enumerate(rows)))
    assert [board.is_pareto(row) for row in rows] == [True, True, False, None, True]
    found = boards.latency_of(rows[0])
    assert found is not None and (found.milliseconds, found.protocol) == (100.0, "quick")
    assert boards.latency_of(rows[3]) is None


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text("utf-8"))
        change(content)
        path.write_text(json.dumps(content), "utf-8")

    return edit


def protocol_of(content: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = content["provenance"]["protocols"][content["metrics"][key]["fingerprint"]]
    return found


BAD: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "older schema": (edited(lambda content: content.update(schema_version=0)), InputError, "schema_version 0, expected 1 or 2"),
    "newer schema": (edited(lambda content: content.update(schema_version=3)), InputError, "pip install --upgrade"),
    "truncated": (lambda path: path.write_text(path.read_text()[:400]), IntegrityError, "not JSON"),
    "other protocol": (
        edited(lambda content: protocol_of(content, "fid").update(prompts_sha256="ff")), IntegrityError, "metrics.fid.fingerprint"
    ),
    "no fingerprint": (
        edited(lambda content: content["metrics"]["fid"].update(fingerprint="")), IntegrityError, "metrics.fid.fingerprint"
    ),
    "other count": (edited(lambda content: content["suite"].update(num_generated=4000)), IntegrityError, "num_generated is 4000"),
    "other model": (
        edited(lambda content: content["model"].update(guidance_scale=7.5)), IntegrityError, "model, suite or seeds"
    ),
    "other number": (
        edited(lambda content: content["metrics"]["fid"].update(value=1.0)), IntegrityError, "metrics.fid.value is 1.0"
    ),
    "other NFE": (edited(lambda content: content["model"].update(nfe=1)), IntegrityError, "model.nfe is 1, its settings"),
    "other number of images": (
        edited(lambda content: content["metrics"]["fid"].update(n_generated=50)), IntegrityError, "metrics.fid.n_generated is 50"
    ),
    "interval upside down": (
        edited(lambda content: content["metrics"]["fid"].update(ci95=[9.5, 8.5])), IntegrityError, "low end is above the high"
    ),
    "twice": (lambda path: shutil.copy(path, path.with_name("copy.json")), IntegrityError, "the same result as"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_result_files_are_refused_and_nothing_is_rewritten(name: str, tmp_path: Path) -> None:
    spoil, kind, words = BAD[name]
    result = sample_result(9.0)
    values = {**result.metrics, "fid": metric(9.0, "FID-mini", repeats=(8.5, 9.5), extractor="world-128")}
    path = store.write(with_protocols(result.model_copy(update={"metrics": values})), tmp_path / "results")
    leaderboard.build(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert len(before) == 6
    spoil(path)
    for command in (leaderboard.build, leaderboard.check):
        with pytest.raises(kind, match=words) as caught:
            command(tmp_path)
        assert len(str(caught.value).splitlines()) <= 3
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


HPS = {"hps": 27.0, "hps_v21": 28.0}


def with_hps(model: str, fid: float, trained: dict[str, list[str]] | None) -> EvalResult:
    """A result with two HPS. trained: what its model says it was trained with."""
    result = sample_result(fid, model=model, guidance=fid)
    more = {key: metric(value + fid, key.upper(), "higher", std_err=0.25) for key, value in HPS.items()}
    said = None if trained is None else TrainedWith.model_validate(trained)
    update = {"metrics": result.metrics | more, "model": result.model.model_copy(update={"trained_with": said})}
    return with_protocols(result.model_copy(update=update))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        (None, True),
        ({"losses": ["vsd", "clip"], "scorers": ["clip-mini-train"]}, True),
        ({"losses": ["vsd", "clip", "hps"], "scorers": ["clip-mini-train", "hps-mini-train"]}, False),
        ({"scorers": ["hpsv2-v2.1"]}, False),
        ({"losses": ["hps"], "scorers": ["my-preferences"]}, False),
    ],
)
def test_the_hps_of_a_student_that_was_trained_with_it_is_marked(
    tmp_path: Path, trained: dict[str, list[str]] | None, held_out: bool
) -> None:
    """In the table that people read, in the CSV, on the page and in a comparison; and no other model's, and no other metric."""
    found = [with_hps("mini/student", 1.0, trained), with_hps("mini/other", 2.0, None)]
    files = [store.write(result, tmp_path / "results") for result in found]
    leaderboard.build(tmp_path)
    note, footnote = "HPS was a training loss of this model", "\n\n† HPS was"
    text = (tmp_path / "mini-5k.md").read_text()
    rows = {name: next(line for line in text.splitlines() if f"| mini/{name} |" in line) for name in ("student", "other")}
    assert ("| 28.00† ± 0.25 | 29.00† ± 0.25 |" in rows["student"]) != held_out
    assert rows["student"].count("†") == (0 if held_out else 2)
    assert "†" not in rows["other"]
    assert (note in text) == (footnote in text) == (not held_out)
    student, other = lines(tmp_path / "mini-5k.csv")
    assert student.get("hps_held_out") == (None if held_out else "no")
    assert other.get("hps_held_out") == (None if held_out else "")
    assert student["hps"] == "28.0"
    page = board_page.build(tmp_path)
    assert page.count(">28.00†<") == (1 if held_out else 2)  # one is Table 9's, which is printed alike
    assert (note in page) != held_out
    comparison = compare([str(path) for path in files], suite="mini-5k")
    assert ("28.00† ± 0.25" in comparison_tables.to_markdown(comparison)) != held_out
    assert (r"28.00\dag{} $\pm$ 0.25" in comparison_tables.to_latex(comparison)) != held_out
    assert any(note in line for line in comparison_tables.notes(comparison)) != held_out
