"""Prompts of GenEval, DPG-Bench and MJHQ-30K, from their own files, with the task or the category of each.

geneval: evaluation_metadata.jsonl, a line a prompt with `tag`. dpg: dpg_bench.csv, several lines an `item_id` with the same
`text`. mjhq: meta_data.json, {id of the picture: {"category", "prompt"}}.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.caption_rows import checked, json_document, read_rows, unit_of
from sbv2bench.errors import InputError, IntegrityError

Found = list[tuple[int, object, object]]  # number of a row or line, the prompt, and its task or category


def read_benchmark(kind: str, path: Path, count: int, sha256: str | None) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """(the first `count` prompts of a benchmark's file, the task or category of each; None for dpg, which has none).

    Raises InputError (another form), IntegrityError (too few, another hash, a row without a prompt, an id or a task).
    """
    found = _FORMS[kind](path)
    unit = unit_of(path)
    prompts = tuple(checked(((number, prompt) for number, prompt, _ in found), str(path), unit))[:count]
    if len(prompts) < count:
        raise IntegrityError(f"{path}: found {len(prompts):,} prompts, expected at least {count:,}")
    if sha256 is not None and captions_sha256(prompts) != sha256:
        given = captions_sha256(prompts)[:16]
        raise IntegrityError(f"{path}: its prompts are not the suite's\nfound sha256 {given}, expected {sha256[:16]}")
    if kind == "dpg":
        return prompts, None
    for number, _, tag in found:
        _named(tag, f"{path}: {unit} {number}", "tag" if kind == "geneval" else "category")
    return prompts, tuple(str(tag) for _, _, tag in found)[:count]


def _geneval(path: Path) -> Found:
    return [(number, prompt, tag) for number, (prompt, tag) in read_rows(path, ("prompt", "tag"))]


def _dpg(path: Path) -> Found:
    """The first line of each item; its other lines ask other questions about the same prompt."""
    texts: dict[str, object] = {}
    found: Found = []
    for number, (item, text) in read_rows(path, ("item_id", "text")):
        where = f"{path}: line {number}"
        name = _named(item, where, "item_id")
        if texts.setdefault(name, text) != text:
            raise IntegrityError(f"{where}: item {name!r} has another text than above", "download the file again")
        if len(texts) > len(found):
            found.append((number, text, None))
    return found


def _mjhq(path: Path) -> Found:
    content = json_document(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected the ids of pictures with category and prompt")
    return list(_pictures(content, path))


def _pictures(content: dict[str, object], path: Path) -> Iterator[tuple[int, object, object]]:
    for number, (name, picture) in enumerate(content.items(), 1):
        if not isinstance(picture, dict):
            raise IntegrityError(f"{path}: row {number}, picture {name!r}: found {picture!r:.40}, expected category and prompt")
        yield number, picture.get("prompt"), picture.get("category")


def _named(value: object, where: str, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise IntegrityError(f"{where}: found {what} {value!r:.40}, expected a name", "download the file again")
    return value


_FORMS = {"geneval": _geneval, "dpg": _dpg, "mjhq": _mjhq}
