"""A few kills of what writes most, and the table of all of them; `python tests/faults/run.py --seed 1` is the full run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults import run
from faults.jobs import named
from faults.kills import try_job
from readme_parts import part


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["eval", "train", "leaderboard"])
def test_what_is_killed_ends_as_what_is_not(name: str, tmp_path: Path) -> None:
    tally = try_job(named(name), 2, seed=3, place=tmp_path / "kills")
    assert tally.kills == 2 and tally.read > 0
    assert not tally.faults


def test_the_readmes_table_is_of_the_runs_that_were_made() -> None:
    if not run.RECORD.is_file():
        pytest.skip("no full run has been made yet: python tests/faults/run.py --seed 1")
    runs = json.loads(run.RECORD.read_text())
    assert part(run.README, run.PART) == run.table(runs)
