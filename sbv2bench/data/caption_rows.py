"""Captions in files, row by row: the one reader of the suites' own captions and of what is trained on.

*.txt, *.jsonl, *.csv and *.parquet are streamed, so that millions of rows take no memory; *.json is one list, read whole.
Only \\n and \\r\\n end a line: U+2028, U+0085 and a lone \\r are text. A byte order mark is none.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError

if TYPE_CHECKING:
    from _csv import Reader

    import pyarrow.parquet

Rows = Iterator[tuple[int, tuple[object, ...]]]  # number of a line or row, from 1, and what stands in each of the columns
BATCH = 10_000  # rows of a parquet file that are in memory at a time
LISTS = frozenset({".txt", ".json"})  # these have no columns: a row is the caption
BLANK, NULL = "blank", "null"  # rows that hold nothing, which training may skip


def read_rows(path: Path, columns: Sequence[str], where: str | None = None) -> Rows:
    """The rows of a file with what stands in some columns, in order; of LISTS the one thing that a row has.

    A column `a.b` of *.jsonl and *.parquet is b in the object a, None where that object has no b. where: what an error begins
    with, the path by default. A blank line of any form is a row of empty texts.
    Raises, while it is read, InputError (no file, no such column), IntegrityError (not UTF-8, not of its kind: with the line),
    PrerequisiteError (parquet without pyarrow).
    """
    return READERS[path.suffix.lower()](path, tuple(columns), where or str(path))


def unit_of(path: Path) -> str:
    """What the numbers of a file's rows count: its lines or its rows."""
    return "line" if path.suffix.lower() in {".txt", ".jsonl", ".csv"} else "row"


def checked(rows: Iterable[tuple[int, object]], where: str, unit: str, skipped: Counter[str] | None = None) -> Iterator[str]:
    """The captions among (number, value).

    skipped: counts the rows that hold nothing (BLANK, NULL), which are left out; without it they are refused.
    Raises IntegrityError naming the first rows that hold no caption, or if there is none at all.
    """
    wrong: list[str] = []
    empty = True
    for number, value in rows:
        complaint = complaint_of(value)
        if complaint is None:
            empty = False
            yield str(value)
        elif skipped is not None and complaint in {BLANK, NULL}:
            skipped[complaint] += 1
        else:
            wrong.append(f"{unit} {number} ({complaint})")
            if len(wrong) == 3:
                break
    if wrong:
        raise IntegrityError(f"{where}: found no caption in {', '.join(wrong)}, expected text in every {unit}")
    if empty:
        held = "".join(f", {count:,} {reason}" for reason, count in (skipped or {}).items())
        raise IntegrityError(f"{where}: found no captions{held}, expected at least one")


def complaint_of(value: object) -> str | None:
    """Why a value is not a caption; None if it is one."""
    if value is None:
        return NULL
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair"
    if not any(character.isprintable() and not character.isspace() for character in value):
        return BLANK  # also of signs that show nothing: U+200B, U+FEFF, control characters
    return None


def check_column(column: str, found: Sequence[str], where: str) -> None:
    """Raises InputError, with the nearest name, unless the column is among those found. where: what the error begins with."""
    if column not in found:
        refuse_other_separators((column,), found, where)
        close = difflib.get_close_matches(column, found, 1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{where}: found no column {column!r} among {', '.join(found)[:200]}{hint}")
    if found.count(column) > 1:
        raise IntegrityError(f"{where}: found {found.count(column)} columns {column!r}, expected one")


def refuse_other_separators(columns: Sequence[str], found: Sequence[str], where: str) -> None:
    """Raises InputError where the one column that was found is several, one of these among them, with no comma between them."""
    for sign in ";\t|" if len(found) == 1 else "":
        if {*columns} & {cell.strip('" ').casefold() for cell in found[0].split(sign)}:
            raise InputError(f"{where}: found columns separated by {sign!r}, expected ','", "save it with commas between columns")


def found_columns(path: Path) -> list[str]:
    """The names of a file's columns (*.jsonl: those of its first record); none of LISTS. Raises as `read_rows`."""
    kind, where = path.suffix.lower(), str(path)
    if kind == ".parquet":
        return list(_parquet(path, where).schema_arrow.names)
    if kind == ".csv":
        reader = csv.reader(_text(_lines(path, where)), strict=True)
        with _csv_refused(reader, where):
            return next(reader, [])
    if kind == ".jsonl":
        return next((list(record) for _, record in _records(path, where) if record is not None), [])
    return []


def json_document(path: Path, where: str | None = None) -> object:
    """What a JSON file holds. Raises InputError (cannot be read), IntegrityError (not JSON)."""
    where = where or f"captions: {path}"
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror})", "give a caption file") from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: found text that is not JSON ({error})", "copy or download the file again") from error


def _lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    """(number from 1, the line with its end)."""
    begin = 0
    try:
        with path.open("rb") as file:  # iterating over bytes splits at \n and nowhere else
            for number, raw in enumerate(file, 1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                begin += len(raw)
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{where}: line {number} is not UTF-8 (byte {begin + error.start} of the file)", "save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror})", "give a caption file") from error


def _text(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    return (line for _, line in lines)


def _txt_rows(path: Path, columns: tuple[str, ...], where: str) -> Rows:
    for number, line in _lines(path, where):
        yield number, (line.removesuffix("\n").removesuffix("\r"),)


def _json_rows(path: Path, columns: tuple[str, ...], where: str) -> Rows:
    content = json_document(path, where)
    if not isinstance(content, list):
        raise IntegrityError(f"{where}: found no list of strings but a {type(content).__name__}")
    yield from ((number, (value,)) for number, value in enumerate(content, 1))


def _records(path: Path, where: str) -> Iterator[tuple[int, dict[str, object] | None]]:
    """The objects of a file of JSON lines; None for a blank line."""
    for number, line in _lines(path, where):
        if not line.strip():
            yield number, None
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{where}: line {number} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise IntegrityError(f"{where}: line {number}: found a {type(record).__name__}, expected a JSON object")
        yield number, record


def _jsonl_rows(path: Path, columns: tuple[str, ...], where: str) -> Rows:
    for number, record in _records(path, where):
        if record is None:
            yield number, ("",) * len(columns)
            continue
        steps = [_steps(column, list(record), f"{where}: line {number}") for column in columns]
        yield number, tuple(_walked(record, step) for step in steps)


def _steps(column: str, found: Sequence[str], where: str) -> list[str]:
    """The keys that lead to a column: itself, or its parts between dots. Raises InputError where its first is not found."""
    top, *below = column.split(".")
    if column not in found and below and top in found:
        return [top, *below]
    check_column(column, found, where)
    return [column]


def _walked(value: object, steps: Sequence[str]) -> object:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _csv_rows(path: Path, columns: tuple[str, ...], where: str) -> Rows:
    """Every cell is text, also 2024 and None. Numbers of lines are those that a row ends in."""
    reader = csv.reader(_text(_lines(path, where)), strict=True)
    with _csv_refused(reader, where):
        header = next(reader, [])
        for column in columns if header else ():
            check_column(column, header, where)
        places = [header.index(column) for column in columns if header]
        for row in reader:
            if row and len(row) != len(header):
                raise IntegrityError(
                    f"{where}: line {reader.line_num}: found {len(row)} cells, expected {len(header)}",
                    "put captions with commas in double quotes",
                )
            yield reader.line_num, tuple(row[place] for place in places) if row else ("",) * len(columns)


@contextmanager
def _csv_refused(reader: Reader, where: str) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        if "field limit" in str(error):
            raise IntegrityError(
                f"{where}: line {reader.line_num}: found a cell of more than {csv.field_size_limit():,} characters",
                'look for a double quote that is not closed above that line; "" is a quote within quotes',
            ) from error
        why = "a carriage return outside quotes" if "new-line" in str(error) else error
        fix = 'put captions in double quotes, and write "" for a quote'
        if reader.line_num == 1 and "expected after" in str(error):  # a header such as "id";"text"
            fix = "save it with commas between columns"
        raise IntegrityError(f"{where}: line {reader.line_num} is not CSV ({why})", fix) from error


def _parquet(path: Path, where: str) -> pyarrow.parquet.ParquetFile:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PrerequisiteError(f"{where}: parquet needs the package pyarrow", 'pip install "sbv2bench[train]"') from error
    if not path.is_file():
        raise InputError(f"{where} cannot be read (it is not a file)", "give a caption file")
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(where, error) from error


def _not_parquet(where: str, error: Exception) -> IntegrityError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return IntegrityError(f"{where}: cannot be read as parquet ({why:.120})", "copy or download the file again")


def _parquet_rows(path: Path, columns: tuple[str, ...], where: str) -> Rows:
    """The columns alone are read, so that pictures beside them cost nothing."""
    file = _parquet(path, where)
    import pyarrow

    names = list(file.schema_arrow.names)
    steps = [_steps(column, names, where) for column in columns]
    try:
        number = 0
        for batch in file.iter_batches(BATCH, columns=list(dict.fromkeys(step[0] for step in steps))):
            found = [batch.column(step[0]).to_pylist() for step in steps]
            for values in zip(*found, strict=True):
                number += 1
                yield number, tuple(_walked(value, step[1:]) for value, step in zip(values, steps, strict=True))
    except (pyarrow.ArrowException, ValueError, OverflowError, OSError) as error:
        raise _not_parquet(where, error) from error


READERS: dict[str, Callable[[Path, tuple[str, ...], str], Rows]] = {
    ".txt": _txt_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".json": _json_rows,
}
