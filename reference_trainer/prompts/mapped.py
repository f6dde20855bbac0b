"""A source's captions as an Arrow file of the cache, which is mapped, not loaded: millions of captions cost no memory.

The file is written once for every content of the source; what was left out of it is written beside it, with the file's hash.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sbv2bench import paths
from sbv2bench.atomic import unwritable, whole_file, write_whole
from sbv2bench.data.caption_rows import BATCH
from sbv2bench.data.remarks import say_once
from sbv2bench.provenance import sha256_file
from sbv2bench.specs import fingerprint

if TYPE_CHECKING:
    from types import ModuleType

    from datasets import Dataset

CACHE_VERSION = 2  # raise it when the same bytes would be read as other captions

Reader = Callable[[Counter[str]], Iterator[str]]  # gives the captions, and counts what it leaves out


def mapped(datasets: ModuleType, key: list[str], read: Reader, where: str) -> tuple[Dataset, Counter[str]]:
    """(a memory-mapped data set with the column `text`, rows left out by reason); read only if the cache has no file of the key.

    Raises what reading raises, InputError or IntegrityError (disk full) where the cache cannot be written.
    """
    folder = paths.home() / "prompts"
    path = folder / f"{fingerprint([CACHE_VERSION, *key])[:32]}.arrow"
    skipped = _counts(path) if path.is_file() else None
    if skipped is None:
        skipped = Counter()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, read(skipped), skipped)
        except OSError as error:
            raise unwritable(
                error,
                f"{where}: its captions cannot be written to {folder} ({error.strerror})",
                "SBV2BENCH_HOME=FOLDER with a folder that you may write",
            ) from error
    return datasets.Dataset.from_file(str(path)), skipped


def _counts(path: Path) -> Counter[str] | None:
    """What was left out when the file was written; None where nobody knows any more, or it is another: then it is read again."""
    try:
        beside = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if beside["sha256"] == sha256_file(path):
            return Counter(beside["skipped"])
        say_once(f"{path}: damaged, and written again")
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _write(path: Path, captions: Iterator[str], skipped: Counter[str]) -> None:
    """Write an Arrow file and its counts; of several processes the last one's stay, and they are equal."""
    import pyarrow

    schema = pyarrow.schema({"text": pyarrow.string()})
    with whole_file(path) as file, pyarrow.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(captions, BATCH)):
            writer.write_batch(pyarrow.record_batch([pyarrow.array(batch, pyarrow.string())], schema))
    write_whole(path.with_suffix(".json"), json.dumps({"skipped": dict(skipped), "sha256": sha256_file(path)}))
