"""Parts of READMEs that are built with the boards: written, checked, and never invented."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sample_results import sample_result

from sbv2bench.boards import text as leaderboard
from sbv2bench.errors import IntegrityError
from sbv2bench.results import store

ROOT = Path(__file__).parents[2]


def part(name: str) -> str:
    return f"before\n<!-- built by sbv2bench leaderboard: {name} -->\n<!-- end -->\nafter\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for guidance, fid in ((2.0, 9.5), (3.0, 3.25)):
        store.write(sample_result(guidance=guidance, fid=fid), tmp_path / "leaderboards" / "results")
    return tmp_path / "leaderboards"


def test_a_part_is_written_between_its_marks_and_checked(folder: Path) -> None:
    readme = folder.parent / "README.md"
    readme.write_text(part("ladder"))
    leaderboard.build(folder)
    before, *rows, end, after = readme.read_text().splitlines()[0:1] + readme.read_text().splitlines()[2:]
    assert (before, end, after) == ("before", "<!-- end -->", "after")
    assert [row.split(" | ")[1].split()[0] for row in rows[2:]] == ["3.250", "9.500"]
    leaderboard.check(folder)
    readme.write_text(readme.read_text().replace("3.250", "3.150"))
    with pytest.raises(IntegrityError, match=r"\.\./README\.md is not what the files in results/ give"):
        leaderboard.check(folder)


def test_readmes_without_a_part_are_left_alone(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    assert "README.md" not in leaderboard.rendered(folder)
    leaderboard.build(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert not (folder.parent / "README.md").exists()


@pytest.mark.parametrize(("name", "message"), [("laddr", "found the part 'laddr'"), ("main-run", "main-run.json is missing")])
def test_a_part_that_cannot_be_built_stops_before_anything_is_written(folder: Path, name: str, message: str) -> None:
    (folder / "README.md").write_text(part(name))
    with pytest.raises(IntegrityError, match=message):
        leaderboard.build(folder)
    assert {path.name for path in folder.iterdir()} == {"results", "README.md"}


def test_the_main_run_is_printed_at_one_width(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "leaderboards" / "main-run.json", folder)
    (folder / "README.md").write_text(part("main-run"))
    texts = []
    for columns in ("60", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        texts.append(leaderboard.rendered(folder)["README.md"])
    assert texts[0] == texts[1]
    assert "\nFID-mini ↓ " in texts[0]
    assert "result: results/mini/sd21/mini@v1/" in texts[0]


def test_the_main_run_names_the_metrics_that_it_computed(folder: Path) -> None:
    run = folder / "main-run.json"
    result = store.load(ROOT / "leaderboards" / "main-run.json")
    fewer = {key: value for key, value in result.metrics.items() if key not in ("kid", "latency_ms")}
    run.write_text(store.dumps(result.model_copy(update={"metrics": fewer})))
    (folder / "README.md").write_text(part("main-run"))
    assert "2,000 in the reference, metrics fid, pr, clip, hps, attributes\n" in leaderboard.rendered(folder)["README.md"]
