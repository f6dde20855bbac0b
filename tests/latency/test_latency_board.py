"""Latency results in the store and on the board: kept apart from evaluations, never across devices, checked against edits."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sample_latency import sample_latency
from sample_results import metric, sample_result, with_protocols

from sbv2bench.boards import boards
from sbv2bench.boards import text as leaderboard
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.latency import board as latency_board
from sbv2bench.results import store
from sbv2bench.results.records import LatencyResult


def put(folder: Path, *results: LatencyResult) -> Path:
    for result in results:
        store.write(result, folder / "results")
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "latency.csv").read_text())))


def test_written_where_the_contract_says_and_read_back_equal(tmp_path: Path) -> None:
    result = sample_latency(batch_sizes=(1, 8))
    path = store.write(result, tmp_path)
    digest = store.result_fingerprint(result)[:8]
    assert path.relative_to(tmp_path).as_posix() == f"mini/sd-turbo/latency-paper/20261125T100000Z-{digest}.json"
    assert store.load_latency(path) == result
    other = sample_latency(batch_sizes=(1, 8), dtype="float16")
    assert store.result_fingerprint(other) != store.result_fingerprint(result)


def test_the_two_kinds_of_result_are_kept_apart(tmp_path: Path) -> None:
    timed = store.write(sample_latency(), tmp_path)
    evaluated = store.write(sample_result(), tmp_path)
    assert (store.find(tmp_path), store.find_latency(tmp_path)) == ([evaluated], [timed])
    assert (store.is_latency(timed), store.is_latency(evaluated)) == (True, False)
    with pytest.raises(InputError, match="a result of `sbv2bench latency`, expected one of `sbv2bench eval`"):
        store.load(timed)
    with pytest.raises(InputError, match="a result of `sbv2bench eval`, expected one of `sbv2bench latency`"):
        store.load_latency(evaluated)


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="mini/sd-turbo: 8 is not a finite number"):
        good, bad = sample_latency(batch_sizes=(1, 8)).batches
        store.write(sample_latency(batches=(good, bad.model_copy(update={"gap_ms": float("nan")}))), tmp_path)
    assert list(tmp_path.rglob("*.json")) == []


def test_the_board_has_every_number_in_full(tmp_path: Path) -> None:
    put(tmp_path, sample_latency((10.0, 12.0), batch_sizes=(1, 8)))
    built = leaderboard.build(tmp_path)
    assert [path.name for path in built][-2:] == ["latency.csv", "latency.md"]  # after the published numbers' boards
    one, eight = rows(tmp_path)
    assert (one["model"], one["batch_size"], eight["batch_size"]) == ("mini/sd-turbo", "1", "8")
    assert [float(one[key]) for key in ("latency_ms", "ci95_low_ms", "text_ms", "denoise_ms", "gap_ms")] == [
        11.0, 10.5, 2.75, 5.5, 2.75,
    ]  # fmt: skip
    assert (one["decode_ms"], one["compile_s"]) == ("", "")
    assert float(eight["images_per_second"]) == pytest.approx(1000 / 11)
    assert (one["flop"], one["ceiling_flop_per_s"], one["nfe"], one["repeats_ms"]) == (
        "4000000000",
        "50000000000.0",
        "1",
        "10.0 12.0",
    )
    assert (tmp_path / one["file"]).is_file()
    page = (tmp_path / "latency.md").read_text()
    assert "## paper@v1 on Chip | 9, float32, 2 threads, eager" in page
    assert (
        "| mini/sd-turbo | KL | 1 | 11.0 ± 0.500 | 11.0 | 10.0 to 12.0 | 2.75 | 5.50 |  | 2.75 | 90.9 | 1 | 1 | 4.00 | 12.3 |"
        in page
    )
    assert "Ceiling 50 GFLOP/s" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_the_newest_row_is_shown_and_devices_are_never_mixed(tmp_path: Path) -> None:
    old, new = sample_latency((30.0, 30.0)), sample_latency((20.0, 20.0), date="2026-11-26T10:00:00Z")
    faster = sample_latency((15.0, 15.0), model="mini/sbv2-a", guidance=1.0)
    elsewhere = sample_latency((1.0, 1.0), device_name="Card", device="cuda", dtype="float16")
    full = sample_latency((19.0, 19.0), protocol="full")
    compiled = sample_latency((5.0, 5.0), compiled=("denoiser",))
    put(tmp_path, new, old, faster, elsewhere, full, compiled)
    leaderboard.build(tmp_path)
    # before they are resolved to files the two students are one declaration, and so one row
    found = [(row["protocol"], row["device"], row["compiled"], float(row["latency_ms"])) for row in rows(tmp_path)]
    assert found == [
        ("full@v1", "Chip | 9", "False", 19.0),
        ("paper@v1", "Card", "False", 1.0),
        ("paper@v1", "Chip | 9", "True", 5.0),
        ("paper@v1", "Chip | 9", "False", 20.0),
    ]
    headings = [line for line in (tmp_path / "latency.md").read_text().splitlines() if line.startswith("## ")]
    assert len(headings) == 4


def test_check_covers_it_and_add_takes_it(tmp_path: Path) -> None:
    paths = [store.write(sample_latency(), tmp_path / "mine"), store.write(sample_result(), tmp_path / "mine")]
    folder = tmp_path / "leaderboards"
    added = leaderboard.add(paths, folder)
    assert {path.read_bytes() for path in added} == {path.read_bytes() for path in paths}
    assert leaderboard.add(paths, folder) == added
    leaderboard.build(folder)
    assert {"mini-5k.csv", "mini-5k.md", "latency.csv", "latency.md"} <= {path.name for path in leaderboard.check(folder)}
    page = folder / "latency.csv"
    page.write_text(page.read_text().replace("11.0", "1.0", 1))
    with pytest.raises(IntegrityError, match=r"latency\.csv"):
        leaderboard.check(folder)
    for path in store.find_latency(folder / "results"):
        path.unlink()
    leaderboard.build(folder)
    assert not {"latency.csv", "latency.md"} & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("protocol", "runs"), 5, "protocol_fingerprint"),
        (("batches", 0, "total", "value"), 1.0, "total.value is not the mean"),
        (("batches", 0, "stages", "text", "value"), 1.0, "text.value is not the mean"),
        (("batches", 0, "images_per_second"), 1000.0, "images_per_second"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, place: tuple[str | int, ...], value: Any, says: str) -> None:
    path = store.write(sample_latency(), tmp_path / "results")
    assert latency_board.admit(path) == sample_latency()
    content = json.loads(path.read_text())
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=says) as caught:
        leaderboard.add([path], tmp_path / "leaderboards")
    assert caught.value.fix == "sbv2bench latency --model mini/sd-turbo --protocol paper"
    assert not (tmp_path / "leaderboards").exists()


def test_rows_take_the_paper_latency_of_their_model(tmp_path: Path) -> None:
    for guidance in (2.0, 4.5):
        store.write(sample_result(9.0, suite="coco2014-30k", model="full/sd21", guidance=guidance), tmp_path / "results")
        result = sample_result(None, suite="hpsv2", model="full/sd21", guidance=guidance)
        made = with_protocols(result.model_copy(update={"metrics": {"hps": metric(26.5, "hpsv2", "higher")}}))
        store.write(made, tmp_path / "results")
    model = sample_result(9.0, model="full/sd21", guidance=4.5).model
    put(tmp_path, sample_latency((130.0, 132.0), model="full/sd21").model_copy(update={"model": model}))
    put(tmp_path, sample_latency((1.0, 1.0), model="full/sd21", protocol="full").model_copy(update={"model": model}))
    board = next(board for board in boards.boards(tmp_path) if board.name == "paper")
    found = {row.model.guidance_scale: row.metrics.get("latency_paper_ms") for _, row in board.rows}
    assert found[2.0] is None
    assert found[4.5] is not None
    assert (found[4.5].value, found[4.5].ci95, found[4.5].unit) == (131.0, (130.5, 131.5), "ms")
    assert "Chip | 9, float32, 2 threads" in found[4.5].uncertainty
    row = next(row for _, row in board.rows if row.model.guidance_scale == 4.5)
    assert boards.latency_of(row) == boards.Latency(131.0, "paper", "Chip | 9, float32, 2 threads, eager")
    leaderboard.build(tmp_path)
    assert "latency (paper) ↓" in (tmp_path / "paper.md").read_text()
    for board in boards.boards(tmp_path):
        for _, row in board.rows:
            assert ("latency_paper_ms" in row.metrics) == (row.model.guidance_scale == 4.5)


def test_times_of_a_busy_machine_reach_no_board(tmp_path: Path) -> None:
    result = sample_result(9.0)
    for model, busy in (("mini/sd21", True), ("mini/sd-turbo", False)):
        timed = metric(5.0, "latency (quick)", details={"waited": 0.3 if busy else 0.0, "busy": busy})
        whole = sample_result(9.0, model=model, guidance=2.0 if busy else 3.0).model_copy(
            update={"metrics": {**result.metrics, "latency_ms": timed}}
        )
        store.write(with_protocols(whole), tmp_path / "results")
    (board,) = [board for board in boards.boards(tmp_path) if board.name == "mini-5k"]
    found = {row.model.id: boards.latency_of(row) for _, row in board.rows}
    assert found["mini/sd21"] is None
    assert found["mini/sd-turbo"] is not None and found["mini/sd-turbo"].milliseconds == 5.0
    quiet = sample_latency()
    waited = quiet.model_copy(update={"provenance": quiet.provenance | {"waited": 0.3}})
    put(tmp_path, waited)
    with pytest.raises(InputError, match=r"the machine was busy: 30% of the time a core was waited for, expected at most 10%"):
        leaderboard.build(tmp_path)
