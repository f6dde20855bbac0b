"""Students beside their teacher's frontier, as a file of the leaderboards."""

from __future__ import annotations

import pytest
from sample_results import metric, sample_result, with_protocols

from sbv2bench.boards.boards import Board
from sbv2bench.boards.frontier import lines, to_csv, to_markdown
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult


def result(model: str, guidance: float, fid: float, recall: float, clip: float) -> EvalResult:
    made = sample_result(fid, model=model, guidance=guidance)
    values = {"fid": (fid, "lower"), "recall": (recall, "higher"), "clip_score": (clip, "higher")}
    metrics = {key: metric(value, key, direction, std_err=0.001) for key, (value, direction) in values.items()}
    return with_protocols(made.model_copy(update={"metrics": metrics}))


@pytest.fixture
def board() -> Board:
    rows = (
        result("mini/sd21", 2.0, 0.7, 0.88, 0.89),
        result("mini/sd21", 4.5, 1.3, 0.90, 0.88),
        result("mini/sbv2-a", 1.0, 1.5, 0.85, 0.87),  # worse than both in all
        result("mini/sbv2-b", 1.0, 1.0, 0.89, 0.87),  # better FID than the one setting that has its recall
        result("mini/sbv2-merged", 1.0, 0.7, 0.88, 0.89),  # as good as the first, but for noise
    )
    return Board("mini-5k", "mini-5k@v1", tuple((f"{number}.json", row) for number, row in enumerate(rows)))


def test_who_is_dominated_by_a_teacher(board: Board) -> None:
    found = {line.student.model.id: line for line in lines(board, Registry.built_in())}
    assert [line.verdict for line in found.values()] == ["dominated", "not dominated", "undecided"]
    assert "mini/sd21" not in found  # it has no teacher
    b = found["mini/sbv2-b"].against
    assert b["recall"].best is not None and b["recall"].best.contestant.result.model.guidance_scale == 4.5
    assert b["clip_score"].best is not None and b["clip_score"].best.contestant.result.model.guidance_scale == 2.0


def test_a_page_and_numbers_in_full(board: Board) -> None:
    found = lines(board, Registry.built_in())
    text = to_markdown("<!-- mark -->", board.suite, found)
    assert "Not dominated by their teacher: mini/sbv2-b." in text and "measured at 2 settings" in text
    assert to_csv(found).splitlines()[2].startswith("mini/sbv2-b,1.0,0.89,1.3,0.87,0.7,")


def test_a_student_without_its_teachers_results_has_no_line(board: Board) -> None:
    alone = Board(board.name, board.suite, board.rows[2:])
    assert lines(alone, Registry.built_in()) == []
