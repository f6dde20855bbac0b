"""What commands print from committed results at 80, 120 and 160 columns, as text that is committed too.

After a change that is meant: `SBV2BENCH_WRITE_SNAPSHOTS=1 pytest tests/cli/test_widths.py`, then read the difference.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from reference_trainer.show import print_description
from sbv2bench.boards import boards
from sbv2bench.boards.terminal import print_board
from sbv2bench.cli.listing import list_things, show
from sbv2bench.compare.compare import compare
from sbv2bench.compare.tables import print_comparison
from sbv2bench.latency.table import print_latency
from sbv2bench.registry import Registry
from sbv2bench.report import terminal
from sbv2bench.report.result import print_numbers
from sbv2bench.reproduce.miniature import miniature
from sbv2bench.reproduce.report import print_found
from sbv2bench.results import store

ROOT = Path(__file__).parents[2]
BOARDS = ROOT / "leaderboards"
SNAPSHOTS = Path(__file__).parent / "widths"
WIDTHS = (80, 120, 160)
WIDE = 2000  # where everything stands in one line


@cache
def found() -> list[boards.Board]:
    return boards.boards(BOARDS)


@cache
def mini() -> boards.Board:
    return next(board for board in found() if board.name == "mini-5k")


def files(*models: str) -> list[str]:
    """The files of models' rows, of several the one of most steps."""
    rows = sorted(mini().rows, key=lambda row: row[1].model.nfe)
    return [str(BOARDS / {result.model.id: path for path, result in rows}[model]) for model in models]


def leaderboard(console: Console) -> None:
    for board in found():
        print_board(console, board)


def latency(console: Console) -> None:
    paths = sorted(store.find_latency(BOARDS / "results"))[:3]
    print_latency(console, [(store.load_latency(path), path.relative_to(ROOT)) for path in paths])


@cache
def compared(*models: str) -> object:
    return compare(files(*models), "mini-5k", registry=Registry.built_in())


PRINTED: dict[str, Callable[[Console], object]] = {
    "eval": lambda console: print_numbers(console, store.load(BOARDS / "main-run.json")),
    "compare-two": lambda console: print_comparison(console, compared("mini/sbv2-merged", "mini/sd21")),  # type: ignore[arg-type]
    "compare-three": lambda console: print_comparison(
        console, compared("mini/sbv2-merged", "mini/sd21", "mini/sbv2-b-hps")  # type: ignore[arg-type]
    ),
    "list-metrics": lambda _: list_things("metrics"),
    "list-suites": lambda _: list_things("suites"),
    "list-models": lambda _: list_things("models"),
    "show-model": lambda _: show("mini/sbv2-merged"),
    "show-metric": lambda _: show("fid"),
    "leaderboard": leaderboard,
    "latency": latency,
    "reproduce": lambda console: print_found(console, miniature("table5", mini())),
    "trainer-show": lambda console: print_description(json.loads((SNAPSHOTS / "trainer-show.json").read_text()), console),
}  # fmt: skip


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], str]:
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path))  # nothing was downloaded
    monkeypatch.chdir(tmp_path)

    def text(name: str, width: int) -> str:
        out = io.StringIO()
        console = Console(file=out, width=width, highlight=False)
        monkeypatch.setattr(terminal, "stdout_console", lambda: console)
        monkeypatch.setattr("sys.stdout", out)
        PRINTED[name](console)
        return out.getvalue()

    return text


def tokens(text: str) -> set[str]:
    """Numbers and ids: what has a digit or a slash in it, without the star of a leader and a sentence's point."""
    return {word.strip("*.,;:()[]") for word in re.findall(r"\S*[\d/]\S*", text)}


@pytest.mark.weights
@pytest.mark.parametrize("name", PRINTED)
def test_a_command_prints_what_is_committed_and_breaks_no_number(name: str, printed: Callable[[str, int], str]) -> None:
    whole = tokens(printed(name, WIDE))
    for width in WIDTHS:
        text, path = printed(name, width), SNAPSHOTS / f"{name}-{width}.txt"
        broken = tokens(text) - whole
        assert not broken, f"{name} at {width} columns: {broken} stand nowhere in a wide terminal"
        if os.environ.get("SBV2BENCH_WRITE_SNAPSHOTS"):
            SNAPSHOTS.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8"), f"{path.name} is not what is printed"
