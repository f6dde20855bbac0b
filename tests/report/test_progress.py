"""Rates and times left tell the work that was done since a stage began."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sbv2bench.report import progress
from sbv2bench.report.progress import Pace, loading, progress_bars


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_what_was_there_before_is_no_rate(clock: list[float]) -> None:
    pace = Pace(900)
    assert pace.words(900, 1000) == ""
    clock[0] = 10.0
    assert pace.words(950, 1000) == "5/s, 0:00:10 left"
    clock[0] = 20.0
    assert pace.words(1000, 1000) == "5/s, took 0:00:20"


def test_a_stage_that_begins_anew_has_a_rate_of_its_own(clock: list[float]) -> None:
    out = io.StringIO()
    with progress_bars(Console(file=out, width=120)) as told:
        told("generate", 0, 100)
        clock[0] = 100.0
        told("generate", 100, 100)
        told("generate", 0, 100)
        clock[0] = 110.0
        told("generate", 100, 100)
    assert "100/100 10/s, took 0:00:10" in out.getvalue()


def test_a_log_has_one_line_of_what_is_loaded() -> None:
    out = io.StringIO()
    with loading(Console(file=out), "PyTorch"):
        assert out.getvalue() == "loading PyTorch\n"
