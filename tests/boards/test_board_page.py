"""The leaderboards' page: all of it from the folder's files, in step with them, and refused where one is not as it should be."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from sample_results import sample_result

from sbv2bench.boards import claims
from sbv2bench.boards import files as whole_folder
from sbv2bench.boards import page as board_page
from sbv2bench.boards.tables import MARK
from sbv2bench.errors import IntegrityError, PrerequisiteError
from sbv2bench.report import page as pages
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for result in (sample_result(5.0, guidance=2.0), sample_result(3.0, guidance=3.0), real()):
        store.write(result, tmp_path / "results")
    return tmp_path


def real() -> EvalResult:
    result = sample_result(0.5, model="mini/real")
    return result.model_copy(
        update={"model": result.model.model_copy(update={"sampler": "renderings", "images": "world", "nfe": 0})}
    )


def test_a_row_is_explained_from_its_file(folder: Path) -> None:
    board = board_page.gathered(folder).boards[0]
    assert [row.title for row in board.rows] == ["Real pictures", "SD 2.1", "SD 2.1"]
    assert [row.id for row in board.rows] == ["real", "sd21-25-3", "sd21-25-2"]
    assert [(row.name, row.kind) for row in board.rows] == [
        ("mini/real", "real"),
        ("mini/sd21", "measured"),
        ("mini/sd21", "measured"),
    ]
    first = board.rows[1]
    assert first.settings == "25 steps, guidance 3" and first.short == "sd21 25/3"
    assert (first.numbers["fid"].text, first.numbers["fid"].interval) == ("3.000", (2.5, 3.5))
    assert (first.numbers["clip_score"].text, first.numbers["clip_score"].spread) == ("0.8750", "± 0.0012")
    assert first.numbers["clip_score"].method == "standard error over prompts"
    facts = dict(first.facts)
    result = sample_result(3.0, guidance=3.0)
    expected = ", ".join(f"{key} {value.fingerprint[:16]}" for key, value in result.metrics.items())
    assert facts["protocols"] == expected
    assert facts["commit"] == "0123456789abcdef" and facts["hardware"] == "Chip | 9, 2 cores"
    assert facts["date"] == "2026-11-22T10:00:00Z" and facts["generation seeds"] == "0, 1, 2"
    assert facts["licence"] == result.model.licence
    assert first.weights == tuple((file.path, file.sha256) for file in result.model.weights)
    assert (folder / first.link).is_file()


def test_what_is_compared_is_said_first(folder: Path) -> None:
    board = board_page.gathered(folder).boards[0]
    counts, family, uncertainty, ranks = board.about
    assert counts.startswith("2 ways of sampling a model and real pictures, measured on 5,000 captions against 5,000")
    assert "-mini" in family
    assert "FID-mini: none" in uncertainty and "CLIP-mini: standard error over prompts" in uncertainty
    assert "Each column's protocol is in the details" in uncertainty
    assert "at 5 % after Holm's correction" in ranks


def test_only_metrics_that_are_shown_are_explained(folder: Path) -> None:
    names = [name for name, _ in board_page.gathered(folder).meanings]
    assert {"FID-mini", "CLIP-mini", "±", "protocol"} <= set(names)
    assert not [name for name in names if "HPS" in name]


def test_the_claims_are_the_claims_table(folder: Path) -> None:
    assert board_page.gathered(folder).claims is None
    first = claims.declared().claims[0]
    for side, fid in ((first.better, 1.0), (first.worse, 2.0)):
        result = sample_result(fid, model=side.model, guidance=side.guidance_scale or fid)
        value = result.metrics["fid"].model_copy(update={"repeats": (fid, fid + 0.01, fid - 0.01)})
        model = result.model.model_copy(update={"nfe": side.nfe, "steps": side.nfe})
        store.write(result.model_copy(update={"metrics": {"fid": value}, "model": model}), folder / "results")
    found = board_page.gathered(folder).claims
    assert found is not None
    assert (found[1][0].claim, found[1][0].verdict) == (first, "agrees")
    assert len(found[1]) == len(claims.declared().claims)


def sweep(folder: Path, weights: tuple[float, ...] = (0.0, 1.0)) -> Path:
    metrics = {key: value.model_dump(mode="json") for key, value in sample_result(2.0).metrics.items()}
    rows = [{"weight": weight, "result_fingerprint": "ab", "metrics": metrics} for weight in weights]
    suite = {
        "id": "mini-choosing", "version": 1, "fingerprint": "ab", "prompts_sha256": "cd", "reference_fingerprint": None,
        "num_generated": 2000, "num_reference": None, "seeds": [0, 1],
    }  # fmt: skip
    ends = {name: {"id": name, "location": name, "weights": {}} for name in ("a", "b")}
    content = {
        "axis": "weight of A = a (B = b)",
        "formula": "weight * a + (1 - weight) * b",
        **ends,
        "suite": suite,
        "rows": rows,
    }
    path = folder / "sweeps" / "a-b" / "sweep.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"provenance": {}}))
    return path


def test_sweeps_are_curves_by_rising_weight(folder: Path) -> None:
    path = sweep(folder)
    (found,) = board_page.gathered(folder).sweeps
    assert (found.name, found.axis) == ("a-b", "weight of A = a (B = b)")
    assert [(curve.label, [point[0] for point in curve.points]) for curve in found.curves] == [
        ("FID-mini", [0.0, 1.0]),
        ("CLIP-mini", [0.0, 1.0]),
    ]
    assert found.curves[0].points[0] == (0.0, 2.0, (1.5, 2.5))
    path.write_text(path.read_text().replace("formula", "form"))
    with pytest.raises(IntegrityError, match=r"sweep\.json"):
        board_page.gathered(folder)


def student(name: str, fid: float) -> EvalResult:
    result = sample_result(fid, model=f"mini/{name}", guidance=1.0)
    value = result.metrics["fid"].model_copy(update={"repeats": (fid - 0.01, fid, fid + 0.01), "std_err": 0.0058})
    other = {"nfe": 1, "steps": 1, "timestep": sum(map(ord, name)) % 1000}  # or its fingerprint would be that of all
    model = result.model.model_copy(update=other)
    return result.model_copy(update={"model": model, "metrics": result.metrics | {"fid": value}})


def test_further_trainings_stand_in_the_row_of_the_one_that_ships(folder: Path) -> None:
    for name, fid in (("sbv2-b", 2.0), ("sbv2-b-seed1", 1.0), ("sbv2-b-seed2", 2.5), ("lone-seed1", 9.0)):
        store.write(student(name, fid), folder / "results")
    board = board_page.gathered(folder).boards[0]
    assert [row.id for row in board.rows] == ["real", "sbv2-b", "sd21-25-3", "sd21-25-2", "lone-seed1"]
    row = board.rows[1]
    assert (row.numbers["fid"].value, row.numbers["fid"].trainings) == (2.0, (1.0, 2.5))
    assert ("trainings", "mini/sbv2-b, mini/sbv2-b-seed1, mini/sbv2-b-seed2") in row.facts
    assert any("2 rows are further trainings" in paragraph for paragraph in board.about)


def test_headlines_name_who_cannot_be_told_from_the_best(folder: Path) -> None:
    for name, fid in (("sbv2-a", 2.0), ("sbv2-b", 2.001), ("swiftbrush", 2.9)):
        store.write(student(name, fid), folder / "results")
    board = board_page.gathered(folder).boards[0]
    one, whole = board.tiles
    assert (one.heading, one.row, one.tied) == ("Best in one step", "sbv2-a", ("SwiftBrush v2 B",))
    assert (whole.heading, whole.row, whole.number) == ("Best of all", "sbv2-a", "FID-mini 2.0000 ± 0.0058")
    assert board.found == "SwiftBrush v2 A is the best of 5, with FID-mini 2.0000."
    assert [board.rows[place].id for place in board.ranked] == ["sbv2-a", "sbv2-b", "swiftbrush", "sd21-25-3", "sd21-25-2"]


def test_settings_of_a_model_are_a_page_with_their_frontier(folder: Path) -> None:
    points = [(sample_result(fid, guidance=guidance), folder / f"{guidance}.json") for fid, guidance in ((5.0, 2.0), (3.0, 3.0))]
    html = board_page.settings(points)
    assert "25 steps, guidance 2" in html and "25 steps, guidance 3" in html and 'class="frontier"' in html
    assert str(folder) not in html  # nothing of where the results are


def test_published_rows_stand_apart_as_they_are_printed(folder: Path) -> None:
    boards = board_page.gathered(folder).boards
    printed = [board for board in boards if {row.kind for row in board.rows} == {"published"}]
    assert printed and all(board.name.endswith(", published") for board in printed)
    assert not {row.kind for row in boards[0].rows} & {"published"}
    row = next(row for board in printed for row in board.rows if (row.title, row.settings) == ("SwiftBrush", "Table 1"))
    assert (row.numbers["fid"].text, row.numbers["fid"].spread) == ("15.46", "")


@pytest.mark.ci
def test_the_folder_is_built_and_checked_with_its_page(folder: Path) -> None:
    built = whole_folder.build(folder)
    assert {"index.html", "mini-5k.csv", "mini-5k.md"} <= {path.name for path in built}
    html = (folder / "index.html").read_text()
    assert html.startswith(f"<!doctype html>\n{MARK}\n")
    assert whole_folder.check(folder) == built
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    whole_folder.build(other)
    assert (other / "index.html").read_text() == html  # nothing of where it is, or when
    sweep(folder)
    with pytest.raises(IntegrityError, match=r"index\.html"):
        whole_folder.check(folder)


def test_without_the_extra_there_are_tables_unless_a_page_would_be_left_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None if name == "jinja2" else known(name))
    names = {path.name for path in whole_folder.build(folder)}
    assert {"mini-5k.csv", "mini-5k.md"} <= names and "index.html" not in names
    assert "jinja2" in str(whole_folder.lacks_page())
    whole_folder.check(folder)
    (folder / "index.html").write_text("of yesterday")
    (folder / "mini-5k.csv").unlink()
    for what in (whole_folder.build, whole_folder.check):
        with pytest.raises(PrerequisiteError, match="not installed"):
            what(folder)
    assert not (folder / "mini-5k.csv").exists()
