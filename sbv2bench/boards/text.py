"""Leaderboards: files built from committed results and published numbers, without a clock, so that they can be checked."""

from __future__ import annotations

import shlex
from pathlib import Path

from sbv2bench.atomic import write_whole
from sbv2bench.boards import claims, frontier, readmes, verifications
from sbv2bench.boards.boards import admit, boards
from sbv2bench.boards.tables import MARK, to_csv, to_markdown
from sbv2bench.errors import IntegrityError
from sbv2bench.latency import board as latency_board
from sbv2bench.registry import Registry
from sbv2bench.results import prompt_values, store
from sbv2bench.results import verifications as sent

PAGE = "index.html"


def add(files: list[Path], folder: Path) -> list[Path]:
    """Copy result files, and the captions' values beside them, into `<folder>/results/...`, verifications into
    `<folder>/verifications/...`; returns the copies' paths. All are admitted before the first is copied.
    """
    admitted = [_admitted(path) for path in files]
    return [store.put(text, folder / below, place, values) for below, place, text, values in admitted]


def _admitted(path: Path) -> tuple[str, Path, str, bytes | None]:
    """A part of the folder, where in it a file belongs, its text, and the captions' values beside it."""
    if sent.is_one(path):
        record = verifications.admit(path)
        return sent.FOLDER, sent.path_of(record), sent.dumps(record), None
    if store.is_latency(path):
        return "results", store.path_of(latency_board.admit(path)), path.read_text("utf-8"), None
    return "results", store.path_of(admit(path)), path.read_text("utf-8"), _values(path)


def _values(path: Path) -> bytes | None:
    """The captions' values beside a result file. Raises IntegrityError where they are not those that it names."""
    beside = prompt_values.path_beside(path)
    return beside.read_bytes() if prompt_values.read(store.load(path), path) else None


def rendered(folder: Path, page: str | None = None) -> dict[str, str]:
    """The text of every leaderboard file by its name: what `build` writes and `check` expects. page: that of PAGE, if any."""
    texts = {} if page is None else {PAGE: page}
    found = boards(folder)
    for board in found:
        texts[f"{board.name}.csv"] = to_csv(board)
        texts[f"{board.name}.md"] = to_markdown(board)
        if board.name == claims.declared().suite and claims.any_measured(board.results):
            texts[f"{board.name}-claims.csv"] = claims.to_csv(board.results)
            texts[f"{board.name}-claims.md"] = claims.to_markdown(MARK, board.suite, board.results)
        if students := frontier.lines(board, Registry.built_in()):
            texts[f"{board.name}-frontier.csv"] = frontier.to_csv(students)
            texts[f"{board.name}-frontier.md"] = frontier.to_markdown(MARK, board.suite, students)
    return texts | latency_board.rendered(folder, MARK) | readmes.rendered(folder, found) | verifications.rendered(folder)


def build(folder: Path, page: str | None = None) -> list[Path]:
    """Write every file of `rendered`, and delete the files of boards that have no results any more."""
    texts = rendered(folder, page)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _built(folder) - set(texts):
            (folder / name).unlink()
        for name, text in texts.items():
            write_whole(folder / name, text)
    except OSError as error:
        raise store.unwritable(folder, error) from error
    return [folder / name for name in texts]


def check(folder: Path, page: str | None = None) -> list[Path]:
    """Build in memory and compare. Returns the files that are right; raises IntegrityError naming those that are not."""
    texts = rendered(folder, page)
    wrong = [name for name, text in texts.items() if not (folder / name).is_file() or _text(folder / name) != text]
    wrong += sorted(_built(folder) - set(texts))
    if wrong:
        command = "sbv2bench leaderboard" + ("" if folder == Path("leaderboards") else f" --dir {shlex.quote(str(folder))}")
        raise IntegrityError(f"{folder}: {', '.join(wrong)} is not what the files in results/ give", command)
    return [folder / name for name in texts]


def _text(path: Path) -> str:
    """A file's text with its line ends as they are."""
    return path.read_bytes().decode("utf-8", errors="replace")


def _built(folder: Path) -> set[str]:
    """Files in the folder that an earlier build made: Markdown with its mark, and the CSV beside it."""
    pages = {path for path in folder.glob("*.md") if _text(path).startswith(MARK)}
    return {path.name for path in pages} | {path.with_suffix(".csv").name for path in pages if path.with_suffix(".csv").is_file()}
