"""Leaderboards: files built from committed results and published numbers, without a clock, so that they can be checked."""

from __future__ import annotations

import shlex
from pathlib import Path

from sbv2bench.atomic import write_whole
from sbv2bench.boards import claims, readmes
from sbv2bench.boards.boards import admit, boards
from sbv2bench.boards.tables import MARK, to_csv, to_markdown
from sbv2bench.errors import IntegrityError
from sbv2bench.latency import board as latency_board
from sbv2bench.results import prompt_values, store

PAGE = "index.html"


def add(files: list[Path], folder: Path) -> list[Path]:
    """Copy result files, and the captions' values beside them, into `<folder>/results/...`; returns the copies' paths.

    All are admitted before the first is copied.
    """
    timed = [path for path in files if store.is_latency(path)]
    places = {path: store.path_of(latency_board.admit(path) if path in timed else admit(path)) for path in files}
    admitted = [(places[path], path.read_text("utf-8"), None if path in timed else _values(path)) for path in files]
    added = []
    for place, text, values in admitted:
        target = folder / "results" / place
        stem, count = target.stem, 1
        while target.exists() and target.read_text("utf-8") != text:
            count += 1
            target = target.with_name(f"{stem}-{count}.json")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if values is not None:
                write_whole(prompt_values.path_beside(target), values)
            write_whole(target, text)
        except OSError as error:
            raise store.unwritable(folder, error) from error
        added.append(target)
    return added


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
    return texts | latency_board.rendered(folder, MARK) | readmes.rendered(folder, found)


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
