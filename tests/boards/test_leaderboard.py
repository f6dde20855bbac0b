"""Leaderboards: built from files alone, the same every time, never over two protocols, checked against edits."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.boards import boards
from sbv2bench.boards import text as leaderboard
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult


def put(folder: Path, *results: EvalResult) -> Path:
    for result in results:
        store.write(result, folder / "results")
    return folder


PRINTED = ["coco2014-30k.csv", "coco2014-30k.md", "hpsv2.csv", "hpsv2.md"]  # suites that the paper has numbers for


def rows(folder: Path, name: str = "mini-5k") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text())))


def test_ranked_by_fid_with_every_number_in_full(tmp_path: Path) -> None:
    put(tmp_path, sample_result(guidance=2.0), sample_result(fid=3.25, guidance=3.0), sample_result(fid=None, guidance=4.0))
    built = leaderboard.build(tmp_path)
    assert [path.name for path in built] == [*PRINTED, "mini-5k.csv", "mini-5k.md"]
    table = rows(tmp_path)
    assert [(row["rank"], row["guidance_scale"]) for row in table] == [("1", "3.0"), ("2", "2.0"), ("", "4.0")]
    assert table[1]["fid"] == "12.345678901234567"
    assert table[1]["fid_ci95_low"] == "11.845678901234567"
    assert table[0]["clip_score_std_err"] == "0.00123"
    assert table[2]["fid"] == ""
    assert {row["n"] for row in table} == {"5000 / 5000"}
    assert table[0]["commit"] == "01234567"
    assert table[0]["hardware"] == "Chip | 9, 2 cores"
    assert (tmp_path / table[0]["file"]).is_file()


def test_markdown_is_rounded_to_the_error_and_escaped(tmp_path: Path) -> None:
    put(tmp_path, sample_result())
    leaderboard.build(tmp_path)
    page = (tmp_path / "mini-5k.md").read_text()
    assert "| FID-mini ↓ | CLIP-mini ↑ |" in page
    assert "12.35 [11.85, 12.85]" in page
    assert "0.8750 ± 0.0012" in page
    assert "Chip \\| 9" in page
    header, rule, row = page.splitlines()[-3:]
    assert header.count("|") == rule.count("|") == row.replace("\\|", "").count("|")


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    results = [sample_result(fid=float(n), guidance=float(n)) for n in range(1, 6)]
    one, two = put(tmp_path / "one", *results), put(tmp_path / "two", *reversed(results))
    leaderboard.build(one)
    leaderboard.build(two)
    for name in ("mini-5k.csv", "mini-5k.md"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_two_versions_never_share_a_table(tmp_path: Path) -> None:
    put(tmp_path, *(sample_result(version=version) for version in (1, 2)), sample_result(suite="mini"))
    leaderboard.build(tmp_path)
    own = {path.name for path in tmp_path.glob("*.csv")} - set(PRINTED)
    assert own == {"mini.csv", "mini-5k.csv", "mini-5k@v1.csv"}
    assert len(rows(tmp_path)) == len(rows(tmp_path, "mini-5k@v1")) == 1


def test_a_column_holds_one_protocol(tmp_path: Path) -> None:
    """The newest result's has the plain name; another protocol of the same metric stands apart and ranks nothing."""
    old = with_protocols(sample_result(fid=3.0, guidance=3.0, date="2026-11-21T10:00:00Z"), preparation="other")
    new = sample_result(fid=9.0, guidance=2.0)
    put(tmp_path, old, new)
    leaderboard.build(tmp_path)
    first, second = rows(tmp_path)
    name = f"fid@{old.metrics['fid'].fingerprint[:8]}"
    assert (first["rank"], first["fid"], first[name]) == ("1", "9.0", "")
    assert (second["rank"], second["fid"], second[name]) == ("", "", "3.0")
    assert first["fid_protocol"] == new.metrics["fid"].fingerprint[:16]
    assert f"FID-mini ({name[4:]}) ↓" in (tmp_path / "mini-5k.md").read_text()


def test_a_metric_that_a_suite_gains_moves_no_other_column(tmp_path: Path) -> None:
    put(tmp_path, sample_result(fid=3.0, guidance=3.0), sample_result(fid=9.0))
    leaderboard.build(tmp_path)
    before = rows(tmp_path)
    more = sample_result(fid=7.0, guidance=4.0, date="2026-11-23T10:00:00Z")
    put(tmp_path, with_protocols(more.model_copy(update={"metrics": {**more.metrics, "own": metric(1.0, "own")}})))
    leaderboard.build(tmp_path)
    after = {row["guidance_scale"]: row for row in rows(tmp_path)}
    for row in before:
        assert all(after[row["guidance_scale"]][key] == row[key] for key in row if key != "rank")
    assert [row["own"] for row in rows(tmp_path)] == ["", "1.0", ""]


def test_the_newest_result_of_a_model_is_shown_and_the_others_are_kept(tmp_path: Path) -> None:
    put(tmp_path, sample_result(fid=9.0, date="2026-11-22T11:00:00Z"), sample_result(fid=5.0, date="2026-11-22T09:00:00Z"))
    leaderboard.build(tmp_path)
    assert [row["fid"] for row in rows(tmp_path)] == ["9.0"]
    assert len(store.find(tmp_path / "results")) == 2


def test_a_newer_result_of_fewer_metrics_or_seeds_hides_nothing(tmp_path: Path) -> None:
    old, new = sample_result(fid=9.0, date="2026-11-22T09:00:00Z"), sample_result(fid=5.0, date="2026-11-22T11:00:00Z")
    fewer_metrics = new.model_copy(update={"metrics": {"fid": new.metrics["fid"]}})
    fewer_seeds = new.model_copy(update={"suite": new.suite.model_copy(update={"seeds": (0,)})})
    put(tmp_path, old, fewer_metrics, fewer_seeds)
    leaderboard.build(tmp_path)
    assert [row["fid"] for row in rows(tmp_path)] == ["9.0"]
    put(tmp_path, new)
    leaderboard.build(tmp_path)
    assert [row["fid"] for row in rows(tmp_path)] == ["5.0"]


def test_add_copies_the_bytes_to_their_place_once(tmp_path: Path) -> None:
    path = store.write(sample_result(), tmp_path / "results")
    folder = tmp_path / "leaderboards"
    (added,) = leaderboard.add([path], folder)
    assert leaderboard.add([path], folder) == [added]
    assert added == folder / "results" / path.relative_to(tmp_path / "results")
    assert added.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [({"status": "partial"}, "partial"), ({"split": "choosing"}, "choosing")],
    ids=["partial", "choosing"],
)
def test_partial_and_choosing_results_are_refused_and_nothing_is_copied(
    tmp_path: Path, refused: dict[str, str], sentence: str
) -> None:
    good = store.write(sample_result(), tmp_path / "results")
    bad = store.write(sample_result(guidance=3.0, **refused), tmp_path / "results")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=sentence):
        leaderboard.add([good, bad], tmp_path / "leaderboards")
    assert not (tmp_path / "leaderboards").exists()
    assert len(leaderboard.add([good], tmp_path / "leaderboards")) == 1


def test_a_protocol_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = store.write(sample_result(), tmp_path / "results")
    content = json.loads(path.read_text())
    content["provenance"]["protocols"][content["metrics"]["fid"]["fingerprint"]]["num_reference"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="fingerprint"):
        boards.admit(path)


def test_check_passes_on_what_was_built_and_names_what_was_edited(tmp_path: Path) -> None:
    put(tmp_path, sample_result())
    with pytest.raises(IntegrityError, match=r"mini-5k\.csv"):
        leaderboard.check(tmp_path)
    leaderboard.build(tmp_path)
    assert len(leaderboard.check(tmp_path)) == 2 + len(PRINTED)
    page = tmp_path / "mini-5k.md"
    page.write_text(page.read_text().replace("12.35", "2.35"))
    with pytest.raises(IntegrityError, match=r"mini-5k\.md") as caught:
        leaderboard.check(tmp_path)
    assert caught.value.exit_code == 4
    assert caught.value.fix == f"sbv2bench leaderboard --dir {tmp_path}"


def test_a_board_without_results_goes_and_other_files_stay(tmp_path: Path) -> None:
    put(tmp_path, sample_result(), sample_result(suite="mini"))
    leaderboard.build(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "mine.csv").write_text("a,b\n")
    for path in store.find(tmp_path / "results" / "mini" / "sd21" / "mini@v1"):
        path.unlink()
    with pytest.raises(IntegrityError, match=r"mini\.csv"):
        leaderboard.check(tmp_path)
    leaderboard.build(tmp_path)
    own = {path.name for path in tmp_path.iterdir()} - set(PRINTED)
    assert own == {"results", "mini-5k.csv", "mini-5k.md", "README.md", "mine.csv"}


def test_the_suites_of_a_group_make_one_row_a_model(tmp_path: Path) -> None:
    """Joined on the model's fingerprint: another guidance is another model, and who lacks a part has no row."""
    for fid, guidance, hps in ((9.0, 2.0, 26.5), (8.0, 4.5, None), (12.0, 7.5, 27.5)):
        store.write(sample_result(fid, suite="coco2014-30k", model="full/sd21", guidance=guidance), tmp_path / "results")
        if hps is not None:
            result = sample_result(None, suite="hpsv2", model="full/sd21", guidance=guidance)
            metrics = {"hps": metric(hps, "hpsv2-v2.0", "higher")}
            store.write(with_protocols(result.model_copy(update={"metrics": metrics})), tmp_path / "results")
    board = next(board for board in boards.boards(tmp_path) if board.name == "paper")
    found = [(row.model.guidance_scale, row.metrics["fid"].value, row.metrics["hps"].value) for _, row in board.rows]
    assert found == [(2.0, 9.0, 26.5), (7.5, 12.0, 27.5)]
    leaderboard.build(tmp_path)
    assert "hpsv2-v2.0" in (tmp_path / "paper.md").read_text()
    leaderboard.check(tmp_path)
    for path in (tmp_path / "results").rglob("hpsv2@v1"):
        shutil.rmtree(path)
    assert "paper" not in {board.name for board in boards.boards(tmp_path)}
