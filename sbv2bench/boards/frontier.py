"""Which students of a board their teacher does not dominate: each against every measured setting of the teacher.

A setting counts where it has the student's protocols. Nothing is interpolated; FID is compared at matched recall and at matched
CLIP score, so that a student is not beaten by a guidance that gives up what the student has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sbv2bench.boards.boards import Board
from sbv2bench.compare.differences import Contestant
from sbv2bench.compare.frontier import HELD, Frontier, frontier
from sbv2bench.registry import Registry
from sbv2bench.report.columns import Column, csv_text, markdown_lines
from sbv2bench.report.values import value_cell
from sbv2bench.results.records import EvalResult

SURELY = 0.95  # a probability of being dominated above this, or below 1 less this, is told as such


@dataclass(frozen=True)
class Line:
    """A student and what its teacher reaches with as much of each of `HELD`."""

    student: EvalResult
    against: dict[str, Frontier]

    @property
    def dominated(self) -> float | None:
        """The probability that the teacher's best setting for it dominates the student: the highest over the settings."""
        found = [setting.dominates for one in self.against.values() for setting in one.settings]
        known = [share for share in found if share is not None]
        return max(known) if known else None

    @property
    def verdict(self) -> str:
        """In words."""
        share = self.dominated
        if share is None:
            return "not known"
        return "dominated" if share > SURELY else "not dominated" if share < 1 - SURELY else "undecided"


def lines(board: Board, registry: Registry) -> list[Line]:
    """Every student of the board whose teacher was measured there, in the board's order."""
    found = []
    for student in board.results:
        spec = registry.models.get(student.model.id)
        teacher = spec.teacher if spec is not None else ""
        settings = [result for result in board.results if result.model.id == teacher and _comparable(result, student)]
        if settings and all(key in student.metrics for key in ("fid", *HELD)):
            own = Contestant(student.model.id, student, {})
            others = [Contestant(_named(result), result, {}) for result in settings]
            found.append(Line(student, {held: frontier(own, others, held) for held in HELD}))
    return found


def _comparable(result: EvalResult, student: EvalResult) -> bool:
    return all(
        key in result.metrics and key in student.metrics and result.metrics[key].fingerprint == student.metrics[key].fingerprint
        for key in ("fid", *HELD)
    )


def _named(result: EvalResult) -> str:
    return f"{result.model.steps} steps, guidance {result.model.guidance_scale:g}"


def _best(line: Line, held: str) -> str:
    best = line.against[held].best
    if best is None:
        return "none reaches it"
    return f"{value_cell(best.contestant.result, 'fid')} ({best.contestant.name})"


def columns() -> tuple[Column[Line], ...]:
    """The table, for files and for people."""

    def reached(held: str) -> Column[Line]:
        def value(line: Line) -> object:
            best = line.against[held].best
            return None if best is None else best.contestant.result.metrics["fid"].value

        words = {"recall": "recall", "clip_score": "CLIP score"}[held]
        return Column(f"teacher_fid_at_{held}", f"teacher's best FID with its {words}", value, lambda line: _best(line, held))

    def own(key: str, heading: str) -> Column[Line]:
        return Column(key, heading, lambda line: line.student.metrics[key].value, lambda line: value_cell(line.student, key))

    return (
        Column("model", "student", lambda line: line.student.model.id, lambda line: f"`{line.student.model.id}`", left=True),
        own("fid", "FID"),
        own("recall", "recall"),
        reached("recall"),
        own("clip_score", "CLIP score"),
        reached("clip_score"),
        Column("dominated", "dominated", lambda line: line.dominated, _share),
        Column("verdict", "verdict", lambda line: line.verdict),
    )


def _share(line: Line) -> str:
    return "" if line.dominated is None else f"{line.dominated:.2f}"


def to_csv(found: Sequence[Line]) -> str:
    """Numbers in full."""
    return csv_text((columns(), found))


def to_markdown(mark: str, suite: str, found: Sequence[Line]) -> str:
    """The table, and what it says."""
    settings = found[0].against[HELD[0]].settings
    free = [line.student.model.id for line in found if line.verdict == "not dominated"]
    said = "Their teacher dominates every student that was measured."
    if free:
        said = f"Not dominated by their teacher: {', '.join(free)}."
    elif any(line.verdict == "undecided" for line in found):
        said = "No student is surely not dominated by its teacher; where it says undecided, noise could tell either way."
    return "\n".join([
        mark,
        f"# Students and their teacher's frontier on {suite}",
        "",
        f"{said} The teacher was measured at {len(settings)} settings ({'; '.join(one.contestant.name for one in settings)});",
        "nothing between them is assumed, and they were chosen on the very captions that are reported, in the teacher's favour.",
        "`dominated` is the highest probability over the teacher's settings of being no worse in all of FID, recall and CLIP",
        "score, by draws from both standard errors. Latency is not among them: one step is faster than several. A student",
        "with a CLIP loss was trained towards a score of this kind, though by another network.",
        "",
        *markdown_lines(columns(), found),
        "",
    ])  # fmt: skip
