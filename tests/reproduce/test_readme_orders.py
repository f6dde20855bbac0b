"""The table of orders in leaderboards/README.md is what `sbv2bench reproduce` finds in the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest

from sbv2bench.registry import Registry
from sbv2bench.reproduce.request import Request, carry_out

ROOT = Path(__file__).parents[2]


@pytest.mark.ci
def test_the_readmes_orders_are_those_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    registry = Registry.built_in()
    expected = []
    for number in (1, 2, 3, 5, 6, 7):
        found = carry_out(Request.checked(f"table{number}", "mini-5k", None, registry)).document()
        shown = ("agrees", "disagrees", "not separated")
        counts = {key: " / ".join(str(found["counts"][key][verdict]) for verdict in shown) for key in found["counts"]}
        cells = [counts.get(key, "") for key in ("fid", "clip_score", "precision", "recall")]
        expected.append(f"| Table {number}, {found['title']} | {' | '.join(cells)} |")
    lines = (ROOT / "leaderboards" / "README.md").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("| Table ")] == expected
