"""Files of captions, read row by row and complained about by line: text, jsonl, csv, parquet."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sbv2bench.errors import InputError

Rows = Iterator[tuple[int, Any]]  # number of a line or row, from 1, and what stands where the caption should
BATCH = 10_000  # captions that are in memory at a time
_BLOCK = 2**20  # bytes


def read_captions(path: Path, column: str) -> Iterator[str]:
    """The captions of a file, in order; column: of what has columns. Its suffix must be one of READERS.

    Raises InputError naming the first rows that hold none, or if there are no rows, or the file is not of its kind.
    """
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    return checked(READERS[path.suffix.lower()](path, column), str(path), unit)


def sha256_captions(path: Path) -> str:
    """SHA-256 of a file's bytes, a block at a time. Raises InputError if it cannot be read, or is text and not UTF-8."""
    text = path.suffix.lower() != ".parquet"
    digest, decoder, begin = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(_BLOCK)
                digest.update(block)
                held = len(decoder.getstate()[0])  # bytes of a character that the last block ended in
                if text:
                    decoder.decode(block, final=not block)
                if not block:
                    return digest.hexdigest()
                begin += len(block)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found no UTF-8 at byte {begin - held + error.start}", "iconv -t utf-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def checked(rows: Iterable[tuple[int, Any]], where: str, unit: str) -> Iterator[str]:
    """The captions. Raises InputError naming the first rows that hold none, or if there are no rows at all."""
    wrong: list[str] = []
    empty = True
    for number, value in rows:
        empty = False
        complaint = _complaint(value)
        if complaint is None:
            yield value
        else:
            wrong.append(f"{unit} {number} ({complaint})")
            if len(wrong) == 3:
                break
    if wrong:
        raise InputError(f"{where}: found no caption in {', '.join(wrong)}, expected text in every {unit}")
    if empty:
        raise InputError(f"{where}: found no captions, expected at least one")


def _complaint(value: Any) -> str | None:
    """Why a value is not a caption; None if it is one."""
    if value is None:
        return "null"
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    if not value.strip():
        return "blank"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return None


def check_column(column: str, found: Sequence[str], where: str) -> None:
    """Raises InputError, with the nearest name, unless the column is among those found. where: what the error begins with."""
    if column not in found:
        close = difflib.get_close_matches(column, found, 1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{where}: found no column {column!r} among {', '.join(found)}{hint}", "prompts: column: NAME")


def _txt_rows(path: Path, column: str) -> Rows:
    """One caption a line; a text file has no columns."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            yield number, line.rstrip("\n")


def _jsonl_rows(path: Path, column: str) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is not JSON ({error})") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}: line {number}: found a {type(record).__name__}, expected a JSON object")
            check_column(column, list(record), f"{path}: line {number}")
            yield number, record[column]


def _csv_rows(path: Path, column: str) -> Rows:
    """Every cell is text, also 2024 and None. Numbers of lines are those that a row ends in."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            check_column(column, header, str(path))
            for row in reader:
                if len(row) != len(header):
                    raise InputError(
                        f"{path}: line {reader.line_num}: found {len(row)} cells, expected {len(header)}",
                        "put captions with commas in double quotes",
                    )
                yield reader.line_num, row[header.index(column)]
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num} is not CSV ({error})") from error


def _parquet_rows(path: Path, column: str) -> Rows:
    """The column alone is read, so that pictures beside it cost nothing."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        check_column(column, file.schema_arrow.names, str(path))
        values = (value for batch in file.iter_batches(BATCH, columns=[column]) for value in batch.column(0).to_pylist())
        yield from enumerate(values, 1)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from error


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".txt": _txt_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
